"""How sure a number is. Intervals are 95%."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from msgspec import Struct

_Z = 1.959963984540054


class Interval(Struct, frozen=True):
    """A mean with its 95% interval, and the method that gave it; NaN where there is no data."""

    mean: float
    low: float
    high: float
    method: str = "bootstrap"

    def apart(self, other: Interval) -> bool:
        """Whether the two intervals do not touch."""
        return self.low > other.high or other.low > self.high


def wilson(successes: int, n: int) -> Interval:
    """Wilson's score interval of a share. Source: Wilson, "Probable Inference, the Law of Succession, and Statistical Inference"."""
    if n == 0:
        return Interval(0.0, 0.0, 1.0, "wilson")
    p, z2 = successes / n, _Z * _Z
    centre, spread = (p + z2 / (2 * n)) / (1 + z2 / n), _Z * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return Interval(p, max(0.0, centre - spread) if successes else 0.0, min(1.0, centre + spread) if successes < n else 1.0, "wilson")


def bootstrap(values: Sequence[float], clusters: Sequence[str], draws: int = 1000) -> Interval:
    """Percentile bootstrap of a mean, whole clusters (tasks) drawn with replacement; seeded, so it repeats."""
    if not values:
        return Interval(0.0, 0.0, 0.0, "none")
    names = {c: i for i, c in enumerate(dict.fromkeys(clusters))}
    index = np.array([names[c] for c in clusters])
    sums, counts = np.bincount(index, weights=values), np.bincount(index)
    picks = np.random.default_rng(0).integers(len(names), size=(draws, len(names)))
    means = sums[picks].sum(1) / counts[picks].sum(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(float(np.mean(values)), float(low), float(high))


def pass_at(k: int, n: int, successes: int) -> float:
    """Unbiased chance that at least one of ``k`` draws from ``n`` attempts succeeds.

    Source: Chen et al., "Evaluating Large Language Models Trained on Code".

    Raises:
        ValueError: ``n < k``: there is no unbiased estimate.
    """
    if n < k:
        raise ValueError(f"pass@{k} needs at least {k} attempts, not {n}")
    return 1.0 - math.comb(n - successes, k) / math.comb(n, k)
