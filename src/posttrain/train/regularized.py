"""A task with regularizers is again an objective and again a source of batches, so the loop knows nothing of them.

With W units of the task in an optimizer step and W_e units of a term's extra data, what is minimised is

    task / W + sum of weight_t * judged_t / W + sum of weight_e * extra_e / W_e + penalties

Micro-batches of extra data carry no weight of their own in the loop, which divides by W; each of them knows the factor
W / W_e of its step. So the result doesn't depend on how a step is split.

The history's `loss` is the task's alone and comparable with that of a training without terms. Beside it stand, by the
terms' names, what is judged and the loss of extra data (`NAME_loss`) as means without their weights, and penalties.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from posttrain.core.catalog import term_of
from posttrain.data.dataset import Dataset
from posttrain.data.encoded import Encoded
from posttrain.train.objectives import Encoding, Objective, Supervised
from posttrain.train.regularizers import Beginning, Regularizer, Term

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from posttrain.models.language_model import LanguageModel

# Keys of sums that the task must not see; a term's name follows the mark.
_MARK = "term/"
_TASK = f"{_MARK}task"


class Source(Protocol):
    """Batches whose position can be kept."""

    def __iter__(self) -> Iterator[list[Any]]:
        """One optimizer step's micro-batches at a time, from the present position on."""

    def state_dict(self) -> Any:
        """The position; JSON-able."""

    def load_state_dict(self, state: Any) -> None:
        """Go to a position."""


@dataclass(frozen=True)
class Regularized:
    """What the loop is given in place of the task.

    Attributes:
        objective: The task with its terms.
        batches: The task's batches with extra data.
        parts: The terms, by name, as they take part in each step.
    """

    objective: Objective
    batches: Source
    parts: Mapping[str, Term]


def regularize(
    regularizers: Sequence[Regularizer], batches: Source, beginning: Beginning, objective: Objective | None = None
) -> Regularized:
    """Put a task and its regularizers together; without any, everything stays as it is.

    Args:
        regularizers: In the order in which the history shows them; of one kind the second is called ``NAME_2``.
        batches: The task's.
        beginning: Model and task.
        objective: What is learned where that is more than the task (with teachers, for example), over the same units.

    Raises:
        BadRequest: If one of them refuses.
    """
    terms = {name: each.begin(beginning) for name, each in named(regularizers)}
    learned = objective or beginning.objective
    if not terms:
        return Regularized(learned, batches, {})
    together = _WithTerms(task=learned, terms=terms)
    if any(term.extra for term in terms.values()):
        batches = _WithExtra(batches, together)
    return Regularized(together, batches, terms)


def named(regularizers: Sequence[Regularizer]) -> Iterator[tuple[str, Regularizer]]:
    """Regularizers under the names by which the history shows them."""
    seen: dict[str, int] = {}
    for each in regularizers:
        name = term_of(each).rpartition(":")[2]
        seen[name] = seen.get(name, 0) + 1
        yield (name if seen[name] == 1 else f"{name}_{seen[name]}"), each


@dataclass(frozen=True)
class _ExtraPass:
    """A micro-batch of a term's extra data.

    Attributes:
        name: The term's.
        batch: What the term's own objective takes.
        factor: Units of the task in this step over units of the term's data in it.
    """

    name: str
    batch: Any
    factor: float

    @property
    def tokens(self) -> int:
        return int(getattr(self.batch, "tokens", 0))


class _WithExtra:
    """The task's steps, each with a step of every term's extra data."""

    def __init__(self, batches: Source, objective: _WithTerms) -> None:
        self.batches, self.task = batches, objective.task
        self.extra = {name: term.extra for name, term in objective.terms.items() if term.extra is not None}

    def __iter__(self) -> Iterator[list[Any]]:
        sources = {name: iter(extra.batches) for name, extra in self.extra.items()}
        for step in self.batches:
            weight = sum(self.task.weight(micro) for micro in step)
            added = []
            for name, extra in self.extra.items():
                passes = next(sources[name])
                factor = weight / sum(extra.objective.weight(each) for each in passes)
                added += [_ExtraPass(name, each, factor) for each in passes]
            yield [*step, *added]

    def state_dict(self) -> dict[str, Any]:
        return {"task": self.batches.state_dict()} | {
            f"{_MARK}{name}": extra.batches.state_dict() for name, extra in self.extra.items()
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.batches.load_state_dict(state["task"])
        for name, extra in self.extra.items():
            extra.batches.load_state_dict(state[f"{_MARK}{name}"])


class _WithTerms(Objective):
    """The task's loss and what the terms say of the same pass, or of their own data."""

    task: Any
    """The task, an `Objective`."""

    terms: dict[str, Any]
    """The terms by name, `Term` each."""

    def prepare(self, model: LanguageModel, dataset: Dataset) -> None:
        """As the task does."""
        self.task.prepare(model, dataset)

    def encode(self, dataset: Dataset, model: LanguageModel, encoding: Encoding) -> list[Encoded]:
        """As the task does."""
        items: list[Encoded] = self.task.encode(dataset, model, encoding)
        return items

    def collate(self, items: Sequence[Encoded]) -> Any:
        """As the task does."""
        return self.task.collate(items)

    def baseline(self, items: Sequence[Encoded]) -> dict[str, float]:
        """The task's."""
        found: dict[str, float] = self.task.baseline(items)
        return found

    def weight(self, batch: Any) -> float:
        """The task's; none for extra data."""
        return 0.0 if isinstance(batch, _ExtraPass) else float(self.task.weight(batch))

    def loss(self, network: PreTrainedModel, batch: Any) -> tuple[torch.Tensor, dict[str, float]]:
        """See `Objective.loss`; the metrics hold the sums of task and terms apart."""
        if isinstance(batch, _ExtraPass):
            term = self.terms[batch.name]
            value, _ = term.extra.objective.loss(network, batch.batch)
            value = batch.factor * value
            return term.weight * value, {f"{_MARK}{batch.name}_loss": float(value.detach())}
        judging = {name: term for name, term in self.terms.items() if term.judges}
        if not judging:
            value, metrics = self.task.loss(network, batch)
            return value, {**metrics, _TASK: float(value.detach())}
        assert isinstance(self.task, Supervised)
        prediction = self.task.predict(network, batch)
        value, metrics = self.task.loss_of(prediction, batch)
        metrics = {**metrics, _TASK: float(value.detach())}
        for name, term in judging.items():
            judged = term.loss(network, prediction, batch)
            value = value + term.weight * judged
            metrics[f"{_MARK}{name}"] = float(judged.detach())
        return value, metrics

    def summarize(self, sums: dict[str, float], weight: float) -> dict[str, float]:
        """The task's own summary of its sums, and the terms' means."""
        rest = {key: value for key, value in sums.items() if not key.startswith(_MARK)}
        means: dict[str, float] = self.task.summarize({**rest, "loss": sums[_TASK]}, weight)
        return means | {
            key.removeprefix(_MARK): value / weight
            for key, value in sums.items()
            if key.startswith(_MARK) and key != _TASK
        }
