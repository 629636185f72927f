"""compare_decoding: figures by hand and against their sources, methods by name, file and block, the recommendation."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from posttrain.core.errors import BadRequest, Failure
from posttrain.models.saving import save
from posttrain.pipeline.report import render_report
from posttrain.pipeline.single_step import single_step
from posttrain.pipeline.steps import _written
from posttrain.pipeline.steps._written import Figure, Written, figures, questions, write
from posttrain.pipeline.steps.compare_decoding import CompareDecoding
from tiny_models import make_tiny_llama

PROMPTS = ["The dog", "The fox runs", "A language model", "What is the answer?"]
METHODS = {
    "careful": {"search": {"sampling": {"temperature": 0.0}}},
    "wild": {"search": {"sampling": {"temperature": 3.0}}},
    "cut": {"search": {"sampling": {"temperature": 3.0}}, "process": [{"top_k": {"k": 3}}]},
}
SETTINGS: dict[str, Any] = {"prompts": PROMPTS, "methods": METHODS, "samples": 3, "max_new_tokens": 8, "chat": False}


def compared(model: Any, **settings: Any) -> dict[str, Any]:
    return single_step("compare_decoding", SETTINGS | settings, model).result


def test_figures_by_hand(tiny_llama: Any) -> None:
    """Two prompts with two answers. Prompt 1: "a b a b" twice: 2 different of 8 words, 2 different of 6 pairs, all
    alike. Prompt 2: "c d" and "e f g": all words and pairs differ, nothing in common. Repetition is 0: no answer has
    more than one 4-gram. Tokens: 4, 4, 2, 6."""
    texts = [["a b a b", "A b a b"], ["c d", "e f g"]]
    tokens = [[[70] * 4, [71] * 4], [[72] * 2, [73] * 6]]
    found = figures(Written(texts, tokens, 1.0), ["The", "dog"], tiny_llama, tiny_llama)
    assert found["distinct_1"].value == pytest.approx((2 / 8 + 1) / 2)
    assert found["distinct_2"].value == pytest.approx((2 / 6 + 1) / 2)
    assert found["repetition"].value == 0
    assert found["tokens"].value == 4
    assert found["self_bleu"].items[0] > 50 > found["self_bleu"].items[1]
    once = figures(Written([texts[0][:1]], [tokens[0][:1]], 1.0), ["The"], tiny_llama, tiny_llama)
    assert "self_bleu" not in once


def test_loops_repeat_themselves(tiny_llama: Any) -> None:
    """Twelve words in a circle of three: nine 4-grams, three of them different."""
    written = Written([["a b c " * 4]], [[[70] * 12]], 1.0)
    assert figures(written, ["The"], tiny_llama, tiny_llama)["repetition"].value == pytest.approx(1 - 3 / 9)


def test_answers_without_words_are_all_alike(tiny_llama: Any) -> None:
    found = figures(Written([["", " "]], [[[2], [2]]], 1.0), ["The"], tiny_llama, tiny_llama)
    assert found["self_bleu"].value == 100
    assert found["distinct_1"].value == 0


def test_perplexity_is_what_the_search_noted(tiny_llama: Any) -> None:
    """Scored anew, the answers have the log-probabilities that were noted while they were drawn."""
    from posttrain.decode.generation import generate
    from posttrain.decode.search.sampling import Sampling

    search, asked = Sampling(temperature=1.5), questions(PROMPTS, True)
    written = write(tiny_llama, asked, 2, search=search, max_new_tokens=8, batch_size=3, seed=4)
    drawn = generate(
        tiny_llama, [each for each in asked for _ in range(2)], search=search, max_new_tokens=8, seed=4
    ).generations
    assert [text for texts in written.texts for text in texts] == [generation.text for generation in drawn]
    nats, tokens = -sum(g.logprob for g in drawn), sum(len(g.token_ids) for g in drawn)
    found = figures(written, asked, tiny_llama, tiny_llama)["perplexity"]
    assert found.value == pytest.approx(math.exp(nats / tokens), rel=1e-4)
    assert found.items[:, 1].sum() == tokens


def test_a_judge_with_another_tokenizer_reads_the_texts(tiny_llama: Any) -> None:
    """The same network under a tokenizer that is told apart by its unknown mark scores text without the end mark."""
    judge = make_tiny_llama()
    judge.tokenizer.add_tokens(["zzzz"])
    written = Written([["the dog", ""]], [[[*tiny_llama.tokenizer("the dog")["input_ids"], 2], [2]]], 1.0)
    own = figures(written, ["A"], tiny_llama, tiny_llama)["perplexity"].items
    other = figures(written, ["A"], tiny_llama, judge)["perplexity"].items
    assert own[0, 1] == other[0, 1] + 2
    with pytest.raises(Failure, match="Nothing was written"):
        figures(replace(written, texts=[["", ""]]), ["A"], tiny_llama, judge)


def test_paired_differences() -> None:
    """Each prompt of a is 1 above b's: the difference is 1 in every draw, although the values overlap."""

    def mean(sums: Any) -> Any:
        return sums[:, 0] / 30

    a = Figure(np.arange(30.0)[:, None] + 1, mean)
    b = Figure(np.arange(30.0)[:, None], mean)
    found = a.against(b)
    assert found["difference"] == pytest.approx(1) and found["interval"] == pytest.approx([1, 1])
    assert found["p_value"] == pytest.approx(1 / 1001)
    assert a.interval()[0] < b.value


