"""The echo environment and policy of the rollout benchmark: turn k says "echo: w<k>-<episode>"; the answer is the rest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from agentgym.core import Action, AgentEnv, Completion, Conversation, EpisodeView, Scene, StopReason, Task, TaskSet, Verdict
from agentgym.rewards import outcome

TURNS = 10


def words(number: int) -> list[str]:
    """What one episode asks to be echoed."""
    return [f"w{k}-{number}" for k in range(TURNS)]


class Echoed:
    """1 if every action was the word asked for."""

    level = "outcome"

    def __call__(self, view: EpisodeView) -> Verdict:
        return Verdict.scored(float([t.action for t in view.episode.turns] == words(view.task.data["number"])))


TASKS = TaskSet((f"echo.{i}" for i in range(4096)), lambda i: Task(i, "Echo each word.", "train", {"number": int(i.partition(".")[2])}))


class EchoEnv(AgentEnv):
    """Ten words to echo."""

    id = "bench/echo-v0"
    verifiers: ClassVar[Mapping[str, Any]] = {"echoed": Echoed()}
    rewards: ClassVar[Mapping[str, Any]] = {"outcome": outcome("echoed")}

    def tasks(self, split: str) -> TaskSet:
        return TASKS

    def _begin(self, task: Task) -> Scene:
        self._words = words(task.data["number"])
        return self._scene(0)

    def _advance(self, action: Action) -> Scene:
        return self._scene(len(self.episode.turns))

    def _scene(self, turn: int) -> Scene:
        over = turn == TURNS
        return Scene([] if over else [{"role": "user", "content": f"echo: {self._words[turn]}"}], str(turn), str(turn), StopReason.DONE if over else None)


class EchoPolicy:
    """Answers at once."""

    name = "echo"

    async def act(self, conversation: Conversation) -> Completion:
        return Completion(conversation.messages[-1]["content"][6:])
