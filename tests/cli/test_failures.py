"""Every way a command can end badly: the sentence on standard error and the exit code."""

from __future__ import annotations

import errno
import io
import subprocess
import sys
from pathlib import Path

import pytest

from posttrain.cli.failures import describe
from posttrain.core.errors import BadRequest, Failure, Interrupted

MEMORY = "Error: There is not enough memory for this. Use a smaller batch size or a shorter max length.\n"
DISK = "Error: The disk is full. Nothing already written is lost; free some space or choose another folder.\n"
PERMISSION = "Error: No permission to use own.yaml. Change its permissions, or name another file.\n"
DEBUG = "Run again with --debug to see where it happened.\n"


class OutOfMemoryError(RuntimeError):
    """Named as torch's, which needs a GPU to be raised."""


class SafetensorError(Exception):
    """Named as safetensors' own, which has no errno."""


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (BadRequest("'rnak' is unknown.", "Try 'rank'."), 2, "Error: 'rnak' is unknown. Try 'rank'.\n"),
        (Failure("The loss is NaN."), 1, "Error: The loss is NaN.\n"),
        (Interrupted("Step 3 is saved."), 130, "Step 3 is saved.\n"),
        (KeyboardInterrupt(), 130, "Interrupted.\n"),
        (MemoryError("Unable to allocate 9 TiB"), 1, MEMORY),
        (OutOfMemoryError("Tried to allocate 2.00 GiB."), 1, MEMORY),
        (RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)."), 1, MEMORY),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), 1, MEMORY),
        (OSError(errno.ENOSPC, "No space left on device", "x.safetensors"), 1, DISK),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), 1, DISK),
        (SafetensorError("I/O error: No space left on device (os error 28)"), 1, DISK),
        (SafetensorError("I/O error: Disk quota exceeded (os error 122)"), 1, DISK),
        (PermissionError(errno.EACCES, "Permission denied", "own.yaml"), 2, PERMISSION),
        (ValueError("two\n  lines"), 1, f"Error: unexpected ValueError: two lines. {DEBUG}"),
        (ZeroDivisionError(), 1, f"Error: unexpected ZeroDivisionError. {DEBUG}"),
        (OSError(errno.EIO, "I/O error"), 1, f"Error: unexpected OSError: [Errno 5] I/O error. {DEBUG}"),
        # The words alone don't make it torch's: a data set may be about memory.
        (KeyError("out of memory"), 1, f"Error: unexpected KeyError: 'out of memory'. {DEBUG}"),
    ],
)  # fmt: skip
def test_one_sentence_and_a_code(
    error: BaseException, code: int, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert describe(error) == code
    assert capsys.readouterr() == ("", told)


def test_torchs_own_allocation_failure_is_recognised(capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    with pytest.raises(RuntimeError) as raised:
        torch.empty(10**15)  # 4 PB: beyond any address space, so nothing is reserved
    assert describe(raised.value) == 1
    assert capsys.readouterr().err == MEMORY


@pytest.mark.parametrize(
    ("code", "exit_code", "told"),
    [(None, 0, ""), (0, 0, ""), (3, 3, ""), ("a library gives up", 1, "a library gives up\n")],
)
def test_sys_exit_means_what_it_means_to_python(
    code: object, exit_code: int, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The reference is the interpreter itself: exit code and standard error of ``sys.exit(code)``."""
    assert describe(SystemExit(code)) == exit_code
    assert capsys.readouterr() == ("", told)
    program = [sys.executable, "-c", f"import sys; sys.exit({code!r})"]
    python = subprocess.run(program, capture_output=True, text=True, check=False)
    assert (python.returncode, python.stderr) == (exit_code, told)


def test_debug_adds_the_traceback_with_its_cause(capsys: pytest.CaptureFixture[str]) -> None:
    try:
        try:
            raise KeyError("deep")
        except KeyError as cause:
            raise BadRequest("The file is bad.") from cause
    except BadRequest as error:
        assert describe(error, debug=True) == 2
    told = capsys.readouterr().err
    assert told.index("KeyError: 'deep'") < told.index("direct cause") < told.index("BadRequest: The file is bad.")
    assert told.endswith("\nError: The file is bad.\n")


def test_debug_shows_where_an_interruption_fell(capsys: pytest.CaptureFixture[str]) -> None:
    try:
        raise KeyboardInterrupt
    except KeyboardInterrupt as error:
        assert describe(error, debug=True) == 130
    told = capsys.readouterr().err
    assert "in test_debug_shows_where_an_interruption_fell" in told
    assert told.endswith("KeyboardInterrupt\n")


def test_a_reader_that_left_is_not_told_anything_and_later_output_goes_nowhere(tmp_path: Path) -> None:
    """In a process of its own, since its standard output is pointed at nothing."""
    file = tmp_path / "out.txt"
    program = (
        "import os\nfrom posttrain.cli.failures import describe\n"
        "print('before', flush=True)\ncode = describe(BrokenPipeError(), debug=True)\n"
        "print('after', flush=True)\nos.write(1, b'after too')\nraise SystemExit(code)"
    )
    with file.open("w") as out:
        done = subprocess.run([sys.executable, "-c", program], stdout=out, stderr=subprocess.PIPE, check=False)
    assert (done.returncode, done.stderr) == (141, b"")
    assert file.read_text() == "before\n"


def test_a_reader_that_left_a_stream_without_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "__stdout__", io.StringIO())
    buffer = io.StringIO()
    monkeypatch.setattr(sys, "stdout", buffer)
    assert describe(BrokenPipeError()) == 141
    print("later")
    assert buffer.getvalue() == ""
