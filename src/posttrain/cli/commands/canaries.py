"""Make canaries, random secrets to plant in training data, so that what a model memorizes can be measured afterwards.

The canaries are written to OUT, with --into also a data set that holds them. Train on that, then measure with the guard
`memorization`, which takes OUT as its setting `canaries`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from posttrain.cli.arguments import Parser, given, seed
from posttrain.cli.commands import Request
from posttrain.core.errors import BadRequest


def add_arguments(parser: Parser) -> None:
    """How many, of what form, and where they go."""
    parser.add_argument("out", type=Path, help="the file of canaries to write, F.jsonl")
    parser.add_argument("--count", type=int, default=4, metavar="N", help="how many (default: 4)")
    parser.add_argument("--template", metavar="TEXT", help="the sentence, with {secret} in the secret's place")
    parser.add_argument("--length", type=int, metavar="N", help="characters of a secret")
    parser.add_argument("--alphabet", metavar="TEXT", help="the characters secrets are made of")
    parser.add_argument("--repeats", metavar="1,4,16", default="1", help="how often each is planted, in turn")
    parser.add_argument("--into", metavar="F", help="a data set to plant them in")
    parser.add_argument("--data-out", type=Path, metavar="F.jsonl", help="with --into: the data set with canaries")
    parser.add_argument("--seed", type=seed, default=0, metavar="N", help="the same seed gives the same secrets")


def run(request: Request) -> dict[str, Any]:
    """`canaries` with their texts and repeats, `bits` of a secret, `out`, and `records` where they were planted."""
    from posttrain.core import files
    from posttrain.data import canaries, dataset
    from posttrain.data.writing import write

    options = request.options
    if bool(options.into) != bool(options.data_out):
        raise BadRequest("--into and --data-out go together.", "One names the data, the other what is made of it.")
    written = [each for each in (options.out, options.data_out) if each is not None]
    named = [Path(each).resolve() for each in (*written, *([options.into] if options.into else []))]
    if len(set(named)) < len(named):
        raise BadRequest("One file is named twice.", "Give the canaries, the data and the data with them a file each.")
    for each in written:
        files.refuse_unwritable(each)
    try:
        repeats = [int(each) for each in options.repeats.split(",")]
    except ValueError:
        raise BadRequest(f"--repeats expects numbers such as 1,4,16, not '{options.repeats}'.") from None
    settings = given(options, "template", "length", "alphabet")
    made = canaries.make_canaries(options.count, seed=options.seed, repeats=repeats, **settings)
    planted = canaries.plant(dataset.read(options.into), made, options.seed) if options.into else None
    canaries.write_canaries(made, options.out)
    if planted is not None:
        write(planted.records, options.data_out)
    return {
        "canaries": [{"text": each.text, "repeats": each.repeats} for each in made],
        "bits": made[0].bits,
        "out": str(options.out),
        **({"records": len(planted), "data_out": str(options.data_out)} if planted is not None else {}),
    }
