"""pass@k: the chance that at least one of k programs passes, estimated from n ≥ k of them (Chen et al., 2021, eq. 1).

    pass@k = 1 − C(n − c, k) / C(n, k)        for c of n that passed

It has no bias, unlike 1 − (1 − c/n)^k. Taking the quotient of the two coefficients factor by factor keeps it from
overflowing (figure 3 of the paper).
"""

from __future__ import annotations


def pass_at_k(samples: int, passed: int, k: int) -> float:
    """The estimate for one item.

    Args:
        samples: n, how many programs there are.
        passed: c, how many of them passed.
        k: How many may be tried.

    Raises:
        ValueError: If not 0 ≤ c ≤ n and 1 ≤ k ≤ n.
    """
    if not 0 <= passed <= samples or not 1 <= k <= samples:
        raise ValueError(f"pass@{k} of {passed} passed in {samples} is not defined")
    if samples - passed < k:
        return 1.0
    # C(n − c, k) / C(n, k) = Π over i from n − c + 1 to n of (1 − k / i)
    none_passes = 1.0
    for i in range(samples - passed + 1, samples + 1):
        none_passes *= 1 - k / i
    return 1 - none_passes
