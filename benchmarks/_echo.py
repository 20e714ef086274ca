"""The echo environment and policy of the rollout benchmark: turn k says "echo: w<k>-<episode>"; the answer is the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from agentgym.core import Action, AgentEnv, Completion, Conversation, EpisodeView, Scene, StopReason, Task, Verdict
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


class EchoTasks(Sequence[Task]):
    """One task per number."""

    def __len__(self) -> int:
        return 100_000

    def __getitem__(self, index: int) -> Task:  # type: ignore[override]  # no slices
        return Task(f"echo.{index}", "Echo each word.", "train", {"number": index})

    def ids(self) -> Sequence[str]:
        return [f"echo.{i}" for i in range(len(self))]

    def get(self, task_id: str) -> Task:
        return self[int(task_id.partition(".")[2])]


class EchoEnv(AgentEnv):
    """Ten words to echo."""

    id = "bench/echo-v0"
    verifiers: ClassVar[Mapping[str, Any]] = {"echoed": Echoed()}
    rewards: ClassVar[Mapping[str, Any]] = {"outcome": outcome("echoed")}

    def tasks(self, split: str) -> EchoTasks:
        return EchoTasks()

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
