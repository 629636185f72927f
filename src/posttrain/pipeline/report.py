"""The report of a run: one HTML file that tells what was done, what came of it and how to do it again.

The page needs nothing but itself: no script, no font, no image from elsewhere, and its content policy forbids them, for
what a model wrote is shown here and is not to be trusted. It reads on a phone, on a dark screen and on paper.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from posttrain.core.files import write_text
from posttrain.pipeline.charts import curve_chart, dots_chart, scatter_chart
from posttrain.pipeline.lineage_drawing import KINDS, lineage_drawing
from posttrain.pipeline.quantities import duration, is_number, label, moment, show, show_column, unit_of
from posttrain.pipeline.views import View

# Invisible characters are shown as their pictures; lone surrogates, which UTF-8 can't hold, as a replacement mark.
_VISIBLE = {code: 0x2400 + code for code in range(32) if code not in (9, 10)} | {
    127: 0x2421,
    **dict.fromkeys(range(0xD800, 0xE000), 0xFFFD),
}


def write_report(summary: dict[str, Any], path: Path) -> None:
    """Write the report of a run, whole or interrupted, as one self-contained HTML file.

    Args:
        summary: JSON-able: ``name``, ``description``, ``model``, ``seed``, ``started`` (ISO 8601), ``seconds``,
            ``machine`` (facts and versions), ``recipe`` (YAML text), ``command`` (by default derived from the name),
            ``warnings`` (sentences), ``lineage`` (see `lineage_drawing`) and ``steps``: ``name``, ``verb``, ``title``,
            ``summary``, ``seconds``, ``energy``, ``skipped``, ``result``, ``headline`` (by default derived from the
            result), ``views`` and ``model``. Everything may be missing; a step without ``seconds`` hasn't finished.
        path: The file, replaced atomically.

    Raises:
        Failure: If the disk is full or the file may not be written.
    """
    write_text(path, render_report(summary))


def render_report(summary: dict[str, Any]) -> str:
    """The page `write_report` writes; the same summary always gives the same text."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("posttrain.pipeline", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(show=show, label=label, duration=duration)
    return environment.get_template("report.html").render(_page(summary)).translate(_VISIBLE)


def headline(result: Mapping[str, Any]) -> str:
    """The most telling figure of a result: its first before-and-after pair, else its first number or truth value."""
    flat = list(_figures(result))
    values = dict(flat)
    for name, value in flat:
        after = re.sub(r"\bbefore\b|(?<=_)before\b", "after", name)
        if after != name and after in values and is_number(value) and is_number(values[after]):
            what = re.sub(r"[_ ]*before\b", "", name) or "value"
            first, second = show_column([value, values[after]], "", [what, what])
            return f"{label(what)} {first} → {second}"
    for name, value in flat:
        if isinstance(value, bool):
            return f"{label(name)}: {show(value)}"
        if is_number(value):
            return f"{label(name)} {show(value, name)}"
    return ""


def _figures(result: Mapping[str, Any], outer: str = "") -> Iterator[tuple[str, Any]]:
    """Every leaf of a nested result; the `value` of a measurement goes by the measurement's own name."""
    for key, value in result.items():
        name = outer if key == "value" and outer else f"{outer} {key}".strip()
        if isinstance(value, Mapping):
            yield from _figures(value, name)
        else:
            yield name, value


def _page(summary: Mapping[str, Any]) -> dict[str, Any]:
    """What the template fills in; every key is present however little the summary holds."""
    machine = summary.get("machine") or {}
    seed, name = summary.get("seed"), str(summary.get("name") or "A run")
    steps = [_step(index, step) for index, step in enumerate(summary.get("steps") or [], 1)]
    lineage = summary.get("lineage") or {}
    recipe = str(summary.get("recipe") or "")
    facts = {
        "Model": summary.get("model"),
        "Started": moment(str(summary["started"])) if summary.get("started") else None,
        "Total time": duration(summary["seconds"]) if is_number(summary.get("seconds")) else None,
        "Energy": _energy(summary.get("energy")),
        "Knowledge until": summary.get("knowledge_cutoff"),
        "Seed": None if seed is None else str(seed),
        "Machine": _machine_sentence(machine),
    }
    return {
        "name": name,
        "description": summary.get("description") or "",
        "facts": {key: value for key, value in facts.items() if value},
        "warnings": summary.get("warnings") or [],
        "steps": steps,
        "metered": any(step["energy"] for step in steps),
        "unfinished": any(not step["finished"] for step in steps) or not is_number(summary.get("seconds")),
        "lineage": Markup(lineage_drawing(lineage)),
        "lineage_kinds": [kind for kind in KINDS if any(n.get("kind") == kind for n in lineage.get("nodes") or [])],
        "recipe": recipe,
        "recipe_file": _recipe_file(name),
        "command": summary.get("command") or _command(name, seed, recipe),
        "seed": seed,
        "machine": machine,
    }


