"""Task files: those that are shipped, members and categories, and what a wrong file is told."""

from __future__ import annotations

import pytest

from posttrain.bench import task
from posttrain.core.errors import BadRequest

GOOD = """\
summary: A test.
version: "1"
license: none
homepage: nowhere
data: {test: [{files: [a.jsonl]}]}
split: test
type:
  multiple_choice:
    prompt: "{{ question }}"
    choices: choices
    answer: answer
"""


@pytest.fixture
def written(tmp_path):
    """Write a task file in which some text is replaced."""

    def write(old="", new=""):
        assert old in GOOD
        file = tmp_path / "own.yaml"
        file.write_text(GOOD.replace(old, new) if old else GOOD)
        task.read.cache_clear()
        return str(file)

    return write


@pytest.mark.parametrize("name", task.names())
def test_shipped_tasks_are_complete(name):
    found = task.find(name)
    assert found.name == name == found.file.stem
    assert found.task.summary.endswith(".")
    assert len(found.task.summary) <= 120
    assert found.task.metrics
    for sources in found.task.data.values():
        assert any(source.files for source in sources), "a task can be run without the hub"
    if found.task.examples and found.task.examples.splits:
        assert found.task.examples.splits[-1] in found.task.data


def test_members_and_categories():
    """MMLU's 57 subjects in 4 categories, BLiMP's 67 phenomena in 12, as in the papers."""
    mmlu, blimp = task.find("mmlu"), task.find("blimp")
    assert [len(members) for members in mmlu.members.values()] == [19, 13, 12, 13]
    assert sum(map(len, blimp.members.values())) == 67
    assert len(blimp.members) == 12
    assert task.find("mmlu_stem").members == {"stem": mmlu.members["stem"]}
    assert task.find("mmlu_us_foreign_policy").members == {"social_sciences": ["us_foreign_policy"]}
    assert task.find("mmlu_anatomy").file.stem == "mmlu"
    assert task.find("hellaswag").members == {}


def test_a_file_of_ones_own(written):
    found = task.find(written())
    assert found.name == "own"
    assert found.type.prompt == "{{ question }}"


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("helaswag", "Did you mean 'hellaswag'"),
        ("mmlu_anatomi", "'mmlu_anatomy'"),
        ("zzz", "Known: aqua_rat, arc_"),
    ],
)
def test_unknown_tasks(name, hint):
    with pytest.raises(BadRequest) as raised:
        task.find(name)
    assert raised.value.problem == f"There is no task '{name}'."
    assert hint in raised.value.suggestion


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("prompt:", "promt:", "Unknown key 'type.multiple_choice.promt'. Did you mean 'prompt'?"),
        ("{{ question }}", "{{ question", "'type.multiple_choice.prompt' doesn't fit: not a template"),
        ("    answer: answer\n", "", "give either `answer` or `labels`"),
        ("multiple_choice", "multiple_choise", "Did you mean 'multiple_choice'?"),
        ("split: test", "split: dev", "`data` has no split dev"),
        ("split: test\n", "", "'split' is missing. The split whose items are asked."),
        ("files:", "fils:", "Unknown key 'data.test[0].fils'. Did you mean 'files'"),
        ("{files: [a.jsonl]}", "{beside: {a: b}}", "give `files`, `hub` or both"),
        ("split: test", "split: test\nexamples: {number: 3}", "give either `from` or `fixed`"),
        ('version: "1"', "version: ]", "line 2, column 10: not valid YAML"),
        ('version: "1"', 'version: "1"\nversion: "2"', "line 3, column 1: not valid YAML: the key 'version' stands"),
        ("choices: choices", "choices: choices\n    metrics: [accuracy]", "'acc_norm'"),
    ],
)
def test_a_wrong_file_is_named_with_its_key(written, old, new, sentence):
    file = written(old, new)
    with pytest.raises(BadRequest) as raised:
        task.find(file)
    assert file in raised.value.problem
    assert sentence in str(raised.value)


def test_a_missing_file(tmp_path):
    with pytest.raises(BadRequest, match=r"There is no task file .*none.yaml"):
        task.find(str(tmp_path / "none.yaml"))


def test_extending_a_task(written):
    """Keys of its own replace those of the other task whole; files are looked for beside the extending one."""
    base = task.Path(written())
    other = base.with_name("other.yaml")
    other.write_text('extends: own.yaml\nsummary: Other.\nitem_metrics: {twice: "2 * acc"}\n')
    found = task.find(str(other)).task
    assert (found.summary, found.version, found.metrics) == ("Other.", "1", ("acc", "twice"))
    assert found.type == task.find(str(base)).task.type
    other.write_text("extends: handbook_quiz\nsummary: Ours.\n")
    task.read.cache_clear()
    assert task.find(str(other)).task.data == task.find("handbook_quiz").task.data
    for name, sentence in (("none", "There is no task file"), ("other.yaml", "extends itself")):
        other.write_text(f"extends: {name}\n")
        task.read.cache_clear()
        with pytest.raises(BadRequest, match=sentence):
            task.find(str(other))


def test_members_that_aren_t_listed():
    """Any task.json of BIG-bench is a member; the longest task's name that fits is meant."""
    found = task.find("bigbench_date_understanding")
    assert (found.file.stem, found.members) == ("bigbench", {"further": ["date_understanding"]})
    assert task.find("bigbench_generative_word_sorting").file.stem == "bigbench_generative"
    assert task.find("bigbench_strategyqa").members == {"lite": ["strategyqa"]}
    with pytest.raises(BadRequest, match="There is no task 'bbh_word_sortin'"):
        task.find("bbh_word_sortin")
