"""gate: the run goes on only if figures of earlier steps are good enough; else it ends, with its report written."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

from pydantic import field_validator

from posttrain.core.errors import BadRequest, did_you_mean
from posttrain.pipeline.quantities import is_number, show
from posttrain.pipeline.steps import Context, Outcome, Step
from posttrain.pipeline.views import note, table

_NUMBER = r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?"
_COMPARISON = re.compile(rf"(<=|>=|==|<|>)\s*({_NUMBER}|true|false)\s*(%?)")
_BETWEEN = re.compile(rf"between\s+({_NUMBER})\s*(%?)\s+and\s+({_NUMBER})\s*(%?)")
_FORMS = 'Conditions are "< 0.1", "<= 0.1", "> 5 %", ">= 5", "== true" and "between 0.2 and 0.4".'


@dataclass(frozen=True)
class Condition:
    """What a figure must fulfil.

    Attributes:
        written: As it stands in the recipe.
        low: The least value, or None.
        high: The largest value, or None.
        open: Whether the bound itself is a miss.
    """

    written: str
    low: float | None
    high: float | None
    open: bool = False

    @classmethod
    def parse(cls, text: Any) -> Self:
        """A condition from its text.

        Raises:
            ValueError: If it has none of the known forms.
        """
        written = " ".join(str(text).split())
        if isinstance(text, str) and (found := _BETWEEN.fullmatch(written)):
            low, high = _value(found[1], found[2]), _value(found[3], found[4])
            if low > high:
                raise ValueError(f"no number is {written}")
            return cls(written, low, high)
        if not isinstance(text, str) or not (found := _COMPARISON.fullmatch(written)):
            raise ValueError(f"{text!r} is no condition. {_FORMS}")
        sign, bound = found[1], _value(found[2], found[3])
        if found[2] in ("true", "false") and sign != "==":
            raise ValueError(f'{written!r} compares a truth value. Write "== {found[2]}".')
        if sign == "==":
            return cls(written, bound, bound)
        return cls(written, bound if sign[0] == ">" else None, bound if sign[0] == "<" else None, len(sign) == 1)

    def holds(self, value: float) -> bool:
        """Whether a value fulfils it; a truth value counts as 1 or 0, and what is no number fulfils nothing."""
        above = self.low is None or (value > self.low if self.open else value >= self.low)
        below = self.high is None or (value < self.high if self.open else value <= self.high)
        return above and below and value == value


def _value(text: str, percent: str) -> float:
    if text in ("true", "false"):
        return float(text == "true")
    return float(text) / 100 if percent else float(text)


@dataclass(frozen=True)
class Figure:
    """A figure of an earlier step: where it was found, and its value (None where the step found no number)."""

    step: str
    value: float | bool | None


class Gate(Step):
    """Let the run go on only if its figures are good enough."""

    conditions: dict[str, str]
    """Figures and what they must be; they may stand in the step itself, as in {forgetting: "< 0.1", speed: "> 1"}."""

    fail: bool = True
    """End the run with an error on a miss; false only warns."""

    @classmethod
    def parse(cls, values: Any, where: str = "", implied: str | None = None) -> Self:
        """Validate a recipe entry; keys that aren't fields are figures, nested ones are written with dots.

        Figures may stand in the step itself and under `conditions`, so that ``--set`` reaches them by either path; of
        two conditions of one figure the later counts.
        """
        if isinstance(values, dict) and isinstance(values.get("conditions", {}), dict):
            known = {field.alias or name for name, field in cls.model_fields.items()}
            own = {key: value for key, value in values.items() if key in known and key != "conditions"}
            figures: list[tuple[str, Any]] = []
            for key, value in values.items():
                if key not in known:
                    figures += _flat({str(key): value})
                elif key == "conditions":
                    figures += _flat(value)
            for key, value in figures:
                near = difflib.get_close_matches(key, known, n=1, cutoff=0.7)
                try:
                    Condition.parse(value)
                except ValueError as error:
                    hint = f"Did you mean '{near[0]}'?" if near and not isinstance(value, str) else ""
                    raise BadRequest(f"'{where or 'gate'}.{key}' doesn't fit: {error}", hint) from None
            values = {**own, **({"conditions": dict(figures)} if figures or "conditions" in values else {})}
            implied = "conditions"
        return super().parse(values, where, implied)

    @field_validator("conditions")
    @classmethod
    def _can_be_read(cls, conditions: dict[str, str]) -> dict[str, str]:
        if not conditions:
            raise ValueError("no condition is given")
        for text in conditions.values():
            Condition.parse(text)
        return conditions

    def inputs(self, context: Context) -> dict[str, Any]:
        """The figures as they are.

        Raises:
            BadRequest: If no earlier step has one of them.
        """
        figures = {name: _find(name, context.results) for name in self.conditions}
        return {"figures": {name: [figure.step, figure.value] for name, figure in figures.items()}}

    def run(self, context: Context) -> Outcome:
        """Compare, tabulate, and say what was missed."""
        rows: list[list[Any]] = []
        missed: list[str] = []
        checks: dict[str, dict[str, Any]] = {}
        for name, text in self.conditions.items():
            figure = _find(name, context.results)
            condition = Condition.parse(text)
            passed = figure.value is not None and condition.holds(float(figure.value))
            checks[name] = {"passed": passed, "value": figure.value, "wanted": condition.written, "step": figure.step}
            found = show(figure.value)
            rows.append(["✓" if passed else "✗", name, condition.written, found, figure.step])
            if not passed:
                missed.append(f"{name} should be {condition.written} and is {found} (step {figure.step})")
        views = [table("What was asked for", ["", "figure", "wanted", "found", "step"], rows)]
        count = len(rows)
        if missed:
            views.append(note(f"Missed: {'; '.join(missed)}.", "warning"))
        else:
            views.append(note(f"{'All ' * (count > 1)}{count} condition{'s hold' if count > 1 else ' holds'}.", "good"))
        return Outcome(
            {"passed": not missed, "conditions": checks},
            views,
            headline=f"{count - len(missed)} of {count} passed",
            failure=f"The gate is not passed: {'; '.join(missed)}." if missed and self.fail else None,
        )


def _flat(values: Mapping[str, Any], outer: str = "") -> Iterator[tuple[str, Any]]:
    """Conditions by dotted names."""
    for key, value in values.items():
        name = f"{outer}{key}"
        if isinstance(value, Mapping):
            yield from _flat(value, f"{name}.")
        else:
            yield name, value


def _find(name: str, results: Mapping[str, Mapping[str, Any]]) -> Figure:
    """A figure by its step and path, or by its path in the newest step that has it.

    Raises:
        BadRequest: If there is none, or it is no number.
    """
    step, _, rest = name.partition(".")
    places = [(step, rest)] if step in results and rest else []
    places += [(each, name) for each in reversed(list(results))]
    for where, path in places:
        found = [value for value in _at(results[where], path) if _is_figure(value)]
        if found:
            return Figure(where, found[0])
    known = {path for each, result in results.items() for path in _paths(result, each)}
    known |= {path for result in results.values() for path in _paths(result)}
    if not results:
        raise BadRequest(f"The gate asks for '{name}', and no step stands before it.", "Put the gate after the others.")
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.6) or sorted(known)[:12]
    raise BadRequest(f"No earlier step has the figure '{name}'.", did_you_mean(name, near))


def _is_figure(value: Any) -> bool:
    return value is None or isinstance(value, bool) or is_number(value)


def _at(value: Any, path: str) -> Iterator[Any]:
    """What stands at a dotted path; of a measurement its value. Names may hold dots themselves."""
    if not path:
        yield value["value"] if isinstance(value, Mapping) and "value" in value else value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            if path == key or path.startswith(f"{key}."):
                yield from _at(inner, path[len(key) + 1 :])


def _paths(value: Any, path: str = "") -> Iterator[str]:
    """The dotted paths of all figures in a result."""
    if isinstance(value, Mapping):
        if "value" in value and path:
            yield path
        for key, inner in value.items():
            yield from _paths(inner, f"{path}.{key}" if path else str(key))
    elif path and _is_figure(value):
        yield path
