"""Benchmark tasks: a model's score in each, with standard error, interval and the level of chance.

`posttrain list task` shows the tasks; a member or category of one is named behind it (mmlu_anatomy, mmlu_stem), and a
task file of your own ends in .yaml. Prompts and scores are lm-evaluation-harness's, and so are the numbers of examples
unless --num-fewshot is given. The task handbook_quiz comes with posttrain and needs no data.

With --baseline, another model or the file that an earlier call wrote with --out, the two are compared item by item: the
difference with its 95 % interval, and a p-value (McNemar's exact test for right and wrong, otherwise a permutation
test), adjusted by Holm where there are several tasks.
"""

from __future__ import annotations

from typing import Any

from posttrain.cli.arguments import Parser, given
from posttrain.cli.commands import Request


def add_arguments(parser: Parser) -> None:
    """Model, tasks, and where their data lies."""
    parser.add_argument("model", help="an alias, a folder, a .gguf file, hub:owner/name or wheel:NAME")
    parser.add_argument("tasks", nargs="+", metavar="task", help="tasks, as `posttrain list task` shows them")
    parser.add_argument("--data", metavar="DIR", help="the folder with the tasks' files; without it the hub is asked")
    parser.add_argument(
        "--limit", type=int, metavar="N", help="ask only the first N items of each task, spread evenly over its members"
    )
    parser.add_argument("--num-fewshot", type=int, metavar="K", help="solved examples before each item")
    parser.add_argument("--chat", action="store_true", default=None, help="ask through the model's chat template")
    parser.add_argument("--batch-size", type=int, metavar="B", help="texts written at once; never changes the scores")
    parser.add_argument(
        "--baseline",
        metavar="OTHER",
        help="a model, or the .jsonl file of an earlier --out, to compare with item by item",
    )
    parser.add_argument("--out", metavar="FILE", help="write what was asked and answered in each item, as JSON Lines")
    parser.add_recipe_options("tokens_per_pass=2048")


def run(request: Request) -> dict[str, Any]:
    """By task `score`, `stderr`, `n`, `metric`, `interval`, `chance`, all `metrics`, `signature`, `seconds`.

    With a baseline also `comparison`: its `value` and the `baseline`'s, `difference`, `interval`, `p_value` …
    """
    from posttrain.cli.single_steps import part
    from posttrain.core import catalog
    from posttrain.core.files import refuse_unwritable
    from posttrain.core.recipe import apply_overrides

    options = request.options
    if options.out:
        refuse_unwritable(options.out)
    named = ("data", "limit", "num_fewshot", "chat", "batch_size", "baseline")
    settings = {"tasks": options.tasks, **given(options, *named)}
    values, place = part(apply_overrides(settings, options.set), options.seed)
    step = catalog.find("step", "bench").parse(values, "bench")
    plans = step.plans()  # wrong tasks, missing data and a wrong file are refused before the model is loaded
    step.refuse_other_records(plans)

    from posttrain.bench.runner import evaluate, write_items
    from posttrain.models.sources import load, resolve

    if step.baseline is not None and not step.is_recorded():
        resolve(step.baseline)  # no such model: refused before the other one is asked
    seed = place.pop("seed", 0)  # of comparisons; nothing else is drawn that a task's file doesn't fix
    results = evaluate(load(options.model, **place), plans, step.tokens_per_pass, step.batch_size)
    if options.out:
        write_items(results, options.out)
    comparisons = step.compared(results, plans, lambda reference: load(reference, **place), seed)
    found = {name: result.to_dict() for name, result in results.items()}
    for name, comparison in comparisons.items():
        found[name]["comparison"] = comparison.to_dict()
    return found


def show(result: dict[str, Any]) -> None:
    """A table of tasks, and one of members for each that has some."""
    from rich.text import Text

    from posttrain.cli.presentation import table_of, write

    shown = ("score", "stderr", "interval", "chance", "n", "metric")
    write(table_of([{"task": name, **{key: found[key] for key in shown}} for name, found in result.items()]))
    if compared := {name: found["comparison"] for name, found in result.items() if "comparison" in found}:
        keys = ("value", "baseline", "difference", "interval", "p_value", "test")
        rows = [{"task": name, **{key: each[key] for key in keys}} for name, each in compared.items()]
        if len(rows) > 1:
            rows = [{**row, "p_adjusted": each["p_adjusted"]} for row, each in zip(rows, compared.values())]
        write("", Text("beside the baseline", "bold"), table_of(rows))
        for name, each in compared.items():
            if differing := each["measured_differently"]:
                write(Text(f"{name}: the two were measured differently ({', '.join(differing)})", "yellow"))
        write("")
    for name, found in result.items():
        others = {metric: each["value"] for metric, each in found["metrics"].items() if metric != found["metric"]}
        if others:
            write(Text(f"{name}: " + ", ".join(f"{metric} {value:.4g}" for metric, value in others.items())))
        if macro := found.get("macro"):
            write(Text(f"{name}: mean over its members {macro[found['metric']]:.4g}"))
        for key in ("categories", "members"):
            if rows := found.get(key):
                write("", Text(f"{name}: {key}", "bold"), table_of(rows))
        write(Text(found["signature"], "dim"))
