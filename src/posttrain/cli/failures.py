"""What went wrong, as one sentence on standard error and an exit code; a traceback only when asked for."""

from __future__ import annotations

import errno
import os
import sys

from posttrain.core.errors import PosttrainError

_INTERRUPTED = 130  # 128 + SIGINT, as shells count
_READER_LEFT = 141  # 128 + SIGPIPE

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
_MEMORY_FULL = ("allocate memory", "out of memory")  # torch's words for a CPU and for other devices


def describe(error: BaseException, debug: bool = False) -> int:
    """Tell the user about an error.

    Args:
        error: What ended the command.
        debug: Print the traceback as well.

    Returns:
        The exit code.
    """
    if isinstance(error, SystemExit):
        if error.code is None or isinstance(error.code, int):
            return error.code or 0
        print(error.code, file=sys.stderr)  # a message, as in sys.exit("why")
        return 1
    if isinstance(error, BrokenPipeError):
        _discard_output()
        return _READER_LEFT
    if debug:
        import traceback

        traceback.print_exception(error)
    sentence, code = _sentence(error)
    if not (debug and isinstance(error, KeyboardInterrupt)):
        print(f"Error: {sentence}" if code != _INTERRUPTED else sentence, file=sys.stderr)
    return code


def _sentence(error: BaseException) -> tuple[str, int]:
    if isinstance(error, PosttrainError):
        return str(error), error.exit_code
    if isinstance(error, KeyboardInterrupt):
        return "Interrupted.", _INTERRUPTED
    text = " ".join(str(error).split())
    if isinstance(error, MemoryError) or _is_allocation_failure(error, text):
        return "There is not enough memory for this. Use a smaller batch size or a shorter max length.", 1
    # Libraries written in Rust raise errors of their own that only quote the system's words.
    if getattr(error, "errno", None) in _DISK_FULL or any(os.strerror(code) in text for code in _DISK_FULL):
        return "The disk is full. Nothing already written is lost; free some space or choose another folder.", 1
    if isinstance(error, PermissionError) and error.filename is not None:
        return f"No permission to use {error.filename}. Change its permissions, or name another file.", 2
    shown = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return f"unexpected {shown}. Run again with --debug to see where it happened.", 1


def _is_allocation_failure(error: BaseException, text: str) -> bool:
    """Whether torch or the system ran out of memory; told by name, since torch may not even be imported."""
    if type(error).__name__ == "OutOfMemoryError" or getattr(error, "errno", None) == errno.ENOMEM:
        return True
    return isinstance(error, RuntimeError) and any(words in text for words in _MEMORY_FULL)


def _discard_output() -> None:
    """Point standard output at nothing, or the interpreter's last flush would complain about the closed pipe again."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, sys.stdout.fileno())
    except (OSError, ValueError):  # standard output isn't a file of this process (a test's buffer)
        sys.stdout = sys.__stdout__
    finally:
        os.close(nothing)
