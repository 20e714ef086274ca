"""What is done to terms one by one: bounded, centred, switched, weighted. Places stay where they are."""

from __future__ import annotations

import hashlib
from typing import ClassVar

import msgspec
import numpy as np

from agentgym.episode import Episode
from agentgym.errors import SpecError
from agentgym.rewards.groups import Floats
from agentgym.rewards.sources import Step
from agentgym.rewards.spec import TURN, WHOLE, Spec, World, latest, merged
from agentgym.rewards.table import Column, Known, Level, Table, before, filled, value_of
from agentgym.verdict import Place, Term


def _with(column: Column, source: str, value_ET: Floats, known: Known | None = None) -> Column:
    return msgspec.structs.replace(column, source=source, value_ET=value_ET, known=known or column.known)


class Elementwise(Spec, frozen=True):
    """A function of the sum of its terms at each place. A missing term makes the result missing."""

    def columns(self, table: Table) -> list[Column]:
        column = merged(self._terms.columns(table), table)
        known = "late" if self.needs else latest(column.known, self.when)
        return [_with(column, f"{self.op}:{column.source}", self.apply(column.value_ET, column, table), known)]

    @property
    def _terms(self) -> Spec:
        terms: Spec = getattr(self, "terms")  # noqa: B009  # every child declares it, each with its own other fields
        return terms

    def apply(self, x_ET: Floats, column: Column, table: Table) -> Floats:
        """The new values."""
        raise NotImplementedError


class Scale(Spec, frozen=True):
    """Every term times a weight."""

    terms: Spec
    weight: float

    def columns(self, table: Table) -> list[Column]:
        return [_with(c, c.source, c.value_ET * self.weight) for c in self.terms.columns(table)]

    def now(self, episode: Episode, turn: int) -> list[Term]:
        scaled = (Term(t.source, t.value * self.weight, t.place, t.known_at) for t in self.terms.now(episode, turn))
        return [t for t in scaled if t.value or t.place.level in WHOLE]

    def check(self, world: World, path: str) -> Level | None:
        return self.terms.check(world, f"{path}.terms")

    @property
    def first(self) -> Known:
        return self.terms.first

    def __str__(self) -> str:
        inner = str(self.terms)
        return f"{self.weight!r} * {f'({inner})' if self.terms.op == 'sum' else inner}"


class Clip(Elementwise, frozen=True):
    """Each term bounded to [low, high]."""

    terms: Spec
    low: float = -1.0
    high: float = 1.0

    def apply(self, x_ET: Floats, column: Column, table: Table) -> Floats:
        return np.clip(x_ET, self.low, self.high)


class Cap(Elementwise, frozen=True):
    """The accumulated sum bounded by ``most``: a turn pays what it adds to the bounded sum, so more turns cannot pay without end."""

    terms: Spec
    most: float = 1.0
    takes: ClassVar[tuple[Level, ...]] = TURN

    def apply(self, x_ET: Floats, column: Column, table: Table) -> Floats:
        sum_ET = np.minimum(np.cumsum(np.nan_to_num(x_ET), axis=1), self.most)
        return np.where(np.isnan(x_ET), np.nan, sum_ET - before(sum_ET))


class Delta(Elementwise, frozen=True):
    """Change of a level since the turn before (0 before the first): any sum telescopes to the last level."""

    terms: Spec
    takes: ClassVar[tuple[Level, ...]] = TURN

    def apply(self, x_ET: Floats, column: Column, table: Table) -> Floats:
        level_ET = filled(x_ET)
        return np.where(np.isnan(x_ET), np.nan, level_ET - before(level_ET))

    def now(self, episode: Episode, turn: int) -> list[Term]:
        if not isinstance(self.terms, Step):
            return super().now(episode, turn)
        name = self.terms.name
        value = value_of(episode.turns[turn].verdicts.get(name))
        change = None if value is None else value - level(episode, name, turn - 1)
        return [Term(f"delta:{name}", change, Place("turn", turn), turn)] if change else []


def level(episode: Episode, name: str, turn: int) -> float:
    """The value of a step verdict at or before ``turn``: 0 before there is one."""
    for each in range(turn, -1, -1):
        value = value_of(episode.turns[each].verdicts.get(name))
        if value is not None:
            return value
    return 0.0


class Potential(Elementwise, frozen=True):
    """Shaping γΦ(s') − Φ(s) with Φ a level, 0 at the start and at every end: the best policy is unchanged.

    Source: Ng, Harada and Russell, "Policy Invariance Under Reward Transformations".
    """

    terms: Spec
    gamma: float = 1.0
    takes: ClassVar[tuple[Level, ...]] = TURN

    def apply(self, x_ET: Floats, column: Column, table: Table) -> Floats:
        level_ET = filled(x_ET)
        end_ET = table.over_E[:, None] & (np.arange(table.width)[None] == table.length_E[:, None] - 1)
        value_ET = self.gamma * np.where(end_ET, 0.0, level_ET) - before(level_ET)
        return np.where(table.played_ET & table.valid_E[:, None], value_ET, np.nan)

    def now(self, episode: Episode, turn: int) -> list[Term]:
        if not isinstance(self.terms, Step):
            return super().now(episode, turn)
        over = episode.stop_reason is not None and turn == len(episode.turns) - 1
        name = self.terms.name
        value = self.gamma * (0.0 if over else level(episode, name, turn)) - level(episode, name, turn - 1)
        return [Term(f"potential:{name}", value, Place("turn", turn), turn)] if value else []


