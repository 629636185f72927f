"""A sandbox for programs that a model wrote: each runs in a confined process of its own, of which nothing stays.

Layer upon layer, as many as the system has, the program gets no network, no other processes, no files but Python's own
library to read and a small folder in memory to write, no environment, and bounded time, memory and output. The kernel
enforces each: namespaces, a seccomp filter, Landlock, a user without rights, resource limits. Where network, processes
or files couldn't be kept from a program, nothing is run. Chen et al. (2021, section 2.3) use gVisor for the same end.

Left out: packages beside Python's standard library, and anything against a fault in the kernel itself; whoever expects
an attack on that one takes a virtual machine. A program that searches the interpreter's own frames can claim to have
passed; harm it can't do.
"""

from __future__ import annotations

import os
import secrets
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from pydantic import Field

from posttrain.bench.confinement.launcher import BOOTSTRAP
from posttrain.core.errors import BadRequest, Failure
from posttrain.core.events import task
from posttrain.core.settings import Settings

Reason = Literal["timeout", "memory", "output", "forbidden", "exception", "exit", "signal"]

# No packages, no modules of the user's or the folder's, no bytecode written; text is UTF-8 whatever the locale.
_FLAGS = ("-s", "-S", "-P", "-B", "-X", "utf8", "-c")
_PACKAGE = str(Path(__file__).parents[1])
# The launcher keeps the time itself; this is for the case that it can't.
_GRACE_SECONDS = 20


@dataclass(frozen=True)
class Outcome:
    """What came of a program.

    Attributes:
        passed: Whether it came to its end: no exception, no early exit, nothing used up.
        reason: Why not: ``timeout`` (of either kind), ``memory``, ``output`` (too much of it), ``forbidden`` (what the
            sandbox doesn't let it do), ``exception`` (any other), ``exit`` (it left before its end), ``signal`` (it
            crashed); None if it passed.
        detail: The exception and its line, or what else there is to say.
        output: What it printed, both streams together, up to the limit.
        seconds: Processor time it took.
        layers: What confined it.
    """

    passed: bool
    reason: Reason | None
    detail: str
    output: str
    seconds: float
    layers: tuple[str, ...]


