"""What other libraries may say: nothing, unless the user asked for it."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings

import pytest

from posttrain.cli.third_party import silence

# Bars, log lines and warnings, each in the way the library itself makes them; every line would be seen.
NOISE = """
import warnings
import datasets, huggingface_hub, tqdm, transformers
from transformers.utils import logging as transformers_logging

for bar in (tqdm.tqdm, transformers_logging.tqdm, datasets.utils.tqdm, huggingface_hub.utils.tqdm):
    list(bar(range(3), desc=bar.__module__))
for logging, name in ((transformers_logging, "transformers"), (datasets.logging, "datasets"),
                      (huggingface_hub.logging, "huggingface_hub")):
    logging.get_logger(f"{name}.noise").warning(f"{name} noise")
transformers_logging.get_logger("transformers.noise").warning_advice("some advice")
warnings.warn("a warning")
"""
SEEN = ["tqdm.std:", "datasets noise", "huggingface_hub noise", "transformers noise", "some advice", "a warning"]


def noise(before: str, **environment: str) -> str:
    """What the libraries write to both streams in a process that runs `before` first."""
    from posttrain.cli import third_party

    clean = {name: value for name, value in os.environ.items() if name not in third_party._QUIET}
    done = subprocess.run(
        [sys.executable, "-c", before + NOISE], capture_output=True, text=True, check=True, env=clean | environment
    )
    return done.stdout + done.stderr


def test_libraries_are_silent_and_would_not_be() -> None:
    assert noise("from posttrain.cli.third_party import silence\nsilence()\n") == ""
    loud = noise("")
    for line in SEEN:
        assert line in loud


def test_what_the_user_set_stays() -> None:
    heard = noise(
        "from posttrain.cli.third_party import silence\nsilence()\n",
        TRANSFORMERS_VERBOSITY="warning",
        TQDM_DISABLE="",
    )
    assert "transformers noise" in heard
    assert "tqdm.std:" in heard
    for line in ("datasets noise", "huggingface_hub noise", "some advice", "a warning"):
        assert line not in heard


@pytest.mark.parametrize("warnings_too", [True, False])
def test_warnings_are_kept_for_whoever_debugs(warnings_too: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        silence(warnings_too=warnings_too)
        warnings.warn("seen?", stacklevel=1)
    assert [str(each.message) for each in caught] == ([] if warnings_too else ["seen?"])
    assert os.environ["HF_HUB_DISABLE_TELEMETRY"] == "1"
