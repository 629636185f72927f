"""Hostile programs are contained: nothing they do is seen outside, and none of them passes."""

from __future__ import annotations

import os
import platform
import socket
import sys
import textwrap
from pathlib import Path

import pytest

from posttrain.bench.confinement import landlock, launcher, namespaces, syscall_filter, system
from posttrain.bench.sandbox import Outcome, Sandbox
from posttrain.core.errors import BadRequest, Failure


def _available() -> bool:
    try:
        return bool(Sandbox().check())
    except (BadRequest, Failure):
        return False


confined = pytest.mark.skipif(not _available(), reason="this system can't confine programs")


def run(program: str, **settings: float) -> Outcome:
    return Sandbox.model_validate({"cpu_seconds": 1, "wall_seconds": 20, **settings}).run(textwrap.dedent(program))


@confined
def test_an_ordinary_program_passes_with_pythons_own_library() -> None:
    outcome = run("""
        import collections, json, math, re, typing
        assert math.comb(4, 2) == 6 and json.loads("[1]") == [1]
        with open("own.txt", "w") as file:
            file.write("mine")
        assert open("own.txt").read() == "mine"
        print("done")
    """)
    assert outcome.passed, outcome
    assert outcome.reason is None
    assert outcome.output == "done\n"
    assert outcome.layers


@confined
@pytest.mark.parametrize(
    ("program", "reasons"),
    [
        ("assert 1 == 2", {"exception"}),
        ("while True: pass", {"timeout"}),
        ("x = []\nwhile True: x.append(bytearray(1 << 24))", {"memory"}),
        ("import os\nwhile True: os.fork()", {"forbidden", "exception"}),
        ("import subprocess\nsubprocess.run(['true'])", {"forbidden", "exception"}),
        ("import os\nos._exit(0)", {"exit"}),
        ("import sys\nsys.exit(0)", {"exit"}),
        ("import os, signal\nos.kill(-1, signal.SIGKILL)", {"exit", "forbidden", "signal", "exception"}),
        ("import os\nos.kill(os.getppid(), 9)", {"forbidden", "exception", "exit"}),
        ("while True: print('x' * 1000)", {"output", "timeout"}),
        ("f = open('big', 'wb')\nwhile True: f.write(bytes(1 << 20))", {"exception", "signal", "forbidden"}),
        ("def f(): f()\nf()", {"exception", "signal"}),
        ("import ctypes\nctypes.string_at(0)", {"signal", "exception", "forbidden", "exit"}),
        ("import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nwhile True: pass", {"timeout"}),
        ("import numpy", {"exception"}),
        ("this is no Python", {"exception"}),
        ("import builtins\nbuiltins.AssertionError = None\nassert False", {"exception"}),
    ],
)
def test_what_misbehaves_has_failed(program: str, reasons: set[str]) -> None:
    outcome = run(program, memory_mb=256)
    assert not outcome.passed
    assert outcome.reason in reasons, outcome
    assert len(outcome.output) <= 256 << 10


@confined
def test_files_outside_are_neither_read_nor_harmed(tmp_path: Path) -> None:
    victim = tmp_path / "victim.txt"
    victim.write_text("precious")
    tmp_path.chmod(0o777)
    victim.chmod(0o666)
    for attempt in (
        f"import os; os.remove({str(victim)!r})",
        f"import shutil; shutil.rmtree({str(tmp_path)!r})",
        f"open({str(victim)!r}, 'w').write('gone')",
        f"print(open({str(victim)!r}).read())",
        f"open({str(tmp_path / 'new')!r}, 'w')",
        "print(open('/etc/passwd').read())",
    ):
        outcome = run(attempt)
        assert not outcome.passed, attempt
        assert "precious" not in outcome.output and "root:" not in outcome.output
    assert victim.read_text() == "precious"
    assert [each.name for each in tmp_path.iterdir()] == ["victim.txt"]


@confined
def test_nothing_reaches_the_network() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.3)
        port = server.getsockname()[1]
        outcome = run(f"import socket\nsocket.create_connection(('127.0.0.1', {port}), 2).send(b'x')")
        assert not outcome.passed
        with pytest.raises(TimeoutError):
            server.accept()


@confined
def test_the_environment_is_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "swordfish")
    outcome = run("""
        import os
        print(dict(os.environ))
        for place in ("/proc/self/environ", f"/proc/{os.getppid()}/environ"):
            try:
                print(open(place, "rb").read())
            except OSError:
                pass
    """)
    assert "swordfish" not in outcome.output


@confined
def test_the_verdict_cannot_be_forged() -> None:
    """Writing to every descriptor that might be the report's doesn't make a failed program pass."""
    outcome = run("""
        import os
        for descriptor in range(3, 64):
            try:
                os.write(descriptor, b"passed\\n" + b"0" * 32 + b" passed\\n")
            except OSError:
                pass
        os._exit(0)
    """)
    assert not outcome.passed


@confined
def test_many_at_a_time_in_their_order() -> None:
    outcomes = Sandbox().run_all([f"print({i}); assert {i} % 2 == 0" for i in range(6)])
    assert [outcome.output.strip() for outcome in outcomes] == list("012345")
    assert [outcome.passed for outcome in outcomes] == [True, False] * 3


def test_elsewhere_nothing_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(BadRequest, match="darwin has no means to confine them"):
        Sandbox().run("")


@pytest.mark.skipif(sys.platform != "linux", reason="Linux's own calls")
def test_the_layers_parts() -> None:
    assert landlock.version() >= 0
    assert callable(namespaces.separate) and callable(system.drop_capabilities)
    assert launcher.BOOTSTRAP
    if platform.machine() in ("x86_64", "aarch64"):
        rules = syscall_filter.assemble(platform.machine(), os.getpid(), False)
        assert 10 < len(rules) < 4096  # the kernel takes at most 4096 instructions
        assert syscall_filter.assemble(platform.machine(), os.getpid(), True) != rules
