"""What items add, and data that says by what it is measured: BIG-bench's tasks with ROUGE and BLEU, and refusals."""

from __future__ import annotations

import json

import pytest
from sacrebleu import corpus_bleu

from posttrain.bench import records, task
from posttrain.bench.contributions import Contribution, Share, contribution
from posttrain.bench.item import Item
from posttrain.bench.result import Place, summarize
from posttrain.bench.runner import evaluate, prepare
from posttrain.bench.task_types import Reply
from posttrain.core import events
from posttrain.core.errors import BadRequest

# Two texts with one reference and with two.
EXAMPLES = [
    {"input": "1", "target": "the cat sat on the mat today"},
    {"input": "2", "target": ["running dogs", "a bird sings in the tree"]},
]
WRITTEN = ["the cat sat on a mat", "running dog"]


OWN = """\
summary: A test.
version: "1"
license: free
homepage: https://example.org
data: {test: [{files: [own.jsonl]}]}
split: test
type: {generative: {prompt: "{{ q }}", answer: a, references: right, max_new_tokens: 4}}
"""


def test_what_an_item_adds(tmp_path):
    """Expressions see the reply's record and scores; where the data names metrics, it adds to no other one."""
    metrics = """
item_metrics: {half: exact_match / 2, long: none if text | length < 3 else 1}
group_metrics: {all: {of: half, by: set}, any: {of: exact_match, by: 'none', take: highest}}
"""
    (tmp_path / "own.yaml").write_text(OWN + metrics)
    reply = Reply({"exact_match": 1.0}, {"text": "ab"}, None, 0)
    item = Item({"set": 3, "by": ["half"]}, "f:1", "t")
    found = contribution(task.read(tmp_path / "own.yaml"), item, reply)
    scores = {"exact_match": 1.0, "half": 0.5, "long": None}
    assert found == Contribution(scores, {"all": Share("3", 0.5), "any": None}, None)
    assert found.counts("half") and found.counts("all")
    (tmp_path / "other.yaml").write_text(OWN + metrics + "counts_in: by\n")
    found = contribution(task.read(tmp_path / "other.yaml"), item, reply)
    assert found.scores == {"exact_match": None, "half": 0.5, "long": None}
    assert found.shares == {"all": None, "any": None} and not found.counts("all")


def prepared(folder, names="bigbench_generative_own", **files):
    for name, values in {"own": {}, **files}.items():
        (folder / name).mkdir(exist_ok=True)
        (folder / name / "task.json").write_text(json.dumps({"examples": EXAMPLES, **values}))
    return prepare([names], folder)[0]


def written(plan, texts=WRITTEN):
    """What comes of written texts, without any model."""
    questions = [question.item for part in plan.parts for question in part.questions]
    places = [Place(part.member, part.category) for part in plan.parts for _ in part.questions]
    type_ = plan.selection.type
    replies = []
    for item, text in zip(questions, texts, strict=True):
        right = item.text(type_.answer, "answer")
        scores = {"exact_match": float(type_.equal(text, right))}
        replies.append(Reply(scores, {"text": text}, None, 0, text, type_._references(item, right)))
    return summarize(plan.name, plan.selection.task, questions, places, replies, "s", 1.0)


def test_rouge_and_bleu_where_the_file_names_them(tmp_path):
    """By hand, and BLEU by sacrebleu with the second text's two references.

    The first text shares the cat sat on mat with its reference, 5 of 6 words with 5 of 7: F1 10/13. Of its pairs of
    words, the cat, cat sat and sat on are 3 of 5 and of 6: 6/11. In order of the words 5 stand as there: 10/13. The
    second has both words of its better reference when endings are left out.
    """
    plan = prepared(tmp_path, own={"metrics": ["rouge", "bleu"], "preferred_score": "rougeLsum"})
    found = written(plan)
    assert found.metric == "rougeLsum"
    assert list(found.figures) == ["rougeLsum", "rouge1", "rouge2", "bleu"]  # exact_match isn't asked for
    assert found.figures["rouge1"].value == pytest.approx((10 / 13 + 1) / 2)
    assert found.figures["rouge2"].value == pytest.approx((6 / 11 + 1) / 2)
    assert found.score == pytest.approx((10 / 13 + 1) / 2)
    streams = [["the cat sat on the mat today", "running dogs"], [None, "a bird sings in the tree"]]
    assert found.figures["bleu"].value == pytest.approx(corpus_bleu(WRITTEN, streams, tokenize="intl").score)
    assert found.items[0]["scores"] == {"exact_match": None}
    assert found.items[1]["answers"] == ["running dogs", "a bird sings in the tree"]
    assert found.items[0]["counts_in"] == ["rougeLsum", "bleu", "rouge1", "rouge2"]


