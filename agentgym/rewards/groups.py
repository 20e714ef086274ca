"""Statistics of groups. NaN marks what is invalid: it moves nobody's statistic, and its own result is NaN.

Every function takes values ``x_N`` and group numbers ``group_N`` (any array of integers) and gives one number per entry.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def _sums(x_N: Floats, group_N: Ints) -> tuple[Floats, Any, Any]:
    """Sum and number of the valid entries of each group, and the dense group number of each entry."""
    _, dense_N = np.unique(group_N, return_inverse=True)
    known_N = ~np.isnan(x_N)
    total = np.bincount(dense_N, np.where(known_N, x_N, 0.0)).astype(np.float64)
    return total, np.bincount(dense_N, known_N), dense_N


def count(x_N: Floats, group_N: Ints) -> Floats:
    """How many valid entries the group has."""
    _, n, dense_N = _sums(x_N, group_N)
    counts: Floats = n[dense_N].astype(np.float64)
    return counts


def mean(x_N: Floats, group_N: Ints) -> Floats:
    """The mean of the group's valid entries."""
    total, n, dense_N = _sums(x_N, group_N)
    with np.errstate(invalid="ignore"):
        return np.where(np.isnan(x_N), np.nan, (total / n)[dense_N])


def std(x_N: Floats, group_N: Ints) -> Floats:
    """The unbiased standard deviation of the group's valid entries; NaN where there are fewer than two."""
    squares, n, dense_N = _sums((x_N - mean(x_N, group_N)) ** 2, group_N)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(np.isnan(x_N), np.nan, np.sqrt(np.where(n > 1, squares / (n - 1), np.nan))[dense_N])


def others(x_N: Floats, group_N: Ints) -> Floats:
    """The mean of the group's other valid entries (leave one out); NaN where there is no other."""
    total, n, dense_N = _sums(x_N, group_N)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(n[dense_N] > 1, (total[dense_N] - x_N) / (n[dense_N] - 1), np.nan)


def extreme(pick: Callable[..., Floats], start: float) -> Callable[[Floats, Ints], Floats]:
    """A ufunc's ``at`` over each group, such as the largest valid entry."""

    def of(x_N: Floats, group_N: Ints) -> Floats:
        _, dense_N = np.unique(group_N, return_inverse=True)
        best = np.full(dense_N.max(initial=-1) + 1, start)
        known_N = ~np.isnan(x_N)
        pick.at(best, dense_N[known_N], x_N[known_N])  # type: ignore[attr-defined]  # a ufunc has it
        return np.where(known_N, best[dense_N], np.nan)

    return of


least, most = extreme(np.minimum, np.inf), extreme(np.maximum, -np.inf)


def wins(factors_KN: Floats, group_N: Ints, margins: tuple[float, ...] = ()) -> Floats:
    """The share of the other valid entries that each beats, a tie counting one half: its rank within the group, in [0, 1].

    Factor k decides only where all factors before it tie within their margins. NaN where there is no other.
    """
    out_N = np.full(factors_KN.shape[1], np.nan)
    valid_N = ~np.isnan(factors_KN).any(axis=0)
    for g in np.unique(group_N):
        at = np.flatnonzero((group_N == g) & valid_N)
        if len(at) > 1:
            won_nn = np.zeros((len(at), len(at)))
            for k in range(len(factors_KN) - 1, -1, -1):
                x_n, margin = factors_KN[k, at], margins[k] if k < len(margins) else 0.0
                gap_nn = x_n[:, None] - x_n[None]
                won_nn = np.where(np.abs(gap_nn) <= margin, won_nn, np.sign(gap_nn))
            out_N[at] = ((won_nn + 1) / 2).sum(axis=1) - 0.5
            out_N[at] /= len(at) - 1
    return out_N
