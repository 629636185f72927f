"""Contract of the `objective` family, checked on every method the folder holds."""

from __future__ import annotations

import math
from copy import deepcopy

import pytest
import torch

from posttrain.core import catalog
from posttrain.core.errors import BadRequest
from posttrain.core.settings import help_of
from posttrain.data import dataset
from posttrain.data.packing import passes
from posttrain.models import saving
from posttrain.models.sources import load
from posttrain.train.loop import evaluate
from posttrain.train.objectives import Encoding, Supervised
from tiny_models import make_tiny_bert, make_tiny_llama

# A small set of each kind of record, by its columns.
SETS = [
    [{"prompt": f"What is {i}?", "completion": f" It is {i}." + " Yes." * i} for i in range(5)],
    [{"text": f"the film is {'very ' * i}good", "label": ["good", "bad"][i % 2]} for i in range(5)],
    [{"tokens": ["Rex", "is"] + ["good"] * i, "tags": ["B-PER", "O"] + ["O"] * i} for i in range(5)],
    [{"question": f"Who is {i}?", "context": f"It is Rex {i}.", "answers": ["Rex"]} for i in range(5)],
    [{"source": f"the dog {i}", "target": f"a fox {i}"} for i in range(5)],
    [{"prompt": "What?", "chosen": f" Yes {i}.", "rejected": " No."} for i in range(5)],
    [{"text": f"The dog is good {i}."} for i in range(5)],
]  # fmt: skip


def _prepared(term: str):
    """An objective with the first model and data that it takes."""
    objective = catalog.build("objective", term)
    refusals = []
    for make in (make_tiny_bert, make_tiny_llama):
        for rows in SETS:
            model, read = make(), dataset.read(rows)
            try:
                torch.manual_seed(0)
                objective.prepare(model, read)
                items = objective.encode(read, model, Encoding(max_length=64))
                with torch.no_grad():
                    objective.loss(model.network, objective.collate(items))
            except BadRequest as error:
                refusals.append(str(error))
                continue
            return objective, model, items
    raise AssertionError(f"{term} took no data: {refusals}")


@pytest.fixture(params=catalog.terms("objective"))
def prepared(request: pytest.FixtureRequest):
    return _prepared(request.param)


def test_settings_are_documented(prepared):
    objective, _, _ = prepared
    assert all(help_of(type(objective)).values())
    assert catalog.build("objective", catalog.dump(objective)) == objective
    assert objective.unit


def test_the_loss_is_finite_and_reaches_the_network(prepared):
    objective, model, items = prepared
    batch = objective.collate(items)
    value, sums = objective.loss(model.network, batch)
    assert value.dim() == 0 and math.isfinite(float(value.detach()))
    assert objective.weight(batch) > 0 and all(math.isfinite(number) for number in sums.values())
    value.backward()
    moved = [name for name, p in model.network.named_parameters() if p.grad is not None and bool(p.grad.any())]
    assert len(moved) > 10
    means = objective.summarize({"loss": float(value.detach()), **sums}, objective.weight(batch))
    assert means["loss"] == pytest.approx(float(value.detach()) / objective.weight(batch))
    assert objective.baseline(items).keys() <= means.keys()


def test_micro_batches_add_up(prepared):
    objective, model, items = prepared
    whole = evaluate(model.network, objective, [objective.collate(items)])
    parts = passes(items, 16)
    assert len(parts) > 1
    split = evaluate(model.network, objective, [objective.collate(part) for part in parts])
    assert split == pytest.approx(whole, abs=1e-5)


def test_pass_and_loss_are_what_the_loss_is(prepared):
    objective, model, items = prepared
    if not isinstance(objective, Supervised):
        pytest.skip("the loss has no prediction that others could look at")
    batch = objective.collate(items)
    prediction = objective.predict(model.network, batch, layers=True)
    value, sums = objective.loss_of(prediction, batch)
    expected, more = objective.loss(model.network, batch)
    torch.testing.assert_close(value, expected, atol=1e-5, rtol=1e-5)
    assert sums == pytest.approx(more, abs=1e-4)
    assert len(prediction.targets) == len(prediction.hidden) > 0
    assert (prediction.head is None) != (prediction.logits is None)
    layers = model.network.config.num_hidden_layers
    assert [len(states) for states in prediction.layers] == [batch.tokens] * (layers + 1)


def test_a_prepared_network_is_left_as_it_is_and_loads_again(prepared, tmp_path):
    objective, model, items = prepared
    batch = objective.collate(items)
    before = evaluate(model.network, objective, [batch])
    network = model.network
    state = deepcopy(network.state_dict())
    kind = next(rows for rows in SETS if _takes(objective, model, rows))
    objective.prepare(model, dataset.read(kind))
    assert model.network is network and all(torch.equal(state[k], v) for k, v in network.state_dict().items())
    saving.save(model, tmp_path / "model")
    again = load(str(tmp_path / "model"))
    assert type(again.network) is type(network)
    assert evaluate(again.network, objective, [batch]) == pytest.approx(before, abs=1e-6)


def _takes(objective, model, rows) -> bool:
    try:
        objective.encode(dataset.read(rows), model, Encoding(max_length=64))
    except BadRequest:
        return False
    return True
