"""A task with regularizers: exact sums, names and positions, and that each of them keeps a model from forgetting."""

from __future__ import annotations

import json
import random
from contextlib import nullcontext
from copy import deepcopy
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from posttrain.adapt import Adapter
from posttrain.adapt.full import Full
from posttrain.adapt.lora import Lora
from posttrain.core import catalog
from posttrain.data import dataset
from posttrain.data.collate import Batches
from posttrain.data.encoded import Encoded
from posttrain.data.packing import pack
from posttrain.models.language_model import LanguageModel
from posttrain.train.loop import Loop, evaluate, train
from posttrain.train.objectives import Encoding
from posttrain.train.objectives.language_modeling import LanguageModeling
from posttrain.train.regularized import Regularized, regularize
from posttrain.train.regularizers import Beginning, Term
from posttrain.train.regularizers.kl_to_base import KlToBase
from posttrain.train.regularizers.l2_sp import L2Sp
from posttrain.train.regularizers.replay import Replay
from tiny_models import make_tiny_llama

ROWS = [{"prompt": f"What is {i}?", "completion": f" It is {2 * i}." + " Yes." * (i % 4)} for i in range(10)]
GENERAL = [{"text": "The fox runs. " * (1 + i % 3)} for i in range(7)]
TASK = LanguageModeling()


def written(folder: Path, name: str, rows: list[dict[str, Any]]) -> str:
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(folder / name)


def items_of(model: LanguageModel, rows: list[dict[str, Any]] = ROWS) -> list[Encoded]:
    return TASK.encode(dataset.read(rows), model, Encoding())


def beginning_of(model: LanguageModel, adapter: Adapter, **more: Any) -> Beginning:
    return Beginning(model, TASK, lambda: adapter.disabled(model.network), batch_size=4, seed=2, **more)


def adapted(model: LanguageModel, adapter: Adapter) -> LanguageModel:
    model = deepcopy(model)
    torch.manual_seed(7)
    adapter.apply(model.network)
    return model


def gradients(network: nn.Module) -> list[torch.Tensor]:
    return [p.grad.clone() for p in network.parameters() if p.grad is not None]


def test_nothing_changes_without_regularizers(tiny_llama):
    batches = Batches(items_of(tiny_llama), 4, 64)
    together = regularize([], batches, Beginning(tiny_llama, TASK, nullcontext))
    assert together.objective is TASK
    assert together.batches is batches
    assert together.parts == {}


