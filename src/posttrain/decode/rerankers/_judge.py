"""What rerankers share that ask another model: loading it, and prompts and answers as it reads them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posttrain.core import files
from posttrain.data.chat_template import tokenize
from posttrain.data.record import Completion
from posttrain.models.sources import load, resolve

if TYPE_CHECKING:
    from posttrain.data.encoded import Encoded
    from posttrain.decode.sequence import Generated, Question
    from posttrain.models.language_model import LanguageModel


def loaded(reference: str, model: LanguageModel) -> LanguageModel:
    """Another model, on the device and in the precision of the one that answers."""
    return load(reference, device=str(model.device), dtype=str(model.network.dtype).removeprefix("torch."))


def content(reference: str) -> dict[str, Any]:
    """The hash of a model that is a folder; what is fetched from elsewhere is known by its reference.

    Raises:
        BadRequest: If there is no such model.
    """
    resolve(reference)
    return {"model": files.hash_folder(reference)} if Path(reference).is_dir() else {}


def encoded(judge: LanguageModel, prompt: Question, answers: Sequence[Generated], chat: bool | None) -> list[Encoded]:
    """Prompt and answer as one sequence each, as in training on them; the answer's tokens are marked as learned.

    Args:
        judge: Its tokenizer is used.
        prompt: A text, or messages.
        answers: Answers to it.
        chat: Put a text through the chat template; None does so for messages only.
    """
    records = [
        Completion(prompt, answer.text if isinstance(prompt, str) else [{"role": "assistant", "content": answer.text}])
        for answer in answers
    ]
    return list(tokenize(records, judge.tokenizer, chat=chat))
