"""The frame: help, versions, unknown commands, exit codes, and who may write to which stream."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import types
from pathlib import Path

import pytest

import posttrain
from posttrain.cli import commands
from posttrain.core.errors import BadRequest, Failure, Interrupted

_HEAVY = ("torch", "transformers", "numpy", "pydantic", "rich", "yaml")


@pytest.fixture
def fake(monkeypatch):
    """Make `posttrain fake` do what a test wants."""

    def install(run):
        from posttrain.cli.arguments import Parser

        command = commands.Command(Parser("fake", "A fake."), run, None)
        monkeypatch.setattr(commands, "find", lambda name: command)

    return install


def raising(error):
    def run(request):
        raise error

    return run


def test_help_lists_every_command_with_its_own_first_sentence(invoke):
    shown = invoke("--help")
    assert shown.code == 0
    assert shown.err == ""
    files = {p.stem for p in Path(commands.__file__).parent.glob("*.py")} - {"__init__"}
    assert {"run", "quickstart", "train", "generate", "perplexity", "quantize", "audit", "list", "explain"} <= files
    for name in [file.replace("_", "-") for file in files]:
        assert any(line.split()[:1] == [name] and commands.help_line(name) in line for line in shown.out.splitlines())
    assert invoke().out == shown.out


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["train", "--help"], ["generate", "--help"]])
def test_help_imports_nothing_heavy(words):
    script = (
        "import sys\nfrom posttrain.cli import main\n"
        f"try:\n    code = main({words!r})\nexcept SystemExit as stop:\n    code = stop.code\n"
        f"print([m for m in {_HEAVY!r} if m in sys.modules], code, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[] 0"
    assert done.stdout


def test_the_catalog_is_listed_without_torch():
    script = "import sys\nfrom posttrain.cli import main\nmain(['list', '--json'])\nassert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["methods"]


@pytest.mark.parametrize("name", commands.names())
def test_every_command_has_help_with_the_common_options(invoke, name):
    shown = invoke(name, "--help")
    assert shown.code == 0
    for option in ("--json", "--quiet", "--debug"):
        assert option in shown.out
    assert commands.help_line(name).endswith(".")


def test_version(invoke):
    assert invoke("--version").out == f"posttrain {posttrain.__version__}\n"


def test_an_unknown_command_is_refused_with_a_suggestion(invoke):
    assert invoke("perplexty").refused(2) == "Error: There is no command 'perplexty'. Did you mean 'perplexity'?"


def test_an_option_before_the_command_is_refused(invoke):
    assert "Options follow the command" in invoke("--json", "list").refused(2)


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (BadRequest("The file is bad.", "Mend it."), 2, "Error: The file is bad. Mend it."),
        (Failure("The disk is full."), 1, "Error: The disk is full."),
        (Interrupted("Stopped; step 3 is saved."), 130, "Stopped; step 3 is saved."),
        (KeyboardInterrupt(), 130, "Interrupted."),
        (MemoryError(), 1, "Error: There is not enough memory for this."),
        (OSError(28, "No space left on device"), 1, "Error: The disk is full."),
        (ZeroDivisionError("a  b\nc"), 1, "Error: unexpected ZeroDivisionError: a b c. Run again with --debug"),
    ],
)
@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_errors_are_one_sentence_on_stderr_and_an_exit_code(invoke, fake, error, code, sentence, flags):
    fake(raising(error))
    ran = invoke("fake", *flags)
    assert ran.refused(code).startswith(sentence)
    assert len(ran.err.splitlines()) == 1


def test_debug_shows_the_traceback_too(invoke, fake):
    fake(raising(ValueError("why")))
    ran = invoke("fake", "--debug")
    assert (ran.code, ran.out) == (1, "")
    assert "Traceback (most recent call last)" in ran.err
    assert ran.err.strip().splitlines()[-1].startswith("Error: unexpected ValueError: why.")


def test_json_is_alone_on_stdout_whatever_others_print(invoke, fake):
    def run(request):
        print("a library's banner")
        os.write(1, b"a child's output\n")
        return {"value": float("nan"), "path": Path("x"), "text": "naïve"}

    fake(run)
    ran = invoke("fake", "--json")
    assert ran.json == {"value": None, "path": "x", "text": "naïve"}
    assert "a library's banner" in ran.err
    assert "a child's output" in ran.err


def test_stdout_is_restored_after_json(invoke, fake):
    fake(lambda request: {"a": 1})
    invoke("fake", "--json")
    assert invoke("fake").out == "a  1\n"


def test_a_reader_that_leaves_is_no_error():
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "posttrain", "list"]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, "")


def test_a_command_is_a_module_with_two_functions(monkeypatch, tmp_path, invoke):
    """The promise to whoever adds a command: one new file, found by its name."""
    (tmp_path / "hello.py").write_text(
        '"""Say hello.\n\nMore."""\n'
        "def add_arguments(parser):\n    parser.add_argument('name')\n"
        "def run(request):\n    return {'hello': request.options.name}\n"
    )
    monkeypatch.setattr(commands, "__file__", str(tmp_path / "__init__.py"))
    monkeypatch.setattr(commands, "__path__", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "posttrain.cli.commands.hello", raising=False)
    assert "  hello  Say hello.\n" in invoke("--help").out
    assert invoke("hello", "you", "--json").json == {"hello": "you"}
    assert isinstance(sys.modules.pop("posttrain.cli.commands.hello"), types.ModuleType)
