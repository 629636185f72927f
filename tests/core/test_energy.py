"""Energy: counters in a made-up powercap folder, estimates from made-up processors, regions."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from posttrain.core import energy, events
from posttrain.core.energy import Energy, Meter, carbon_intensity, total, watts_per_core
from posttrain.core.errors import BadRequest


def counter(folder: Path, name: str, microjoules: int, most: int = 1_000_000_000) -> Path:
    folder.mkdir(parents=True)
    (folder / "name").write_text(f"{name}\n")
    (folder / "max_energy_range_uj").write_text(f"{most}\n")
    (folder / "energy_uj").write_text(f"{microjoules}\n")
    return folder / "energy_uj"


def test_counters_are_read(tmp_path):
    """Package 0 goes up by 36 J, its memory by 7.2 J, package 1 wraps: from 10 J below its end to 26 J is 36 J.

    Parts of a package and the whole platform aren't counted again: 72 J and 7.2 J are 20 and 2 millionths of a kWh.
    """
    first = counter(tmp_path / "intel-rapl:0", "package-0", 5_000_000)
    core = counter(tmp_path / "intel-rapl:0:0", "core", 0)
    memory = counter(tmp_path / "intel-rapl:0:1", "dram", 0)
    second = counter(tmp_path / "intel-rapl:1", "package-1", 990_000_000)
    platform = counter(tmp_path / "intel-rapl:2", "psys", 0)
    with Meter(100, powercap=tmp_path) as meter:
        for path, value in ((first, 41), (core, 900), (memory, 7.2), (second, 26), (platform, 900)):
            path.write_text(f"{int(value * 1e6)}\n")
        spent = meter.read()
    assert spent.how == "measured"
    assert spent.parts == pytest.approx({"processor": 2e-5, "memory": 2e-6})
    assert (spent.kwh, spent.co2_g) == pytest.approx((2.2e-5, 2.2e-3))
    assert spent.assumptions["g_co2_per_kwh"] == 100
    assert "other programs included" in spent.assumptions["processor"]


def test_a_counter_that_wraps_is_read_in_between(tmp_path, monkeypatch):
    """30 J up, then from 40 J past the end of 50 J to 20 J: 30 + 30 J in all; two readings alone would say 10 J."""
    monkeypatch.setattr(energy, "_SECONDS_BETWEEN_READINGS", 0.0)
    path = counter(tmp_path / "intel-rapl:0", "package-0", 10_000_000, 50_000_000)
    with Meter(100, powercap=tmp_path) as meter:
        path.write_text("40000000")
        events.message("still at it")
        path.write_text("20000000")
        assert meter.read().parts["processor"] == pytest.approx(60 / 3.6e6)


def test_counters_of_dies_that_mirror_a_package_count_once(tmp_path):
    counter(tmp_path / "intel-rapl:0", "package-0", 0)
    counter(tmp_path / "intel-rapl:1", "package-0", 0)
    assert len(energy._counters(tmp_path)) == 1


def test_without_counters_it_is_estimated(tmp_path, monkeypatch):
    """9 s of a busy core at 4 W are 36 J; 2 GB for 10 s at 0.3725 W are 7.45 J."""
    ticks = iter([0.0, 10.0])
    busy = iter([1.0, 10.0])
    monkeypatch.setattr(energy.time, "perf_counter", lambda: next(ticks))
    monkeypatch.setattr(energy, "_busy_seconds", lambda: next(busy))
    monkeypatch.setattr(energy, "_resident_gb", lambda: 2.0)
    monkeypatch.setattr(energy, "watts_per_core", lambda name: (4.0, "why"))
    with Meter(1000, powercap=tmp_path / "none") as meter:
        spent = meter.read()
    assert spent.how == "estimated"
    assert {part: kwh * 3.6e6 for part, kwh in spent.parts.items()} == pytest.approx(
        {"processor": 36.0, "memory": 7.45}
    )
    assert spent.kwh == pytest.approx(43.45 / 3.6e6)
    assert spent.co2_g == pytest.approx(43.45 / 3600)
    assert spent.assumptions["watts_per_core"] == 4.0
    assert spent.to_dict().keys() == {"kwh", "co2_g", "how", "assumptions", "parts"}


def test_work_takes_energy(tmp_path):
    with Meter(powercap=tmp_path) as meter:
        sum(i * i for i in range(2_000_000))
        assert meter.read().kwh > 0


def gpu(monkeypatch, joules, nvml: bool = True):
    """A CUDA device that this process uses, and NVML's counter of it."""
    cuda = SimpleNamespace(
        is_available=lambda: True,
        is_initialized=lambda: True,
        device_count=lambda: 2,
        max_memory_reserved=lambda index: 1 - index,
        get_device_properties=lambda index: SimpleNamespace(uuid=f"u{index}"),
    )
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))

    class NVMLError(Exception):
        pass

    def read(handle: str) -> float:
        if not nvml:
            raise NVMLError
        return joules[handle] * 1000

    pynvml = SimpleNamespace(
        NVMLError=NVMLError,
        nvmlInit=lambda: None,
        nvmlShutdown=lambda: None,
        nvmlDeviceGetHandleByUUID=lambda name: name,
        nvmlDeviceGetTotalEnergyConsumption=read,
    )
    monkeypatch.setitem(sys.modules, "pynvml", pynvml)


