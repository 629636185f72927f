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
from pydantic import Field
from yaml.error import MarkedYAMLError

from posttrain.core import catalog
from posttrain.core.errors import BadRequest, did_you_mean
from posttrain.core.settings import Settings

_TAG = "tag:yaml.org,2002:"

# YAML 1.2's plain scalars: only true and false are truth values, so that a key may be called `on`; `1e-3` is a number;
# 010, 1:30 and 2024-05-01 are no octal, base-60 number or date.
_SCALARS: tuple[tuple[str, str, str], ...] = (
    ("null", r"~|null|Null|NULL", "~nN"),
    ("null", r"", ""),
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+", "-+0123456789"),
    ("float", r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", "-+.0123456789"),
    ("float", r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)", "-+."),
    ("merge", r"<<", "<"),
)


class _Loader(yaml.SafeLoader):
    """Reads YAML 1.2's plain scalars; refuses a key that stands twice in one mapping, where PyYAML keeps the last."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise MarkedYAMLError(problem=f"the key '{key.value}' stands twice", problem_mark=key.start_mark)
                seen.add(key.value)
        return node


class _Dumper(yaml.SafeDumper):
    """Writes what `_Loader` reads, each value in full."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


for _class in (_Loader, _Dumper):
    _class.yaml_implicit_resolvers = {}
    for _name, _pattern, _first in _SCALARS:
        # PyYAML looks the patterns up by a scalar's first character, the empty scalar's by "".
        _class.add_implicit_resolver(_TAG + _name, re.compile(f"^(?:{_pattern})$"), list(_first) or [""])
# Unicode's own line breaks survive only where they are escaped.
_Dumper.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar(
        _TAG + "str", text, '"' if set(text) & {*"\x85\u2028\u2029"} else None
    ),
)
_Loader.add_constructor(_TAG + "int", lambda loader, node: int(node.value))


def load_yaml(text: str) -> Any:
    """Parse YAML into plain values; no tags, no objects.

    Raises:
        yaml.YAMLError: If it isn't YAML or a key stands twice in one mapping.
    """
    return yaml.load(text, _Loader)


class Recipe(Settings):
    """The frame of a recipe."""

    name: str = "recipe"
    """Name of the run."""

    description: str = ""
    """What it shows, one or two sentences; stands at the head of the report."""

    model: str
    """The model to start from: an alias, a folder, a .gguf file, hub:owner/name or wheel:NAME."""

    seed: int = Field(0, ge=0, lt=2**63)
    """Seed of everything random."""

    device: str = "auto"
    """Where to compute: auto, cpu, cuda, cuda:N, mps."""

    dtype: str = "float32"
    """Precision the model is loaded in: float32, bfloat16, float16."""

    region: str | float | None = None
    """Whose electricity the machine uses, for its CO₂: a country (FRA, France) or grams a kWh; the world's average."""

    knowledge_cutoff: str | None = None
    """When the model's training texts end, as in 2024-06; where not given, what the model says of itself."""

    steps: list[dict[str, Any]]
    """The steps in order, each one key (the verb) with its settings."""


def read(path: Path | str, of: str = "") -> dict[str, Any]:
    """Read a recipe file, or another YAML file that holds a mapping.

    Args:
        path: The file.
        of: What the mapping holds where the file is no recipe, as in ``ways of decoding by name``.

    Raises:
        BadRequest: If the file is missing, isn't YAML (naming line and column) or isn't a mapping.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, IsADirectoryError):
        if of:
            raise BadRequest(f"There is no file {path}.", f"It is to hold {of}.") from None
        raise BadRequest(
            f"There is no recipe file {path}.", "`posttrain list recipe` shows the shipped ones."
        ) from None
    except UnicodeDecodeError as error:
        raise BadRequest(f"{path} is not UTF-8 text: {error}.") from None
    return parse(text, str(path), of)


def parse(text: str, where: str = "recipe", of: str = "") -> dict[str, Any]:
    """Parse a recipe's text, or that of another mapping; see `read`.

    Raises:
        BadRequest: If it isn't YAML or isn't a mapping.
    """
    try:
        values = load_yaml(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"{where}, line {mark.line + 1}, column {mark.column + 1}" if mark else where
        raise BadRequest(f"{place}: not valid YAML: {error.problem}.") from None
    except yaml.YAMLError as error:
        raise BadRequest(f"{where}: not valid YAML: {' '.join(str(error).split())}.") from None
    if not isinstance(values, dict):
        raise BadRequest(f"{where} must be a mapping {f'of {of}' if of else 'with `model` and `steps`'}.")
    return values


def dump(values: dict[str, Any]) -> str:
    """YAML text of a recipe, keys in their order."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)


