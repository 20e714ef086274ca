"""Sources that say what each turn contributed: a fitted model, playing without it, playing on from it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import msgspec
import numpy as np

from agentgym.core import AgentEnv, EpisodeView, Policy
from agentgym.episode import Episode
from agentgym.errors import Fault
from agentgym.evaluation.transcript import messages_of
from agentgym.messages import Message
from agentgym.policies import resolve
from agentgym.registry import make
from agentgym.rollout import Job, Rollout
from agentgym.verdict import StopReason, Verdict
from agentgym_verifiers.intrinsic.answers import Stateless
from agentgym_verifiers.intrinsic.features import SIZE, Vectors, arrays, hashed, seen_after, unarrays


def outcome_of(view: EpisodeView) -> float | None:
    """The mean of an episode's outcome verdicts; None where one is invalid."""
    values = [0.0 if v.status == "tampered" else v.value for v in view.episode.verdicts.values()]
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if values and len(known) == len(values) else None


class Progress:
    """Contributions ĉ_t of turns, fitted online so that they sum to the outcome: (Σ ĉ_t − R)², linear in hashed action and observation.

    Use ``attribute(outcome(...), by=late("progress"))``, which makes the sum exact. Source: "SPA-RL: Reinforcing LLM Agents via Stepwise
    Progress Attribution"; there a language model with a linear head, here hashed text, so that it runs anywhere. A tenth as much weight
    decay as learning (``ridge``) keeps what explains nothing at 0.
    """

    level: ClassVar[Literal["step"]] = "step"
    scope: ClassVar[Literal["episode"]] = "episode"

    def __init__(self, rate: float = 0.5, ridge: float = 1e-4) -> None:
        self.rate, self.ridge = rate, ridge
        self.weights_F = np.zeros(2 * SIZE, dtype=np.float32)

    async def judge(self, views: Sequence[EpisodeView], policy: Policy) -> list[list[Verdict]]:
        """A verdict for each turn, from what was known before this episode; then the model learns it."""
        out = []
        for view in views:
            x_TF = self._features(view)
            out.append([Verdict("scored", float(c)) for c in x_TF @ self.weights_F])
            total = outcome_of(view)
            if total is not None:
                self.learn(x_TF, total)
        return out

    def _features(self, view: EpisodeView) -> Vectors:
        e = view.episode
        return np.concatenate([hashed([t.action for t in e.turns]), hashed(seen_after(e))], axis=1)

    def learn(self, x_TF: Vectors, total: float) -> None:
        """A normalised gradient step on one episode."""
        x_F = x_TF.sum(axis=0)
        error = float(x_F @ self.weights_F) - total
        self.weights_F -= np.float32(self.rate * error / max(1e-6, float(x_F @ x_F))) * x_F
        self.weights_F *= np.float32(1 - self.ridge)

    def state(self) -> bytes:
        """The weights."""
        return arrays({"weights": self.weights_F})

    def load_state(self, state: bytes) -> None:
        """Continue from ``state``."""
        self.weights_F = unarrays(state)[0]["weights"]


def again(view: EpisodeView) -> AgentEnv:
    """A fresh environment at the start of the episode's task."""
    e = view.episode
    env = make(e.env, split=e.split, **e.options)
    env.reset(seed=e.seed, options={"task": e.task})
    return env


def _play(env: AgentEnv, actions: Sequence[str]) -> None:
    for action in actions:
        if env.episode.stop_reason is not None:
            break
        env.step(action)


class LeaveOneOut(Stateless):
    """What the outcome loses when a turn is left out and the other actions are played all the same: R − R without it, by replay.

    Exact for what the later actions do not depend on; as many replays as turns.
    """

    level: ClassVar[Literal["step"]] = "step"
    scope: ClassVar[Literal["episode"]] = "episode"
    replays: ClassVar[bool] = True

    async def judge(self, views: Sequence[EpisodeView], policy: Policy) -> list[list[Verdict]]:
        """A verdict for each turn."""
        return [[self._without(view, t) for t in range(len(view.episode.turns))] for view in views]

    def _without(self, view: EpisodeView, turn: int) -> Verdict:
        total = outcome_of(view)
        env = again(view)
        try:
            _play(env, [t.action for i, t in enumerate(view.episode.turns) if i != turn])
            if env.episode.stop_reason is None:
                env.end(StopReason.MAX_TURNS)
            left = outcome_of(EpisodeView(view.task, env.episode))
        except Fault as fault:
            return Verdict.invalid(str(fault), "env")
        finally:
            env.close()
        if total is None or left is None:
            return Verdict.invalid("an outcome is invalid", "env")
        return Verdict.scored(total - left)


