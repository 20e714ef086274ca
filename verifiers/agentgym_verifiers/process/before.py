"""A critic before the act, around any environment."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from agentgym.core import Action, AgentEnv, Scene
from agentgym.errors import UsageError
from agentgym.grading import require_valid
from agentgym.messages import Message, assistant_message, tool_message
from agentgym.policies.search import Critic, Proposal, critic
from agentgym.verdict import Verdict


class Critiqued(AgentEnv):
    """An environment whose actions a critic judges before they touch the world; to be mixed in before the environment's own class.

    ``critic`` is one, or the name of one; without one nothing changes. What it values below ``critic_below`` is bad. Then, by ``critic_mode``:
    ``block``: it is not done, and the critique is the observation; ``suggest``: the same, but the same action again at once is done;
    ``log``: it is done, and the episode is as if nobody had judged. The verdict is the fact ``critic`` of the turn in every mode.
    Source: "Look Before You Leap: A GUI-Critic-R1 Model for Pre-Operative Error Diagnosis in GUI Automation".
    """

    def __init__(
        self, *, critic: str | Critic | None = None, critic_mode: Literal["block", "suggest", "log"] = "block", critic_below: float = 0.5, **base: Any
    ) -> None:
        if critic_mode not in ("block", "suggest", "log"):
            raise UsageError(f"critic_mode is block, suggest or log, not {critic_mode!r}")
        self._critic = _named(critic) if isinstance(critic, str) else critic
        self._mode, self._below = critic_mode, critic_below
        super().__init__(**base)

    def _advance(self, action: Action) -> Scene:
        if self._critic is None:
            return super()._advance(action)  # type: ignore[safe-super]  # the environment's own, after this one in the order of resolution
        verdict = self._judge(self._critic)
        bad = verdict.value is not None and verdict.value < self._below
        held = bad and self._mode != "log" and not (self._mode == "suggest" and self._told())
        scene = self._held(action, verdict) if held else super()._advance(action)  # type: ignore[safe-super]
        told = {"value": verdict.value, "critique": verdict.critique, "held": held}
        return msgspec.structs.replace(scene, facts={**scene.facts, "critic": told})

    def _judge(self, critic: Critic) -> Verdict:
        turns = self.episode.turns
        said: list[Message] = [m for n, t in enumerate(turns[:-1]) for m in (*t.observation, assistant_message(t.action, t.calls, n))]
        action = turns[-1].action
        (verdict,) = critic([Proposal([*said, *turns[-1].observation], action, self.consequences(action))])
        require_valid({"critic": verdict})
        return verdict

    def _told(self) -> bool:
        """Whether this very action was held back just now."""
        turns = self.episode.turns
        before: Any = turns[-2].facts.get("critic") if len(turns) > 1 else None
        return bool(before and before["held"] and turns[-2].action == turns[-1].action)

    def _held(self, action: Action, verdict: Verdict) -> Scene:
        """The world stands still, and the agent is told why."""
        text = f"not done: {verdict.critique or 'the critic advises against it'}" + ("; do it again if you are sure" if self._mode == "suggest" else "")
        turn, shown = len(self.episode.turns) - 1, self._shown
        messages: list[Message] = [tool_message(turn, i, c.name[:80], text) for i, c in enumerate(action.calls)] or [{"role": "user", "content": text}]
        calls: Any = ["ok"] * max(1, len(action.calls))
        return Scene(messages, shown.state, shown.anchor, facts={"calls": calls, "moved": False}, screenshot=shown.screenshot)


def _named(name: str) -> Critic:
    return critic(name)


def critiqued(cls: type[AgentEnv]) -> type[AgentEnv]:
    """Any environment's class, with the options of ``Critiqued``."""
    return type(f"Critiqued{cls.__name__}", (Critiqued, cls), {"id": cls.id, "__module__": cls.__module__})
