"""Every alignment: finite, falls on one batch, the same however it is split, and free of leftovers."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from alignment_toy import PAIRS, PROMPTS, share_of_letters

from posttrain.adapt.lora import Lora
from posttrain.align.objectives import Plan
from posttrain.align.reward import FunctionReward
from posttrain.core import catalog
from posttrain.data import dataset
from posttrain.models import scalar_head
from posttrain.models.language_model import LanguageModel
from posttrain.train.loop import Loop, train
from posttrain.train.objectives import Encoding

TERMS = catalog.terms("align")


def _training(base: LanguageModel, term: str, tokens_per_pass: int):
    objective = catalog.build("align", term)
    model = LanguageModel(deepcopy(base.network), base.tokenizer)
    records = dataset.read(PROMPTS if objective.samples_policy else PAIRS)
    items = objective.encode(records, model, Encoding())
    objective.annotate(model.network, items, tokens_per_pass)
    adapter = Lora(rank=4)
    torch.manual_seed(7)
    adapter.apply(model.network)
    if objective.head:
        scalar_head.attach(model.network, objective.head)
    plan = Plan(adapter, 8, tokens_per_pass, 3, 6, 8, FunctionReward(share_of_letters))
    return objective, model, objective.batches(model, items, plan)


@pytest.mark.parametrize("term", TERMS)
def test_the_loss_falls_on_one_batch(tiny_llama, term):
    objective, model, batches = _training(tiny_llama, term, 4096)
    batch = next(iter(batches))
    result = train(model.network, objective, [batch], Loop(steps=12, learning_rate=1e-2))
    losses = [entry["loss"] for entry in result.history]
    assert all(torch.isfinite(torch.tensor(losses)))
    assert losses[-1] < losses[0] - 1e-3


@pytest.mark.parametrize("term", TERMS)
def test_splitting_a_batch_changes_nothing(tiny_llama, term):
    found = []
    for budget in (4096, 60):
        objective, model, batches = _training(tiny_llama, term, budget)
        batch = next(iter(batches))
        assert (len(batch) > 1) == (budget == 60)
        weight = sum(objective.weight(micro) for micro in batch)
        for micro in batch:
            (objective.loss(model.network, micro)[0] / weight).backward()
        found.append((weight, {n: p.grad for n, p in model.network.named_parameters() if p.grad is not None}))
    assert found[0][0] == found[1][0] > 0
    for name, gradient in found[0][1].items():
        torch.testing.assert_close(found[1][1][name], gradient, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("term", TERMS)
def test_steps_cover_the_episodes(term):
    objective = catalog.build("align", term)
    assert objective.steps_for(1, 8) >= 1
    assert objective.steps_for(64, 8) >= 64 // 8
    assert objective.steps_for(65, 8) > objective.steps_for(64, 8)
