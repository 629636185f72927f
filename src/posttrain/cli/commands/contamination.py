"""Which items of benchmark tasks stand in training data, with the passage and where it is.

An item is contaminated if it shares 13 words in a row with the data (--rule passage), or 70 % of its 8-grams (--rule
overlap). The data is streamed and may be larger than memory. With --items, what `posttrain bench --out` wrote, a
model's score on the contaminated items stands beside that on the clean ones.
"""

from __future__ import annotations

from typing import Any

from posttrain.cli.arguments import Parser, given
from posttrain.cli.commands import Request


def add_arguments(parser: Parser) -> None:
    """Tasks and data."""
    parser.add_argument("tasks", nargs="+", metavar="task", help="tasks, as `posttrain list task` shows them")
    parser.add_argument("--train", nargs="+", required=True, metavar="FILE", help="training data: files and folders")
    parser.add_argument("--data", metavar="DIR", help="the folder with the tasks' files; without it the hub is asked")
    parser.add_argument("--limit", type=int, metavar="N", help="look for only the first N items of each task")
    parser.add_argument("--rule", choices=("passage", "overlap"), help="what makes an item contaminated (passage)")
    parser.add_argument("--items", metavar="FILE", help="records of a model's answers, from `posttrain bench --out`")
    parser.add_recipe_options("rule=overlap")


def run(request: Request) -> dict[str, Any]:
    """By task `share`, `interval`, counts, `scores` and what was `found`; `files`, `words` and `seconds`."""
    from posttrain.cli.single_steps import part
    from posttrain.core.recipe import apply_overrides
    from posttrain.pipeline.evaluation_api import contamination

    options = request.options
    settings = {"tasks": options.tasks, "train": options.train, **given(options, "data", "limit", "rule", "items")}
    values, _ = part(apply_overrides(settings, options.set), None)
    return contamination(**values)


def show(result: dict[str, Any]) -> None:
    """A table of tasks, the scores where there are some, and the longest passages."""
    from rich.text import Text

    from posttrain.cli.presentation import table_of, write

    reports = {name: each for name, each in result.items() if isinstance(each, dict)}
    keys = ("contaminated", "judged", "items", "share", "interval", "by_passage", "by_overlap")
    write(table_of([{"task": name, **{key: each[key] for key in keys}} for name, each in reports.items()]))
    for name, each in reports.items():
        if scores := each["scores"]:
            write("", Text(f"{name}: {scores['metric']} on clean and contaminated items", "bold"), table_of([scores]))
        for found in sorted(each["found"], key=lambda found: found["words"], reverse=True)[:5]:
            write(
                "", Text(f"{found['origin']} ({found['column']}): {found['words']} words in {found['where']}", "bold")
            )
            write(Text(found["passage"]))
    write("", *(Text(each["signature"], "dim") for each in reports.values()))
    write("", Text(f"{result['words']:,} words in {result['files']} files, {result['seconds']:.1f} s", "dim"))
