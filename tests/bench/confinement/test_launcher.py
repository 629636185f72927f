"""The launcher where a system lacks some layers: the others still contain a program, or nothing is run."""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from posttrain.bench import sandbox
from posttrain.bench.confinement import launcher
from posttrain.bench.sandbox import Outcome, Sandbox
from posttrain.core.errors import BadRequest, Failure

# What makes a layer unavailable, run in the launcher before it starts.
LACKING = {
    "namespaces": "namespaces.separate = namespaces.separate_as_user = refuse",
    "root": "namespaces.private_root = refuse",
    "landlock": "landlock.restrict = refuse",
    "seccomp": "syscall_filter.install = refuse",
    "uid": "launcher._change_user = lambda user, readable: False",
}


def _available() -> bool:
    try:
        return bool(Sandbox().check())
    except (BadRequest, Failure):
        return False


pytestmark = pytest.mark.skipif(not _available(), reason="this system can't confine programs")


@pytest.fixture
def without(monkeypatch):
    """A function that runs a program where some layers can't be had."""

    def run(lacking: tuple[str, ...], program: str, **settings: object) -> Outcome:
        changes = "\n".join(LACKING[each] for each in lacking)
        code = launcher.BOOTSTRAP.replace(
            "\nmain()",
            "\nfrom posttrain.bench.confinement import landlock, launcher, namespaces, syscall_filter\n"
            f"def refuse(*arguments): raise OSError(1, 'not here')\n{changes}\nmain()",
        )
        assert code != launcher.BOOTSTRAP
        monkeypatch.setattr(sandbox, "BOOTSTRAP", code)
        return Sandbox.parse({"cpu_seconds": 1, "wall_seconds": 15, **settings}).run(program)

    return run


def test_what_must_be_had():
    assert launcher.open_gates({"pidns", "netns", "landlock7"}) == []
    assert launcher.open_gates({"seccomp", "uid"}) == []
    assert launcher.open_gates({"seccomp", "rlimits"}) == ["reading others' files"]
    assert launcher.open_gates({"landlock1"}) == ["the network", "other processes"]
    assert len(launcher.open_gates({"rlimits"})) == 4


@pytest.mark.parametrize(
    "lacking",
    [("namespaces",), ("landlock",), ("seccomp",), ("root",), ("uid",), ("namespaces", "uid")],
)
def test_the_layers_left_are_enough(without, lacking, tmp_path):
    """Nothing is forked, sent, removed or read, whichever layer is missing; an honest program still passes."""
    victim = tmp_path / "victim"
    victim.write_text("precious")
    victim.chmod(0o666)
    tmp_path.chmod(0o777)
    honest = without(lacking, "import json, threading\nassert json.loads('[1]') == [1]")
    assert honest.passed, honest
    gone = {"namespaces": {"pidns", "netns", "root"}}
    for each in lacking:
        assert not {layer.rstrip("0123456789") for layer in honest.layers} & gone.get(each, {each})
    for program in (
        f"import os\nos.remove({str(victim)!r})",
        f"open({str(victim)!r}, 'a').write('!')",
        f"open({str(victim)!r}).read()",
        "import socket\nsocket.create_connection(('127.0.0.1', 9), 1)",
        f"import os\nos.kill({os.getpid()}, 0)",
    ):
        assert not without(lacking, program).passed, program
    assert victim.read_text() == "precious"


@pytest.mark.parametrize(
    ("lacking", "gates"),
    [
        (("namespaces", "seccomp"), "the network, other processes"),
        (("namespaces", "landlock", "uid"), "reading others' files"),
    ],
)
def test_where_too_little_is_left_nothing_runs(without, lacking, gates):
    with pytest.raises(BadRequest, match=f"the system lacks what would keep them from {gates}") as caught:
        without(lacking, "print('ran')")
    assert "allow_unsafe" in caught.value.suggestion
    assert without(lacking, "print('ran')", allow_unsafe=True).output == "ran\n"


@pytest.mark.parametrize("lacking", [(), ("seccomp",), ("namespaces",)])
def test_nothing_stays(without, lacking, tmp_path):
    """Children that leave their session and ignore what they are told die with the program, or can't be had."""
    name = f"posttrain-{os.getpid()}-{time.monotonic_ns()}"
    program = f"""
import ctypes, os, signal, time
for _ in range(3):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            ctypes.CDLL(None).prctl(15, {name[-15:].encode()!r}, 0, 0, 0)
            time.sleep(60)
        os._exit(0)
time.sleep(0.2)
"""
    without(lacking, program)
    found = _names()
    assert found and name[-15:] not in found


def _names() -> list[str]:
    """What the system's processes are called; one that ends meanwhile is passed over."""
    found = []
    for path in Path("/proc").glob("[0-9]*/comm"):
        with suppress(FileNotFoundError, ProcessLookupError):
            found.append(path.read_text().strip())
    return found


@pytest.mark.parametrize(
    "program",
    [
        "import os\nwhile True: os.fork()",
        "import threading, time\nwhile True: threading.Thread(target=time.sleep, args=(60,)).start()",
        "import os\nfor i in range(100000): open(str(i), 'w').write('x')",
        "import os\nwhile True: os.open('/', os.O_RDONLY)",
    ],
)
def test_bombs_without_the_filter_are_bounded(without, program):
    outcome = without(("seccomp",), program, threads=8)
    assert not outcome.passed
    assert outcome.reason in ("exception", "forbidden", "timeout", "memory", "exit")


def test_what_the_launcher_reads_with_can_t_be_written_to(without):
    """A program that writes to whatever is open doesn't garble the launcher's own report."""
    written = "try: os.write(i, b'0 0 0 0\\nlayers x\\n')\n  except OSError: pass"
    outcome = without((), f"import os\nfor i in range(3, 1024):\n  {written}")
    assert not outcome.passed and outcome.reason == "exit"
    assert outcome.layers == Sandbox().check()


def test_a_program_that_closed_its_output_has_passed(without):
    assert without((), "import sys\nsys.stdout.close()").passed


def test_when_the_caller_goes_the_program_ends(tmp_path):
    """The launcher's standard input is its life line: a killed caller leaves nothing behind."""
    import signal
    import subprocess

    caller = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "from posttrain.bench.sandbox import Sandbox\n"
            "Sandbox(wall_seconds=60, cpu_seconds=60).run('while True: pass')",
        ],
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 20
        while not (launchers := _children(caller.pid)) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert launchers
        while not (programs := _children(launchers[0])) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert programs
        caller.send_signal(signal.SIGKILL)
        caller.wait()
        while any(map(_alive, launchers + programs)) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not any(map(_alive, launchers + programs))
    finally:
        caller.kill()
        caller.wait()


def _children(process: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == process:
            found.append(int(path.parent.name))
    return found


def _alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
