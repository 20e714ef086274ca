"""Rewards read from likelihoods, without training: of a strong model over a weak one, of what a user would say next."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from typing import ClassVar, Literal

from agentgym.core import Conversation, EpisodeView, Policy
from agentgym.errors import CapabilityError, ContextOverflow, Fault, UsageError
from agentgym.messages import Message, assistant_message
from agentgym.policies import resolve
from agentgym.verdict import Verdict
from agentgym_verifiers.intrinsic.answers import Stateless


def scorer(name: str) -> Policy:
    """A policy that gives probabilities. Raises ``CapabilityError`` for one that has none."""
    policy = resolve(name)
    if not hasattr(policy, "score"):
        raise CapabilityError(f"{name} gives no probabilities; take a policy that owns weights (hf:PATH)")
    return policy


async def each(views: Sequence[EpisodeView], of: Callable[[EpisodeView], Awaitable[list[Verdict]]], step: bool) -> list[list[Verdict]]:
    """The verdicts of each episode; ``invalid`` where the model fails or has no room for it."""
    out = []
    for view in views:
        try:
            out.append(await of(view))
        except (Fault, ContextOverflow) as fault:
            out.append([Verdict.invalid(str(fault), "infra")] * (len(view.episode.turns) if step else 1))
    return out


async def log_likelihood(policy: Policy, messages: Sequence[Message], text: str) -> float:
    """log p of a text after a conversation."""
    return math.fsum(await policy.score(Conversation("likelihood", messages), text))  # type: ignore[attr-defined]  # ``scorer`` looked


class Ratio(Stateless):
    """log p_strong − log p_weak of each action: ``late('ratio:hf:STRONG|hf:WEAK')``, with a third part told to the strong model first.

    The sum over a turn is its reward, that over an episode is its score; equal models give 0, and models that change places the negative.
    With a model trained on outcomes as the strong one, and what it was made from as the weak one, it is an implicit process reward. Sources:
    "CDR: Customizable Density Ratios of Strong-over-weak LLMs for Preference Annotation", "Process Reinforcement through Implicit Rewards".
    """

    level: ClassVar[Literal["step"]] = "step"
    scope: ClassVar[Literal["episode"]] = "episode"

    def __init__(self, models: str = "", *, strong: Policy | None = None, weak: Policy | None = None, told: str = "") -> None:
        parts = models.split("|")
        if (strong is None or weak is None) and len(parts) not in (2, 3):
            raise UsageError("ratio needs two models: ratio:hf:STRONG|hf:WEAK")
        self.strong, self.weak = strong or scorer(parts[0]), weak or scorer(parts[1])
        self.told = told or (parts[2] if len(parts) == 3 else "")

    async def judge(self, views: Sequence[EpisodeView], policy: Policy) -> list[list[Verdict]]:
        """A verdict for each turn."""
        return await each(views, self._of, step=True)

    async def _of(self, view: EpisodeView) -> list[Verdict]:
        said: list[Message] = []
        first: list[Message] = [{"role": "system", "content": self.told}] if self.told else []
        out = []
        for number, turn in enumerate(view.episode.turns):
            said += turn.observation
            more = await log_likelihood(self.strong, [*first, *said], turn.action) if turn.action else 0.0
            less = await log_likelihood(self.weak, said, turn.action) if turn.action else 0.0
            out.append(Verdict.scored(more - less))
            said.append(assistant_message(turn.action, turn.calls, number))
        return out


GOOD, BAD = "Thank you, that is exactly what I wanted.", "No, that is not what I asked for."


class FollowUp(Stateless):
    """How much likelier a pleased user is after the episode than a displeased one, as a chance: ``late('follow-up:hf:PATH', level='outcome')``.

    σ of the difference of mean log-likelihoods per character. The user's words are scored, never trained on. Source: "Aligning Language
    Models Using Follow-up Likelihood as Reward Signal"; the combination of the two is ours.
    """

    level: ClassVar[Literal["outcome"]] = "outcome"
    scope: ClassVar[Literal["episode"]] = "episode"

    def __init__(self, model: str = "", *, policy: Policy | None = None, good: str = GOOD, bad: str = BAD) -> None:
        if not model and policy is None:
            raise UsageError("follow-up needs a model: follow-up:hf:PATH")
        self.policy, self.good, self.bad = policy or scorer(model), good, bad

    async def judge(self, views: Sequence[EpisodeView], policy: Policy) -> list[list[Verdict]]:
        """One verdict for each."""
        return await each(views, self._of, step=False)

    async def _of(self, view: EpisodeView) -> list[Verdict]:
        said: list[Message] = []
        for number, turn in enumerate(view.episode.turns):
            said += [*turn.observation, assistant_message(turn.action, turn.calls, number)]
        said += view.episode.closing
        ask: Message = {"role": "user", "content": "What does the user say to that?"}
        good, bad = [await log_likelihood(self.policy, [*said, ask], text) / len(text) for text in (self.good, self.bad)]
        return [Verdict.scored(1 / (1 + math.exp(max(-60.0, min(60.0, bad - good)))), good=good, bad=bad)]
