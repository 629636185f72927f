"""The step `score`: answers of the current model against those of a data set."""

from __future__ import annotations

import json

import pytest

from posttrain.core.errors import BadRequest
from posttrain.data.record import Chat, Completion, Pair, Preference
from posttrain.decode.generation import generate
from posttrain.decode.search.sampling import Sampling
from posttrain.measure.rouge import Rouge
from posttrain.models.saving import save
from posttrain.pipeline.run import run_recipe
from posttrain.pipeline.steps.score import Score, question


@pytest.fixture
def recipe(tiny_llama, tmp_path):
    """A recipe of `score` steps on a tiny model and 22 questions."""
    save(tiny_llama, tmp_path / "model")
    rows = [{"prompt": f"What is {n}?", "completion": f"It is {n}, the answer."} for n in range(22)]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def run(*steps, **frame):
        common = {"data": str(tmp_path / "data.jsonl"), "max_new_tokens": 6}
        values = {"model": str(tmp_path / "model"), "steps": [{"score": {**common, **step}} for step in steps], **frame}
        return run_recipe(values, out=tmp_path / "run")

    return run


def test_answers_are_the_models_and_are_scored(recipe, tiny_llama):
    search = {"sampling": {"temperature": 3.0}}
    summary = recipe({"rouge": {"stemming": True}, "chrf": {}, "distinct_n": {"n": 1}, "search": search}, seed=3)
    result = summary["steps"][0]["result"]
    prompts = [[{"role": "user", "content": f"What is {n}?"}] for n in range(22)]
    written = generate(tiny_llama, prompts, search=Sampling(temperature=3.0), max_new_tokens=6, seed=3)
    expected = [generation.text for generation in written.generations]
    assert [row["answer"] for row in result["answers"]] == expected
    right = [[f"It is {n}, the answer."] for n in range(22)]
    assert [row["references"] for row in result["answers"]] == right
    assert result["rouge"]["value"] == pytest.approx(Rouge(stemming=True).score(expected, right).value)
    assert result["chrf"]["interval"] and result["distinct_n"]["different"] > 22
    assert "rouge" in summary["steps"][0]["headline"]


def test_a_later_step_is_compared_with_an_earlier_one(recipe):
    sampled = {"sampling": {"temperature": 3.0}}
    steps = [{"name": "first", "chrf": {}}, {"name": "second", "chrf": {}, "search": sampled, "baseline": "first"}]
    first, second = (step["result"]["chrf"] for step in recipe(*steps)["steps"])
    assert second["baseline"]["value"] == first["value"]
    assert second["difference"] == pytest.approx(second["value"] - first["value"])
    assert 0 < second["p_value"] <= 1
    again = recipe(*steps)
    assert [step["skipped"] for step in again["steps"]] == [True, True]
    steps[0]["max_new_tokens"] = 5  # other answers of the baseline are other inputs
    assert [step["skipped"] for step in recipe(*steps)["steps"]] == [False, False]


@pytest.mark.parametrize(
    ("steps", "sentence"),
    [
        ([{"rouge": {}, "baseline": "firts"}], "There is no earlier score step 'firts'"),
        ([{"name": "first", "rouge": {}}, {"rouge": {}, "limit": 3, "baseline": "first"}], "answered other questions"),
        ([{"perplexity": {}}], "perplexity measures a model, not texts"),
        ([{"metrics": []}], "needs at least one metric"),
        ([{"rogue": {}}], "Did you mean 'rouge'"),
    ],
)
def test_refusals(recipe, steps, sentence):
    with pytest.raises(BadRequest, match=sentence):
        recipe(*steps)


def test_questions_of_records():
    user, assistant = {"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}
    assert question(Completion("Why?", "So."), chat=True) == ([user], "So.")
    assert question(Completion("Why?", "So."), chat=False) == ("Why?", "So.")
    assert question(Pair("Why?", "So."), chat=False) == ("Why?", "So.")
    assert question(Chat([user, assistant, user, assistant]), chat=True) == ([user, assistant, user], "So.")
    assert question(Completion([user], [assistant]), chat=True) == ([user], "So.")
    for record, sentence in (
        (Chat([user], origin="f:1"), "f:1: the conversation doesn't end with one answer"),
        (Chat([assistant], origin="f:2"), "f:2: the conversation doesn't end with one answer"),
        (Completion("Why?", " ", origin="f:3"), "f:3: the reference is empty"),
        (Preference("Why?", "a", "b", origin="f:4"), "f:4: a preference record is no question"),
    ):
        with pytest.raises(BadRequest, match=sentence):
            question(record, chat=True)
    with pytest.raises(BadRequest, match="without the chat template"):
        question(Chat([user, assistant]), chat=False)
    assert Score.parse("rouge").metrics == [Rouge()]
