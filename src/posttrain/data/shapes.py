"""Shapes: which columns make which kind of record, in the ways public data sets write them.

A shape names the columns it needs and builds one record from a row. The first shape that a data set's first row fits
is used for all its rows; more specific shapes stand first. Values are checked, never repaired: a wrong type, an empty
text or an answer that isn't where it should be is an error that names file and line.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from posttrain.core.errors import BadRequest, did_you_mean
from posttrain.data.dialogue import as_dialogue, as_tools, type_name
from posttrain.data.prefix import common_prefix
from posttrain.data.record import (
    Chat,
    Completion,
    Dialogue,
    Labelled,
    Pair,
    Preference,
    QuestionAnswer,
    Record,
    Tagged,
    Text,
)


@dataclass(frozen=True)
class Cells:
    """The cells of one row that a shape uses, by role."""

    row: dict[str, Any]
    names: dict[str, str]
    origin: str

    def value(self, role: str) -> Any:
        """The raw cell; None if the row lacks it."""
        return self.row.get(self.names[role]) if role in self.names else None

    def wrong(self, role: str, problem: str, suggestion: str = "") -> BadRequest:
        """An error about one cell."""
        return BadRequest(f"{self.origin}: '{self.names[role]}' {problem}.", suggestion)

    def text(self, role: str, empty: bool = False) -> str:
        """A cell that must be text, and not blank unless `empty`."""
        value = self.value(role)
        if not isinstance(value, str):
            raise self.wrong(role, f"must be text, not {type_name(value)}")
        if not empty and not value.strip():
            raise self.wrong(role, "is empty", "Fill it in or remove the line.")
        return value

    def dialogue(self, role: str, speaker: str | None = None) -> Dialogue:
        """A cell that must be messages; plain text counts as one message of the speaker, if there is one."""
        value = self.value(role)
        if speaker and isinstance(value, str):
            return [{"role": speaker, "content": value}]
        return as_dialogue(value, f"{self.origin}: '{self.names[role]}'")


@dataclass(frozen=True)
class Shape:
    """The columns of one way to write a kind of record."""

    kind: str
    needs: dict[str, tuple[str, ...]]
    build: Callable[[Cells], Record]
    may: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def names(self, row: dict[str, Any]) -> dict[str, str] | None:
        """Which column plays which role, or None if the row lacks one that is needed."""
        found: dict[str, str] = {}
        for role, accepted in [*self.needs.items(), *self.may.items()]:
            present = next((name for name in accepted if name in row and name not in found.values()), None)
            if present is not None:
                found[role] = present
            elif role in self.needs:
                return None
        return found

    def describe(self) -> str:
        """The needed columns, for error messages."""
        return " + ".join("|".join(accepted) for accepted in self.needs.values())


def _prompt(cells: Cells) -> str:
    """The prompt's text, with the separate input (Alpaca) or context (Dolly) after a blank line."""
    prompt = cells.text("prompt", empty=True)
    extra = cells.text("input", empty=True) if cells.value("input") is not None else ""
    return f"{prompt}\n\n{extra}" if extra.strip() else prompt


def _completion(cells: Cells) -> Completion:
    label = cells.value("label")
    label = label if isinstance(label, bool) else None  # a class number beside a completion is an extra column
    if not any(isinstance(cells.value(role), (list, dict)) for role in ("prompt", "completion")):
        return Completion(_prompt(cells), cells.text("completion"), label, cells.origin)
    return Completion(cells.dialogue("prompt", "user"), cells.dialogue("completion", "assistant"), label, cells.origin)


def _chat(cells: Cells) -> Chat | Completion:
    messages = cells.dialogue("messages")
    if isinstance(system := cells.value("system"), str) and system.strip():
        messages = [{"role": "system", "content": system}, *messages]
    if isinstance(label := cells.value("label"), bool):  # unpaired preference: the last turn was judged
        return Completion(messages[:-1], messages[-1:], label, cells.origin)
    for number, message in enumerate(messages, start=1):
        if message["role"] == "assistant" and set(message) == {"role", "content"} and not message["content"].strip():
            raise cells.wrong("messages", f"has an empty answer (message {number})", "Fill it in or remove the line.")
    return Chat(messages, as_tools(cells.value("tools"), cells.origin), cells.origin)


