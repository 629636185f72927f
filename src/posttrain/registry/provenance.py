"""Provenance: the card that lies beside every model, and the lineage drawn from cards.

A card says from which parents, with which settings, data, seed and versions a model was made.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from posttrain.core import runtime
from posttrain.models.language_model import LanguageModel
from posttrain.models.sources import aliases

FORMAT = "posttrain-card/1"


def new_card(
    parent: LanguageModel,
    *,
    name: str,
    made_by: dict[str, Any],
    inputs: dict[str, Any],
    seed: int,
    key: str = "",
    energy: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The card of a model made from another.

    Args:
        parent: The model it was made from; the history on its card is carried along.
        name: Name of the new model.
        made_by: The recipe step, ``{verb: settings}``.
        inputs: Hashes of the data that went in.
        seed: Seed of the step.
        key: Content key of the step.
        energy: What the step took, as `posttrain.core.energy.Energy.to_dict` gives it.
    """
    before, machine = parent.card, runtime.machine()
    root = before.get("root") or {"reference": parent.reference, "source": before.get("source")}
    # What an adapter sits on; a model with weights of its own needs no base.
    base = {"base": _found_from_anywhere(parent.reference)} if parent.adapter is not None else {}
    # An adapter's base is loaded without the head that the task gave it; a whole network's configuration describes it.
    head = {"head": before["head"]} if parent.adapter is not None and "head" in before else {}
    cutoff = {"knowledge_cutoff": said} if (said := knowledge_cutoff(parent)) else {}
    return {
        "format": FORMAT,
        "name": name,
        "root": root,
        **base,
        **head,
        "license": before.get("license"),
        **cutoff,
        "parents": [{"name": before.get("name", parent.reference), "key": before.get("key")}],
        "history": [
            *before.get("history", []),
            {
                "name": name,
                "made_by": made_by,
                "inputs": inputs,
                "seed": seed,
                "key": key,
                **({"energy": energy} if energy is not None else {}),
            },
        ],
        "surgery": list(before.get("surgery", [])),
        "key": key,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {name: machine[name] for name in ("posttrain", "torch", "transformers", "python")},
    }


def _found_from_anywhere(reference: str) -> str:
    """A reference that means the same in every working folder: of what was given by a path the absolute one."""
    path = Path(reference).expanduser()
    return reference if reference in aliases() or not path.exists() else str(path.resolve())


# How chat templates tell a model when its training texts end: "Cutting Knowledge Date: December 2023" (Llama 3),
# "Knowledge cutoff: 2024-06" (gpt-oss).
_CUTOFF = re.compile(
    r"(?:knowledge cut-?off(?: date)?|cutting knowledge date)\s*:\s*((?:[A-Z][a-z]+ )?\d{4}(?:-\d{2}){0,2})",
    re.IGNORECASE,
)


def knowledge_cutoff(model: LanguageModel) -> str | None:
    """When a model's training texts end: what its card says, else what its chat template tells it; None if neither."""
    if said := model.card.get("knowledge_cutoff"):
        return str(said)
    template = getattr(model.tokenizer, "chat_template", None)
    found = _CUTOFF.search(template) if isinstance(template, str) else None
    return found[1] if found else None


def lineage(card: dict[str, Any]) -> dict[str, list[Any]]:
    """Nodes and edges of a model's history, for printing and drawing.

    Returns:
        ``{"nodes": [{id, label, kind, detail}], "edges": [[from, to, label]]}`` with kinds model and data.
    """
    base = (card.get("root") or {}).get("reference") or card.get("name") or "model"
    nodes: list[dict[str, Any]] = [{"id": "base", "label": base, "kind": "model", "detail": "base"}]
    edges: list[list[str]] = []
    last = "base"
    for position, entry in enumerate(card.get("history", [])):
        node = f"{position}-{entry['name']}"
        verb = next(iter(entry["made_by"]), "")
        nodes.append({"id": node, "label": entry["name"], "kind": "model", "detail": verb})
        edges.append([last, node, verb])
        for label, value in entry.get("inputs", {}).items():
            if isinstance(value, dict) and "source" in value:
                source, digest = value["source"], (value.get("hash") or "")[:12]
                if f"data-{source}" not in {known["id"] for known in nodes}:
                    nodes.append({"id": f"data-{source}", "label": source, "kind": "data", "detail": digest})
                edges.append([f"data-{source}", node, label])
        last = node
    return {"nodes": nodes, "edges": edges}
