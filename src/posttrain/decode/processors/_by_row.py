"""A temperature of each row's own, for the processors that derive it from what the row has so far."""

from __future__ import annotations

from collections.abc import Sequence

import torch

# Below this the quotients of float32 scores may overflow, and gaps of one rounding step already decide.
SMALLEST = 1e-6


def divide(logits: torch.Tensor, temperatures: Sequence[float] | torch.Tensor) -> torch.Tensor:
    """Divide each row's scores by its temperature.

    Args:
        logits: [B, V]; forbidden tokens have -inf.
        temperatures: B of them, at least 0; below `SMALLEST` a row keeps its most probable token alone, the first of
            equals as in greedy search.

    Returns:
        [B, V], of the logits' type.
    """
    column = torch.as_tensor(temperatures, dtype=logits.dtype, device=logits.device)[:, None]  # [B, 1]
    frozen = column < SMALLEST
    divided = logits / column.masked_fill(frozen, 1)
    if not bool(frozen.any()):
        return divided
    best = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, logits.argmax(-1, keepdim=True), True)
    return divided.masked_fill(frozen & ~best, -float("inf"))
