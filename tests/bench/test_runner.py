"""Tasks run on a tiny model: limits, groups, signatures, records, and what is said when something is missing."""

from __future__ import annotations

import json

import pytest

from posttrain.bench import runner, task
from posttrain.core import events
from posttrain.core.errors import BadRequest

TASK = """\
summary: A test.
version: "3"
license: free
homepage: https://example.org
data:
  dev: [{files: ["{member}/dev.jsonl"]}]
  test: [{files: ["{member}/test.jsonl"]}]
split: test
preamble: "About {{ member }}.\\n"
examples: {from: [dev, test], draw: first}
type:
  multiple_choice:
    prompt: "{{ question }}"
    choices: ["yes", "no"]
    answer: answer
members: {even: [two, four], odd: [three]}
"""


@pytest.fixture
def folder(tmp_path):
    """A task with members of 2, 4 and 3 items."""
    (tmp_path / "own.yaml").write_text(TASK)
    task.read.cache_clear()
    for name, count in (("two", 2), ("four", 4), ("three", 3)):
        (tmp_path / name).mkdir()
        rows = [{"question": f"Is {i} {name}?", "answer": i % 2} for i in range(count)]
        for split in ("dev", "test"):
            (tmp_path / name / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def prepared(folder, **settings):
    return runner.prepare([str(folder / "own.yaml")], folder, **settings)[0]


def test_a_run(folder, tiny_llama, tmp_path):
    plan = prepared(folder, num_fewshot=1)
    results = runner.evaluate(tiny_llama, [plan])
    found = results["own"]
    assert (found.n, found.metric, found.chance, found.cut) == (9, "acc", 0.5, 0)
    assert [row["n"] for row in found.members] == [2, 4, 3]
    assert [row["name"] for row in found.categories] == ["even", "odd"]
    assert found.score == pytest.approx(sum(item["scores"]["acc"] for item in found.items) / 9)
    assert found.items[0]["prompt"] == "About two.\nIs 0 two? yes\n\nIs 0 two?"
    assert found.items[0]["right"] == [0]
    for part in ("own|version:3|shots:1|examples:dev/first|", "|items:9|", "|model:", "|dtype:float32|posttrain:"):
        assert part in found.signature
    runner.write_items(results, tmp_path / "items.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "items.jsonl").read_text().splitlines()]
    assert len(lines) == 9
    assert lines[8]["member"] == "three"
    assert len(lines[8]["logprobs"]) == 2
    assert all(line["signature"] == found.signature for line in lines)


@pytest.mark.parametrize(("tokens_per_pass", "limit"), [(1, None), (50, 7), (4096, None)])
def test_scores_don_t_depend_on_how_the_work_is_cut(folder, tiny_llama, tokens_per_pass, limit):
    whole = runner.evaluate(tiny_llama, [prepared(folder)])["own"].items
    cut = runner.evaluate(tiny_llama, [prepared(folder, limit=limit)], tokens_per_pass=tokens_per_pass)["own"].items
    by_prompt = {item["prompt"]: item["logprobs"] for item in whole}
    assert len(cut) == (limit or 9)
    for item in cut:
        assert item["logprobs"] == pytest.approx(by_prompt[item["prompt"]], abs=1e-5)


@pytest.mark.parametrize(
    ("sizes", "limit", "counts"),
    [
        ([2, 4, 3], None, [2, 4, 3]),
        ([2, 4, 3], 100, [2, 4, 3]),
        ([2, 4, 3], 3, [1, 1, 1]),
        ([2, 4, 3], 4, [2, 1, 1]),
        ([2, 4, 3], 8, [2, 3, 3]),
        ([5, 5, 5], 2, [1, 1, 0]),
        ([1, 50], 40, [1, 39]),
        ([7], 3, [3]),
    ],
)
def test_a_limit_is_spread_over_members(sizes, limit, counts):
    assert runner._spread(sizes, limit) == counts


def test_a_limit_takes_the_first_items(folder):
    plan = prepared(folder, limit=5)
    assert [[q.item.values["question"] for q in part.questions] for part in plan.parts] == [
        ["Is 0 two?", "Is 1 two?"],
        ["Is 0 four?", "Is 1 four?"],
        ["Is 0 three?"],
    ]


def test_what_changes_the_signature(folder):
    plain = prepared(folder)
    assert prepared(folder).signature == plain.signature
    assert prepared(folder, limit=4).data != plain.data
    assert prepared(folder, num_fewshot=1).data != plain.data
    (folder / "three" / "test.jsonl").write_text('{"question": "Is it?", "answer": 0}\n')
    assert prepared(folder).data != plain.data
    (folder / "own.yaml").write_text(TASK.replace("{{ question }}", "{{ question }} "))
    task.read.cache_clear()
    assert prepared(folder).template != plain.template


def test_missing_examples_are_told(folder):
    """Where the split that examples should come from isn't there, the next one is used, and the user learns of it."""
    for name in ("two", "three", "four"):
        (folder / name / "dev.jsonl").unlink()
    said = []
    with events.listen(lambda event: said.append(event.name)):
        plan = prepared(folder, num_fewshot=1)
    assert said == ["own: no data for dev, so examples come from test."]
    assert "examples:test/first" in plan.signature
    assert plan.parts[0].questions[0].preamble == "About two.\nIs 1 two? no\n\n"


def test_missing_members_are_named(folder):
    (folder / "three" / "test.jsonl").unlink()
    with pytest.raises(BadRequest) as raised:
        prepared(folder)
    assert "own: 1 of 3 members can't be read (three)." in raised.value.problem
    assert "looked for three/test.jsonl" in raised.value.problem
    for name in ("two", "four"):
        (folder / name / "test.jsonl").unlink()
    with pytest.raises(BadRequest, match=r"own: no data for test lies below .*; looked for two/test.jsonl\."):
        prepared(folder)


def test_cut_prompts_are_told(folder, tiny_llama):
    """The model reads 128 tokens."""
    row = {"question": "The dog sleeps. " * 60, "answer": 0}
    (folder / "two" / "test.jsonl").write_text(json.dumps(row) + "\n")
    said = []
    with events.listen(lambda event: said.append(event.name)):
        found = runner.evaluate(tiny_llama, [prepared(folder)])["own"]
    assert found.cut == 1
    assert found.items[0]["cut_tokens"] > 0
    assert any(
        text.startswith("own: 1 of 8 prompts are longer than the model's context of 128 tokens") for text in said
    )


def test_the_shipped_task_needs_nothing(tiny_llama):
    (plan,) = runner.prepare(["handbook_quiz", "handbook_quiz"], limit=3)
    found = runner.evaluate(tiny_llama, [plan])["handbook_quiz"]
    assert (found.n, found.chance, found.metric) == (3, 0.25, "acc_norm")


def test_two_tasks_of_one_name(folder):
    (folder / "other").mkdir()
    (folder / "other" / "own.yaml").write_text(TASK)
    with pytest.raises(BadRequest, match="Two tasks are called own"):
        runner.prepare([str(folder / "own.yaml"), str(folder / "other" / "own.yaml")], folder)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"tasks": []}, "No task is named"),
        ({"tasks": ["handbook_quiz"], "limit": 0}, "limit must be at least 1"),
        ({"tasks": ["handbook_quiz"], "num_fewshot": -1}, "num_fewshot can't be negative"),
        ({"tasks": ["truthfulqa_mc1"], "num_fewshot": 1}, "no data for validation|without examples"),
    ],
)
def test_refusals(settings, sentence, tmp_path):
    with pytest.raises(BadRequest, match=sentence):
        runner.prepare(**settings, data=tmp_path)
