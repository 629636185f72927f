"""The catalog: the folder is the registry.

``adapt: {lora: {rank: 8}}`` names the family `adapt` and the term `lora`; the catalog imports
``posttrain/adapt/lora.py`` and takes its one public class that satisfies the family's contract. Nothing is listed by
hand and nothing is imported before it is used. A class of one's own is given as ``my.module:Class``.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer, ValidationInfo

from posttrain.core.errors import BadRequest, Failure, did_you_mean
from posttrain.core.settings import Settings, place_of

# The folders whose files are methods, and the name of the contract in each folder's __init__.
FAMILIES = {
    "source": ("posttrain.models.sources", "Source"),
    "adapt": ("posttrain.adapt", "Adapter"),
    "objective": ("posttrain.train.objectives", "Objective"),
    "align": ("posttrain.align.objectives", "Alignment"),
    "quantize": ("posttrain.quantize.methods", "Quantizer"),
    "observer": ("posttrain.quantize.observers", "Observer"),
    "process": ("posttrain.decode.processors", "LogitsProcessor"),
    "search": ("posttrain.decode.search", "Search"),
    "reranker": ("posttrain.decode.rerankers", "Reranker"),
    "measure": ("posttrain.measure", "Metric"),
    "losses": ("posttrain.distill.losses", "DistillationLoss"),
    "teachers": ("posttrain.distill.teachers", "Teacher"),
    "schedule": ("posttrain.train.schedules", "Schedule"),
    "regularizer": ("posttrain.train.regularizers", "Regularizer"),
    "export": ("posttrain.models.exports", "Export"),
    "guard": ("posttrain.guard", "Guard"),
    "task_type": ("posttrain.bench.task_types", "TaskType"),
    "judge": ("posttrain.bench.judges", "Judge"),
    "perturbation": ("posttrain.bench.perturbations", "Perturbation"),
    "dimension": ("posttrain.pipeline.dimensions", "Dimension"),
    "step": ("posttrain.pipeline.steps", "Step"),
}

# Families of which several methods may stand together in one block (a field made by `blocks`).
SEVERAL = frozenset({"process", "measure", "losses", "regularizer", "guard", "perturbation", "dimension"})


def family_package(family: str) -> str:
    """The import path of a family's folder.

    Raises:
        BadRequest: If there is no such family.
    """
    if family not in FAMILIES:
        raise BadRequest(f"There is no family '{family}'.", did_you_mean(family, FAMILIES))
    return FAMILIES[family][0]


@cache
def family_folder(family: str) -> Path:
    """The folder that holds a family's methods; found without importing the family."""
    package = family_package(family)
    root = Path(__file__).resolve().parents[1]
    return root.joinpath(*package.split(".")[1:])


def terms(family: str) -> list[str]:
    """All method names of a family, from the file names alone."""
    return sorted(p.stem for p in family_folder(family).glob("*.py") if not p.stem.startswith("_"))


def summary(family: str, term: str) -> str:
    """What a method is: the first paragraph of its module docstring on one line, read without importing it.

    Raises:
        BadRequest: If there is no such method.
    """
    text = (family_folder(family) / f"{_stem(family, term)}.py").read_text(encoding="utf-8")
    docstring = ast.get_docstring(ast.parse(text)) or ""
    return " ".join(docstring.split("\n\n")[0].split())


def contract(family: str) -> type:
    """The class that every method of the family subclasses."""
    package, name = FAMILIES[family_package(family) and family]
    return getattr(importlib.import_module(package), name)


def find(family: str, term: str) -> type[Any]:
    """The class of a method.

    Args:
        family: For example ``adapt``.
        term: A file name of the family's folder (dashes and underscores are the same), or ``my.module:Class``.

    Raises:
        BadRequest: If there is no such method, or the outsider's class can't be imported or breaks the contract.
        Failure: If the method's module can't be imported, for example because an optional package is missing.
    """
    family_package(family)
    if ":" in term:
        return _outside(term, contract(family))
    name = _stem(family, term)
    base = contract(family)
    try:
        module = importlib.import_module(f"{family_package(family)}.{name}")
    except Exception as error:
        raise Failure(
            f"The method '{name}' of '{family}' can't be loaded: {type(error).__name__}: {error}.",
            f"It lies in {family_folder(family) / name}.py.",
        ) from error
    found = _own_subclasses(module.__name__, base)
    if len(found) != 1:
        raise TypeError(f"{module.__name__} must define exactly one public {base.__name__}, found {found}")
    return found[0]


def _stem(family: str, term: str) -> str:
    """A method's file name without its ending; dashes, underscores and capitals don't matter."""
    name = term.replace("-", "_").lower()
    if name not in terms(family):
        raise BadRequest(f"There is no method '{term}' in '{family}'.", did_you_mean(term, terms(family)))
    return name


