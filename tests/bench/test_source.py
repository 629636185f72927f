"""Reading a task's data: formats, columns made and added, and what is said when data isn't there."""

from __future__ import annotations

import bz2
import gzip
import json

import pytest

from posttrain.bench import source, task
from posttrain.bench.source import content, read_split
from posttrain.core.errors import BadRequest, Failure


def selection(sources, **more):
    """A task with one split, `test`, and the given sources."""
    values = {
        "summary": "A test.",
        "version": "1",
        "license": "free",
        "homepage": "https://example.org",
        "data": {"test": sources, "dev": [{"files": ["dev.jsonl"]}]},
        "split": "test",
        "type": {"continuation": {"prompt": "{{ a }}", "continuation": "{{ b }}"}},
        **more,
    }
    return task.Selection("own", task.Path("own.yaml"), task.Task.parse(values), {})


def values(sources, folder, member=None):
    return [dict(item.values) for item in read_split(selection(sources), ["test"], member, folder).items]


def test_formats_and_depth(tmp_path):
    """JSON Lines, gzipped JSON, CSV and grouped lines; in the folder, in its subfolders and in theirs."""
    (tmp_path / "deep" / "deeper").mkdir(parents=True)
    (tmp_path / "a.jsonl").write_text('{"a": "x", "b": "y"}\n')
    (tmp_path / "deep" / "c.json.gz").write_bytes(gzip.compress(b'[{"a": "x", "b": "y"}]'))
    (tmp_path / "deep" / "deeper" / "d.csv").write_text("a,b\nx,y\n")
    (tmp_path / "lines.txt.bz2").write_bytes(bz2.compress(b"x\ny\n"))
    for name in ("a.jsonl", "c.json", "d.csv"):
        assert values([{"files": [name]}], tmp_path) == [{"a": "x", "b": "y"}]
    assert values([{"files": ["lines.txt"], "lines": ["a", "b"]}], tmp_path) == [{"a": "x", "b": "y"}]
    assert values([{"files": ["missing.csv", "*.csv"]}], tmp_path) == [{"a": "x", "b": "y"}]


def test_columns_made_and_rows_left_out(tmp_path):
    """A file without names: its columns get some, the one row that is excluded goes, and one column is made of two."""
    (tmp_path / "anatomy.csv").write_text("question,answer\nwhat,3\nwho,C\n")
    given = {
        "files": ["{member}.csv"],
        "columns": ["q", "a"],
        "keep": "a != 'answer'",
        "fields": {"n": "a | int if a.isdigit() else 'ABCD'.index(a)", "both": "q ~ a"},
    }
    assert values([given], tmp_path, "anatomy") == [
        {"q": "what", "a": "3", "member": "anatomy", "n": 3, "both": "what3"},
        {"q": "who", "a": "C", "member": "anatomy", "n": 2, "both": "whoC"},
    ]


def test_labels_in_a_file_of_their_own(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "dev.jsonl").write_text('{"a": 1}\n{"a": 2}\n')
    labels = tmp_path / "sub" / "labels.lst"
    given = [{"files": ["dev.jsonl"], "beside": {"label": "labels.lst"}}]
    with pytest.raises(BadRequest, match=r"needs labels.lst beside it"):
        values(given, tmp_path)
    labels.write_text("0\n1\n")
    assert values(given, tmp_path) == [{"a": 1, "label": "0"}, {"a": 2, "label": "1"}]
    labels.write_text("0\n")
    with pytest.raises(BadRequest, match=r"labels.lst has 1 lines, .*dev.jsonl has 2 rows"):
        values(given, tmp_path)


def test_origins_and_order(tmp_path):
    (tmp_path / "a1.jsonl").write_text('{"a": 1}\n{"a": 2}\n')
    (tmp_path / "a2.jsonl").write_text('{"a": 3}\n')
    read = read_split(selection([{"files": ["a*.jsonl"]}]), ["test"], None, tmp_path)
    assert [item.origin.rsplit("/", 1)[1] for item in read.items] == ["a1.jsonl:1", "a1.jsonl:2", "a2.jsonl:1"]
    assert content(read.items) == '[{"a": 1}, {"a": 2}, {"a": 3}]'
    assert read.split == "test"
    few = read_split(selection([{"files": ["a*.jsonl"]}]), ["test"], None, tmp_path, limit=2)
    assert [item.values["a"] for item in few.items] == [1, 2]


