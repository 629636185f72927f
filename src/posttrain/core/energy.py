"""Energy and CO₂ of a piece of work: measured where the machine has counters, else estimated, and always saying which.

Counters are RAPL (processor packages and their memory, where the system lets everybody read them) and NVML (GPUs).
Without RAPL the processor is estimated as Lannelongue et al. (2021, "Green Algorithms") do: the seconds that cores were
busy times the watts of a core, and the memory in use times 0.3725 W a GB. Watts of processors and the carbon intensity
of countries' electricity are codecarbon's tables; they are read as files, because importing and starting codecarbon's
own tracker takes seconds, longer than many a step. Left out: power supplies, cooling, disks, network, and the making
of the machine.

A counter counts the whole device, whoever uses it; an estimate counts this process and its finished children.
"""

from __future__ import annotations

import csv
import functools
import importlib.util
import json
import os
import re
import sys
import time
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from posttrain.core import events, runtime
from posttrain.core.errors import BadRequest, did_you_mean

REGION_VARIABLE = "POSTTRAIN_REGION"

_POWERCAP = Path("/sys/class/powercap")
_JOULES_PER_KWH = 3.6e6
_WATTS_PER_GB = 0.3725
# What codecarbon takes for a processor that it has no table entry for.
_DEFAULT_WATTS_PER_CORE = 4.0
# The world's average, g a kWh (International Energy Agency, 2019), as in codecarbon's table.
_WORLD = 475.0
# A RAPL counter begins anew after some 260 kJ, three quarters of an hour at 100 W; so it is read more often.
_SECONDS_BETWEEN_READINGS = 60.0


