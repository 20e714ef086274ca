"""Who takes a seat by name: a scripted player of the game, or any policy."""

from __future__ import annotations

import random
from typing import Any

from agentgym.core import AgentEnv, Completion, Conversation, Policy
from agentgym.errors import UnknownName
from agentgym.game.seat import GameEnv
from agentgym.policies import resolve
from agentgym.registry import installed


class Scripted:
    """A scripted player of a game as a policy: it takes a seat as any other does."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._env: GameEnv | None = None

    def attach(self, env: AgentEnv) -> Scripted:
        """The player at the seat of ``env``."""
        if not isinstance(env, GameEnv) or (self.name != "random" and self.name not in env.plays):
            raise UnknownName("player", self.name, getattr(env, "plays", ()))
        bound = Scripted(self.name)
        bound._env = env
        return bound

    async def act(self, conversation: Conversation) -> Completion:
        """The player's move."""
        assert self._env is not None
        match = self._env.match
        if match.over:
            return Completion("")
        dice = random.Random(f"{match.luck}:{len(match.moves)}")
        return Completion(self._env.player_of(self.name)(match.game, self._env.seat, dice))


def contender(text: str, env: GameEnv, **settings: Any) -> Policy:
    """Who plays by that name: a scripted player of the game, else any policy. Raises ``UnknownName`` if there is neither."""
    if text == "random" or text in env.plays:
        return Scripted(text)
    if text.partition(":")[0] not in installed("policies"):
        raise UnknownName("player", text, {"random", *env.plays, *installed("policies")})
    return resolve(text, **settings)
