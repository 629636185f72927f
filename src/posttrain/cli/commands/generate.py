"""Write continuations or answers: from prompts given here, in a file, or one a line on standard input.

Without --search the likeliest token is taken (greedy), or tokens are drawn if --temperature, --top-k, --top-p or
--num-samples is given. With another search the first three reshape the distribution that it sees. Other settings go
through --set, by the recipe's names: see `posttrain explain generate` and `posttrain list search`.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from posttrain.cli.arguments import Parser, given
from posttrain.cli.commands import Request
from posttrain.core.errors import BadRequest

if TYPE_CHECKING:
    from posttrain.decode.generation import Generations
    from posttrain.models.language_model import LanguageModel
    from posttrain.pipeline.steps.generate import Generate

# Options that are settings of sampling, and with other searches processors of the same name -> these' setting.
_RESHAPING = {"temperature": "temperature", "top_k": "k", "top_p": "p"}


def add_arguments(parser: Parser) -> None:
    """Model, prompts, and the settings that are asked for most."""
    parser.add_argument("model", help="an alias, a folder, a .gguf file, hub:owner/name or wheel:NAME")
    parser.add_argument("prompts", nargs="*", metavar="prompt", help="what to continue; after -- it may begin with -")
    parser.add_argument("--batch-file", metavar="F", help='prompts: one a line, or JSON Lines with {"prompt": …}')
    parser.add_argument("--search", metavar="METHOD", help="how tokens are chosen, as in `posttrain list search`")
    parser.add_argument("--preset", metavar="NAME", help="a use of `posttrain temperature presets`, or a YAML file")
    parser.add_argument("--temperature", type=float, metavar="X", help="flatter above 1, sharper below")
    parser.add_argument("--top-k", type=int, metavar="N", help="draw from the N likeliest tokens only")
    parser.add_argument(
        "--top-p", type=float, metavar="X", help="draw from the fewest tokens that hold this probability"
    )
    parser.add_argument("--max-new-tokens", type=int, metavar="N", help="most tokens written for each prompt")
    parser.add_argument(
        "--stop", action="append", metavar="TEXT", help="end a text where this appears; may be repeated"
    )
    parser.add_argument("--chat", action="store_true", help="ask through the model's chat template")
    parser.add_argument("--num-samples", type=int, metavar="N", help="texts for each prompt")
    parser.add_argument("--batch-size", type=int, metavar="N", help="prompts at once; never changes what is written")
    parser.add_recipe_options("search.beam.width=4")


def run(request: Request) -> dict[str, Any]:
    """`generations` in the prompts' order, `tokens_per_second`, `prefill_seconds`, `decode_seconds`, `energy`."""
    from posttrain.cli.single_steps import part
    from posttrain.core import catalog
    from posttrain.core.recipe import apply_overrides

    options = request.options
    search, reshaping = _search(options)
    settings = {"prompts": _prompts(options), "chat": options.chat, **search}
    settings |= given(options, "max_new_tokens", "stop", "batch_size")
    values, place = part(apply_overrides(settings, options.set), options.seed)
    if reshaping:
        values["process"] = [*catalog.build_all("process", values.get("process"), "generate.process"), *reshaping]
    step = catalog.find("step", "generate").parse(values, "generate")
    seed = place.pop("seed", 0)

    from posttrain.core.energy import Meter
    from posttrain.models.sources import load

    model = load(options.model, **place)
    with Meter() as meter:
        if options.json or not _streams(len(step.prompts[: step.limit]) * step.search.continuations):
            found = _generate(model, step, seed)
        else:
            with request.clear_progress():
                found = _generate(model, step, seed, on_text=lambda _, text: print(text, end="", flush=True))
                print()
        return {**_result(found), "energy": meter.read().to_dict()}


def _streams(texts: int) -> bool:
    """Whether the text is shown while it is written: there is one, and somebody watches."""
    return sys.stdout.isatty() and texts == 1


def _generate(model: LanguageModel, step: Generate, seed: int, **watching: Any) -> Generations:
    return step.answers(model, step.prompts[: step.limit], seed, chat=step.chat, **watching)


def _result(found: Generations) -> dict[str, Any]:
    return {
        "generations": [asdict(generation) for generation in found.generations],
        "new_tokens": found.new_tokens,
        "tokens_per_second": found.tokens_per_second,
        "prefill_seconds": found.prefill_seconds,
        "decode_seconds": found.decode_seconds,
    }


def _search(options: argparse.Namespace) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The search block, if one is asked for, and processor blocks for options that the search has no settings for.

    Settings of sampling without a search mean sampling. A search that has no settings takes the first token of whatever
    distribution; there such options are refused as unknown ones.
    """
    from posttrain.core import catalog

    settings = given(options, *_RESHAPING, "num_samples")
    if options.preset is not None:
        if options.search is not None:
            raise BadRequest("--preset already says how tokens are chosen.", "Leave out --search.")
        from posttrain.decode.presets import preset

        found = preset(options.preset)
        ((search, usual),) = found.search.items()
        return {"search": {search: usual | settings}, "process": found.process}, []
    if options.search is None and not settings:
        return {}, []
    term = options.search or "sampling"
    known = catalog.find("search", term).model_fields
    reshaping = [name for name in _RESHAPING if name in settings and known and name not in known]
    blocks = [{name: {_RESHAPING[name]: settings.pop(name)}} for name in reshaping]
    return {"search": {term: settings}}, blocks


def _prompts(options: argparse.Namespace) -> list[str]:
    """Prompts from the command line, else from the file, else from standard input."""
    if options.prompts and options.batch_file:
        raise BadRequest("Prompts are given here and in --batch-file.", "Give them in one place.")
    if options.prompts:
        return list(options.prompts)
    if options.batch_file:
        from posttrain.pipeline.steps.generate import read_prompts

        return read_prompts(options.batch_file)
    if sys.stdin is None or sys.stdin.isatty():
        raise BadRequest("There is no prompt.", "Give one after the model, in --batch-file, or on standard input.")
    prompts = [line for line in sys.stdin.read().splitlines() if line.strip()]
    if not prompts:
        raise BadRequest("Standard input holds no prompt.", "Give one a line.")
    return prompts


def show(result: dict[str, Any]) -> None:
    """The texts, unless they were streamed; to somebody who watches also how fast they were written."""
    from rich.text import Text

    from posttrain.cli.presentation import write
    from posttrain.pipeline.quantities import number

    generations = result["generations"]
    if len(generations) > 1:
        for generation in generations:
            write(Text(generation["prompt"], "bold"), Text(generation["text"]), "")
    elif not _streams(len(generations)):
        print(generations[0]["text"])
    if sys.stdout.isatty():
        write(Text(f"{number(result['tokens_per_second'])} tokens a second", "dim"))
