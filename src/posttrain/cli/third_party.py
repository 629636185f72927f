"""Keeps other libraries' bars, banners and warnings off the terminal: the streams are the command line's own."""

from __future__ import annotations

import os

# Read when the libraries are imported; what the user has set stays.
_QUIET = {
    "TRANSFORMERS_VERBOSITY": "error",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_VERBOSITY": "error",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "DATASETS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
    "TQDM_DISABLE": "1",
}


def silence(*, warnings_too: bool = True) -> None:
    """Must run before the libraries are imported.

    Args:
        warnings_too: Also drop Python warnings; they are for whoever debugs.
    """
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    if warnings_too:
        import warnings

        warnings.simplefilter("ignore")
