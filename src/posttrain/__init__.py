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
    "compare_scores": "posttrain.pipeline.evaluation_api",
    "checklist": "posttrain.pipeline.evaluation_api",
    "contamination": "posttrain.pipeline.evaluation_api",
    "pass_at_k": "posttrain.pipeline.evaluation_api",
    "tune_decoding": "posttrain.pipeline.evaluation_api",
    "arena": "posttrain.pipeline.arena_api",
    "judge": "posttrain.pipeline.arena_api",
    "guard_data": "posttrain.pipeline.guard_api",
    "filter_texts": "posttrain.pipeline.data_api",
    "domain": "posttrain.pipeline.data_api",
    "difficulty": "posttrain.pipeline.data_api",
    "drift": "posttrain.pipeline.data_api",
}

# packages that are verbs too: see posttrain.core.verb
_VERBS = ("train", "align", "distill", "quantize", "bench", "guard")

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
    from posttrain.pipeline.arena_api import arena, judge
    from posttrain.pipeline.data_api import difficulty, domain, drift, filter_texts
    from posttrain.pipeline.evaluation_api import checklist, compare_scores, contamination, pass_at_k, tune_decoding
    from posttrain.pipeline.guard_api import guard, guard_data
    from posttrain.pipeline.scorecard_api import scorecard

__all__ = [
    "__version__",
    "align",
    "arena",
    "audit",
    "bench",
    "checklist",
    "classify",
    "compare_decoding",
    "compare_scores",
    "contamination",
    "difficulty",
    "distill",
    "domain",
    "drift",
    "export",
    "filter_texts",
    "generate",
    "guard",
    "guard_data",
    "judge",
    "load",
    "next_token_distribution",
    "pass_at_k",
    "perplexity",
    "quantize",
    "run",
    "score",
    "scorecard",
    "temperature_sweep",
    "train",
    "tune_decoding",
]


def __getattr__(name: str) -> Any:
    if name in _VERBS:
        return importlib.import_module(f"posttrain.{name}")
    if name in _API:
        return getattr(importlib.import_module(_API[name]), name)
    raise AttributeError(f"module 'posttrain' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
