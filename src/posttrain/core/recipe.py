"""Recipes: YAML in, plain validated structure out.

A recipe names a model and a list of steps, each ``{verb: settings}``. What a verb's settings mean is known to the verb;
this module reads the file, points at the line of a syntax error, applies ``--set`` and checks the frame.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from posttrain.core.errors import BadRequest
from posttrain.core.settings import Settings


class _Loader(yaml.SafeLoader):
    """YAML 1.2's idea of truth values: only true and false, so that a key may be called `on`, and `1e-3` is a number."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in ("tag:yaml.org,2002:bool", "tag:yaml.org,2002:float")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$|^[-+]?\.(?:inf|Inf|INF)$|^\.(?:nan|NaN|NAN)$"),
    list("-+.0123456789"),
)


def load_yaml(text: str) -> Any:
    """Parse YAML into plain values; no tags, no objects."""
    return yaml.load(text, _Loader)  # noqa: S506 - a SafeLoader


class Recipe(Settings):
    """The frame of a recipe."""

    name: str = "recipe"
    """Name of the run."""

    description: str = ""
    """What it shows, one or two sentences; stands at the head of the report."""

    model: str
    """The model to start from: an alias, a folder, a .gguf file, hub:owner/name or wheel:NAME."""

    seed: int = 0
    """Seed of everything random."""

    device: str = "auto"
    """Where to compute: auto, cpu, cuda, cuda:N, mps."""

    dtype: str = "float32"
    """Precision the model is loaded in: float32, bfloat16, float16."""

    steps: list[dict[str, Any]]
    """The steps in order, each one key (the verb) with its settings."""


def read(path: Path | str) -> dict[str, Any]:
    """Read a recipe file.

    Raises:
        BadRequest: If the file is missing, isn't YAML (naming line and column) or isn't a mapping.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, IsADirectoryError):
        raise BadRequest(f"There is no recipe file {path}.", "`posttrain list recipe` shows the shipped ones.") from None
    except UnicodeDecodeError as error:
        raise BadRequest(f"{path} is not UTF-8 text: {error}.") from None
    return parse(text, str(path))


def parse(text: str, where: str = "recipe") -> dict[str, Any]:
    """Parse a recipe's text.

    Raises:
        BadRequest: If it isn't YAML or isn't a mapping.
    """
    try:
        values = load_yaml(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"{where}, line {mark.line + 1}, column {mark.column + 1}" if mark else where
        raise BadRequest(f"{place}: not valid YAML: {error.problem}.") from None
    except yaml.YAMLError as error:
        raise BadRequest(f"{where}: not valid YAML: {error}.") from None
    if not isinstance(values, dict):
        raise BadRequest(f"{where} must be a mapping with `model` and `steps`.")
    return values


def dump(values: dict[str, Any]) -> str:
    """YAML text of a recipe, keys in their order."""
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=110)


def apply_overrides(values: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Apply ``--set path=value`` to settings by the recipe's own names.

    Args:
        values: Settings, or a whole recipe. In a recipe the first part of a path may also be a step's verb or name (every
            such step) or ``steps.N``.
        overrides: ``a.b=c`` each; the value is read as YAML (``8``, ``true``, ``[q_proj, v_proj]``).

    Returns:
        A changed copy.

    Raises:
        BadRequest: If an override isn't ``path=value`` or leads through something that isn't a mapping.
    """
    values = copy.deepcopy(values)
    for override in overrides:
        path, equals, text = override.partition("=")
        if not equals or not path.strip():
            raise BadRequest(f"--set expects path=value, not '{override}'.", "For example --set adapt.lora.rank=8.")
        keys = path.strip().split(".")
        try:
            value = load_yaml(text)
        except yaml.YAMLError:
            value = text
        for target, rest in _targets(values, keys):
            _set(target, rest, value, override)
    return values


def _targets(values: dict[str, Any], keys: list[str]) -> list[tuple[dict[str, Any], list[str]]]:
    """The mappings an override applies to, with what is left of its path."""
    steps = values.get("steps")
    if not isinstance(steps, list) or len(keys) == 1:
        return [(values, keys)]
    entries = [(i, verb, step) for i, step in enumerate(steps) if isinstance(step, dict) for verb in step]
    if keys[0] == "steps":
        chosen = [(i, verb, step) for i, verb, step in entries if str(i) == keys[1]]
        if not chosen:
            raise BadRequest(f"There is no step '{'.'.join(keys[:2])}'; the recipe has {len(steps)}, counted from 0.")
        ((_, _, step),) = chosen
        return [(step, keys[2:])]
    chosen = [
        (i, verb, step)
        for i, verb, step in entries
        if verb == keys[0] or (isinstance(step[verb], dict) and step[verb].get("name") == keys[0])
    ]
    if not chosen:
        return [(values, keys)]
    return [(step, [verb, *keys[1:]]) for _, verb, step in chosen]


def _set(target: dict[str, Any], keys: list[str], value: Any, override: str) -> None:
    *parents, last = keys
    for key in parents:
        inner = target.get(key)
        if isinstance(inner, str):  # `adapt: lora` is short for `adapt: {lora: {}}`
            inner = {inner: {}}
        elif inner is None:
            inner = {}
        elif not isinstance(inner, dict):
            raise BadRequest(f"--set {override}: '{key}' is {inner!r} and has no settings of its own.")
        # A block names one method: reaching another one of the family replaces it, which the validation will judge.
        target[key] = inner
        target = inner
    target[last] = value
