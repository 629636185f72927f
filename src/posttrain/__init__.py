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
    "audit": "posttrain.pipeline.api",
}

# packages that are verbs too: see posttrain.core.verb
_VERBS = ("train", "align", "distill", "quantize")

if TYPE_CHECKING:
    from posttrain.pipeline.api import align, audit, classify, distill, generate, load, perplexity, quantize, run, train

__all__ = [
    "__version__",
    "align",
    "audit",
    "classify",
    "distill",
    "generate",
    "load",
    "perplexity",
    "quantize",
    "run",
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
