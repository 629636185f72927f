"""The machine under the work: device, precision, seeds, threads, memory.

Distributed execution reads the usual environment of ``torchrun`` (RANK, WORLD_SIZE); this module only reports it.
"""

from __future__ import annotations

import os
import platform
import random
import resource
import sys
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posttrain.core.errors import BadRequest, did_you_mean

if TYPE_CHECKING:
    import torch

_DEVICES = "Use auto, cpu, cuda, cuda:N or mps."
_DTYPES = {
    "float32": "float32",
    "fp32": "float32",
    "bfloat16": "bfloat16",
    "bf16": "bfloat16",
    "float16": "float16",
    "fp16": "float16",
}


def device(name: str = "auto") -> torch.device:
    """The device to work on: ``auto`` takes CUDA, then Apple's MPS, then the CPU.

    Raises:
        BadRequest: If the named device isn't there.
    """
    import torch

    if not isinstance(name, str):
        raise BadRequest(f"There is no device {name!r}.", _DEVICES)
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        chosen = torch.device(name)
    except RuntimeError:
        raise BadRequest(f"There is no device '{name}'.", _DEVICES) from None
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise BadRequest("No CUDA device is visible to torch on this machine.", "Use --set device=cpu.")
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise BadRequest(
            f"There is no device '{name}': torch sees {torch.cuda.device_count()}, counted from 0.", _DEVICES
        )
    if chosen.type == "mps" and not torch.backends.mps.is_available():
        raise BadRequest("This machine has no MPS device (Apple silicon).", "Use --set device=cpu.")
    if chosen.type not in ("cpu", "cuda", "mps"):
        raise BadRequest(f"posttrain doesn't compute on '{name}'.", _DEVICES)
    return chosen


def dtype(name: str | torch.dtype) -> torch.dtype:
    """A torch dtype from its usual names; one that is a dtype already is returned as it is.

    Raises:
        BadRequest: If the name is unknown.
    """
    import torch

    if isinstance(name, torch.dtype):
        return name
    if name not in _DTYPES:
        raise BadRequest(f"There is no dtype '{name}'.", did_you_mean(str(name), _DTYPES))
    return getattr(torch, _DTYPES[name])


def checked_seed(seed: Any) -> int:
    """A seed that every random generator takes.

    Raises:
        BadRequest: If it is anything else than a whole number from 0 to 2^63 - 1.
    """
    number = int(seed) if isinstance(seed, Integral) and not isinstance(seed, bool) else -1
    if not 0 <= number < 2**63:
        raise BadRequest(f"A seed is a whole number from 0 on, not {seed!r}.")
    return number


def seed_everything(seed: int) -> None:
    """Seed Python, numpy and torch.

    Raises:
        BadRequest: If not every generator takes the seed.
    """
    import numpy
    import torch

    checked_seed(seed)
    random.seed(seed)
    numpy.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def random_state() -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The state of every random generator: tensors, and JSON-able values."""
    import numpy
    import torch

    version, words, gauss = random.getstate()
    algorithm, keys, position, has_gauss, cached = numpy.random.get_state()  # type: ignore[misc]
    tensors = {
        "random.torch": torch.get_rng_state(),
        "random.numpy": torch.from_numpy(numpy.asarray(keys, dtype=numpy.int64)),
    }
    if torch.cuda.is_available():
        tensors["random.cuda"] = torch.cuda.get_rng_state()
    state = {
        "python": [version, list(words), gauss],
        "numpy": [algorithm, int(position), int(has_gauss), float(cached)],
    }
    return tensors, state


def restore_random_state(tensors: dict[str, torch.Tensor], state: dict[str, Any]) -> None:
    """Set every random generator back to what `random_state` returned."""
    import numpy
    import torch

    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    algorithm, position, has_gauss, cached = state["numpy"]
    keys = tensors["random.numpy"].numpy().astype(numpy.uint32)
    numpy.random.set_state((algorithm, keys, position, has_gauss, cached))
    torch.set_rng_state(tensors["random.torch"].to(torch.uint8))
    if "random.cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["random.cuda"].to(torch.uint8))


def peak_memory_mb() -> float:
    """Peak resident memory of this process in MiB."""
    try:
        # getrusage would count what the parent used before it started this process.
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return int(status.partition("VmHWM:")[2].split()[0]) / 1024
    except (OSError, IndexError):  # not Linux, or one without the field
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / (1024 * 1024 if sys.platform == "darwin" else 1024)


def device_memory_mb() -> float | None:
    """Peak memory allocated on the CUDA device in MiB; None without CUDA."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return None
    return torch.cuda.max_memory_allocated() / 2**20


def machine() -> dict[str, Any]:
    """What this runs on, for cards and reports: processor, cores, memory, system and library versions."""
    from importlib.metadata import PackageNotFoundError, version

    facts: dict[str, Any] = {
        "processor": processor(),
        "cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "world_size": int(os.environ.get("WORLD_SIZE", "1")),
    }
    for package in ("posttrain", "torch", "transformers"):
        try:
            facts[package] = version(package)
        except PackageNotFoundError:
            facts[package] = "unknown"
    torch = sys.modules.get("torch")
    if torch is not None:
        facts["threads"] = torch.get_num_threads()
        if torch.cuda.is_available():
            facts["gpu"] = torch.cuda.get_device_name()
    return facts


def processor() -> str:
    """The processor's name, as the system tells it."""
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
