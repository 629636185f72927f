"""Presets: how tokens are chosen for a use; the usual ones stand in ``presets.yaml`` here, others in files."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from pydantic import Field

from posttrain.core import recipe
from posttrain.core.errors import BadRequest, did_you_mean
from posttrain.core.settings import Settings


class Preset(Settings):
    """What is usual for a use."""

    use: str
    """What it is for."""

    range: tuple[float, float | None] | None = None
    """Lowest and highest usual temperature; no highest where there is no upper end."""

    search: dict[str, dict[str, Any]] = Field(min_length=1, max_length=1)
    """The search with its settings, as a recipe writes it."""

    process: list[dict[str, Any]] = []
    """Processors before it, as a recipe writes them."""


@cache
def presets() -> dict[str, Preset]:
    """All presets by name."""
    values = recipe.read(Path(__file__).with_name("presets.yaml"))
    return {name: Preset.parse(entry, f"presets.{name}") for name, entry in values.items()}


def preset(name: str) -> Preset:
    """One preset, by the name of a usual one or a YAML file that holds one.

    Raises:
        BadRequest: If there is none of this name, or the file holds none.
    """
    if Path(name).suffix in (".yaml", ".yml"):
        return Preset.parse(recipe.read(name, "a preset's settings"), name)
    known = presets()
    found = known.get(name.replace("-", "_").lower())
    if found is None:
        raise BadRequest(f"There is no preset '{name}'.", did_you_mean(name, known))
    return found
