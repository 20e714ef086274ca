"""``tools/desk-sim-v0``: the desk whose tools are answered by a model. A rule recovers what each answer claims, and holds it against the database.

The ``world`` answers the agent's calls, one at a time: the text that the agent gets, and in its last line ``effect:`` and the rows it has
written, as JSON. What it claims is what happened: that is the world in which the task is judged. Fidelity is the share of calls whose
text and rows are those that the real tool gives on the same state.
"""

from __future__ import annotations

import random
import re
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar

import msgspec
from agentgym_verifiers.rules import seat_verdicts

from agentgym.core import Capabilities, Task, TaskSet, Verifier
from agentgym.errors import CapabilityError, ToolError
from agentgym.game import Game, Player, Talk, TalkSeat
from agentgym.messages import Tool, ToolCall, find_tool, parse_action, print_action
from agentgym_tools.desk import Desk
from agentgym_tools.env import SYSTEM
from agentgym_tools.tasks import SPLITS, plan_of, tasks_of, world_of
from agentgym_tools.tools import TOOLS
from agentgym_tools.verify import done, still_to_do
from agentgym_tools.world import COLUMNS

ENDINGS = ("finish", "answer", "refuse")
_EFFECT = re.compile(r"\n?effect: (.*)\Z")
Write = list[Any]


class Simulated(Talk):
    """A desk of which ``world`` says what its tools do. The endings are nobody's but the agent's."""

    seats = ("agent", "world")

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.task, self.plan = task, plan_of(task)
        self.desk = Desk.of(world_of(task))
        self.desk.user = self.plan.user
        self.waiting: list[ToolCall] = []
        self.made: list[ToolCall] = []
        self.answered, self.faithful = 0, 0

    def rules(self, seat: str) -> str:
        """The agent's work; or how to answer for a tool, with what is in the database and what the tools do."""
        if seat == "agent":
            return SYSTEM
        about = "\n".join(f"{name}: {t.spec.description}" for name, t in TOOLS.items() if name not in ENDINGS)
        return (
            "You are the tools of an office desk. Answer each call as the tool would, one 'key value' a line, rows apart by an empty line; what is refused"
            " begins with 'error: '. End with a line 'effect: ' and a JSON list of the rows written, each [table, id, '=', {column: value}], [table, id, '+',"
            f" {{all columns}}] or [table, id, '-', {{}}]; [] if none.\n\nThe tools:\n{about}\n\nThe tables:\n{self._dump()}"
        )

    def _dump(self) -> str:
        return "\n".join(f"{t} ({', '.join(COLUMNS[t])}): {'; '.join(' | '.join(map(str, r)) for r in rows.values())}" for t, rows in self.desk.rows().items())

    def view(self, seat: str) -> str:
        """What is new; to the world the call that waits."""
        if seat == "world":
            return f"call: {print_action('', self.waiting[:1])}" if self.waiting else "it is over" if self.current is None else "nothing is asked"
        return self.plan.say if not self.made else super().view(seat)

    def said(self, seat: str) -> list[str]:
        """The world hears the call that waits."""
        return [self.view("world")] if seat == "world" and self.waiting else super().said(seat)

    def play(self, action: str) -> None:
        """The agent's calls, or the world's answer to one of them."""
        parsed = parse_action(action)
        if self.current == "world":
            self._answer(parsed.prose if not parsed.calls else action)
            return
        if not parsed.calls:
            raise ToolError("there is no tool call; end with finish, answer or refuse", malformed=True)
        for call in parsed.calls:
            find_tool(TOOLS, call.name)
        self.made += parsed.calls
        self.waiting = list(parsed.calls)
        self._go_on()

    def _go_on(self) -> None:
        """Run what ends the episode; whatever else waits is the world's to answer."""
        while self.waiting and self.waiting[0].name in ENDINGS and self.desk.ending is None:
            call = self.waiting.pop(0)
            text, _ = real(self.desk, call)
            self.answers["agent"].append((call.name, text))
        if self.desk.ending is not None:
            self.answers["agent"] += [(c.name, "error: the episode has ended") for c in self.waiting]
            self.waiting, self.current = [], None
        else:
            self.current = "world" if self.waiting else "agent"

    def _answer(self, said: str) -> None:
        found = _EFFECT.search(said)
        try:
            claimed = msgspec.json.decode(found[1], type=list[tuple[str, int | str, str, dict[str, Any]]]) if found else None
        except msgspec.MsgspecError:
            claimed = None
        if claimed is None:
            raise ToolError("end with a line 'effect: ' and a JSON list of rows written, [] if none", malformed=True)
        call, text = self.waiting[0], _EFFECT.sub("", said).strip()
        should, writes = self.expected()
        try:
            with self.desk.trying():
                apply(self.desk, claimed)
        except (ToolError, KeyError, TypeError, ValueError, sqlite3.Error) as error:
            raise ToolError(f"those rows cannot be written: {error}", malformed=True) from None
        apply(self.desk, claimed)
        self.answered += 1
        self.faithful += _plain(text) == _plain(should) and [list(w) for w in claimed] == writes
        self.waiting.pop(0)
        self.answers["agent"].append((call.name, text))
        self._go_on()

    def expected(self) -> tuple[str, list[Write]]:
        """What the real tool says to the call that waits, and what it writes, on this state."""
        with self.desk.trying():
            return real(self.desk, self.waiting[0])

    @property
    def fidelity(self) -> float:
        """The share of calls that were answered as the real tools would; 1 before there is one."""
        return self.faithful / self.answered if self.answered else 1.0

    def value(self, seat: str) -> float:
        """The agent's: whether its task is done in the world as it was told. The world's: its fidelity, if it was asked anything."""
        if seat == "world":
            return self.fidelity if self.answered else 0.0
        return self._done

    @cached_property
    def _done(self) -> float:
        """How the desk was left: asked only once it is over."""
        ended, wrong = done(self.task, self.desk.rows(), self.desk.ending)
        return float(ended and not wrong)

    def standing(self, seat: str) -> float:
        """The share of the oracle's calls that were made; the world's fidelity."""
        if seat == "world":
            return self.fidelity if self.answered else 0.0
        total = len(self.plan.calls) + 1
        return max(0.0, (total - len(still_to_do(self.task, self.made))) / total)

    def measures(self, seat: str) -> Mapping[str, Any]:
        """Fidelity, and over how many calls."""
        return {"fidelity": self.fidelity, "answered": self.answered}

    def leave(self, seat: str) -> None:
        """Without one of the two it is over, and not done."""
        self.current = None


