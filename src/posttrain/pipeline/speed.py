"""How fast a model writes: new tokens a second at batch 1, the best of a few short runs on the same prompt."""

from __future__ import annotations

from posttrain.core.catalog import build
from posttrain.decode.generation import generate
from posttrain.models.language_model import LanguageModel

_PROMPT = "The river rose in the night, and in the morning the town was"


def tokens_per_second(model: LanguageModel, new_tokens: int = 24, repeats: int = 3) -> float:
    """New tokens a second.

    The best of `repeats` runs, because whatever else the machine does can only make a run slower.
    """
    greedy = build("search", "greedy")
    runs = [
        generate(model, [_PROMPT], search=greedy, max_new_tokens=new_tokens, ignore_eos=True) for _ in range(repeats)
    ]
    return max(run.tokens_per_second for run in runs)
