"""Where terms come from: verdicts in the record, its length, and what the rollout writes into it after the episode."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np

from agentgym.episode import Episode
from agentgym.errors import SpecError, nearest
from agentgym.rewards.groups import Floats
from agentgym.rewards.spec import Need, Spec, World
from agentgym.rewards.table import Column, Known, Level, Table, value_of
from agentgym.verdict import EPISODE, Place, Term

Unit = Literal["turns", "chars", "tokens"]


def _named(name: str, level: str, known: dict[str, str], path: str) -> None:
    if name not in known:
        raise SpecError(path, f"there is no verdict {name!r}{nearest(name, known)}")
    if known[name] != level:
        raise SpecError(path, f"{name!r} is {'a step' if known[name] == 'step' else 'an outcome'} verdict; write {known[name]}({name!r})")


class Step(Spec, frozen=True):
    """The value of a step verdict, at its turn."""

    name: str
    gives: ClassVar[Level] = "turn"

    def columns(self, table: Table) -> list[Column]:
        return [Column(self.name, "turn", "turn", table.step(self.name))]

    def now(self, episode: Episode, turn: int) -> list[Term]:
        value = value_of(episode.turns[turn].verdicts.get(self.name))
        return [Term(self.name, value, Place("turn", turn), turn)] if value else []

    def check(self, world: World, path: str) -> Level:
        _named(self.name, "step", dict(world.verdicts), path)
        return "turn"


class Outcome(Spec, frozen=True):
    """The value of an outcome verdict, of the whole episode, known at its end."""

    name: str
    gives: ClassVar[Level] = "episode"
    when: ClassVar[Known] = "end"

    def columns(self, table: Table) -> list[Column]:
        return [Column(self.name, "episode", "end", table.outcome(self.name))]

    def now(self, episode: Episode, turn: int) -> list[Term]:
        value = value_of(episode.verdicts.get(self.name))
        over = episode.stop_reason is not None and turn == len(episode.turns) - 1
        return [Term(self.name, value, EPISODE, turn)] if over and value is not None else []

    def check(self, world: World, path: str) -> Level:
        _named(self.name, "outcome", dict(world.verdicts), path)
        return "episode"


class Late(Spec, frozen=True):
    """The verdict of a source that has state or a model (novelty, a judge), which the rollout writes into the record afterwards.

    ``name`` is that of an installed source, with its argument behind a colon where it takes one: ``late('judge:careful.toml', level='outcome')``.
    With level ``span`` terms lie on the characters that its verdicts of turns mark, as those of ``span`` do.
    """

    name: str
    level: Literal["step", "outcome", "span"] = "step"
    needs: ClassVar[Need] = "source"

    def columns(self, table: Table) -> list[Column]:
        if self.level == "step":
            return [Column(self.name, "turn", "late", table.step(self.name, late=True))]
        if self.level == "span":
            return _marked(self.name, "span", "late", table)
        return [Column(self.name, "episode", "late", table.outcome(self.name, late=True))]

    def check(self, world: World, path: str) -> Level:
        installed = self.name.partition(":")[0]
        if installed not in world.sources:
            raise SpecError(path, f"no source {installed!r} is installed{nearest(installed, world.sources)}")
        levels: dict[str, Level] = {"step": "turn", "span": "span", "outcome": "episode"}
        if world.sources[installed] not in ("", self.level):
            raise SpecError(path, f"source {self.name!r} gives {world.sources[installed]} verdicts, not {self.level}")
        return levels[self.level]


def _marked(name: str, level: Level, known: Known, table: Table) -> list[Column]:
    """A column for the first, second, … span of each turn, from the evidence ``spans`` of its verdict."""
    rows = [
        (e, t, k, *span)
        for e, turns in enumerate(table.turns)
        for t, turn in enumerate(turns)
        if (verdict := (turn.late if known == "late" else turn.verdicts).get(name)) is not None and verdict.status == "scored"
        for k, span in enumerate(verdict.evidence.get("spans", []))
    ]
    shape, out = (len(table.episodes), table.width), []
    for k in range(max((r[2] for r in rows), default=-1) + 1):
        value_ET, span_ETS = np.full(shape, np.nan), np.zeros((*shape, 2), dtype=np.int64)
        for e, t, _, start, end, value in (r for r in rows if r[2] == k):
            value_ET[e, t], span_ETS[e, t] = value, (start, end)
        out.append(Column(name, level, known, value_ET, span_ETS))
    return out


class Span(Spec, frozen=True):
    """Spans of the action, each with its own value, from a step verdict's evidence ``spans = [[start, end, value], …]``.

    ``unit`` says whether start and end count characters of the action or sampled tokens of the turn. Terms lie on the spans and
    nowhere else. Source: "Text2Grad: Reinforcement Learning from Natural Language Feedback", placement alone.
    """

    name: str
    unit: Literal["chars", "tokens"] = "chars"

    def columns(self, table: Table) -> list[Column]:
        return _marked(self.name, self._level, "turn", table)

    @property
    def _level(self) -> Level:
        return "span" if self.unit == "chars" else "token"

    def check(self, world: World, path: str) -> Level:
        _named(self.name, "step", dict(world.verdicts), path)
        return self._level


class Length(Spec, frozen=True):
    """How much each turn took: 1 for ``turns``, the characters of the action, or the tokens sampled (known to the rollout only)."""

    unit: Unit = "turns"
    gives: ClassVar[Level] = "turn"

    def columns(self, table: Table) -> list[Column]:
        return [Column(f"length:{self.unit}", "turn", self.known, _lengths(table, self.unit))]

    def check(self, world: World, path: str) -> Level:
        return "turn"

    @property
    def known(self) -> Known:
        return "late" if self.unit == "tokens" else "turn"


class Budget(Spec, frozen=True):
    """0 up to ``most − buffer``, falling to −1 at ``most`` and beyond: a soft limit on the length of an episode.

    Source: the overlong penalty of "DAPO: An Open-Source LLM Reinforcement Learning System at Scale"; ``buffer=0`` is a hard one.
    """

    most: float
    unit: Unit = "tokens"
    buffer: float = 0.0
    gives: ClassVar[Level] = "episode"

    def columns(self, table: Table) -> list[Column]:
        used_E1 = np.nansum(_lengths(table, self.unit), axis=1, keepdims=True)
        if self.buffer > 0:
            value_E1 = np.clip((self.most - self.buffer - used_E1) / self.buffer, -1.0, 0.0)
        else:
            value_E1 = np.where(used_E1 > self.most, -1.0, 0.0)
        over_E1 = (table.over_E & table.valid_E)[:, None]
        return [Column(f"budget:{self.unit}", "episode", self.known, np.where(over_E1, value_E1, np.nan))]

    def check(self, world: World, path: str) -> Level:
        if self.most <= 0 or not 0 <= self.buffer <= self.most:
            raise SpecError(path, "budget() wants most > 0 and 0 <= buffer <= most")
        return "episode"

    @property
    def known(self) -> Known:
        return "late" if self.unit == "tokens" else "end"


def _lengths(table: Table, unit: Unit) -> Floats:
    if unit == "turns":
        return table.each_turn(lambda turn: 1.0)
    if unit == "chars":
        return table.each_turn(lambda turn: float(len(turn.action)))
    return table.each_turn(lambda turn: float(sum(turn.tokens.mask)) if turn.tokens else 0.0)


step, outcome, late, span, length, budget = Step, Outcome, Late, Span, Length, Budget