def _energy(spent: Mapping[str, Any] | None, brief: bool = False) -> str:
    """Energy and CO₂ in words, with what they rest on unless it must be brief."""
    if not spent:
        return ""
    watt_hours, grams = (float(f"{value:.2g}") for value in (1000 * spent["kwh"], spent["co2_g"]))
    if brief:
        return "< 0.001 Wh" if watt_hours < 0.001 else f"{show(watt_hours)} Wh"
    assumed = spent.get("assumptions") or {}
    where = f" at {show(assumed['g_co2_per_kwh'])} g a kWh ({assumed['region']})" if "g_co2_per_kwh" in assumed else ""
    return f"{show(watt_hours)} Wh, {show(grams)} g CO₂{where}, {spent['how']}"


def _recipe_file(name: str) -> str:
    return (re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "recipe") + ".yaml"


def _command(name: str, seed: Any, recipe: str) -> str:
    words = ["posttrain", "run", _recipe_file(name)]
    if seed is not None and not re.search(r"^seed:", recipe, re.MULTILINE):
        words += ["--set", f"seed={seed}"]
    return shlex.join(words)


def _machine_sentence(machine: Mapping[str, Any]) -> str:
    parts = [str(machine[key]) for key in ("accelerator", "processor") if machine.get(key)]
    if cores := machine.get("cores"):
        parts.append(f"{cores} core{'s' if cores != 1 else ''}")
    if is_number(machine.get("memory_gb")):
        parts.append(f"{machine['memory_gb']:.3g} GB memory")
    return ", ".join(parts)


def _step(index: int, step: Mapping[str, Any]) -> dict[str, Any]:
    seconds = step.get("seconds")
    result = step.get("result") or {}
    name = str(step.get("name") or f"step {index}")
    title = str(step.get("title") or label(name))
    return {
        "id": f"step-{index}",
        "index": index,
        "name": name,
        "verb": step.get("verb") or "",
        "title": title[:1].upper() + title[1:],
        "summary": step.get("summary") or "",
        "time": duration(seconds) if is_number(seconds) else "",
        "energy": _energy(step.get("energy"), brief=True),
        "finished": is_number(seconds) or bool(step.get("skipped")),
        "skipped": bool(step.get("skipped")),
        "model": step.get("model"),
        "headline": str(step.get("headline") or headline(result)).replace(" → ", "\u00a0→\u00a0"),
        "story": next(filter(_tells, step.get("views") or []), None),
        "figures": list(_figures(result)),
        "views": [_view(view, f"step-{index}-view-{n}") for n, view in enumerate(step.get("views") or [], 1)],
    }


def _tells(view: View) -> bool:
    """Whether a view is a note that says what came of a step."""
    return view.get("kind") == "note" and view.get("tone") != "source"


def _view(view: View, prefix: str) -> dict[str, Any]:
    """A view with what its drawing needs worked out."""
    kind = view.get("kind")
    if kind == "curve":
        return {**view, "svg": Markup(curve_chart(view, prefix))}
    if kind == "scatter":
        return {**view, "svg": Markup(scatter_chart(view, prefix))}
    if kind == "dots":
        return {**view, "svg": Markup(dots_chart(view, prefix))}
    if kind == "table":
        return {"verbatim": False, **view, **_table(view["columns"], view["rows"])}
    if kind == "masked_text":
        total = sum(len(text) for text, _ in view["pieces"])
        carried = sum(len(text) for text, on in view["pieces"] if on)
        return {**view, "total": total, "carried": carried}
    if kind in ("note", "facts", "samples", "document"):
        return view
    return {"kind": "other", "title": str(kind), "text": json.dumps(view, ensure_ascii=False, indent=2)}


def _table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> dict[str, Any]:
    """Cells as text, and which columns hold numbers."""
    names = [str(row[0]) if row and isinstance(row[0], str) else "" for row in rows]
    one_figure_a_row = any(unit_of(name) for name in names)
    cells: list[list[str]] = [[] for _ in rows]
    numeric = []
    for index, column in enumerate(columns):
        values = [row[index] if index < len(row) else None for row in rows]
        for line, text in zip(cells, show_column(values, column, names)):
            line.append(label(text) if one_figure_a_row and not index else text)
        known = [v for v in values if v is not None]
        numeric.append(bool(known) and all(is_number(v) or _is_interval(v) for v in known))
    return {"cells": cells, "numeric": numeric}


def _is_interval(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == 2 and all(is_number(v) for v in value)
