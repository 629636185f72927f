"""Fixtures every test may use: a tiny tokenizer and Llama made in the process, SmolLM2 from the package index."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from json_results import without_times
from tiny_models import make_tiny_llama, make_tiny_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from posttrain.models.language_model import LanguageModel

# One thread a test process: threads of parallel processes would only wait for each other, and tiny models need none.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may depend on the hub
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# A shell starts what it puts in the background with interrupts ignored, and children inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def command(capfd: pytest.CaptureFixture[str]) -> Callable[..., dict[str, Any]]:
    """Run a command and return its JSON object, without what no two calls share."""

    def run(*words: object) -> dict[str, Any]:
        from posttrain.cli import main

        assert main([*map(str, words), "--json", "--quiet"]) == 0
        return without_times(json.loads(capfd.readouterr().out))

    return run


@pytest.fixture
def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """See `make_tiny_tokenizer`."""
    return make_tiny_tokenizer()


@pytest.fixture
def tiny_llama() -> LanguageModel:
    """See `make_tiny_llama`; a new one for every test, so a test may change it."""
    return make_tiny_llama()


@pytest.fixture(scope="session")
def smollm2() -> Iterator[LanguageModel]:
    """SmolLM2-135M-Instruct, float32, CPU, shared by the session: a test that changes it must change it back."""
    from posttrain.models import sources

    try:
        model = sources.load("smollm2", device="cpu")
    except sources.Unreachable as failure:
        pytest.skip(f"SmolLM2 can't be had: {failure}")
    yield model