def test_the_first_split_that_is_there(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n')
    own = selection([{"files": ["a.jsonl"]}])
    assert read_split(own, ["dev", "test"], None, tmp_path).split == "test"
    (tmp_path / "dev.jsonl").write_text('{"a": 2}\n')
    assert read_split(own, ["dev", "test"], None, tmp_path).split == "dev"


def test_missing_data_says_where_it_looked_and_where_to_get_it(tmp_path):
    own = selection([{"files": ["x/a.jsonl", "b.jsonl"], "hub": "owner/set"}])
    with pytest.raises(BadRequest) as raised:
        read_split(own, ["test"], None, tmp_path)
    assert raised.value.problem == f"own: no data for test lies below {tmp_path}; looked for x/a.jsonl, b.jsonl."
    assert raised.value.suggestion == "It can be had from https://example.org (free)."
    with pytest.raises(BadRequest, match="There is no data folder"):
        read_split(own, ["test"], None, tmp_path / "none")
    with pytest.raises(BadRequest, match="no set is named"):
        read_split(selection([{"files": ["a.jsonl"]}]), ["test"], None, None)


def test_damaged_data(tmp_path):
    (tmp_path / "a.txt").write_text("one\ntwo\nthree\n")
    with pytest.raises(BadRequest, match="has 3 lines, which is no multiple of 2: a, b"):
        values([{"files": ["a.txt"], "lines": ["a", "b"]}], tmp_path)
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n{"a": \n')
    with pytest.raises(BadRequest, match=r"a.jsonl:2: not valid JSON"):
        values([{"files": ["a.jsonl"]}], tmp_path)
    (tmp_path / "b.jsonl").write_text("\n")
    with pytest.raises(BadRequest, match=r"b.jsonl has no items"):
        values([{"files": ["b.jsonl"]}], tmp_path)
    (tmp_path / "c.jsonl").write_text('{"a": 1}\n')
    with pytest.raises(BadRequest, match=r"own.yaml: 'data.fields.x' doesn't work for .*c.jsonl:1: .*'q' is undefined"):
        values([{"files": ["c.jsonl"], "fields": {"x": "q"}}], tmp_path)


def test_the_hub_is_read_only_without_a_folder(tmp_path, monkeypatch):
    """Rows come as they are, classes as numbers; the split may have another name there."""
    datasets = pytest.importorskip("datasets")
    asked = []

    def load(repository, config, split):
        asked.append((repository, config, split))
        features = datasets.Features({"a": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])})
        return datasets.Dataset.from_list([{"a": "x", "label": 1}], features=features)

    monkeypatch.setattr(datasets, "load_dataset", load)
    given = [{"files": ["a.jsonl"], "hub": "owner/set:{member}", "hub_split": "train"}]
    assert values(given, None, "anatomy") == [{"a": "x", "label": 1, "member": "anatomy"}]
    assert asked == [("owner/set", "anatomy", "train")]
    with pytest.raises(BadRequest):
        values(given, tmp_path, "anatomy")
    assert len(asked) == 1


def test_an_unreachable_hub(monkeypatch):
    datasets = pytest.importorskip("datasets")

    def load(*_, **__):
        raise ConnectionError("no route")

    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(Failure) as raised:
        values([{"files": ["x/a.jsonl"], "hub": "owner/set"}], None)
    assert "no route" in raised.value.problem
    assert "--data a folder that holds x/a.jsonl" in raised.value.suggestion
    assert "https://example.org" in raised.value.suggestion


def test_builtin_files_need_no_folder():
    quiz = task.find("handbook_quiz")
    for folder in (None, source._BUILTIN):
        assert len(read_split(quiz, ["test"], None, folder).items) == 40


