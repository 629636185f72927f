"""System calls that Python's library lacks, through the C library; a refusal is an `OSError`."""

from __future__ import annotations

import ctypes
import os

_library = ctypes.CDLL(None, use_errno=True)


def call(function: str, *arguments: int | bytes | ctypes.Array[ctypes.c_uint64] | None) -> int:
    """Call a function of the C library by its name.

    Args:
        function: Its name.
        arguments: Numbers (passed as long), texts with their final zero, arrays, or None for a null pointer.

    Raises:
        OSError: If it returns -1, or the library has no such function.
    """
    try:
        found = getattr(_library, function)
    except AttributeError:
        raise OSError(0, f"no function {function}") from None
    found.restype = ctypes.c_long
    result = int(found(*(ctypes.c_long(each) if isinstance(each, int) else each for each in arguments)))
    # What returns an int leaves the upper half of the register undefined.
    if ctypes.c_int(result).value == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), function)
    return result


def system_call(number: int, *arguments: int | bytes | ctypes.Array[ctypes.c_uint64] | None) -> int:
    """Make a system call by its number; as `call`."""
    return call("syscall", number, *arguments)


def prctl(option: int, *values: int) -> None:
    """prctl (2), an operation on this process."""
    call("prctl", option, *values, *[0] * (4 - len(values)))


def numbers(*values: int) -> ctypes.Array[ctypes.c_uint64]:
    """An array of unsigned 64-bit numbers, the form of many of the kernel's structures."""
    return (ctypes.c_uint64 * len(values))(*values)


def drop_capabilities() -> None:
    """Give up all of root's powers, also those inside a user namespace.

    Raises:
        OSError: If the kernel refuses.
    """
    version = 0x20080522  # _LINUX_CAPABILITY_VERSION_3
    # Effective, permitted and inheritable, each in two halves of 32 bits.
    call("capset", numbers(version), numbers(0, 0, 0))
