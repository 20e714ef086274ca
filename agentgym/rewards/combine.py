"""How terms are joined: sums, ensembles, choice by kind of task, comparison within the group, weights learned by the run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

import msgspec
import numpy as np

from agentgym.episode import Episode
from agentgym.errors import SpecError
from agentgym.rewards import groups
from agentgym.rewards.groups import Floats
from agentgym.rewards.spec import ORDER, WHOLE, Need, Spec, World, latest, merged, per_episode, weighted
from agentgym.rewards.table import Column, Known, Level, Table
from agentgym.verdict import Term


class Sum(Spec, frozen=True):
    """All terms of all parts, each by itself."""

    parts: tuple[Spec, ...]

    def columns(self, table: Table) -> list[Column]:
        return [column for part in self.parts for column in part.columns(table)]

    def now(self, episode: Episode, turn: int) -> list[Term]:
        return [term for part in self.parts for term in part.now(episode, turn)]

    def check(self, world: World, path: str) -> Level | None:
        levels = {part.check(world, where) for where, part in self.children(path)}
        return levels.pop() if len(levels) == 1 else None

    @property
    def first(self) -> Known:
        return min((p.first for p in self.parts), key=ORDER.index)

    def __str__(self) -> str:
        return " + ".join(map(str, self.parts))


def _vote(x_KET: Floats, weight: float) -> Any:
    most_ET = 2 * (x_KET >= 0.5).sum(axis=0) > len(x_KET)
    return np.where(np.isnan(x_KET).any(axis=0), np.nan, most_ET.astype(np.float64))


FORMS: dict[str, Callable[[Floats, float], Any]] = {
    "mean": lambda x_KET, weight: np.mean(x_KET, axis=0),
    "min": lambda x_KET, weight: np.min(x_KET, axis=0),
    "max": lambda x_KET, weight: np.max(x_KET, axis=0),
    "product": lambda x_KET, weight: np.prod(x_KET, axis=0),
    "vote": _vote,
    "cautious": lambda x_KET, weight: np.mean(x_KET, axis=0) - weight * np.var(x_KET, axis=0),
    "robust": lambda x_KET, weight: weight * np.mean(x_KET, axis=0) + (1 - weight) * np.min(x_KET, axis=0),
    "trusted": lambda x_KET, weight: np.mean(x_KET, axis=0) / (1.0 + weight * np.var(x_KET, axis=0)),
}


class Combine(Spec, frozen=True):
    """Several terms of one place as one; missing where any member is, since leaving out a member that failed could only pay its failure.

    ``mean, min, max, product``; ``vote``: 1 if most are at least 1/2; ``cautious``: mean − weight · variance; ``robust``:
    weight · mean + (1 − weight) · min; ``trusted``: mean / (1 + weight · variance), ours. Sources: "Reward Model Ensembles Help
    Mitigate Overoptimization" (min, cautious), "Reward-Robust RLHF in LLMs" (robust, the balance is ours).
    """

    parts: tuple[Spec, ...]
    form: Literal["mean", "min", "max", "product", "vote", "cautious", "robust", "trusted"] = "mean"
    weight: float = 1.0

    def columns(self, table: Table) -> list[Column]:
        members = [merged(part.columns(table), table) for part in self.parts]
        value_ET = FORMS[self.form](np.stack([m.value_ET for m in members]), self.weight)
        name = f"{self.form}({', '.join(m.source for m in members)})"
        return [Column(name, members[0].level, latest(*(m.known for m in members)), value_ET)]


class Route(Spec, frozen=True):
    """One spec for each kind of task. Raises ``SpecError`` where an episode's kind has none."""

    cases: dict[str, Spec]

    def columns(self, table: Table) -> list[Column]:
        kinds = [e.kind for e in table.episodes]
        if unknown := sorted(set(kinds) - set(self.cases)):
            raise SpecError("route", f"no case for tasks of kind {unknown[0]!r}; there are {', '.join(sorted(self.cases))}")
        out = []
        for kind, spec in self.cases.items():
            mine_E1 = np.array([[k == kind] for k in kinds], dtype=bool)
            if mine_E1.any():
                out += [msgspec.structs.replace(c, value_ET=np.where(mine_E1, c.value_ET, np.nan)) for c in spec.columns(table)]
        return out

    def check(self, world: World, path: str) -> Level | None:
        levels = {part.check(world, where) for where, part in self.children(path)}
        return levels.pop() if len(levels) == 1 else None

    @property
    def first(self) -> Known:
        return min((p.first for p in self.cases.values()), key=ORDER.index)


class Group(Spec, frozen=True):
    """A statistic of the terms' sums over the group's valid episodes: the same for all its members. For gates of a group."""

    terms: Spec
    stat: Literal["mean", "std", "min", "max"] = "mean"
    gives: ClassVar[Level] = "group"
    needs: ClassVar[Need] = "group"

    def columns(self, table: Table) -> list[Column]:
        x_E = per_episode(self.terms.columns(table))
        of = {"mean": groups.mean, "std": groups.std, "min": groups.least, "max": groups.most}[self.stat]
        return [Column(f"{self.stat}:{self.terms}", "group", "late", of(x_E, table.group_E)[:, None])]