class Sandbox(Settings):
    """How programs are confined."""

    cpu_seconds: int = Field(3, ge=1)
    """Processor time a program may take, seconds."""

    wall_seconds: float = Field(30, gt=0)
    """Time it may take altogether, seconds; much more, because on a busy machine it gets little of the processor."""

    memory_mb: int = Field(1024, ge=64)
    """Memory it may take, megabytes."""

    file_mb: int = Field(16, ge=1)
    """What it may write to files, all together, megabytes; they lie in memory and are gone afterwards."""

    open_files: int = Field(64, ge=16)
    """Files it may have open at a time."""

    threads: int = Field(32, ge=1)
    """Threads it may have; other processes it can't have at all."""

    output_kb: int = Field(256, ge=1)
    """What it may print, kilobytes; when it prints more it has failed."""

    allow_unsafe: bool = False
    """Run programs even where the system lacks what keeps them from network, processes and files."""

    def check(self) -> tuple[str, ...]:
        """The layers that are in force here.

        Raises:
            BadRequest: If they aren't enough, or there are none on this system; says what isn't kept from a program.
            Failure: If a program that does nothing doesn't run.
        """
        return _checked(self)

    def run(self, program: str) -> Outcome:
        """Run a program, Python, as a module named ``program``.

        Raises:
            BadRequest: As `check`.
            Failure: If the confined process can't be started.
        """
        if os.name != "posix" or (sys.platform != "linux" and not self.allow_unsafe):
            raise _refusal(f"{sys.platform} has no means to confine them")
        secret = secrets.token_hex(16).encode()
        report, others_end = os.pipe()
        command = [sys.executable, *_FLAGS, BOOTSTRAP, _PACKAGE, *self._options(others_end)]
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=[others_end],
                env={"PYTHONHASHSEED": "0"},  # the order of a set is the same in every run
                cwd="/",
                start_new_session=True,
            )
        except OSError as error:
            os.close(report)
            raise Failure(f"The sandbox can't be started: {error.strerror}.") from error
        finally:
            os.close(others_end)
        try:
            found, output = self._follow(process, report, secret, program.encode(errors="surrogatepass"))
        finally:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    with suppress(BrokenPipeError):
                        stream.close()
            process.wait()
            os.close(report)
        return self._outcome(found, output, secret)

    def run_all(self, programs: Sequence[str]) -> list[Outcome]:
        """Run programs, several at a time, one for each core.

        Raises:
            BadRequest: As `check`.
            Failure: As `run`.
        """
        self.check()
        outcomes: list[Outcome | None] = [None] * len(programs)
        with (
            task("Run programs", total=len(programs), unit="programs") as progress,
            ThreadPoolExecutor(_cores()) as pool,
        ):
            running = {pool.submit(self.run, program): place for place, program in enumerate(programs)}
            try:
                for done in as_completed(running):
                    outcomes[running[done]] = done.result()
                    progress.advance()
            finally:
                pool.shutdown(wait=True, cancel_futures=True)
        return [outcome for outcome in outcomes if outcome is not None]

    def _options(self, report: int) -> list[str]:
        values = {
            "report": report,
            "cpu_seconds": self.cpu_seconds,
            "wall_seconds": self.wall_seconds,
            "memory_bytes": self.memory_mb << 20,
            "file_bytes": self.file_mb << 20,
            "open_files": self.open_files,
            "threads": self.threads,
            "allow_unsafe": int(self.allow_unsafe),
        }
        return [f"{name}={value}" for name, value in values.items()]

    def _follow(
        self, process: subprocess.Popen[bytes], report: int, secret: bytes, program: bytes
    ) -> tuple[bytes, bytes]:
        """Hand the program over and read until the launcher has ended: its report, and what was printed."""
        assert process.stdin is not None and process.stdout is not None
        output, found, most = bytearray(), bytearray(), self.output_kb << 10
        with suppress(BrokenPipeError):  # then the launcher has said why
            process.stdin.write(secret + b" %d\n" % len(program) + program)
            process.stdin.flush()
        printed = process.stdout.fileno()
        deadline = time.monotonic() + self.wall_seconds + _GRACE_SECONDS
        with selectors.DefaultSelector() as selector:
            selector.register(report, selectors.EVENT_READ, found)
            selector.register(printed, selectors.EVENT_READ, output)
            while (left := deadline - time.monotonic()) > 0 and report in selector.get_map():
                for key, _ in selector.select(left):
                    more = os.read(key.fd, 1 << 16)
                    key.data.extend(more)
                    if not more:
                        selector.unregister(key.fd)
                if len(output) > most and printed in selector.get_map():
                    selector.unregister(printed)
                    process.stdin.close()  # tells the launcher to end it
        if len(output) <= most:
            os.set_blocking(printed, False)
            with suppress(BlockingIOError):
                output += os.read(printed, most + 1 - len(output))
        return bytes(found), bytes(output)

    def _outcome(self, found: bytes, printed: bytes, secret: bytes) -> Outcome:
        """The outcome from the launcher's report: a line of its own, a line about the layers, the program's end."""
        ended, _, rest = found.partition(b"\n")
        begun, _, verdict = rest.partition(b"\n")
        word, _, words = begun.decode(errors="replace").partition(" ")
        output = printed[: self.output_kb << 10].decode(errors="replace")
        if word == "refused":
            raise _refusal(f"the system lacks what would keep them from {words}")
        if word != "layers":
            raise Failure(f"The sandbox can't be started: {words or output.strip()[-300:] or 'it ended at once'}.")
        late, code, seconds, _ = ended.decode().split()
        reason: Reason | None
        if len(printed) > self.output_kb << 10:
            reason, detail = "output", f"more than {self.output_kb} KB printed"
        elif late == "1":
            reason, detail = "timeout", f"not at its end after {float(seconds):.1f} s of processor time"
        elif verdict == secret + b" passed":
            reason, detail = None, ""
        elif verdict.startswith(secret):
            kind, _, detail = verdict[len(secret) + 1 :].decode(errors="replace").partition(" ")
            known: tuple[Reason, ...] = ("memory", "forbidden", "exit")
            reason = next((each for each in known if each == kind), "exception")
        elif int(code) < 0 and -int(code) != signal.SIGKILL:
            reason, detail = "signal", signal.strsignal(-int(code)) or f"signal {-int(code)}"
        else:
            reason, detail = "exit", "it left before its end"
        return Outcome(reason is None, reason, detail, output, float(seconds), tuple(words.split()))


@cache
def _checked(sandbox: Sandbox) -> tuple[str, ...]:
    outcome = sandbox.run("")
    if not outcome.passed:
        raise Failure(f"The sandbox doesn't run a program that does nothing: {outcome.reason}, {outcome.detail}.")
    return outcome.layers


def _refusal(why: str) -> BadRequest:
    return BadRequest(
        f"Programs that a model wrote aren't run here: {why}.",
        "Use Linux on x86-64 or aarch64 (5.13 or newer, or with user namespaces); or, where harm may be done, "
        "a task file of your own with `sandbox: {allow_unsafe: true}` in its type.",
    )


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
