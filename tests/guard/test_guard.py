"""What guards share: redaction, streams, data sets."""

from __future__ import annotations

import re

import pytest

from posttrain.data import dataset
from posttrain.data.record import Chat, Completion, QuestionAnswer, Tagged, Text
from posttrain.guard import (
    Finding,
    GuardedStream,
    Redaction,
    TextGuard,
    in_order,
    inspect,
    inspect_dataset,
    overlapping,
    severest,
)


class Words(TextGuard):
    """Finds given words."""

    words: dict[str, str]
    """Word: what becomes of it."""

    def find(self, text: str, whole: bool = True) -> list[Finding]:
        return in_order(
            Finding(word, m.start(), m.end(), "a test", action)  # type: ignore[arg-type]
            for word, action in self.words.items()
            for m in re.finditer(rf"\b{word}\b", text)
        )


def test_the_severest_action_counts():
    assert severest([]) == "allow"
    assert severest([Finding("a", 0, 1, "", "redact"), Finding("a", 0, 1, "", "flag")]) == "redact"
    found = inspect([Words(words={"red": "redact"}), Words(words={"bad": "block", "odd": "flag"})], "odd red bad")
    assert (found.action, found.text) == ("block", "odd [RED] [BAD]")
    assert [each.category for each in found.findings] == ["odd", "red", "bad"]


def test_overlapping_findings_are_replaced_together():
    """[2, 6) and [4, 9) share characters, [9, 11) only touches: two replacements. The block names the first."""
    text = "0123456789abc"
    findings = [
        Finding("b", 4, 9, "", "block"),
        Finding("a", 2, 6, "", "redact"),
        Finding("c", 9, 11, "", "redact", "<c>"),
    ]
    assert [[each.category for each in group] for group in overlapping(findings)] == [["a", "b"], ["c"]]
    redaction = Redaction(text, findings)
    assert redaction.text == "01[B]<c>bc"
    # 01[B]<c>bc: the replacements are [2, 5) and [5, 8).
    assert [redaction.moved(place) for place in (0, 2, 3, 8, 11, 13)] == [0, 2, 2, 2, 8, 10]
    assert [redaction.moved(place, end=True) for place in (2, 3, 9, 10, 11, 12)] == [2, 5, 5, 8, 8, 9]
    assert Redaction(text, [Finding("a", 2, 6, "", "flag")]).text == text


def test_a_term_split_over_pieces_is_held_back_until_it_is_whole():
    stream = GuardedStream([Words(words={"secret": "redact"})], window=8)
    shown = [stream.feed(piece) for piece in ("the se", "cr", "et is sec", "ret.")]
    assert "sec" not in "".join(shown)
    assert "".join([*shown, stream.finish()]) == "the [SECRET] is [SECRET]."
    assert [(each.start, each.end) for each in stream.findings] == [(4, 10), (14, 20)]


def test_nothing_is_let_out_after_a_block():
    stream = GuardedStream([Words(words={"stop": "block"})], window=4)
    shown = "".join(stream.feed(piece) for piece in "all is well. stop here and now")
    assert stream.blocked and stream.action == "block"
    assert shown + stream.feed("more") + stream.finish() == "all is well. "


def test_what_was_let_out_is_not_found_twice():
    stream = GuardedStream([Words(words={"odd": "flag"})], window=5)
    text = "odd " * 20
    assert "".join([*(stream.feed(each) for each in text), stream.finish()]) == text
    assert [each.start for each in stream.findings] == list(range(0, 80, 4))


RED = Words(words={"red": "redact", "bad": "block"})


def test_every_text_of_a_record_is_looked_at():
    rows = [{"prompt": "red apples", "completion": "are red"}, {"prompt": "bad", "completion": "x"}]
    found = inspect_dataset([RED], dataset.read(rows))
    assert found.dataset.records == [Completion("[RED] apples", "are [RED]")]
    assert found.actions == {"allow": 0, "flag": 0, "redact": 1, "block": 1}
    assert found.categories() == {"red": 2, "bad": 1}
    assert [each.origin for each in found.found] == ["rows:1", "rows:1", "rows:2"]


def test_messages_keep_their_roles_and_tools():
    messages = [
        {"role": "user", "content": "is it red?"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"type": "function", "function": {"name": "red", "arguments": {"q": "red"}}}],
        },
        {"role": "assistant", "content": [{"type": "text", "text": "red!"}]},
    ]
    (record,) = inspect_dataset([RED], dataset.Dataset([Chat(messages, None, "x:1")], "chat", "x")).dataset.records
    assert isinstance(record, Chat)
    assert record.messages[0] == {"role": "user", "content": "is it [RED]?"}
    assert record.messages[1]["tool_calls"][0]["function"] == {"name": "red", "arguments": {"q": "[RED]"}}
    assert record.messages[2]["content"] == [{"type": "text", "text": "[RED]!"}]


def test_answers_move_with_their_context():
    record = QuestionAnswer("What is red?", "the red and green apple", ["green apple", "red and"], [12, 4], "x:1")
    (clean,) = inspect_dataset([RED], dataset.Dataset([record], "question_answer", "x")).dataset.records
    assert clean == QuestionAnswer("What is [RED]?", "the [RED] and green apple", ["green apple", "[RED] and"], [14, 4])


def test_words_keep_their_tags():
    guard = Words(words={"red apple": "redact"})
    record = Tagged(["a", "red", "apple", "fell"], ["O", "B", "I", "O"], "x:1")
    (clean,) = inspect_dataset([guard], dataset.Dataset([record], "tagged", "x")).dataset.records
    assert clean == Tagged(["a", "[RED APPLE]", "[RED APPLE]", "fell"], ["O", "B", "I", "O"])


def test_labels_are_no_text():
    rows = [{"text": "it is red", "label": "red"}]
    (clean,) = inspect_dataset([RED], dataset.read(rows)).dataset.records
    assert (clean.text, clean.labels) == ("it is [RED]", "red")  # type: ignore[union-attr]


def test_a_harmless_set_stays_as_it_is():
    data = dataset.read([{"text": "green"}, {"text": "blue"}])
    found = inspect_dataset([RED], data)
    assert found.dataset.records == [Text("green"), Text("blue")]
    assert found.found == [] and found.actions["allow"] == 2


@pytest.mark.parametrize("window", [1, 3, 50])
def test_the_window_changes_when_not_what(window):
    guard = Words(words={"a": "redact"})
    stream = GuardedStream([guard], window)
    text = "a b a c d a"
    assert "".join([*(stream.feed(each) for each in text), stream.finish()]) == guard.inspect(text).text