@pytest.mark.parametrize("tokens_per_pass", [32, 4096])
def test_the_whole_sum_by_hand(tiny_llama, tmp_path, tokens_per_pass):
    """task mean + 0.3 KL mean + 0.02 / 2 ||w - w0||² + 0.7 mean of two replayed records + 2 mean of one other."""
    adapter = Full(keep_base=True)
    model = adapted(tiny_llama, adapter)
    base = deepcopy(model.network)
    first = written(tmp_path, "general.jsonl", GENERAL)
    second = written(tmp_path, "other.jsonl", ROWS)
    regularizers = [
        KlToBase(weight=0.3),
        L2Sp(weight=0.02),
        Replay(data=first, records=2, weight=0.7),
        Replay(data=second, records=1, weight=2.0),
    ]
    source = Batches(items_of(model), 4, tokens_per_pass, seed=5)
    order = source.order(0)[:4]
    together = regularize(regularizers, source, beginning_of(model, adapter, tokens_per_pass=tokens_per_pass))
    general = [items_of(model, rows) for rows in (GENERAL, ROWS)]
    replayed = [
        [items[i] for i in extra.order(0)[:count]]
        for items, extra, count in zip(
            general,
            (together.parts[name].extra.batches for name in ("replay", "replay_2")),
            (2, 1),
            strict=True,
        )
    ]
    with torch.no_grad():
        for parameter in model.network.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)), alpha=0.01)
    reference = deepcopy(model.network)
    seen: list[torch.Tensor] = []

    class Look(Term):
        """Takes the complete gradients of the step."""

        def before_update(self, network, step, steps):
            seen.extend(gradients(network))

    result = train(
        model.network,
        together.objective,
        together.batches,
        Loop(steps=1, clip=None),
        parts={**together.parts, "look": Look()},
    )

    task = pack([items_of(tiny_llama)[i] for i in order])
    prediction = TASK.predict(reference, task)
    with torch.no_grad():
        before = TASK.predict(base, task)
        old = (before.hidden @ before.head.weight.t()).log_softmax(-1)
    new = (prediction.hidden @ prediction.head.weight.t()).log_softmax(-1)
    parts = {
        "loss": TASK.loss(reference, task)[0] / task.loss_tokens,
        "kl_to_base": (old.exp() * (old - new)).sum() / task.loss_tokens,
        "l2_sp": 0.01
        * sum((p - q.detach()).square().sum() for p, q in zip(reference.parameters(), base.parameters(), strict=True)),
    }
    for name, items in zip(("replay_loss", "replay_2_loss"), replayed, strict=True):
        batch = pack(items)
        parts[name] = TASK.loss(reference, batch)[0] / batch.loss_tokens
    whole = (
        parts["loss"]
        + 0.3 * parts["kl_to_base"]
        + parts["l2_sp"]
        + 0.7 * parts["replay_loss"]
        + 2.0 * parts["replay_2_loss"]
    )
    whole.backward()
    entry = result.history[0]
    assert {key: entry[key] for key in parts} == pytest.approx({k: v.item() for k, v in parts.items()}, rel=1e-4)
    assert entry.keys() - parts.keys() == {"step", "learning_rate", "gradient_norm"}
    for ours, theirs in zip(seen, gradients(reference), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)
    assert result.tokens == task.tokens + sum(len(item) for items in replayed for item in items)


class Counting(LanguageModeling):
    """A task with a metric that is no mean."""

    def loss_of(self, prediction, batch):
        value, _ = super().loss_of(prediction, batch)
        return value, {"squares": 9.0, "counts": 3.0}

    def summarize(self, sums, weight):
        assert sums.keys() == {"loss", "squares", "counts"}
        return {"loss": sums["loss"] / weight, "ratio": sums["squares"] / sums["counts"]}


def test_the_task_summarizes_only_its_own_sums(tiny_llama, tmp_path):
    adapter = Lora(rank=2)
    model = adapted(tiny_llama, adapter)
    general = written(tmp_path, "general.jsonl", GENERAL)
    together = regularize(
        [Replay(data=general), KlToBase()],
        Batches(items_of(model), 4, 40),
        Beginning(model, Counting(), lambda: adapter.disabled(model.network), batch_size=4, tokens_per_pass=40),
    )
    result = train(model.network, together.objective, together.batches, Loop(steps=2), parts=together.parts)
    assert [entry["ratio"] for entry in result.history] == pytest.approx([3, 3])
    assert result.history[0].keys() >= {"replay_loss", "kl_to_base"}


def test_it_encodes_and_collates_like_the_task(tiny_llama):
    together = regularize([L2Sp()], Batches(items_of(tiny_llama), 4, 64), Beginning(tiny_llama, TASK, nullcontext))
    objective, records = together.objective, dataset.read(ROWS)
    objective.prepare(tiny_llama, records)
    items = objective.encode(records, tiny_llama, Encoding())
    assert items == items_of(tiny_llama)
    assert torch.equal(objective.collate(items).input_ids, pack(items).input_ids)
    assert objective.baseline(items) == TASK.baseline(items)
    assert objective.weight(pack(items)) == pack(items).loss_tokens
    with torch.no_grad():
        assert evaluate(tiny_llama.network, objective, [pack(items)]) == pytest.approx(
            evaluate(tiny_llama.network, TASK, [pack(items)])
        )


