"""Questions as plain text and as conversations, word by word."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from posttrain.bench import runner, task
from posttrain.bench.item import Item
from posttrain.bench.question import Question, Solved, conversation
from posttrain.core.errors import BadRequest

QUESTION = Question(
    Item({}, "f:1", "t.yaml"),
    introduction="About sums.\n\n",
    examples=(Solved("1 + 1?", "2", " "), Solved("1 + 2?", "3", " ")),
    separator="\n\n",
    lead="Ann asks: ",
)


def marked(messages):
    """A conversation as roles and contents."""
    return "".join(f"<{each['role']}>{each['content']}" for each in messages) + "<assistant>"


def test_plain_text():
    asked = QUESTION.context("2 + 2?", "It is")
    assert asked == "About sums.\n\n1 + 1? 2\n\n1 + 2? 3\n\nAnn asks: 2 + 2?It is"
    assert QUESTION.delimiter(" ") == " "


def test_a_conversation():
    """Delimiters and separators are plain text's; the introduction stands as it is, as in the harness."""
    question = replace(QUESTION, render=marked)
    assert question.context("2 + 2?", "It is") == (
        "<system>About sums.\n\n<user>1 + 1?<assistant>2<user>1 + 2?<assistant>3<user>Ann asks: 2 + 2?<assistant>It is"
    )
    assert question.delimiter(" ") == ""
    assert replace(question, introduction="", examples=()).context("2?") == "<user>Ann asks: 2?<assistant>"


def test_a_template_without_system(tiny_llama, monkeypatch):
    """The introduction then begins the first message."""
    template = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        "[{{ m.role }}]{{ m.content }}{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    monkeypatch.setattr(tiny_llama.tokenizer, "chat_template", template)
    question = replace(QUESTION, render=conversation(tiny_llama.tokenizer), examples=(), lead="")
    assert question.context("2 + 2?") == "[user]About sums.\n\n2 + 2?[assistant]"


def test_no_template(tiny_llama, monkeypatch):
    monkeypatch.setattr(tiny_llama.tokenizer, "chat_template", None)
    with pytest.raises(BadRequest, match="no chat template"):
        replace(QUESTION, render=conversation(tiny_llama.tokenizer)).context("2 + 2?")


TASK = """\
summary: A test.
version: "1"
license: free
homepage: none
data:
  test: [{files: ["items.jsonl"]}]
split: test
preamble: "Sums."
examples: {from: [test], draw: first, number: 1}
type:
  TYPE
"""
TYPES = {
    "multiple_choice": "{prompt: '{{ q }}', choices: ['yes', 'no'], answer: a, metrics: [acc, acc_mutual_info]}",
    "generative": "{prompt: '{{ q }}', answer: '{{ a }}', max_new_tokens: 2}",
    "continuation": "{prompt: '{{ q }}', continuation: '{{ a }}'}",
    "partial_context": "{contexts: ['{{ q }} yes', '{{ q }} no'], answer: a, continuation: 'or so'}",
}


@pytest.mark.parametrize("name", TYPES)
def test_every_type_asks_through_the_template(name, tmp_path, tiny_llama):
    """ChatML, by hand: the record holds what the model read, and the signature says how it was asked."""
    (tmp_path / "own.yaml").write_text(TASK.replace("TYPE", f"{name}: {TYPES[name]}"))
    rows = [{"q": "Is it?", "a": 0}, {"q": "Was it?", "a": 1}]
    (tmp_path / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task.read.cache_clear()
    (plan,) = runner.prepare([str(tmp_path / "own.yaml")], tmp_path, chat=True)
    found = runner.evaluate(tiny_llama, [plan])["own"]
    (plain,) = runner.prepare([str(tmp_path / "own.yaml")], tmp_path)
    assert "|chat" in found.signature and "|chat" not in plain.signature
    filled = " yes" if name == "partial_context" else ""
    example = {"multiple_choice": "no", "partial_context": "or so"}.get(name, "1")
    shown = f"Was it?{' no' if name == 'partial_context' else ''}"
    expected = (
        f"<|im_start|>system\nSums.<|im_end|>\n<|im_start|>user\n{shown}<|im_end|>\n<|im_start|>assistant\n{example}"
        f"<|im_end|>\n<|im_start|>user\nIs it?{filled}<|im_end|>\n<|im_start|>assistant\n"
    )
    record = found.items[0]
    assert (record["contexts"][0] if name == "partial_context" else record["prompt"]) == expected


def test_programs_as_a_request(tmp_path):
    """The answer begins with the header of the function, in a fence that the model is to close."""
    row = {
        "task_id": "T/0",
        "prompt": "def f():\n",
        "canonical_solution": "    return 1\n",
        "test": "def check(f): assert f() == 1",
        "entry_point": "f",
    }
    (tmp_path / "HumanEval.jsonl").write_text(json.dumps(row) + "\n")
    (plan,) = runner.prepare(["humaneval_instruct"], tmp_path)
    type_ = plan.selection.type
    item = plan.parts[0].questions[0].item
    assert item.text(type_.opening, "opening") == "Here is the completed function:\n```python\ndef f():\n\n"
    assert "```" in type_.stop
    (reply,) = type_.judge([item], [["    return 1\n"]])
    assert reply.scores == {"pass@1": 1.0}
