"""Answers in the model's own words: what is extracted, and when it equals the right one."""

from __future__ import annotations

import pytest

from posttrain.bench import task
from posttrain.bench.item import Item
from posttrain.bench.question import Question
from posttrain.bench.task_types import Effort
from posttrain.bench.task_types.generative import NOT_FOUND, Generative
from posttrain.core.errors import BadRequest

GSM8K = task.find("gsm8k").type
ITEM = Item({"word": "Answer"}, "f:1", "t.yaml")


@pytest.mark.parametrize(
    ("text", "strict", "flexible"),
    [
        ("16 - 3 = <<16-3=13>>13 eggs.\n#### 13", "13", "13"),
        ("#### -1,234.50 dollars", "-1,234.50", "-1,234.50"),
        ("#### 13. Then\n#### 14", "13.", "14"),  # the first for strict, the last for flexible
        ("The answer is $18", NOT_FOUND, "$18"),
        ("It is 7", NOT_FOUND, "7"),  # one digit is the pattern's second group
        ("I don't know", NOT_FOUND, NOT_FOUND),
        ("", NOT_FOUND, NOT_FOUND),
    ],
)
def test_gsm8k_answers_are_found(text, strict, flexible):
    assert GSM8K.extracted(text, "strict_match", ITEM) == strict
    assert GSM8K.extracted(text, "flexible_extract", ITEM) == flexible


@pytest.mark.parametrize(
    ("found", "right"), [("1,234", True), ("$1234", True), ("1234.", True), ("12345", False), (NOT_FOUND, False)]
)
def test_gsm8k_answers_are_compared_without_commas_dollars_and_full_stops(found, right):
    """The right answer is a whole solution, of which all up to the mark is removed."""
    assert GSM8K.equal(found, "She has 1200 + 34 = <<1200+34=1234>>1234.\n#### 1,234") is right


def test_without_extraction_the_whole_text_counts():
    type_ = Generative.parse({"prompt": "p", "answer": "{{ a }}", "ignore_case": True})
    assert type_.measured == ("exact_match",)
    assert type_.extracted("True ", "exact_match", ITEM) == "True "
    assert type_.equal("TRUE", "true") and not type_.equal("true ", "true")


def test_what_the_model_writes_is_scored(tiny_llama):
    """The right answer is made what the model writes; a stop string ends the text."""
    from posttrain.decode.generation import generate
    from posttrain.decode.search.greedy import Greedy

    text = generate(tiny_llama, ["What is the rate?"], search=Greedy(), max_new_tokens=8).generations[0].text
    type_ = Generative.parse({"prompt": "What is the rate?", "answer": "{{ a }}", "max_new_tokens": 8})
    asked = [Question(Item({"a": answer}, "f:1", "t"), "") for answer in (text, text + "x")]
    first, second = type_.ask(tiny_llama, asked, Effort(64, 2))
    assert (first.scores, second.scores) == ({"exact_match": 1.0}, {"exact_match": 0.0})
    assert first.record["text"] == text
    stopped = type_.model_copy(update={"stop": [text[1]]})
    assert stopped.ask(tiny_llama, asked[:1], Effort(64, 2))[0].record["text"] == text[: text.index(text[1])]


def test_long_prompts_lose_their_beginning(tiny_llama):
    """128 tokens less 8 to write."""
    type_ = Generative.parse({"prompt": "{{ q }}", "answer": "x", "max_new_tokens": 8})
    question = "The dog sleeps. " * 40
    (reply,) = type_.ask(tiny_llama, [Question(Item({"q": question}, "f:1", "t"), "")], Effort(64, 1))
    assert reply.cut == len(tiny_llama.tokenizer(question)["input_ids"]) - 120
    greedy = type_.model_copy(update={"max_new_tokens": 128})
    with pytest.raises(BadRequest, match="lets the model write 128 tokens, and the model's context is 128 long"):
        greedy.ask(tiny_llama, [Question(Item({"q": "q"}, "f:1", "t"), "")], Effort(64, 1))


def test_a_pattern_that_is_none():
    with pytest.raises(BadRequest, match=r"extract.strict.pattern' doesn't fit: not a regular expression"):
        Generative.parse({"prompt": "p", "answer": "a", "extract": {"strict": {"pattern": "("}}})


def test_patterns_made_of_the_item_and_whole_texts():
    """A language's own words before the answer; without a pattern all of the text, less the blanks at its ends."""
    own = {"pattern": "{{ word }} is ([0-9]+)"}
    type_ = Generative.parse({"prompt": "p", "answer": "a", "extract": {"own": own, "whole": {}}})
    assert type_.extracted(" Answer is 12. The end is 13.\n", "own", ITEM) == "12"
    assert type_.extracted(" Answer is 12.\n", "whole", ITEM) == "Answer is 12."
    with pytest.raises(
        BadRequest, match=r"'extract.own.pattern' doesn't work for f:1: '\( is .* is not a regular expr"
    ):
        type_.extracted("x", "own", Item({"word": "("}, "f:1", "t.yaml"))
