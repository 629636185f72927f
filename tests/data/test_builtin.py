"""The built-in data: enough of it, well formed, held-out sets really held out, preferences not decided by length."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from importlib.resources import files

import pytest

BUILTIN = files("posttrain.data") / "builtin"

FIELDS = {
    "handbook": {"prompt", "completion"},
    "handbook_heldout": {"prompt", "completion"},
    "preferences": {"prompt", "chosen", "rejected"},
    "preferences_heldout": {"prompt", "chosen", "rejected"},
    "prompts": {"prompt"},
}


def records(name: str) -> list[dict[str, str]]:
    """All records of one built-in JSONL file."""
    return [json.loads(line) for line in (BUILTIN / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def prompts(name: str) -> list[str]:
    """Prompts in lower case without punctuation; `+` stays, because LoRA+ is not LoRA."""
    return [re.sub(r"[^\w+]+", " ", record["prompt"].lower()).strip() for record in records(name)]


def test_counts() -> None:
    assert len(records("handbook")) >= 170
    assert len(records("handbook_heldout")) == 30
    assert len(records("preferences")) >= 240
    assert len(records("preferences_heldout")) >= 60
    assert len(records("prompts")) >= 48


@pytest.mark.parametrize("name", FIELDS)
def test_readme_states_the_number_of_records(name: str) -> None:
    readme = (BUILTIN / "README.md").read_text(encoding="utf-8")
    stated = re.search(rf"`{name}\.jsonl`: (\d+) ", readme)
    assert stated
    assert int(stated[1]) == len(records(name))


@pytest.mark.parametrize("name", FIELDS)
def test_records_hold_exactly_their_fields_as_trimmed_text(name: str) -> None:
    for record in records(name):
        assert set(record) == FIELDS[name]
        for text in record.values():
            assert text
            assert text == text.strip()


@pytest.mark.parametrize("name", [*(f"{name}.jsonl" for name in FIELDS), "prose.txt", "README.md"])
def test_files_are_ascii_and_end_with_one_newline(name: str) -> None:
    content = (BUILTIN / name).read_bytes()
    assert content.isascii()
    assert b"\r" not in content
    assert content.endswith(b"\n")
    assert not content.endswith(b"\n\n")


@pytest.mark.parametrize("name", FIELDS)
def test_prompts_are_unique(name: str) -> None:
    seen = prompts(name)
    assert len(set(seen)) == len(seen)


@pytest.mark.parametrize(
    ("train", "held_out"),
    [
        ("handbook", "handbook_heldout"),
        ("preferences", "handbook_heldout"),
        ("preferences", "preferences_heldout"),
        ("handbook", "preferences_heldout"),
        ("handbook", "prompts"),
        ("preferences", "prompts"),
        ("handbook_heldout", "prompts"),
        ("preferences_heldout", "prompts"),
    ],
)
def test_held_out_prompts_do_not_occur_in_training_data(train: str, held_out: str) -> None:
    assert not set(prompts(train)) & set(prompts(held_out))


@pytest.mark.parametrize("name", ["handbook", "handbook_heldout"])
def test_answers_have_between_20_and_60_words(name: str) -> None:
    for record in records(name):
        assert 20 <= len(record["completion"].split()) <= 60, record["prompt"]


def test_answers_are_not_repeated() -> None:
    answers = [record["completion"] for record in records("handbook") + records("handbook_heldout")]
    assert len(set(answers)) == len(answers)


@pytest.mark.parametrize("name", ["preferences", "preferences_heldout"])
def test_chosen_differs_from_rejected(name: str) -> None:
    assert all(record["chosen"] != record["rejected"] for record in records(name))


def normalized(text: str) -> str:
    """Text in lower case without punctuation, but with the marks that tell one number or sign from another."""
    return re.sub(r"[^\w+*/.-]+", " ", text.lower()).strip(" .")


def answers(name: str) -> list[str]:
    """Chosen and rejected answers of one preference file, normalized."""
    return [normalized(record[field]) for record in records(name) for field in ("chosen", "rejected")]


def test_no_held_out_preference_answer_occurs_in_the_training_pairs() -> None:
    assert not set(answers("preferences")) & set(answers("preferences_heldout"))


@pytest.mark.parametrize("field", ["chosen", "rejected"])
def test_no_held_out_preference_answer_paraphrases_a_training_answer(field: str) -> None:
    # Jaccard overlap of the word sets; only answers of six words or more, since short ones share words by chance.
    train = [set(normalized(record[field]).split()) for record in records("preferences")]
    for record in records("preferences_heldout"):
        words = set(normalized(record[field]).split())
        if len(words) >= 6:
            assert max(len(words & other) / len(words | other) for other in train) <= 0.4, record["prompt"]


@pytest.mark.parametrize("name", ["preferences", "preferences_heldout"])
def test_long_preference_answers_are_not_repeated(name: str) -> None:
    # A number or a name may answer two questions; a sentence may not, or a model could learn the sentence.
    long = [answer for answer in answers(name) if len(answer.split()) >= 4]
    assert len(set(long)) == len(long)


@pytest.mark.parametrize("name", ["preferences", "preferences_heldout"])
def test_chosen_answers_are_short(name: str) -> None:
    assert all(len(record["chosen"].split()) <= 35 for record in records(name))


@pytest.mark.parametrize("name", ["preferences", "preferences_heldout"])
@pytest.mark.parametrize("split", [list, str.split], ids=["characters", "words"])
def test_length_alone_does_not_decide_a_preference(name: str, split: Callable[[str], list[str]]) -> None:
    pairs = records(name)
    longer = sum(len(split(pair["chosen"])) > len(split(pair["rejected"])) for pair in pairs)
    assert 0.4 <= longer / len(pairs) <= 0.6


@pytest.mark.parametrize("name", ["preferences", "preferences_heldout"])
def test_no_ideal_length_decides_a_preference(name: str) -> None:
    # The best rule of the form "prefer the answer whose length is nearer to n words"; a tie counts one half.
    lengths = [(len(pair["chosen"].split()), len(pair["rejected"].split())) for pair in records(name)]

    def accuracy(ideal: int) -> float:
        gaps = [(abs(chosen - ideal), abs(rejected - ideal)) for chosen, rejected in lengths]
        return sum((c < r) + (c == r) / 2 for c, r in gaps) / len(gaps)

    assert max(accuracy(ideal) for ideal in range(1, 80)) <= 0.75


def test_prose_is_long_and_plain() -> None:
    text = (BUILTIN / "prose.txt").read_text(encoding="utf-8")
    assert len(text.split()) > 2500
    assert len(text.split("\n\n")) > 20
    # No markup, and no line breaks inside a paragraph.
    assert not re.search(r"[#*_<>`\[\]{}]", text)
    assert "\n" not in text.strip().replace("\n\n", "")
