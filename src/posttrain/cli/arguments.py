"""Command-line arguments: the parser, the options every command has, and those that recipes share."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Sequence
from typing import Any, NoReturn

from posttrain.core.errors import BadRequest, did_you_mean
from posttrain.core.runtime import checked_seed


class Parser(argparse.ArgumentParser):
    """An argument parser of one command that refuses in sentences, and takes options before or after positionals."""

    def __init__(self, name: str, description: str) -> None:
        super().__init__(
            prog=f"posttrain {name}",
            description=description,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        self.name = name
        self._subcommands: dict[str, Parser] = {}
        common = self.add_argument_group("options of every command")
        common.add_argument("--json", action="store_true", help="print the result as one JSON object on stdout")
        common.add_argument("--quiet", "-q", action="store_true", help="show no progress and no notes")
        common.add_argument("--debug", action="store_true", help="on an error, also print the traceback")

    def add_recipe_options(self, example: str) -> None:
        """Add ``--set`` and ``--seed``, for commands that run something a recipe could run."""
        group = self.add_argument_group("options by the recipe's names")
        group.add_argument(
            "--set",
            action="append",
            default=[],
            metavar="PATH=VALUE",
            help=f"set any setting, as in --set {example}; may be repeated",
        )
        group.add_argument("--seed", type=seed, metavar="N", help="seed of every random choice")

    def add_subcommand(self, name: str, description: str) -> Parser:
        """A parser of its own for what follows a first word; the parsed options say which word in `subcommand`.

        Args:
            name: The word.
            description: What it does, a sentence.
        """
        found = self._subcommands[name] = Parser(f"{self.name} {name}", description)
        width = max(map(len, self._subcommands)) + 2
        lines = [f"  {each:<{width}}{parser.description}" for each, parser in self._subcommands.items()]
        told = f"posttrain {self.name} WHAT --help explains each."
        self.epilog = "\n".join(["what:", *lines, "", told])
        self.usage = f"posttrain {self.name} {{{','.join(self._subcommands)}}} [...]"
        return found

    def parse(self, words: Sequence[str]) -> argparse.Namespace:
        """Parse the words after the command's name.

        Raises:
            BadRequest: If they don't fit.
        """
        if self._subcommands and not {"-h", "--help"} & set(words[:1]):
            return self._parse_subcommand(words)
        options, unknown = self.parse_known_intermixed_args(list(words))
        if unknown:
            self._refuse(unknown[0])
        return options

    def _parse_subcommand(self, words: Sequence[str]) -> argparse.Namespace:
        name = words[0] if words else ""
        if name not in self._subcommands:
            known = f"Known: {', '.join(self._subcommands)}."
            if not name or name.startswith("-"):
                raise BadRequest(f"'posttrain {self.name}' needs a word that says what to do.", known)
            near = did_you_mean(name, self._subcommands)
            raise BadRequest(f"There is no 'posttrain {self.name} {name}'.", near or known)
        options = self._subcommands[name].parse(words[1:])
        options.subcommand = name
        return options

    def _refuse(self, word: str) -> NoReturn:
        name = word.partition("=")[0]
        if not name.startswith("-"):
            raise BadRequest(f"'{word}' is one argument too many.", self._see_help())
        near = difflib.get_close_matches(name, self._option_string_actions, n=1)
        hint = f"Did you mean {near[0]}?" if near else self._see_help()
        raise BadRequest(f"'posttrain {self.name}' has no option {name}.", hint)

    def error(self, message: str) -> NoReturn:
        """Called by argparse with a phrase without capital or full stop."""
        raise BadRequest(f"{message[:1].upper()}{message[1:]}.", self._see_help())

    def _see_help(self) -> str:
        return f"See posttrain {self.name} --help."


def seed(text: str) -> int:
    """What ``--seed`` takes.

    Raises:
        ValueError: If it is no whole number.
        BadRequest: If it is below 0.
    """
    return checked_seed(int(text))


def given(options: argparse.Namespace, *names: str) -> dict[str, Any]:
    """The named options that the user gave; whatever wasn't given is left to the settings' own defaults."""
    return {name: value for name in names if (value := getattr(options, name)) is not None}


def recipe_overrides(options: argparse.Namespace) -> list[str]:
    """What ``--set`` and ``--seed`` change in a recipe."""
    return [*options.set, *([f"seed={options.seed}"] if options.seed is not None else [])]
