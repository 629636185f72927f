"""How fast a model is: new tokens a second at batch 1 for one that writes, tokens read a second for one that doesn't.

Always the best of a few short runs, because whatever else the machine does can only make a run slower.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from posttrain.core.catalog import build
from posttrain.decode.generation import generate
from posttrain.models.language_model import LanguageModel

_PROMPT = "The river rose in the night, and in the morning the town was"


def tokens_per_second(model: LanguageModel, new_tokens: int = 24, repeats: int = 3) -> float:
    """New tokens a second, the best of `repeats` runs on the same prompt."""
    return max(writing_runs(model, new_tokens, repeats))


def writing_runs(model: LanguageModel, new_tokens: int = 24, repeats: int = 3) -> list[float]:
    """New tokens a second in each of `repeats` runs on the same prompt."""
    greedy = build("search", "greedy")
    runs = [
        generate(model, [_PROMPT], search=greedy, max_new_tokens=new_tokens, ignore_eos=True) for _ in range(repeats)
    ]
    return [run.tokens_per_second for run in runs]


def reading_runs(model: LanguageModel, length: int = 256, repeats: int = 3) -> list[float]:
    """Tokens of a prompt read a second (prefill) in each of `repeats` runs.

    Args:
        model: A causal language model.
        length: Tokens of the prompt; fewer if the model's context is shorter.
        repeats: Number of runs.
    """
    room = length if model.context_length is None else min(length, model.context_length - 1)
    ids = list(model.tokenizer(_PROMPT)["input_ids"])
    prompt = (ids * (room // len(ids) + 1))[:room]
    greedy = build("search", "greedy")
    runs = [generate(model, [prompt], search=greedy, max_new_tokens=1, ignore_eos=True) for _ in range(repeats)]
    return [room / run.prefill_seconds for run in runs]


def pass_tokens_per_second(run: Callable[[Any], Any], batches: Sequence[Any], repeats: int = 3) -> float:
    """Tokens a second through a network that reads and doesn't write; the best of `repeats` rounds.

    Args:
        run: One pass over a batch.
        batches: Micro-batches that say how many `tokens` they have.
        repeats: Rounds over all of them.
    """
    seconds = []
    with torch.inference_mode():
        for _ in range(repeats):
            start = time.perf_counter()
            for batch in batches:
                run(batch)
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - start)
    return sum(batch.tokens for batch in batches) / min(seconds)
