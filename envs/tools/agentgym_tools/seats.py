"""The desk as a game: a seat acts by tools and by speech, and its answers come as messages of their tools."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from agentgym_verifiers.rules import Noted

from agentgym.core import Action, Message, Task, Verifier
from agentgym.errors import ToolError
from agentgym.game import Game, GameEnv, Result
from agentgym.messages import Tool, print_action, tool_message
from agentgym.rewards import Spec, delta, outcome, standard, step

MOST_SAID = 2000
"""Characters of a speech that the other gets to hear."""
REWARDS: Mapping[str, Spec] = standard(outcome("result"), 0.02 * step("legal") + 0.2 * delta(step("standing")), step("standing"))


class Desks(Game):
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


def verifiers(game: Callable[[Task], Game]) -> dict[str, Verifier]:
    """The verdicts of such a game's environment, by the maker of its games."""
    return {"legal": Noted(fact="legal"), "standing": Noted(fact="standing", kept=True), "result": Result(game)}


class DeskSeat(GameEnv):
    """A seat at such a game: its calls go to the game as they are. ``seat_tools`` are the tools of each seat."""

    rewards: ClassVar[Mapping[str, Spec]] = REWARDS
    seat_tools: ClassVar[Mapping[str, Mapping[str, Tool]]] = {}

    def __init__(self, **base: Any) -> None:
        super().__init__(**base)
        self.tools = self.seat_tools[self.seat]

    def said(self, action: Action) -> str:
        """The whole action."""
        return print_action(action.prose, action.calls)

    def heard(self) -> list[Message]:
        """The answers to this seat's calls as messages of their tools, then what the other said."""
        game = self.match.game
        assert isinstance(game, Desks)
        turn = len(self.episode.turns) - 1
        messages = [tool_message(turn, i, name, text) for i, (name, text) in enumerate(game.answers[self.seat])]
        messages += [{"role": "user", "content": text} for text in game.said(self.seat)]
        return messages or [{"role": "user", "content": self._view}]
