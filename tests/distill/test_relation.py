"""Relational distillation: hand-worked distances and angles, and what they don't depend on."""

from __future__ import annotations

import math

import pytest
import torch
from distillation_toy import labelled, llama

from posttrain.core.errors import BadRequest
from posttrain.data.packing import pack
from posttrain.distill.losses import Comparison
from posttrain.distill.losses.relation import Relation
from posttrain.distill.teachers import Lesson
from posttrain.distill.teachers.single import Single
from posttrain.train.objectives import Prediction

# A right triangle: distances 3, 4, 5 with mean 4; angles' cosines 0 (at the origin), 3/5 and 4/5.
TRIANGLE = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]])
# An equilateral one: all distances alike, all cosines 1/2.
EQUILATERAL = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.5, math.sqrt(0.75)]])


def loss_of(loss: Relation, student: torch.Tensor, teacher: torch.Tensor, lengths: list[int] | None = None):
    batch = pack(labelled(lengths or [1] * len(student)))
    own, theirs = (Prediction(batch.targets, x, layers=[x]) for x in (student, teacher))
    return loss.loss(Comparison(own, Lesson(Single(), [theirs]), batch, 3.0), None)


def test_by_hand():
    """Distances over their mean: 3/4, 1, 5/4 against 1, 1, 1: Huber 1/2 (1/16), 0, 1/2 (1/16), mean 1/48.

    Cosines: 0, 3/5, 4/5 against 1/2 each: 1/2 (1/4 + 1/100 + 9/100) / 3 = 0.35 / 6. The batch weighs 3.
    """
    found = loss_of(Relation(angle=0.0), TRIANGLE, EQUILATERAL)
    assert float(found) == pytest.approx(3 / 48)
    found = loss_of(Relation(distance=0.0, angle=1.0, weight=2.0), TRIANGLE, EQUILATERAL)
    assert float(found) == pytest.approx(2 * 3 * 0.35 / 6)


def test_points_are_means_over_tokens():
    """Three sequences of 1, 2 and 1 tokens whose means are the triangle's corners."""
    tokens = torch.tensor([[0.0, 0.0], [2.0, 1.0], [4.0, -1.0], [0.0, 4.0]])
    teacher = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.5, math.sqrt(0.75)]])
    found = loss_of(Relation(), tokens, teacher, [1, 2, 1])
    assert float(found) == pytest.approx(float(loss_of(Relation(), TRIANGLE, EQUILATERAL)))


def test_turning_and_scaling_change_nothing():
    """The same shape, turned into a wider space and made ten times as large."""
    torch.manual_seed(0)
    points = torch.randn(5, 3)
    turn = torch.linalg.qr(torch.randn(6, 6)).Q[:3]
    assert float(loss_of(Relation(), points, 10 * points @ turn)) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("count", [1, 2])
def test_too_few_examples(count):
    """Two points have one distance, which is always its own mean, and no angle; one has neither."""
    student = torch.randn(count, 4, requires_grad=True)
    found = loss_of(Relation(), student, torch.randn(count, 4))
    assert found.item() == pytest.approx(0.0, abs=1e-6)
    found.backward()
    assert bool(torch.isfinite(student.grad).all())


def test_examples_that_are_alike():
    """Equal points have no distance and no direction, and leave finite gradients of ordinary size."""
    student = torch.tensor([[1.0, 2.0], [1.0, 2.0], [0.0, 1.0], [3.0, 0.0]], requires_grad=True)
    loss_of(Relation(), student, torch.randn(4, 2)).backward()
    assert bool(torch.isfinite(student.grad).all()) and float(student.grad.abs().max()) < 10


def test_gradient():
    torch.manual_seed(0)
    student, teacher = torch.randn(4, 3), torch.randn(4, 3)
    step = 1e-2
    leaf = student.clone().requires_grad_()
    loss_of(Relation(), leaf, teacher).backward()
    for place in ((0, 0), (2, 1), (3, 2)):
        shifted = [student.clone() for _ in range(2)]
        shifted[0][place] += step
        shifted[1][place] -= step
        up, down = (float(loss_of(Relation(), each, teacher)) for each in shifted)
        assert float(leaf.grad[place]) == pytest.approx((up - down) / (2 * step), rel=0.02, abs=1e-3)


def test_a_layer_that_isnt_there():
    with pytest.raises(BadRequest, match="has no layer 4"):
        Relation(layer=4).prepare(llama(2), [llama(4)])
