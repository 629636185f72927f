"""The training loop, the only one: batches, an objective, an optimizer.

Each batch is one optimizer step, given as micro-batches; gradients are normalised by the objective's weight over the
whole batch, so splitting it differently changes nothing. Checkpoints hold parameters, what an adapter keeps beside
them, optimizer, data position and random state; a run continued from one gives bit for bit what the uninterrupted run
gives. A loss that isn't a number stops the run with a diagnosis; Ctrl-C finishes the step, saves and stops.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from pydantic import Field
from torch import nn

from posttrain.core import events, files, runtime
from posttrain.core.catalog import block
from posttrain.core.errors import BadRequest, Failure, Interrupted
from posttrain.core.settings import Settings
from posttrain.train.interruption import interruptible
from posttrain.train.objectives import Objective
from posttrain.train.optimizer import Optimizer, optimizer_tensors, restore_optimizer
from posttrain.train.part import Enough, Part

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# A checkpoint may cost about this share of the training time when its interval is left to the loop.
_CHECKPOINT_SHARE = 0.05
_CHECKPOINT_SECONDS = 5.0


class EarlyStopping(Settings):
    """Stop when a validation number has not improved for a while, and go back to the best state."""

    metric: str = "loss"
    """Which of the validation numbers to watch."""

    patience: int = Field(3, ge=1)
    """How many evaluations without improvement are allowed."""

    higher_is_better: bool = False
    """Direction of the metric."""

    def told(self, rising: Collection[str]) -> EarlyStopping:
        """The same with the direction of a metric that is known to be better when higher, unless one is given."""
        if "higher_is_better" in self.model_fields_set:
            return self
        return self.model_copy(update={"higher_is_better": self.metric in rising})


class Training(Settings):
    """How to train, whatever is trained and however long."""

    optimizer: Optimizer = Optimizer()
    """AdamW's hyperparameters."""

    schedule: block("schedule") = None  # type: ignore[valid-type]
    """Learning-rate schedule; constant when not given."""

    clip: float | None = Field(1.0, gt=0)
    """Largest norm of the gradient; null doesn't clip."""

    evaluate_every: int | None = Field(None, ge=1)
    """Steps between evaluations on validation data; null evaluates only at the end."""

    early_stopping: EarlyStopping | None = None
    """Stop early and restore the best state."""

    checkpoint_every: int | None = Field(None, ge=1)
    """Steps between checkpoints; null chooses so that they cost little."""

    autocast: bool = False
    """Compute in bfloat16 where it is safe, with float32 weights."""

    activation_checkpointing: bool = False
    """Recompute activations in the backward pass to save memory."""


class Loop(Training):
    """What one call of the loop needs."""

    steps: int = Field(100, ge=1)
    """Optimizer steps."""

    learning_rate: float = Field(2e-5, gt=0)
    """Base learning rate."""


