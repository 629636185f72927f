"""A seccomp filter: the system calls a program may make that only computes; all others fail with "not permitted".

Refused are, above all: sockets, other processes (no fork, no exec, no signals to anyone else, no look at their memory)
and, unless it has a file system of its own, everything that writes to files. Threads are allowed. The filter is a
program in classic BPF that the kernel runs before each call (seccomp (2)); it stays in force for good.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Iterator

from posttrain.bench.confinement.system import call, prctl

# Name, number on x86-64, number on aarch64 ("-" where it has no such call).
_TABLE = """
read 0 63, write 1 64, readv 19 65, writev 20 66, pread64 17 67, pwrite64 18 68, lseek 8 62, close 3 57,
close_range 436 436, dup 32 23, dup2 33 -, dup3 292 24, fcntl 72 25, ioctl 16 29, pipe 22 -, pipe2 293 59, poll 7 -,
ppoll 271 73, select 23 -, pselect6 270 72, epoll_create 213 -, epoll_create1 291 20, epoll_ctl 233 21,
epoll_wait 232 -, epoll_pwait 281 22, eventfd2 290 19, socketpair 53 199, sendto 44 206, recvfrom 45 207,
getsockname 51 204, getsockopt 55 209, shutdown 48 210, open 2 -, openat 257 56, stat 4 -, fstat 5 80, lstat 6 -,
newfstatat 262 79, statx 332 291, access 21 -, faccessat 269 48, faccessat2 439 439, readlink 89 -, readlinkat 267 78,
getcwd 79 17, chdir 80 49, fchdir 81 50, getdents 78 -, getdents64 217 61, statfs 137 43, fstatfs 138 44, umask 95 166,
unlink 87 -, unlinkat 263 35, mkdir 83 -, mkdirat 258 34, rmdir 84 -, rename 82 -, renameat 264 38, renameat2 316 276,
ftruncate 77 46, truncate 76 45, fsync 74 82, fdatasync 75 83, chmod 90 -, fchmod 91 52, fchmodat 268 53,
utimensat 280 88, flock 73 32, mmap 9 222, munmap 11 215, mprotect 10 226, mremap 25 216, brk 12 214, madvise 28 233,
rt_sigaction 13 134, rt_sigprocmask 14 135, rt_sigreturn 15 139, rt_sigpending 127 136, rt_sigsuspend 130 133,
rt_sigtimedwait 128 137, sigaltstack 131 132, kill 62 129, tgkill 234 131, pause 34 -, restart_syscall 219 128,
setitimer 38 103, getitimer 36 102, alarm 37 -, clone 56 220, clone3 435 435, openat2 437 437, set_robust_list 273 99,
get_robust_list 274 100, rseq 334 293, futex 202 98, membarrier 324 283, set_tid_address 218 96, exit 60 93,
exit_group 231 94, sched_yield 24 124, sched_getaffinity 204 123, gettid 186 178, getpid 39 172, getppid 110 173,
arch_prctl 158 -, prctl 157 167, clock_gettime 228 113, clock_getres 229 114, clock_nanosleep 230 115,
nanosleep 35 101, gettimeofday 96 169, time 201 -, times 100 153, getuid 102 174, geteuid 107 175, getgid 104 176,
getegid 108 177, getgroups 115 158, getresuid 118 148, getresgid 120 150, uname 63 160, sysinfo 99 179,
getrusage 98 165, getrlimit 97 163, prlimit64 302 261, getrandom 318 278, getpgrp 111 -, getpgid 121 155,
getsid 124 156, wait4 61 260, waitid 247 95
"""
_MACHINES = ("x86_64", "aarch64")
_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
# Calls of a later date than the table are said not to exist, so that the C library takes an older one.
_NEWER = 450

_LOAD, _JUMP_EQUAL, _JUMP_AT_LEAST, _JUMP_ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
ALLOW, KILL = 0x7FFF0000, 0x80000000
REFUSE, UNKNOWN = 0x00050000 | errno.EPERM, 0x00050000 | errno.ENOSYS

_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data

_CLONE_THREAD = 0x00010000
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_CHANGES_FILES = (
    *("unlink", "unlinkat", "mkdir", "mkdirat", "rmdir", "rename", "renameat", "renameat2", "ftruncate", "truncate"),
    *("chmod", "fchmod", "fchmodat", "utimensat"),
)
# What may be asked of an open file: duplicates, flags and locks, but not whom to send signals.
_FCNTL = (0, 1, 2, 3, 4, 5, 6, 7, 36, 37, 38, 1030, 1032)
_IOCTL = (0x5401, 0x5413, 0x5421, 0x5450, 0x5451, 0x541B)  # terminal?, its size, FIONBIO, FIO(N)CLEX, FIONREAD

Instruction = tuple[int, int, int, int]


def numbers_of(machine: str) -> dict[str, int]:
    """The numbers of the system calls in the table.

    Raises:
        OSError: If the architecture has no column.
    """
    if machine not in _MACHINES:
        raise OSError(errno.ENOSYS, f"no table of system calls for {machine}")
    column = 1 + _MACHINES.index(machine)
    rows = [entry.split() for entry in _TABLE.split(",")]
    return {row[0]: int(row[column]) for row in rows if row[column] != "-"}


def assemble(machine: str, own_process: int, writable: bool) -> list[Instruction]:
    """The filter as BPF instructions: code, jump if true, jump if false, value.

    Args:
        machine: The architecture, as `os.uname` names it.
        own_process: The process that is to be confined; signals may go to this one only.
        writable: Whether files may be written, where others rules allow it.
    """
    allow, refuse = (_RETURN, 0, 0, ALLOW), (_RETURN, 0, 0, REFUSE)
    program: list[Instruction] = [
        *((_LOAD, 0, 0, _ARCHITECTURE), (_JUMP_EQUAL, 1, 0, _AUDIT_ARCH[machine]), (_RETURN, 0, 0, KILL)),
        # On x86-64 numbers from 2^30 on mean the same calls in another form.
        *((_LOAD, 0, 0, _NUMBER), (_JUMP_AT_LEAST, 0, 1, _NEWER + 1), (_RETURN, 0, 0, UNKNOWN)),
    ]
    rules = dict(_rules(own_process, writable))
    for name, number in numbers_of(machine).items():
        if name in ("clone3", "openat2"):  # their arguments lie in memory, where a filter can't look
            block = [(_RETURN, 0, 0, UNKNOWN)]
        elif name in _CHANGES_FILES and not writable:
            block = [refuse]
        elif name in rules:
            block = [*rules[name], refuse]
        else:
            block = [allow]
        program += [(_JUMP_EQUAL, 0, len(block), number), *block]
    return [*program, refuse]


def _rules(own_process: int, writable: bool) -> Iterator[tuple[str, list[Instruction]]]:
    """Calls that depend on an argument: instructions that return if it may be, and otherwise end."""
    yield "clone", [_low(0), (_JUMP_ANY_BIT, 0, 1, _CLONE_THREAD), (_RETURN, 0, 0, ALLOW)]
    yield "kill", _one_of(0, own_process)
    yield "tgkill", _one_of(0, own_process)
    yield "prlimit64", _one_of(0, 0, own_process)
    yield "prctl", _one_of(0, 15)  # PR_SET_NAME, of a thread
    yield "fcntl", _one_of(1, *_FCNTL)
    yield "ioctl", _one_of(1, *_IOCTL)
    yield "socketpair", _one_of(0, 1)  # AF_UNIX
    # Without a destination: both halves of the pointer are 0.
    yield "sendto", [_low(4), (_JUMP_EQUAL, 0, 3, 0), _high(4), (_JUMP_EQUAL, 0, 1, 0), (_RETURN, 0, 0, ALLOW)]
    if not writable:
        for name, flags in (("open", 1), ("openat", 2)):
            yield name, [_low(flags), (_JUMP_ANY_BIT, 1, 0, _WRITES), (_RETURN, 0, 0, ALLOW)]


def _one_of(argument: int, *values: int) -> list[Instruction]:
    tests = [step for value in values for step in ((_JUMP_EQUAL, 0, 1, value), (_RETURN, 0, 0, ALLOW))]
    return [_low(argument), *tests]


def _low(argument: int) -> Instruction:
    return (_LOAD, 0, 0, _ARGUMENTS + 8 * argument)


def _high(argument: int) -> Instruction:
    return (_LOAD, 0, 0, _ARGUMENTS + 8 * argument + 4)


class _Program(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p)]


def install(writable: bool) -> None:
    """Put the filter in force for this process, which must have one thread and have set no_new_privs.

    Raises:
        OSError: If the kernel has no seccomp filters, or the architecture isn't known.
    """
    instructions = assemble(os.uname().machine, os.getpid(), writable)
    code = b"".join(struct.pack("=HBBI", *instruction) for instruction in instructions)
    program = _Program(len(instructions), code)
    call("prctl", 22, 2, ctypes.addressof(program), 0, 0)  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER


def forbid_new_privileges() -> None:
    """No program started from here on gets more rights than this one has (PR_SET_NO_NEW_PRIVS)."""
    prctl(38, 1)
