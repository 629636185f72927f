"""Exact ids and masks, in the notation of `word_tokenizer.show`: ``·`` blank, ``¶`` line break, ``*`` carries loss."""

from __future__ import annotations

from typing import Any

import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast
from word_tokenizer import CHATML, HEADLESS, MARKED, THOUGHTS, show, word_tokenizer

from posttrain.core.errors import BadRequest
from posttrain.core.events import Event, listen
from posttrain.data.chat_template import encode, encode_all, render
from posttrain.data.encoded import Encoded
from posttrain.data.record import Chat, Completion, Dialogue, Labelled, Record, Text

DIALOGUE: Dialogue = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello"},
    {"role": "user", "content": "Bye"},
    {"role": "assistant", "content": "Ciao"},
]


def encoded(record: Record, tokenizer: PreTrainedTokenizerFast, **options: Any) -> Encoded | None:
    return encode(record, tokenizer, **{"max_length": None, **options})


def characters(merges: list[tuple[str, str]]) -> PreTrainedTokenizerFast:
    """A token per letter a, b, c and per merge."""
    tokens = ["a", "b", "c", *("".join(merge) for merge in merges), "<eos>"]
    model = models.BPE({token: index for index, token in enumerate(tokens)}, merges)
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(model), eos_token="<eos>")


def test_text_learns_all_but_the_first_token():
    assert show(encoded(Text("Hi Bye"), word_tokenizer())) == "Hi *· *Bye *<eos>"
    assert show(encoded(Text("Hi Bye"), word_tokenizer(), append_eos=False)) == "Hi *· *Bye"
    assert show(encoded(Text("Hi<eos>"), word_tokenizer())) == "Hi *<eos>"


def test_what_the_tokenizer_adds_is_kept_and_not_doubled():
    assert show(encoded(Text("Hi"), word_tokenizer(adds="<s> $A"))) == "<s> *Hi *<eos>"
    assert show(encoded(Text("Hi"), word_tokenizer(adds="<s> $A <eos>"))) == "<s> *Hi *<eos>"
    closing = word_tokenizer(adds="<s> $A <eos>")
    assert show(encoded(Completion("Hi", " Bye"), closing)) == "<s> Hi *· *Bye *<eos>"


def test_without_an_end_token_nothing_is_appended():
    assert show(encoded(Text("Hi Bye"), word_tokenizer(eos=None))) == "Hi *· *Bye"
    assert show(encoded(Completion("Hi", " Bye"), word_tokenizer(eos=None))) == "Hi *· *Bye"


def test_completion_learns_what_follows_the_prompt_and_the_end():
    tokenizer = word_tokenizer()
    assert show(encoded(Completion("Hi ", "Bye"), tokenizer)) == "Hi · *Bye *<eos>"
    assert show(encoded(Completion("Hi", " Bye"), tokenizer)) == "Hi *· *Bye *<eos>"
    assert show(encoded(Completion("Hi", " Bye<eos>"), tokenizer)) == "Hi *· *Bye *<eos>"
    assert show(encoded(Completion("", "Hi Bye"), tokenizer)) == "Hi *· *Bye *<eos>"
    assert show(encoded(Completion("Hi", ""), tokenizer)) == "Hi *<eos>"
    assert show(encoded(Completion("Hi Bye", " so"), tokenizer, train_on="all")) == "Hi *· *Bye *· *so *<eos>"
    assert show(encoded(Completion("Hi", " Bye"), word_tokenizer(adds="<s> $A"))) == "<s> Hi *· *Bye *<eos>"


def test_a_token_merged_across_the_boundary_carries_loss():
    """ "ab" + "c" is a, bc: the ids of the whole text, of which the prompt's a, b share only a."""
    item = encoded(Completion("ab", "c"), characters([("b", "c")]))
    assert item is not None
    assert (item.input_ids, item.loss_mask) == ([0, 3, 4], [False, True, True])


def test_where_the_prompt_is_cut_otherwise_the_loss_begins_at_the_first_difference():
    """ "ab" alone is one token; in "abc", where b and c merge first, it is a, bc. Nothing is shared but the first token
    can't be learned, so loss begins with the second."""
    item = encoded(Completion("ab", "c"), characters([("b", "c"), ("a", "b")]))
    assert item is not None
    assert (item.input_ids, item.loss_mask) == ([0, 3, 5], [False, True, True])


