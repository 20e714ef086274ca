"""Generated tables for ``swe/fit``: each has one thing about it that a plain linear fit gets wrong. Rows are drawn from a seed."""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Metric = Literal["accuracy", "balanced accuracy", "r2"]
TRAIN, TEST = 600, 600


class Table(Struct, frozen=True):
    """Columns (the last of ``train`` is the target), the hidden labels of ``test``, and how predictions are scored."""

    names: list[str]
    train: Floats
    test: Floats
    labels: Floats
    metric: Metric


class Family(Struct, frozen=True):
    """A kind of table: how to draw it, its metric, and what the report says of it."""

    draw: Callable[[np.random.Generator, int], tuple[Floats, Floats]]
    metric: Metric
    about: str


def _ring(rng: np.random.Generator, n: int) -> tuple[Floats, Floats]:
    x = rng.normal(size=(n, 4))
    return x, (x[:, 0] ** 2 + x[:, 1] ** 2 > 1.4).astype(float)


def _product(rng: np.random.Generator, n: int) -> tuple[Floats, Floats]:
    x = rng.normal(size=(n, 5))
    return x, (x[:, 0] * x[:, 1] + 0.2 * rng.normal(size=n) > 0).astype(float)


def _codes(rng: np.random.Generator, n: int) -> tuple[Floats, Floats]:
    code = rng.integers(0, 12, size=n)
    x = np.column_stack([code, rng.normal(size=(n, 2))])
    effect = np.array([3.0, -2, 1, -3, 2.5, -1, 0.5, -2.5, 3, -0.5, 2, -3])
    return x, effect[code] + 0.5 * x[:, 1] + 0.3 * rng.normal(size=n)


def _season(rng: np.random.Generator, n: int) -> tuple[Floats, Floats]:
    hour = rng.uniform(0, 24, size=n)
    x = np.column_stack([hour, rng.normal(size=(n, 2))])
    return x, 4 * np.sin(2 * np.pi * hour / 24 + 0.7) + 0.6 * x[:, 1] + 0.4 * rng.normal(size=n)


def _outliers(rng: np.random.Generator, n: int) -> tuple[Floats, Floats]:
    x = rng.normal(size=(n, 3))
    y = 2 * x[:, 0] - x[:, 1] + 0.2 * rng.normal(size=n)
    return x, y


def _sparse(rng: np.random.Generator, n: int) -> tuple[Floats, Floats]:
    x = rng.normal(size=(n, 300))
    return x, 2 * x[:, 3] - 2 * x[:, 77] + 1.5 * x[:, 150] + 1.0 * rng.normal(size=n)


def _rare(rng: np.random.Generator, n: int) -> tuple[Floats, Floats]:
    x = rng.normal(size=(n, 3))
    return x, (x[:, 0] + x[:, 1] + 0.8 * rng.normal(size=n) > 2.4).astype(float)


def _gaps(rng: np.random.Generator, n: int) -> tuple[Floats, Floats]:
    x = rng.normal(size=(n, 3))
    y = 2.5 * x[:, 0] + x[:, 1] + 0.3 * rng.normal(size=n)
    gone = rng.uniform(size=n) < 0.3
    y = y + 3.0 * gone
    x[gone, 2] = np.nan
    return x, y


def _steps(rng: np.random.Generator, n: int) -> tuple[Floats, Floats]:
    x = rng.uniform(-2, 2, size=(n, 3))
    return x, np.floor(2 * x[:, 0]) % 3 + 0.5 * (x[:, 1] > 0.3) + 0.15 * rng.normal(size=n)


def _scales(rng: np.random.Generator, n: int) -> tuple[Floats, Floats]:
    x = rng.normal(size=(n, 4))
    score = 1.5 * x[:, 0] - x[:, 1] + 0.8 * np.abs(x[:, 2])
    return x * np.array([1e4, 1e-3, 1.0, 50.0]) + np.array([3e4, 0, 5, 0]), (score > 0.6).astype(float)


FAMILIES: dict[str, Family] = {
    "ring": Family(_ring, "accuracy", "two classes of four measurements"),
    "product": Family(_product, "accuracy", "two classes of five measurements"),
    "codes": Family(_codes, "r2", "a quantity; the first column is the code of a category"),
    "season": Family(_season, "r2", "a quantity; the first column is the hour of the day"),
    "outliers": Family(_outliers, "r2", "a quantity; some of the values that were noted are far off"),
    "sparse": Family(_sparse, "r2", "a quantity, and three hundred columns"),
    "rare": Family(_rare, "balanced accuracy", "a rare class"),
    "gaps": Family(_gaps, "r2", "a quantity; some values are missing"),
    "steps": Family(_steps, "r2", "a quantity"),
    "scales": Family(_scales, "accuracy", "two classes; columns come in different units"),
}


@lru_cache(64)
def table(family: str, seed: int) -> Table:
    """The table of a family and a seed: the same everywhere."""
    source = FAMILIES[family]
    rng = np.random.default_rng([seed, int.from_bytes(hashlib.sha256(family.encode()).digest()[:4])])
    x, y = source.draw(rng, TRAIN + TEST)
    known = y[:TRAIN].copy()
    if family == "outliers":
        wrong = rng.choice(TRAIN, TRAIN // 8, replace=False)
        known[wrong] += rng.normal(loc=60, scale=30, size=len(wrong))
    names = [f"x{i}" for i in range(x.shape[1])]
    return Table([*names, "y"], np.column_stack([x[:TRAIN], known]), x[TRAIN:], y[TRAIN:], source.metric)


def csv(names: list[str], rows: Floats) -> bytes:
    """Rows as CSV; what is missing is empty."""
    lines = [",".join(names), *(",".join("" if np.isnan(v) else f"{v:.10g}" for v in row) for row in rows)]
    return ("\n".join(lines) + "\n").encode()


def score(metric: Metric, labels: Floats, predicted: Floats) -> float:
    """How good predictions are; 1 is perfect."""
    if metric == "r2":
        return float(1 - np.sum((labels - predicted) ** 2) / np.sum((labels - labels.mean()) ** 2))
    right = np.rint(predicted) == labels
    if metric == "accuracy":
        return float(right.mean())
    return float(np.mean([right[labels == c].mean() for c in np.unique(labels)]))


_SCRIPTS = tomllib.loads(Path(__file__).with_name("scripts.toml").read_text())
STARTS: dict[str, str] = _SCRIPTS["start"]
GOOD: dict[str, str] = _SCRIPTS["good"]


def script(family: str, body: str) -> bytes:
    """A training script with this ``fit``."""
    metric, head, tail = FAMILIES[family].metric, str(_SCRIPTS["head"]), str(_SCRIPTS["tail"])
    return (head.replace("import numpy as np\n", f'import numpy as np\n\nMETRIC = "{metric}"\n', 1) + body + tail).encode()
