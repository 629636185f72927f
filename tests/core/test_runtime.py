"""The machine: devices, precisions, seeds and the state of every random generator."""

from __future__ import annotations

import json
import random
import subprocess
import sys

import numpy
import pytest
import torch

from posttrain.core import runtime
from posttrain.core.errors import BadRequest


def draw() -> list[float]:
    """Three numbers from each generator."""
    return [
        *(random.random() for _ in range(3)),
        *numpy.random.rand(3),
        *torch.rand(3).tolist(),
        random.gauss(0, 1),  # these two keep a second number for next time
        numpy.random.standard_normal(),
    ]


@pytest.fixture(autouse=True)
def _unmoved_generators():
    """Leave the generators as they were."""
    tensors, state = runtime.random_state()
    yield
    runtime.restore_random_state(tensors, state)


def test_a_seed_decides_every_generator():
    runtime.seed_everything(7)
    first = draw()
    assert draw() != first
    runtime.seed_everything(7)
    assert draw() == first
    runtime.seed_everything(8)
    assert all(a != b for a, b in zip(draw(), first))


@pytest.mark.parametrize("seed", [0, 2**32, 2**63 - 1])
def test_any_whole_number_from_0_on_is_a_seed(seed):
    """numpy takes only 0 … 2³² - 1."""
    runtime.seed_everything(seed)
    first = draw()
    runtime.seed_everything(seed)
    assert draw() == first


@pytest.mark.parametrize("seed", [-1, 2**63, 1.5, True, "abc", None])
def test_what_some_generator_would_refuse_is_no_seed(seed):
    """numpy's new generators take nothing below 0."""
    before = draw()
    with pytest.raises(BadRequest, match="A seed is a whole number from 0 on"):
        runtime.seed_everything(seed)
    assert draw() != before


def test_the_state_goes_through_json_and_back():
    runtime.seed_everything(3)
    draw()  # leaves half of a pair of normal numbers behind in two generators
    tensors, state = runtime.random_state()
    state = json.loads(json.dumps(state))
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    expected = draw() + draw()
    runtime.seed_everything(99)
    draw()
    runtime.restore_random_state(tensors, state)
    assert draw() + draw() == expected


def test_the_state_is_that_moments_and_not_a_view_of_the_present():
    runtime.seed_everything(3)
    tensors, _ = runtime.random_state()
    before = {name: tensor.clone() for name, tensor in tensors.items()}
    draw()
    assert all(torch.equal(tensors[name], before[name]) for name in before)


def test_devices_that_are_there(monkeypatch):
    assert runtime.device("cpu") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert runtime.device() == torch.device("cpu")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert runtime.device() == runtime.device("mps") == torch.device("mps")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert runtime.device() == torch.device("cuda")
    assert runtime.device("cuda:1") == torch.device("cuda", 1)


@pytest.mark.parametrize(
    ("name", "gpus", "sentence"),
    [
        ("gpu", 1, "There is no device 'gpu'. Use auto, cpu, cuda, cuda:N or mps."),
        ("", 1, "There is no device ''. Use"),
        ("cuda:x", 1, "There is no device 'cuda:x'. Use"),
        ("cuda", 0, "No CUDA device is visible to torch on this machine. Use --set device=cpu."),
        ("cuda:2", 2, "There is no device 'cuda:2': torch sees 2, counted from 0."),
        ("mps", 0, "This machine has no MPS device (Apple silicon). Use --set device=cpu."),
        ("meta", 1, "posttrain doesn't compute on 'meta'. Use"),  # torch knows it, but it has no numbers
    ],
)
def test_devices_that_are_not(monkeypatch, name, gpus, sentence):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(BadRequest) as caught:
        runtime.device(name)
    assert str(caught.value).startswith(sentence)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("float32", torch.float32),
        ("fp32", torch.float32),
        ("bf16", torch.bfloat16),
        ("bfloat16", torch.bfloat16),
        ("float16", torch.float16),
        ("fp16", torch.float16),
        (torch.float16, torch.float16),
    ],
)
def test_dtypes(name, dtype):
    assert runtime.dtype(name) is dtype


def test_an_unknown_dtype():
    with pytest.raises(BadRequest, match=r"There is no dtype 'flaot32'\. Did you mean 'float32'"):
        runtime.dtype("flaot32")
    with pytest.raises(BadRequest, match="There is no dtype '16'"):
        runtime.dtype(16)


def test_peak_memory_is_in_mebibytes():
    """A process that touches 64 MiB more than another has a peak that is 64 MiB higher, give or take Python itself.

    Both are started by this process, which is larger than either: what it used must not count.
    """
    code = (
        "from posttrain.core.runtime import peak_memory_mb; x = bytearray(b'1') * ({} * 2**20); print(peak_memory_mb())"
    )
    small, large = (
        float(subprocess.run([sys.executable, "-c", code.format(size)], capture_output=True, check=True).stdout)
        for size in (1, 65)
    )
    assert large - small == pytest.approx(64, abs=8)


def test_the_machine_is_described(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    facts = runtime.machine()
    assert facts["torch"] == torch.__version__.split("+")[0] or facts["torch"] == torch.__version__
    assert facts["world_size"] == 4 and facts["threads"] == torch.get_num_threads()
    assert facts["cores"] >= 1 and facts["memory_gb"] > 0 and facts["processor"]
    json.dumps(facts)
