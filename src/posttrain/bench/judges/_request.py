"""What judges that are asked in words share: the criterion in words, and the request as the model reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from posttrain.bench.item import Item
from posttrain.core.errors import BadRequest
from posttrain.data.chat_template import render
from posttrain.data.dialogue import as_text

if TYPE_CHECKING:
    from posttrain.data.record import Dialogue
    from posttrain.models.language_model import LanguageModel

_WORDS = {
    "overall": ("better", "good"),
    "helpful": ("more helpful", "helpful"),
    "harmless": ("less harmful", "harmless"),
    "honest": ("more honest", "honest"),
}


def filled(template: str, criterion: str, prompt: str | Dialogue, **answers: str) -> str:
    """The request that a template makes of a prompt and answers.

    A template knows `prompt`, the answers by the names they are given here, `criterion`, and the criterion in words:
    `better` (as in more helpful) and `good` (as in helpful).

    Raises:
        BadRequest: If it names something else.
    """
    better, good = _WORDS.get(criterion, (f"better by the criterion '{criterion}'", f"good by '{criterion}'"))
    values: dict[str, Any] = {"prompt": as_text(prompt), "criterion": criterion, "better": better, "good": good}
    return Item({**values, **answers}, "an answer", "the judge").text(template, "prompt")


def opened(model: LanguageModel, request: str, lead: str, chat: bool | None) -> str:
    """The request as the model reads it, up to where its verdict comes.

    Args:
        model: The judge.
        request: What is asked.
        lead: How the model's reply begins.
        chat: Put the request through the chat template; None does so if there is one.
    """
    if uses_chat(model, chat):
        return render([{"role": "user", "content": request}], model.tokenizer, add_generation_prompt=True) + lead
    return f"{request}\n\n{lead}"


def uses_chat(model: LanguageModel, chat: bool | None) -> bool:
    """Whether requests go through the model's chat template; None leaves it to whether there is one."""
    return bool(model.tokenizer.chat_template) if chat is None else chat


def refuse_not_causal(model: LanguageModel) -> None:
    """Refuse a model that doesn't predict the next token."""
    if not model.is_causal:
        name = model.reference or type(model.network).__name__
        raise BadRequest(
            f"{name} is not a causal language model, so it can't be asked for a verdict.", "Name another judge."
        )
