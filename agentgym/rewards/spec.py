"""Reward specs: expressions over verdicts, evaluated on arrays. A spec is data: it prints, parses, hashes and is stored.

The same evaluation serves ``step`` (what becomes known at a turn) and ``settle`` (everything), so the sum of step rewards
equals the sum of the settled terms. What needs a group, a model or the state of a run is *late*: the rollout settles it.
"""

from __future__ import annotations

import ast
import hashlib
import math
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args, get_origin, get_type_hints

import msgspec
import numpy as np
from msgspec import Struct

from agentgym.core import Reward
from agentgym.episode import Episode
from agentgym.errors import SpecError, nearest
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


def settle(spec: Spec, episodes: Sequence[Episode]) -> list[list[Term]]:
    """All terms of each record: a pure function of them. The records of a group belong together in one call."""
    table = Table(episodes)
    for number, episode in enumerate(episodes):
        if lacking(spec, episode):
            table.group_E[number] = -1 - number
    return to_terms(spec.columns(table), table)


def settled(reward: Reward, episodes: Sequence[Episode]) -> list[list[Term]]:
    """The terms that a reward gives to finished records, be it a spec or any other. The records of a group belong together in one call."""
    if isinstance(reward, Spec):
        return settle(reward, episodes)
    return [[term for turn in range(len(e.turns)) for term in reward.at(e, turn)] for e in episodes]


def lacking(spec: Spec, episode: Episode) -> list[str]:
    """The names of verdicts that a spec uses and that are invalid here: what an episode was paid is then not its reward.

    Such an episode moves nobody's baseline, trains nobody, and is in no mean of rewards.
    """
    used = {(n.op == "late", str(getattr(n, "name"))) for n in spec.nodes() if n.op in ("step", "span", "late")}  # noqa: B009  # those have names
    asked = [*((True, p) for p in (episode.late, *(t.late for t in episode.turns))), *((False, t.verdicts) for t in episode.turns)]
    found = {name for late, name in used for kind, verdicts in asked if kind == late and name in verdicts and verdicts[name].status == "invalid"}
    return sorted(found)


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


def load(source: str | Mapping[str, Any] | Spec, world: World | None = None) -> Spec:
    """A spec from a Python expression, a TOML table ``{op = "gate", …}``, or a file of one; checked against ``world`` if there is one.

    Raises:
        SpecError: unknown primitive, wrong argument, unknown verdict, mixed levels, a gate on itself; with the path in the spec.
    """
    if isinstance(source, str) and source.endswith(".toml"):
        source = _from_file(source)
    spec = source if isinstance(source, Spec) else _parse(source) if isinstance(source, str) else _build(source, "reward")
    if world is not None:
        spec.check(world, "reward")
    return spec


def _from_file(path: str) -> Mapping[str, Any]:
    """The table of a TOML file: a run's ``reward.toml`` (its key ``table``), or a spec by itself."""
    try:
        found = tomllib.loads(Path(path).read_text())
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise SpecError("reward", f"cannot read {path}: {error}") from None
    return found.get("table", found)  # type: ignore[no-any-return]  # checked by _build


def to_table(spec: Spec) -> dict[str, Any]:
    """The spec as a TOML table; ``load`` reads it back."""
    fields = {f.name: (getattr(spec, f.name), f) for f in msgspec.structs.fields(spec)}
    given = {k: v for k, (v, f) in fields.items() if f.required or v != f.default}
    return {"op": spec.op, **{k: _plain(v) for k, v in given.items()}}


def _plain(value: Any) -> Any:
    if isinstance(value, Spec):
        return to_table(value)
    if isinstance(value, tuple):
        return [_plain(v) for v in value]
    return {k: _plain(v) for k, v in value.items()} if isinstance(value, dict) else value


