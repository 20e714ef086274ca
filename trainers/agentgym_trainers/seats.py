"""Training at a game: which seats the model plays and learns from, and who plays the others.

``against`` is ``self`` (all trainable seats of a match are the model as it is now), ``past`` (the newest checkpoint), ``fictitious`` (any
checkpoint alike: an answer to the average of the past), ``double-oracle`` (checkpoints by the equilibrium of what they score against each
other), or a player by name. With ``tremble`` the others err now and then, and nobody learns from what they do.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from agentgym.core import Policy
from agentgym.episode import Episode
from agentgym.errors import UsageError
from agentgym.evaluation.league import Seated, equilibrium, play_pairs, value_of
from agentgym.evaluation.run import Plan
from agentgym.game import GameEnv
from agentgym.policies.scripted import Trembling
from agentgym.registry import make
from agentgym.rollout import Job
from agentgym_trainers import checkpoint
from agentgym_trainers.config import TrainConfig
from agentgym_trainers.engine import TransformersEngine
from agentgym_trainers.model import load_model
from agentgym_trainers.renderer import ChatRenderer

POOLS = ("past", "fictitious", "double-oracle")
LOADED, PER_STEP, MATCHES = 4, 2, 8
"""Checkpoints kept in memory, drawn for one step, and matches (in each order) by which the double oracle compares two of them."""


def trainable(config: TrainConfig) -> tuple[str, ...]:
    """The seats that are learned from; none where the environment is played at one seat."""
    if config.tremble and config.against not in ("self", *POOLS):
        raise UsageError(f"--tremble is for --against {', '.join(('self', *POOLS))}: others play as they do")
    if not config.trainable and not config.against:
        return ()
    with_options = make(config.env, split=config.split, **config.option)
    if not isinstance(with_options, GameEnv):
        raise UsageError(f"{with_options.id} has one seat; --trainable and --against are for games")
    known = with_options.capabilities.seats
    chosen = tuple(config.trainable) or (with_options.seat,)
    for seat in chosen:
        if seat not in known:
            raise UsageError(f"{with_options.id} has no seat {seat!r}; its seats: {', '.join(known)}")
    return chosen


class Pool:
    """The checkpoints of a run as opponents, drawn by a mixture that is a function of the run's folder and the step."""

    def __init__(self, config: TrainConfig, out: Path, renderer: ChatRenderer) -> None:
        self.config, self.out, self.renderer = config, out, renderer
        self.loaded: dict[int, TransformersEngine] = {}

    def steps(self, update: int) -> list[int]:
        """The updates after which there is a checkpoint, up to ``update``."""
        found = (int(p.parent.name.removeprefix("step-")) for p in (self.out / "checkpoints").glob("step-*/trainer.json"))
        return sorted(s for s in found if s <= update)

    async def draw(self, update: int) -> list[Policy]:
        """The opponents of a step: a few members, each as likely as the mixture says."""
        steps = self.steps(update)
        if self.config.against == "past":
            return [self.member(steps[-1])]
        odds = [1.0] * len(steps) if self.config.against == "fictitious" else await self.mixture(steps)
        dice = random.Random(f"{self.config.seed}/{update}")
        return [self.member(s) for s in dice.choices(steps, odds, k=PER_STEP)]

    def member(self, step: int) -> TransformersEngine:
        """The engine of a checkpoint; the least lately loaded gives way."""
        if step not in self.loaded:
            while len(self.loaded) >= LOADED:
                self.loaded.pop(next(iter(self.loaded))).close()
            model = load_model(str(checkpoint.folder_of(self.out, step)))[0].eval()
            sampling = {"temperature": self.config.temperature, "max_tokens": self.config.max_tokens, "context": self.config.context}
            self.loaded[step] = TransformersEngine(model, self.renderer, name=f"step-{step}", **sampling)  # type: ignore[arg-type]  # each by its name
        return self.loaded[step]

    async def mixture(self, steps: Sequence[int]) -> list[float]:
        """The equilibrium over checkpoints; what is not known yet of their matches is played, and kept in ``pool.json``."""
        path = self.out / "pool.json"
        known: dict[str, float] = msgspec.json.decode(path.read_bytes()) if path.exists() else {}
        plan = Plan(env=self.config.env, split=self.config.split, options=self.config.option, seed=self.config.seed, max_tokens=self.config.max_tokens)
        for i, one in enumerate(steps):
            for other in steps[:i]:
                if f"{one}~{other}" not in known:
                    players: dict[str, Policy] = {str(s): self.member(s) for s in (one, other)}
                    known[f"{one}~{other}"] = _advantage(str(one), await play_pairs(plan, players, [(str(one), str(other))], MATCHES))
        path.write_bytes(msgspec.json.format(msgspec.json.encode(known), indent=1))
        signed = {(i, j): known[f"{max(i, j)}~{min(i, j)}"] * (1 if i > j else -1) for i in steps for j in steps if i != j}
        return list(equilibrium(np.array([[signed.get((i, j), 0.0) for j in steps] for i in steps]))[0])


def _advantage(one: str, results: Sequence[tuple[str, str, Episode, Episode]]) -> float:
    """How much oftener ``one`` did better than worse."""
    signs = []
    for a, _, first, second in results:
        x, y = value_of(first), value_of(second)
        if x is not None and y is not None:
            signs.append(float(np.sign(x - y)) * (1 if a == one else -1))
    return sum(signs) / max(1, len(signs))


class Table:
    """Who sits where in the matches of a step. ``seats`` are those that are learned from."""

    def __init__(self, config: TrainConfig, env: GameEnv, pool: Pool) -> None:
        self.config, self.all, self.pool, self.seats = config, env.capabilities.seats, pool, trainable(config)

    @property
    def together(self) -> bool:
        """Whether all trainable seats of a match learn from it."""
        return self.config.against in ("", "self") and not self.config.tremble

    def option(self) -> dict[str, str]:
        """What the environment is told of those who do not sit at it."""
        return {} if self.config.against in ("", "self", *POOLS) else {"opponents": self.config.against}

    async def seat(self, jobs: Sequence[Job], policy: Policy, update: int) -> tuple[list[Job], Policy, set[str]]:
        """Turn episodes that are wanted into matches: their jobs, who plays them, and the groups that are learned from."""
        members = await self.pool.draw(update) if self.config.against in POOLS else [policy] if self.config.tremble else []
        if self.config.tremble:
            members = [Trembling(m, self.config.tremble) for m in members]
        out, seated, learned, met = list[Job](), dict[str, dict[str, Policy]](), set[str](), Counter[str | None]()
        per = len(self.seats) if self.together else 1
        for job in jobs:
            n = met[job.group]
            met[job.group] += 1
            if n % per:
                continue
            name = f"{job.group}.{job.attempt}"
            own = self.seats if self.together else (self.seats[n % len(self.seats)],)
            others = [s for s in self.all if s not in own] if members else []
            seated[name] = dict.fromkeys(own, policy) | dict.fromkeys(others, members[n % len(members)] if members else policy)
            for seat in (*own, *others):
                group = f"{job.group}@{seat}" if seat in own else f"{job.group}@{seat}/opponent"
                learned |= {group} if seat in own else set()
                out.append(msgspec.structs.replace(job, group=group, match=name, seat=seat))
        return out, Seated(seated, policy), learned
