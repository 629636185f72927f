"""A question: an item with all that stands before it, as plain text or as a conversation.

As plain text a question is introduction, solved examples and prompt in a row. As a conversation the introduction is the
system's message, each solved example a message of the user and one of the assistant, and the prompt the user's last
message, as in lm-evaluation-harness. Where a chat template knows no system, the introduction begins the first message;
the harness drops it there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from posttrain.bench.item import Item
from posttrain.core.errors import BadRequest
from posttrain.data.chat_template import render
from posttrain.data.record import Dialogue

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Solved:
    """An item with its right answer, as it stands among the examples.

    Attributes:
        prompt: The prompt.
        answer: The answer.
        delimiter: What stands between them in plain text.
    """

    prompt: str
    answer: str
    delimiter: str = ""

    @property
    def text(self) -> str:
        """As plain text."""
        return self.prompt + self.delimiter + self.answer


@dataclass(frozen=True)
class Question:
    """An item to ask about.

    Attributes:
        item: The item.
        introduction: The task's.
        examples: Solved items.
        separator: What stands behind each example in plain text.
        lead: What stands directly before the prompt.
        render: Makes the text of a conversation, up to where the assistant begins; None asks in plain text.
    """

    item: Item
    introduction: str = ""
    examples: tuple[Solved, ...] = ()
    separator: str = ""
    lead: str = ""
    render: Callable[[Dialogue], str] | None = None

    @property
    def preamble(self) -> str:
        """All that stands before the prompt in plain text."""
        return self.introduction + "".join(each.text + self.separator for each in self.examples) + self.lead

    def context(self, prompt: str, opening: str = "") -> str:
        """What the model reads before it answers.

        Args:
            prompt: The item's.
            opening: How the answer begins.
        """
        if self.render is None:
            return self.preamble + prompt + opening
        messages: Dialogue = [{"role": "system", "content": self.introduction}] if self.introduction else []
        for each in self.examples:
            messages.append({"role": "user", "content": each.prompt})
            messages.append({"role": "assistant", "content": each.answer})
        return self.render([*messages, {"role": "user", "content": self.lead + prompt}]) + opening

    def delimiter(self, plain: str) -> str:
        """What stands between context and answer: `plain` in plain text, nothing after the template's own."""
        return plain if self.render is None else ""


def conversation(tokenizer: PreTrainedTokenizerBase) -> Callable[[Dialogue], str]:
    """What renders questions by a tokenizer's chat template.

    Raises:
        BadRequest: When it is called, if there is no template, or it refuses the messages.
    """

    def rendered(messages: Dialogue) -> str:
        try:
            return render(messages, tokenizer, add_generation_prompt=True)
        except BadRequest:
            if len(messages) < 2 or messages[0]["role"] != "system":
                raise
            system, first, *others = messages
            merged = {"role": "user", "content": f"{system['content'].rstrip()}\n\n{first['content']}"}
            return render([merged, *others], tokenizer, add_generation_prompt=True)

    return rendered
