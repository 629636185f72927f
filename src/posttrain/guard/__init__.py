"""Guards: what looks at a text, or tries a model, and says what is wrong, where, and why.

A `TextGuard` finds spans of a text and says what should become of each: allow, flag, redact, block. A `ModelGuard`
tries a model and returns figures beside its findings. Several text guards judge one text together (`inspect`), a whole
data set (`inspect_dataset`), or a text that is still being written (`GuardedStream`).
"""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from posttrain.core.events import task
from posttrain.core.settings import Settings
from posttrain.core.verb import make_callable
from posttrain.data.dataset import Dataset
from posttrain.data.record import QuestionAnswer, Record, Tagged
from posttrain.models.language_model import LanguageModel

make_callable(__name__, "posttrain.pipeline.guard_api")

Action = Literal["allow", "flag", "redact", "block"]

# From the mildest to the most severe.
ACTIONS: tuple[Action, ...] = ("allow", "flag", "redact", "block")

# What must not be shown.
_REMOVED = ("redact", "block")

# Parts of a message that aren't said by anybody, and columns that are answers to a task and not text.
_NO_TEXT = frozenset({"role", "type", "name", "id", "tool_call_id", "origin", "label", "labels", "tags", "tools"})


@dataclass(frozen=True)
class Finding:
    """Something in a text.

    Attributes:
        category: What kind of thing.
        start: Index of its first character.
        end: Index behind its last character.
        reason: Why it counts, for people. It doesn't quote the text.
        action: What should become of it.
        replacement: What stands in its place when it is removed; by default the category in brackets.
    """

    category: str
    start: int
    end: int
    reason: str
    action: Action = "redact"
    replacement: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The JSON form: category, start, end, reason, action."""
        return {
            "category": self.category,
            "start": self.start,
            "end": self.end,
            "reason": self.reason,
            "action": self.action,
        }


@dataclass(frozen=True)
class Findings:
    """What guards say about a text or a model.

    Attributes:
        action: The most severe action of the findings; ``allow`` when there are none.
        text: The text with everything replaced that is to be redacted or blocked.
        findings: In the order of their places; positions are those of the text as it was given.
        figures: Numbers, from guards of models.
    """

    action: Action
    text: str
    findings: list[Finding]
    figures: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The JSON form: action, text, findings, and the figures if there are any."""
        found = {"action": self.action, "text": self.text, "findings": [each.to_dict() for each in self.findings]}
        return {**found, "figures": self.figures} if self.figures else found


class Guard(Settings):
    """Base of all guards."""

    def inputs(self) -> dict[str, Any]:
        """Hashes of the files it reads, so that a cached result is dropped when they change."""
        return {}


class TextGuard(Guard):
    """A guard that looks at a text."""

    @abstractmethod
    def find(self, text: str, whole: bool = True) -> list[Finding]:
        """What is in a text.

        Args:
            text: Any text, the empty one too; the time it takes grows with its length and not faster.
            whole: False for a piece of a text: judgements on a text as a whole are left out.
        """

    def inspect(self, text: str) -> Findings:
        """What is in a text, and the text without what has to go."""
        return inspect([self], text)


class ModelGuard(Guard):
    """A guard that tries a model."""

    @abstractmethod
    def inspect(self, model: LanguageModel) -> Findings:
        """Try `model`; positions are those in the texts that the reasons name."""


def severest(findings: Iterable[Finding]) -> Action:
    """The most severe action; ``allow`` without findings."""
    return max((each.action for each in findings), key=ACTIONS.index, default="allow")


def inspect(guards: Sequence[TextGuard], text: str) -> Findings:
    """What several guards say about one text together."""
    found = in_order(each for guard in guards for each in guard.find(text))
    return Findings(severest(found), Redaction(text, found).text, found)


def in_order(findings: Iterable[Finding]) -> list[Finding]:
    """Findings by their places; of those that begin together the longest first."""
    return sorted(findings, key=lambda each: (each.start, -each.end, each.category))