class Sigmoid(Elementwise, frozen=True):
    """σ(x / scale): bounded, fast at first, then saturating. Of ``outcome(r) − outcome(reference)`` it is 1/2 at the reference.

    Source: "Reward Shaping to Mitigate Reward Hacking in RLHF"; the centring by a reference is in the terms.
    """

    terms: Spec
    scale: float = 1.0

    def apply(self, x_ET: Floats, column: Column, table: Table) -> Floats:
        return 0.5 * (1.0 + np.tanh(0.5 * x_ET / self.scale))


class Threshold(Elementwise, frozen=True):
    """1 where the term is at least ``bar``, else 0."""

    terms: Spec
    bar: float

    def apply(self, x_ET: Floats, column: Column, table: Table) -> Floats:
        return np.where(np.isnan(x_ET), np.nan, (x_ET >= self.bar).astype(np.float64))


class Discretise(Elementwise, frozen=True):
    """The highest of ``levels`` that is not above the term; the lowest level for what is below them all."""

    terms: Spec
    levels: tuple[float, ...]

    def apply(self, x_ET: Floats, column: Column, table: Table) -> Floats:
        steps = np.sort(np.array(self.levels, dtype=np.float64))
        at_ET = np.clip(np.searchsorted(steps, np.nan_to_num(x_ET), side="right") - 1, 0, None)
        return np.where(np.isnan(x_ET), np.nan, steps[at_ET])


class Flip(Elementwise, frozen=True):
    """1 − x with probability ``p``, drawn from the seed, the episode's id and the turn: noise that anyone can draw again.

    Source: "The Climb Carves Wisdom Deeper Than the Summit: On the Noisy Rewards in Learning to Reason".
    """

    terms: Spec
    p: float
    seed: int = 0

    def apply(self, x_ET: Floats, column: Column, table: Table) -> Floats:
        draw_ET = np.stack([self._draws(e.id, x_ET.shape[1]) for e in table.episodes])
        return np.where(draw_ET < self.p, 1.0 - x_ET, x_ET)

    def _draws(self, episode: str, turns: int) -> Floats:
        names = (f"{self.seed}|{episode}|{t}".encode() for t in range(turns))
        return np.array([int.from_bytes(hashlib.blake2b(n, digest_size=7).digest(), "big") / 2**56 for n in names])


class Gate(Spec, frozen=True):
    """Terms that count only where ``by`` is at least ``threshold`` (``strict``: above it). They keep their places.

    The level of ``by`` makes it a gate of a turn, of an episode, or (over ``group(…)``) of a group; a missing ``by`` is shut.
    Source: "Stabilizing Long-term Multi-turn Reinforcement Learning with Gated Rewards"; comparison and threshold are parameters of
    ours, since the paper's numbers are not public.
    """

    terms: Spec
    by: Spec
    threshold: float = 1.0
    strict: bool = False

    def columns(self, table: Table) -> list[Column]:
        by = merged(self.by.columns(table), table)
        open_ET = by.value_ET > self.threshold if self.strict else by.value_ET >= self.threshold
        found = self.terms.columns(table)
        return [_with(c, f"gated:{c.source}", np.where(open_ET | np.isnan(c.value_ET), c.value_ET, 0.0), latest(c.known, by.known)) for c in found]

    @property
    def first(self) -> Known:
        return latest(self.terms.first, self.by.known)

    def check(self, world: World, path: str) -> Level | None:
        level, by = self.terms.check(world, f"{path}.terms"), self.by.check(world, f"{path}.by")
        if by not in (*TURN, *WHOLE):
            raise SpecError(f"{path}.by", f"gate() takes a gate of one level, not {by or 'several at once'}")
        if by in TURN and level in (*WHOLE, None):
            raise SpecError(f"{path}.by", "a turn's verdict cannot gate what belongs to the episode")
        own = {str(n) for n in self.by.nodes() if not list(n.children())} & {str(n) for n in self.terms.nodes()}
        if own and not any(n.op == "group" for n in self.by.nodes()):
            raise SpecError(f"{path}.by", f"gate() would gate {', '.join(sorted(own))} on itself")
        return level


clip, cap, delta, potential, sigmoid, threshold, discretise, flip, gate = Clip, Cap, Delta, Potential, Sigmoid, Threshold, Discretise, Flip, Gate
