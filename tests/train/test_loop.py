"""The training loop: accumulation, resuming bit for bit, early stopping, and how it fails."""

from __future__ import annotations

import os
import signal
from copy import deepcopy

import pytest
import torch

from posttrain.adapt.lora import Lora
from posttrain.core import catalog, events
from posttrain.core.errors import BadRequest, Failure, Interrupted
from posttrain.data import dataset
from posttrain.data.collate import Batches
from posttrain.models.language_model import LanguageModel
from posttrain.train import loop as looping
from posttrain.train.loop import EarlyStopping, Loop, evaluate, train
from posttrain.train.objectives import Encoding
from posttrain.train.objectives.language_modeling import LanguageModeling
from posttrain.train.optimizer import Optimizer
from posttrain.train.part import Part

ROWS = [{"prompt": f"What is {i} and {i}?", "completion": f" It is {2 * i}." + " Yes." * (i % 4)} for i in range(14)]


def _batches(model: LanguageModel, tokens_per_pass: int = 4096, batch_size: int = 4) -> Batches:
    items = LanguageModeling().encode(dataset.read(ROWS), model, Encoding())
    return Batches(items, batch_size, tokens_per_pass, seed=3)


def _adapted(model: LanguageModel, dropout: float = 0.0) -> torch.nn.Module:
    network = deepcopy(model.network)
    torch.manual_seed(7)
    Lora(rank=4, dropout=dropout).apply(network)
    return network


def _trainable(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in network.named_parameters() if p.requires_grad}


def test_micro_batches_equal_one_batch(tiny_llama):
    """Gradients are normalised by loss-carrying tokens over the whole batch, however it is split."""
    results = []
    for budget in (4096, 40):
        network = _adapted(tiny_llama)
        batches = _batches(tiny_llama, budget)
        assert (len(next(iter(_batches(tiny_llama, budget)))) > 1) == (budget == 40)
        result = train(network, LanguageModeling(), batches, Loop(steps=3, learning_rate=1e-2))
        results.append(([entry["loss"] for entry in result.history], _trainable(network)))
    assert results[0][0] == pytest.approx(results[1][0], abs=1e-5)
    for name, value in results[0][1].items():
        torch.testing.assert_close(results[1][1][name], value, atol=1e-5, rtol=1e-4)


