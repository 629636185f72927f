"""Sampling: draw every token from the model's distribution, sharpened or cut off as wished.

The three usual settings are applied in the order temperature, top-k, top-p; processors given beside the search come
before them. Draws are by inversion: the first token at which the cumulative probability exceeds u, with u uniform on
[0, 1) from the sequence's own generator, so that neither the batch nor the device changes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import Field

from posttrain.decode.processors import LogitsProcessor
from posttrain.decode.processors.temperature import Temperature
from posttrain.decode.processors.top_k import TopK
from posttrain.decode.processors.top_p import TopP
from posttrain.decode.search import Search

if TYPE_CHECKING:
    import torch

    from posttrain.decode.job import Job
    from posttrain.decode.sequence import Generated


class Sampling(Search):
    """One or more random continuations a prompt."""

    temperature: float = Field(1.0, ge=0, allow_inf_nan=False)
    """1 draws from the model's own distribution, less is more careful, 0 is greedy search, more is wilder."""

    top_k: int = Field(0, ge=0)
    """Draw among this many most probable tokens; 0 among all."""

    top_p: float = Field(1.0, gt=0, le=1)
    """Draw from the smallest set of tokens that together have at least this probability; 1 is all."""

    num_samples: int = Field(1, ge=1)
    """Continuations of each prompt."""

    def processors(self) -> list[LogitsProcessor]:
        """The settings as processors, in order."""
        return [Temperature(temperature=self.temperature), TopK(k=self.top_k), TopP(p=self.top_p)]

    @property
    def continuations(self) -> int:
        return self.num_samples

    def run(self, job: Job) -> list[Generated]:
        chain = self.processors()
        return job.token_by_token(
            lambda logits, rows: _draw(job.process(logits, rows, chain), rows), samples=self.num_samples
        )


def _draw(logits: torch.Tensor, rows: Sequence[Generated]) -> torch.Tensor:
    """One token a row, [B], from scores [B, V]."""
    mass = logits.softmax(-1).double().cumsum(-1)  # [B, V]
    uniform = mass.new_tensor([[row.random.random()] for row in rows]) * mass[:, -1:]
    # As many tokens as don't exceed u come first; one without probability adds nothing, so it is never the next.
    return (mass <= uniform).sum(-1).clamp(max=logits.shape[-1] - 1)
