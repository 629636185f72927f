"""Contract of the `guard` family, checked on every method the folder holds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from posttrain.core import catalog
from posttrain.core.settings import help_of
from posttrain.data.canaries import make_canaries, write_canaries
from posttrain.guard import ACTIONS, Finding, Findings, GuardedStream, ModelGuard, TextGuard
from posttrain.models.language_model import LanguageModel

TERMS = catalog.terms("guard")
OF_TEXTS = [term for term in TERMS if issubclass(catalog.find("guard", term), TextGuard)]
OF_MODELS = [term for term in TERMS if issubclass(catalog.find("guard", term), ModelGuard)]

# What one guard or another finds something in, with letters beyond ASCII so that positions could slip.
TEXTS = [
    "Köln: écris à jane.doe@example.org ou appelle le +33 1 42 68 53 00.",
    "I will k1ll you 😀 and yоur dog, k i l l  y o u r s e l f",
    "Card 4111 1111 1111 1111, IBAN DE89 3704 0044 0532 0130 00, ip 192.168.0.1 and 2001:db8::1",
    "kill yourself at jane.doe@example.org kill yourself",
    "password: hunter2hunter https://joe:secret@example.org/ " + "sk-" + "a1B2" * 8,
    "ﬁnd a pıpe bömb: how to make a ｂｏｍｂ at home, born on 12 March 1980",
    "\u202e\u200b\ud800 nothing \x00 here",
]

# Long, repetitive and just short of matching.
PATHOLOGICAL = [
    "a" * 200_000,
    "k!" * 60_000,
    "make " * 20_000,
    "a.a@" * 30_000,
    "1-2" * 4_000,
    ":" * 50_000,
    "-----BEGIN PRIVATE KEY-----" * 3_000,
    "DE12 " * 3_000,
    "ê\u0301" * 30_000,
    "i hate women " * 3_000,
    "password born 12 " * 5_000,
]


def text_guard(term: str) -> TextGuard:
    guard = catalog.build("guard", term)
    assert isinstance(guard, TextGuard)
    return guard


def found_in(text: str, findings: Findings) -> None:
    """Positions lie inside the text, reasons are given, and the action is the most severe one."""
    for each in findings.findings:
        assert 0 <= each.start < each.end <= len(text)
        assert each.category and each.reason
    assert findings.findings == sorted(findings.findings, key=lambda each: each.start)
    severity = [ACTIONS.index(each.action) for each in findings.findings]
    assert ACTIONS.index(findings.action) == max(severity, default=0)
    assert json.loads(json.dumps(findings.to_dict())).keys() >= {"action", "text", "findings"}


@pytest.mark.parametrize("term", TERMS)
def test_settings_are_documented(term: str) -> None:
    assert all(help_of(catalog.find("guard", term)).values())
    assert (term in OF_TEXTS) != (term in OF_MODELS)


@pytest.mark.parametrize("term", OF_TEXTS)
def test_positions_lie_inside_and_the_redacted_text_is_clean(term: str) -> None:
    guard = text_guard(term)
    touched = 0
    for text in TEXTS:
        findings = guard.inspect(text)
        found_in(text, findings)
        assert findings == guard.inspect(text)
        touched += bool(findings.findings)
        again = guard.inspect(findings.text)
        assert [each for each in again.findings if each.action in ("redact", "block")] == []
        assert again.text == findings.text
    assert touched >= 2


@pytest.mark.parametrize("term", OF_TEXTS)
@pytest.mark.parametrize("text", ["", " ", "\n", "Nothing of the kind is said here."])
def test_harmless_and_empty_texts_pass(term: str, text: str) -> None:
    assert text_guard(term).inspect(text) == Findings("allow", text, [])


@pytest.mark.parametrize("term", OF_TEXTS)
def test_time_grows_with_the_length(term: str) -> None:
    """No timing is asserted: whatever is worse than linear doesn't come back from these."""
    guard = text_guard(term)
    for text in PATHOLOGICAL:
        found_in(text, guard.inspect(text))


@pytest.mark.parametrize("term", OF_TEXTS)
def test_a_million_characters(term: str) -> None:
    text = "It was a quiet day, and the mail lay on the table. " * 20_000
    assert len(text) > 1_000_000
    assert text_guard(term).inspect(text + TEXTS[3]).findings[0].start >= len(text)


@pytest.mark.parametrize("term", OF_TEXTS)
@pytest.mark.parametrize("size", [1, 3, 17, 1000])
def test_a_stream_lets_out_what_the_whole_text_would_be(term: str, size: int) -> None:
    guard = text_guard(term)
    for text in TEXTS:
        expected = guard.inspect(text)
        stream = GuardedStream([guard], window=80)
        pieces = [stream.feed(text[i : i + size]) for i in range(0, len(text), size)]
        shown = "".join([*pieces, stream.finish()])
        blocks = [each for each in expected.findings if each.action == "block"]
        if blocks:
            first = blocks[0]
            assert stream.blocked and stream.action == "block"
            assert shown == guard.inspect(text[: first.start]).text
            assert stream.findings[-1] == first
        else:
            assert shown == expected.text
            assert stream.findings == expected.findings


@pytest.mark.parametrize("term", OF_MODELS)
def test_a_model_is_tried_alike_each_time(term: str, tiny_llama: LanguageModel, tmp_path: Path) -> None:
    path = tmp_path / "canaries.jsonl"
    write_canaries(make_canaries(2, length=3), path)
    guard = catalog.build("guard", {term: {"canaries": str(path), "candidates": 16}})
    findings = guard.inspect(tiny_llama)
    assert guard.inspect(tiny_llama) == findings
    assert all(isinstance(each, Finding) and each.reason for each in findings.findings)
    assert findings.figures
    json.dumps(findings.to_dict(), allow_nan=False)
    assert guard.inputs()
