"""The process that starts a program nobody has read, watches it, and the confined process that becomes the program.

Run as ``python -s -S -P -B -c BOOTSTRAP FOLDER name=value …`` by `posttrain.bench.sandbox`, with the program on its
standard input. The launcher forks; the child puts all layers in force that the system has, names them, and runs the
program in the same interpreter, because a confined process can't start another. Whoever holds the other end of the
standard input keeps both alive: when it closes, they end.

What the child reports: a line with the layers, then, once the program has ended by itself, a secret and how it ended.
The secret isn't known outside the interpreter, so a program that leaves by the back door doesn't pass for one that
came to its end. A program made for the purpose could still find it: nothing in one process is hidden from it.
"""

from __future__ import annotations

import os
import resource
import select
import signal
import sys
import time
from importlib.machinery import SourceFileLoader

from posttrain.bench.confinement import landlock, namespaces, syscall_filter
from posttrain.bench.confinement.system import drop_capabilities, prctl

BOOTSTRAP = """
import sys
for name, folder in (("posttrain", sys.argv[1]), ("posttrain.bench", sys.argv[1] + "/bench")):
    sys.modules[name] = type(sys)(name)
    sys.modules[name].__path__ = [folder]
from posttrain.bench.confinement.launcher import main
main()
"""

# The layers, as they are named in signatures.
OWN_PROCESSES, OWN_NETWORK, OWN_ROOT, OWN_USER = "pidns", "netns", "root", "uid"
LIMITS, LANDLOCK, SECCOMP = "rlimits", "landlock", "seccomp"
# What must be had, and the layers any of which gives it.
_NEEDS = {
    "the network": {OWN_NETWORK, SECCOMP},
    "other processes": {OWN_PROCESSES, SECCOMP},
    "writing files": {OWN_ROOT, LANDLOCK, SECCOMP},
    "reading others' files": {OWN_ROOT, LANDLOCK, OWN_USER},
}

# The users that systemd keeps for services without one of their own. Root's programs run as one of them, each as
# another, so that those at work at the same time can't see each other.
_FIRST_USER, _LAST_USER = 61184, 65519
_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/nix/store", "/etc/ld.so.cache")
_TIME_ZONES = ("/etc/localtime", "/usr/share/zoneinfo")
_LONGEST_REPORT = 8192
_LONGEST_TEXT = 600


def open_gates(layers: set[str]) -> list[str]:
    """What the layers in force don't keep a program from; a layer may have its version behind its name."""
    names = {layer.rstrip("0123456789") for layer in layers}
    return [gate for gate, enough in _NEEDS.items() if not enough & names]


def main() -> None:
    """Start the program on standard input, wait for its end, write what came of it, and end."""
    options = dict(word.split("=", 1) for word in sys.argv[2:])
    secret, source = _request()
    linux = sys.platform == "linux"
    readable = _readable()
    user = _unused_user() if linux and os.geteuid() == 0 else None
    namespaced = linux and _separated(user, readable)
    inside, outside = os.pipe()
    start = time.monotonic()
    child = os.fork()
    if child == 0:
        os.close(inside)
        os.close(int(options["report"]))  # or the program could write there, before the launcher does
        _become_program(options, secret, source, outside, user, readable, namespaced)
    os.close(outside)
    found, late = _watch(inside, start + float(options["wall_seconds"]))
    os.kill(child, signal.SIGKILL)
    _, status, usage = os.wait4(child, 0)
    seconds = usage.ru_utime + usage.ru_stime
    late = late or (os.WIFSIGNALED(status) and seconds > int(options["cpu_seconds"]) - 0.2)
    code = os.waitstatus_to_exitcode(status)
    with open(int(options["report"]), "wb") as report:  # noqa: PTH123
        report.write(f"{int(late)} {code} {seconds:.4f} {time.monotonic() - start:.4f}\n".encode() + found)
    os._exit(0)


def _request() -> tuple[bytes, bytes]:
    """The secret and the program, from standard input, which then stays open."""
    with open(0, "rb", buffering=0, closefd=False) as stdin:
        secret, length = stdin.readline().split()
        source = bytearray()
        while len(source) < int(length):
            more = stdin.read(int(length) - len(source))
            if not more:
                os._exit(1)
            source += more
    return secret, bytes(source)


def _watch(report: int, deadline: float) -> tuple[bytes, bool]:
    """What the child reports until it ends, and whether its time ended before."""
    poll = select.poll()
    poll.register(report, select.POLLIN)
    poll.register(0, 0)  # only whether the other end is closed
    found = b""
    while (left := deadline - time.monotonic()) > 0:
        for handle, _ in poll.poll(max(1, left * 1000)):
            if handle == 0:
                return found, False
            more = os.read(report, _LONGEST_REPORT)
            found += more
            if not more or len(found) > _LONGEST_REPORT:
                return found[:_LONGEST_REPORT], False
    return found, True


def _readable() -> list[str]:
    """What a program needs to read: Python's library and the system's, none below another."""
    prefixes = [f"{prefix}/lib" for prefix in (sys.base_prefix, sys.base_exec_prefix)]
    found: list[str] = []
    for path in sorted({*sys.path, *prefixes, *_LIBRARIES, *_TIME_ZONES}):
        above = any(path.startswith(each + "/") for each in found)
        if path.startswith("/") and os.path.lexists(path) and not above:
            found.append(path)
    return found


def _unused_user() -> int:
    return _FIRST_USER + os.getpid() % (_LAST_USER - _FIRST_USER + 1)


def _separated(user: int | None, readable: list[str]) -> bool:
    """Get namespaces, directly or as an ordinary user; that one root becomes at once if it can't get them directly."""
    if user is not None:
        try:
            namespaces.separate()
        except OSError:
            _change_user(user, readable)
        else:
            return True
    try:
        namespaces.separate_as_user()
    except OSError:
        return False
    return True


