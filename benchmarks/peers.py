"""What the benchmarks share: environments for peers, child processes with their peak memory, facts of the machine."""

from __future__ import annotations

import json
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
TORCH = "torch>=2.9,<2.14"  # a wider range pulls gigabytes of CUDA


def environment(name: str, packages: list[str]) -> Path:
    """The Python of a peer's environment, made on first use.

    Args:
        name: Names the folder ``.venv-peers-NAME``.
        packages: pip requirements besides torch.
    """
    folder = ROOT / f".venv-peers-{name}"
    python = folder / "bin" / "python"
    done = folder / "installed"
    wanted = "\n".join([TORCH, *packages])
    if not done.exists() or done.read_text() != wanted:
        print(f"Installing {', '.join(packages)} into {folder.name} …", file=sys.stderr)
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", TORCH, *packages], check=True, stdout=sys.stderr)
        done.write_text(wanted)
    return python


def child(python: Path | str, script: Path, *arguments: str) -> dict[str, Any]:
    """Run a script whose last line of output is JSON; returns it."""
    print(f"Running {script.name} {' '.join(arguments)} …", file=sys.stderr)
    done = subprocess.run([python, script, *arguments], stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def peak_memory_mb() -> float:
    """Peak resident memory of the calling process in MiB; getrusage would also count what its parent had."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("the kernel doesn't report peak memory")