def apply_overrides(values: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Apply ``--set path=value`` to settings by the recipe's own names.

    A path leads through mappings by key and through lists by position (from 0) or, in a list of methods, by name. Where
    a family takes one method, reaching another one replaces it: ``adapt.lora.rank=8`` turns ``adapt: full`` into
    ``adapt: {lora: {rank: 8}}``.

    Args:
        values: Settings, or a whole recipe. In a recipe the first part of a path may also be a step's verb or name
            (every such step) or ``steps.N``.
        overrides: ``a.b=c`` each; the value is read as YAML (``8``, ``true``, ``[q_proj, v_proj]``).

    Returns:
        A changed copy.

    Raises:
        BadRequest: If an override isn't ``path=value``, names no step of the recipe, or leads through something that
            has no settings.
    """
    values = copy.deepcopy(values)
    for override in overrides:
        path, equals, text = override.partition("=")
        keys = path.strip().split(".")
        if not equals or not all(keys):
            raise BadRequest(f"--set expects path=value, not '{override}'.", "For example --set adapt.lora.rank=8.")
        try:
            value = load_yaml(text)
        except yaml.YAMLError:
            value = text
        for target, rest in _targets(values, keys, override):
            _set(target, rest, copy.deepcopy(value), override)
    return values


def _targets(values: dict[str, Any], keys: list[str], override: str) -> list[tuple[dict[str, Any], list[str]]]:
    """The mappings an override applies to, with what is left of its path."""
    steps = values.get("steps")
    if not isinstance(steps, list) or len(keys) == 1:
        return [(values, keys)]
    entries = [(str(i), verb, step) for i, step in enumerate(steps) if isinstance(step, dict) for verb in step]
    if keys[0] == "steps":
        chosen = [(verb, step) for number, verb, step in entries if number == keys[1]]
        if not chosen:
            raise BadRequest(f"There is no step '{'.'.join(keys[:2])}'; the recipe has {len(steps)}, counted from 0.")
        if len(keys) == 2:
            raise BadRequest(
                f"--set {override} names no setting.",
                f"For example --set {keys[0]}.{keys[1]}.{chosen[0][0]}.name=first.",
            )
        if keys[2] not in [verb for verb, _ in chosen]:
            raise BadRequest(
                f"--set {override}: step {keys[1]} is `{chosen[0][0]}`.",
                f"Write {'.'.join([*keys[:2], str(chosen[0][0]), *keys[2:]])}.",
            )
        return [(chosen[0][1], keys[2:])]
    names = [
        (verb, step[verb].get("name") if isinstance(step[verb], dict) else None, step) for _, verb, step in entries
    ]
    found = [(step, [verb, *keys[1:]]) for verb, name, step in names if keys[0] in (verb, name)]
    if not found and keys[0] not in {*values, *Recipe.model_fields}:
        known = {str(each) for verb, name, _ in names for each in (verb, name) if each} | {*Recipe.model_fields}
        raise BadRequest(f"--set {override}: the recipe has no step or key '{keys[0]}'.", did_you_mean(keys[0], known))
    return found or [(values, keys)]


def _set(target: Any, keys: list[str], value: Any, override: str, family: str = "") -> None:
    """Put `value` at the path `keys` below `target`, a mapping or list that was reached by the key `family`."""
    key, *rest = keys
    if isinstance(target, list):
        position = _position(target, key, family, override)
        if key.isdigit() and not rest:
            target[position] = value
            return
        target[position] = _opened(target[position], key, override)
        _set(target[position], rest if key.isdigit() else keys, value, override)
        return
    if key not in target and family not in catalog.SEVERAL and _is_method(family, key):
        for other in [name for name in target if _is_method(family, str(name))]:
            del target[other]
    if not rest:
        target[key] = value
        return
    target[key] = _opened(target.get(key), key, override)
    _set(target[key], rest, value, override, _family(key))


def _opened(value: Any, key: str, override: str) -> dict[str, Any] | list[Any]:
    """What stands at a key as something that a path can lead into."""
    if isinstance(value, str):  # `adapt: lora` is short for `adapt: {lora: {}}`
        return {value: {}}
    if value is None:
        return {}
    if not isinstance(value, (dict, list)):
        raise BadRequest(f"--set {override}: '{key}' is {value!r} and has no settings of its own.")
    return value


def _position(entries: list[Any], key: str, family: str, override: str) -> int:
    """Where in a list the entry is that a path names by its position or as a method; a new method goes to the end."""
    if key.isdigit() and int(key) < len(entries):
        return int(key)
    for position, entry in enumerate(entries):
        if entry == key or (isinstance(entry, dict) and key in entry):
            return position
    if not _is_method(family, key):
        raise BadRequest(
            f"--set {override}: there is no '{key}' in {entries!r}.", "Give a position, from 0, or a name."
        )
    entries.append({key: None})
    return len(entries) - 1


def _family(key: str) -> str:
    """The family whose methods stand under a key; a key for several of them may be the plural of its name."""
    singular = key.removesuffix("s")
    return singular if singular in catalog.SEVERAL else key


def _is_method(family: str, key: str) -> bool:
    return family in catalog.FAMILIES and (":" in key or key.replace("-", "_").lower() in catalog.terms(family))
