"""Metrics over groups of items: hand-worked figures, intervals that draw groups, members, comparisons, refusals."""

from __future__ import annotations

import json
import math
from collections import defaultdict

import numpy as np
import pytest

from posttrain.bench import records
from posttrain.bench import task as tasks
from posttrain.bench.group_metric import GroupMetric
from posttrain.bench.item import Item
from posttrain.bench.paired import compare
from posttrain.bench.result import Place, summarize
from posttrain.bench.runner import prepare
from posttrain.bench.task import Task
from posttrain.bench.task_types import Reply
from posttrain.core.errors import BadRequest

CHOOSING = {"multiple_choice": {"prompt": "p", "choices": ["no", "yes"], "answer": "right"}}
BASE = {"summary": "s", "version": "1", "license": "l", "homepage": "h", "split": "test", "type": CHOOSING}


def task_of(**more):
    return Task.parse({**BASE, "data": {"test": [{"files": ["f"]}]}, **more})


def asked(task, rows, places=None, **more):
    """What comes of items given as (columns, whether the model is right)."""
    replies = [Reply({"acc": float(right)}, {"prompt": f"p{i}", **more}, 0.5, 0) for i, (_, right) in enumerate(rows)]
    items = [Item(columns, f"f:{i}", "t.yaml") for i, (columns, _) in enumerate(rows)]
    return summarize("own", task, items, places or [Place(None, None)] * len(rows), replies, "sig", 1.0)


def grouped(**sizes):
    """Items of groups, as a="110" for a group of three of which the last is wrong."""
    return [({"group": name}, mark == "1") for name, marks in sizes.items() for mark in marks]


EM = {"em": {"of": "acc", "by": "group"}}


def test_numbers_of_groups():
    """Groups needn't stand together, and keep their order."""
    added = [("b", 1.0), ("a", 0.0), ("b", 0.5), ("a", None), ("c", None)]
    expected = {"lowest": [0.5, 0, None], "highest": [1, 0, None], "mean": [0.75, 0, None]}
    for take, numbers in expected.items():
        found = GroupMetric.parse({"of": "acc", "by": "g", "take": take}).numbers(added)
        assert list(found.items()) == list(zip("bac", numbers))


def test_a_group_counts_if_all_of_it_is_right():
    """Of 4 groups 1 is right: 0.25, with the deviation √(0.75 / 3) = 0.5 over the root of 4. Of 9 items 6 are right."""
    found = asked(task_of(group_metrics=EM), grouped(a="111", b="10", c="0", d="011"))
    em = found.figures["em"]
    assert (em.value, em.n, em.interval) == (0.25, 4, None)
    assert em.stderr == pytest.approx(0.25)
    assert (found.score, found.n, found.metric) == (pytest.approx(6 / 9), 9, "acc")
    assert found.to_dict()["metrics"]["em"]["n"] == 4
    assert found.items[1]["groups"] == {"em": {"group": "a", "value": 1.0}}
    assert set(found.items[1]["scores"]) == {"acc"}  # no number of an item, so nobody takes its mean


def test_one_that_is_right_and_means_of_groups():
    """At least one is right in 3 of 4 groups. The groups' means are 1, 1/2, 0 and 2/3, of which 13/24 is the mean."""
    metrics = {"any": {**EM["em"], "take": "highest"}, "macro": {**EM["em"], "take": "mean"}}
    found = asked(task_of(group_metrics=metrics, score="any"), grouped(a="111", b="10", c="0", d="011"))
    assert (found.score, found.n) == (0.75, 4)
    assert found.figures["macro"].value == pytest.approx(13 / 24)
    assert found.chance is None


def test_intervals_draw_groups():
    """Beside a bootstrap of the groups by numpy. Drawing the items instead would give a third of the width."""
    rows = grouped(**{f"g{i}": "1" * 10 if i % 2 else "0" * 10 for i in range(40)})
    em = asked(task_of(group_metrics=EM), rows).figures["em"]
    numbers = np.arange(40) % 2
    draws = numbers[np.random.default_rng(3).integers(0, 40, (4000, 40))].mean(1)
    assert em.interval == pytest.approx(np.quantile(draws, [0.025, 0.975]), abs=0.03)
    assert em.stderr == pytest.approx(math.sqrt(0.25 * 40 / 39 / 40))


