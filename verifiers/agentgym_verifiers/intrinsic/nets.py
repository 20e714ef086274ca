"""Small networks on one CPU core, in numpy: enough for an intrinsic reward, with no deep-learning library behind it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]


class Net:
    """A multilayer perceptron with leaky rectifiers, trained by Adam. ``forward`` keeps what ``backward`` needs."""

    def __init__(self, sizes: Sequence[int], seed: int, rate: float = 1e-3) -> None:
        random = np.random.default_rng(seed)
        self.weights: list[Array] = []
        for n, m in pairwise(sizes):
            self.weights += [(random.standard_normal((n, m)) * np.sqrt(2.0 / n)).astype(np.float32), np.zeros(m, dtype=np.float32)]
        self.rate, self.steps = rate, 0
        self.first = [np.zeros_like(w) for w in self.weights]
        self.second = [np.zeros_like(w) for w in self.weights]
        self._inputs: list[Array] = []

    def forward(self, x_BF: Array) -> Array:
        """``[B, in]`` to ``[B, out]``."""
        self._inputs = []
        last = len(self.weights) // 2 - 1
        for i in range(last + 1):
            self._inputs.append(x_BF)
            x_BF = x_BF @ self.weights[2 * i] + self.weights[2 * i + 1]
            if i < last:
                x_BF = np.where(x_BF > 0, x_BF, 0.1 * x_BF)
        return x_BF

    def backward(self, grad_BF: Array, update: bool = True) -> Array:
        """The gradient by the input, given that by the output; takes one step of Adam if ``update``."""
        grads: list[Array] = []
        for i in range(len(self._inputs) - 1, -1, -1):
            x_BF = self._inputs[i]
            grads = [x_BF.T @ grad_BF, grad_BF.sum(axis=0), *grads]
            grad_BF = grad_BF @ self.weights[2 * i].T
            if i > 0:
                grad_BF = grad_BF * np.where(x_BF > 0, np.float32(1.0), np.float32(0.1))
        if update:
            self._step(grads)
        return grad_BF

    def _step(self, grads: list[Array]) -> None:
        self.steps += 1
        scale = np.float32(self.rate * np.sqrt(1 - 0.999**self.steps) / (1 - 0.9**self.steps))
        for w, g, m, v in zip(self.weights, grads, self.first, self.second, strict=True):
            m += np.float32(0.1) * (g - m)
            v += np.float32(0.001) * (g * g - v)
            w -= scale * m / (np.sqrt(v) + np.float32(1e-8))

    def follow(self, other: Net, rate: float) -> None:
        """Move the weights towards another's: a running average of it."""
        for mine, theirs in zip(self.weights, other.weights, strict=True):
            mine += np.float32(rate) * (theirs - mine)

    def arrays(self, name: str) -> dict[str, NDArray[Any]]:
        """All state by name."""
        parts = (("w", self.weights), ("m", self.first), ("v", self.second))
        return {f"{name}.{k}{i}": a for k, part in parts for i, a in enumerate(part)} | {f"{name}.steps": np.array(self.steps)}

    def load(self, name: str, found: dict[str, NDArray[Any]]) -> None:
        """Continue from ``arrays``."""
        for k, part in (("w", self.weights), ("m", self.first), ("v", self.second)):
            for i in range(len(part)):
                part[i] = found[f"{name}.{k}{i}"].copy()
        self.steps = int(found[f"{name}.steps"])


def unit(x_BF: Array) -> tuple[Array, Array]:
    """Rows scaled to length 1, and their lengths ``[B, 1]``."""
    length_B1 = np.maximum(np.linalg.norm(x_BF, axis=1, keepdims=True), np.float32(1e-6))
    return x_BF / length_B1, length_B1


def through_unit(grad_BF: Array, unit_BF: Array, length_B1: Array) -> Array:
    """The gradient by x of a function of ``unit(x)``."""
    out: Array = (grad_BF - unit_BF * (grad_BF * unit_BF).sum(axis=1, keepdims=True)) / length_B1
    return out
