"""Let a model judge pairs of answers in a feedback store, each in both orders, and say how far to trust it.

The pairs are those that `posttrain arena add` or `posttrain feedback` put there. The likelihoods of the letters A and B
decide; with --method verdict the model explains and writes [[A]], [[B]] or [[C]], with --method score it grades each
answer, and with --method reward a reward model does. Verdicts are kept under the name model:NAME beside those of
people, and the same call goes on where one was interrupted. `posttrain arena results` makes ratings of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from posttrain.cli.arguments import Parser, given
from posttrain.cli.commands import Request

# Settings that aren't the method's.
_OWN = ("swap", "margin", "batch_size", "tokens_per_pass", "device", "dtype", "seed")


def add_arguments(parser: Parser) -> None:
    """Model, store, and how it is asked."""
    parser.add_argument("model", help="an alias, a folder, a .gguf file, hub:owner/name or wheel:NAME")
    parser.add_argument("store", type=Path, help="the file that keeps items and judgements")
    parser.add_argument("--method", metavar="METHOD", default="likelihood", help="as in `posttrain list judge`")
    parser.add_argument("--swap", choices=("strict", "average"), help="win in both orders, or by the mean of the two")
    parser.add_argument("--margin", type=float, metavar="X", help="preferences this near to 0.5 are a tie")
    parser.add_argument("--criterion", metavar="C", default="overall", help="by what: overall, helpful, harmless …")
    parser.add_argument("--name", metavar="NAME", help="keep verdicts under model:NAME (default: model and method)")
    parser.add_argument("--limit", type=int, metavar="N", help="judge at most so many pairs")
    parser.add_argument("--batch-size", type=int, metavar="B", help="texts written at once; never changes a verdict")
    parser.add_recipe_options("tokens_per_pass=2048")


def run(request: Request) -> dict[str, Any]:
    """`annotator`, `judged` (now), `verdicts` (all), `ties`, `pending`, `consistency`, `people`, `warning`."""
    from posttrain.cli.single_steps import overrides_of, part
    from posttrain.core.recipe import apply_overrides
    from posttrain.pipeline.arena_api import judge

    options = request.options
    inner, outer = overrides_of(options.method, options.set, _OWN)
    settings = {
        "method": {options.method: apply_overrides({}, inner)},
        **given(options, "criterion", "name", "limit", "swap", "margin", "batch_size"),
    }
    values, place = part(apply_overrides(settings, outer), options.seed)
    return judge(options.model, options.store, **values, **place)


def show(result: dict[str, Any]) -> None:
    """The figures, and what speaks against the judge."""
    from rich.text import Text

    from posttrain.cli.presentation import present, write

    warning = result.pop("warning")
    present({key: value for key, value in result.items() if value is not None})
    if warning:
        write("", Text(warning, "yellow"))