def test_side_by_side(tiny_llama: Any) -> None:
    found = compared(tiny_llama)
    rows = {row["method"]: row for row in found["methods"]}
    assert list(rows) == list(METHODS)
    assert rows["careful"]["differences"] is None and found["compared_with"] == "careful"
    assert rows["careful"]["self_bleu"] == pytest.approx(100)
    assert rows["careful"]["perplexity"] < rows["cut"]["perplexity"] < rows["wild"]["perplexity"]
    low, high = rows["wild"]["intervals"]["perplexity"]
    assert low <= rows["wild"]["perplexity"] <= high
    difference = rows["wild"]["differences"]["self_bleu"]
    assert difference["difference"] == pytest.approx(rows["wild"]["self_bleu"] - 100)
    assert difference["p_value"] < 0.05
    assert all(row["tokens_per_second"] > 0 for row in rows.values())
    assert [answer["prompt"] for answer in found["answers"]] == PROMPTS
    assert found["recommended"] is None
    assert json.dumps(found)


def test_methods_by_name_file_and_block(tmp_path: Path) -> None:
    (tmp_path / "ways.yaml").write_text("mine: {search: {sampling: {temperature: 0.3}}, process: [top_k]}\n")
    by_file = CompareDecoding.parse({"methods": str(tmp_path / "ways.yaml")}).ways()
    assert by_file == CompareDecoding.parse({"methods": {"mine": by_file["mine"].model_dump(mode="json")}}).ways()
    assert by_file["mine"].search.temperature == 0.3
    named = CompareDecoding.parse({"methods": "greedy, top-p"}).ways()
    assert list(named) == ["greedy", "top-p"] and named["top-p"].search.top_p == 0.9
    assert CompareDecoding.parse({"methods": ["greedy", "sampling"]}).ways()["sampling"].search.temperature == 1


def test_the_usual_ways_exist() -> None:
    ways = CompareDecoding().ways()
    assert next(iter(ways)) == "greedy" and len(ways) == 9
    assert CompareDecoding.parse({"methods": list(ways)}).ways() == ways


def test_a_recommendation_by_a_figure(tiny_llama: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    best = compared(tiny_llama, prefer={"perplexity": "lower"})["recommended"]
    assert best["best"] == best["method"] == "careful" and best["as_good"] == []
    assert "perplexity is the lowest" in best["rule"]
    # Twice the same way is equally good; the faster one is taken.
    speeds = iter([1.0, 2.0])
    real = _written.write
    monkeypatch.setattr(_written, "write", lambda *a, **k: replace(real(*a, **k), tokens_per_second=next(speeds)))
    twice = {"one": METHODS["careful"], "two": METHODS["careful"]}
    found = compared(tiny_llama, methods=twice, prefer={"distinct_1": "higher"})["recommended"]
    assert (found["best"], found["method"], found["as_good"]) == ("one", "two", ["two"])


def test_a_judge_by_reference(tiny_llama: Any, tmp_path: Path) -> None:
    save(make_tiny_llama(seed=5), tmp_path / "judge")
    own, other = compared(tiny_llama), compared(tiny_llama, judge=str(tmp_path / "judge"))
    assert other["judge"] == str(tmp_path / "judge")
    assert other["answers"] == own["answers"]
    assert other["methods"][0]["perplexity"] > own["methods"][0]["perplexity"]


def test_the_report_draws_it(tiny_llama: Any) -> None:
    outcome = single_step("compare_decoding", SETTINGS | {"prefer": {"tokens": "lower"}}, tiny_llama)
    step = {"name": "ways", "verb": "compare_decoding", "seconds": 1, "result": outcome.result, "views": outcome.views}
    page = render_report({"name": "run", "steps": [step]})
    assert "Side by side" in page and "Difference from careful" in page and "Recommended:" in page
    assert "<svg" in page


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"methods": "greddy"}, "no usual way of decoding and no search 'greddy'. Did you mean 'greedy'"),
        ({"methods": {"x": {"search": "greddy"}}}, "There is no method 'greddy' in 'search'"),
        ({"methods": {}}, "there is no method to compare"),
        ({"methods": "nowhere.yaml"}, "nowhere.yaml"),
        ({"prefer": {"beauty": "higher"}}, "prefer"),
        ({"prefer": {"tokens": "lower", "perplexity": "lower"}}, "name one figure"),
    ],
)
def test_refuses(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(BadRequest, match=told):
        CompareDecoding.parse(settings, "compare_decoding")


def test_self_bleu_takes_several_answers(tiny_llama: Any) -> None:
    with pytest.raises(BadRequest, match="Raise `samples` to at least 2"):
        compared(tiny_llama, samples=1, prefer={"self_bleu": "lower"})


def test_a_way_named_twice_is_refused() -> None:
    with pytest.raises(BadRequest, match="greedy stands twice"):
        CompareDecoding.parse({"methods": "greedy,sampling,greedy"})
