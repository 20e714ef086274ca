"""Curiosity: how badly a network that learns online foretells what the agent sees."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np

from agentgym.core import EpisodeView, Policy
from agentgym.verdict import Verdict
from agentgym_verifiers.intrinsic.features import SIZE, Vectors, arrays, hashed, seen_after, seen_before, unarrays
from agentgym_verifiers.intrinsic.nets import Array, Net, through_unit, unit

LATENT, CODE = 32, 16
LEAK = np.float32(1.0)


class Distillation:
    """The error of a network that learns to imitate a fixed random one: large on what was not seen before.

    Source: "Exploration by Random Network Distillation". Errors are divided by their running deviation.
    """

    level: ClassVar[Literal["step"]] = "step"
    scope: ClassVar[Literal["episode"]] = "episode"

    def __init__(self, seed: int = 0, rate: float = 1e-3) -> None:
        self.target, self.student = Net((SIZE, 64, LATENT), seed), Net((SIZE, 64, LATENT), seed + 1, rate)
        self.scale = Scale()

    async def judge(self, views: Sequence[EpisodeView], policy: Policy) -> list[list[Verdict]]:
        """A verdict for each turn on what was seen after it; then the network learns it."""
        return [[Verdict("scored", float(x)) for x in self.observe(hashed(seen_after(v.episode)))] for v in views]

    def observe(self, x_BF: Vectors) -> Array:
        """``[B]`` errors before learning, in running deviations."""
        error_BD = self.student.forward(x_BF) - self.target.forward(x_BF)
        bonus_B = (error_BD**2).mean(axis=1)
        self.student.forward(x_BF)
        self.student.backward(2 * error_BD / np.float32(error_BD.size))
        return self.scale(bonus_B)

    def state(self) -> bytes:
        """The student, and the running deviation; the target follows from the seed."""
        return arrays({**self.student.arrays("student"), **self.target.arrays("target")}, self.scale.state())

    def load_state(self, state: bytes) -> None:
        """Continue from ``state``."""
        found, rest = unarrays(state)
        self.student.load("student", found)
        self.target.load("target", found)
        self.scale.load(rest)


class Scale:
    """Divides by the running root mean square of everything so far."""

    def __init__(self) -> None:
        self.n, self.squares = 0.0, 0.0

    def __call__(self, x_B: Array) -> Array:
        self.n += len(x_B)
        self.squares += float((x_B.astype(np.float64) ** 2).sum())
        return x_B / np.float32(max(1e-8, (self.squares / max(1.0, self.n)) ** 0.5))

    def state(self) -> dict[str, float]:
        return {"n": self.n, "squares": self.squares}

    def load(self, state: dict[str, float]) -> None:
        self.n, self.squares = state["n"], state["squares"]


class Curiosity:
    """The error of foretelling a slowly following embedding of the next observation from this one and the action.

    ``form="plain"`` is in the style of "BYOL-Explore: Exploration by Bootstrapped Prediction". ``"hindsight"`` also tells the predictor a
    code of what really came, which is trained to say nothing that observation and action already say: what cannot be foretold stops
    paying, what could be is not given away. Source: "Curiosity in Hindsight: Intrinsic Exploration in Stochastic Environments"; one hidden
    layer, one step ahead and hashed text instead of pixels are ours. ``unscaled`` keeps the raw errors.
    """

    level: ClassVar[Literal["step"]] = "step"
    scope: ClassVar[Literal["episode"]] = "episode"

    def __init__(self, form: Literal["plain", "hindsight"] = "plain", seed: int = 0, rate: float = 1e-3, memory: int = 1024, unscaled: bool = False) -> None:
        self.form, self.unscaled, self.memory = form, unscaled, memory
        self.encoder, self.target = Net((SIZE, 64, LATENT), seed, rate), Net((SIZE, 64, LATENT), seed)
        told = CODE if form == "hindsight" else 0
        self.predictor = Net((LATENT + SIZE + told, 64, LATENT), seed + 1, rate)
        self.coder = Net((LATENT + SIZE + LATENT, 64, CODE), seed + 2, rate)
        self.critics = Net((LATENT + SIZE, 64, CODE), seed + 3, 2 * rate), Net((CODE, 64, CODE), seed + 4, 2 * rate)
        self.seen = np.zeros((0, 3, SIZE), dtype=np.float32)
        self.random, self.scale = np.random.default_rng(seed), Scale()

    async def judge(self, views: Sequence[EpisodeView], policy: Policy) -> list[list[Verdict]]:
        """A verdict for each turn; then the networks learn."""
        out = []
        for view in views:
            e = view.episode
            texts = (seen_before(e), [t.action for t in e.turns], seen_after(e))
            out.append([Verdict("scored", float(x)) for x in self.observe(np.stack([hashed(t) for t in texts], axis=1))])
        return out

    def observe(self, x_B3F: Array) -> Array:
        """``[B]`` errors on (observation, action, next observation) before learning them; then a step of learning."""
        error_B = self._errors(x_B3F)
        self.seen = np.concatenate([self.seen, x_B3F])[-self.memory :]
        self._learn(self.seen[self.random.integers(len(self.seen), size=min(256, max(32, len(self.seen))))])
        return error_B if self.unscaled else self.scale(error_B)

    def _errors(self, x_B3F: Array) -> Array:
        wanted_BD, _ = unit(self.target.forward(x_B3F[:, 2]))
        known_BF = np.concatenate([self.encoder.forward(x_B3F[:, 0]), x_B3F[:, 1]], axis=1)
        if self.form == "hindsight":
            code_BC = self.coder.forward(np.concatenate([known_BF, wanted_BD], axis=1))
            known_BF = np.concatenate([known_BF, code_BC], axis=1)
        guess_BD, _ = unit(self.predictor.forward(known_BF))
        error_B: Array = ((guess_BD - wanted_BD) ** 2).sum(axis=1)
        return error_B

    def _learn(self, x_B3F: Array) -> None:
        b = np.float32(len(x_B3F))
        wanted_BD, _ = unit(self.target.forward(x_B3F[:, 2]))
        seen_BD = self.encoder.forward(x_B3F[:, 0])
        known_BF = np.concatenate([seen_BD, x_B3F[:, 1]], axis=1)
        told_BF = known_BF
        if self.form == "hindsight":
            code_BC = self.coder.forward(np.concatenate([known_BF, wanted_BD], axis=1))
            leak_BC = self._leak(known_BF, code_BC)
            told_BF = np.concatenate([known_BF, code_BC], axis=1)
        guess_BD, length_B1 = unit(self.predictor.forward(told_BF))
        back_BF = self.predictor.backward(through_unit(2 * (guess_BD - wanted_BD) / b, guess_BD, length_B1))
        if self.form == "hindsight":
            self.coder.backward(back_BF[:, known_BF.shape[1] :] + leak_BC)
        self.encoder.backward(back_BF[:, :LATENT])
        self.target.follow(self.encoder, 0.01)

    def _leak(self, known_BF: Array, code_BC: Array) -> Array:
        """Train the critics to tell which code belongs to which situation; the gradient that makes the coder's codes untellable."""
        left, right = self.critics
        u_BC, v_BC = left.forward(known_BF), right.forward(code_BC)
        score_BB = u_BC @ v_BC.T
        share_BB = np.exp(score_BB - score_BB.max(axis=1, keepdims=True))
        share_BB /= share_BB.sum(axis=1, keepdims=True)
        grad_BB = (share_BB - np.eye(len(share_BB), dtype=np.float32)) / np.float32(len(share_BB))
        left.backward(grad_BB @ v_BC)
        grad_BC = right.backward(grad_BB.T @ u_BC)
        return -LEAK * grad_BC

    def _nets(self) -> dict[str, Net]:
        return {
            "encoder": self.encoder, "target": self.target, "predictor": self.predictor, "coder": self.coder,
            "left": self.critics[0], "right": self.critics[1],
        }  # fmt: skip

    def state(self) -> bytes:
        """Networks, memory, random generator and running deviation."""
        held: dict[str, Any] = {"seen": self.seen}
        for name, net in self._nets().items():
            held |= net.arrays(name)
        return arrays(held, {"random": self.random.bit_generator.state, "scale": self.scale.state()})

    def load_state(self, state: bytes) -> None:
        """Continue from ``state``."""
        found, rest = unarrays(state)
        for name, net in self._nets().items():
            net.load(name, found)
        self.seen, self.random.bit_generator.state = found["seen"], rest["random"]
        self.scale.load(rest["scale"])


def Hindsight(**settings: Any) -> Curiosity:  # noqa: N802  # an entry point that reads like a class
    """``Curiosity`` in its hindsight form."""
    return Curiosity("hindsight", **settings)