def test_members_never_share_a_group():
    """Group x of one member is right, of the other it isn't: micro 2/3 over the groups x, x, y, macro (1 + 1/2) / 2."""
    rows = [*grouped(x="11"), *grouped(x="10", y="1")]
    places = [Place("one", "c")] * 2 + [Place("two", "c")] * 3
    found = asked(task_of(group_metrics=EM, score="em"), rows, places)
    assert (found.score, found.n) == (pytest.approx(2 / 3), 3)
    assert found.macro is not None and found.macro["em"] == 0.75
    assert [(row["name"], row["score"], row["n"]) for row in found.members] == [("one", 1.0, 1), ("two", 0.5, 2)]


def test_items_that_do_not_count():
    """Without a group, or a number; groups may be anything that JSON holds."""
    rows = [({"group": group}, right) for group, right in [(None, 0), ([1, "a"], 1), ([1, "a"], 0), ([2], 1), ([3], 1)]]
    metric = {"of": "none if group == [3] or acc == 0 else acc", "by": "group"}
    found = asked(task_of(group_metrics={"em": metric}), rows)
    assert (found.figures["em"].value, found.figures["em"].n) == (1.0, 2)
    assert [item["groups"]["em"] for item in found.items] == [
        None,
        {"group": '[1, "a"]', "value": 1.0},
        {"group": '[1, "a"]', "value": None},
        {"group": "[2]", "value": 1.0},
        {"group": "[3]", "value": None},
    ]


def test_items_may_count_in_groups_and_not_alone():
    """What an expression makes of the record, and of the task's other metrics."""
    metrics = {
        "item_metrics": {"changed": "none if original else acc"},
        "group_metrics": {"all": {"of": "right == 1", "by": "group"}, "others": {"of": "changed", "by": "group"}},
    }
    rows = [({"group": "a", "original": i == 0}, i) for i in range(3)]
    found = asked(task_of(**metrics), rows, right=1)
    assert found.figures["changed"].n == 2
    assert (found.figures["all"].value, found.figures["others"].value) == (1, 1)


def test_two_models_are_compared_by_groups(tmp_path):
    """Of 22 groups only the model gets 5 and only the baseline 1: McNemar's p is 2 (C(6,0) + C(6,1)) / 2^6 = 14/64."""
    task = task_of(group_metrics=EM, score="em")
    ours = asked(task, grouped(**{f"g{i}": "11" if i < 21 else "01" for i in range(22)})).items
    theirs = asked(task, grouped(**{f"g{i}": "10" if 16 <= i < 21 else "11" for i in range(22)})).items
    path = tmp_path / "items.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in ours))
    found = compare({"own": task}, {"own": records.read(path)["own"]}, {"own": theirs})["own"].score
    assert (found.test, found.p_value, found.discordant) == ("mcnemar", 14 / 64, (5, 1))
    assert found.difference == pytest.approx(4 / 22)
    (rows,) = records.rows(task, "em", ours)
    assert rows.items.shape == (22, 2) and rows.counted == 22
    moved = [{**record, "groups": {"em": {"group": "other", "value": 1.0}}} for record in theirs]
    with pytest.raises(BadRequest, match="they differ in 'groups'"):
        compare({"own": task}, {"own": ours}, {"own": moved})
    with pytest.raises(BadRequest, match="The record of f:0 has no group in em"):
        records.rows(task, "em", [{**record, "groups": {}} for record in ours])
    path.write_text(json.dumps({**ours[0], "groups": {"em": {"group": "a", "value": "1"}}}))
    with pytest.raises(BadRequest, match=r"items\.jsonl:1: the record's groups must be objects"):
        records.read(path)


@pytest.mark.parametrize(
    ("metrics", "sentence"),
    [
        ({"em": {"of": "'a'", "by": "group"}}, "'group_metrics.em.of' doesn't work for f:0: it must give a number"),
        ({"em": {"of": "acc", "by": "grup"}}, "'group_metrics.em.by' doesn't work for f:0: .*'grup' is undefined"),
        ({"acc": {"of": "acc", "by": "group"}}, "two metrics are called acc"),
        ({"em": {"of": "acc"}}, "by"),
        ({"em": {"of": "acc", "by": "group", "take": "median"}}, "take"),
    ],
)
def test_refusals(metrics, sentence):
    with pytest.raises(BadRequest, match=sentence):
        asked(task_of(group_metrics=metrics), grouped(a="1"))


