"""Fixtures of the command line's tests: a tiny model on disk, small data, and two ways to run a command."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from posttrain.models.language_model import LanguageModel


@dataclass(frozen=True)
class Ran:
    """What a command left."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """Standard output as the one JSON object it must be."""
        assert self.code == 0, self.err
        assert self.out.count("\n") == 1, self.out
        value = json.loads(self.out)
        assert isinstance(value, dict)
        return value

    def refused(self, code: int) -> str:
        """The one sentence on standard error of a command that failed; standard output must be empty."""
        assert (self.code, self.out) == (code, ""), (self.code, self.out, self.err)
        assert "Traceback" not in self.err
        return self.err.strip().splitlines()[-1]


@pytest.fixture
def invoke(capfd: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """Run a command in this process."""
    from posttrain.cli import main

    def run(*words: object) -> Ran:
        code = main([str(word) for word in words])
        out, err = capfd.readouterr()
        return Ran(code, out, err)

    return run


@pytest.fixture
def process() -> Callable[..., Ran]:
    """Run a command in a process of its own."""

    def run(*words: object, **options: Any) -> Ran:
        command = [sys.executable, "-m", "posttrain", *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, **options)
        return Ran(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def model(tiny_llama: LanguageModel, tmp_path: Path) -> Path:
    """A saved tiny model."""
    from posttrain.models.saving import save

    save(tiny_llama, tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """A text of some 50 tokens."""
    path = tmp_path / "text.txt"
    path.write_text("The quick brown fox jumps over the lazy dog. The dog sleeps, and the fox runs on.\n")
    return path


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    """Two prompts with completions."""
    path = tmp_path / "questions.jsonl"
    rows = [
        {"prompt": "What is the answer? ", "completion": "The answer is forty-two."},
        {"prompt": "Who sleeps? ", "completion": "The dog sleeps."},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def rounded(invoke: Callable[..., Ran], model: Path, text: Path, tmp_path: Path) -> Path:
    """A quantized model made from the tiny one."""
    folder = tmp_path / "work" / "rounded"
    assert invoke("quantize", model, "dynamic", "--out", folder, "--set", f"text={text}", "--json").code == 0
    return folder
