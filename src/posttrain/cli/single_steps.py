"""One step or one method from the command line: options and ``--set`` become its settings.

A recipe writes `device`, `dtype` and `seed` beside its steps; here they are settings like any other, and say where the
one step is carried out.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Collection, Sequence
from typing import Any

from posttrain.core import catalog
from posttrain.core.recipe import apply_overrides
from posttrain.core.runtime import checked_seed

_PLACE = ("device", "dtype", "seed")


def run_step(
    verb: str, settings: dict[str, Any], options: argparse.Namespace, *, resume: bool = False
) -> dict[str, Any]:
    """Run a step on ``options.model``.

    Args:
        verb: The recipe key.
        settings: What the command's own options say.
        options: The parsed arguments; `out`, where there is one, receives the model.
        resume: Continue an interrupted call with the same `out`.

    Returns:
        The step's result, with `out` where a model was saved.
    """
    from posttrain.pipeline.single_step import single_step

    values, place = part(apply_overrides(settings, options.set), options.seed)
    out = getattr(options, "out", None)
    outcome = single_step(verb, values, options.model, out=out, resume=resume, **place)
    return {**outcome.result, "out": str(out)} if out is not None else outcome.result


def run_method_step(
    verb: str,
    body: str,
    method: str,
    method_settings: dict[str, Any],
    settings: dict[str, Any],
    options: argparse.Namespace,
) -> dict[str, Any]:
    """Run a step whose body is one method, whose own settings ``--set`` reaches with or without its name.

    Args:
        verb: The recipe key.
        body: The step's field that takes the method.
        method: The method's name.
        method_settings: What the command's own options say about the method.
        settings: What they say about the step.
        options: The parsed arguments.

    Returns:
        See `run_step`.
    """
    own = {*catalog.find("step", verb).model_fields, *_PLACE}
    inner, outer = overrides_of(method, options.set, own)
    block = {method: apply_overrides(method_settings, inner)}
    rest = argparse.Namespace(**{**vars(options), "set": outer})
    return run_step(verb, {**settings, body: block}, rest)


def measure(metric: str, settings: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """Measure ``options.model``.

    Returns:
        The measurement's parts, its `interval` and `signature`, and the `seconds` it took without loading the model.
    """
    from posttrain.models.sources import load

    inner, outer = overrides_of(metric, options.set, _PLACE)
    method = catalog.build("measure", {metric: apply_overrides(settings, inner)})
    _, place = part(apply_overrides({}, outer), None)
    place.pop("seed", None)  # nothing is drawn at random
    method.inputs()  # a missing text is refused before the model is loaded
    model = load(options.model, **place)
    start = time.perf_counter()
    found = method.measure(model).to_dict()
    return {**found, "seconds": time.perf_counter() - start}


def part(values: dict[str, Any], seed: int | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings proper, and `device`, `dtype` and `seed` as far as they are given; ``--seed`` wins.

    Raises:
        BadRequest: If the seed isn't one.
    """
    settings = {key: value for key, value in values.items() if key not in _PLACE}
    place = {key: value for key, value in values.items() if key in _PLACE}
    if seed is not None:
        place["seed"] = seed
    if "seed" in place:
        checked_seed(place["seed"])
    return settings, place


def overrides_of(method: str, overrides: Sequence[str], own: Collection[str]) -> tuple[list[str], list[str]]:
    """Part the overrides of a method from those of what stands around it.

    Args:
        method: The method's name, by which a path may begin.
        overrides: ``path=value`` each.
        own: Settings of what stands around it.

    Returns:
        Overrides relative to the method, and the others.
    """
    inner, outer = [], []
    for override in overrides:
        if override.startswith(f"{method}."):
            inner.append(override.removeprefix(f"{method}."))
        elif override.partition("=")[0].split(".")[0] in own:
            outer.append(override)
        else:
            inner.append(override)
    return inner, outer