class WinRate(Spec, frozen=True):
    """The share of the group's other valid episodes that this one beats (a tie is half): its rank, in [0, 1].

    With several factors the first decides unless it ties within its margin, then the next (lexicographic). ``anchor`` compares with
    the group's valid episode of the lowest attempt alone. Source of the order: "Deep Reinforcement Learning from Hierarchical Weak Preference Feedback".
    """

    parts: tuple[Spec, ...]
    margins: tuple[float, ...] = ()
    anchor: bool = False
    gives: ClassVar[Level] = "episode"
    needs: ClassVar[Need] = "group"

    def columns(self, table: Table) -> list[Column]:
        factors_KE = np.stack([per_episode(part.columns(table)) for part in self.parts])
        name = f"win_rate({', '.join(map(str, self.parts))})"
        won_E = self._against_first(factors_KE, table) if self.anchor else groups.wins(factors_KE, table.group_E, self.margins)
        return [Column(name, "episode", "late", won_E[:, None])]

    def _against_first(self, factors_KE: Floats, table: Table) -> Floats:
        out_E = np.full(factors_KE.shape[1], np.nan)
        valid_E = ~np.isnan(factors_KE).any(axis=0)
        for g in np.unique(table.group_E):
            found = np.flatnonzero((table.group_E == g) & valid_E).tolist()
            at = sorted(found, key=lambda e: (table.episodes[e].attempt, table.episodes[e].id))
            for e in at[1:]:
                out_E[e] = groups.wins(factors_KE[:, [e, at[0]]], np.zeros(2, dtype=np.int64), self.margins)[0]
            out_E[at[:1]] = 0.5 if len(at) > 1 else np.nan
        return out_E


class Diversity(Spec, frozen=True):
    """How far an episode is from the group's other valid ones: the mean Jaccard distance of what was seen, or done, in their turns.

    The same for any order of the group; 0 for a group of identical episodes.
    """

    of: Literal["anchor", "action"] = "action"
    gives: ClassVar[Level] = "episode"
    needs: ClassVar[Need] = "group"

    def columns(self, table: Table) -> list[Column]:
        sets = [frozenset(getattr(t, self.of) for t in e.turns) for e in table.episodes]
        out_E1 = np.full((len(sets), 1), np.nan)
        for e, mine in enumerate(sets):
            rest = [sets[i] for i in np.flatnonzero((table.group_E == table.group_E[e]) & table.valid_E) if i != e]
            if table.valid_E[e] and rest:
                out_E1[e] = sum(1.0 - len(mine & r) / max(1, len(mine | r)) for r in rest) / len(rest)
        return [Column(f"diversity:{self.of}", "episode", "late", out_E1)]

    def check(self, world: World, path: str) -> Level:
        return "episode"


class Lagrangian(Spec, frozen=True):
    """−λ times the terms, λ found by dual ascent: it rises while their mean over a batch exceeds ``limit``, and never below 0.

    Of a cost it is a constraint; of a component ``c``, ``c + lagrangian(c, limit)`` weighs it 1 − λ once it has passed its limit.
    Sources: "Safe RLHF-V", "Confronting Reward Model Overoptimization with Constrained RLHF"; the plain dual step is standard.
    """

    terms: Spec
    limit: float
    rate: float = 0.05
    start: float = 0.0
    needs: ClassVar[Need] = "run"

    def columns(self, table: Table) -> list[Column]:
        return weighted("lagrangian", self.terms.columns(table), -table.dial(self._dial, self.start))

    @property
    def _dial(self) -> str:
        return f"lagrangian:{self.terms}"

    def tune(self, table: Table, dials: Mapping[str, float]) -> dict[str, float]:
        x_E = per_episode(self.terms.columns(table))
        if np.isnan(x_E).all():
            return {}
        return {self._dial: max(0.0, dials.get(self._dial, self.start) + self.rate * (float(np.nanmean(x_E)) - self.limit))}


class Blend(Spec, frozen=True):
    """Terms times a weight in [0, 1] that an outer loop moves so that the ``primary`` return alone rises.

    The outer gradient is estimated by the correlation, within groups, of the terms' sum with the primary return: the inner product of
    the two policy gradients when the scores of different episodes are taken as orthogonal (ours). Idea: "Behavior Alignment via
    Reward Function Optimization".
    """

    terms: Spec
    primary: Spec
    rate: float = 0.1
    start: float = 1.0
    needs: ClassVar[Need] = "run"

    def columns(self, table: Table) -> list[Column]:
        return weighted("blend", self.terms.columns(table), table.dial(self._dial, self.start))

    @property
    def _dial(self) -> str:
        return f"blend:{self.terms}"

    def tune(self, table: Table, dials: Mapping[str, float]) -> dict[str, float]:
        a_E, p_E = (per_episode(s.columns(table)) for s in (self.terms, self.primary))
        both_E = np.isnan(a_E) | np.isnan(p_E)
        a_E, p_E = (x_E - groups.mean(np.where(both_E, np.nan, x_E), table.group_E) for x_E in (a_E, p_E))
        size = np.sqrt(np.nansum(a_E**2) * np.nansum(p_E**2))
        if not size > 1e-12:
            return {}
        moved = dials.get(self._dial, self.start) + self.rate * float(np.nansum(a_E * p_E) / size)
        return {self._dial: min(1.0, max(0.0, moved))}

    def check(self, world: World, path: str) -> Level | None:
        if self.primary.check(world, f"{path}.primary") not in WHOLE:
            raise SpecError(f"{path}.primary", "blend() wants an outcome as its primary return")
        return self.terms.check(world, f"{path}.terms")


combine, route, group, win_rate = Combine, Route, Group, WinRate
diversity, lagrangian, blend = Diversity, Lagrangian, Blend
