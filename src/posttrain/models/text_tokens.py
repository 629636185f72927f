"""A text as tokens, with the size of what they stand for: what a loss is divided by.

Whether a text gets special tokens is a choice that changes a loss, so it has a name: the tokenizer's `own` ones,
`none`, or `begin`, the own ones and always a token that begins the text, so that its first token is scored too and the
text as a whole has a probability. The beginning is the tokenizer's first token or, where it has none, its last one (as
in lm-evaluation-harness).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from posttrain.core.errors import BadRequest
from posttrain.models.language_model import LanguageModel

SpecialTokens = Literal["own", "none", "begin"]

Spans = NDArray[np.int32]


@dataclass(frozen=True)
class TextTokens:
    """A text, or its beginning, as tokens.

    Attributes:
        ids: The tokens.
        bytes: Size in UTF-8 of the text that all tokens but the first stand for.
        characters: The same in characters.
        words: The same in words, parted by white space.
        unknown: How many of these tokens are the unknown token, in place of a text that the tokenizer has no token for.
        spans: [tokens, 2], where each one's text begins and ends; both -1 for special tokens. None unless asked for.
    """

    ids: list[int]
    bytes: int
    characters: int
    words: int
    unknown: int
    spans: Spans | None = None


def text_tokens(
    model: LanguageModel,
    text: str,
    *,
    limit: int | None = None,
    special: SpecialTokens = "own",
    with_spans: bool = False,
) -> TextTokens | None:
    """A text as tokens.

    Args:
        model: Its tokenizer is used.
        text: The text.
        limit: Only the first so many tokens.
        special: Which special tokens it gets.
        with_spans: Also tell where each token stands in the text.

    Returns:
        None if there are fewer than two tokens, so that none has a predecessor.

    Raises:
        BadRequest: If the text should get a beginning and the tokenizer has no token for it.
    """
    # A beginning is one token more that the text doesn't hold.
    begin = _beginning(model) if special == "begin" else None
    inside = None if limit is None else limit if begin is None else limit - 1
    encoding = _encoding(model, text, inside, special != "none")
    ids: list[int] = list(encoding["input_ids"][:inside])
    added = 1 if begin is not None and ids[:1] != [begin] else 0
    if added:
        ids.insert(0, begin or 0)
    ids = ids[:limit]
    if len(ids) < 2:
        return None

    def span(place: int) -> tuple[int, int] | None:
        found = encoding.token_to_chars(place - added) if place >= added else None
        return None if found is None else (found.start, found.end)

    end = next((found[1] for place in reversed(range(len(ids))) if (found := span(place))), 0)
    first = span(0)
    part = text[first[1] if first else 0 : end]
    return TextTokens(
        ids=ids,
        bytes=len(part.encode("utf-8", "surrogatepass")),
        characters=len(part),
        words=len(part.split()),
        unknown=sum(_hides(model, text, span(place)) for place in _unknown(model, ids)),
        spans=np.array([span(place) or (-1, -1) for place in range(len(ids))], np.int32) if with_spans else None,
    )


def special_tokens(model: LanguageModel, special: SpecialTokens = "own") -> str:
    """Which tokens a text gets beside its own, as in ``bos+eos``; ``none`` for none."""
    if special == "none":
        return "none"
    tokenizer = model.tokenizer
    own = set(tokenizer("a", add_special_tokens=False)["input_ids"])
    ids = list(tokenizer("a")["input_ids"])
    if special == "begin" and ids[:1] != [_beginning(model)]:
        ids.insert(0, _beginning(model))
    names = {getattr(tokenizer, f"{name}_token_id", None): name for name in ("sep", "cls", "eos", "bos")}
    return "+".join(names.get(i, str(i)) for i in ids if i not in own) or "none"


def _beginning(model: LanguageModel) -> int:
    """The token that begins a text."""
    for token in (model.tokenizer.bos_token_id, model.tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    raise BadRequest(
        "The model's tokenizer has no token that begins a text: neither bos_token nor eos_token is set.",
        "Set one in its tokenizer_config.json, or where special_tokens can be chosen, score texts without it: own.",
    )


def _unknown(model: LanguageModel, ids: list[int]) -> list[int]:
    """Where the unknown token stands behind the first token."""
    unknown = model.tokenizer.unk_token_id
    return [] if unknown is None else [place for place, token in enumerate(ids) if token == unknown and place]


def _hides(model: LanguageModel, text: str, span: tuple[int, int] | None) -> bool:
    """Whether an unknown token stands for something else than its own name: tokenizers use it in other roles too."""
    return span is not None and text[span[0] : span[1]] != model.tokenizer.unk_token


def _encoding(model: LanguageModel, text: str, limit: int | None, special: bool) -> Any:
    """The tokens of a text, or of so much of it that the first `limit` tokens are the same.

    Which token stands where is settled by the text a few words around it, so a cut thousands of characters behind the
    last token that is used doesn't change it.
    """
    if limit is not None and len(text) > (reach := 32 * limit + 20_000):
        encoding = model.tokenizer(text[:reach], add_special_tokens=special, verbose=False)
        last = encoding.token_to_chars(limit - 1) if len(encoding["input_ids"]) > limit else None
        if last is not None and last.end + 10_000 < reach:
            return encoding
    return model.tokenizer(text, add_special_tokens=special, verbose=False)
