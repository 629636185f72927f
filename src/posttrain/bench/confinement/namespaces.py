"""Namespaces: a process with a network, processes and a file system of its own (namespaces (7)).

Root asks for them directly; anyone else, where the system allows it, by way of a user namespace, in which one has
root's powers over nothing but these.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from posttrain.bench.confinement.system import call, numbers, system_call

_MOUNTS, _HOST_NAME, _IPC, _USERS, _PROCESSES, _NETWORK = (
    *(0x00020000, 0x04000000, 0x08000000),
    *(0x10000000, 0x20000000, 0x40000000),
)
_ALL = _MOUNTS | _HOST_NAME | _IPC | _PROCESSES | _NETWORK

_NOSUID, _NODEV, _BIND, _RECURSIVE, _PRIVATE = 2, 4, 0x1000, 0x4000, 0x40000
_MOUNT_SETATTR = 442  # on every architecture
_AT_FDCWD, _AT_RECURSIVE = -100, 0x8000
_READ_ONLY = 1 | 2 | 4  # MOUNT_ATTR_RDONLY, NOSUID, NODEV
_DETACH = 2
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}

# An empty file system is mounted here and becomes the root; what the place held isn't wanted any more.
_PLACE = "/proc"
WORK = "/work"


def separate() -> None:
    """Put this process, and as to process numbers its children, into namespaces of their own; takes root's powers.

    Raises:
        OSError: If the kernel refuses.
    """
    call("unshare", _ALL)


def separate_as_user() -> None:
    """The same by way of a user namespace, which has this user alone.

    Raises:
        OSError: If the kernel refuses.
    """
    user, group = os.getuid(), os.getgid()
    call("unshare", _USERS | _ALL)
    for file, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
        handle = os.open(f"/proc/self/{file}", os.O_WRONLY)
        try:
            os.write(handle, text.encode())
        finally:
            os.close(handle)


def private_root(readable: Sequence[str], size: int, owner: int) -> None:
    """Exchange the whole file system for an empty one in memory with a few read-only folders and a place to work.

    Args:
        readable: Absolute paths of what stays, read-only, under its name; none lies below another.
        size: Bytes that may be written, all files together.
        owner: The user whose the working folder is; it becomes the current one.

    Raises:
        OSError: If the kernel refuses or is older than 5.12. Then the file system is in disorder, but still all there.
    """
    call("mount", b"none\0", b"/\0", None, _RECURSIVE | _PRIVATE, None)
    options = f"size={size},nr_inodes=4096,mode=755\0".encode()
    call("mount", b"tmpfs\0", _PLACE.encode() + b"\0", b"tmpfs\0", _NOSUID | _NODEV, options)
    for path in readable:
        _keep(path, _PLACE + path)
    os.mkdir(_PLACE + WORK, 0o700)  # noqa: PTH102
    if owner != os.geteuid():
        os.chown(_PLACE + WORK, owner, owner)
    os.chdir(_PLACE)
    # The new root lies on top of the old one, which is then taken away from under it: pivot_root (2), Notes.
    system_call(_PIVOT_ROOT[os.uname().machine], b".\0", b".\0")
    call("umount2", b".\0", _DETACH)
    os.chdir(WORK)


def _keep(path: str, target: str) -> None:
    os.makedirs(os.path.dirname(target), exist_ok=True)  # noqa: PTH103, PTH120
    if os.path.islink(path):  # noqa: PTH114
        os.symlink(os.readlink(path), target)  # noqa: PTH115, PTH211
        return
    if os.path.isdir(path):  # noqa: PTH112
        os.mkdir(target)  # noqa: PTH102
    else:
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o444))
    call("mount", os.fsencode(path) + b"\0", os.fsencode(target) + b"\0", None, _BIND | _RECURSIVE, None)
    attributes = numbers(_READ_ONLY, 0, 0, 0)
    system_call(_MOUNT_SETATTR, _AT_FDCWD, os.fsencode(target) + b"\0", _AT_RECURSIVE, attributes, 32)
