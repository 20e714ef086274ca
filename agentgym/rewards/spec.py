"""Reward specs: expressions over verdicts, evaluated on arrays. A spec is data: it prints, parses, hashes and is stored.

The same evaluation serves ``step`` (what becomes known at a turn) and ``settle`` (everything), so the sum of step rewards
equals the sum of the settled terms. What needs a group, a model or the state of a run is *late*: the rollout settles it.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar, Literal

import msgspec
import numpy as np
from msgspec import Struct

from agentgym.episode import Episode
from agentgym.errors import SpecError
from agentgym.rewards.groups import Floats
from agentgym.rewards.table import Column, Known, Level, Table, to_terms
from agentgym.verdict import Term

OPS: dict[str, type[Spec]] = {}
Need = Literal["", "source", "group", "run"]
ORDER: tuple[Known, ...] = ("turn", "end", "late")
TURN: tuple[Level, ...] = ("turn",)
PARTS: tuple[Level, ...] = ("turn", "span", "token")
WHOLE: tuple[Level, ...] = ("episode", "group")
ANY: tuple[Level, ...] = (*PARTS, *WHOLE)


class World(Struct, frozen=True):
    """What a spec may name: the levels (``step`` or ``outcome``) of an environment's verdicts, and those of late sources."""

    verdicts: Mapping[str, str]
    sources: Mapping[str, str] = {}


class Spec(Struct, frozen=True, dict=True):
    """A node of an expression. ``a + b`` joins terms, ``w * a`` scales them; ``str`` prints what ``parse`` reads.

    ``takes`` are the levels its parts may have, ``gives`` its own (None: that of its parts), ``when`` the earliest it is known.
    ``needs`` says what only a rollout has: a ``source``'s verdict, the whole ``group``, or the numbers of the ``run``.
    """

    takes: ClassVar[tuple[Level, ...]] = ANY
    gives: ClassVar[Level | None] = None
    when: ClassVar[Known] = "turn"
    needs: ClassVar[Need] = ""

    def __init_subclass__(cls, **config: Any) -> None:
        if vars(cls).get("__annotations__"):
            OPS[re.sub(r"(?<=[a-z])(?=[A-Z])", "_", cls.__name__).lower()] = cls

    def __post_init__(self) -> None:
        for name, kind in type(self).__annotations__.items():
            if kind == "float" and type(value := getattr(self, name)) is int:
                msgspec.structs.force_setattr(self, name, float(value))
            if kind == "float" and not math.isfinite(getattr(self, name)):
                raise SpecError("reward", f"{self.op}() wants a finite {name}, not {getattr(self, name)}")

    # What an author of a node writes

    def columns(self, table: Table) -> list[Column]:
        """The terms of every episode of the table."""
        raise NotImplementedError

    def tune(self, table: Table, dials: Mapping[str, float]) -> dict[str, float]:
        """New values of the numbers of the run that this node learns from a batch; pure."""
        return {}

    def check(self, world: World, path: str) -> Level | None:
        """The level of what this node gives, None if it mixes several. Raises ``SpecError`` if its parts do not fit."""
        levels = {p: part.check(world, p) for p, part in self.children(path)}
        for where, level in levels.items():
            if level is None or level not in self.takes:
                raise SpecError(where, f"{self.op}() takes terms of level {' or '.join(self.takes)}, not {level or 'several levels at once'}")
        if self.gives is None and len(set(levels.values())) > 1:
            raise SpecError(path, f"{self.op}() mixes the levels {', '.join(sorted(str(v) for v in set(levels.values())))}")
        return self.gives or next(iter(levels.values()), None)

    # What every node has

    @property
    def op(self) -> str:
        """Its name in an expression and in a table."""
        return next(name for name, cls in OPS.items() if cls is type(self))

    def children(self, path: str = "reward") -> Iterator[tuple[str, Spec]]:
        """The specs it is made of, each with its path."""
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if isinstance(value, Spec):
                yield f"{path}.{name}", value
            elif isinstance(value, tuple) and value and isinstance(value[0], Spec):
                yield from ((f"{path}.{name}[{i}]", part) for i, part in enumerate(value))
            elif isinstance(value, dict):
                yield from ((f"{path}.{name}.{key}", part) for key, part in value.items())

    def nodes(self) -> Iterator[Spec]:
        """This node and all below it."""
        yield self
        for _, part in self.children():
            yield from part.nodes()

    @cached_property
    def known(self) -> Known:
        """When all its terms can be known."""
        if self.needs:
            return "late"
        return ORDER[max(ORDER.index(self.when), *(ORDER.index(part.known) for _, part in self.children()), 0)]

    @property
    def late(self) -> bool:
        """Whether some of it is left to the rollout."""
        return self.known == "late"

    @property
    def digest(self) -> str:
        """A short content address: equal for equal specs, however they were written."""
        return hashlib.sha256(str(self).encode()).hexdigest()[:16]

    def at(self, episode: Episode, turn: int) -> list[Term]:
        """The terms that become known at ``turn``, from the record up to it."""
        over = episode.stop_reason is not None and turn == len(episode.turns) - 1
        return [term for part in (self.at_end if over else self.at_turn) for term in part.now(episode, turn)]

    def settle(self, episodes: Sequence[Episode]) -> list[list[Term]]:
        """All terms of each record: a pure function of them. The records of a group belong together in one call."""
        table = Table(episodes)
        for number, episode in enumerate(episodes):
            if self.lacking(episode):
                table.group_E[number] = -1 - number
        return to_terms(self.columns(table), table)

    def lacking(self, episode: Episode) -> list[str]:
        """The names of verdicts that it uses and that are invalid here: what an episode was paid is then not its reward.

        Such an episode moves nobody's baseline, trains nobody, and is in no mean of rewards.
        """
        used = {(n.op == "late", str(getattr(n, "name"))) for n in self.nodes() if n.op in ("step", "span", "late")}  # noqa: B009  # those have names
        asked = [*((True, p) for p in (episode.late, *(t.late for t in episode.turns))), *((False, t.verdicts) for t in episode.turns)]
        found = {name for late, name in used for kind, verdicts in asked if kind == late and name in verdicts and verdicts[name].status == "invalid"}
        return sorted(found)

    @cached_property
    def at_turn(self) -> tuple[Spec, ...]:
        """The summands that can have something to say at any turn."""
        return tuple(p for p in parts_of(self) if p.first == "turn")

    @cached_property
    def at_end(self) -> tuple[Spec, ...]:
        """The summands that can have something to say at the end."""
        return tuple(p for p in parts_of(self) if p.first != "late")

    @property
    def first(self) -> Known:
        """When the first of its terms can be known."""
        return self.known

    def now(self, episode: Episode, turn: int) -> list[Term]:
        """What ``at`` gives, of one summand. Nodes on the way of every step shorten it; the tests hold both ways equal."""
        table = Table([episode], turn + 1)
        return [t for t in to_terms(self.columns(table), table)[0] if t.known_at == turn]

    def __hash__(self) -> int:
        return hash(str(self))

    def __str__(self) -> str:
        shown: list[str] = []
        for i, field in enumerate(msgspec.structs.fields(self)):
            value = getattr(self, field.name)
            if i == 0:
                shown.append(_print(value))
            elif field.required or value != field.default:
                shown.append(f"{field.name}={_print(value)}")
        return f"{self.op}({', '.join(shown)})"

    def __add__(self, other: Spec) -> Spec:
        return OPS["sum"]((*parts_of(self), *parts_of(other)))

    def __sub__(self, other: Spec) -> Spec:
        return self + -other

    def __neg__(self) -> Spec:
        return self * -1.0

    def __mul__(self, weight: float) -> Spec:
        return OPS["scale"](self, float(weight))

    __rmul__ = __mul__