CHATTED = (
    "<|im_start|> user ¶ Hi <|im_end|> ¶ <|im_start|> assistant ¶ *Hello *<|im_end|> *¶ "
    "<|im_start|> user ¶ Bye <|im_end|> ¶ <|im_start|> assistant ¶ *Ciao *<|im_end|> *¶"
)


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (CHATML, CHATTED),
        (HEADLESS, CHATTED),
        (MARKED, CHATTED.replace("*¶", "¶")),
        (THOUGHTS, f"{CHATTED} *<eos>"),
    ],
)
def test_chat_learns_the_assistants_messages(template: str, expected: str):
    tokenizer = word_tokenizer(template)
    item = encoded(Chat(DIALOGUE), tokenizer)
    assert show(item) == expected
    assert item is not None
    assert item.input_ids == tokenizer.apply_chat_template(DIALOGUE, tokenize=True)["input_ids"]


def test_thoughts_that_the_template_strips_are_not_learned():
    dialogue = [{**turn, "content": f"so!{turn['content']}"} for turn in DIALOGUE]
    assert (
        show(encoded(Chat(dialogue), word_tokenizer(THOUGHTS))) == CHATTED.replace("*Ciao", "*so *! *Ciao") + " *<eos>"
    )


def test_chat_on_all_tokens():
    shown = show(encoded(Chat(DIALOGUE[:2]), word_tokenizer(CHATML), train_on="all"))
    assert shown == "<|im_start|> *user *¶ *Hi *<|im_end|> *¶ *<|im_start|> *assistant *¶ *Hello *<|im_end|> *¶"


@pytest.mark.parametrize("template", [CHATML, MARKED])
def test_completion_through_the_template(template: str):
    expected = "<|im_start|> user ¶ Hi <|im_end|> ¶ <|im_start|> assistant ¶ *Hello *<|im_end|> " + (
        "¶" if template == MARKED else "*¶"
    )
    assert show(encoded(Completion("Hi", "Hello"), word_tokenizer(template), chat=True)) == expected
    assert show(encoded(Completion(DIALOGUE[:1], DIALOGUE[1:2]), word_tokenizer(template))) == expected


@pytest.mark.parametrize("template", [CHATML, MARKED])
def test_answers_inside_the_prompt_are_not_learned(template: str):
    shown = show(encoded(Completion(DIALOGUE[:3], DIALOGUE[3:]), word_tokenizer(template)))
    assert shown == CHATTED.replace("*Hello *<|im_end|> *¶", "Hello <|im_end|> ¶")


def test_tools_reach_the_template():
    template = "{% if tools %}{{ 'tools\n' }}{% endif %}" + CHATML
    shown = show(encoded(Chat(DIALOGUE[:2], tools=[{"name": "f"}]), word_tokenizer(template)))
    assert shown.startswith("tools ¶ <|im_start|> user")
    assert shown.endswith("assistant ¶ *Hello *<|im_end|> *¶")


def test_render():
    text = "<|im_start|>user\nHi<|im_end|>\n"
    assert render(DIALOGUE[:1], word_tokenizer(CHATML)) == text
    assert render(DIALOGUE[:1], word_tokenizer(CHATML), add_generation_prompt=True) == f"{text}<|im_start|>assistant\n"


def test_errors_name_the_record():
    record = Chat(DIALOGUE, origin="f:7")
    with pytest.raises(BadRequest, match="tokenizer has no chat template"):
        encoded(record, word_tokenizer())
    with pytest.raises(BadRequest, match=r"f:7: the chat template refuses this conversation: roles must alternate"):
        encoded(record, word_tokenizer("{{ raise_exception('roles must alternate') }}"))
    with pytest.raises(BadRequest, match=r"f:7: the chat template doesn't show where message 2 begins and ends"):
        encoded(record, word_tokenizer("{{ messages | length }}{{ 'Hi' }}"))
    with pytest.raises(BadRequest, match=r"f:7: messages can't be encoded without the chat template"):
        encoded(record, word_tokenizer(CHATML), chat=False)
    with pytest.raises(BadRequest, match=r"f:8: a labelled record is not text to continue"):
        encoded(Labelled("Hi", 1, origin="f:8"), word_tokenizer())


