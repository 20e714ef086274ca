"""The outcome of a seat: how its match came out, by the rules."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Literal

import msgspec
from msgspec import Struct

from agentgym.core import EpisodeView, Task, Verdict
from agentgym.game.match import Game, Match, Move


class Result(Struct, frozen=True):
    """The moves of the match, made again by the rules, and what the game is then worth to the seat. Who left it has lost.

    A record whose turns tell other moves than the match has, or that is another seat's, is ``invalid``.
    """

    game: Callable[[Task], Game]
    level: ClassVar[Literal["outcome"]] = "outcome"

    def __call__(self, view: EpisodeView) -> Verdict:
        data, episode = view.artefacts["match.json"], view.episode
        seat, moves = msgspec.json.decode(data, type=tuple[str, list[Move]])
        told = [tuple(move) for turn in episode.turns for move in turn.facts.get("moves", [])]
        if told != moves:
            return Verdict.invalid("the record tells other moves than the match")
        match = _PLAYED.get((episode.env, episode.task_digest, data))
        if match is None:
            match = Match(self.game(view.task))
            match.again(moves)
        if match.game.seats[episode.seat] != seat:
            return Verdict.invalid(f"the record is of seat {episode.seat}, the match's of {seat}")
        return self._of(match, seat)

    def _of(self, match: Match, seat: str) -> Verdict:
        evidence = {"payoff": match.game.rewards[seat], "moves": len(match.moves), "left": {s: str(r) for s, r in match.left.items()}}
        value = match.game.value(seat) if match.over and seat not in match.left else 0.0
        return Verdict.scored(value, **evidence, **match.game.measures(seat))


_PLAYED: dict[tuple[str, str, bytes], Match] = {}
"""The matches that were last played in this process, by environment, task and moves: to make those again would only repeat them."""
REMEMBERED = 128


def remember(env: str, task_digest: str, data: bytes, match: Match) -> None:
    """Keep a match that this process has just played by the rules."""
    if len(_PLAYED) >= REMEMBERED:
        _PLAYED.clear()
    _PLAYED[env, task_digest, data] = match
