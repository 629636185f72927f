"""Score texts, one a line, against references by a metric, with a confidence interval and a signature.

With --baseline, a second system on the same inputs, also how surely the two differ: the paired bootstrap's p-value is
the chance of not seeing the better one ahead when the texts are drawn anew. `posttrain list measure` names the metrics,
`posttrain explain METRIC` what each can be set to. Files ending in .jsonl hold JSON strings or objects with `text`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from posttrain.cli.arguments import Parser
from posttrain.cli.commands import Request


def add_arguments(parser: Parser) -> None:
    """Metric and files."""
    parser.add_argument("metric", help="bleu, chrf, ter, rouge, meteor, classification …")
    parser.add_argument("--predictions", required=True, metavar="F", help="what the system wrote")
    parser.add_argument("--references", nargs="+", default=[], metavar="F", help="what is right; several files at will")
    parser.add_argument("--baseline", metavar="F", help="what another system wrote, to compare with")
    parser.add_recipe_options("stemming=true")


def run(request: Request) -> dict[str, Any]:
    """`value`, its parts, `interval`, `signature`; with a baseline its own, `difference` and `p_value`."""
    from posttrain.cli.single_steps import overrides_of
    from posttrain.core.recipe import apply_overrides
    from posttrain.pipeline.scoring import score

    options = request.options
    overrides, _ = overrides_of(options.metric, options.set, ())
    found = score(
        options.metric,
        Path(options.predictions),
        [Path(each) for each in options.references],
        baseline=Path(options.baseline) if options.baseline else None,
        seed=options.seed or 0,
        settings=apply_overrides({}, overrides),
    )
    return found.to_dict()
