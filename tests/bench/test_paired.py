"""Two models on the same items: hand-worked tests, intervals, Holm, and items that aren't the same."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from posttrain.bench.paired import compare
from posttrain.bench.task import Task
from posttrain.core import events
from posttrain.core.errors import BadRequest

BASE = {
    "summary": "A test.",
    "version": "1",
    "license": "free",
    "homepage": "https://example.org",
    "data": {"test": [{"files": ["a.jsonl"]}]},
    "split": "test",
    "type": {"continuation": {"prompt": "{{ p }}", "continuation": "{{ c }}"}},
}
TASK = Task.parse({**BASE, "type": {"continuation": {**BASE["type"]["continuation"], "metrics": ["acc"]}}})
PERPLEXITY = Task.parse({**BASE, "type": {"continuation": {**BASE["type"]["continuation"], "metrics": ["perplexity"]}}})


def answered(metric, scores, **more):
    return [
        {"task": "own", "origin": f"a.jsonl:{i + 1}", "prompt": f"p{i}", "scores": {metric: score}, **more}
        for i, score in enumerate(scores)
    ]


def test_right_and_wrong_by_hand():
    """Only the model is right in 5 items, only the baseline in 1, both in 16: p = 2 (C(6,0) + C(6,1)) / 2^6 = 14/64."""
    ours = answered("acc", [1.0] * 21 + [0.0])
    theirs = answered("acc", [1.0] * 16 + [0.0] * 5 + [1.0])
    found = compare({"own": TASK}, {"own": ours}, {"own": theirs})["own"]
    score = found.score
    assert (score.value, score.baseline) == (pytest.approx(21 / 22), pytest.approx(17 / 22))
    assert score.difference == pytest.approx(4 / 22)
    assert (score.test, score.p_value, score.discordant) == ("mcnemar", 14 / 64, (5, 1))
    assert found.p_adjusted == 14 / 64
    # The standard error of the mean of 5 ones, one -1 and 16 zeros is √((6/22 - (4/22)²) / 22) = 0.1044.
    assert score.interval == pytest.approx((4 / 22 - 1.96 * 0.1044, 4 / 22 + 1.96 * 0.1044), abs=0.05)
    assert found.to_dict()["n"] == 22


def test_a_perplexity_is_compared_as_such():
    """Four items of 1 and 2 nats more: exp of the means, and the exact permutation test over 2^4 exchanges."""
    ours, theirs = [1.0, 2.0, 3.0, 4.0], [2.0, 3.0, 4.0, 6.0]
    found = compare(
        {"own": PERPLEXITY}, {"own": answered("perplexity", ours)}, {"own": answered("perplexity", theirs)}
    )["own"]
    assert found.score.difference == pytest.approx(math.exp(2.5) - math.exp(3.75))
    assert (found.score.test, found.score.p_value) == ("permutation", 2 / 16)
    assert found.score.interval is None  # fewer than 20 items
    assert not found.higher_is_better


def test_shares_as_scipy():
    generator = np.random.default_rng(1)
    ours, theirs = generator.random(60), generator.random(60) * 0.8
    found = compare({"own": TASK}, {"own": answered("acc", ours)}, {"own": answered("acc", theirs)})["own"].score
    expected = stats.permutation_test(
        (ours, theirs), lambda x, y, axis: np.mean(x - y, axis=axis), permutation_type="samples", vectorized=True
    ).pvalue
    assert found.p_value == pytest.approx(expected, abs=0.01)
    boot = stats.bootstrap((ours - theirs,), np.mean, method="percentile", rng=0).confidence_interval
    assert found.interval == pytest.approx((boot.low, boot.high), abs=0.02)


def test_items_that_do_not_count():
    """Of 3 items the model counts in 2 and the baseline in all 3: no McNemar, values over those that count."""
    ours, theirs = answered("acc", [1.0, None, 0.0]), answered("acc", [1.0, 1.0, 0.0])
    score = compare({"own": TASK}, {"own": ours}, {"own": theirs})["own"].score
    assert (score.value, score.baseline, score.test) == (0.5, pytest.approx(2 / 3), "permutation")
    with pytest.raises(BadRequest, match="own: no item counts for acc"):
        compare({"own": TASK}, {"own": answered("acc", [None])}, {"own": answered("acc", [1.0])})


def test_metrics_of_all_answers():
    """Accuracy as a metric of all answers has the value, interval and p-value of the mean; ranks need the items."""
    metrics = {"accuracy": {"classification": {}}, "rank": {"spearman": {}}}
    task = Task.parse({**BASE, "corpus_metrics": metrics, "score": "accuracy"})
    generator = np.random.default_rng(2)
    right = [str(each) for each in generator.integers(0, 5, 40)]

    def system(noise):
        said = [r if generator.random() > noise else str(generator.integers(0, 5)) for r in right]
        rows = answered("acc", [float(a == b) for a, b in zip(said, right)])
        nats = {"perplexity": 1.0}
        return [
            {**row, "scores": {**row["scores"], **nats}, "predicted": a, "answers": [b]}
            for row, a, b in zip(rows, said, right)
        ]

    ours, theirs = system(0.2), system(0.7)
    found = compare({"own": task}, {"own": ours}, {"own": theirs})["own"]
    assert found.metric == "accuracy"
    plain = found.differences["acc"]
    assert found.score.difference == pytest.approx(plain.difference)
    assert found.score.interval == pytest.approx(plain.interval)
    assert found.score.test == "permutation"
    assert found.score.p_value == pytest.approx(plain.p_value, abs=0.01)
    rank = found.differences["rank"]
    assert rank.value == pytest.approx(
        stats.spearmanr([float(r["predicted"]) for r in ours], [float(r) for r in right]).statistic
    )
    assert rank.test == "permutation"
    assert 0 < rank.p_value < 0.1


def test_several_tasks_are_adjusted():
    """p-values 2/16 and 1: Holm doubles the smaller one."""
    ours = {"one": answered("acc", [1.0] * 4), "two": answered("acc", [1.0, 0.0])}
    theirs = {"one": answered("acc", [0.0] * 4), "two": answered("acc", [0.0, 1.0]), "three": []}
    found = compare({"one": TASK, "two": TASK}, ours, theirs)
    assert [each.score.p_value for each in found.values()] == [2 / 16, 1]
    assert [each.p_adjusted for each in found.values()] == [4 / 16, 1]


@pytest.mark.parametrize(
    ("theirs", "sentence"),
    [
        ({}, "The baseline has no answers to own"),
        ({"own": answered("acc", [1.0])}, r"own: there are 2 items, and the baseline answered 1.*is a\.jsonl:2"),
        ({"own": answered("acc", [1.0, 1.0, 1.0])}, r"2 items, and the baseline answered 3.*is a\.jsonl:3"),
        (
            {"own": [*answered("acc", [1.0]), {**answered("acc", [1.0])[0], "origin": "b.jsonl:7"}]},
            r"own: item 2 \(a\.jsonl:2\) isn't the baseline's \(b\.jsonl:7\): they differ in 'prompt'",
        ),
        ({"own": answered("acc", [1.0, 1.0], member="x")}, r"item 1 .* they differ in 'member'"),
    ],
)
def test_other_items_are_refused(theirs, sentence):
    with pytest.raises(BadRequest, match=sentence):
        compare({"own": TASK}, {"own": answered("acc", [1.0, 0.0])}, theirs)


@pytest.mark.parametrize(
    ("theirs", "differing"),
    [
        ("own|version:1|shots:0|model:b|tokenizer:y|posttrain:1", []),
        ("own|version:2|shots:0|chat|model:b|tokenizer:y|posttrain:1", ["version", "chat"]),
        (None, []),  # an older file
    ],
)
def test_figures_made_in_different_ways_are_told_apart(theirs, differing):
    """Models and their tokenizers may differ; the way of measuring may not, without a word."""
    made = {"signature": "own|version:1|shots:0|model:a|tokenizer:x|posttrain:1"}
    ours = [record | made for record in answered("acc", [1.0, 0.0])]
    others = [record | ({"signature": theirs} if theirs else {}) for record in answered("acc", [0.0, 0.0])]
    told = []
    with events.listen(told.append):
        found = compare({"own": TASK}, {"own": ours}, {"own": others})["own"]
    assert found.measured_differently == found.to_dict()["measured_differently"] == differing
    assert [f"measured differently ({', '.join(differing)})" in event.name for event in told] == [True] * bool(
        differing
    )
