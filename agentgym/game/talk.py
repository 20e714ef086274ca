"""Games whose seats act by tools and by speech: the answers to a seat's calls come as messages of their tools."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agentgym.core import Action, Message
from agentgym.errors import ToolError
from agentgym.game.match import Game
from agentgym.game.seat import GameEnv
from agentgym.messages import Tool, print_action, tool_message

MOST_SAID = 2000
"""Characters of a speech that the other gets to hear."""


class Talk(Game):
    """A game whose moves are canonical actions. ``answers`` are those of a seat's last calls, with the name of their tool."""

    def __init__(self) -> None:
        super().__init__()
        self.answers: dict[str, list[tuple[str, str]]] = {seat: [] for seat in self.seats}

    def said(self, seat: str) -> list[str]:
        """What a seat has heard since its own last action."""
        return self._news[seat]

    def view(self, seat: str) -> str:
        """What a seat can see: the answers to its calls, and what it heard."""
        return "\n".join([*(text for _, text in self.answers[seat]), *self.said(seat)]) or ("it is over" if self.current is None else "nothing new")

    def observe(self, seat: str, view: str = "") -> str:
        """The same: nothing else is new."""
        return view or self.view(seat)

    def step(self, action: str) -> None:
        """A move; the answers to the calls before it are no news any more."""
        mover = str(self.current)
        before, self.answers[mover], self.slip = self.answers[mover], [], None
        try:
            super().step(action)
        except ToolError:
            self.answers[mover] = before
            raise


class TalkSeat(GameEnv):
    """A seat at such a game: its calls go to the game as they are. ``seat_tools`` are the tools of each seat."""

    seat_tools: Mapping[str, Mapping[str, Tool]] = {}

    def __init__(self, **base: Any) -> None:
        super().__init__(**base)
        self.tools = self.seat_tools[self.seat]

    def said(self, action: Action) -> str:
        """The whole action."""
        return print_action(action.prose, action.calls)

    def heard(self) -> list[Message]:
        """The answers to this seat's calls as messages of their tools, then what the other said."""
        game = self.match.game
        assert isinstance(game, Talk)
        turn = len(self.episode.turns) - 1
        messages = [tool_message(turn, i, name, text) for i, (name, text) in enumerate(game.answers[self.seat])]
        messages += [{"role": "user", "content": text} for text in game.said(self.seat)]
        return messages or [{"role": "user", "content": self._view}]
