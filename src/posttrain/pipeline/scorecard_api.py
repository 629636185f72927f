"""The scorecard outside a recipe: several models by reference, and the page that shows what came of it."""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from posttrain.core import runtime
from posttrain.core.errors import BadRequest
from posttrain.core.files import refuse_unwritable
from posttrain.models.language_model import LanguageModel
from posttrain.pipeline.report import write_report
from posttrain.pipeline.single_step import single_step


def scorecard(
    models: str | Path | LanguageModel | Sequence[str | Path],
    tasks: str | Sequence[str] | None = None,
    dimensions: Any = None,
    *,
    out: str | Path | None = None,
    seed: int = 0,
    command: str = "",
    device: str = "auto",
    dtype: str = "float32",
    **settings: Any,
) -> dict[str, Any]:
    """Models side by side in many dimensions; settings as in the recipe's step.

    Args:
        models: A loaded model, or references in the order shown; these are loaded one after the other.
        tasks: Benchmark tasks; ``handbook_quiz``, which needs no data, when not given.
        dimensions: Names or blocks of dimensions; all when not given.
        out: A file for the page: one table, plots and notes, self-contained.
        seed: Of everything that is drawn.
        command: What the page says it was made by; by default the shell's command.
        device: Where to compute.
        dtype: Precision the models are loaded in.
        **settings: For example data, limit, num_fewshot, batch_size.

    Returns:
        `models` with their dimensions' figures; `best`, `how`, `details`, `signatures`.

    Raises:
        BadRequest: If there is no model, a setting isn't right, or the page can't be written there.
    """
    if out is not None:
        refuse_unwritable(out)
    current: str | LanguageModel
    if isinstance(models, LanguageModel):
        names, current = [models.reference or "model"], models
    else:
        names = list(dict.fromkeys([str(models)] if isinstance(models, (str, Path)) else map(str, models)))
        if not names:
            raise BadRequest("There is no model to measure.", "Name at least one.")
        current = names[-1]
    given = {"tasks": tasks, "dimensions": dimensions}
    values = {"models": names, **{key: value for key, value in given.items() if value is not None}, **settings}
    started, start = datetime.now(UTC).isoformat(timespec="seconds"), time.perf_counter()
    outcome = single_step("scorecard", values, current, seed=seed, device=device, dtype=dtype)
    if out is not None:
        summary = {
            "name": "Scorecard",
            "description": f"{', '.join(names)}, measured alike.",
            "seed": seed,
            "started": started,
            "seconds": time.perf_counter() - start,
            "machine": runtime.machine(),
            "energy": outcome.result["energy"],
            "command": command or shlex.join(["posttrain", "scorecard", *names, "--out", str(out)]),
            "steps": [
                {
                    "name": "scorecard",
                    "verb": "scorecard",
                    "title": "Side by side",
                    "seconds": time.perf_counter() - start,
                    "headline": outcome.headline,
                    "views": outcome.views,
                }
            ],
        }
        write_report(summary, Path(out))
    return outcome.result
