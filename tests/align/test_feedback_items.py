"""What is compared: items from files and from a model."""

from __future__ import annotations

import json

import pytest

from posttrain.align.feedback_items import LETTERS, Item, read_items, read_prompts, sample_items
from posttrain.core.errors import BadRequest
from posttrain.core.events import listen


@pytest.fixture
def warnings():
    heard = []
    with listen(lambda event: heard.append(event.name) if event.fields.get("level") == "warning" else None):
        yield heard


def write(path, *rows):
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(path)


def test_the_order_of_answers_doesnt_matter():
    one, other = Item("p", ("x", "y", "z"), "here").canonical(), Item("p", ("z", "x", "y"), "there").canonical()
    assert one.hash == other.hash
    assert one.answers == other.answers
    assert Item("q", ("x", "y", "z")).canonical().hash != one.hash
    assert len(one.hash) == 64


def test_the_order_of_answers_says_nothing_about_them():
    """Of 400 pairs the alphabetically first answer comes first in half; 4 standard deviations are 40."""
    firsts = sum(Item("p", (f"a{i}", f"b{i}")).canonical().answers[0] == f"a{i}" for i in range(400))
    assert 160 < firsts < 240


def test_text_among_messages_becomes_a_message():
    prompt = [{"role": "user", "content": "Why?"}]
    item = Item(prompt, ("x", [{"role": "assistant", "content": "y"}])).canonical()
    assert item.prompt == prompt
    assert sorted(answer[0]["content"] for answer in item.answers) == ["x", "y"]
    assert {answer[0]["role"] for answer in item.answers} == {"assistant"}


@pytest.mark.parametrize(
    ("answers", "sentence"),
    [
        (("x",), "f:3: 1 answers, but an item has 2 to 16"),
        (tuple(f"{i}" for i in range(17)), "f:3: 17 answers"),
        (("x", "y", "x"), "f:3: two of the answers are equal"),
        (("x", "\ud800"), "f:3: a text holds half a character"),
    ],
)
def test_what_cant_be_compared(answers, sentence):
    with pytest.raises(BadRequest, match=sentence):
        Item("p", answers, "f:3").canonical()


def test_preference_records(tmp_path, warnings):
    path = write(
        tmp_path / "pairs.jsonl",
        {"prompt": "p", "chosen": "good", "rejected": "bad"},
        {"prompt": "q", "chosen": "same", "rejected": "same"},
    )
    assert read_items(path) == [Item("p", ("good", "bad"), f"{path}:1")]
    assert warnings == ["1 of 2 items left out: their answers are equal."]


def test_rows_of_prompt_and_answers(tmp_path):
    path = write(
        tmp_path / "pairs.jsonl",
        {"prompt": "p", "answers": ["x", "y", "z", "x"]},
        {"prompt": [{"from": "human", "value": "q"}], "answers": ["x", [{"from": "gpt", "value": "y"}]]},
    )
    first, second = read_items(path)
    assert first == Item("p", ("x", "y", "z"), f"{path}:1")
    assert second.prompt == [{"role": "user", "content": "q"}]
    assert second.answers == ("x", [{"role": "assistant", "content": "y"}])


@pytest.mark.parametrize(
    ("second", "sentence"),
    [
        ("{", "pairs.jsonl:2: not valid JSON"),
        ({"answers": ["x", "y"]}, "pairs.jsonl:2: 'prompt' must be a list of messages, not null"),
        ({"prompt": " ", "answers": ["x", "y"]}, "pairs.jsonl:2: 'prompt' is empty"),
        ({"prompt": "p", "answers": "x"}, "pairs.jsonl:2: 'answers' must be a list of 2 to 16 answers, not text"),
        ({"prompt": "p", "answers": ["x"]}, "pairs.jsonl:2: 'answers' must be .* not a list of 1"),
        ({"prompt": "p", "answers": ["x", 3]}, "pairs.jsonl:2: 'answers', number 2, must be a list of messages"),
        ({"prompt": "p", "answers": [[{"role": "x", "content": ""}], "y"]}, "pairs.jsonl:2: .* the role 'x'"),
    ],
)
def test_malformed_rows_are_named(tmp_path, second, sentence):
    path = write(tmp_path / "pairs.jsonl", {"prompt": "p", "answers": ["x", "y"]}, second)
    with pytest.raises(BadRequest, match=sentence):
        read_items(path)


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({"prompt": "p", "chosen": "x"}, "pairs.jsonl:1"),
        ({"prompt": "p", "chosen": "x", "rejected": "x"}, "nothing to compare"),
        ({"prompt": "p", "answers": ["x", "x"]}, "nothing to compare"),
    ],
)
def test_files_without_items(tmp_path, row, sentence):
    with pytest.raises(BadRequest, match=sentence):
        read_items(write(tmp_path / "pairs.jsonl", row))


def test_built_in_pairs():
    assert len(read_items("builtin:preferences")) > 50
    assert len(read_prompts("builtin:prompts")) > 12


def test_prompts(tmp_path):
    (tmp_path / "prompts.txt").write_text("one\n\ntwo\n")
    assert read_prompts(str(tmp_path / "prompts.txt")) == ["one", "two"]
    dialogue = [{"role": "user", "content": "q"}]
    pairs = write(tmp_path / "p.jsonl", {"prompt": dialogue, "chosen": "x", "rejected": "y"})
    assert read_prompts(pairs) == [dialogue]
    with pytest.raises(BadRequest, match=r"c\.jsonl:1: a chat record has no prompt"):
        read_prompts(write(tmp_path / "c.jsonl", {"messages": [*dialogue, {"role": "assistant", "content": "x"}]}))


class Writer:
    """Stands for a model: `answers` are given to each prompt, one a call."""

    def __init__(self, answers):
        self.answers = {prompt: iter(texts) for prompt, texts in answers.items()}
        self.asked = []

    def __call__(self, prompts, seed):
        self.asked.append((list(prompts), seed))
        return [next(self.answers[prompt]) for prompt in prompts]


def test_two_different_answers_to_each_prompt(warnings):
    """p differs at once, q in the third answer, r never within the first and five more."""
    writer = Writer({"p": ["a", "b"], "q": ["a", " a", "c"], "r": ["a"] * 6})
    assert sample_items(["p", "q", "r"], writer, source="model") == [
        Item("p", ("a", "b"), "model"),
        Item("q", ("a", "c"), "model"),
    ]
    asked = [prompts for prompts, _ in writer.asked]
    assert asked == [["p", "q", "r"], ["p", "q", "r"], ["q", "r"], ["r"], ["r"], ["r"]]
    assert len({seed for _, seed in writer.asked}) == 6
    assert warnings == ["1 of 3 prompts left out: one answer only."]


def test_the_seed_decides_all_draws():
    def seeds(seed):
        writer = Writer({"p": ["a", "a", "b"]})
        sample_items(["p"], writer, source="model", seed=seed)
        return [drawn for _, drawn in writer.asked]

    assert seeds(1) == seeds(1)
    assert not set(seeds(1)) & set(seeds(2))


def test_a_model_that_always_says_the_same():
    with pytest.raises(BadRequest, match="same answer"):
        sample_items(["p"], Writer({"p": ["a"] * 6}), source="model")


def test_every_answer_has_a_letter():
    assert len(LETTERS) == len(set(LETTERS)) == 16
    assert not set(LETTERS.lower()) & set("squ")  # the commands of `posttrain feedback`