def test_one_step_equals_torch(tiny_llama):
    """Loss and update of one step against the network's own loss on padded rows and torch's AdamW."""
    network, reference = _adapted(tiny_llama), _adapted(tiny_llama)
    batch = next(iter(_batches(tiny_llama)))
    result = train(network, LanguageModeling(), [batch], Loop(steps=1, learning_rate=1e-2, clip=None))

    total, count = torch.zeros(()), 0
    for packed in batch:
        for ids, targets in zip(
            packed.input_ids.split(packed.lengths.tolist()), packed.targets.split(packed.lengths.tolist())
        ):
            logits = reference(ids[None]).logits[0]
            total = total + torch.nn.functional.cross_entropy(logits, targets, ignore_index=-100, reduction="sum")
            count += int((targets != -100).sum())
    optimizer = torch.optim.AdamW([p for p in reference.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.0)
    (total / count).backward()
    optimizer.step()
    assert result.history[0]["loss"] == pytest.approx(float(total) / count, abs=1e-5)
    for name, value in _trainable(reference).items():
        torch.testing.assert_close(_trainable(network)[name], value, atol=2e-5, rtol=1e-3)


@pytest.mark.parametrize("stop_after", [1, 3, 5])
def test_resumed_run_is_bit_exact(tiny_llama, tmp_path, stop_after):
    """Dropout, shuffled epochs of 4 steps, AdamW and a schedule: stopped anywhere and continued, nothing differs."""
    settings = Loop(steps=7, learning_rate=1e-2, schedule={"cosine": {"warmup": 2}}, checkpoint_every=1)
    whole = _adapted(tiny_llama, dropout=0.3)
    torch.manual_seed(11)
    expected = train(whole, LanguageModeling(), _batches(tiny_llama), settings)

    class Kill(Exception):
        pass

    def bomb(event: events.Event) -> None:
        if event.kind == "advance" and event.fields["done"] == stop_after + 1:
            raise Kill  # after step stop_after + 1, whose checkpoint is never written

    killed = _adapted(tiny_llama, dropout=0.3)
    torch.manual_seed(11)
    with pytest.raises(Kill), events.listen(bomb):
        train(killed, LanguageModeling(), _batches(tiny_llama), settings, checkpoint=tmp_path)
    network = _adapted(tiny_llama, dropout=0.3)
    torch.manual_seed(999)  # the checkpoint's random state must win
    found = train(network, LanguageModeling(), _batches(tiny_llama), settings, checkpoint=tmp_path)
    assert [e["loss"] for e in found.history] == [e["loss"] for e in expected.history]
    for name, value in _trainable(whole).items():
        assert torch.equal(_trainable(network)[name], value)


def test_a_source_without_a_position_is_replayed(tiny_llama, tmp_path):
    batches = [next(iter(_batches(tiny_llama))), *[b for b, _ in zip(iter(_batches(tiny_llama)), range(3))]]
    whole = train(_adapted(tiny_llama), LanguageModeling(), batches, Loop(steps=6, learning_rate=1e-2))
    half = Loop(steps=6, learning_rate=1e-2, checkpoint_every=2)

    def bomb(event: events.Event) -> None:
        if event.kind == "advance" and event.fields["done"] == 4:
            raise RuntimeError

    with pytest.raises(RuntimeError), events.listen(bomb):
        train(_adapted(tiny_llama), LanguageModeling(), batches, half, checkpoint=tmp_path)
    rest = train(_adapted(tiny_llama), LanguageModeling(), batches, half, checkpoint=tmp_path)
    assert [e["loss"] for e in rest.history] == [e["loss"] for e in whole.history]


def test_interrupt_saves_a_checkpoint(tiny_llama, tmp_path):
    def press(event: events.Event) -> None:
        if event.kind == "advance" and event.fields["done"] == 2:
            os.kill(os.getpid(), signal.SIGINT)

    settings = Loop(steps=6, learning_rate=1e-2)
    with pytest.raises(Interrupted, match="after step 2 of 6") as raised, events.listen(press):
        train(_adapted(tiny_llama), LanguageModeling(), _batches(tiny_llama), settings, checkpoint=tmp_path)
    assert raised.value.exit_code == 130
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    rest = train(_adapted(tiny_llama), LanguageModeling(), _batches(tiny_llama), settings, checkpoint=tmp_path)
    whole = train(_adapted(tiny_llama), LanguageModeling(), _batches(tiny_llama), settings)
    assert [e["loss"] for e in rest.history] == [e["loss"] for e in whole.history]


def test_loss_that_is_not_a_number_stops_with_a_diagnosis(tiny_llama):
    network = _adapted(tiny_llama)
    first = next(p for p in network.parameters() if p.requires_grad)
    with torch.no_grad():
        first[0, 0] = float("nan")
    with pytest.raises(Failure, match=r"not a number at step 1 .*lora|A\.default.*already not finite"):
        train(network, LanguageModeling(), _batches(tiny_llama), Loop(steps=2, learning_rate=1e-2))


def test_early_stopping_restores_the_best_state(tiny_llama):
    """Validation numbers 3, 2, 5, 4 with patience 2: stop at step 4, go back to the parameters of step 2."""
    network = _adapted(tiny_llama)
    values = iter([3.0, 2.0, 5.0, 4.0, 1.0])
    seen: list[dict[str, torch.Tensor]] = []

    def look() -> dict[str, float]:
        seen.append(_trainable(network))
        return {"loss": next(values)}

    settings = Loop(steps=9, learning_rate=1e-2, evaluate_every=1, early_stopping=EarlyStopping(patience=2))
    result = train(network, LanguageModeling(), _batches(tiny_llama), settings, evaluate=look)
    assert result.stopped_early and len(result.history) == 4
    for name, value in seen[1].items():
        assert torch.equal(_trainable(network)[name], value)


def test_evaluating_does_not_change_the_run(tiny_llama):
    losses = []
    for every in (None, 1):
        torch.manual_seed(5)
        network = _adapted(tiny_llama, dropout=0.3)
        settings = Loop(steps=3, learning_rate=1e-2, evaluate_every=every)
        torch.manual_seed(5)
        result = train(
            network,
            LanguageModeling(),
            _batches(tiny_llama),
            settings,
            evaluate=lambda: {"loss": float(torch.rand(()))},
        )
        losses.append([entry["loss"] for entry in result.history])
    assert losses[0] == losses[1]


def test_gradient_clipping_limits_the_norm(tiny_llama):
    """With plain numbers: after clipping to 1e-3 the reported norm is still that before clipping."""
    result = train(
        _adapted(tiny_llama), LanguageModeling(), _batches(tiny_llama), Loop(steps=1, learning_rate=1e-2, clip=1e-3)
    )
    assert result.history[0]["gradient_norm"] > 1e-2


def test_activation_checkpointing_changes_nothing(tiny_llama):
    losses = []
    for on in (False, True):
        settings = Loop(steps=3, learning_rate=1e-2, activation_checkpointing=on)
        result = train(_adapted(tiny_llama), LanguageModeling(), _batches(tiny_llama), settings)
        losses.append([entry["loss"] for entry in result.history])
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)


