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
    assert len(records("preferences")) >= 100
    assert len(records("preferences_heldout")) == 24
    assert len(records("prompts")) == 12


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


@pytest.mark.parametrize("name", ["preferences", "preferences_heldout"])
@pytest.mark.parametrize("split", [list, str.split], ids=["characters", "words"])
def test_length_alone_does_not_decide_a_preference(name: str, split: Callable[[str], list[str]]) -> None:
    pairs = records(name)
    longer = sum(len(split(pair["chosen"])) > len(split(pair["rejected"])) for pair in pairs)
    assert 0.3 <= longer / len(pairs) <= 0.7


def test_prose_is_long_and_plain() -> None:
    text = (BUILTIN / "prose.txt").read_text(encoding="utf-8")
    assert len(text.split()) > 2500
    assert len(text.split("\n\n")) > 20
    # No markup, and no line breaks inside a paragraph.
    assert not re.search(r"[#*_<>`\[\]{}]", text)
    assert "\n" not in text.strip().replace("\n\n", "")