@dataclass
class TrainResult:
    """What a run did.

    Attributes:
        history: One entry a step: step, loss (mean over the batch), learning_rate, gradient_norm, the objective's
            metrics and the penalties of what takes part, by its name.
        evaluations: One entry an evaluation: step and the validation numbers.
        tokens: Tokens that went through the network, padding not counted.
        seconds: Wall time of the steps alone, over all parts of an interrupted run.
        stopped_early: Whether early stopping or the source of batches ended it.
    """

    history: list[dict[str, float]] = field(default_factory=list)
    evaluations: list[dict[str, float]] = field(default_factory=list)
    tokens: int = 0
    seconds: float = 0.0
    stopped_early: bool = False

    @property
    def loss(self) -> float:
        """Mean loss over the last tenth of the steps."""
        tail = self.history[-max(1, len(self.history) // 10) :]
        return sum(entry["loss"] for entry in tail) / len(tail)

    @property
    def tokens_per_second(self) -> float:
        """Tokens over the wall time of the steps."""
        return self.tokens / self.seconds if self.seconds else 0.0


def train(
    network: PreTrainedModel,
    objective: Objective,
    batches: Iterable[list[Any]],
    loop: Loop,
    *,
    parts: Mapping[str, Part] = MappingProxyType({}),
    evaluate: Callable[[], dict[str, float]] | None = None,
    checkpoint: Path | None = None,
    name: str = "Train",
) -> TrainResult:
    """Train the parameters that require a gradient.

    Args:
        network: The network; left in evaluation mode.
        objective: The loss.
        batches: Gives one optimizer step's micro-batches at a time; a finite one is begun again. If it has
            `state_dict` and `load_state_dict`, a resumed run continues at its position; otherwise it is replayed. It
            may raise `Enough`.
        loop: Settings.
        parts: What takes part in each step beside the objective, such as the adapter, by the names under which the
            history shows their penalties.
        evaluate: Gives validation numbers of the network as it is.
        checkpoint: Folder for the checkpoint; a checkpoint found there is continued.
        name: Shown with the progress.

    Raises:
        BadRequest: If nothing is trainable or the batches carry no loss.
        Failure: If loss or gradient stop being numbers.
        Interrupted: After Ctrl-C, with the checkpoint written.
    """
    run = _Run(network, objective, batches, loop, parts, evaluate, checkpoint)
    run.resume()
    if loop.activation_checkpointing:
        network.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    try:
        with (
            interruptible() as interrupted,
            events.task(name, total=loop.steps, unit="steps", done=run.step) as progress,
        ):
            while run.step < loop.steps and not run.result.stopped_early:
                try:
                    progress.advance(1, **run.take_step())
                except Enough as reason:
                    events.message(f"{name} ends after step {run.step} of {loop.steps}: {reason}")
                    run.result.stopped_early = True
                    break
                run.evaluate_if_due()
                if interrupted():
                    run.save_checkpoint()
                    raise Interrupted(f"Interrupted after step {run.step} of {loop.steps}.", run.how_to_continue())
                run.save_checkpoint_if_due()
        run.finish()
    finally:
        network.eval()
        if loop.activation_checkpointing:
            network.gradient_checkpointing_disable()
    return run.result


def evaluate(network: PreTrainedModel, objective: Objective, batches: Iterable[Any]) -> dict[str, float]:
    """Loss and metrics of a network over validation micro-batches, each unit counted once.

    Returns:
        ``loss`` and the objective's further metrics.
    """
    was_training = network.training
    network.eval()
    sums: dict[str, float] = {"loss": 0.0}
    weight = 0.0
    with torch.no_grad():
        for batch in batches:
            value, metrics = objective.loss(network, batch)
            sums["loss"] += float(value)
            weight += objective.weight(batch)
            for key, metric in metrics.items():
                sums[key] = sums.get(key, 0.0) + float(metric)
    network.train(was_training)
    if weight <= 0:
        raise BadRequest("The validation data has no loss-carrying token.", "Look at `posttrain audit`.")
    return objective.summarize(sums, weight)


class _Run:
    """The state of one call of `train`."""

    def __init__(
        self,
        network: PreTrainedModel,
        objective: Objective,
        batches: Iterable[list[Any]],
        loop: Loop,
        parts: Mapping[str, Part],
        evaluate: Callable[[], dict[str, float]] | None,
        checkpoint: Path | None,
    ) -> None:
        self.network, self.objective, self.batches, self.loop = network, objective, batches, loop
        self.parts, self.evaluate, self.checkpoint = parts, evaluate, checkpoint
        self.parameters = {key: p for key, p in network.named_parameters() if p.requires_grad}
        if not self.parameters:
            raise BadRequest("No parameter is trainable.", "Choose another adapter or other targets.")
        if loop.early_stopping and evaluate is None:
            raise BadRequest("early_stopping needs validation data.", "Give `validation`.")
        # All that training changes in the network: what a checkpoint and the best state consist of.
        self.changing: dict[str, torch.Tensor] = {**self.parameters}
        for part in parts.values():
            self.changing |= part.state(network)
        self.optimizer = loop.optimizer.build(network, loop.learning_rate)
        self.result = TrainResult()
        self.step = 0
        self.best: dict[str, torch.Tensor] = {}
        self.best_value = math.inf
        self.misses = 0
        self.last_checkpoint = time.perf_counter()
        self.checkpoint_cost = 0.0
        self._iterator: Iterator[list[Any]] | None = None

    # -- one step ------------------------------------------------------------------------------------------------------

    def take_step(self) -> dict[str, float]:
        """One optimizer step; returns the numbers worth a curve."""
        start = time.perf_counter()
        batch = self._next_batch()
        weight = sum(self.objective.weight(micro) for micro in batch)
        if weight <= 0:
            raise BadRequest("A batch has nothing to learn from: no loss-carrying token.", "Look at `posttrain audit`.")
        factor = self.loop.schedule.factor(self.step, self.loop.steps) if self.loop.schedule else 1.0
        for group in self.optimizer.param_groups:
            group["lr"] = group["base_learning_rate"] * factor
        self.network.train()
        loss, metrics = self._backward(batch, weight)
        for part in self.parts.values():
            part.before_update(self.network, self.step + 1, self.loop.steps)
        norm = self._clip()
        self._refuse_non_finite(loss, norm)
        self.optimizer.step()
        for part in self.parts.values():
            part.after_update(self.network, self.step + 1, self.loop.steps)
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.result.tokens += sum(int(getattr(micro, "tokens", 0)) for micro in batch)
        self.result.seconds += time.perf_counter() - start
        rate = self.loop.learning_rate * factor
        entry = {"step": self.step, "loss": loss, "learning_rate": rate, "gradient_norm": norm, **metrics}
        self.result.history.append(entry)
        return {key: value for key, value in entry.items() if key != "step"} | {
            "tokens_per_second": self.result.tokens_per_second
        }

    def _next_batch(self) -> list[Any]:
        if self._iterator is None:
            self._iterator = iter(self.batches)
        try:
            return next(self._iterator)
        except StopIteration:
            self._iterator = iter(self.batches)  # a finite source starts its next epoch
            try:
                return next(self._iterator)
            except StopIteration:
                raise BadRequest("There are no batches to train on.") from None

    def _backward(self, batch: list[Any], weight: float) -> tuple[float, dict[str, float]]:
        total = 0.0
        sums: dict[str, float] = {}
        for micro in batch:
            with self._precision():
                value, metrics = self.objective.loss(self.network, micro)
            (value / weight).backward()
            total += float(value.detach())
            for key, metric in metrics.items():
                sums[key] = sums.get(key, 0.0) + float(metric)
        means = self.objective.summarize({"loss": total, **sums}, weight)
        loss = means.pop("loss")
        for name, part in self.parts.items():
            penalty = part.penalty(self.network)
            if penalty is not None:
                penalty.backward()
                means[name] = float(penalty.detach())
        return loss, means

    def _precision(self) -> AbstractContextManager[Any]:
        device = next(iter(self.parameters.values())).device.type
        return torch.autocast(device, dtype=torch.bfloat16) if self.loop.autocast else nullcontext()

    def _clip(self) -> float:
        limit = self.loop.clip if self.loop.clip is not None else math.inf
        return float(nn.utils.clip_grad_norm_(list(self.parameters.values()), limit))

    def _refuse_non_finite(self, loss: float, norm: float) -> None:
        if math.isfinite(loss) and math.isfinite(norm):
            return
        what = "loss" if not math.isfinite(loss) else "gradient"
        bad = [k for k, p in self.parameters.items() if not bool(torch.isfinite(p).all())]
        before = [entry["loss"] for entry in self.result.history[-3:]]
        where = f"parameter {bad[0]} is already not finite" if bad else "all parameters are still finite"
        raise Failure(
            f"The {what} is not a number at step {self.step + 1} (learning rate "
            f"{self.optimizer.param_groups[0]['lr']:.3g}, last losses {[round(x, 4) for x in before]}; {where}).",
            "Lower learning_rate, add warm-up, or look at the data with `posttrain audit`; "
            "the last checkpoint is from before this step.",
        )

    # -- evaluation ----------------------------------------------------------------------------------------------------

    def evaluate_if_due(self) -> None:
        """Evaluate at the interval and after the last step; decide about early stopping."""
        due = self.loop.evaluate_every and self.step % self.loop.evaluate_every == 0
        if self.evaluate is None or not (due or self.step == self.loop.steps):
            return
        self.network.eval()
        with torch.no_grad(), _untouched_random_state():
            values = self.evaluate()
        self.result.evaluations.append({"step": self.step, **values})
        if stopping := self.loop.early_stopping:
            self._judge(stopping, values)

    def _judge(self, stopping: EarlyStopping, values: dict[str, float]) -> None:
        if stopping.metric not in values:
            raise BadRequest(
                f"early_stopping.metric '{stopping.metric}' isn't measured.", f"There are: {list(values)}."
            )
        value = -values[stopping.metric] if stopping.higher_is_better else values[stopping.metric]
        if value < self.best_value:
            self.best_value, self.misses = value, 0
            self.best = {key: t.detach().clone() for key, t in self.changing.items()}
        else:
            self.misses += 1
            self.result.stopped_early = self.misses >= stopping.patience

    def finish(self) -> None:
        """Restore the best state, if one is kept."""
        if self.best:
            with torch.no_grad():
                for key, tensor in self.changing.items():
                    tensor.copy_(self.best[key])

    # -- checkpoints ---------------------------------------------------------------------------------------------------

    def save_checkpoint_if_due(self) -> None:
        """Save at the given interval, else when enough time has passed to make the cost small."""
        if self.checkpoint is None or self.step == self.loop.steps:
            return
        if self.loop.checkpoint_every:
            due = self.step % self.loop.checkpoint_every == 0
        else:
            wait = max(_CHECKPOINT_SECONDS, self.checkpoint_cost / _CHECKPOINT_SHARE)
            due = time.perf_counter() - self.last_checkpoint > wait
        if due:
            self.save_checkpoint()

    def save_checkpoint(self) -> None:
        """Write the checkpoint atomically."""
        if self.checkpoint is None:
            return
        start = time.perf_counter()
        random_tensors, random_state = runtime.random_state()
        tensors = {f"network/{k}": t.detach() for k, t in self.changing.items()}
        tensors |= {f"best/{k}": t for k, t in self.best.items()}
        tensors |= {f"optimizer/{k}": t for k, t in optimizer_tensors(self.optimizer).items()}
        tensors |= random_tensors
        position = self.batches.state_dict() if hasattr(self.batches, "state_dict") else None
        state = {
            "step": self.step,
            "result": asdict(self.result),
            "position": position,
            "random": random_state,
            "best_value": self.best_value if math.isfinite(self.best_value) else None,
            "misses": self.misses,
        }
        files.save_checkpoint(self.checkpoint, tensors, state)
        self.last_checkpoint = time.perf_counter()
        self.checkpoint_cost = self.last_checkpoint - start

    def resume(self) -> None:
        """Continue from the checkpoint, if there is one."""
        found = files.load_checkpoint(self.checkpoint) if self.checkpoint else None
        if found is None:
            return
        tensors, state = found
        names = {key.removeprefix("network/") for key in tensors if key.startswith("network/")}
        if names != set(self.changing):
            raise Failure(
                f"The checkpoint in {self.checkpoint} belongs to other trainable parameters.",
                "Delete it to start anew.",
            )
        with torch.no_grad():
            for key, tensor in self.changing.items():
                tensor.copy_(tensors[f"network/{key}"])
        prefix = "optimizer/"
        restore_optimizer(
            self.optimizer, {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}
        )
        self.best = {k.removeprefix("best/"): t for k, t in tensors.items() if k.startswith("best/")}
        self.best_value = math.inf if state["best_value"] is None else state["best_value"]
        self.misses = state["misses"]
        self.step = state["step"]
        self.result = TrainResult(**state["result"])
        if state["position"] is not None and hasattr(self.batches, "load_state_dict"):
            self.batches.load_state_dict(state["position"])
        else:
            for _ in range(self.step):
                self._next_batch()
        runtime.restore_random_state(tensors, state["random"])
        events.message(f"Continuing after step {self.step} of {self.loop.steps}.")

    def how_to_continue(self) -> str:
        """The sentence shown after an interruption."""
        return "Run the same command with --resume to go on." if self.checkpoint else ""


@contextmanager
def _untouched_random_state() -> Iterator[None]:
    """Evaluation must not shift the random numbers training sees, or evaluating more often would change the run."""
    tensors, state = runtime.random_state()
    try:
        yield
    finally:
        runtime.restore_random_state(tensors, state)
