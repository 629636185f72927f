"""One step outside a recipe: what `posttrain train`, `quantize` and `audit` and the Python API run."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from posttrain import __version__
from posttrain.core import catalog, energy, runtime
from posttrain.core.errors import BadRequest
from posttrain.core.settings import fingerprint
from posttrain.models.language_model import CARD_FILE, LanguageModel
from posttrain.models.sources import load, resolve
from posttrain.pipeline.run import base_key, clean_unless, refuse_foreign_folder, save_model
from posttrain.pipeline.steps import Context, Outcome, Step


def single_step(
    verb: str,
    settings: dict[str, Any],
    model: str | LanguageModel,
    *,
    out: Path | str | None = None,
    seed: int = 0,
    device: str = "auto",
    dtype: str = "float32",
    resume: bool = False,
) -> Outcome:
    """Run one step outside a recipe.

    Args:
        verb: The recipe key.
        settings: Its settings.
        model: A reference or a loaded model (which a step may change).
        out: Where the step's model is saved; required for steps that make one to be kept.
        seed: Seed of everything random.
        device: Where to compute.
        dtype: Precision the model is loaded in.
        resume: Continue from the checkpoint an interrupted call left beside `out`.

    Returns:
        What the step left; its result also holds the `energy` it took.

    Raises:
        BadRequest: If settings or `out` are wrong.
    """
    step: Step = catalog.find("step", verb).parse(settings, verb)
    folder = Path(out) if out else None
    if folder is not None:
        refuse_foreign_folder(folder, CARD_FILE, "saved model")
    work = folder.parent / f".{folder.name}.unfinished" if folder else Path(tempfile.mkdtemp(prefix="posttrain-"))
    reference = model if isinstance(model, str) else (model.reference or "model")
    if isinstance(model, str):
        _refuse_own_folder(model, folder)
    cache: list[LanguageModel] = [] if isinstance(model, str) else [model]

    def current() -> LanguageModel:
        if not cache:
            cache.append(load(reference, device=device, dtype=dtype))
        return cache[0]

    context = Context(
        load=lambda name: load(reference if name == "base" else name, device=device, dtype=dtype),
        folder=work,
        seed=seed,
        model_name=reference,
        results={},
        keys={"base": base_key(reference, dtype)},
        current=current,
    )
    inputs = step.inputs(context)
    key = fingerprint(
        [verb, step.model_dump(mode="json", by_alias=True), context.keys["base"], seed, inputs, __version__]
    )
    try:
        if folder is None or not resume:
            shutil.rmtree(work, ignore_errors=True)
        clean_unless(work, key)
        runtime.seed_everything(seed)
        with energy.Meter() as meter:
            outcome = step.run(context)
            spent = meter.read().to_dict()
        outcome.result["energy"] = spent
        if folder is not None and outcome.model is not None:
            made_by = {verb: step.model_dump(mode="json", by_alias=True, exclude_none=True)}
            save_model(outcome, folder, folder.name, made_by, inputs, seed, key, spent)
    except BaseException:
        if folder is None or not (work / "checkpoint").exists():
            shutil.rmtree(work, ignore_errors=True)
        raise
    shutil.rmtree(work, ignore_errors=True)
    return outcome


def _refuse_own_folder(model: str, out: Path | None) -> None:
    """Refuse to put what is made of a model in the place of the model itself, and a model that there isn't."""
    places = {Path(each).expanduser().resolve() for each in (model, resolve(model).reference)}  # an alias has two
    if out is not None and out.exists() and places == {out.resolve()}:
        raise BadRequest(f"{out} is the model that this step works on, and would be replaced.", "Choose another --out.")