class Redaction:
    """A text without what has to go; overlapping findings are replaced together, under the name of the strongest.

    Args:
        text: The text.
        findings: In any order.

    Attributes:
        text: The text with replacements.
    """

    def __init__(self, text: str, findings: Iterable[Finding]) -> None:
        self._moves: list[tuple[int, int, int, int]] = []  # (start, end) of what was replaced, (start, end) of by what
        pieces, done, length = [], 0, 0
        for group in overlapping(each for each in findings if each.action in _REMOVED and each.end > each.start):
            start, end = group[0].start, max(each.end for each in group)
            strongest = max(group, key=lambda each: (ACTIONS.index(each.action), each.end - each.start))
            label = strongest.replacement or f"[{strongest.category.upper()}]"
            pieces += [text[done:start], label]
            length += start - done
            self._moves.append((start, end, length, length + len(label)))
            length, done = length + len(label), end
        self.text = "".join([*pieces, text[done:]])

    def moved(self, position: int, end: bool = False) -> int:
        """Where a position of the old text is now; inside a replaced span, the replacement's start or end."""
        shift = 0
        for old_start, old_end, new_start, new_end in self._moves:
            if position >= old_end:
                shift = new_end - old_end
            elif position > old_start or (position == old_start and not end):
                return new_end if end else new_start
        return position + shift


def overlapping(findings: Iterable[Finding]) -> list[list[Finding]]:
    """Findings in groups that overlap from one to the next, in the order of their places."""
    groups: list[list[Finding]] = []
    reach = -1
    for each in in_order(findings):
        if each.start < reach:
            groups[-1].append(each)
        else:
            groups.append([each])
        reach = max(reach, each.end)
    return groups


class GuardedStream:
    """Guards over a text while it is being written: what may be shown already, and no more.

    The last `window` characters are held back, because what follows may make them part of a finding; so a term that is
    split over pieces is found if it is no longer than the window. After something that blocks nothing more is let out.
    Judgements on the text as a whole (a classifier's) take no part.

    Args:
        guards: Who looks.
        window: Characters held back, and characters of what was let out that are looked at again.

    Attributes:
        findings: What was found; positions are those in the whole text.
        blocked: Whether something blocks.
    """

    def __init__(self, guards: Sequence[TextGuard], window: int = 256) -> None:
        self.findings: list[Finding] = []
        self.blocked = False
        self._guards, self._window = guards, window
        self._text = ""  # what is held back, after some of what was let out
        self._offset = 0  # where `_text` begins in the whole text
        self._released = 0  # how much of `_text` was let out

    @property
    def action(self) -> Action:
        """The most severe action so far."""
        return severest(self.findings)

    def feed(self, piece: str) -> str:
        """Take the next piece of the text; returns what may be shown, redacted."""
        if self.blocked:
            return ""
        self._text += piece
        return self._release(len(self._text) - self._window)

    def finish(self) -> str:
        """The rest: nothing follows."""
        return "" if self.blocked else self._release(len(self._text))

    def _release(self, cut: int) -> str:
        """Let out the text before `cut`, or before the first finding that reaches over it."""
        if cut <= self._released:
            return ""
        found = [
            replace(each, start=max(each.start, self._released))
            for each in in_order(each for guard in self._guards for each in guard.find(self._text, whole=False))
            if each.end > self._released
        ]
        while crossed := [each.start for each in found if each.start < cut < each.end]:
            cut = min(crossed)
        found = [each for each in found if each.end <= cut]
        first_block = next((each for each in found if each.action == "block"), None)
        if first_block is not None:
            self.blocked = True
            cut = first_block.start
        self.findings += [
            replace(each, start=each.start + self._offset, end=each.end + self._offset)
            for each in found
            if each.end <= cut or each is first_block
        ]
        piece = self._text[self._released : cut]
        inside = [
            replace(each, start=each.start - self._released, end=each.end - self._released)
            for each in found
            if each.end <= cut
        ]
        drop = max(0, cut - self._window)
        self._text, self._offset, self._released = self._text[drop:], self._offset + drop, cut - drop
        return Redaction(piece, inside).text