@dataclass(frozen=True)
class Energy:
    """What a piece of work took.

    Attributes:
        kwh: Electrical energy in kilowatt-hours.
        co2_g: CO₂ of making that electricity, in grams.
        how: ``measured`` if every part was read from a counter, else ``estimated``.
        assumptions: What the figures rest on: `region`, `g_co2_per_kwh`, and a sentence for each part.
        parts: Kilowatt-hours of `processor`, `memory` and `gpu`, as far as they are known.
    """

    kwh: float
    co2_g: float
    how: str
    assumptions: dict[str, Any] = field(default_factory=dict)
    parts: dict[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The JSON form: kwh, co2_g, how, assumptions, parts."""
        return {
            "kwh": self.kwh,
            "co2_g": self.co2_g,
            "how": self.how,
            "assumptions": self.assumptions,
            "parts": self.parts,
        }


def total(entries: Iterable[dict[str, Any]]) -> dict[str, Any] | None:
    """The sum of energies in their JSON form, ``measured`` if all of them are; None if there are none."""
    known = list(entries)
    if not known:
        return None
    how = "measured" if all(each["how"] == "measured" for each in known) else "estimated"
    return {
        "kwh": sum(each["kwh"] for each in known),
        "co2_g": sum(each["co2_g"] for each in known),
        "how": how,
        "assumptions": {k: v for k, v in known[-1]["assumptions"].items() if k in ("region", "g_co2_per_kwh")},
    }


class Meter:
    """Meters the work inside its block.

    Args:
        region: Country whose electricity is used, by its ISO 3166 code of three letters or its English name, or grams
            of CO₂ a kWh; by default the environment variable ``POSTTRAIN_REGION``, else the world's average.
        powercap: Where the system shows RAPL counters.

    Raises:
        BadRequest: If the region isn't known.
    """

    def __init__(self, region: str | float | None = None, powercap: Path = _POWERCAP) -> None:
        self._region, self._grams = carbon_intensity(region)
        self._counters = _counters(powercap)
        self._joules = dict.fromkeys(self._counters, 0.0)
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._start = self._last = time.perf_counter()
        self._busy = _busy_seconds()
        self._resident = _resident_gb()
        self._gpus = _gpu_joules()
        self._readings = {counter: counter.read() for counter in self._counters}
        self._stack.enter_context(events.listen(self._on_event))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _on_event(self, _: events.Event) -> None:
        if time.perf_counter() - self._last >= _SECONDS_BETWEEN_READINGS:
            self._read()

    def _read(self) -> None:
        self._last = time.perf_counter()
        for counter, before in self._readings.items():
            now = counter.read()
            if before is not None and now is not None:
                self._joules[counter] += (now - before if now >= before else now + counter.wraps_at - before) / 1e6
            self._readings[counter] = now

    def read(self) -> Energy:
        """What the work has taken so far."""
        parts: dict[str, float] = {}
        said: dict[str, Any] = {"region": self._region, "g_co2_per_kwh": self._grams}
        measured = bool(self._counters)
        if self._counters:
            self._read()
            for counter, joules in self._joules.items():
                parts[counter.part] = parts.get(counter.part, 0.0) + joules
            said["processor"] = "RAPL counters of the whole processor, other programs included"
            said["memory"] = "RAPL counters" if "memory" in parts else "not counted: RAPL has no counter of it here"
        else:
            watts, why = watts_per_core(runtime.processor())
            busy, seconds = _busy_seconds() - self._busy, time.perf_counter() - self._start
            parts["processor"] = watts * busy
            parts["memory"] = _WATTS_PER_GB * (self._resident + _resident_gb()) / 2 * seconds
            said["watts_per_core"] = watts
            said["processor"] = f"{busy:.3g} s of a busy core at {watts:.3g} W ({why})"
            said["memory"] = f"{_WATTS_PER_GB} W for each GB in use"
        if used := _gpus_in_use():
            now = _gpu_joules()
            if all(gpu in now and gpu in self._gpus for gpu in used):
                parts["gpu"] = sum(now[gpu] - self._gpus[gpu] for gpu in used)
                said["gpu"] = "NVML's counters of the devices in use"
            else:
                measured = False
                said["gpu"] = "not counted: NVML shows no energy counter of the device"
        kwh = sum(parts.values()) / _JOULES_PER_KWH
        return Energy(
            kwh=kwh,
            co2_g=kwh * self._grams,
            how="measured" if measured else "estimated",
            assumptions=said,
            parts={name: joules / _JOULES_PER_KWH for name, joules in parts.items()},
        )


def carbon_intensity(region: str | float | None = None) -> tuple[str, float]:
    """A region's name and the grams of CO₂ for a kWh of its electricity.

    Args:
        region: See `Meter`.

    Raises:
        BadRequest: If there is no such region.
    """
    wanted = os.environ.get(REGION_VARIABLE) or None if region is None else region
    if wanted is None:
        return "world", _WORLD
    try:
        grams = float(wanted)
    except ValueError:
        pass
    else:
        if not 0 <= grams < 1e5:
            raise BadRequest(f"Grams of CO₂ a kWh can't be {wanted}.")
        return "as given", grams
    mix = _table("private_infra/global_energy_mix.json")
    countries: dict[str, Any] = json.loads(mix.read_text(encoding="utf-8")) if mix is not None else {}
    by_name = {str(each["country_name"]).casefold(): code for code, each in countries.items()}
    code = by_name.get(str(wanted).casefold(), str(wanted).upper())
    if code not in countries:
        hint = did_you_mean(str(wanted), [*by_name, *(each.lower() for each in countries)])
        raise BadRequest(
            f"The carbon intensity of '{wanted}' isn't known.",
            f"{hint if hint.startswith('Did') else ''} Give an ISO 3166 code of three letters, or grams a kWh.".strip(),
        )
    return code, float(countries[code]["carbon_intensity"])


@functools.lru_cache(maxsize=4)
def watts_per_core(processor: str) -> tuple[float, str]:
    """Watts of one busy logical core, and what that rests on.

    The thermal design power of a known processor is shared by all its cores. In a virtual machine there is no telling
    how many it has.

    Args:
        processor: Its name, as the system tells it.
    """
    default = f"the usual figure, since '{processor}' is not in the table"
    file = _table("hardware/cpu_power.csv")
    if file is None:
        return _DEFAULT_WATTS_PER_CORE, default
    wanted = _plain_name(processor)
    with file.open(encoding="utf-8", newline="") as lines:
        known = next((row for row in csv.DictReader(lines) if _plain_name(row["Name"]) == wanted), None)
    if known is None:
        return _DEFAULT_WATTS_PER_CORE, default
    cores, sockets, virtual = _sockets()
    if virtual:
        return _DEFAULT_WATTS_PER_CORE, "the usual figure, since a virtual machine doesn't show all cores"
    watts = float(known["TDP"])
    return watts * sockets / cores, f"{watts:.3g} W of {known['Name']} by its {cores // sockets} cores"


def _plain_name(processor: str) -> str:
    """A processor's name without marks and what makers write around it."""
    name = re.sub(
        r"\((?:R|TM|C)\)|\bCPU\b|\bProcessor\b|\b\d+-Core\b|@.*|\bwith .*|^\d+th Gen ", " ", processor, flags=re.I
    )
    return " ".join(name.lower().split())


def _sockets() -> tuple[int, int, bool]:
    """Logical cores, sockets, and whether this is a virtual machine."""
    cores = os.cpu_count() or 1
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return cores, 1, False
    sockets = len(set(re.findall(r"^physical id\s*:\s*(\d+)", text, re.MULTILINE))) or 1
    return cores, sockets, re.search(r"^flags\s*:.*\bhypervisor\b", text, re.MULTILINE) is not None


def _table(name: str) -> Path | None:
    """A file of codecarbon's tables, found without importing the package; None if it isn't there."""
    found = importlib.util.find_spec("codecarbon")
    for folder in (found.submodule_search_locations or []) if found is not None else []:
        if (path := Path(folder) / "data" / name).is_file():
            return path
    return None


def _busy_seconds() -> float:
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


def _resident_gb() -> float:
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, IndexError, ValueError):  # not Linux
        return runtime.peak_memory_mb() / 1024
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**30


