"""Score programs that are already written, a file of samples, in a benchmark that runs them with tests.

The file holds a JSON object a line with `task_id` and `completion`, several lines for several samples of an item. The
programs run in a sandbox: without network, other processes, files to write or any packages, and for a few seconds.
"""

from __future__ import annotations

from typing import Any

from posttrain.cli.arguments import Parser
from posttrain.cli.commands import Request


def add_arguments(parser: Parser) -> None:
    """Task, samples, and where the task's data lies."""
    parser.add_argument("task", help="a task answered by programs: humaneval, mbpp, or a task file")
    parser.add_argument("samples", metavar="FILE", help="the samples, JSON Lines with task_id and completion")
    parser.add_argument("--data", metavar="DIR", help="the folder with the task's files; without it the hub is asked")
    parser.add_argument("--k", type=int, nargs="+", default=[1], metavar="K", help="the k of pass@k; 1 unless given")
    parser.add_argument("--subset", action="store_true", help="score only the items that have samples")
    parser.add_argument("--out", metavar="FILE", help="write how each program ended, as JSON Lines")


def run(request: Request) -> dict[str, Any]:
    """`score`, `stderr`, `n`, `metric`, `interval`, all `metrics`, `programs`, `failures` by reason, `signature`."""
    from posttrain.pipeline.evaluation_api import pass_at_k

    options = request.options
    return pass_at_k(
        options.task, options.samples, k=options.k, data=options.data, subset=options.subset, out=options.out
    )


def show(result: dict[str, Any]) -> None:
    """A table of the metrics, and how programs failed."""
    from rich.text import Text

    from posttrain.cli.presentation import table_of, write

    write(table_of([{"metric": name, **each} for name, each in result["metrics"].items()]))
    reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(result["failures"].items()))
    write(Text(f"{result['programs']} programs; failed: {reasons or 'none'}"), Text(result["signature"], "dim"))
