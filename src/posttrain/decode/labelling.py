"""What a trained classifier says about texts: for each the likeliest label and how probable every label is.

Where several labels may hold at once, each has a probability of its own, and those above one half are the answer; where
a number is predicted, it is the answer. Left out: tags of words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from posttrain.core.errors import BadRequest
from posttrain.core.events import task
from posttrain.data.encoded import Encoded
from posttrain.data.packing import pack
from posttrain.models.forward import hidden_states, takes
from posttrain.models.heads import has_head, label_names, sequence_scores
from posttrain.models.sources import LABELS_TEXTS

if TYPE_CHECKING:
    from posttrain.models.language_model import LanguageModel

Text = str | tuple[str, str]
"""A text or a pair of texts."""


@dataclass(frozen=True)
class Labelling:
    """What the model says about a text.

    Attributes:
        text: The text as it was given.
        label: The likeliest label, all labels above one half, or a number.
        probabilities: Of every label; empty where a number is predicted.
    """

    text: Text
    label: str | list[str] | float
    probabilities: dict[str, float]


def classify(model: LanguageModel, texts: Sequence[Text], *, batch_size: int = 32) -> list[Labelling]:
    """Label texts; one that is longer than the model's context is cut.

    Args:
        model: A network that scores sequences, in evaluation mode.
        texts: Texts or pairs of texts.
        batch_size: Texts in one pass; it doesn't change the outcome.

    Raises:
        BadRequest: If the model scores no sequences, or a text is empty.
    """
    if not has_head(model.network, LABELS_TEXTS):
        raise BadRequest(
            f"{type(model.network).__name__} has no head that labels texts.",
            "Train one with an objective for it: `posttrain list objective`.",
        )
    if isinstance(texts, str):
        raise BadRequest("The texts must be a list, not one text.", "Put the text into a list.")
    if batch_size < 1:
        raise BadRequest("batch_size must be at least 1.")
    items = [_encoded(model, text, number) for number, text in enumerate(texts, 1)]
    # Texts of like length together: those classes that pool a sequence look at padded states.
    order = sorted(range(len(items)), key=lambda index: len(items[index]))
    found: dict[int, Labelling] = {}
    with torch.inference_mode(), task("Classify", total=len(items), unit="texts") as progress:
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            batch = pack([items[index] for index in chosen]).to(model.device)
            states = hidden_states(model.network, batch.input_ids, batch.boundaries, **batch.extras)
            scores = sequence_scores(model.network, states, batch.input_ids, batch.boundaries)
            for index, row in zip(chosen, scores.logits.float().cpu()):
                found[index] = _labelling(model, texts[index], row)
            progress.advance(len(chosen))
    return [found[index] for index in range(len(items))]


def _encoded(model: LanguageModel, text: Text, number: int) -> Encoded:
    empty = not text.strip() if isinstance(text, str) else not all(part.strip() for part in text)
    if empty:
        raise BadRequest(f"Text {number} is empty.", "Give it some words.")
    typed = not isinstance(text, str) or "token_type_ids" in model.tokenizer.model_input_names
    typed = typed and takes(model.network, "token_type_ids")
    limit = model.context_length
    found = model.tokenizer(
        *((text,) if isinstance(text, str) else text),
        return_token_type_ids=typed,
        truncation=limit is not None,
        max_length=limit,
        verbose=False,
    )
    ids = list(found["input_ids"])
    extras = {"token_type_ids": list(found["token_type_ids"])} if typed else {}
    return Encoded(ids, [False] * len(ids), f"text {number}", extras)


def _labelling(model: LanguageModel, text: Text, logits: torch.Tensor) -> Labelling:
    names, problem = label_names(model.network), model.network.config.problem_type
    if problem == "regression" or len(names) == 1:
        return Labelling(text, float(logits[0]), {})
    several = (problem or "").startswith("multi")
    shares = logits.sigmoid() if several else logits.softmax(0)
    probabilities = dict(zip(names, shares.tolist()))
    if several:
        return Labelling(text, [name for name, share in probabilities.items() if share > 0.5], probabilities)
    return Labelling(text, names[int(logits.argmax())], probabilities)