def test_the_quiz_is_fair():
    """Four different choices each; the right one stands at each place ten times, and its length tells nothing."""
    rows = [json.loads(line) for line in (source._BUILTIN / "handbook_quiz.jsonl").read_text().splitlines()]
    assert len({row["question"] for row in rows}) == 40
    assert all(len(set(row["choices"])) == 4 for row in rows)
    assert [[row["answer"] for row in rows].count(place) for place in range(4)] == [10] * 4
    ranks = [sorted(map(len, row["choices"])).index(len(row["choices"][row["answer"]])) for row in rows]
    assert max(ranks.count(rank) for rank in range(4)) <= 15
    right = [len(row["choices"][row["answer"]]) for row in rows]
    every = [len(choice) for row in rows for choice in row["choices"]]
    assert abs(sum(right) / len(right) - sum(every) / len(every)) < 1


@pytest.mark.parametrize(
    ("name", "file", "text", "solved"),
    [
        (
            "hellaswag",
            "hellaswag/hellaswag_val.jsonl",
            {
                "activity_label": "Baking",
                "ctx_a": "A man bakes. [title] Mix. [step] Stir  it.",
                "ctx_b": "he Then",
                "endings": ["eats. [x]", " sits.", "runs.", "goes."],
                "label": 1,
            },
            # Marks go, double blanks become one, and what follows the first letter becomes small.
            "Baking: A man bakes.. Mix. Stir it. He then sits.",
        ),
        ("hellaswag", "hellaswag/hellaswag_val_full.txt", "Baking: he\n2\na\nb\nc\nd\n", "Baking: he c"),
        (
            "arc_easy",
            "arc/ARC-Easy-Test.jsonl",
            {
                "question": {"stem": "Why?", "choices": [{"text": "no", "label": "1"}, {"text": "so", "label": "2"}]},
                "answerKey": "2",
            },
            "Question: Why?\nAnswer: so",
        ),
        (
            "arc_easy",
            "arc/arc_easy_inhouse_test.jsonl",
            {
                "question": {"stem": "Why?", "choices": [{"text": "no", "label": "1"}, {"text": "so", "label": "2"}]},
                "answerKey": "B",
            },
            "Question: Why?\nAnswer: so",
        ),
        (
            "truthfulqa_mc1",
            "truthfulqa/mc_task.json",
            [{"question": "Why?", "mc1_targets": {"so": 0, "no": 1}, "mc2_targets": {}}],
            "Q: Why?\nA: no",
        ),
        ("gsm8k", "gsm8k/test.jsonl", {"question": "1+1?", "answer": "#### 2"}, "Question: 1+1?\nAnswer: #### 2"),
        (
            "boolq",
            "boolq/dev.jsonl",
            {"title": "Sky", "passage": "It is blue.", "question": "is it blue", "answer": True},
            "Sky -- It is blue.\nQuestion: is it blue?\nAnswer: yes",
        ),
        (
            "boolq",
            "boolq/boolq-1k.csv",
            ",prompt,classes,answer_index\n0,\"It is.\nquestion: is it\nanswer:\",\"[' yes', ' no']\",1\n",
            "It is.\nQuestion: is it?\nAnswer: no",
        ),
        (
            "winogrande",
            "winogrande/dev.jsonl",
            {"sentence": "Ann saw that _ was late.", "option1": "Bob", "option2": "Cy", "answer": "2"},
            "Ann saw that Cy was late.",
        ),
        ("lambada_openai", "lambada/lambada_test.jsonl", {"text": "I saw the sea"}, "I saw the sea"),
        (
            "sst2",
            "sst2/stsa.binary.dev",
            "1 a fine film\n",
            "a fine film\nQuestion: Is this sentence positive or negative?\nAnswer: positive",
        ),
        ("rte", "rte/rte.csv", 'prompt,classes,answer_index\n"A.\nAnswer:",x,0\n', "A.\nAnswer: True"),
        ("blimp_causative", "blimp/causative.jsonl", {"sentence_good": "Go.", "sentence_bad": "Goed."}, " Go."),
        (
            "mmlu_anatomy",
            "mmlu/test/anatomy_test.csv",
            "Which? ,w,x,y,z,C\n",
            "Which?\nA. w\nB. x\nC. y\nD. z\nAnswer: C",
        ),
        (
            "mmlu_anatomy",
            "mmlu/test/anatomy_test.csv",
            "question,choice0,choice1,choice2,choice3,answer\nWhich?,w,x,y,z,3\n",
            "Which?\nA. w\nB. x\nC. y\nD. z\nAnswer: D",
        ),
    ],
)
def test_shipped_tasks_understand_published_files(tmp_path, name, file, text, solved):
    """One item in the form in which the set is published, as prompt with right answer."""
    path = tmp_path / file
    path.parent.mkdir(parents=True)
    path.write_text(text if isinstance(text, str) else json.dumps(text) + "\n")
    found = task.find(name)
    member = next(iter(found.members.values()))[0] if found.members else None
    (item,) = read_split(found, [found.task.split], member, tmp_path).items
    assert found.type.solved(item).text == solved


