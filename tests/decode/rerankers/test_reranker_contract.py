"""What every reranker promises, for all that are found."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from posttrain.core import catalog
from posttrain.core.errors import BadRequest
from posttrain.decode.sequence import Ending, Generated
from posttrain.models import scalar_head
from posttrain.models.saving import save

TEXTS = ["The dog sleeps.", "The fox runs 12", "1, 2, 3", "The", "x"]


@pytest.fixture
def other(tiny_llama: Any, tmp_path: Path) -> str:
    """A folder with a model and a head for rewards."""
    head = scalar_head.attach(tiny_llama.network, "reward_head")
    head.weight.data.normal_()
    scalar_head.detach(tiny_llama.network, "reward_head")
    save(tiny_llama, tmp_path / "judge")
    scalar_head.save(head, tmp_path / "judge", "reward_head")
    return str(tmp_path / "judge")


@pytest.fixture(params=catalog.terms("reranker"))
def reranker(request: pytest.FixtureRequest, other: str) -> Any:
    cls = catalog.find("reranker", request.param)
    return cls(model=other) if "model" in cls.model_fields else cls()


def answers(tokenizer: Any) -> list[Generated]:
    found = []
    for number, text in enumerate(TEXTS):
        tokens = tokenizer(text)["input_ids"]
        answer = Generated(0, number, [5], Ending(99), tokenizer)
        for place, token in enumerate(tokens):
            answer.append(token, -0.1 * (place + number + 1))
        found.append(answer)
    return found


@pytest.mark.parametrize("prompt", ["Tell me. ", [{"role": "user", "content": "Tell me."}]])
def test_one_number_an_answer_whatever_stands_beside_it(tiny_llama: Any, reranker: Any, prompt: Any) -> None:
    judge, given = reranker.judge(tiny_llama), answers(tiny_llama.tokenizer)
    scores = reranker.scores(judge, prompt, given)
    assert len(scores) == len(given)
    assert all(math.isfinite(score) for score in scores)
    backwards = reranker.scores(judge, prompt, given[::-1])
    assert backwards[::-1] == pytest.approx(scores, abs=1e-5)


def test_survives_the_recipe(reranker: Any) -> None:
    assert catalog.build("reranker", catalog.dump(reranker)) == reranker


def test_there_must_be_such_a_model(tiny_llama: Any, reranker: Any) -> None:
    if "model" in type(reranker).model_fields:
        with pytest.raises(BadRequest, match="There is no model"):
            reranker.model_copy(update={"model": "no-such-model"}).judge(tiny_llama)