def _preference(cells: Cells) -> Preference:
    prompt = cells.value("prompt")
    if all(isinstance(cells.value(role), str) for role in ("chosen", "rejected")):
        chosen, rejected = cells.text("chosen", empty=True), cells.text("rejected", empty=True)
        if isinstance(prompt, str):
            return Preference(_prompt(cells), chosen, rejected, cells.origin)
        if prompt is None:
            cut = _last_common_turn(cells, chosen, rejected)
            return Preference(chosen[:cut], chosen[cut:], rejected[cut:], cells.origin)
    better, worse = cells.dialogue("chosen", "assistant"), cells.dialogue("rejected", "assistant")
    before = [] if prompt is None or isinstance(prompt, str) else cells.dialogue("prompt")
    if not before:
        shared = common_prefix(better[:-1], worse[:-1])
        before, better, worse = better[:shared], better[shared:], worse[shared:]
    elif better[: len(before)] == worse[: len(before)] == before:
        better, worse = better[len(before) :], worse[len(before) :]
    if not before and isinstance(prompt, str):
        before = [{"role": "user", "content": prompt}]
    if not (before and better and worse):
        raise cells.wrong(
            "chosen", "and 'rejected' leave no prompt or no answer", "Give the prompt in a column of its own."
        )
    return Preference(before, better, worse, cells.origin)


def _last_common_turn(cells: Cells, chosen: str, rejected: str) -> int:
    """Where the answers begin in two transcripts of one dialogue (HH-RLHF): after the last shared ``Assistant:``."""
    mark = "Assistant:"
    turn = chosen.rfind(mark, 0, common_prefix(chosen, rejected))
    if turn < 0:
        raise cells.wrong("chosen", f"and 'rejected' share no '{mark}' turn", "Give the prompt in a column of its own.")
    return turn + len(mark)


def _label(cells: Cells) -> int | str | float | list[int | str]:
    value = cells.value("label")
    if isinstance(value, list):
        if not all(isinstance(item, (int, str)) for item in value):
            raise cells.wrong("label", "must hold class names or numbers only")
        return [int(item) if isinstance(item, bool) else item for item in value]
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise cells.wrong("label", "is not a finite number")
    if not isinstance(value, (int, str, float)) or value == "":
        raise cells.wrong("label", f"must be a class or a number, not {type_name(value) if value != '' else 'empty'}")
    return value


def _labelled(cells: Cells) -> Labelled:
    pair = cells.text("pair") if cells.value("pair") is not None else None
    return Labelled(cells.text("text"), _label(cells), pair, cells.origin)


def _tagged(cells: Cells) -> Tagged:
    tokens, tags = cells.value("tokens"), cells.value("tags")
    for role, value, types in (("tokens", tokens, (str,)), ("tags", tags, (str, int))):
        if not isinstance(value, list) or not all(isinstance(item, types) for item in value):
            raise cells.wrong(role, "must be a list of words" if role == "tokens" else "must be a list of tags")
    if not tokens:
        raise cells.wrong("tokens", "is empty")
    if len(tokens) != len(tags):
        raise cells.wrong("tags", f"has {len(tags)} entries for {len(tokens)} tokens")
    return Tagged(tokens, tags, cells.origin)


def _question_answer(cells: Cells) -> QuestionAnswer:
    context = cells.text("context")
    value: Any = cells.value("answers")
    starts: Any = cells.value("starts")
    if isinstance(value, dict):
        value, starts = value.get("text"), value.get("answer_start")
    if isinstance(value, str):
        value, starts = [value], [starts] if isinstance(starts, int) else starts
    if isinstance(value, list) and all(isinstance(item, dict) for item in value):
        entries: list[dict[str, Any]] = value
        value, starts = [entry.get("text") for entry in entries], [entry.get("answer_start") for entry in entries]
    if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
        raise cells.wrong("answers", "must hold the answers' texts")
    if starts is None or (isinstance(starts, list) and starts and all(s is None for s in starts)):
        starts = [context.find(answer) for answer in value]
    if not isinstance(starts, list) or len(starts) != len(value) or not all(isinstance(s, int) for s in starts):
        raise cells.wrong("answers", "needs one whole-number start for each answer")
    for answer, start in zip(value, starts):
        if start < 0 or not context.startswith(answer, start):
            where = f"at character {start} of the context" if start >= 0 else "in the context"
            raise cells.wrong("answers", f"says {answer!r}, which isn't {where}", "Free answers are kind=completion.")
    return QuestionAnswer(cells.text("question"), context, value, starts, cells.origin)


def _pair(cells: Cells) -> Pair:
    return Pair(cells.text("source"), cells.text("target"), cells.origin)


def _text(cells: Cells) -> Text:
    """A text with its spans; a column of this name that holds anything but pairs of places is another one."""
    text, found = cells.text("text"), cells.value("spans")
    pairs = isinstance(found, list) and all(
        isinstance(pair, (list, tuple)) and len(pair) == 2 and all(type(place) is int for place in pair)
        for pair in found
    )
    if not pairs:
        return Text(text, cells.origin)
    return Text(text, cells.origin, spans=[(start, end) for start, end in found])


