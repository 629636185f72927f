"""The commands: each file is one, and the first sentence of its docstring is its line in ``posttrain --help``.

An underscore in a file's name is a hyphen in the command's.

A command is a module with two functions, ``add_arguments(parser)`` and ``run(request)``, whose return value is the JSON
object that ``--json`` prints, or a list of such objects, printed one a line. A third, ``show(result)``, prints it for
people where the general form won't do; a fourth, ``check(request, result)``, raises what the command is to end with
after its result has been printed. Nothing is listed by hand, and modules import what is heavy inside `run`.
"""

from __future__ import annotations

import argparse
import ast
import importlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from posttrain.cli.arguments import Parser
from posttrain.core.errors import BadRequest, did_you_mean


@dataclass(frozen=True)
class Request:
    """A parsed command line and what it is carried out with.

    Attributes:
        options: The parsed arguments.
        clear_progress: A block in which no progress is drawn, because the command itself writes to the terminal.
    """

    options: argparse.Namespace
    clear_progress: Callable[[], AbstractContextManager[None]]


@dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
        parser: Its arguments.
        run: Carries it out; returns the JSON object, or a list of them.
        show: Prints that object for people; None for the general form.
        check: Raises an error for a result that counts as one; None if none does.
    """

    parser: Parser
    run: Callable[[Request], Any]
    show: Callable[[Any], None] | None
    check: Callable[[Request, Any], None] | None = None


def names() -> list[str]:
    """All commands, from the file names alone."""
    stems = [path.stem for path in Path(__file__).parent.glob("*.py")]
    return sorted(stem.replace("_", "-") for stem in stems if not stem.startswith("_"))


def help_line(name: str) -> str:
    """First sentence of a command's docstring, read without importing it."""
    return _docstring(name).split("\n\n")[0].replace("\n", " ")


def find(name: str) -> Command:
    """Import one command.

    Raises:
        BadRequest: If there is no such command.
    """
    if name not in names():
        raise BadRequest(f"There is no command '{name}'.", did_you_mean(name, names()) or "See posttrain --help.")
    module = importlib.import_module(f"{__name__}.{_stem(name)}")
    parser = Parser(name, _docstring(name))
    module.add_arguments(parser)
    return Command(parser, module.run, getattr(module, "show", None), getattr(module, "check", None))


def _docstring(name: str) -> str:
    source = (Path(__file__).parent / f"{_stem(name)}.py").read_text(encoding="utf-8")
    return ast.get_docstring(ast.parse(source)) or ""


def _stem(name: str) -> str:
    return name.replace("-", "_")
