"""The skew-normal distribution (Azzalini, 1985): fitted by moments, with a lower tail that is exact far out.

    density(x) = 2 / w * phi(z) * Phi(a * z),  z = (x - location) / w

The logarithm of the distribution function is integrated numerically from logarithms of the density, over distances from
x that grow exponentially, so that a probability of 1e-300 comes out as well as one of a half; the closed form with
Owen's T cancels at 1e-16. Left out: a fit by likelihood.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

# The distribution's skewness stays below 0.9953; a sample's is cut to this.
_MOST_SKEW = 0.99
_POINTS = 20_001


@dataclass(frozen=True)
class SkewNormal:
    """A skew-normal distribution.

    Attributes:
        location: Location, not the mean.
        scale: Scale w, above 0.
        shape: a; 0 is the normal distribution, negative values have the longer tail on the left.
    """

    location: float
    scale: float
    shape: float

    def log_cdf(self, x: float) -> float:
        """Natural logarithm of the probability of a value up to `x`."""
        z = (x - self.location) / self.scale
        # The integral of f(z - t) over t from 0 to 60 + |z|, with t = exp(u).
        u = torch.linspace(math.log(1e-12), math.log(60 + abs(z)), _POINTS, dtype=torch.float64)
        at = z - u.exp()
        log_density = (
            math.log(2)
            - 0.5 * at**2
            - 0.5 * math.log(2 * math.pi)
            + torch.special.log_ndtr(self.shape * at)
            + u  # dt = exp(u) du
        )
        step = float(u[1] - u[0])
        weights = torch.full_like(u, math.log(step))
        weights[0] = weights[-1] = math.log(step / 2)
        return min(0.0, float(torch.logsumexp(log_density + weights, 0)))


def fit(values: Sequence[float]) -> SkewNormal:
    """The distribution with the mean, variance and (as far as it can have it) the skewness of a sample.

    Raises:
        ValueError: If there are fewer than three values, or all are alike.
    """
    sample = np.asarray(values, dtype=np.float64)
    spread = float(sample.std()) if sample.size else 0.0
    if sample.size < 3 or spread == 0.0:
        raise ValueError("a skew-normal distribution is fitted to three values or more that are not all alike")
    mean = float(sample.mean())
    skew = float(np.clip(((sample - mean) ** 3).mean() / spread**3, -_MOST_SKEW, _MOST_SKEW))
    # skewness = (4 - pi) / 2 * (d sqrt(2 / pi))^3 / (1 - 2 d^2 / pi)^(3/2), solved for d = a / sqrt(1 + a^2).
    root = abs(skew) ** (2 / 3)
    delta = math.copysign(math.sqrt(math.pi / 2 * root / (root + ((4 - math.pi) / 2) ** (2 / 3))), skew)
    scale = spread / math.sqrt(1 - 2 * delta**2 / math.pi)
    return SkewNormal(mean - scale * delta * math.sqrt(2 / math.pi), scale, delta / math.sqrt(1 - delta**2))


def distance(distribution: SkewNormal, values: Sequence[float]) -> float:
    """Kolmogorov-Smirnov distance: the largest gap between the shares of sample and distribution below a value."""
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    shares = np.array([math.exp(distribution.log_cdf(float(x))) for x in ordered])
    steps = np.arange(ordered.size + 1) / ordered.size
    return float(max((shares - steps[:-1]).max(), (steps[1:] - shares).max()))
