"""The model card: what a model is, how it was made, how it was measured and what it must not be trusted with.

The sections follow Mitchell et al. (2019, "Model Cards for Model Reporting"), the front matter is what the Hugging Face
hub reads. Everything stands on the card that lies beside the model or was measured; what isn't known is said not to be
known. What the model is meant for only people can say, so it is an argument.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml


@dataclass(frozen=True)
class Evidence:
    """A figure that was measured on the model or on one of its ancestors.

    Attributes:
        step: Where it was measured.
        name: The metric.
        value: The figure.
        interval: Its 95 % confidence interval, if there is one.
        signature: How it was made.
    """

    step: str
    name: str
    value: float
    interval: tuple[float, float] | None = None
    signature: str = ""


def evidence(step: str, result: Mapping[str, Any]) -> list[Evidence]:
    """The figures of a step's result that say how they were made: every mapping in it with a value and a signature.

    Args:
        step: The step's name.
        result: JSON-able.
    """
    return list(_evidence(step, result, step))


def _evidence(step: str, result: Mapping[str, Any], name: str) -> Iterator[Evidence]:
    value = result.get("value", result.get("score"))
    if isinstance(value, (int, float)) and not isinstance(value, bool) and isinstance(result.get("signature"), str):
        interval = result.get("interval")
        bounds = (float(interval[0]), float(interval[1])) if interval else None
        yield Evidence(step, str(result.get("name", name)), float(value), bounds, result["signature"])
        return
    for key, inner in result.items():
        if isinstance(inner, Mapping):
            yield from _evidence(step, inner, str(key))


def model_card(card: Mapping[str, Any], measured: Sequence[Evidence] = (), intended_use: str | None = None) -> str:
    """The card as Markdown.

    Args:
        card: What lies beside the model as ``posttrain.json``.
        measured: Figures to show.
        intended_use: What the model is for, in Markdown.
    """
    name = str(card.get("name") or "model")
    sections = [
        f"---\n{yaml.safe_dump(_front_matter(card), sort_keys=False, allow_unicode=True)}---\n\n# {name}\n",
        _details(card),
        f"## Intended use\n\n{intended_use.strip()}\n" if intended_use else "",
        _making(card),
        _data(card),
        _measured(measured),
        _limits(card),
        _energy(card),
        _use(),
        _settings(card),
    ]
    return "\n".join(section for section in sections if section)


def _root(card: Mapping[str, Any]) -> str:
    return str((card.get("root") or {}).get("reference") or card.get("base") or "unknown")


def _front_matter(card: Mapping[str, Any]) -> dict[str, Any]:
    root = _root(card)
    hub = root.removeprefix("hub:")
    verbs = sorted({verb for entry in card.get("history", []) for verb in entry.get("made_by", {})})
    # The hub knows models by owner/name only.
    base = {"base_model": hub} if hub.count("/") == 1 and not hub.startswith((".", "/")) else {}
    known = {"license": card["license"]} if card.get("license") else {}
    return {**known, **base, "library_name": "posttrain", "tags": ["posttrain", *verbs]}


def _details(card: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in (card.get("versions") or {}).items())
    facts = {
        "Made from": f"`{_root(card)}`",
        "Made on": card.get("created"),
        "Made with": versions,
        "License": card.get("license") or "not recorded; see the model it was made from",
        "Content key": f"`{card['key']}`" if card.get("key") else None,
        "Adapter on": f"`{card['base']}`" if card.get("base") else None,
    }
    return "## Details\n\n" + "".join(f"- {key}: {value}\n" for key, value in facts.items() if value)


def _making(card: Mapping[str, Any]) -> str:
    history = card.get("history") or []
    if not history:
        return ""
    rows = [
        [str(entry["name"]), verb, ", ".join(_methods(settings)), str(entry.get("seed", ""))]
        for entry in history
        for verb, settings in entry["made_by"].items()
    ]
    return "## How it was made\n\n" + _table(["model", "step", "methods", "seed"], rows)


def _methods(settings: Any) -> Iterator[str]:
    """Names of the method blocks in a step's settings: mappings with one key whose value is a mapping."""
    if not isinstance(settings, Mapping):
        return
    for key, value in settings.items():
        blocks = value if isinstance(value, list) else [value]
        for block in blocks:
            if isinstance(block, Mapping) and len(block) == 1 and isinstance(next(iter(block.values())), Mapping):
                yield f"{key}: {next(iter(block))}"


def _data(card: Mapping[str, Any]) -> str:
    rows: dict[tuple[str, str], list[str]] = {}
    for entry in card.get("history") or []:
        for use, value in (entry.get("inputs") or {}).items():
            if isinstance(value, Mapping) and "source" in value:
                digest = str(value.get("hash") or "")[:12]
                rows[entry["name"], use] = [str(entry["name"]), use, f"`{value['source']}`", f"`{digest}`"]
    if not rows:
        return ""
    return "## Data\n\n" + _table(["model", "used as", "source", "SHA-256 begins"], list(rows.values()))


def _measured(measured: Sequence[Evidence]) -> str:
    if not measured:
        return "## Measurements\n\nNone are recorded here.\n"
    rows = [
        [
            item.step,
            item.name,
            f"{item.value:.4g}",
            f"{item.interval[0]:.4g} to {item.interval[1]:.4g}" if item.interval else "",
            f"`{item.signature}`",
        ]
        for item in measured
    ]
    columns = ["step", "metric", "value", "95 % interval", "how it was measured"]
    return "## Measurements\n\n" + _table(columns, rows)


def _limits(card: Mapping[str, Any]) -> str:
    cutoff = card.get("knowledge_cutoff")
    lines = [
        f"Its knowledge ends with {cutoff}."
        if cutoff
        else "The end of its knowledge is not recorded; ask the maker of the model it was made from.",
        "It writes what is probable, not what is true: check facts before relying on them.",
        "It can repeat prejudices and private facts of the texts it was trained on; the measurements above say only "
        "what they measured.",
        "It was measured on the data named here and in no other language, field or length of text.",
    ]
    if any(entry.get("surgery") for entry in [card]):
        lines.append("Its weights are rounded; compare it with the unrounded model before using it for new tasks.")
    return "## Limits\n\n" + "".join(f"- {line}\n" for line in lines)


def _energy(card: Mapping[str, Any]) -> str:
    entries = [entry["energy"] for entry in card.get("history") or [] if isinstance(entry.get("energy"), Mapping)]
    if not entries:
        return ""
    kilowatt_hours = sum(float(entry.get("kwh") or 0) for entry in entries)
    grams = sum(float(entry.get("co2_g") or 0) for entry in entries)
    how = " and ".join(sorted({str(entry.get("how")) for entry in entries if entry.get("how")}))
    return (
        f"## Energy\n\nMaking it took {kilowatt_hours * 1000:.3g} Wh and {grams:.3g} g of CO₂ ({how}), without the "
        "models it was made from.\n"
    )


def _use() -> str:
    return (
        '## Use\n\n```console\nposttrain generate FOLDER "Your question"\nposttrain lineage FOLDER\n```\n\n'
        'FOLDER is where this file lies. The same in Python: `posttrain.generate("FOLDER", "Your question")`.\n'
    )


def _settings(card: Mapping[str, Any]) -> str:
    steps = [entry["made_by"] for entry in card.get("history") or []]
    if not steps:
        return ""
    text = yaml.safe_dump(steps, sort_keys=False, allow_unicode=True)
    return f"## Settings of every step\n\n```yaml\n{text}```\n"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)
