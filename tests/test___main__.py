"""``python -m posttrain`` is the command line, its exit code the command's own."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import posttrain


@pytest.mark.parametrize(
    ("words", "code", "out", "err"),
    [
        (["--version"], 0, f"posttrain {posttrain.__version__}\n", ""),
        (["lst"], 2, "", "Error: There is no command 'lst'. Did you mean 'list'?\n"),
        (["list", "--help"], 0, "usage: posttrain list ", ""),  # never "usage: __main__.py"
    ],
)
def test_output_and_exit_code_are_the_commands(words: list[str], code: int, out: str, err: str) -> None:
    done = subprocess.run([sys.executable, "-m", "posttrain", *words], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (code, err)
    assert done.stdout.startswith(out)
    assert bool(done.stdout) == bool(out)


def test_the_installed_command_is_the_same_function() -> None:
    project = tomllib.loads((Path(__file__).resolve().parents[1] / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["project"]["scripts"] == {"posttrain": "posttrain.cli:main"}