def _translation(cells: Cells) -> Pair:
    texts = cells.value("translation")
    if not isinstance(texts, dict) or len(texts) != 2:
        raise cells.wrong("translation", "must hold a text in each of two languages")
    source, target = Cells(texts, {name: name for name in texts}, cells.origin), list(texts)
    return Pair(source.text(target[0]), source.text(target[1]), cells.origin)


_LABEL = ("label", "labels")
_SCORED = (*_LABEL, "score")
_PROMPT = ("prompt", "instruction", "query", "question", "input")
_ANSWER = ("completion", "response", "output", "answer", "canonical_solution", "target")
_INPUT = ("input", "context")

SHAPES: list[Shape] = [
    Shape(
        "preference",
        {"chosen": ("chosen", "response_j"), "rejected": ("rejected", "response_k")},
        _preference,
        {"prompt": (*_PROMPT, "conversations"), "input": _INPUT},
    ),
    Shape("tagged", {"tokens": ("tokens", "words"), "tags": ("tags", "ner_tags", "pos_tags", "labels")}, _tagged),
    Shape(
        "question_answer",
        {"question": ("question",), "context": ("context",), "answers": ("answers", "answer")},
        _question_answer,
        {"starts": ("starts", "answer_start", "answer_starts")},
    ),
    Shape(
        "labelled",
        {
            "text": ("text", "sentence", "sentence1", "premise", "question1"),
            "pair": ("text_pair", "sentence2", "hypothesis", "question2"),
            "label": _SCORED,
        },
        _labelled,
    ),
    Shape("labelled", {"text": ("text", "sentence", "review"), "label": _LABEL}, _labelled),
    Shape(
        "completion", {"prompt": _PROMPT, "completion": _ANSWER}, _completion, {"input": _INPUT, "label": ("label",)}
    ),
    Shape(
        "chat",
        {"messages": ("messages", "conversations", "conversation")},
        _chat,
        {"system": ("system",), "tools": ("tools",), "label": ("label",)},
    ),
    Shape("pair", {"translation": ("translation",)}, _translation),
    Shape("pair", {"source": ("source",), "target": ("target",)}, _pair),
    Shape(
        "pair",
        {"source": ("document", "article", "dialogue", "text"), "target": ("summary", "highlights")},
        _pair,
    ),
    Shape("text", {"text": ("text", "content", "prompt")}, _text, {"spans": ("spans",)}),
]

COLUMNS = sorted({name for shape in SHAPES for names in [*shape.needs.values(), *shape.may.values()] for name in names})


def expand(origin: str, row: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """SQuAD's nested articles as one row per question; any other row as it is."""
    paragraphs = row.get("paragraphs")
    if not isinstance(paragraphs, list):
        yield origin, row
        return
    for paragraph in paragraphs:
        for question in paragraph.get("qas", []):
            yield origin, {"context": paragraph.get("context"), **question}


def rename(row: dict[str, Any], columns: dict[str, str], origin: str) -> dict[str, Any]:
    """The row under the names this module knows; `columns` maps such a name to the file's own.

    Raises:
        BadRequest: If the row lacks a column, or the mapping gives a name that no shape uses.
    """
    for name, own in columns.items():
        if name not in COLUMNS:
            raise BadRequest(
                f"columns: '{name}' is not a column that any kind of record uses.", did_you_mean(name, COLUMNS)
            )
        if own not in row:
            raise BadRequest(f"{origin}: there is no column '{own}'.", f"Found: {', '.join(row)}.")
    rest = {name: value for name, value in row.items() if name not in columns.values()}
    return {**rest, **{name: row[own] for name, own in columns.items()}}


def sniff(origin: str, row: dict[str, Any], kind: str | None) -> Shape:
    """The first shape that the row fits, among those of `kind` if given.

    Raises:
        BadRequest: Listing what was found and what would fit.
    """
    candidates = [shape for shape in SHAPES if kind in (None, shape.kind)]
    for shape in candidates:
        if shape.names(row) is not None:
            return shape
    fits = "; ".join(
        f"{shape.kind} needs {shape.describe() if kind else ' + '.join(names[0] for names in shape.needs.values())}"
        for shape in candidates
    )
    raise BadRequest(
        f"{origin}: the columns {', '.join(row) or '(none)'} don't make a record{f' of kind {kind}' if kind else ''}.",
        f"{fits}. Name yours with columns, as in columns: {{prompt: YOUR_COLUMN}}.",
    )


def build(shape: Shape, origin: str, row: dict[str, Any]) -> Record:
    """One record.

    Raises:
        BadRequest: Naming file, line and column, if a column is missing or a value doesn't fit.
    """
    names = shape.names(row)
    if names is None:
        raise BadRequest(
            f"{origin}: a {shape.kind} record needs {shape.describe()}; found {', '.join(row) or 'nothing'}.",
            "All records of a set have the columns of the first.",
        )
    return shape.build(Cells(row, names, origin))