def test_devices_in_use_are_counted(tmp_path, monkeypatch):
    """The first device goes up by 360 J; the second isn't ours."""
    joules = {"GPU-u0": 100.0, "GPU-u1": 5.0}
    gpu(monkeypatch, joules)
    counter(tmp_path / "intel-rapl:0", "package-0", 0)
    with Meter(100, powercap=tmp_path) as meter:
        joules.update({"GPU-u0": 460.0, "GPU-u1": 900.0})
        spent = meter.read()
    assert spent.parts["gpu"] == pytest.approx(1e-4)
    assert spent.how == "measured"


def test_a_device_without_a_counter_is_said_not_to_be_counted(tmp_path, monkeypatch):
    gpu(monkeypatch, {}, nvml=False)
    counter(tmp_path / "intel-rapl:0", "package-0", 0)
    with Meter(100, powercap=tmp_path) as meter:
        spent = meter.read()
    assert "gpu" not in spent.parts
    assert spent.how == "estimated"
    assert "not counted" in spent.assumptions["gpu"]


def test_regions(monkeypatch):
    monkeypatch.delenv(energy.REGION_VARIABLE, raising=False)
    assert carbon_intensity() == ("world", 475.0)
    assert carbon_intensity(56) == carbon_intensity("56") == ("as given", 56.0)
    code, grams = carbon_intensity("fra")
    assert code == "FRA" and 0 < grams < 200
    assert carbon_intensity("france") == (code, grams)
    monkeypatch.setenv(energy.REGION_VARIABLE, "FRA")
    assert carbon_intensity() == (code, grams)
    with pytest.raises(BadRequest, match="Did you mean 'germany'"):
        carbon_intensity("Germny")
    with pytest.raises(BadRequest, match="can't be -1"):
        carbon_intensity(-1)


def test_watts_of_known_processors(monkeypatch):
    """280 W of an EPYC 7763 in each of two sockets by 256 logical cores are 2.1875 W."""
    watts_per_core.cache_clear()
    monkeypatch.setattr(energy, "_sockets", lambda: (256, 2, False))
    watts, why = watts_per_core("AMD EPYC 7763 64-Core Processor")
    assert watts == pytest.approx(2.1875) and "280 W" in why
    assert watts_per_core("Nobody's Processor")[0] == 4.0
    watts_per_core.cache_clear()
    monkeypatch.setattr(energy, "_sockets", lambda: (2, 1, True))
    assert watts_per_core("AMD EPYC 7763 64-Core Processor")[0] == 4.0
    monkeypatch.setattr(energy, "_table", lambda name: None)
    watts_per_core.cache_clear()
    assert watts_per_core("AMD EPYC 7763 64-Core Processor")[0] == 4.0
    watts_per_core.cache_clear()


def test_sums_are_measured_only_if_all_are():
    one = Energy(1.0, 2.0, "measured").to_dict()
    other = Energy(3.0, 4.0, "estimated", {"region": "FRA"}).to_dict()
    assert total([]) is None
    assert total([one, one]) == {"kwh": 2.0, "co2_g": 4.0, "how": "measured", "assumptions": {}}
    assert total([one, other]) == {"kwh": 4.0, "co2_g": 6.0, "how": "estimated", "assumptions": {"region": "FRA"}}
