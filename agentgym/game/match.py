"""A game, and the match that is played of it."""

from __future__ import annotations

import hashlib
import math
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence

import anyio

from agentgym.errors import EnvironmentFault, ToolError
from agentgym.verdict import Json, StopReason

Move = tuple[str, str, str]
"""A seat, ``move`` or ``left``, and its action or its reason."""

Player = Callable[["Game", str, random.Random], str]
"""A scripted player: the game, its seat, its own dice; an action."""


class Game(ABC):
    """An ``AgentGame`` with the parts that all games share. An author sets ``seats``, ``current`` and ``rewards``, and writes ``view`` and ``play``.

    ``current`` is the seat to move, None once it is over; ``rewards`` are the payoffs so far, in [-1, 1]. All chance comes from what the
    game was made with, so that the moves alone say where it stands. ``slip`` is the seat whose last move was in part malformed.
    """

    seats: Sequence[str]
    current: str | None
    rewards: Mapping[str, float]
    slip: str | None = None

    def __init__(self) -> None:
        self.rewards = dict.fromkeys(self.seats, 0.0)
        self.current = self.seats[0]
        self._news: dict[str, list[str]] = {seat: [] for seat in self.seats}

    @abstractmethod
    def view(self, seat: str) -> str:
        """What a seat can see of the position, and what it may do if it is to move."""

    @abstractmethod
    def play(self, action: str) -> None:
        """The move of ``current``. Raises ``ToolError``, the game unchanged, if it is no legal one."""

    def rules(self, seat: str) -> str:
        """What a seat is told before the game."""
        return ""

    def legal(self) -> Sequence[str]:
        """The moves of ``current`` in words; none where it may say anything."""
        return ()

    def value(self, seat: str) -> float:
        """How a game that is over went for a seat, in [0, 1]; 1 is success. Here: won, drawn or lost."""
        return (math.copysign(1, self.rewards[seat]) + 1) / 2 if self.rewards[seat] else 0.5

    def standing(self, seat: str) -> float:
        """How it stands for a seat, in [0, 1], by a rule."""
        return 0.5

    def measures(self, seat: str) -> Mapping[str, Json]:
        """Further numbers of a game that is over: the evidence of its outcome."""
        return {}

    def leave(self, seat: str) -> None:
        """A seat gives up, or can no longer play. Here: it loses, the others win, and the game is over."""
        others = len(self.seats) - 1
        self.rewards = {s: -1.0 if s == seat else 1.0 / others for s in self.seats}
        self.current = None

    def observe(self, seat: str, view: str = "") -> str:
        """What is new to a seat since its own last action, and what it sees (``view``, if it was asked for already)."""
        return "\n".join([*self._news[seat], view or self.view(seat)])

    def tell(self, text: str, *, but: str | None = None) -> None:
        """Say something to every seat, or to all but one."""
        for seat, heard in self._news.items():
            if seat != but:
                heard.append(text)

    def step(self, action: str) -> None:
        """The move of ``current``. Raises ``ToolError``, the game unchanged, if it is no legal one."""
        mover = self.current
        assert mover is not None
        heard, self._news[mover] = self._news[mover], []
        try:
            self.play(action)
        except ToolError:
            self._news[mover] = heard
            raise


def by_chance(game: Game, seat: str, dice: random.Random) -> str:
    """The player ``random``: any legal move."""
    legal = game.legal()
    return dice.choice(legal) if legal else ""


class Match:
    """A game that is being played: its moves, who has left it and why, and whose environments sit at it."""

    def __init__(self, game: Game, luck: int = 0, name: str = "") -> None:
        self.game, self.luck, self.name = game, luck, name
        self.moves: list[Move] = []
        self.left: dict[str, StopReason] = {}
        self.open: set[str] = set()
        self._state = b""
        self._moved: anyio.Event | None = None
        self._asking: anyio.Lock | None = None

    @property
    def over(self) -> bool:
        """Whether nobody is to move any more."""
        return self.game.current is None

    @property
    def void(self) -> bool:
        """Whether a fault, of nobody at the table, ended it."""
        return StopReason.FAULT in self.left.values()

    @property
    def state(self) -> str:
        """Everything the future depends on: the moves so far, and the luck of the opponents."""
        return f"{self.luck}|{self._state.hex()}"

    def act(self, seat: str, action: str) -> None:
        """A seat's move. Raises ``ToolError`` if it is not legal, or not its turn; the game is then unchanged."""
        if self.game.current != seat:
            raise ToolError("it is not your turn" if self.game.current else "the game is over", malformed=True)
        self.game.step(action)
        if self.game.current is not None and self.game.current not in self.game.seats:
            raise EnvironmentFault(f"the game waits for {self.game.current!r}, who has no seat")
        self._note((seat, "move", action))

    def leave(self, seat: str, reason: StopReason) -> None:
        """A seat can no longer play. Raises ``EnvironmentFault`` if the game goes on waiting for it."""
        self.left[seat] = reason
        self.game.leave(seat)
        self._note((seat, "left", str(reason)))
        if self.game.current in self.left:
            raise EnvironmentFault(f"the game waits for {self.game.current!r}, who has left: a deadlock")

    def _note(self, move: Move) -> None:
        self.moves.append(move)
        self._state = hashlib.blake2b(self._state + "\x01".join(move).encode("utf-8", "surrogatepass"), digest_size=12).digest()
        moved, self._moved = self._moved, None
        if moved is not None:
            moved.set()

    def again(self, moves: Sequence[Move]) -> None:
        """Make these moves."""
        for seat, what, text in moves:
            if what == "left":
                self.leave(seat, StopReason(text))
            else:
                self.act(seat, text)

    async def change(self) -> None:
        """Return once somebody has moved or left."""
        self._moved = self._moved or anyio.Event()
        await self._moved.wait()

    @property
    def asking(self) -> anyio.Lock:
        """Held while an opponent thinks, so that it is asked once."""
        self._asking = self._asking or anyio.Lock()
        return self._asking
