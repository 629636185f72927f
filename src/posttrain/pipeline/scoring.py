"""Scoring texts from files or from memory with any metric of texts: what `posttrain score` and `posttrain.score` do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from posttrain.core import catalog
from posttrain.core.errors import BadRequest
from posttrain.data.parallel import read_references, read_texts, refuse_unequal
from posttrain.measure import Comparison, Measurement, TextMetric

# Texts, or the file that holds them.
Texts = Sequence[str] | str | Path
# One reference a text, several a text, or the files that hold them.
References = Sequence[str] | Sequence[Sequence[str]] | Sequence[Path] | str | Path


def score(
    metric: Any,
    predictions: Texts,
    references: References = (),
    *,
    baseline: Texts | None = None,
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
) -> Measurement | Comparison:
    """Score texts.

    Args:
        metric: A metric of texts by name, as a recipe's block, or an instance.
        predictions: Texts; a string or a path names a file with one a line.
        references: For each text one reference or a list of them; a string, a path or a list of paths names files.
        baseline: What another system wrote for the same inputs.
        seed: Of the draws that intervals and tests come from.
        settings: The metric's settings, where it is given by name.

    Returns:
        A measurement, or with a baseline a comparison.

    Raises:
        BadRequest: If there is no such metric, it measures models, or the texts don't belong together.
    """
    built = catalog.build("measure", {metric: dict(settings or {})} if isinstance(metric, str) else metric)
    term = catalog.term_of(built)
    if not isinstance(built, TextMetric):
        raise BadRequest(f"{term} measures a model, not texts.", "Use it in a recipe's measure step.")
    texts, name = _texts(predictions, "predictions")
    if not texts:
        raise BadRequest("There are no predictions to score.")
    right, source = _references(references, built.blank_references)
    if right and not built.needs_references:
        raise BadRequest(f"{term} looks at predictions alone.", "Leave the references out.")
    if not right and built.needs_references:
        raise BadRequest(f"{term} compares with references, and there are none.", "Give them, one a line.")
    if right:
        refuse_unequal(name, len(texts), source, len(right))
    if baseline is None:
        return built.score(texts, right, seed=seed)
    others, other = _texts(baseline, "baseline")
    refuse_unequal(name, len(texts), other, len(others))
    return built.compare(texts, others, right, seed=seed)


def _texts(given: Texts, what: str) -> tuple[list[str], str]:
    """The texts and what to call them."""
    if isinstance(given, (str, Path)):
        return read_texts(Path(given)), str(given)
    return list(given), what


def _references(given: References, blank_allowed: bool) -> tuple[list[list[str]], str]:
    """The references of each text and what to call them."""
    if isinstance(given, (str, Path)):
        return read_references([Path(given)], blank_allowed), str(given)
    rows: list[Any] = [] if given is None else list(given)
    paths = [each for each in rows if isinstance(each, Path)]
    if paths and len(paths) == len(rows):
        return read_references(paths, blank_allowed), str(paths[0])
    found: list[list[str]] = []
    for number, each in enumerate(rows, 1):
        if not isinstance(each, (str, Path, Iterable)):
            raise BadRequest(f"Reference {number} is neither a text nor a list of texts: {each!r}.")
        found.append([str(each)] if isinstance(each, (str, Path)) else list(each))
    return found, "references"
