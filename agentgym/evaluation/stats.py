"""How sure a number is. Intervals are 95%."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

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


def share(successes: Sequence[bool], tasks: Sequence[str]) -> Interval:
    """The share of successes with Wilson's interval; where tasks were tried several times, with the effective number of attempts.

    That number is what gives the cluster-robust error; where all attempts ended alike, it is the number of tasks. So a run that failed
    everywhere is not certain to be at 0. Source: Korn and Graubard, "Confidence Intervals for Proportions with Small Expected Number of
    Positive Counts Estimated from Survey Data".
    """
    n, g = len(successes), len(set(tasks))
    if n == g:
        return wilson(sum(successes), n)
    p = sum(successes) / n
    error, _ = standard_error([float(s) for s in successes], tasks)
    effective = min(float(n), p * (1 - p) / error**2) if 0 < p < 1 and 0 < error < math.inf else float(g)
    return msgspec.structs.replace(wilson(p * effective, effective), mean=p, method="wilson, clustered")


def wilson(successes: float, n: float) -> Interval:
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


def clustered(values: Sequence[float], clusters: Sequence[str]) -> Interval:
    """A mean with an interval from its cluster-robust standard error: attempts at one task are not independent.

    t with one degree of freedom less than there are clusters. Source: "Adding Error Bars to Evals: A Statistical Approach to Language
    Model Evaluations".
    """
    from scipy.stats import t

    error, g = standard_error(values, clusters)
    if g < 2:
        return Interval(float(np.mean(values)) if len(values) else 0.0, -math.inf, math.inf, "clustered")
    reach = float(t.ppf(0.975, g - 1)) * error
    mean = float(np.mean(values))
    return Interval(mean, mean - reach, mean + reach, "clustered")


def standard_error(values: Sequence[float], clusters: Sequence[str]) -> tuple[float, int]:
    """The cluster-robust standard error of a mean, corrected for few clusters, and the number of clusters."""
    names = {c: i for i, c in enumerate(dict.fromkeys(clusters))}
    g, n = len(names), len(values)
    if g < 2:
        return math.inf, g
    centred = np.asarray(values, dtype=np.float64) - np.mean(values)
    sums = np.bincount([names[c] for c in clusters], weights=centred)
    return float(math.sqrt(g / (g - 1) * (sums**2).sum()) / n), g


def pass_at(k: int, n: int, successes: int) -> float:
    """Unbiased chance that at least one of ``k`` draws from ``n`` attempts succeeds (pass@k).

    Source: Chen et al., "Evaluating Large Language Models Trained on Code".

    Raises:
        ValueError: ``n < k``: there is no unbiased estimate.
    """
    _enough("pass@", k, n)
    return 1.0 - math.comb(n - successes, k) / math.comb(n, k)


def pass_hat(k: int, n: int, successes: int) -> float:
    """Unbiased chance that all of ``k`` draws from ``n`` attempts succeed (pass^k).

    Source: "τ-bench: A Benchmark for Tool-Agent-User Interaction in Real-World Domains".

    Raises:
        ValueError: ``n < k``: there is no unbiased estimate.
    """
    _enough("pass^", k, n)
    return math.comb(successes, k) / math.comb(n, k)


def _enough(name: str, k: int, n: int) -> None:
    if n < k or k < 1:
        raise ValueError(f"{name}{k} needs at least {max(1, k)} attempts of each task, not {n}")


class Paired(Struct, frozen=True):
    """A difference of means over the same tasks, second less first. ``detectable``: the least that this many tasks show 4 times in 5."""

    difference: Interval
    p_value: float
    detectable: float
    tasks: int
    wins: int
    ties: int
    losses: int


def paired(first: Mapping[str, float], second: Mapping[str, float], draws: int = 10_000) -> Paired:
    """Compare two policies on the tasks that both played: each maps a task to its mean over attempts.

    The interval is clustered by task; the p-value is of a sign-flip permutation test, exact up to 13 tasks that differ, else of ``draws``
    seeded draws with one added. Sources: as ``clustered``; Phipson and Smyth, "Permutation P-values Should Never Be Zero".

    Raises:
        ValueError: fewer than two tasks in common.
    """
    from scipy.stats import norm

    tasks = sorted(first.keys() & second.keys())
    if len(tasks) < 2:
        raise ValueError(f"{len(tasks)} tasks in common; a comparison needs at least 2")
    gaps = np.array([second[t] - first[t] for t in tasks], dtype=np.float64)
    error, _ = standard_error(gaps.tolist(), tasks)
    detectable = float(norm.ppf(0.975) + norm.ppf(0.8)) * error
    wins, losses = int((gaps > 0).sum()), int((gaps < 0).sum())
    return Paired(clustered(gaps.tolist(), tasks), sign_flip(gaps, draws), detectable, len(tasks), wins, len(tasks) - wins - losses, losses)


def sign_flip(gaps: NDArray[np.float64], draws: int = 10_000) -> float:
    """Two-sided p-value of the mean of paired differences being 0, under random signs."""
    moved = gaps[gaps != 0]
    if not len(moved):
        return 1.0
    seen = abs(moved.sum()) - 1e-12
    if len(moved) <= 13:
        signs = 1 - 2 * ((np.arange(2 ** len(moved))[:, None] >> np.arange(len(moved))) & 1)
        return float((np.abs(signs @ moved) >= seen).mean())
    signs = np.random.default_rng(0).choice(np.array([-1.0, 1.0]), size=(draws, len(moved)))
    return float(((np.abs(signs @ moved) >= seen).sum() + 1) / (draws + 1))


def could_move(valid: int, invalid: int, mean: float, interval: Interval) -> str:
    """A warning where the invalid episodes, had they all gone one way, would leave the interval; else nothing."""
    if not invalid:
        return ""
    n = valid + invalid
    low, high = mean * valid / n, (mean * valid + invalid) / n
    if low >= interval.low and high <= interval.high:
        return ""
    return f"{invalid} of {n} episodes are invalid: with them the success could be anywhere from {low:.3f} to {high:.3f}"
