"""Small environments and policies that tests break on purpose."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from agentgym.core import Action, AgentEnv, Completion, Conversation, EpisodeView, Limits, Scene, StopReason, Task, Verdict
from agentgym.errors import EnvironmentFault, UnknownName
from agentgym.rewards import outcome

LIMITS = Limits()


class Tasks(Sequence[Task]):
    """Task n ends after n + 1 turns."""

    def __init__(self, n: int = 6, limits: Limits = LIMITS) -> None:
        self.n, self.limits = n, limits

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> Task:
        if not 0 <= index < self.n:
            raise IndexError(index)
        return Task(f"t.{index}", f"Say go {index + 1} times.", "train", {"turns": index + 1}, self.limits)

    def ids(self) -> Sequence[str]:
        return [f"t.{i}" for i in range(self.n)]

    def get(self, task_id: str) -> Task:
        if task_id not in self.ids():
            raise UnknownName("task", task_id, self.ids())
        return self[int(task_id[2:])]


class Judge:
    """An outcome verifier that does what it is told."""

    level = "outcome"

    def __init__(self, judge: Callable[[EpisodeView], Any]) -> None:
        self.judge = judge

    def __call__(self, view: EpisodeView) -> Any:
        return self.judge(view)


def all_go(view: EpisodeView) -> Verdict:
    return Verdict.scored(float(all(t.action == "go" for t in view.episode.turns)))


class World(AgentEnv):
    """Say "go" until it ends. ``break_at`` counts down faults of the world."""

    id = "test/world-v0"
    verifiers: Mapping[str, Any] = {"task": Judge(all_go)}
    rewards: Mapping[str, Any] = {"outcome": outcome("task")}
    given = LIMITS
    faults: list[int] = []

    def tasks(self, split: str) -> Tasks:
        return Tasks(limits=self.given)

    def _begin(self, task: Task) -> Scene:
        self.turns = 0
        return self._scene()

    def _advance(self, action: Action) -> Scene:
        self.turns += 1
        if self.faults:
            self.faults.pop()
            raise EnvironmentFault("the container died")
        return self._scene()

    def _scene(self) -> Scene:
        over = self.turns == self.task.data["turns"]
        text = self.task.instruction if self.turns == 0 else f"turn {self.turns} of {self.task.id}"
        return Scene([{"role": "user", "content": text}], str(self.turns), str(self.turns), StopReason.DONE if over else None)

    def oracle(self) -> Iterator[str]:
        while True:
            yield "go"

    def _save(self) -> bytes:
        return str(self.turns).encode()

    def _load(self, payload: bytes) -> None:
        self.turns = int(payload)


class Says:
    """A policy that says one thing."""

    name = "says"

    def __init__(self, text: str = "go", **completion: Any) -> None:
        self.text, self.completion = text, completion

    async def act(self, conversation: Conversation) -> Completion:
        return Completion(self.text, **self.completion)


def wait_for(path: Path, size: int) -> None:
    """Wait until another process has written that many bytes, at most eight seconds."""
    for _ in range(400):
        time.sleep(0.02)
        if path.exists() and path.stat().st_size >= size:
            return