def answered(plan, chosen):
    """What comes of a shipped task of the choices no and yes, without any model."""
    items = [question.item for part in plan.parts for question in part.questions]
    replies = []
    for item, choice in zip(items, chosen, strict=True):
        right = plan.selection.type._right(item, ["no", "yes"])
        scores = {name: float(choice in right) for name in plan.selection.type.measured}
        record = {"right": right, "chosen": {"acc": choice}}
        replies.append(Reply(scores, record, 0.5, 0, ("no", "yes")[choice], [("no", "yes")[each] for each in right]))
    return items, summarize(plan.name, plan.selection.task, items, [Place(None, None)] * len(items), replies, "s", 1.0)


def test_multirc(tmp_path):
    """Three questions of two paragraphs; the model is wrong once, in the second. EM 2/3.

    Labels 10 01 110, answers 10 00 110: three yes found, one missed, none too many, F1 over all answers 6/7.
    """
    (tmp_path / "MultiRC").mkdir()
    questions = [[(4, "10"), (5, "01")], [(6, "110")]]
    with (tmp_path / "MultiRC" / "val.jsonl").open("w") as file:
        for number, paragraph in enumerate(questions):
            asked_of = [
                {"question": "Same?", "idx": name, "answers": [{"text": "a", "label": int(one)} for one in labels]}
                for name, labels in paragraph
            ]
            file.write(json.dumps({"idx": number, "passage": {"text": "P.", "questions": asked_of}}) + "\n")
    (plan,) = prepare(["multirc"], tmp_path)
    items, found = answered(plan, [1, 0, 0, 0, 1, 1, 0])
    assert (found.figures["em"].value, found.figures["em"].n) == (pytest.approx(2 / 3), 3)
    assert found.figures["f1"].value == pytest.approx(6 / 7)
    assert found.score == pytest.approx(6 / 7)  # accuracy: 6 of 7 answers
    # The hub's set has the same question under another name.
    given = tasks.find("multirc").task.data["validation"][0].fields["question_id"]
    hub = Item({"idx": {"paragraph": 0, "question": 4, "answer": 0}}, "f:1", "t")
    assert hub.value(given, "fields") == items[0].values["question_id"] == [0, 4]


def test_contrast_consistency(tmp_path):
    """Two questions with two and one changed forms; the model fails only the first question itself.

    All changed ones are right, of the two originals one, and of the two sets, which hold the originals, one.
    """
    rows = [
        ("T", "q", "TRUE", [("q1", "FALSE"), ("q2", "TRUE"), ("", "")]),
        ("T", "r", "FALSE", [("r", "TRUE")]),
    ]
    data = [
        {
            "title": title,
            "paragraph": "P.",
            "question": question,
            "answer": answer,
            "perturbed_questions": [{"perturbed_q": each, "answer": its} for each, its in changed],
        }
        for title, question, answer, changed in rows
    ]
    (tmp_path / "boolq_perturbed.json").write_text(json.dumps({"data": data}))
    (tmp_path / "boolq").mkdir()
    (tmp_path / "boolq_perturbed.json").rename(tmp_path / "boolq" / "boolq_perturbed.json")
    (plan,) = prepare(["boolq_contrast"], tmp_path)
    items, found = answered(plan, [0, 0, 1, 0, 1])
    assert [item.values["asked"] for item in items] == ["q", "q1", "q2", "r", "r"]
    sets = defaultdict(list)
    for item in items:
        sets[json.dumps(item.values["contrast_set"])].append(item.values["original"])
    assert list(sets.values()) == [[True, False, False], [True, False]]
    assert (found.metric, found.score, found.n, found.chance) == ("acc_changed", 1.0, 3, 0.5)
    assert found.figures["acc"].value == 0.8
    assert (found.figures["acc_original"].value, found.figures["acc_original"].n) == (0.5, 2)
    assert (found.figures["consistency"].value, found.figures["consistency"].n) == (0.5, 2)
