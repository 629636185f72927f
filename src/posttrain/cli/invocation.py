"""One command line carried out: find the command, parse, run with progress on stderr, print the result on stdout."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout

import posttrain
from posttrain.cli import commands
from posttrain.cli.console import Console
from posttrain.cli.third_party import silence
from posttrain.core import events
from posttrain.core.errors import BadRequest

_OVERVIEW = """usage: posttrain COMMAND [...] [--json] [--quiet] [--debug]

Everything that happens to a language model after pre-training.

commands:
{commands}

Each command explains itself: posttrain COMMAND --help. `posttrain --version` prints the version.
"""


def invoke(words: Sequence[str]) -> None:
    """Carry out a command line.

    Raises:
        PosttrainError: And whatever else went wrong; nothing is caught here.
    """
    if not words or words[0] in ("-h", "--help", "help"):
        print(_overview(), end="")
        return
    if words[0] == "--version":
        print(f"posttrain {posttrain.__version__}")
        return
    if words[0].startswith("-"):
        raise BadRequest(f"Options follow the command, so '{words[0]}' can't come first.", "See posttrain --help.")
    command = commands.find(words[0])
    options = command.parser.parse(words[1:])
    silence(warnings_too=not options.debug)
    console = Console(quiet=options.quiet)
    request = commands.Request(options, console.cleared)
    with _stdout_reserved() if options.json else nullcontext(), console, events.listen(console):
        result = command.run(request)
    if options.json:
        from posttrain.core.files import jsonable

        for each in result if isinstance(result, list) else [result]:
            print(json.dumps(jsonable(each)))  # ASCII, whatever the terminal's encoding
    elif command.show is not None:
        command.show(result)
    else:
        from posttrain.cli.presentation import present

        for each in result if isinstance(result, list) else [result]:
            present(each)
    if command.check is not None:
        command.check(request, result)


def _overview() -> str:
    width = max(map(len, commands.names())) + 2
    return _OVERVIEW.format(commands="\n".join(f"  {n:<{width}}{commands.help_line(n)}" for n in commands.names()))


@contextmanager
def _stdout_reserved() -> Iterator[None]:
    """Send whatever libraries and child processes print to stderr, so that stdout holds the JSON object alone."""
    sys.stdout.flush()
    real = os.dup(1)
    os.dup2(2, 1)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(real, 1)
        os.close(real)