def test_autocast_stays_close(tiny_llama):
    settings = Loop(steps=2, learning_rate=1e-2, autocast=True)
    result = train(_adapted(tiny_llama), LanguageModeling(), _batches(tiny_llama), settings)
    plain = train(_adapted(tiny_llama), LanguageModeling(), _batches(tiny_llama), Loop(steps=2, learning_rate=1e-2))
    ours, theirs = ([e["loss"] for e in r.history] for r in (result, plain))
    assert ours == pytest.approx(theirs, rel=2e-2)
    assert ours != theirs


def test_nothing_trainable_and_nothing_to_learn(tiny_llama):
    frozen = deepcopy(tiny_llama.network).requires_grad_(False)
    with pytest.raises(BadRequest, match="No parameter is trainable"):
        train(frozen, LanguageModeling(), _batches(tiny_llama), Loop(steps=1))
    batch = next(iter(_batches(tiny_llama)))
    for packed in batch:
        packed.targets.fill_(-100)
    with pytest.raises(BadRequest, match="no loss-carrying token"):
        train(_adapted(tiny_llama), LanguageModeling(), [batch], Loop(steps=1))
    with pytest.raises(BadRequest, match="no batches"):
        train(_adapted(tiny_llama), LanguageModeling(), [], Loop(steps=1))


def test_evaluate_counts_each_token_once(tiny_llama):
    network = _adapted(tiny_llama)
    whole = [p for step, _ in zip(iter(_batches(tiny_llama, batch_size=14)), range(1)) for p in step]
    parts = [p for step, _ in zip(iter(_batches(tiny_llama, 30, 14)), range(1)) for p in step]
    assert len(parts) > len(whole)
    ours, theirs = (evaluate(network, LanguageModeling(), b)["loss"] for b in (whole, parts))
    assert ours == pytest.approx(theirs, abs=1e-5)


def test_weight_decay_spares_vectors(tiny_llama):
    """Groups: matrices decay, norms and biases don't; a parameter's own factor makes a group of its own."""
    network = deepcopy(tiny_llama.network)
    parameters = dict(network.named_parameters())
    parameters["model.norm.weight"].learning_rate_factor = 0.5
    optimizer = Optimizer(weight_decay=0.1).build(network, 1e-3)
    by_name = {name: group for group in optimizer.param_groups for name in group["names"]}
    assert by_name["model.layers.0.mlp.up_proj.weight"]["weight_decay"] == 0.1
    assert by_name["model.layers.0.input_layernorm.weight"]["weight_decay"] == 0.0
    assert by_name["model.norm.weight"]["lr"] == 5e-4
    assert sum(len(g["params"]) for g in optimizer.param_groups) == len(parameters)


