"""posttrain: everything that happens to a language model after pre-training.

The public Python API. Every name is imported when it is first used, so ``import posttrain`` costs milliseconds and
never imports torch:

    import posttrain

    model = posttrain.load("smollm2")
    posttrain.perplexity(model, "text.txt", window=1024, stride=512)
    posttrain.generate(model, ["What is LoRA?"], max_new_tokens=40)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# public name -> module that defines it
_API = {
    "load": "posttrain.pipeline.api",
    "run": "posttrain.pipeline.api",
    "generate": "posttrain.pipeline.api",
    "classify": "posttrain.pipeline.api",
    "perplexity": "posttrain.pipeline.api",
    "score": "posttrain.pipeline.api",
    "audit": "posttrain.pipeline.api",
    "export": "posttrain.pipeline.api",
    "compare_decoding": "posttrain.pipeline.api",
    "temperature_sweep": "posttrain.pipeline.api",
    "next_token_distribution": "posttrain.pipeline.api",
    "scorecard": "posttrain.pipeline.scorecard_api",
    "filter_texts": "posttrain.pipeline.data_api",
    "domain": "posttrain.pipeline.data_api",
    "difficulty": "posttrain.pipeline.data_api",
    "drift": "posttrain.pipeline.data_api",
}

# packages that are verbs too: see posttrain.core.verb
_VERBS = ("train", "align", "distill", "quantize", "bench")

if TYPE_CHECKING:
    from posttrain.pipeline.api import (
        align,
        audit,
        bench,
        classify,
        compare_decoding,
        distill,
        export,
        generate,
        load,
        next_token_distribution,
        perplexity,
        quantize,
        run,
        score,
        temperature_sweep,
        train,
    )
    from posttrain.pipeline.data_api import difficulty, domain, drift, filter_texts
    from posttrain.pipeline.scorecard_api import scorecard

__all__ = [
    "__version__",
    "align",
    "audit",
    "bench",
    "classify",
    "compare_decoding",
    "difficulty",
    "distill",
    "domain",
    "drift",
    "export",
    "filter_texts",
    "generate",
    "load",
    "next_token_distribution",
    "perplexity",
    "quantize",
    "run",
    "score",
    "scorecard",
    "temperature_sweep",
    "train",
]


def __getattr__(name: str) -> Any:
    if name in _VERBS:
        return importlib.import_module(f"posttrain.{name}")
    if name in _API:
        return getattr(importlib.import_module(_API[name]), name)
    raise AttributeError(f"module 'posttrain' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
