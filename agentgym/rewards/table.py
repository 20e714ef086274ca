"""Records as arrays: what a spec is evaluated on. Objects are only at the two edges, ``Table`` and ``to_terms``.

E episodes, T turns of the longest one. NaN is "there is none": an invalid verdict, a turn that was not played.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Literal

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from agentgym.episode import Episode, Turn
from agentgym.rewards.groups import Floats, Ints
from agentgym.verdict import Place, Term, Verdict

Level = Literal["turn", "span", "token", "episode", "group"]
Known = Literal["turn", "end", "late"]
FLOOR = 0.0
WHOLE = ("episode", "group")


class Column(Struct, frozen=True):
    """One term of every episode. ``value_ET`` is ``[E, T]`` at levels turn, span and token, ``[E, 1]`` at the others.

    ``known``: at its own turn, at the episode's end, or late (after it, by the rollout). ``span_ETS`` ``[E, T, 2]`` are the
    start and end of a span (characters of the action) or of tokens.
    """

    source: str
    level: Level
    known: Known
    value_ET: Floats
    span_ETS: Ints | None = None


def value_of(verdict: Verdict | None) -> float | None:
    """A verdict's number for a reward: its value, the floor if tampered, None if there is none or it is invalid."""
    if verdict is None or verdict.status == "invalid":
        return None
    return FLOOR if verdict.status == "tampered" else verdict.value


class Table:
    """Columns of records, made when asked for. ``upto`` reads only that many turns, as if the rest had not happened.

    ``steps`` and ``outcomes`` hold what was read so far; what a caller puts there is not read from the records.
    """

    def __init__(self, episodes: Sequence[Episode], upto: int | None = None) -> None:
        self.episodes = episodes
        self.turns = [e.turns if upto is None else e.turns[:upto] for e in episodes]
        self.length_E = np.array([len(t) for t in self.turns], dtype=np.int64)
        self.valid_E = np.array([e.status != "invalid" for e in episodes], dtype=bool)
        over = [e.stop_reason is not None and len(t) == len(e.turns) for e, t in zip(episodes, self.turns, strict=True)]
        self.over_E = np.array(over, dtype=bool)
        groups: dict[str, int] = {}
        self.group_E = np.array([groups.setdefault(e.group or e.id, len(groups)) for e in episodes], dtype=np.int64)
        self.steps: dict[str, Floats] = {}
        self.outcomes: dict[str, Floats] = {}

    @cached_property
    def played_ET(self) -> NDArray[np.bool_]:  # noqa: N802  # array names end in their axes
        """True where a turn was played."""
        return np.arange(self.width)[None] < self.length_E[:, None]

    @cached_property
    def _verdicts(self) -> list[dict[str, Verdict]]:
        """Those of every turn, one episode after the other."""
        return [t.verdicts for turns in self.turns for t in turns]

    @cached_property
    def _late(self) -> list[dict[str, Verdict]]:
        return [t.late for turns in self.turns for t in turns]

    @cached_property
    def width(self) -> int:
        """T."""
        return int(self.length_E.max(initial=1))

    def step(self, name: str, late: bool = False) -> Floats:
        """``[E, T]``: the values of a step verdict, or of a late source's."""
        if name not in self.steps:
            of = self._late if late else self._verdicts
            try:
                flat_N = np.array([verdicts[name].value for verdicts in of], dtype=np.float64)
            except KeyError:
                flat_N = np.array([value_of(verdicts.get(name)) for verdicts in of], dtype=np.float64)
            for n in np.flatnonzero(np.isnan(flat_N)):
                if (verdict := of[n].get(name)) is not None and verdict.status == "tampered":
                    flat_N[n] = FLOOR
            self.steps[name] = self._spread(flat_N)
        return self.steps[name]

    def _spread(self, flat_N: Floats) -> Floats:
        """``[E, T]`` of one number per turn of all episodes, one after the other."""
        out_ET = np.full((len(self.episodes), self.width), np.nan)
        out_ET[self.played_ET] = flat_N
        out_ET[~self.valid_E] = np.nan
        return out_ET

    def outcome(self, name: str, late: bool = False) -> Floats:
        """``[E, 1]``: the value of an outcome verdict, or of a late source's, of the episodes that are over."""
        if name not in self.outcomes:
            rows = zip(self.episodes, self.over_E, self.valid_E, strict=True)
            values = [value_of((e.late if late else e.verdicts).get(name)) if over and valid else None for e, over, valid in rows]
            self.outcomes[name] = np.array(values, dtype=np.float64)[:, None]
        return self.outcomes[name]

    def each_turn(self, read: Callable[[Turn], float | None]) -> Floats:
        """``[E, T]`` of a number read from each turn."""
        return self._spread(np.array([read(t) for turns in self.turns for t in turns], dtype=np.float64))

    def dial(self, name: str, default: float) -> Floats:
        """``[E, 1]``: a number of the run (training step, multiplier) under which each episode was settled."""
        return np.array([[e.dials.get(name, default)] for e in self.episodes], dtype=np.float64)


def filled(x_ET: Floats) -> Floats:
    """Each NaN replaced by the last number before it, 0 where there is none."""
    at_ET = np.where(np.isnan(x_ET), -1, np.arange(x_ET.shape[1])[None])
    last_ET = np.maximum.accumulate(at_ET, axis=1)
    return np.where(last_ET < 0, 0.0, np.take_along_axis(x_ET, np.maximum(last_ET, 0), axis=1))


def before(x_ET: Floats) -> Floats:
    """The values one turn earlier, 0 before the first."""
    return np.concatenate([np.zeros((len(x_ET), 1)), x_ET[:, :-1]], axis=1)


def to_terms(columns: Sequence[Column], table: Table) -> list[list[Term]]:
    """The terms of each episode, in the order in which they became known. A turn's zero is no term; an episode's is one."""
    out: list[list[Term]] = [[] for _ in table.episodes]
    for column in columns:
        whole = column.level in WHOLE
        there = ~np.isnan(column.value_ET) if whole else ~np.isnan(column.value_ET) & (column.value_ET != 0.0)
        if column.known == "end":
            there &= table.over_E[:, None]
        for e, t in zip(*(axis.tolist() for axis in np.nonzero(there)), strict=True):
            last = int(table.length_E[e]) - 1
            known_at = {"turn": t, "end": last, "late": None}[column.known]
            span = None if column.span_ETS is None else (int(column.span_ETS[e, t, 0]), int(column.span_ETS[e, t, 1]))
            place = Place(column.level) if whole else Place(column.level, t, span)
            out[e].append(Term(column.source, float(column.value_ET[e, t]), place, known_at))
    for terms in out:
        terms.sort(key=lambda term: float("inf") if term.known_at is None else term.known_at)
    return out
