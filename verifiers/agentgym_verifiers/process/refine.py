"""A further attempt at a task that is told a critique, and what the rule says of it: how useful a critique was."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from agentgym.core import Completion, Conversation, EpisodeView, Message, Policy
from agentgym.errors import Fault
from agentgym.rollout import Job, Rollout
from agentgym.verdict import Verdict
from agentgym_verifiers.credit import again


def told(messages: Sequence[Message], text: str) -> list[Message]:
    """Messages with a text added to the first that is from the user."""
    at = next((i for i, m in enumerate(messages) if m["role"] == "user"), None)
    if not text or at is None:
        return list(messages)
    first = messages[at]
    return [*messages[:at], {**first, "content": f"{first['content']}\n\n{text}"}, *messages[at + 1 :]]


class Told:
    """A policy that is told something more at the beginning. What it samples is of another prompt, so its tokens are not kept."""

    def __init__(self, policy: Policy, text: str) -> None:
        self.policy, self.text, self.name = policy, text, policy.name

    async def act(self, conversation: Conversation) -> Completion:
        """As the policy, told so."""
        said = await self.policy.act(msgspec.structs.replace(conversation, messages=told(conversation.messages, self.text), prefix=None))
        return msgspec.structs.replace(said, tokens=None)


async def refinement(view: EpisodeView, critique: str, policy: Policy, right: bool, weight: float = 0.5) -> Verdict:
    """What a critique of a failed attempt was worth: (1 − weight) if it judged it right, weight if the attempt that was told it succeeds by the rule.

    Source: "RefCritic: Training Long Chain-of-Thought Critic Models with Refinement Feedback"; equal weights are ours.
    """
    job = Job(view.task.id, 0, (view.episode.seed or 0) + 1, f"{view.episode.id}/refined")
    try:
        (made,) = await Rollout(make=lambda: again(view), policy=Told(policy, f"An earlier attempt failed: {critique}")).run([job])
    except Fault as fault:
        return Verdict.invalid(str(fault), "env")
    if made.status != "valid":
        return Verdict.invalid(made.fault or "the attempt is invalid", "env")
    return Verdict.scored((1 - weight) * float(right) + weight * float(made.success), refined=made.success, right=right)
