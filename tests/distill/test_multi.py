"""Several teachers: mixtures worked by hand, and what is refused."""

from __future__ import annotations

import math

import pytest
import torch

from posttrain.core.errors import BadRequest
from posttrain.distill.teachers import Lesson
from posttrain.distill.teachers.multi import Multi
from posttrain.distill.teachers.single import Single
from posttrain.train.objectives import Prediction

# Two teachers of two classes in two rows: probabilities of class 0 are 4/5 and 1/5, then 1/2 and 3/4.
FIRST = torch.tensor([[math.log(4), 0.0], [0.0, 0.0]])
SECOND = torch.tensor([[0.0, math.log(4)], [math.log(3), 0.0]])


def mixture(method: Multi, temperature: float = 1.0, targets: tuple[int, int] = (0, 0)) -> list[float]:
    """The probabilities of class 0 in the two rows."""
    right = torch.tensor(targets)
    predictions = [Prediction(right, logits, logits=logits) for logits in (FIRST, SECOND)]
    found = Lesson(method, predictions).logprobs(slice(None), temperature, 2).exp()
    torch.testing.assert_close(found.sum(-1), torch.ones(2))
    return found[:, 0].tolist()


def test_mean():
    assert mixture(Multi()) == pytest.approx([1 / 2, 5 / 8])


def test_the_mixture_is_of_probabilities_at_the_temperature():
    """At T = 2 the logits ln 4 and ln 3 are ln 2 and ln sqrt 3: 2/3 and 1/3; 1/2 and sqrt 3 / (1 + sqrt 3)."""
    root = math.sqrt(3)
    assert mixture(Multi(), 2.0) == pytest.approx([1 / 2, (1 / 2 + root / (1 + root)) / 2])


def test_weighted():
    """Weights 3 and 1 are 3/4 and 1/4: 3/4 4/5 + 1/4 1/5 = 13/20; 3/4 1/2 + 1/4 3/4 = 9/16."""
    assert mixture(Multi(combine="weighted", weights=[3, 1])) == pytest.approx([13 / 20, 9 / 16])
    assert mixture(Multi(combine="weighted", weights=[0, 2])) == pytest.approx([1 / 5, 3 / 4])


def test_confidence():
    """exp(l) is one over the right answer's probability. For two teachers w_1 = (1/p_2) / (1/p_1 + 1/p_2).

    Row 0, class 0 right: 5/4 and 5 give weights 4/5 and 1/5: 4/5 4/5 + 1/5 1/5 = 17/25.
    Row 1, class 1 right: p = 1/2 and 1/4, so 2 and 4 give 2/3 and 1/3: 2/3 1/2 + 1/3 3/4 = 7/12.
    """
    assert mixture(Multi(combine="confidence"), targets=(0, 1)) == pytest.approx([17 / 25, 7 / 12])


@pytest.mark.parametrize(
    ("method", "count", "sentence"),
    [
        (Single(), 2, "one teacher"),
        (Multi(), 1, "at least two"),
        (Multi(combine="weighted"), 2, "belong together"),
        (Multi(weights=[1, 1]), 2, "belong together"),
        (Multi(combine="weighted", weights=[1, 1]), 3, "3 teachers but 2 weights"),
        (Multi(combine="weighted", weights=[1, -1]), 2, "can't be"),
    ],
)
def test_refusals(method, count, sentence):
    with pytest.raises(BadRequest, match=sentence):
        method.refuse(count)
