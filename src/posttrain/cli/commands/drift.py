"""Whether texts of today come from the population of a reference set: predictability, length and labels, with tests.

The verdict is none, slight (significant, but small), moderate or strong; the last two are an alarm.
"""

from __future__ import annotations

from typing import Any

from posttrain.cli.arguments import Parser, given
from posttrain.cli.commands import Request


def add_arguments(parser: Parser) -> None:
    """Model and the two sets."""
    parser.add_argument("model", help="an alias, a folder, a .gguf file, hub:owner/name or wheel:NAME")
    parser.add_argument("reference", help="what texts were like, one a line: a file, hub:owner/name or builtin:NAME")
    parser.add_argument("live", help="what they are like now")
    parser.add_argument("--limit", type=int, metavar="N", help="use only the first N texts of each")
    parser.add_argument("--level", type=float, metavar="P", help="p-value below which a difference is significant")
    parser.add_recipe_options("permutations=10000")


def run(request: Request) -> dict[str, Any]:
    """`verdict`, `alarm`, and `quantities`: `bits_per_byte`, `tokens`, `label`, each with its test and effect size."""
    from posttrain.cli.single_steps import part
    from posttrain.core import catalog
    from posttrain.core.recipe import apply_overrides

    options = request.options
    values, place = part(
        apply_overrides(given(options, "reference", "live", "limit", "level"), options.set), options.seed
    )
    step = catalog.find("step", "drift").parse(values, "drift")
    step.hashes()  # missing data is refused before the model is loaded

    from posttrain.models.sources import load

    seed = place.pop("seed", 0)
    found: dict[str, Any] = step.compared(load(options.model, **place), seed).to_dict()
    return found


def show(result: dict[str, Any]) -> None:
    """The verdict, then a row for each quantity."""
    from rich.text import Text

    from posttrain.cli.presentation import table_of, write

    tone = "red" if result["alarm"] else "green"
    write(Text(f"drift: {result['verdict']}", f"bold {tone}"))
    shown = ("verdict", "distance", "live_is_higher", "psi", "psi_by_chance", "p_value")
    rows = [{"quantity": name, **{key: each[key] for key in shown}} for name, each in result["quantities"].items()]
    write(table_of(rows), Text(result["signature"], "dim"))
