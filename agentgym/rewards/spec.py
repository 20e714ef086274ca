"""Reward specs. A spec says which terms become known at a turn; ``settle`` asks it for every turn.

``step`` pays what is known at each turn, so the sum of step rewards equals the sum of settled terms by construction. A
gated term keeps its place (its turn) but is known at the end. Terms of an invalid verdict do not exist; a tampered one
scores the floor.
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from agentgym.core import Reward
from agentgym.episode import Episode
from agentgym.verdict import EPISODE, Place, Term, Verdict

FLOOR = 0.0


class Spec(Struct, frozen=True):
    """An expression over verdicts. ``a + b`` joins terms; ``a * w`` scales them; ``str`` prints it back."""

    @property
    def late(self) -> tuple[str, ...]:
        """Sources that only a rollout can settle."""
        return ()

    def at(self, episode: Episode, turn: int) -> list[Term]:
        """The terms that become known at ``turn``, from the record up to it."""
        raise NotImplementedError

    def __add__(self, other: Spec) -> Spec:
        return Sum((*_parts(self), *_parts(other)))

    def __mul__(self, weight: float) -> Spec:
        return Scaled(self, weight)

    __rmul__ = __mul__


def settle(spec: Reward, episode: Episode) -> list[Term]:
    """All terms of a record, in the order in which they became known."""
    return [term for turn in range(len(episode.turns)) for term in spec.at(episode, turn)]


def _parts(spec: Spec) -> tuple[Spec, ...]:
    return spec.parts if isinstance(spec, Sum) else (spec,)


def _ended(episode: Episode, turn: int) -> bool:
    return episode.stop_reason is not None and turn == len(episode.turns) - 1


def value_of(verdict: Verdict | None) -> float | None:
    """A verdict's number for a reward: its value, the floor if tampered, None if there is none or it is invalid."""
    if verdict is None or verdict.status == "invalid":
        return None
    return FLOOR if verdict.status == "tampered" else verdict.value


class Step(Spec, frozen=True):
    """The value of a step verdict, at its turn."""

    name: str

    def at(self, episode: Episode, turn: int) -> list[Term]:
        value = value_of(episode.turns[turn].verdicts.get(self.name))
        return [] if value is None else [Term(self.name, value, Place("turn", turn), turn)]

    def __str__(self) -> str:
        return f"step({self.name!r})"


class Outcome(Spec, frozen=True):
    """The value of an outcome verdict, of the whole episode, known at its end."""

    name: str

    def at(self, episode: Episode, turn: int) -> list[Term]:
        value = value_of(episode.verdicts.get(self.name)) if _ended(episode, turn) else None
        return [] if value is None else [Term(self.name, value, EPISODE, turn)]

    def __str__(self) -> str:
        return f"outcome({self.name!r})"


class Delta(Spec, frozen=True):
    """Change of a step verdict's value since the turn before (0 before the first): any sum telescopes."""

    name: str

    def at(self, episode: Episode, turn: int) -> list[Term]:
        before, now = _level(episode, self.name, turn - 1), _level(episode, self.name, turn)
        return [Term(f"delta:{self.name}", now - before, Place("turn", turn), turn)] if now != before else []

    def __str__(self) -> str:
        return f"delta({self.name!r})"


class Potential(Spec, frozen=True):
    """Shaping γΦ(s') − Φ(s) with Φ the level of a step verdict, 0 at the start and at every end: the best policy is unchanged.

    Source: Ng, Harada and Russell, "Policy Invariance Under Reward Transformations".
    """

    name: str
    gamma: float = 1.0

    def at(self, episode: Episode, turn: int) -> list[Term]:
        now = 0.0 if _ended(episode, turn) else _level(episode, self.name, turn)
        value = self.gamma * now - _level(episode, self.name, turn - 1)
        return [Term(f"potential:{self.name}", value, Place("turn", turn), turn)] if value else []

    def __str__(self) -> str:
        return f"potential({self.name!r}, gamma={self.gamma})"


class Gate(Spec, frozen=True):
    """Terms that count only if an outcome passes: they keep their places and are known at the end.

    Source: "Stabilizing Long-term Multi-turn Reinforcement Learning with Gated Rewards"; the comparison (>=) and the
    threshold are parameters of ours, since the paper's numbers are not public.
    """

    terms: Spec
    by: str
    threshold: float = 1.0

    def at(self, episode: Episode, turn: int) -> list[Term]:
        if not _ended(episode, turn):
            return []
        value = value_of(episode.verdicts.get(self.by))
        if value is None or value < self.threshold:
            return []
        inner = (t for each in range(turn + 1) for t in self.terms.at(episode, each))
        return [Term(f"gated:{t.source}", t.value, t.place, turn) for t in inner]

    def __str__(self) -> str:
        return f"gate({self.terms}, by={self.by!r}, threshold={self.threshold})"


class Late(Spec, frozen=True):
    """A source that has state or a model (novelty, judges): never in ``step``'s reward, settled by the rollout."""

    name: str
    weight: float = 1.0

    @property
    def late(self) -> tuple[str, ...]:
        return (self.name,)

    def at(self, episode: Episode, turn: int) -> list[Term]:
        return []

    def __str__(self) -> str:
        return f"late({self.name!r}, weight={self.weight})"


class Scaled(Spec, frozen=True):
    """Every term times a weight."""

    terms: Spec
    weight: float

    @property
    def late(self) -> tuple[str, ...]:
        return self.terms.late

    def at(self, episode: Episode, turn: int) -> list[Term]:
        return [Term(t.source, t.value * self.weight, t.place, t.known_at) for t in self.terms.at(episode, turn)]

    def __str__(self) -> str:
        return f"{self.weight} * ({self.terms})"


class Sum(Spec, frozen=True):
    """All terms of all parts."""

    parts: tuple[Spec, ...]

    @property
    def late(self) -> tuple[str, ...]:
        return tuple(name for part in self.parts for name in part.late)

    def at(self, episode: Episode, turn: int) -> list[Term]:
        return [term for part in self.parts for term in part.at(episode, turn)]

    def __str__(self) -> str:
        return " + ".join(map(str, self.parts))


def _level(episode: Episode, name: str, turn: int) -> float:
    """The value of a step verdict at or before ``turn``: 0 before there is one."""
    for each in range(turn, -1, -1):
        value = value_of(episode.turns[each].verdicts.get(name))
        if value is not None:
            return value
    return 0.0


def weight_of(spec: Spec, name: str) -> float:
    """The weight a spec gives to a late source."""
    parts: Iterable[Spec] = _parts(spec)
    return sum(p.weight for p in parts if isinstance(p, Late) and p.name == name)


step, outcome, delta, potential, gate, late = Step, Outcome, Delta, Potential, Gate, Late
