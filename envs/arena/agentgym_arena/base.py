"""What the arena's environments share: rewards, verdicts, an oracle that searches, and tasks by number."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

import msgspec

from agentgym.core import Task, TaskSet
from agentgym.episode import digest
from agentgym.errors import CapabilityError, UnknownName
from agentgym.game import GameEnv, Match
from agentgym.verdict import Json

COUNT = {"train": 2000, "dev": 200, "test": 200}
TRIES = 600
"""So many games to their end are tried before a search gives up."""


def numbered(split: str, make: Callable[[str], Task]) -> TaskSet:
    """Tasks ``SPLIT/NUMBER``, each made from its name."""
    return TaskSet([f"{split}/{i:04d}" for i in range(COUNT[split])], make)


def split_of(data: Mapping[str, Json]) -> str:
    """The split that drawn data belongs to, by its content: nothing can stand in two."""
    return ("train", "train", "train", "train", "train", "train", "dev", "test")[int(digest(msgspec.json.encode(data, order="sorted"))[:8], 16) % 8]


class ArenaEnv(GameEnv):
    """A seat whose oracle looks ahead: it knows the scripted opponents, and tries games to their end until it wins one."""

    honest: ClassVar[str] = "random"

    def oracle(self) -> Iterator[str]:
        """A line of play that succeeds against these very opponents."""
        self._require_running()
        if not self.scripted or not self.solvable():
            raise CapabilityError(f"{self.id} has no oracle for {self.task.id} against these opponents")
        return iter(self._won())

    def solvable(self) -> bool:
        """Whether somebody who knows the opponents can always succeed at this task."""
        return True

    def _won(self) -> list[str]:
        dice, best = random.Random(self.match.luck), (list[str](), -1.0)
        for attempt in range(TRIES):
            trial, own = Match(self.game(self.task), self.match.luck), list[str]()
            trial.again(self.match.moves)
            while (seat := trial.game.current) is not None:
                name = self.opponents.get(seat, self.honest if attempt == 0 else "random")
                roll = dice if seat == self.seat else random.Random(f"{trial.luck}:{len(trial.moves)}")
                action = self.player_of(name)(trial.game, seat, roll)
                own += [action] if seat == self.seat else []
                trial.act(seat, action)
            if (value := trial.game.value(self.seat)) > best[1]:
                best = own, value
            if value == 1.0:
                break
        return best[0]

    def player(self) -> Iterator[str]:
        """The game's own scripted player that reads no more than its seat may see."""
        self._require_running()
        dice = random.Random(self.match.luck + 1)
        while not self.match.over:
            yield self.player_of(self.honest)(self.match.game, self.seat, dice)


def options_of(given: Any, known: tuple[str, ...]) -> tuple[str, ...]:
    """One name or several, all known; none means all."""
    names = tuple(given.split(",")) if isinstance(given, str) and given else tuple(given or known)
    for name in names:
        if name not in known:
            raise UnknownName("game", name, known)
    return names
