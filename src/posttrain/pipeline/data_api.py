"""The Python API for what a model says about data: filtering, domains, difficulty, drift.

A model is a reference or a loaded `LanguageModel`; settings are those of the recipe's step of the same name.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posttrain.core import catalog
from posttrain.models.language_model import LanguageModel
from posttrain.models.sources import load

if TYPE_CHECKING:
    from posttrain.curate.difficulty import DifficultyMap
    from posttrain.registry.drift import Drift

Model = str | Path | LanguageModel


def _loaded(model: Model) -> LanguageModel:
    return model if isinstance(model, LanguageModel) else load(str(model))


def filter_texts(model: Model, data: str | Path, out: str | Path, **settings: Any) -> dict[str, Any]:
    """Keep the texts of a data set that a model predicts neither too badly nor too well.

    An interrupted call goes on where it stopped.

    Args:
        model: A model or its reference.
        data: The data set.
        out: The file for what is kept, as JSON Lines, each text with what was found.
        **settings: What is kept (max_perplexity, between, keep, reference, max_z), flag, by and more.

    Returns:
        `texts`, `kept`, `dropped`, quantiles of `perplexity`, `signature`, `out`.
    """
    out = Path(out)
    step = catalog.find("step", "filter").parse({"data": str(data), **settings}, "filter")
    step.hashes()
    result, _, _ = step.filtered(_loaded(model), out, out.parent, prefix=f".{out.name}.")
    return {**result, "out": str(out)}


def domain(data: str | Path, models: Mapping[str, Model], *, seed: int = 0, **settings: Any) -> dict[str, Any]:
    """Which of several models predicts each text best, and which one fits the whole set.

    Args:
        data: The texts.
        models: At least two, by the name of their domain.
        seed: Of the bootstrap.
        **settings: For example min_margin, limit.

    Returns:
        `best`, `models` with their figures, the best first, and `domains`, one a text.
    """
    _, *others = models or [""]
    step = catalog.find("step", "domain").parse({"data": str(data), "models": others, **settings}, "domain")
    result: dict[str, Any] = step.compared({name: partial(_loaded, model) for name, model in models.items()}, seed)[0]
    return result


def difficulty(
    model: Model, text: str, out: str | Path | None = None, *, title: str = "Difficulty", **settings: Any
) -> DifficultyMap:
    """Where in a text a model is surprised.

    Args:
        model: A model or its reference.
        text: The text itself.
        out: A file for the page with every token coloured.
        title: What the text is called on it.
        **settings: For example segments, window, special, max_tokens.

    Returns:
        Segments and pieces with their bits.
    """
    from posttrain.curate.difficulty import difficulty_map, write_page

    judge = _loaded(model)
    found = difficulty_map(judge, text, **settings)
    if out is not None:
        write_page(found, Path(out), title=title, model=judge.reference or "the model")
    return found


def drift(model: Model, reference: str | Path, live: str | Path, *, seed: int = 0, **settings: Any) -> Drift:
    """Whether live texts still come from the population of a reference set, as a model sees them.

    Args:
        model: A model or its reference.
        reference: What texts were like.
        live: What they are like now.
        seed: Of the permutations.
        **settings: For example level, permutations, limit.

    Returns:
        `verdict`, `alarm`, and `quantities` with their tests.
    """
    values = {"reference": str(reference), "live": str(live), **settings}
    step = catalog.find("step", "drift").parse(values, "drift")
    found: Drift = step.compared(_loaded(model), seed)
    return found