def test_too_long_is_an_error_unless_decided():
    """Hi·Bye·so and its end are 6 tokens."""
    record = Completion("Hi Bye", " so", origin="f:3")
    assert show(encoded(record, word_tokenizer(), max_length=6)) == "Hi · Bye *· *so *<eos>"
    with pytest.raises(BadRequest) as error:
        encoded(record, word_tokenizer(), max_length=5)
    assert str(error.value) == (
        "f:3: 6 tokens, but max_length is 5. Raise max_length, or decide with --set too_long=… (truncate or skip)."
    )
    assert encoded(record, word_tokenizer(), max_length=5, too_long="skip") is None
    assert show(encoded(record, word_tokenizer(), max_length=4, too_long="truncate")) == "Hi · Bye *·"
    assert encoded(record, word_tokenizer(), max_length=3, too_long="truncate") is None  # nothing left to learn


RECORDS: list[Record] = [
    Completion("Hi", " Bye", origin="f:1"),  # 4 tokens
    Completion("Hi", " Bye Bye", origin="f:2"),  # 6 tokens
    Completion("Hi Bye Hi", " so", origin="f:3"),  # 8 tokens, the first 5 of them the prompt's
    Chat([{"role": "user", "content": "Hi"}], origin="f:4"),  # 6 tokens, none the assistant's
    Text("so", origin="f:5"),  # 2 tokens
]


def warnings_of(**options: Any) -> tuple[Any, list[str]]:
    events: list[Event] = []
    with listen(events.append):
        result = encode_all(RECORDS, word_tokenizer(CHATML), **options)
    return result, [event.name for event in events if event.kind == "message"]


def test_a_set_keeps_the_order_and_accounts_for_every_record():
    result, warnings = warnings_of(max_length=5, too_long="truncate")
    assert [show(item) for item in result.items] == ["Hi *· *Bye *<eos>", "Hi *· *Bye *· *Bye", "so *<eos>"]
    assert [item.origin for item in result.items] == ["f:1", "f:2", "f:5"]
    assert (result.skipped, result.truncated, result.without_loss) == ([], ["f:2"], ["f:3", "f:4"])
    assert warnings == [
        "1 of 5 records cut to max_length=5 (first: f:2).",
        "2 of 5 records left out, no token of theirs carries loss (first: f:3).",
    ]
    result, warnings = warnings_of(max_length=6, too_long="skip")
    assert [item.origin for item in result.items] == ["f:1", "f:2", "f:5"]
    assert (result.skipped, result.truncated, result.without_loss) == (["f:3"], [], ["f:4"])
    assert warnings[0] == "1 of 5 records left out, longer than max_length=6 (first: f:3)."


def test_a_set_equals_its_records_one_by_one_across_batches():
    records = [record for _ in range(450) for record in (RECORDS[0], Chat(DIALOGUE), RECORDS[4])]
    items = encode_all(records, word_tokenizer(CHATML), max_length=None).items
    one_by_one = [encoded(record, word_tokenizer(CHATML)) for record in records[:3]]
    assert items == one_by_one * 450


def test_long_texts_can_be_split():
    """one·two·so<eos> in threes that overlap by one token."""
    result = encode_all([Text("one two so", origin="f:1")], word_tokenizer(), max_length=3, too_long="split")
    assert [show(item) for item in result.items] == ["one *· *two", "two *· *so", "so *<eos>"]
    assert (result.skipped, result.truncated) == ([], [])
    with pytest.raises(BadRequest, match=r"f:2: 6 tokens, but max_length is 3"):
        encode_all(RECORDS[1:2], word_tokenizer(), max_length=3, too_long="split")
    with pytest.raises(BadRequest, match=r"truncate, skip or split"):
        encode_all([Text("one two so")], word_tokenizer(), max_length=3)


def test_a_set_in_which_nothing_is_learned_is_refused():
    with pytest.raises(BadRequest) as error:
        encode_all(RECORDS[2:4], word_tokenizer(CHATML), max_length=6, too_long="skip")
    assert str(error.value) == (
        "No token of the 2 records carries loss, so nothing would be learned: 1 are longer than max_length=6, "
        "1 have no completion or assistant's message within it. `posttrain audit` shows which tokens carry loss; "
        "--set train_on=all learns every token."
    )


@pytest.mark.real_model
def test_smollm2(smollm2: Any):
    """Its template puts a default system message first; the ids are the template's and the loss is the answer's."""
    tokenizer = smollm2.tokenizer
    item = encoded(Chat(DIALOGUE), tokenizer)
    assert item is not None
    assert item.input_ids == tokenizer.apply_chat_template(DIALOGUE, tokenize=True)["input_ids"]
    learned = tokenizer.decode([i for i, carries in zip(item.input_ids, item.loss_mask) if carries])
    assert learned == "Hello<|im_end|>\nCiao<|im_end|>\n"