def _own_subclasses(module_name: str, base: type) -> list[type]:
    return [
        value
        for name, value in vars(sys.modules[module_name]).items()
        if inspect.isclass(value)
        and issubclass(value, base)
        and value.__module__ == module_name
        and not name.startswith("_")
    ]


def _outside(reference: str, base: type) -> type[Any]:
    module_name, _, class_name = reference.partition(":")
    if str(Path.cwd()) not in sys.path:  # a class beside the recipe, as with `python -m`
        sys.path.insert(0, str(Path.cwd()))
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # whatever an outsider's module raises
        raise BadRequest(
            f"'{reference}' can't be imported: {type(error).__name__}: {error}.",
            "Install it, or run from the folder that holds it." if isinstance(error, ImportError) else "",
        ) from error
    found = getattr(module, class_name, None)
    if not (inspect.isclass(found) and issubclass(found, base)):
        raise BadRequest(f"'{reference}' is no {base.__name__}.", f"Subclass {base.__module__}.{base.__name__}.")
    if missing := sorted(getattr(found, "__abstractmethods__", ())):
        raise BadRequest(f"'{reference}' doesn't fulfil {base.__name__}.", f"Define {', '.join(missing)}.")
    return found


def term_of(method: Any) -> str:
    """The name under which a recipe reaches this method (instance or class)."""
    cls = method if inspect.isclass(method) else type(method)
    package, _, stem = cls.__module__.rpartition(".")
    if any(package == folder for folder, _ in FAMILIES.values()):
        return stem
    return f"{cls.__module__}:{cls.__name__}"


def build(family: str, block: Any, where: str = "") -> Any:
    """Make a method from a recipe block.

    Args:
        family: For example ``adapt``.
        block: ``"lora"``, ``{"lora": {"rank": 8}}``, ``{"lora": None}`` or an instance, which is returned as it is.
        where: The block's place in the recipe for error messages; the family's name when not given.

    Raises:
        BadRequest: On anything else, an unknown term or unknown settings.
    """
    base = contract(family)
    if isinstance(block, base):
        return block
    where = where or family
    if isinstance(block, str):
        block = {block: None}
    if isinstance(block, dict) and len(block) > 1:
        for term in block:
            find(family, str(term))  # the second key is rather a misspelt or misplaced one than a second method
        names = " and ".join(f"'{term}'" for term in block)
        raise BadRequest(f"'{where}' takes one method, not {names} together.", "Leave one of them out.")
    if not isinstance(block, dict) or not block:
        raise BadRequest(
            f"'{where}' expects a method, as in {{{terms(family)[0]}: {{…}}}}, not {block!r}.",
            f"Known: {', '.join(terms(family))}.",
        )
    ((term, values),) = block.items()
    cls = find(family, str(term))
    if not issubclass(cls, Settings):
        raise TypeError(f"{cls} must be a Settings")
    return cls.parse(values, f"{where}.{term}")


def build_all(family: str, value: Any, where: str = "") -> list[Any]:
    """Make several methods from a list of recipe blocks, or from one mapping of terms to settings, in written order.

    Args:
        family: For example ``process``.
        value: What a recipe holds; None for no method.
        where: See `build`.

    Raises:
        BadRequest: See `build`.
    """
    if value is None:
        return []
    if isinstance(value, dict):
        value = [{term: settings} for term, settings in value.items()]
    if not isinstance(value, (list, tuple)):
        value = [value]
    return [build(family, item, where) for item in value]


def dump(method: Any) -> dict[str, Any]:
    """The recipe block that `build` would turn into this method again."""
    return {term_of(method): method.model_dump(mode="json", by_alias=True)}


@dataclass(frozen=True)
class FamilyOf:
    """Stands in a field's metadata: which family its methods come from."""

    family: str


def block(family: str) -> Any:
    """Type of a settings field that holds one method of a family: ``adapt: block("adapt")``."""

    def parse(value: Any, info: ValidationInfo) -> Any:
        return None if value is None else build(family, value, place_of(info))

    return Annotated[
        Any,
        BeforeValidator(parse),
        PlainSerializer(lambda value: None if value is None else dump(value), return_type=dict[str, Any] | None),
        FamilyOf(family),
    ]


def blocks(family: str) -> Any:
    """Type of a settings field that holds a list of methods, written as a list or as one mapping, in written order."""

    def parse(value: Any, info: ValidationInfo) -> list[Any]:
        return build_all(family, value, place_of(info))

    return Annotated[
        list[Any],
        BeforeValidator(parse),
        PlainSerializer(lambda value: [dump(item) for item in value], return_type=list[dict[str, Any]]),
        FamilyOf(family),
    ]
