"""How unusual a text is among texts of a reference set, by how well a model predicts it.

Two figures. The modified z-score of Iglewicz and Hoaglin (1993, "How to Detect and Handle Outliers"),

    z = 0.6745 (x - median) / MAD,   MAD = median |x_i - median|,

which few outliers in the reference don't move, and which they flag beyond 3.5; where MAD is 0, the mean absolute
deviation takes its place, z = 0.7979 (x - median) / meanAD. High z: the text is less predictable than its like (noise,
another language, damage); low z: it is more predictable (repetition, boilerplate, learned by heart).

And the quality, a two-sided conformal p-value (Vovk, Gammerman and Shafer, 2005): twice the share of the reference,
this value included, that lies as far out on the same side, and at most 1. If the text comes from the same population,
the quality is below q in a share q of cases at most, whatever the distribution; near 0 no reference text is as extreme.
It says how ordinary a text is, not whether it is true.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from posttrain.core.errors import BadRequest

Array = NDArray[np.float64]

# Beyond this |z| Iglewicz and Hoaglin call a value an outlier.
USUAL_LIMIT = 3.5
# Medians of fewer say little about a population.
FEWEST = 10


def refuse_too_few(texts: int) -> None:
    """Refuse a reference set of so few texts.

    Raises:
        BadRequest: If there are too few.
    """
    if texts < FEWEST:
        raise BadRequest(f"The reference set has {texts} texts; at least {FEWEST} are needed to judge by.")


class ReferenceSet:
    """A population of values to judge others by.

    Args:
        values: At least `FEWEST` of them, finite.

    Raises:
        BadRequest: If there are too few.
    """

    def __init__(self, values: Sequence[float]) -> None:
        refuse_too_few(len(values))
        self.values: Array = np.sort(np.asarray(values, dtype=np.float64))
        self.median = float(np.median(self.values))
        deviations = np.abs(self.values - self.median)
        self.deviation = float(np.median(deviations))
        self._scale = self.deviation / 0.6745 or float(deviations.mean()) / 0.7979

    def z(self, values: Sequence[float]) -> Array:
        """Modified z-scores; infinite for what differs from a reference without any spread."""
        away = np.asarray(values, dtype=np.float64) - self.median
        if not self._scale:
            return np.where(away == 0, 0.0, np.copysign(np.inf, away))
        return away / self._scale

    def quality(self, values: Sequence[float]) -> Array:
        """Twice the share of the reference, each value included, that is as extreme on its side; in (0, 1]."""
        sample, count = np.asarray(values, dtype=np.float64), len(self.values)
        above = count - np.searchsorted(self.values, sample, side="left")
        below = np.searchsorted(self.values, sample, side="right")
        found: Array = np.minimum(1.0, 2 * (np.minimum(above, below) + 1) / (count + 1))
        return found
