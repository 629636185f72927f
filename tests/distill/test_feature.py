"""Feature distillation: layer maps, hand-worked values, and projections."""

from __future__ import annotations

import pytest
import torch
from distillation_toy import labelled, language_batch, llama

from posttrain.core.errors import BadRequest
from posttrain.data.packing import Packed, pack
from posttrain.distill.losses import Comparison
from posttrain.distill.losses.feature import Feature
from posttrain.distill.teachers import Lesson
from posttrain.distill.teachers.single import Single
from posttrain.train.objectives import Prediction


def comparison(student: list[torch.Tensor], teacher: list[torch.Tensor], batch: Packed) -> Comparison:
    own, theirs = (Prediction(batch.targets, layers[-1], layers=layers) for layers in (student, teacher))
    return Comparison(own, Lesson(Single(), [theirs]), batch, 1.0)


@pytest.mark.parametrize(
    ("rule", "student", "teacher", "pairs"),
    [
        ("uniform", 3, 6, [(0, 0), (1, 2), (2, 4), (3, 6)]),
        ("uniform", 2, 5, [(0, 0), (1, 3), (2, 5)]),  # 2.5 is rounded up
        ("uniform", 2, 2, [(0, 0), (1, 1), (2, 2)]),
        ("last", 3, 6, [(1, 4), (2, 5), (3, 6)]),
        ("last", 4, 2, [(3, 1), (4, 2)]),
        ([(-1, -1), (0, 0), (1, 4)], 3, 6, [(3, 6), (0, 0), (1, 4)]),
    ],
)
def test_maps(rule, student, teacher, pairs):
    assert Feature(map=rule).pairs(student, teacher) == pairs


@pytest.mark.parametrize("rule", [[(4, 1)], [(0, -8)], []])
def test_maps_that_dont_fit(rule):
    with pytest.raises(BadRequest, match=r"no layer|empty"):
        Feature(map=rule).pairs(3, 6)


def test_by_hand():
    """Two classified sequences of 1 and 2 tokens, width 2, one pair of layers.

    Squared errors (mean over features): 2 for the first sequence; 0.5 and 4.5 for the tokens of the second, which
    share its one unit: 2 + (0.5 + 4.5) / 2 = 4.5. Cosines: 0; 1 and -1: (1 - 0) + (0 + 2) / 2 = 2.
    """
    batch = pack(labelled([1, 2]))
    student = [torch.tensor([[2.0, 0.0], [1.0, 0.0], [1.0, 0.0]])]
    teacher = [torch.tensor([[0.0, 0.0], [2.0, 0.0], [-2.0, 0.0]])]
    found = Feature(map=[(0, 0)], weight=3.0).loss(comparison(student, teacher, batch), None)
    assert float(found) == pytest.approx(3 * 4.5)
    teacher[0][0] = torch.tensor([0.0, 5.0])
    found = Feature(map=[(0, 0)], distance="cosine").loss(comparison(student, teacher, batch), None)
    assert float(found) == pytest.approx(2.0)


def test_learned_tokens_weigh_sequences():
    """A sequence counts by its learned tokens: 4 tokens of which 2 are learned, 6 of which 3 are."""
    batch = language_batch([4, 6])
    zero = [torch.zeros(10, 2)]
    ones = [torch.cat([torch.ones(4, 2), 2 * torch.ones(6, 2)])]
    found = Feature(map=[(0, 0)]).loss(comparison(ones, zero, batch), None)
    assert float(found) == pytest.approx(2 * 1.0 + 3 * 4.0)


def test_projections():
    """One for each pair where widths differ or where asked for; a fitting one makes the loss vanish."""
    student, teacher = llama(2, 16, 1), llama(4, 32, 2)
    loss = Feature(projection_rate=7.0)
    maps = loss.prepare(student, [teacher, teacher])
    assert len(maps) == 6 and all(m.in_features == 16 and m.out_features == 32 for m in maps.values())
    assert {p.learning_rate_factor for p in maps.parameters()} == {7.0}
    assert loss.prepare(student, [llama(4, 16)]) is None
    assert len(Feature(project="always", map="last").prepare(student, [llama(4, 16)])) == 2

    one = Feature(map=[(0, 0)])
    maps = one.prepare(student, [teacher])
    batch = pack(labelled([3]))
    states = torch.randn(3, 16)
    target = maps["teacher0_pair0"](states).detach()
    assert one.loss(comparison([states], [target], batch), maps).item() == pytest.approx(0.0, abs=1e-10)


def test_several_pairs_are_a_mean():
    batch = pack(labelled([2]))
    student, teacher = [torch.zeros(2, 4)] * 3, [torch.ones(2, 4), torch.ones(2, 4), 3 * torch.ones(2, 4)]
    found = Feature(map="uniform").loss(comparison(student, teacher, batch), None)
    assert float(found) == pytest.approx((1 + 1 + 9) / 3)
