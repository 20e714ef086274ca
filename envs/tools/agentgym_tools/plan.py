"""What a template makes of a world: an instruction, what must be true at the end, and the calls of an oracle."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from msgspec import Struct

from agentgym.messages import ToolCall
from agentgym_tools.world import COLUMNS, Rows, World

Answer = str | int | list[str]


class Change(NamedTuple):
    """A row that must be written: ``key`` None adds one, ``values`` None deletes it."""

    table: str
    key: int | str | None
    values: dict[str, Any] | None


class Plan(Struct):
    """One task. ``changes`` are the only writes allowed; ``ending`` is the tool that must end it, and with what.

    ``calls`` is the oracle, without the ending. ``user`` is what the person tells when asked for it by name; where the person is a player
    too, ``phone`` is what their phone must be set to, and ``approve`` the payments that they must approve before they are paid back.
    """

    say: str
    calls: list[ToolCall]
    changes: list[Change] = []
    ending: tuple[str, Answer | None] = ("finish", None)
    user: dict[str, str] = {}
    phone: dict[str, str] = {}
    approve: list[int] = []

    def oracle(self) -> list[ToolCall]:
        """All calls, the ending included."""
        tool, value = self.ending
        arguments: dict[str, Any] = {"finish": {}, "answer": {"value": value}, "refuse": {"rule": value}}[tool]
        return [*self.calls, ToolCall(tool, arguments)]

    def expected(self, start: Rows) -> Rows:
        """The rows that must be there at the end, from those at the start, without any tool or database."""
        rows = {table: dict(of) for table, of in start.items()}
        for number, (table, key, values) in enumerate(self.changes):
            if values is None:
                del rows[table][key]
                continue
            new = f"new {number}" if key is None else key
            before = dict(zip(COLUMNS[table], rows[table].get(new, (new,)), strict=False))
            rows[table][new] = tuple({**before, **values}[c] for c in COLUMNS[table])
        return rows


class Template(Struct, frozen=True):
    """A kind of task: ``make`` draws one from a world. ``level`` 1 to 4 is by the number of dependent calls. ``talk``: the person is a player too."""

    name: str
    level: int
    unseen: bool
    make: Callable[[World], Plan]
    talk: bool = False


TEMPLATES: dict[str, Template] = {}


def template(level: int, unseen: bool = False, talk: bool = False) -> Callable[[Callable[[World], Plan]], Callable[[World], Plan]]:
    """Register a function from a world to a plan under its own name; ``unseen`` keeps it out of train, dev and test."""

    def register(make: Callable[[World], Plan]) -> Callable[[World], Plan]:
        TEMPLATES[make.__name__] = Template(make.__name__, level, unseen, make, talk)
        return make

    return register


def do(tool: str, /, **arguments: Any) -> ToolCall:
    """One call of an oracle."""
    return ToolCall(tool, arguments)


def put(table: str, key: int | str, **values: Any) -> Change:
    """A row that must have these values at the end."""
    return Change(table, key, values)


def add(table: str, **values: Any) -> Change:
    """A row that must have been added."""
    missing = set(COLUMNS[table]) - {"id", *values}
    assert not missing, f"{table} needs {missing}"
    return Change(table, None, values)


def drop(table: str, key: int) -> Change:
    """A row that must be gone."""
    return Change(table, key, None)