@dataclass(frozen=True)
class _Counter:
    """A RAPL counter in microjoules that begins anew at `wraps_at`."""

    path: Path
    part: str
    wraps_at: int

    def read(self) -> int | None:
        try:
            return int(self.path.read_text(encoding="ascii"))
        except (OSError, ValueError):
            return None


def _counters(powercap: Path) -> list[_Counter]:
    """The readable counters of processor packages and of memory; none unless every package can be read."""
    found: dict[str, _Counter] = {}
    for folder in sorted(powercap.glob("intel-rapl:*")) if powercap.is_dir() else []:
        try:
            name = (folder / "name").read_text(encoding="ascii").strip()
            wraps_at = int((folder / "max_energy_range_uj").read_text(encoding="ascii"))
        except (OSError, ValueError):
            continue
        part = "processor" if name.startswith("package") else "memory" if name == "dram" else None
        counter = _Counter(folder / "energy_uj", part or "", wraps_at)
        if part is None:
            continue  # a part of a package, or a counter of the whole platform, which holds the others
        if counter.read() is None:
            return []
        # Dies of one package may show the same counter under names of their own; memory's belong to their package.
        key = name if part == "processor" else str(folder.name.rpartition(":")[0]) + name
        found.setdefault(key, counter)
    return list(found.values()) if any(each.part == "processor" for each in found.values()) else []


def _gpus_in_use() -> list[str]:
    """Identifiers of the CUDA devices on which this process has reserved memory."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return []
    devices = range(torch.cuda.device_count())
    return [_uuid(torch, i) for i in devices if torch.cuda.max_memory_reserved(i) > 0]


def _uuid(torch: Any, index: int) -> str:
    return f"GPU-{torch.cuda.get_device_properties(index).uuid}"


def _gpu_joules() -> dict[str, float]:
    """The energy counters of the visible CUDA devices by identifier, in joules; without NVML there are none."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return {}
    try:
        import pynvml
    except ImportError:
        return {}
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:  # no driver of NVIDIA's
        return {}
    found: dict[str, float] = {}
    try:
        for index in range(torch.cuda.device_count()):
            name = _uuid(torch, index)
            try:
                handle = pynvml.nvmlDeviceGetHandleByUUID(name)
                found[name] = pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1000
            except pynvml.NVMLError:
                continue  # a device without the counter: it is said not to be counted
    finally:
        pynvml.nvmlShutdown()
    return found