class MonteCarlo(Stateless):
    """The value of the state after each turn, less that of the start: the mean outcome of ``n`` continuations, by the policy or by a ``prover``.

    ``delta`` of it is each turn's credit. Where the environment can be forked, continuations start from a fork; else from a replay. The prover,
    another policy (``late('onward:hf:PATH')``), says what a turn is worth to somebody else than who took it. Source of that: "Rewarding
    Progress: Scaling Automated Process Verifiers for LLM Reasoning".
    """

    level: ClassVar[Literal["step"]] = "step"
    scope: ClassVar[Literal["episode"]] = "episode"
    replays: ClassVar[bool] = True

    def __init__(self, prover: str = "", n: int = 4) -> None:
        self.n, self.prover = n, resolve(prover) if prover else None

    async def judge(self, views: Sequence[EpisodeView], policy: Policy) -> list[list[Verdict]]:
        """A verdict for each turn; at the last it is the outcome itself."""
        return [await self._of(view, self.prover or policy) for view in views]

    async def _of(self, view: EpisodeView, policy: Policy) -> list[Verdict]:
        turns = view.episode.turns
        values = [await self._value(view, policy, t) for t in range(len(turns))] + [outcome_of(view)]
        start = values[0]
        if start is None:
            return [Verdict.invalid("no continuation could be graded", "env")] * len(turns)
        return [Verdict.invalid("no continuation could be graded", "env") if v is None else Verdict.scored(v - start, start=start) for v in values[1:]]

    async def _value(self, view: EpisodeView, policy: Policy, turn: int) -> float | None:
        """The mean outcome when the policy takes over before ``turn``."""
        found = [outcome_of(EpisodeView(view.task, e)) for e in await branches(view, policy, turn, self.n)]
        seen = [value for value in found if value is not None]
        return sum(seen) / len(seen) if seen else None


async def branches(view: EpisodeView, policy: Policy, turn: int, n: int) -> list[Episode]:
    """``n`` records of what comes of an episode when the policy takes over before ``turn``; their ``parent`` says where they branched off.

    Those whose world or policy fails are left out. Where the environment can be forked they start from a fork; else from a replay.
    """
    out = []
    for i, env in enumerate(_worlds(view, turn, n)):
        id = f"{view.episode.id}/{turn}/{i}"
        job = Job(view.task.id, i, (view.episode.seed or 0) * 1009 + 31 * turn + i, id)
        prefix = [t.tokens for t in view.episode.turns[:turn] if t.tokens]
        try:
            await Rollout(make=lambda: again(view), policy=policy).play_on(env, job, _said(env), prefix)
        except Fault:
            continue
        finally:
            env.close()
        out.append(msgspec.structs.replace(env.episode, id=id, attempt=i, parent=(view.episode.id, turn), policy=policy.name))
    return out


def _worlds(view: EpisodeView, turn: int, n: int) -> list[AgentEnv]:
    """``n`` environments that stand before ``turn``."""
    first = _replayed(view, turn)
    if first.capabilities.snapshot:
        return [first, *first.fork(n - 1)]
    return [first, *(_replayed(view, turn) for _ in range(n - 1))]


def _replayed(view: EpisodeView, turn: int) -> AgentEnv:
    env = again(view)
    _play(env, [t.action for t in view.episode.turns[:turn]])
    return env


def _said(env: AgentEnv) -> list[Message]:
    """The conversation so far, as a policy is shown it."""
    return [*messages_of(env.episode), *env._shown.messages]
