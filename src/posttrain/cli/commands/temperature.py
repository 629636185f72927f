"""Choose a temperature: sweep over several, look at the next token's distribution, or list usual settings."""

from __future__ import annotations

import argparse
from typing import Any

from posttrain.cli.arguments import Parser, given
from posttrain.cli.commands import Request
from posttrain.core.errors import BadRequest

_BAR = 30  # letters of a bar that stands for a probability of 1


def add_arguments(parser: Parser) -> None:
    """What is wanted, and the arguments of each."""
    sweep = parser.add_subcommand("sweep", "Measure quality against variety at several temperatures; recommend one.")
    sweep.add_argument("model", help="an alias, a folder, a .gguf file, hub:owner/name or wheel:NAME")
    sweep.add_argument("--prompts", metavar="F", help="prompts: a data set, or one a line")
    sweep.add_argument("--temperatures", type=_numbers, metavar="X,X,…", help="the temperatures, with commas between")
    sweep.add_argument("--limit", type=int, metavar="N", help="use only the first N prompts")
    sweep.add_argument("--samples", type=int, metavar="N", help="answers to each prompt at each temperature")
    sweep.add_argument("--max-new-tokens", type=int, metavar="N", help="most tokens of an answer")
    sweep.add_argument("--judge", metavar="MODEL", help="take quality under this model, not under the one that writes")
    sweep.add_recipe_options("top_p=0.95")

    distribution = parser.add_subcommand("distribution", "Show what may come next at several temperatures.")
    distribution.add_argument("model", help="an alias, a folder, a .gguf file, hub:owner/name or wheel:NAME")
    distribution.add_argument("prompt", help="what to continue; after -- it may begin with -")
    distribution.add_argument("--temperatures", type=_numbers, metavar="X,X,…", help="the temperatures")
    distribution.add_argument("--top", type=int, metavar="N", help="how many tokens to show")
    distribution.add_argument("--chat", action="store_true", help="ask through the model's chat template")

    parser.add_subcommand("presets", "List usual temperatures by use, as `posttrain generate --preset` takes them.")


def _numbers(text: str) -> list[float]:
    try:
        return [float(each) for each in text.split(",") if each.strip()]
    except ValueError:
        raise BadRequest(f"'{text}' isn't a list of numbers.", "Write them as in 0.2,0.7,1.0.") from None


def run(request: Request) -> dict[str, Any]:
    """What the word asks for: `temperatures` and `recommended`; `tokens` and `entropies`; or `presets`."""
    options = request.options
    if options.subcommand == "sweep":
        from posttrain.cli.single_steps import run_step

        names = ("prompts", "temperatures", "limit", "samples", "max_new_tokens", "judge")
        return run_step("temperature_sweep", given(options, *names), options)
    return _distribution(options) if options.subcommand == "distribution" else _presets()


def _distribution(options: argparse.Namespace) -> dict[str, Any]:
    from posttrain.pipeline.api import next_token_distribution

    return next_token_distribution(
        options.model, options.prompt, **given(options, "temperatures", "top"), chat=options.chat
    )


def _presets() -> dict[str, Any]:
    from posttrain.decode.presets import presets

    return {
        "presets": [
            {"preset": name, "range": list(preset.range or ()), "search": preset.search, "use": preset.use}
            for name, preset in presets().items()
        ]
    }


def show(result: dict[str, Any]) -> None:
    """A table of the sweep, bars of the distribution, or the list."""
    if "presets" in result:
        _show_presets(result)
    elif "tokens" in result:
        _show_distribution(result)
    else:
        _show_sweep(result)


def _show_sweep(result: dict[str, Any]) -> None:
    from rich.text import Text

    from posttrain.cli.presentation import table_of, write

    rows = [{key: value for key, value in row.items() if key != "intervals"} for row in result["temperatures"]]
    write(table_of(rows), "")
    shares = f"{result['recommended_share']:.0%} of the bootstrap draws agree"
    write(
        Text.assemble("Recommended: ", (f"{result['recommended']:g}", "bold green"), f", {result['rule']}; {shares}.")
    )


def _show_distribution(result: dict[str, Any]) -> None:
    from rich.table import Table
    from rich.text import Text

    from posttrain.cli.presentation import write

    temperatures = result["temperatures"]
    width = max(8, _BAR // len(temperatures) * 2)
    grid = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    grid.add_column("token", no_wrap=True)
    for temperature in temperatures:
        grid.add_column(f"τ = {temperature:g}", no_wrap=True)
    for token in result["tokens"]:
        grid.add_row(Text(repr(token["text"]), "cyan"), *(_bar(share, width) for share in token["probabilities"]))
    grid.add_row(Text("all others", "dim"), *(_bar(share, width) for share in result["rest"]))
    grid.add_row(Text("entropy (nats)", "dim"), *(Text(f"{each:.2f}", "dim") for each in result["entropies"]))
    write(grid)


def _bar(share: float, width: int) -> Any:
    """A bar in eighths of a letter and the percentage."""
    from rich.text import Text

    eighths = round(share * width * 8)
    bar = "█" * (eighths // 8) + ("", *"▏▎▍▌▋▊▉")[eighths % 8]
    return Text.assemble((f"{bar:<{width}}", "green"), f" {share:6.1%}")


def _show_presets(result: dict[str, Any]) -> None:
    from rich.table import Table
    from rich.text import Text

    from posttrain.cli.presentation import write

    grid = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for column in ("preset", "usual range", "settings", "use"):
        grid.add_column(column, overflow="fold")
    for preset in result["presets"]:
        low, high = preset["range"]
        between = f"{low:g} and more" if high is None else f"{low:g}" if low == high else f"{low:g} to {high:g}"
        (settings,) = preset["search"].values()
        told = ", ".join(f"{key} {value:g}" for key, value in settings.items())
        grid.add_row(Text(preset["preset"], "cyan"), between, told, preset["use"])
    write(grid)
