"""``arena/board-v0``: PettingZoo's classic games, one seat of them, in words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from agentgym_verifiers.rules import seat_verdicts

from agentgym.core import Capabilities, Limits, Task, TaskSet, Verifier
from agentgym.errors import UsageError
from agentgym.game import Game, Player
from agentgym_arena import GAMES, PER_GAME
from agentgym_arena.base import ArenaEnv, options_of
from agentgym_arena.classic import READINGS, classic
from agentgym_arena.players import PLAYERS

SOLVED = ("tictactoe", "connect_four", "rps")
"""Games that can always be won by somebody who knows what a scripted opponent will do; at the others chance or length is against it."""
FIRST_SEED = {"train": 0, "dev": 1_000_000, "test": 2_000_000}


def play(task: Task) -> Game:
    """The game of a task."""
    return classic(task.data)


class BoardEnv(ArenaEnv):
    """A board or card game. Options: ``games`` (one or several), ``seat``, and ``opponents``: ``random``, ``greedy``, ``perfect``, ``first-move``, or a policy.

    ``deals`` takes so many of each game alone: what is learned on few is measured on those of another split. ``opening`` lets tasks begin after up to so
    many random moves (where a game has openings: tictactoe 4, connect_four 6, chess 2), where players of one kind would never come.
    """

    id = "arena/board-v0"
    capabilities = Capabilities(snapshot=True, seats=("first", "second"))
    verifiers: ClassVar[Mapping[str, Verifier]] = seat_verdicts(play)
    game = staticmethod(play)
    plays: ClassVar[Mapping[str, Player]] = PLAYERS
    honest: ClassVar[str] = "greedy"

    def __init__(self, *, games: str | Iterable[str] = (), deals: int = 0, opening: int | None = None, **base: Any) -> None:
        if deals < 0:
            raise UsageError(f"deals cannot be {deals}; 0 takes all")
        self._games, self._deals, self._opening = options_of(games, GAMES), deals, opening
        for game in self._games if opening is not None else ():
            if not 0 <= (opening or 0) < max(READINGS[game].quickest, 1):
                raise UsageError(f"an opening of {game} has at most {max(READINGS[game].quickest, 1) - 1} moves, not {opening}")
        super().__init__(**base)

    def tasks(self, split: str) -> TaskSet:
        """The chosen games in turn, each with its own deal and opening."""
        n = min(self._deals or PER_GAME[split], PER_GAME[split])
        return TaskSet([f"{split}/{g}-{i:04d}" for i in range(n) for g in self._games], lambda name: _task(split, name, self._opening))

    def solvable(self) -> bool:
        """Whether somebody who knows the opponents can always win."""
        return self.task.kind in SOLVED


def _task(split: str, name: str, opening: int | None) -> Task:
    game, _, number = name.partition("/")[2].rpartition("-")
    seed = FIRST_SEED[split] + int(number)
    reading = READINGS[game]
    most = reading.opening if opening is None else opening
    data = {"game": game, "seed": seed, "opening": 2 * (seed % (most // 2 + 1))}
    return Task(name, reading.rules, split, data, Limits(max_turns=reading.plies // 2 + 10), kind=game)
