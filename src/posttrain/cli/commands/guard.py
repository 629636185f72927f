"""Look for personal data and content that a policy names, in texts one a line, and print what was found and redacted.

Each line gives one JSON object: `action` (allow, flag, redact or block), `text` (redacted) and `findings` with their
`category`, `start`, `end` and `reason`; positions count characters of the line from 0. With --data a whole data set is
looked through instead, what was found is counted, and --out takes its records, redacted and without blocked ones.
Settings of the guards go through --set: see `posttrain explain content_filter` and `personal_data`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from posttrain.cli.arguments import Parser
from posttrain.cli.commands import Request
from posttrain.core.errors import BadRequest, Failure

_USUAL = "content_filter,personal_data"


def add_arguments(parser: Parser) -> None:
    """Texts, policy, guards, and what counts as a failure."""
    parser.add_argument("file", nargs="?", help="texts, one a line (default: standard input)")
    parser.add_argument("--policy", metavar="F", help="the content filter's policy, a YAML file")
    parser.add_argument("--where", choices=("input", "output"), help="the side of a model the texts are on")
    parser.add_argument("--guards", metavar="A,B", default=_USUAL, help=f"who looks (default: {_USUAL})")
    parser.add_argument("--data", metavar="F", help="look through a data set instead")
    parser.add_argument("--out", type=Path, metavar="F.jsonl", help="with --data: write what is left of it")
    parser.add_argument("--fail-on", choices=("flag", "redact", "block"), help="exit with 1 if anything is this bad")
    parser.add_recipe_options("personal_data.style=mask")


def run(request: Request) -> Any:
    """One object a text, or with --data one object: `records`, `actions`, `categories`, `out`."""
    options = request.options
    if options.data and options.file:
        raise BadRequest("Texts are given in a file and with --data.", "Give them in one place.")
    if options.out and not options.data:
        raise BadRequest("--out needs --data, whose records it takes.")

    from posttrain.core.recipe import apply_overrides
    from posttrain.pipeline.guard_api import guard, guard_data, text_guards

    names = [name.strip().replace("-", "_") for name in options.guards.split(",")]
    blocks = apply_overrides({name: {} for name in names}, options.set)
    guards = text_guards(blocks, policy=options.policy, where=options.where)
    if options.data:
        return guard_data(options.data, options.out, guards)
    return [found.to_dict() for found in guard(_texts(options.file), guards)]


def _texts(file: str | None) -> list[str]:
    """Lines without their ends; blank ones too, so that the n-th object belongs to the n-th line."""
    if file is not None:
        path = Path(file)
        if not path.is_file():
            raise BadRequest(f"There is no file {file}.")
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise BadRequest(f"{file} is not UTF-8 text: {error}.") from None
    elif sys.stdin is None or sys.stdin.isatty():
        raise BadRequest("There is no text.", "Name a file, or give texts on standard input, one a line.")
    else:
        text = sys.stdin.read()
    lines = text.split("\n")
    return [line.removesuffix("\r") for line in (lines[:-1] if not lines[-1] else lines)]


def show(result: Any) -> None:
    """The objects, one a line."""
    import json

    if isinstance(result, dict):
        from posttrain.cli.presentation import present

        present({key: value for key, value in result.items() if value is not None})
        return
    for each in result:
        print(json.dumps(each, ensure_ascii=False))


def check(request: Request, result: Any) -> None:
    """Fail if something is as bad as --fail-on says.

    Raises:
        Failure: With how much is.
    """
    from posttrain.guard import ACTIONS

    if request.options.fail_on is None:
        return
    bad = ACTIONS[ACTIONS.index(request.options.fail_on) :]
    if isinstance(result, dict):
        count = sum(result["actions"][action] for action in bad)
        whole = result["records"]
    else:
        count, whole = sum(each["action"] in bad for each in result), len(result)
    if count:
        raise Failure(f"{count} of {whole} {'records' if isinstance(result, dict) else 'texts'}: {' or '.join(bad)}.")
