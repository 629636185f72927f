"""The command line: one file a command in ``cli/commands``, each a thin skin over the pipeline.

Standard output belongs to the result, as a table or, with ``--json``, as exactly one JSON object; progress, notes and
errors go to standard error. Parsing is the standard library's, so ``posttrain --help`` costs milliseconds and a command
imports what it needs when it runs.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence

from posttrain.cli.failures import describe


def main(words: Sequence[str] | None = None) -> int:
    """Run one command line.

    Args:
        words: The arguments after ``posttrain``; by default the process's own.

    Returns:
        The exit code: 0, 1 for a failure, 2 for a bad request, 130 after Ctrl-C, 141 when nobody reads the output.
    """
    words = list(sys.argv[1:] if words is None else words)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a character the terminal can't show must not end the command
    try:
        from posttrain.cli.invocation import invoke

        invoke(words)
        sys.stdout.flush()
    except BaseException as error:
        return describe(error, debug="--debug" in words)
    return 0