def _change_user(user: int, readable: list[str]) -> bool:
    """Become a user without any rights, unless that one couldn't read Python's library."""
    try:
        os.seteuid(user)
        for path in readable:
            os.stat(path)  # noqa: PTH116
    except OSError:
        os.seteuid(0)
        return False
    os.seteuid(0)
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
    return True


def _become_program(
    options: dict[str, str],
    secret: bytes,
    source: bytes,
    report: int,
    user: int | None,
    readable: list[str],
    namespaced: bool,
) -> None:
    """In the child: confine it and run the program; never returns."""
    try:
        report = _connected(report, secret)
        os.environ.clear()
        sys.argv = ["program"]
        del sys.orig_argv[1:]
        layers = _confine(options, user, readable, namespaced) if sys.platform == "linux" else _limited(options, False)
        gates = open_gates(set(layers))
        if gates and options["allow_unsafe"] != "1":
            os.write(report, f"refused {', '.join(gates)}\n".encode())
            os._exit(1)
        os.write(report, f"layers {' '.join(layers)}\n".encode())
    except BaseException as error:
        os.write(report, f"broken {type(error).__name__}: {error}\n".encode())
        os._exit(1)
    for name in [name for name in sys.modules if name.startswith("posttrain")]:
        del sys.modules[name]
    _run(source, report, secret)


def _connected(report: int, secret: bytes) -> int:
    """Leave the child an empty standard input, its output, and the way to report, under a number without meaning."""
    empty, _ = os.pipe()
    os.dup2(empty, 0)
    moved = os.dup2(report, 100 + int(secret[:4], 16) % 800, inheritable=False)
    os.closerange(3, moved)  # the launcher's own report among them
    return moved


def _confine(options: dict[str, str], user: int | None, readable: list[str], namespaced: bool) -> list[str]:
    """Put every layer in force that can be had, and name them."""
    layers = [OWN_PROCESSES, OWN_NETWORK] if namespaced else []
    changes = user is not None and os.geteuid() == 0
    if namespaced:
        try:
            owner = user if changes and user is not None else os.geteuid()
            namespaces.private_root(readable, int(options["file_bytes"]), owner)
        except OSError:
            os.chdir("/")
        else:
            layers.append(OWN_ROOT)
    if changes and user is not None:
        changes = _change_user(user, readable)
    if user is not None and os.geteuid() == user:
        layers.append(OWN_USER)
    drop_capabilities()
    prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: no program outlives its launcher
    syscall_filter.forbid_new_privileges()
    layers += _limited(options, OWN_USER in layers or (namespaced and os.getuid() != 0))
    try:
        writable = [namespaces.WORK] if OWN_ROOT in layers else []
        layers.append(f"{LANDLOCK}{landlock.restrict(readable, writable)}")
    except OSError:
        pass
    try:
        syscall_filter.install(OWN_ROOT in layers)
        layers.append(SECCOMP)
    except OSError:
        pass
    return layers


def _limited(options: dict[str, str], own_count: bool) -> list[str]:
    """Set the limits on what a process may use.

    Args:
        options: Their values.
        own_count: Whether this user has no other processes, so that they can be counted.
    """
    limits = {
        resource.RLIMIT_CPU: int(options["cpu_seconds"]),
        resource.RLIMIT_AS: int(options["memory_bytes"]),
        resource.RLIMIT_FSIZE: int(options["file_bytes"]),
        resource.RLIMIT_NOFILE: int(options["open_files"]),
        resource.RLIMIT_CORE: 0,
    }
    if own_count:
        limits[resource.RLIMIT_NPROC] = int(options["threads"])
    for limit, value in limits.items():
        _, hard = resource.getrlimit(limit)
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        try:
            resource.setrlimit(limit, (value, value))
        except (ValueError, OSError):
            if sys.platform == "linux":  # elsewhere some can't be set, and nothing runs unless unsafe is good enough
                raise
    return [LIMITS]


class _Source(SourceFileLoader):
    """Loads a module from memory."""

    def __init__(self, source: bytes) -> None:
        super().__init__("program", "program.py")
        self._source = source

    def get_data(self, path: str) -> bytes:  # type: ignore[override]
        """The program, whatever is asked for."""
        return self._source


def _run(source: bytes, report: int, secret: bytes) -> None:
    """Run the program to its end, or as far as it comes; never returns."""
    module = type(sys)("program")
    sys.modules["program"] = module
    # Taken before the program can put something else in their place; afterwards nothing is looked up any more.
    write, leave, flush, passed = os.write, os._exit, sys.stdout.flush, secret + b" passed"
    spare = bytearray(1 << 20)  # given back when memory has run out, so that this can be said
    try:
        _Source(source).exec_module(module)
    except BaseException as error:
        del spare
        passed = secret + b" " + _told(error)
    try:
        flush()
    finally:  # also for a program that closed its output
        write(report, passed)
        leave(0)


def _told(error: BaseException) -> bytes:
    """What kind of end an exception is, and its words."""
    kinds = {MemoryError: "memory", PermissionError: "forbidden", SystemExit: "exit"}
    kind = next((word for class_, word in kinds.items() if isinstance(error, class_)), "exception")
    try:
        text = str(error)
    except Exception:
        text = ""
    line, trace = 0, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "program.py":
            line = trace.tb_lineno
        trace = trace.tb_next
    where = f" (line {line})" if line else ""
    told = f"{type(error).__name__}{': ' if text else ''}{text[:_LONGEST_TEXT]}{where}"
    return f"{kind} {told}".encode(errors="replace")
