"""Small environments and policies that tests break on purpose."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from agentgym.core import Action, AgentEnv, Completion, Conversation, EpisodeView, Limits, Scene, StopReason, Task, TaskSet, Verdict
from agentgym.errors import EnvironmentFault
from agentgym.rewards import outcome

LIMITS = Limits()


def tasks(n: int = 6, limits: Limits = LIMITS) -> TaskSet:
    """Task n ends after n + 1 turns."""
    return TaskSet([f"t.{i}" for i in range(n)], lambda i: Task(i, f"Say go {int(i[2:]) + 1} times.", "train", {"turns": int(i[2:]) + 1}, limits))


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

    def tasks(self, split: str) -> TaskSet:
        return tasks(limits=self.given)

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