def test_rows_that_hold_lists_become_several(tmp_path):
    """Two questions with two and one answers; `keep` sees them, and fields see the file's columns and those above."""
    row = {"text": "T", "asked": [{"q": "a", "replies": [1, 2]}, {"q": "b", "replies": [3]}]}
    (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n")
    each = {"one": "asked", "reply": "one.replies"}
    fields = {"q": "text ~ one.q", "text": "'new'", "both": "q ~ reply ~ text"}
    read = read_split(selection([{"files": ["a.jsonl"], "each": each, "fields": fields}]), ["test"], None, tmp_path)
    shown = [(item.values["both"], item.values["text"], item.origin) for item in read.items]
    place = f"{tmp_path / 'a.jsonl'}:1"
    assert shown == [
        ("Ta1T", "new", f"{place}[0][0]"),
        ("Ta2T", "new", f"{place}[0][1]"),
        ("Tb3T", "new", f"{place}[1][0]"),
    ]
    kept = values([{"files": ["a.jsonl"], "each": each, "keep": "reply > 1"}], tmp_path)
    assert [item["reply"] for item in kept] == [2, 3]
    with pytest.raises(BadRequest, match=r"'data.each.one' doesn't work for .*:1: it must give a list, not 'T'"):
        values([{"files": ["a.jsonl"], "each": {"one": "text"}}], tmp_path)


def test_a_whole_json_file_is_one_row(tmp_path):
    """What stands beside the list is then seen in each of its elements."""
    (tmp_path / "task.json").write_text('{"prefix": "Q", "examples": [{"input": 1}, {"input": 2}]}')
    given = {
        "files": ["task.json"],
        "whole": True,
        "each": {"example": "examples"},
        "fields": {"a": "prefix ~ example.input"},
    }
    assert [item["a"] for item in values([given], tmp_path)] == ["Q1", "Q2"]
    for text, sentence in (("{", "task.json:1: not valid JSON"), ("[1]", "task.json holds no JSON object")):
        (tmp_path / "task.json").write_text(text)
        with pytest.raises(BadRequest, match=sentence):
            values([given], tmp_path)


def test_the_folder_may_be_the_one_that_names_begin_with(tmp_path):
    (tmp_path / "cola").mkdir()
    (tmp_path / "cola" / "dev.jsonl").write_text('{"a": 1}\n')
    for folder in (tmp_path, tmp_path / "cola"):
        assert values([{"files": ["cola/dev.jsonl"]}], folder) == [{"a": 1}]


def test_members_have_files_beside_theirs(tmp_path):
    (tmp_path / "pro_x.test").write_text("a\n")
    (tmp_path / "anti_x.test").write_text("b\n")
    given = {"files": ["pro_{member}.test"], "lines": ["pro"], "beside": {"anti": "anti_{member}.test"}}
    assert values([given], tmp_path, "x") == [{"pro": "a", "anti": "b", "member": "x"}]