def _build(table: Mapping[str, Any], path: str) -> Spec:
    """A node from a table, its parts first."""
    op = table.get("op")
    if op not in OPS:
        raise SpecError(path, f"unknown primitive {op!r}{nearest(str(op), OPS)}")
    cls = OPS[str(op)]
    hints = get_type_hints(cls)
    values = {}
    for key, value in table.items():
        if key == "op":
            continue
        if key not in cls.__struct_fields__:
            raise SpecError(path, f"{op}() has no {key!r}{nearest(key, cls.__struct_fields__)}")
        values[key] = _value(value, hints[key], f"{path}.{key}")
    for field in msgspec.structs.fields(cls):
        if field.required and values.get(field.name) in ((), {}):
            raise SpecError(f"{path}.{field.name}", f"{op}() wants at least one")
    try:
        return cls(**values)
    except TypeError as error:
        raise SpecError(path, f"{op}(): {str(error).lower()}") from None


def _value(value: Any, hint: Any, path: str) -> Any:
    """An argument of the type a field wants."""
    if hint in (Spec, Spec | None):
        if isinstance(value, Spec):
            return value
        if not isinstance(value, Mapping):
            raise SpecError(path, f"wants a spec such as outcome('task'), not {value!r:.60}")
        return _build(value, path)
    if get_origin(hint) is tuple and get_args(hint)[0] is Spec and isinstance(value, (list, tuple)):
        return tuple(_value(v, Spec, f"{path}[{i}]") for i, v in enumerate(value))
    if get_origin(hint) is dict and isinstance(value, Mapping):
        return {k: _value(v, Spec, f"{path}.{k}") for k, v in value.items()}
    try:
        return msgspec.convert(value, hint)
    except msgspec.ValidationError as error:
        raise SpecError(path, str(error)[0].lower() + str(error)[1:]) from None


def _parse(text: str) -> Spec:
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise SpecError("reward", f"not an expression: {getattr(error, 'msg', error)}") from None
    found = _read(tree, "reward")
    if not isinstance(found, Spec):
        raise SpecError("reward", f"not a spec but {found!r:.60}; write for example outcome('task') + 0.1 * step('progress')")
    return found


def _read(node: ast.expr, path: str) -> Any:
    """The value of a syntax tree: names of primitives called, ``+ - *``, literals; nothing else."""
    match node:
        case ast.Constant(value):
            return value
        case ast.UnaryOp(op=ast.USub(), operand=inner):
            return -_read(inner, path)
        case ast.Tuple(elts) | ast.List(elts):
            return tuple(_read(e, f"{path}[{i}]") for i, e in enumerate(elts))
        case ast.Dict(keys, values) if all(isinstance(k, ast.Constant) for k in keys):
            return {k.value: _read(v, f"{path}.{k.value!s}") for k, v in zip(keys, values, strict=True) if isinstance(k, ast.Constant)}
        case ast.BinOp(left, ast.Add() | ast.Sub() | ast.Mult() as sign, right):
            return _combine(_read(left, path), sign, _read(right, path), path)
        case ast.Call(ast.Name(op), args, keywords) if op in OPS:
            names = OPS[op].__struct_fields__
            if len(args) > len(names):
                raise SpecError(path, f"{op}() takes at most {len(names)} arguments")
            given = dict(zip(names, (_read(a, f"{path}.{n}") for a, n in zip(args, names, strict=False)), strict=False))
            return _build({"op": op, **given, **{str(k.arg): _read(k.value, f"{path}.{k.arg}") for k in keywords}}, path)
        case ast.Call(ast.Name(op)):
            raise SpecError(path, f"unknown primitive {op!r}{nearest(op, OPS)}")
    raise SpecError(path, f"{ast.unparse(node)[:60]!r} is no part of a spec")


def _combine(left: Any, sign: ast.operator, right: Any, path: str) -> Any:
    try:
        if isinstance(sign, ast.Mult):
            return left * right
        return left + right if isinstance(sign, ast.Add) else left - right
    except TypeError:
        raise SpecError(path, f"{left!s:.40} and {right!s:.40} cannot be joined") from None