def test_the_position_covers_all_data(tiny_llama, tmp_path):
    """Seven general records by two: the third step is the last of their epoch; it goes on from any step."""
    general = written(tmp_path, "general.jsonl", GENERAL)

    def source() -> Regularized:
        return regularize(
            [Replay(data=general, records=2)],
            Batches(items_of(tiny_llama), 4, 4096, seed=1),
            beginning_of(tiny_llama, Lora(), tokens_per_pass=4096),
        )

    def taken(batches: Any, steps: int) -> list[list[list[int]]]:
        found = list(islice(batches, steps))
        return [[getattr(micro, "batch", micro).input_ids.tolist() for micro in step] for step in found]

    whole = taken(source().batches, 9)
    assert all(len(step) == 2 for step in whole)
    first = source().batches
    taken(first, 4)
    state = json.loads(json.dumps(first.state_dict()))
    resumed = source().batches
    resumed.load_state_dict(state)
    assert taken(resumed, 5) == whole[4:]


# Forgetting.

NOUNS = ("fox", "dog", "token", "model", "rank", "loss", "rate", "field")
VERBS = ("sees", "predicts", "jumps over", "runs to")


def sentences(count: int, seed: int) -> list[dict[str, str]]:
    draw = random.Random(seed)
    return [
        {"text": "".join(f"The {draw.choice(NOUNS)} {draw.choice(VERBS)} the {draw.choice(NOUNS)}. " for _ in range(4))}
        for _ in range(count)
    ]


@pytest.fixture(scope="module")
def general_model() -> LanguageModel:
    """A tiny Llama that has learned general sentences, all but perfectly: 0.39 nats a token."""
    model = make_tiny_llama()
    torch.manual_seed(0)
    items = items_of(model, sentences(60, seed=0))
    train(model.network, TASK, Batches(items, 8, 4096), Loop(steps=120, learning_rate=3e-3))
    return model


def loss_on(model: LanguageModel, rows: list[dict[str, str]]) -> float:
    items = items_of(model, rows)
    return evaluate(model.network, TASK, [pack(items)])["loss"]


QUESTIONS = [{"prompt": f"What is {i}?", "completion": f" THE {'AB'[i % 2]}{7 * i} IS OVER."} for i in range(24)]


def tuned(model: LanguageModel, adapter: Adapter, rate: float, *blocks: dict[str, Any]) -> tuple[float, float]:
    """What is forgotten of general sentences and gained on the task, in nats a token."""
    held_out = sentences(10, seed=1)
    start = loss_on(model, held_out), loss_on(model, QUESTIONS)
    model = adapted(model, adapter)
    together = regularize(
        [catalog.build("regularizer", block) for block in blocks],
        Batches(items_of(model, QUESTIONS), 8, 4096),
        Beginning(model, TASK, lambda: adapter.disabled(model.network), batch_size=8, tokens_per_pass=4096),
    )
    settings = Loop(steps=30, learning_rate=rate)
    train(model.network, together.objective, together.batches, settings, parts={"adapter": adapter, **together.parts})
    return loss_on(model, held_out) - start[0], start[1] - loss_on(model, QUESTIONS)


@pytest.mark.parametrize(
    ("adapter", "rate"),
    [(Full(keep_base=True), 2e-3), (Lora(rank=4, targets="all-linear"), 1e-2)],
    ids=["full", "lora"],
)
def test_each_keeps_a_model_from_forgetting(general_model, tmp_path, adapter, rate):
    """Less than half of what is forgotten without them, and the task, 7.7 nats at first, is still learned."""
    forgotten, gained = tuned(general_model, adapter, rate)
    assert forgotten > 1.5
    assert gained > 3
    for block in (
        {"l2_sp": {"weight": 0.1}},
        {"kl_to_base": {"weight": 1.0}},
        {"replay": {"data": written(tmp_path, "general.jsonl", sentences(60, seed=0)), "share": 0.25}},
    ):
        less, still_gained = tuned(general_model, adapter, rate, block)
        assert less < forgotten / 2, block
        assert still_gained > 3, block


def test_a_heavier_weight_forgets_less(general_model):
    adapter = Full(keep_base=True)
    for term, weights in (("l2_sp", (0.01, 0.1, 1.0)), ("kl_to_base", (0.1, 1.0, 5.0))):
        found = [tuned(general_model, adapter, 2e-3, {term: {"weight": weight}})[0] for weight in weights]
        assert found == sorted(found, reverse=True), term