@dataclass(frozen=True)
class RecordFindings:
    """What was found in a text of a record.

    Attributes:
        origin: The record's place, ``file:line``.
        text: The text as it was.
        findings: What the guards say about it.
    """

    origin: str
    text: str
    findings: Findings


@dataclass(frozen=True)
class InspectedDataset:
    """A data set after guards have looked at it.

    Attributes:
        dataset: Its records, redacted; those with something that blocks are left out.
        found: The texts in which something was found.
        actions: Number of records by their most severe action.
    """

    dataset: Dataset
    found: list[RecordFindings]
    actions: dict[Action, int]

    def categories(self) -> dict[str, int]:
        """Number of findings by category, the most frequent first."""
        counts = Counter(each.category for record in self.found for each in record.findings.findings)
        return dict(counts.most_common())


def inspect_dataset(guards: Sequence[TextGuard], dataset: Dataset) -> InspectedDataset:
    """Look at every text of every record. Labels, tags and roles stay as they are; answers move with their context."""
    kept: list[Record] = []
    found: list[RecordFindings] = []
    actions: Counter[Action] = Counter(dict.fromkeys(ACTIONS, 0))
    with task("Guard", total=len(dataset), unit="records") as progress:
        for record in progress.over(dataset):
            noted: list[RecordFindings] = []

            def look(text: str, record: Record = record, noted: list[RecordFindings] = noted) -> Findings:
                findings = inspect(guards, text)
                if findings.findings:
                    noted.append(RecordFindings(record.origin, text, findings))
                return findings

            clean = _rewritten(record, look)
            action = severest(one for each in noted for one in each.findings.findings)
            actions[action] += 1
            found += noted
            if action != "block":
                kept.append(clean)
    return InspectedDataset(replace(dataset, records=kept), found, dict(actions))


def _rewritten(record: Record, look: Callable[[str], Findings]) -> Record:
    """The record with what `look` makes of each of its texts."""
    if isinstance(record, Tagged):
        return replace(record, tokens=_rewritten_tokens(record.tokens, look(" ".join(record.tokens)).findings))
    if isinstance(record, QuestionAnswer):
        context = Redaction(record.context, look(record.context).findings)
        spans = [
            (context.moved(start), context.moved(start + len(answer), end=True))
            for answer, start in zip(record.answers, record.starts)
        ]
        return replace(
            record,
            question=look(record.question).text,
            context=context.text,
            answers=[context.text[start:end] for start, end in spans],
            starts=[start for start, _ in spans],
        )
    values = {each.name: getattr(record, each.name) for each in fields(record)}
    return replace(record, **{name: _changed(name, value, look) for name, value in values.items()})


def _changed(name: str, value: Any, look: Callable[[str], Findings]) -> Any:
    """A field, or a part of a message, with its texts changed."""
    if name in _NO_TEXT:
        return value
    if isinstance(value, str):
        return look(value).text
    if isinstance(value, list):
        return [_changed(name if isinstance(each, str) else "", each, look) for each in value]
    if isinstance(value, dict):
        return {key: _changed(str(key), each, look) for key, each in value.items()}
    return value


def _rewritten_tokens(tokens: Sequence[str], findings: Iterable[Finding]) -> list[str]:
    """Words with replacements in the place of those that a finding reaches into; positions are of the words joined."""
    changed, start = [], 0
    removed = [each for each in findings if each.action in _REMOVED]
    for token in tokens:
        end = start + len(token)
        reaching = next((each for each in removed if each.start < end and each.end > start), None)
        changed.append(token if reaching is None else reaching.replacement or f"[{reaching.category.upper()}]")
        start = end + 1
    return changed
