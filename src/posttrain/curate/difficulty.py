"""Where in a text a model is surprised: bits for each token, and the mean of each sentence, line or paragraph.

The surprisal of a token is -log2 of its probability given all before it. Tokens that share a character (bytes of one
letter) are one piece with their bits together, so that pieces put end to end are the text. The page is one HTML file
without scripts; whatever the text holds is shown as text.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jinja2

from posttrain.core import events, files
from posttrain.core.errors import BadRequest, Failure
from posttrain.curate.text_scores import conditions, signature
from posttrain.models.language_model import LanguageModel
from posttrain.models.text_tokens import SpecialTokens, special_tokens, text_tokens
from posttrain.models.token_losses import HIGHEST, token_losses, window_and_stride

Segments = Literal["sentence", "line", "paragraph"]

_DEFAULT_WINDOW = 1024
# A segment ends behind each match.
_ENDS = {
    "sentence": re.compile(r"[.!?…][\"'”’)\]]*(?=\s)|\n\s*\n"),
    "line": re.compile(r"\n"),
    "paragraph": re.compile(r"\n\s*\n"),
}
# Bits at which the next shade begins: a probability of one half, a quarter, 1/16, 1/64 …
SHADES = (1, 2, 4, 6, 8, 10, 12, 15)


@dataclass(frozen=True)
class Piece:
    """A part of the text.

    Attributes:
        text: The characters.
        bits: Surprisal of the tokens that stand for them; None for what no scored token stands for.
        tokens: How many tokens these are.
    """

    text: str
    bits: float | None
    tokens: int

    @property
    def shade(self) -> int:
        """How surprising, from 0 to `len(SHADES)`."""
        return sum((self.bits or 0) >= limit for limit in SHADES)


@dataclass(frozen=True)
class Segment:
    """A sentence, a line or a paragraph.

    Attributes:
        pieces: Its pieces in order; together its text.
        bits_per_token: Mean surprisal; None where nothing of it is scored.
        bits_per_byte: The same for each byte.
        perplexity: 2 to the power of the bits per token; None also where that is no finite number.
    """

    pieces: list[Piece]
    bits_per_token: float | None
    bits_per_byte: float | None
    perplexity: float | None

    @property
    def text(self) -> str:
        """Its text."""
        return "".join(piece.text for piece in self.pieces)


@dataclass(frozen=True)
class DifficultyMap:
    """A text with what a model finds hard in it.

    Attributes:
        segments: In order; together the text.
        tokens: How many tokens were scored.
        bits_per_token: Mean surprisal of all.
        perplexity: 2 to the power of it.
        unknown: How many of them are the unknown token.
        signature: How it was made.
    """

    segments: list[Segment]
    tokens: int
    bits_per_token: float
    perplexity: float
    unknown: int
    signature: str

    def hardest(self, count: int) -> list[Piece]:
        """The most surprising pieces, the most surprising first."""
        scored = [piece for segment in self.segments for piece in segment.pieces if piece.bits is not None]
        return sorted(scored, key=lambda piece: -(piece.bits or 0))[:count]

    def to_dict(self) -> dict[str, Any]:
        """JSON form: the figures, and `segments` with their texts and figures."""
        return {
            "tokens_scored": self.tokens,
            "bits_per_token": self.bits_per_token,
            "perplexity": self.perplexity,
            "unknown_tokens": self.unknown,
            "signature": self.signature,
            "segments": [
                {
                    "text": each.text,
                    "bits_per_token": each.bits_per_token,
                    "bits_per_byte": each.bits_per_byte,
                    "perplexity": each.perplexity,
                }
                for each in self.segments
            ],
        }


def difficulty_map(
    model: LanguageModel,
    text: str,
    *,
    segments: Segments = "sentence",
    window: int | None = None,
    stride: int | None = None,
    special: SpecialTokens = "begin",
    max_tokens: int | None = None,
) -> DifficultyMap:
    """Score a text token by token.

    Args:
        model: A causal language model.
        text: The text.
        segments: What means are taken over.
        window: Most tokens read at once; 1024 or the model's context when not given.
        stride: By how much the window moves; half the window when not given.
        special: Special tokens the text gets; with a beginning its first token is scored too.
        max_tokens: Only the first so many tokens; the map ends with them.

    Raises:
        BadRequest: If the model isn't causal, the window doesn't fit, or there is nothing to score.
        Failure: If the model's logits aren't numbers.
    """
    if not model.is_causal:
        name = model.reference or type(model.network).__name__
        raise BadRequest(f"{name} is not a causal language model, so it predicts no next token.")
    window, stride = window_and_stride(model, window, stride, _DEFAULT_WINDOW)
    found = text_tokens(model, text, limit=max_tokens, special=special, with_spans=True)
    if found is None or found.spans is None:
        raise BadRequest("The text has fewer than two tokens, so nothing can be scored.")
    with events.task("Difficulty", total=len(found.ids) - 1, unit="tokens") as progress:
        (nats,) = token_losses(model.network, [found.ids], window=window, stride=stride, progress=progress)
    mean = float(nats.mean(dtype="float64"))
    if not mean <= HIGHEST:
        raise Failure(
            f"The model's logits are not numbers that have a perplexity: {mean:.6g} nats a token.",
            "Check the model's weights.",
        )
    bits = [None, *(float(each) / math.log(2) for each in nats)]
    end = max((int(each[1]) for each in found.spans), default=0)
    shown = text[:end] if max_tokens is not None else text
    pieces = _pieces(shown, found.spans.tolist(), bits)
    made = {
        **conditions(model, window=window, stride=stride),
        "text": hashlib.sha256(text.encode()).hexdigest()[:12],
        "tokens": len(nats),
        "special": special_tokens(model, special),
        "segments": segments,
        "unknown": found.unknown,
    }
    return DifficultyMap(
        segments=_segments(pieces, shown, segments),
        tokens=len(nats),
        bits_per_token=mean / math.log(2),
        perplexity=math.exp(mean),
        unknown=found.unknown,
        signature=signature("difficulty", made),
    )


def _pieces(text: str, spans: Sequence[Sequence[int]], bits: Sequence[float | None]) -> list[tuple[int, Piece]]:
    """Where each piece begins, and the piece; together the text."""
    joined: list[tuple[int, int, float | None, int]] = []  # start, end, bits, tokens
    for (start, end), each in zip(spans, bits):
        if start < 0 or end <= start:
            continue  # a special token
        if joined and start < joined[-1][1]:
            before = joined.pop()
            total = None if before[2] is None or each is None else before[2] + each
            joined.append((before[0], max(before[1], end), total, before[3] + 1))
        else:
            joined.append((start, end, each, 1))
    found, done = [], 0
    for start, end, each, tokens in joined:
        if start > done:
            found.append((done, Piece(text[done:start], None, 0)))
        found.append((start, Piece(text[start:end], each, tokens)))
        done = end
    if done < len(text):
        found.append((done, Piece(text[done:], None, 0)))
    return found


def _segments(pieces: Sequence[tuple[int, Piece]], text: str, kind: Segments) -> list[Segment]:
    """Pieces by segment; one that begins inside a segment belongs to it whole."""
    ends = [match.end() for match in _ENDS[kind].finditer(text)] + [len(text)]
    groups: list[list[Piece]] = [[] for _ in ends]
    place = 0
    for start, piece in pieces:
        # A piece that begins with the space behind a sentence belongs to the next one.
        first = start + len(piece.text) - len(piece.text.lstrip()) if piece.text.strip() else start
        while place < len(ends) - 1 and first >= ends[place]:
            place += 1
        groups[place].append(piece)
    joined: list[list[Piece]] = []
    for group in groups:
        if joined and not any(piece.text.strip() for piece in group):
            joined[-1] += group  # white space between two segments goes with the first
        elif group:
            joined.append(group)
    return [_segment(group) for group in joined]


def _segment(pieces: list[Piece]) -> Segment:
    scored = [piece for piece in pieces if piece.bits is not None]
    tokens = sum(piece.tokens for piece in scored)
    if not tokens:
        return Segment(pieces, None, None, None)
    bits = sum(piece.bits or 0 for piece in scored)
    size = sum(len(piece.text.encode("utf-8", "surrogatepass")) for piece in scored)
    nats = bits / tokens * math.log(2)
    perplexity = math.exp(nats) if nats <= HIGHEST else None
    return Segment(pieces, bits / tokens, bits / size if size else None, perplexity)


def write_page(found: DifficultyMap, path: Path, *, title: str, model: str) -> None:
    """Write the map as one self-contained HTML file, atomically.

    Args:
        found: The map.
        path: The file.
        title: What the text is called.
        model: What the model is called.

    Raises:
        Failure: If the disk is full or the file may not be written.
    """
    files.write_text(path, render_page(found, title=title, model=model))


def render_page(found: DifficultyMap, *, title: str, model: str) -> str:
    """The page `write_page` writes."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("posttrain.curate", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    scored = [each.bits_per_token for each in found.segments if each.bits_per_token is not None]
    page = environment.get_template("difficulty.html").render(
        title=title,
        model=model,
        found=found,
        shades=[0, *SHADES],
        highest=max(scored, default=1.0) or 1.0,
        told=_told,
    )
    # UTF-8 can't hold lone surrogates.
    return page.encode("utf-8", "replace").decode()


def _told(piece: Piece) -> str:
    """What a reader is told about a piece when pointing at it."""
    if piece.bits is None:
        return "not scored"
    share = 100 * 2.0**-piece.bits
    probability = f"{share:.3g} %" if share >= 0.001 else f"2^-{piece.bits:.0f}"
    several = f", {piece.tokens} tokens" if piece.tokens > 1 else ""
    return f"{piece.bits:.1f} bits, probability {probability}{several}"
