from __future__ import annotations

import json

import pytest
from word_tokenizer import CHATML, word_tokenizer

from posttrain.data.audit import audit
from posttrain.data.dataset import read

ROWS = [
    {"prompt": "Hi", "completion": " Bye"},  # 4 tokens, 3 learned
    {"prompt": "Hi Bye Hi", "completion": " so"},  # 8 tokens, 3 learned, the first of them the sixth
    {
        "prompt": "hi",
        "completion": "  bye",
    },  # repeats the first row: <unk>, two blanks, <unk>, <eos>; 5 tokens, 4 learned
]


def test_audit_by_hand():
    found = audit(read(ROWS), word_tokenizer(), max_length=5)
    assert (found.rows, found.tokens, found.loss_tokens) == (3, 17, 10)
    assert found.loss_share == pytest.approx(10 / 17)
    assert (found.longest, found.longest_row, found.median_length) == (8, "rows:2", 5)
    assert (found.truncated, found.truncated_rows) == (1, ["rows:2"])
    assert (found.no_loss, found.no_loss_rows) == (1, ["rows:2"])  # within the limit, only the prompt is left of it
    assert found.duplicates == 1
    assert found.samples == [[("Hi", False), (" ", True), ("Bye", True), ("<eos>", True)]]
    assert found.render_sample() == "Hi⟦ Bye<eos>⟧"
    assert (found.kind, found.source, found.hash) == ("completion", "rows", read(ROWS).hash)


def test_chats_show_where_loss_begins_and_ends():
    rows = [
        {"messages": [{"role": r, "content": c} for r, c in (("user", "Hi"), ("assistant", "Hello"), ("user", "Bye"))]}
    ]
    found = audit(read(rows), word_tokenizer(CHATML))
    assert found.render_sample() == (
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n⟦Hello<|im_end|>\n⟧<|im_start|>user\nBye<|im_end|>\n"
    )
    assert (found.truncated, found.no_loss, found.max_length) == (0, 0, None)


def test_both_sides_of_a_preference_count():
    """Hi·Bye<eos> and Hi·so·so<eos>: 4 + 6 tokens, of which 3 + 5 are learned; the longer side is the row's length."""
    found = audit(read([{"prompt": "Hi", "chosen": " Bye", "rejected": " so so"}]), word_tokenizer(), max_length=5)
    assert (found.rows, found.tokens, found.loss_tokens, found.longest, found.truncated) == (1, 10, 8, 6, 1)
    assert [len(sample) for sample in found.samples] == [4, 6]
    assert found.render_sample(1) == "Hi⟦ so so<eos>⟧"


@pytest.mark.parametrize(
    ("row", "tokens"),
    [
        ({"text": "Hi Bye", "label": 1}, 3),
        ({"sentence1": "Hi", "sentence2": "Bye", "label": 1}, 3),  # joined by a line break
        ({"tokens": ["Hi", "Bye"], "tags": ["O", "O"]}, 3),
        ({"question": "so", "context": "Hi Bye", "answers": ["Hi"]}, 5),
        ({"source": "Hi", "target": "Bye"}, 3),
    ],
)
def test_records_without_loss_on_tokens_are_measured_only(row: dict[str, object], tokens: int):
    found = audit(read([row]), word_tokenizer())
    assert (found.tokens, found.loss_tokens, found.loss_share, found.no_loss) == (tokens, None, None, 0)
    assert "⟦" not in found.render_sample()


def test_to_dict_is_json():
    found = json.loads(json.dumps(audit(read(ROWS), word_tokenizer()).to_dict()))
    assert found["rows"] == 3
    assert found["sample"] == "Hi⟦ Bye<eos>⟧"
    assert found["samples"][0][1] == [" ", True]


def test_a_character_of_several_tokens_stands_with_the_last(tiny_tokenizer):
    """é is two bytes and two tokens; shown are "", "é"."""
    found = audit(read([{"text": "aé"}]), tiny_tokenizer)
    assert [text for text, _ in found.samples[0]] == ["a", "", "é", "<|im_end|>"]


def test_no_samples():
    found = audit(read(ROWS), word_tokenizer(), samples=0)
    assert (found.samples, found.render_sample()) == ([], "")
