"""Subgoals named by a teacher: a bonus for each when it is reached, once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar, Literal

from agentgym.core import EpisodeView, Policy, Task
from agentgym.verdict import Json, Verdict
from agentgym_verifiers.intrinsic.answers import Stateless
from agentgym_verifiers.intrinsic.features import seen_after

Teacher = Callable[[Task], Sequence[str]]


def told_by_task(task: Task) -> Sequence[str]:
    """The subgoals in the task's own data."""
    told: Json = task.data.get("subgoals", [])
    return [str(s) for s in told]


class Subgoals(Stateless):
    """1/n at the turn after which the next of n subgoals is to be seen for the first time, in their order; 0 otherwise.

    The teacher is asked once per episode, after it, and is not needed to act. Sources of the idea: "Words as Beacons: Guiding RL Agents
    with High-Level Language Prompts", "Assessing the Zero-Shot Capabilities of LLMs for Action Evaluation in RL"; how a subgoal is
    recognised (its text occurs in what is seen) is ours.
    """

    level: ClassVar[Literal["step"]] = "step"
    scope: ClassVar[Literal["episode"]] = "episode"

    def __init__(self, teacher: Teacher = told_by_task) -> None:
        self.teacher = teacher

    async def judge(self, views: Sequence[EpisodeView], policy: Policy) -> list[list[Verdict]]:
        """A verdict for each turn."""
        return [self._of(view) for view in views]

    def _of(self, view: EpisodeView) -> list[Verdict]:
        left = [s.casefold() for s in self.teacher(view.task) if s.strip()]
        share, out = 1.0 / max(1, len(left)), []
        for text in seen_after(view.episode):
            reached = 0
            while left and left[0] in text.casefold():
                left.pop(0)
                reached += 1
            out.append(Verdict.scored(reached * share))
        return out
