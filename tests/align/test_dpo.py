"""DPO by hand, and against a plain computation."""

from __future__ import annotations

import math

import pytest
import torch
from alignment_toy import PAIRS

from posttrain.adapt.lora import Lora
from posttrain.align.objectives.dpo import Dpo, dpo_loss
from posttrain.data import dataset
from posttrain.train.objectives import Encoding


def test_the_docstrings_numbers():
    """beta 0.1, h_c - h_r = 5: ln(1 + e^-0.5) = 0.474077 and ln(1 + e^0.5) = 0.974077."""
    chosen, rejected = torch.tensor([2.0]), torch.tensor([-3.0])
    assert float(dpo_loss(chosen, rejected, 0.1)) == pytest.approx(0.474077, abs=1e-6)
    assert float(dpo_loss(chosen, rejected, 0.1, 0.1)) == pytest.approx(0.524077, abs=1e-6)


def test_the_gradient_is_the_papers():
    """Section 4: d loss / d h_c = -beta sigma(beta (h_r - h_c)), with the opposite sign for h_r."""
    chosen, rejected = torch.tensor([1.0], requires_grad=True), torch.tensor([3.0], requires_grad=True)
    dpo_loss(chosen, rejected, 0.5).backward()
    expected = -0.5 / (1 + math.exp(-0.5 * 2))
    assert float(chosen.grad) == pytest.approx(expected)
    assert float(rejected.grad) == pytest.approx(-expected)


def test_smoothing_has_its_minimum_at_the_labels_odds():
    """With a share e of wrong labels the best margin is ln((1 - e) / e), not infinity."""
    best = math.log(0.8 / 0.2)
    margin = torch.tensor([best], requires_grad=True)
    dpo_loss(margin, torch.zeros(1), 1.0, 0.2).backward()
    assert float(margin.grad) == pytest.approx(0, abs=1e-6)


def test_log_two_before_training_and_the_reference_stays(tiny_llama):
    """Before training all log-ratios are exactly 0; afterwards the kept numbers are still the base's."""
    network, objective = tiny_llama.network, Dpo(beta=0.3)
    items = objective.encode(dataset.read(PAIRS), tiny_llama, Encoding())
    objective.annotate(network, items, 4096)
    Lora(rank=4, dropout=0.5).apply(network)
    network.train()  # dropout is set, but this loss has none
    batch = objective.collate(items)
    with torch.no_grad():
        value, metrics = objective.loss(network, batch)
    assert float(value) == pytest.approx(len(PAIRS) * math.log(2), abs=1e-4)
    assert metrics["accuracy"] == len(PAIRS) / 2 and metrics["margin"] == pytest.approx(0, abs=1e-5)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if ".B." in name:
                parameter.normal_()
        value, metrics = objective.loss(network, batch)
        ids, targets, lengths = batch.input_ids, batch.targets, batch.lengths.tolist()
        sums = []
        for own, wanted, reference in zip(ids.split(lengths), targets.split(lengths), batch.extras["reference"]):
            logprobs = network(own[None]).logits[0].log_softmax(-1)
            sums.append(sum(float(logprobs[i, t]) for i, t in enumerate(wanted.tolist()) if t >= 0) - float(reference))
    margins = [0.3 * (chosen - rejected) for chosen, rejected in zip(sums[::2], sums[1::2])]
    assert metrics["margin"] == pytest.approx(sum(margins), rel=1e-3)
    assert float(value) == pytest.approx(sum(math.log1p(math.exp(-margin)) for margin in margins), rel=1e-3)
    assert metrics["chosen_reward"] == pytest.approx(0.3 * sum(sums[::2]), rel=1e-3)