def test_checkpoint_interval_adapts_to_its_cost(tiny_llama, tmp_path, monkeypatch):
    """Without a given interval the first steps of a short run write none; a zero wait writes after every step."""
    train(_adapted(tiny_llama), LanguageModeling(), _batches(tiny_llama), Loop(steps=2), checkpoint=tmp_path)
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(looping, "_CHECKPOINT_SECONDS", 0.0)
    train(_adapted(tiny_llama), LanguageModeling(), _batches(tiny_llama), Loop(steps=2), checkpoint=tmp_path)
    assert (tmp_path / "checkpoint.safetensors").exists()


def test_schedule_reaches_the_optimizer(tiny_llama):
    settings = Loop(steps=4, learning_rate=1e-2, schedule=catalog.build("schedule", "linear"))
    result = train(_adapted(tiny_llama), LanguageModeling(), _batches(tiny_llama), settings)
    assert [e["learning_rate"] for e in result.history] == pytest.approx([1e-2, 7.5e-3, 5e-3, 2.5e-3])


class _Counter(Part):
    """Takes part in a run: counts updates in a buffer, and pulls one parameter to zero by a penalty."""

    def __init__(self, network: torch.nn.Module) -> None:
        network.register_buffer("updates", torch.zeros((), dtype=torch.long), persistent=False)
        self.calls: list[tuple[str, int, int]] = []
        self.name, self.pulled = next((name, p) for name, p in network.named_parameters() if p.requires_grad)

    def penalty(self, network: torch.nn.Module) -> torch.Tensor:
        return 3.0 * self.pulled.square().sum()

    def before_update(self, network: torch.nn.Module, step: int, steps: int) -> None:
        self.calls.append(("before", step, steps))
        self.gradient, self.value = self.pulled.grad.clone(), self.pulled.detach().clone()

    def after_update(self, network: torch.nn.Module, step: int, steps: int) -> None:
        self.calls.append(("after", step, steps))
        assert not torch.equal(self.pulled, self.value)
        network.updates += 1

    def state(self, network: torch.nn.Module) -> dict[str, torch.Tensor]:
        return {"updates": network.updates}


def test_a_part_has_its_say(tiny_llama):
    """Called around each update; the gradient of 3 p² is 6 p, added once though the batch is split in several."""
    plain, network = _adapted(tiny_llama), _adapted(tiny_llama)
    with torch.no_grad():  # A's gradient without the penalty is zero while B is
        for name, parameter in [*plain.named_parameters(), *network.named_parameters()]:
            if ".B." in name:
                parameter.fill_(0.02)
    without, adapter = _Counter(plain), _Counter(network)
    without.penalty = lambda network: None
    settings = Loop(steps=1, learning_rate=1e-2, clip=None)
    batches = [next(iter(_batches(tiny_llama, 40)))]
    assert len(batches[0]) > 1
    train(plain, LanguageModeling(), batches, settings, parts={"pull": without})
    result = train(network, LanguageModeling(), batches, settings, parts={"pull": adapter})
    torch.testing.assert_close(adapter.gradient - without.gradient, 6 * adapter.value, atol=1e-6, rtol=1e-4)
    assert result.history[0]["pull"] == pytest.approx(3 * float(adapter.value.square().sum()), rel=1e-5)
    train(network, LanguageModeling(), batches, Loop(steps=2), parts={"pull": adapter})
    pairs = [("before", 1, 1), ("after", 1, 1), ("before", 1, 2), ("after", 1, 2), ("before", 2, 2), ("after", 2, 2)]
    assert adapter.calls == pairs


def test_the_best_state_includes_a_parts_own(tiny_llama):
    """Best at step 2 of 4: the counter in the network says 2 again."""
    network = _adapted(tiny_llama)
    values = iter([3.0, 2.0, 5.0, 4.0])
    settings = Loop(steps=9, evaluate_every=1, early_stopping=EarlyStopping(patience=2))
    train(
        network,
        LanguageModeling(),
        _batches(tiny_llama),
        settings,
        parts={"pull": _Counter(network)},
        evaluate=lambda: {"loss": next(values)},
    )
    assert int(network.updates) == 2
