"""Every loss and every teacher the catalog finds, on a language model and on a classifier."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from distillation_toy import Classes, bert_classifier, labelled, language_batch, llama, sequences

from posttrain.core import catalog
from posttrain.data.packing import pack
from posttrain.distill.distillation import Distillation
from posttrain.train.objectives.language_modeling import LanguageModeling

LOSSES = catalog.terms("losses")
TEACHERS = catalog.terms("teachers")
LENGTHS = [7, 4, 9, 6]


def models(kind: str, layers: int, seed: int, width: int = 32) -> Any:
    return llama(layers, width, seed) if kind == "language" else bert_classifier(layers, seed)


def batch_of(kind: str) -> Any:
    return language_batch(LENGTHS) if kind == "language" else pack(labelled(LENGTHS))


def distillation(kind: str, losses: list[Any], teacher: Any, taught_by: list[Any]) -> Distillation:
    task = LanguageModeling() if kind == "language" else Classes()
    built = [catalog.build("losses", loss) for loss in losses]
    return Distillation(task=task, losses=built, teacher=catalog.build("teachers", teacher), models=taught_by)


@pytest.mark.parametrize("kind", ["language", "classes"])
@pytest.mark.parametrize("loss", LOSSES)
def test_losses(kind, loss):
    """Finite and above zero for another network, zero for the same one; the teacher gets no gradient."""
    student, teacher = models(kind, 2, 1), models(kind, 3, 2)
    before = teacher.fingerprint()
    objective = distillation(kind, [loss], "single", [teacher])
    objective.attach(student)
    batch = batch_of(kind)
    total, metrics = objective.loss(student.network, batch)
    assert torch.isfinite(total) and metrics[loss] > 1e-4
    share = objective.losses[0].task_share()
    assert float(total.detach()) == pytest.approx(share * metrics["task_loss"] + metrics[loss], rel=1e-5)
    total.backward()
    assert all(parameter.grad is None for parameter in teacher.network.parameters())
    assert sum(float(p.grad.abs().sum()) for p in student.network.parameters() if p.grad is not None) > 0
    assert teacher.fingerprint() == before

    twin = models(kind, 3, 2)
    objective.attach(twin)
    _, metrics = objective.loss(twin.network, batch)
    assert abs(metrics[loss]) < 1e-5


@pytest.mark.parametrize("kind", ["language", "classes"])
@pytest.mark.parametrize("loss", [each for each in LOSSES if not catalog.find("losses", each).between_examples])
def test_a_split_batch_is_the_whole_one(kind, loss):
    """Sums over passes are the sum over the batch, unless the examples of a pass are related to one another."""
    student, teacher = models(kind, 2, 1), models(kind, 3, 2)
    objective = distillation(kind, [loss], "single", [teacher])
    objective.attach(student)
    items = sequences(LENGTHS) if kind == "language" else labelled(LENGTHS)
    with torch.no_grad():
        whole, *parts = (
            float(objective.loss(student.network, pack(part))[0]) for part in (items, items[:1], items[1:3], items[3:])
        )
    assert sum(parts) == pytest.approx(whole, rel=1e-5)


@pytest.mark.parametrize("loss", LOSSES)
def test_what_is_added_is_removed(loss):
    """Other widths: whatever is trained beside the student is trainable, named, and gone afterwards."""
    student, teacher = llama(2, 16, 1), llama(3, 32, 2)
    names = set(student.network.state_dict())
    objective = distillation("language", [loss], "single", [teacher])
    objective.attach(student)
    added = set(student.network.state_dict()) - names
    assert all(name.startswith(f"distillation.{loss}.") for name in added)
    total, _ = objective.loss(student.network, language_batch(LENGTHS))
    total.backward()
    assert all(student.network.get_parameter(name).grad is not None for name in added)
    objective.detach(student.network)
    assert set(student.network.state_dict()) == names


@pytest.mark.parametrize("teacher", TEACHERS)
def test_teachers(teacher):
    """A row of logits is a distribution; with equal teachers it is theirs, and nothing is recorded for gradients."""
    count = 1 if teacher == "single" else 3
    method = catalog.build("teachers", teacher)
    method.refuse(count)
    network = llama(seed=4).network.train()
    lesson = method.teach([network] * count, LanguageModeling(), language_batch(LENGTHS))
    assert network.training and not any(p.hidden.requires_grad for p in lesson.predictions)
    found = lesson.logprobs(slice(2, 5), 3.0, 300)
    prediction = lesson.predictions[0]
    own = (prediction.head.logits(prediction.hidden[2:5]) / 3.0).log_softmax(-1)
    torch.testing.assert_close(found, own)
    narrow = lesson.logprobs(slice(0, 4), 1.0, 100)
    torch.testing.assert_close(narrow.exp().sum(-1), torch.ones(4))
    shares = method.shares([torch.randn(5, 7) for _ in range(count)], torch.arange(5))
    assert shares.shape == (count, 5) and bool((shares >= 0).all())
    torch.testing.assert_close(shares.sum(0), torch.ones(5))


@pytest.mark.parametrize("loss", LOSSES)
def test_several_teachers(loss):
    """Two equal teachers teach what one of them does."""
    student, teacher = llama(2, 32, 1), llama(3, 32, 2)
    batch = language_batch(LENGTHS)
    values = []
    for method, taught_by in (("single", [teacher]), ("multi", [teacher, teacher])):
        objective = distillation("language", [loss], method, taught_by)
        objective.attach(student)
        values.append(objective.loss(student.network, batch)[1][loss])
        objective.detach(student.network)
    assert values[0] == pytest.approx(values[1], rel=1e-5)