@pytest.mark.parametrize(
    ("values", "metrics"),
    [
        ({}, ["exact_match"]),
        ({"metrics": ["exact_str_match"], "preferred_score": "exact_str_match"}, ["exact_match"]),
        ({"metrics": ["bleurt", "bleu"], "preferred_score": "bleurt"}, ["bleu"]),
        ({"metrics": ["bleurt"]}, ["exact_match"]),
        ({"metrics": ["exact_str_match", "bleu"], "preferred_score": "bleu"}, ["bleu", "exact_match"]),
        ({"metrics": ["exact_str_match", "bleu"], "preferred_score": "exact_str_match"}, ["exact_match", "bleu"]),
    ],
)
def test_what_files_name(tmp_path, values, metrics):
    said = []
    plan = prepared(tmp_path, own=values)
    with events.listen(lambda event: said.append(event.name) if event.kind == "message" else None):
        found = written(plan)
    assert (found.metric, list(found.figures), said) == (metrics[0], metrics, [])


def test_members_that_are_measured_differently(tmp_path):
    """The first score is not one for all, so exact match stays it, of the items that count in it: one of two."""
    text = EXAMPLES[0]["target"]
    files = {"auto_debugging": {"metrics": ["exact_str_match"]}, "operators": {"metrics": ["bleu"]}}
    others = {name: {"metrics": ["rouge"]} for name in ("conlang_translation", "linguistics_puzzles")}
    others |= {name: {"metrics": ["rouge"]} for name in ("parsinlu_reading_comprehension", "repeat_copy_logic")}
    plan = prepared(tmp_path, "bigbench_generative", **files, **others)
    found = written(plan, [text] * 12)
    assert (found.metric, found.score, found.n) == ("exact_match", 0.5, 2)
    by_name = {row["name"]: row for row in found.members}
    assert by_name["operators"]["score"] is None and by_name["operators"]["rouge1"] is None
    assert by_name["auto_debugging"]["bleu"] is None
    references = [[text, "running dogs"], [None, "a bird sings in the tree"]]
    expected = corpus_bleu([text] * 2, references, tokenize="intl").score
    assert by_name["operators"]["bleu"] == found.figures["bleu"].value == pytest.approx(expected)
    assert (found.figures["bleu"].n, found.figures["rouge1"].n) == (2, 8)
    (bleu,) = records.rows(plan.selection.task, "bleu", found.items)
    assert bleu.counted == 2 and bleu.figure(bleu.items[None])[0] == pytest.approx(expected)
    only = [record for record in found.items if record["member"] == "auto_debugging"]
    (nothing,) = records.rows(plan.selection.task, "bleu", only)
    assert nothing.counted == 0


def test_a_model_is_asked(tmp_path, tiny_llama):
    plan = prepared(tmp_path, own={"metrics": ["rouge", "bleu"]})
    object.__setattr__(plan.selection.type, "max_new_tokens", 4)
    found = evaluate(tiny_llama, [plan])[plan.name]
    assert found.metric == "bleu" and 0 <= found.score <= 100
    assert found.items[1]["answers"] == EXAMPLES[1]["target"]
    assert found.items[0]["predicted"] == found.items[0]["extracted"]["exact_match"]


@pytest.mark.parametrize(
    ("by", "right", "sentence"),
    [
        (
            '["exact"]',
            '["a"]',
            r"'counts_in' doesn't work for .*: it must give a list of the task's metrics \(exact_match\)",
        ),
        ("[]", '["a"]', "'counts_in' doesn't work"),
        ('"exact_match"', '["a"]', "'counts_in' doesn't work"),
        ('["exact_match"]', '"a"', "'references' doesn't work for .*: it must give a list of texts, not 'a'"),
        ('["exact_match"]', "[]", "'references' doesn't work"),
    ],
)
def test_refusals(tmp_path, tiny_llama, by, right, sentence):
    (tmp_path / "own.yaml").write_text(OWN + "counts_in: by\n")
    (tmp_path / "own.jsonl").write_text(f'{{"q": "Q", "by": {by}, "right": {right}}}\n')
    with pytest.raises(BadRequest, match=sentence):
        evaluate(tiny_llama, prepare([str(tmp_path / "own.yaml")], tmp_path))
