"""Landlock: a process gives up, for good, all files but some (Salaün, Linux 5.13; landlock (7)).

From version 4 on it also gives up TCP, from version 6 on signals to processes outside.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable

from posttrain.bench.confinement.system import numbers, system_call

# The same on every architecture.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION_FLAG = 1
_PATH_BENEATH = 1

_READ = 1 << 2 | 1 << 3  # READ_FILE, READ_DIR
_FILE_ONLY = 1 << 0 | 1 << 1 | 1 << 2 | 1 << 14 | 1 << 15  # EXECUTE, WRITE_FILE, READ_FILE, TRUNCATE, IOCTL_DEV


def version() -> int:
    """The version of Landlock that the kernel has in force.

    Raises:
        OSError: If it has none.
    """
    return system_call(_CREATE_RULESET, None, 0, _VERSION_FLAG)


def restrict(readable: Iterable[str], writable: Iterable[str]) -> int:
    """Confine this process and its descendants.

    Args:
        readable: Files and folders that stay readable, with all below them.
        writable: Folders in which everything is allowed but running programs and special files.

    Returns:
        Landlock's version.

    Raises:
        OSError: If the kernel doesn't have it or refuses.
    """
    found = version()
    # Rights 0 to 12 came first; then REFER (2), TRUNCATE (3) and IOCTL_DEV (5).
    handled = (1 << 13) - 1 | (found >= 2) << 13 | (found >= 3) << 14 | (found >= 5) << 15
    in_writable = handled & ~(1 << 0 | 1 << 6 | 1 << 9 | 1 << 11)  # EXECUTE, MAKE_CHAR, MAKE_SOCK, MAKE_BLOCK
    attributes = [handled]
    attributes += [0b11] if found >= 4 else []  # BIND_TCP and CONNECT_TCP
    attributes += [0b11] if found >= 6 else []  # abstract sockets and signals
    ruleset = system_call(_CREATE_RULESET, numbers(*attributes), 8 * len(attributes), 0)
    try:
        for path in readable:
            _allow(ruleset, path, _READ)
        for path in writable:
            _allow(ruleset, path, in_writable)
        system_call(_RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)
    return found


def _allow(ruleset: int, path: str, access: int) -> None:
    handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        allowed = access if os.path.isdir(path) else access & _FILE_ONLY  # noqa: PTH112
        system_call(_ADD_RULE, ruleset, _PATH_BENEATH, struct.pack("=Qi", allowed, handle), 0)
    finally:
        os.close(handle)