def real(desk: Desk, call: ToolCall) -> tuple[str, list[Write]]:
    """What a tool says, and what it writes."""
    desk.writes = []
    try:
        text = find_tool(TOOLS, call.name).run(desk, call.arguments)
    except ToolError as error:
        text = f"error: {error}"
    return text, [list(w) for w in desk.writes]


def apply(desk: Desk, writes: Sequence[Any]) -> None:
    """Write rows as they are claimed. Raises ``ToolError``, ``KeyError`` or ``ValueError`` for what no table can hold."""
    for table, key, sign, values in writes:
        if table not in COLUMNS or not set(values) <= set(COLUMNS[table]) - {"id"}:
            raise ToolError(f"there is no such table or column: {table} {sorted(values)}")
        if sign == "=":
            desk.update(table, key, **values)
        elif sign == "-":
            desk.delete(table, key)
        elif sign == "+" and desk.insert(table, **values) != key:
            raise ToolError(f"the next new row of {table} has another id than {key}")
        elif sign not in "=-+":
            raise ToolError(f"{sign!r} is none of =, +, -")


def _plain(text: str) -> str:
    return "\n".join(line.strip() for line in text.strip().splitlines())


def answered(text: str, writes: Sequence[Write]) -> str:
    """An answer of the world: its text, and what it claims to have written."""
    return f"{text}\neffect: {msgspec.json.encode(list(writes)).decode()}"


def faithful(game: Game, seat: str, dice: random.Random) -> str:
    """A world that answers as the database does; an agent that follows the plan."""
    assert isinstance(game, Simulated)
    if seat == "world":
        return answered(*game.expected())
    left = still_to_do(game.task, game.made)
    return print_action("", left[:1])


def sloppy(game: Game, seat: str, dice: random.Random) -> str:
    """A world that forgets, one time in four, to write what it says it wrote, or gets a number wrong where it reads."""
    assert isinstance(game, Simulated)
    if seat == "agent" or dice.random() > 0.25:
        return faithful(game, seat, dice)
    text, writes = game.expected()
    return answered(text, []) if writes else answered(re.sub(r"\d(?=\D*\Z)", str(dice.randint(0, 9)), text), writes)


def by_chance(game: Game, seat: str, dice: random.Random) -> str:
    """A world that says ok to everything and does nothing."""
    return answered("ok", []) if seat == "world" else faithful(game, seat, dice)


PLAYERS: Mapping[str, Player] = {"faithful": faithful, "sloppy": sloppy, "random": by_chance}


def play(task: Task) -> Game:
    """The game of a task."""
    return Simulated(task)


class DeskSimEnv(TalkSeat):
    """A seat at the simulated desk: the agent's, unless told otherwise. Opponents: ``faithful`` (usual), ``sloppy``, ``random``, or a policy."""

    id = "tools/desk-sim-v0"
    capabilities = Capabilities(snapshot=True, seats=("agent", "world"))
    verifiers: ClassVar[Mapping[str, Verifier]] = seat_verdicts(play)
    game = staticmethod(play)
    plays: ClassVar[Mapping[str, Player]] = PLAYERS
    usual: ClassVar[str] = "faithful"
    seat_tools: Mapping[str, Mapping[str, Tool]] = {"agent": TOOLS, "world": {}}
    splits = SPLITS[:3]

    def tasks(self, split: str) -> TaskSet:
        """The desk's own tasks."""
        return tasks_of(split)

    def oracle(self) -> Iterator[str]:
        """The plan's calls; of the world the database's answers."""
        self._require_running()
        if set(self.opponents.values()) != {"faithful"}:
            raise CapabilityError(f"{self.id} has an oracle beside a faithful other alone")
        return self._oracle()

    def _oracle(self) -> Iterator[str]:
        while not self.match.over:
            yield faithful(self.match.game, self.seat, random.Random(0))

    def _artefacts(self) -> Mapping[str, bytes]:
        game = self.match.game
        assert isinstance(game, Simulated)
        return {**super()._artefacts(), "desk.sqlite": game.desk.dump(), "ending.json": msgspec.json.encode(game.desk.ending)}
