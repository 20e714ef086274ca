"""The verdicts on a seat's episode: what its environment noted of a turn, and how the match came out, by the rules."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Literal

import msgspec
from msgspec import Struct

from agentgym.core import EpisodeView, Task, Verdict
from agentgym.game.match import Game, Match, Move


class Stand(Struct, frozen=True):
    """A step verdict: a number that the seat's environment noted of the turn, such as ``legal`` or ``standing``."""

    fact: str
    level: ClassVar[Literal["step"]] = "step"

    def __call__(self, view: EpisodeView) -> Verdict:
        return Verdict.scored(float(view.episode.turns[-1].facts.get(self.fact, 0.0)))


class Result(Struct, frozen=True):
    """The outcome: the moves of the match, made again by the rules, and what the game is then worth to the seat. Who left it has lost."""

    game: Callable[[Task], Game]
    level: ClassVar[Literal["outcome"]] = "outcome"

    def __call__(self, view: EpisodeView) -> Verdict:
        data = view.artefacts["match.json"]
        if (known := _PLAYED.get((view.episode.task_digest, data))) is not None:
            return known
        seat, moves = msgspec.json.decode(data, type=tuple[str, list[Move]])
        match = Match(self.game(view.task))
        match.again(moves)
        return self.of(match, seat)

    @staticmethod
    def of(match: Match, seat: str) -> Verdict:
        """The verdict on a match that has been played by the rules."""
        told = {"payoff": match.game.rewards[seat], "moves": len(match.moves), "left": {s: str(r) for s, r in match.left.items()}, **match.game.measures(seat)}
        return Verdict.scored(match.game.value(seat) if match.over and seat not in match.left else 0.0, **told)


_PLAYED: dict[tuple[str, bytes], Verdict] = {}
"""Verdicts of the matches that were last played in this process, by task and moves: to make those again would only repeat it."""
REMEMBERED = 4096


def remember(task_digest: str, data: bytes, match: Match, seat: str) -> None:
    """Keep the verdict on a match that this process has just played by the rules."""
    if len(_PLAYED) >= REMEMBERED:
        _PLAYED.clear()
    _PLAYED[task_digest, data] = Result.of(match, seat)
