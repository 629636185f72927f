"""The Python API for evaluation beyond scores: comparisons, behaviour, contamination, programs, ways of decoding.

Each verb but the first does what the command of its name does, which calls it. A model is a reference or a loaded
`LanguageModel`; references are loaded by `device` and `dtype` after everything else has been checked. Settings are
keyword arguments by the recipe's own names.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from posttrain.bench.given_samples import score_samples
from posttrain.bench.paired import Comparison, compare
from posttrain.bench.records import Record, read
from posttrain.bench.result import Result
from posttrain.bench.runner import write_items
from posttrain.core import catalog
from posttrain.core.files import refuse_unwritable
from posttrain.core.runtime import checked_seed
from posttrain.models import sources
from posttrain.models.language_model import LanguageModel
from posttrain.pipeline.single_step import single_step

Model = str | Path | LanguageModel


def compare_scores(
    results: Mapping[str, Result], baseline: Mapping[str, Result] | str | Path, *, seed: int = 0
) -> dict[str, Comparison]:
    """Two models in benchmark tasks, item by item: the difference, its interval, and whether it could be chance.

        >>> before, after = (posttrain.bench(name, "handbook_quiz") for name in ("smollm2", "runs/tuned"))
        >>> posttrain.compare_scores(after, before)["handbook_quiz"].score.p_value

    Args:
        results: What `posttrain.bench` returned.
        baseline: The same of another model for the same items, or the file that its `out` wrote.
        seed: Of the draws that intervals and tests come from.

    Returns:
        By task `score` (its `difference`, `interval` of a paired bootstrap, two-sided `p_value` and `test`),
        `differences` in all metrics, and `p_adjusted` for the number of tasks.

    Raises:
        BadRequest: If the baseline was asked other items, or in other words; names the first that differs.
    """
    records = {name: each.records for name, each in results.items()}
    if isinstance(baseline, (str, Path)):
        others: Mapping[str, Sequence[Record]] = read(baseline)
    else:
        others = {name: each.records for name, each in baseline.items()}
    return compare({name: each.task for name, each in results.items()}, records, others, seed=checked_seed(seed))


def checklist(
    model: Model,
    suite: str | Path,
    *,
    seed: int = 0,
    device: str = "auto",
    dtype: str = "float32",
    **settings: Any,
) -> dict[str, Any]:
    """Behavioural tests of a model (CheckList: Ribeiro et al., 2020).

        >>> found = posttrain.checklist("smollm2", "language_model", samples=10)
        >>> found["capabilities"]["negation"]["failure_rate"]
        0.35

    Args:
        model: A model that continues texts, or a classifier.
        suite: A suite's name, as `posttrain list suite` shows them, or a YAML file.
        seed: Of the draws of cases.
        device: Where to compute.
        dtype: Precision the model is loaded in.
        **settings: For example samples, labels, chat, examples.

    Returns:
        `failure_rate` with its `interval`, `failures` of `n`, by `capabilities` and by `tests` with cases that fail.

    Raises:
        BadRequest: If there is no such suite or model, or the suite can't be asked of it.
    """
    step = catalog.find("step", "checklist").parse({"suite": str(suite), **settings}, "checklist")
    step.read()  # a wrong suite is refused before the model is loaded
    found: dict[str, Any] = step.tested(loaded(model, device, dtype), seed).to_dict(step.examples)
    return found


def contamination(
    tasks: str | Sequence[str], train: str | Path | Sequence[str | Path], **settings: Any
) -> dict[str, Any]:
    """Which items of benchmark tasks stand in training data; needs no model.

        >>> found = posttrain.contamination("gsm8k", ["corpus/"], data="benchmarks", rule="overlap")
        >>> found["gsm8k"]["share"], found["gsm8k"]["found"][0]["where"]

    Args:
        tasks: Names of tasks, members or categories, or task files.
        train: The training data: files and folders of any size.
        **settings: data, limit, rule, and items: records of a model's answers, to compare its scores on both kinds.

    Returns:
        By task `share` with its `interval`, counts, `scores`, and what was `found`, with the passage and where it is;
        `files`, `words` and `seconds`.

    Raises:
        BadRequest: If a task, its data or the training data can't be read.
    """
    values = {"tasks": [tasks] if isinstance(tasks, str) else list(tasks), "train": texts_of(train), **settings}
    step = catalog.find("step", "contamination").parse(values, "contamination")
    start = time.perf_counter()
    found = step.check()
    reports = {name: report.to_dict() for name, report in found.tasks.items()}
    return {**reports, "files": found.files, "words": found.words, "seconds": time.perf_counter() - start}


def pass_at_k(
    task: str | Path,
    samples: str | Path | Mapping[str, Sequence[str]],
    *,
    k: int | Sequence[int] = 1,
    data: str | Path | None = None,
    subset: bool = False,
    out: str | Path | None = None,
) -> dict[str, Any]:
    """Score programs that are already written, by a task's own tests in the sandbox (Chen et al., 2021).

        >>> written = {"HumanEval/0": ["    return False", "    return True"]}
        >>> posttrain.pass_at_k("humaneval", written, k=[1, 2], subset=True)["metrics"]["pass@2"]["value"]
        0.0

    Args:
        task: A task answered by programs, or a task file.
        samples: By item's name its programs; or a file, JSON Lines with task_id and completion.
        k: The k of pass@k; each item needs as many samples as the largest.
        data: The folder below which the task's files lie; None to read them from the hub.
        subset: Score only the items that have samples.
        out: A file for how each program ended, as JSON Lines.

    Returns:
        `score`, `stderr`, `n`, `metric`, `interval`, all `metrics`, `programs`, `failures` by reason, `signature`.

    Raises:
        BadRequest: If the task has no programs, a sample isn't right, or programs can't be confined on this machine.
    """
    if out is not None:
        refuse_unwritable(out)
    result = score_samples(str(task), samples, data, [k] if isinstance(k, int) else list(k), subset)
    if out is not None:
        write_items({result.name: result}, out)
    programs = [sample for item in result.items for sample in item["samples"]]
    failures = Counter(sample["reason"] for sample in programs if not sample["passed"])
    return {"task": result.name, **result.to_dict(), "programs": len(programs), "failures": dict(failures)}


def tune_decoding(
    model: Model,
    data: str | Path | None = None,
    *,
    seed: int = 0,
    device: str = "auto",
    dtype: str = "float32",
    **settings: Any,
) -> dict[str, Any]:
    """Find the way of decoding that is best for a use, by a metric or a reward on its own prompts.

        >>> found = posttrain.tune_decoding("smollm2", "questions.jsonl", metric="rouge", save="preset.yaml")
        >>> found["recommended"], found["comparison"]["p_value"]

    Args:
        model: A model or its reference.
        data: Questions of the use, with answers for metrics that compare with some; built-in ones when not given.
        seed: Of everything that is drawn.
        device: Where to compute.
        dtype: Precision the model is loaded in.
        **settings: metric or reward, and for example space, candidates, limit, max_new_tokens, held_out, save.

    Returns:
        `candidates` with their values, the `winner`, its `comparison` with the default, what is `recommended`, and the
        `preset` that `posttrain generate --preset` reads.

    Raises:
        BadRequest: If nothing, or two things, judge, or a setting isn't right.
    """
    given = {} if data is None else {"data": str(data)}
    reference = model if isinstance(model, LanguageModel) else str(model)
    values = {**given, **settings}
    return single_step("tune_decoding", values, reference, seed=seed, device=device, dtype=dtype).result


def texts_of(given: str | Path | Sequence[str | Path]) -> str | list[str]:
    """Paths or texts as a recipe holds them."""
    return str(given) if isinstance(given, (str, Path)) else [str(each) for each in given]


def loaded(model: Model, device: str, dtype: str) -> LanguageModel:
    """The model, loaded if it is a reference."""
    return model if isinstance(model, LanguageModel) else sources.load(str(model), device=device, dtype=dtype)
