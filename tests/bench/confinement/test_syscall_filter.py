"""The seccomp filter, run by a small interpreter of classic BPF; its numbers beside libseccomp's where it is there."""

from __future__ import annotations

import ctypes
import struct

import pytest

from posttrain.bench.confinement.syscall_filter import ALLOW, KILL, REFUSE, UNKNOWN, assemble, numbers_of

MACHINES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
OWN = 4711
MINUS_ONE = 0xFFFFFFFF


def verdict(machine: str, number: int, *arguments: int, writable: bool = False, architecture: int | None = None) -> int:
    """What the filter returns, as the kernel would work it out (linux/filter.h)."""
    padded = [*arguments, *[0] * (6 - len(arguments))]
    data = struct.pack("=IIQ6Q", number, MACHINES[machine] if architecture is None else architecture, 0, *padded)
    program = assemble(machine, OWN, writable)
    place = accumulator = 0
    while True:
        code, if_true, if_false, value = program[place]
        place += 1
        if code == 0x06:
            return value
        if code == 0x20:
            (accumulator,) = struct.unpack_from("=I", data, value)
        else:
            test = {0x15: accumulator == value, 0x35: accumulator >= value, 0x45: bool(accumulator & value)}[code]
            place += if_true if test else if_false


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("read", (), ALLOW),
        ("clone", (0x01200011,), REFUSE),  # fork: SIGCHLD and the child's id
        ("clone", (0x003D0F00,), ALLOW),  # a thread
        ("clone3", (), UNKNOWN),
        ("kill", (OWN, 9), ALLOW),
        ("kill", (MINUS_ONE, 9), REFUSE),
        ("kill", (1, 9), REFUSE),
        ("tgkill", (OWN, OWN, 6), ALLOW),
        ("tgkill", (1, 1, 9), REFUSE),
        ("fcntl", (3, 3), ALLOW),  # F_GETFL
        ("fcntl", (3, 8, 1), REFUSE),  # F_SETOWN: whom to send signals
        ("ioctl", (0, 0x5412), REFUSE),  # TIOCSTI: type into a terminal
        ("prctl", (1, 0), REFUSE),  # PR_SET_PDEATHSIG
        ("prctl", (15, 0), ALLOW),
        ("prlimit64", (0, 7), ALLOW),
        ("prlimit64", (1, 7), REFUSE),
        ("socketpair", (1, 1), ALLOW),
        ("socketpair", (2, 1), REFUSE),
        ("sendto", (3, 0, 1, 0, 0), ALLOW),
        ("sendto", (3, 0, 1, 0, 0x7F0000001000), REFUSE),
        ("sendto", (3, 0, 1, 0, 1 << 40), REFUSE),  # an address whose lower half is 0
        ("openat", (3, 0, 0o2000000), ALLOW),  # O_CLOEXEC
        ("openat", (3, 0, 0o1), REFUSE),
        ("openat", (3, 0, 0o2), REFUSE),
        ("openat", (3, 0, 0o100), REFUSE),
        ("openat", (3, 0, 0o1000), REFUSE),
        ("unlinkat", (), REFUSE),
        ("renameat2", (), REFUSE),
    ],
)
def test_verdicts(machine, name, arguments, expected):
    assert verdict(machine, numbers_of(machine)[name], *arguments) == expected


@pytest.mark.parametrize("machine", MACHINES)
def test_where_files_may_be_written(machine):
    for name in ("unlinkat", "renameat2", "mkdirat", "ftruncate"):
        assert verdict(machine, numbers_of(machine)[name], writable=True) == ALLOW
    assert verdict(machine, numbers_of(machine)["openat"], 3, 0, 0o1101, writable=True) == ALLOW


# socket, connect, fork, execve, ptrace, unshare, mount, bpf, memfd_create, io_uring_setup, pidfd_send_signal
@pytest.mark.parametrize("number", [41, 42, 57, 58, 59, 101, 272, 165, 321, 319, 425, 424])
def test_what_isn_t_listed_is_refused_on_x86(number):
    assert verdict("x86_64", number) == REFUSE


# socket, connect, execve, ptrace, unshare, mount, bpf, memfd_create, io_uring_setup
@pytest.mark.parametrize("number", [198, 203, 221, 117, 97, 40, 280, 279, 425])
def test_what_isn_t_listed_is_refused_on_arm(number):
    assert verdict("aarch64", number) == REFUSE


@pytest.mark.parametrize("machine", MACHINES)
def test_other_ways_to_call(machine):
    assert verdict(machine, 0, architecture=0x40000003) == KILL  # 32-bit calls
    assert verdict(machine, 0x40000000 + 41) == UNKNOWN  # the x32 form of socket
    assert verdict(machine, 462) == UNKNOWN


def test_an_architecture_without_a_table():
    with pytest.raises(OSError, match="no table of system calls for s390x"):
        numbers_of("s390x")


@pytest.mark.parametrize("machine", MACHINES)
def test_numbers_are_libseccomp_s(machine):
    try:
        resolve = ctypes.CDLL("libseccomp.so.2").seccomp_syscall_resolve_name_arch
    except OSError:
        pytest.skip("libseccomp isn't there")
    numbers = numbers_of(machine)
    assert len(numbers) > 90
    # "fstatat" is what the generic headers call the call that libseccomp knows as newfstatat.
    found = {name: resolve(MACHINES[machine], name.encode()) for name in numbers}
    assert found == numbers