def parts_of(spec: Spec) -> tuple[Spec, ...]:
    """The summands of a sum, else the spec itself."""
    parts: tuple[Spec, ...] = getattr(spec, "parts", ()) if spec.op == "sum" else (spec,)
    return parts


def _print(value: Any) -> str:
    if isinstance(value, tuple):
        return f"({', '.join(map(_print, value))}{',' if len(value) == 1 else ''})"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k!r}: {_print(v)}" for k, v in value.items()) + "}"
    return str(value) if isinstance(value, Spec) else repr(value)


# Evaluation


def late_names(spec: Spec) -> list[str]:
    """The names of the sources that a spec leaves to the rollout."""
    return sorted({str(getattr(n, "name")) for n in spec.nodes() if n.needs == "source"})  # noqa: B009  # a Late has a name


def merged(columns: Sequence[Column], table: Table) -> Column:
    """Columns as one, their sum at each place; missing where any is missing."""
    if len(columns) == 1:
        return columns[0]
    if not columns:
        return Column("nothing", "turn", "turn", np.full((len(table.episodes), table.width), np.nan))
    known = max((c.known for c in columns), key=ORDER.index)
    return Column("+".join(c.source for c in columns), columns[0].level, known, np.sum([c.value_ET for c in columns], axis=0))


def weighted(name: str, columns: Sequence[Column], weight_E1: Floats) -> list[Column]:
    """Columns times a number of each episode that only the rollout has; ``name`` goes before their source."""
    return [msgspec.structs.replace(c, source=f"{name}:{c.source}", value_ET=c.value_ET * weight_E1, known="late") for c in columns]


def latest(*known: Known) -> Known:
    """The last of several times of knowing."""
    return max(known, key=ORDER.index)


def per_episode(columns: Sequence[Column]) -> Floats:
    """``[E]``: the sum of all terms of each episode; NaN where there is none."""
    there_E = np.zeros(len(columns[0].value_ET), dtype=bool)
    total_E = np.zeros(len(there_E))
    for column in columns:
        there_E |= ~np.isnan(column.value_ET).all(axis=1)
        total_E += np.nansum(column.value_ET, axis=1)
    return np.where(there_E, total_E, np.nan)


# From text and tables
