"""Models side by side: accuracy, calibration, robustness, fairness, bias, toxicity, efficiency, in one table and page.

Without data the built-in items are taken; --data names a folder with benchmark tasks, CrowS-Pairs and
RealToxicityPrompts. `posttrain list dimension` shows what can be measured, `posttrain explain NAME` how.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from posttrain.cli.arguments import Parser, given
from posttrain.cli.commands import Request
from posttrain.core.errors import BadRequest


def add_arguments(parser: Parser) -> None:
    """Models, tasks, dimensions, and the page."""
    parser.add_argument("models", nargs="+", metavar="model", help="aliases, folders, .gguf files, hub:owner/name …")
    parser.add_argument("--tasks", nargs="+", metavar="T", help="tasks, as `posttrain list task` shows them")
    parser.add_argument("--dimensions", nargs="+", metavar="D", help="only these dimensions")
    parser.add_argument("--data", metavar="DIR", help="the folder with the data; without it the hub is asked")
    parser.add_argument("--limit", type=int, metavar="N", help="ask only the first N items of anything")
    parser.add_argument("--num-fewshot", type=int, metavar="K", help="solved examples before each item")
    parser.add_argument("--chat", action="store_true", default=None, help="ask tasks through the chat templates")
    parser.add_argument("--batch-size", type=int, metavar="B", help="texts written at once; never changes the figures")
    parser.add_argument("--out", metavar="FILE.html", help="write a page that needs nothing but itself")
    parser.add_recipe_options("dimensions.robustness.perturbations='[typos, punctuation]'")


def run(request: Request) -> dict[str, Any]:
    """`models`: by dimension and figure `value`, `interval`, `n`, `unit`, `better`, `by_chance`; `best`, `how`."""
    import shlex

    from posttrain.cli.single_steps import part
    from posttrain.core.recipe import apply_overrides
    from posttrain.pipeline.scorecard_api import scorecard

    options = request.options
    if options.out and Path(options.out).suffix not in (".html", ".htm"):
        raise BadRequest(f"{options.out} isn't named .html, which is what is written.", "Choose another --out.")
    settings = given(options, "tasks", "dimensions", "data", "limit", "num_fewshot", "chat", "batch_size")
    values, place = part(apply_overrides(settings, options.set), options.seed)
    words = ["posttrain", "scorecard", *options.models]
    for key, value in {**settings, "out": options.out, "seed": options.seed}.items():
        if value is not None:
            words += [f"--{key.replace('_', '-')}", *map(str, value if isinstance(value, list) else [value])]
    words += [word for override in options.set for word in ("--set", override)]
    found = scorecard(options.models, out=options.out, command=shlex.join(words), **values, **place)
    return {**found, "out": options.out} if options.out else found


def show(result: dict[str, Any]) -> None:
    """A row a figure, a column a model; how it was measured below."""
    from rich.table import Table
    from rich.text import Text

    from posttrain.cli.presentation import write
    from posttrain.pipeline.quantities import label
    from posttrain.pipeline.quantities import show as shown
    from posttrain.pipeline.steps.scorecard import figure_text, short_names

    names = list(result["models"])
    grid = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for column in ("figure", *short_names(names).values(), "better", "by chance", "items"):
        grid.add_column(column, overflow="fold")
    for dimension, figures in result["models"][names[-1]].items():
        for key, entry in figures.items():
            row = [f"{label(dimension)}: {label(key)}"]
            for name in names:
                mark = " ★" if result["best"].get(dimension, {}).get(key) == name else ""
                row.append(figure_text(result["models"][name][dimension].get(key)) + mark)
            goal = f"near {entry['goal']:g}" if entry["goal"] is not None else entry["better"]
            by_chance = None if entry["by_chance"] is None else round(entry["by_chance"], 3)
            grid.add_row(*map(Text, [*row, goal or "–", shown(by_chance), shown(entry["n"] or None)]))
    write(grid, "")
    for dimension, how in result["how"].items():
        write(Text.assemble((f"{label(dimension)}  ", "cyan"), how))
    if len(names) > 1:
        write(Text("★ better than each other model by more than the choice of items explains", "dim"))
    if result.get("out"):
        write(Text(f"Page: {result['out']}", "dim"))
