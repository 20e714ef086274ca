"""Answers as a source: how likely the policy finds the true one, and what another group would vote for."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import ClassVar, Literal

from agentgym.core import Conversation, EpisodeView, Policy, Tokens
from agentgym.errors import CapabilityError
from agentgym.verdict import Verdict
from agentgym_verifiers.rules.match import normal
from agentgym_verifiers.rules.pick import Missing, pick


class Stateless:
    """A source that keeps nothing between episodes."""

    def state(self) -> bytes:
        """Nothing."""
        return b""

    def load_state(self, state: bytes) -> None:
        """Nothing to load."""


class AnswerLikelihood(Stateless):
    """How likely the policy itself finds the known answer after each turn, less how likely before the first.

    The level at turn t is p_t − p_start with p = exp(mean log π(answer | turns so far)), the answer teacher-forced; ``delta`` of it is the
    information gain of each turn, and sums to the gain of the whole episode. The last turn keeps the level before it: there the outcome
    speaks. ``log`` uses mean log π instead. The answer's tokens are scored, never trained on. Source: "Information Gain-based Policy
    Optimization: A Simple and Effective Approach for Multi-Turn LLM Agents".
    """

    level: ClassVar[Literal["step"]] = "step"
    scope: ClassVar[Literal["episode"]] = "episode"
    scores: ClassVar[bool] = True

    def __init__(self, gold: str = "task:answer", log: bool = False) -> None:
        self.gold, self.log = gold, log

    async def judge(self, views: Sequence[EpisodeView], policy: Policy) -> list[list[Verdict]]:
        """A verdict for each turn; all ``invalid`` where the task has no answer, or an episode no tokens."""
        return [await self._of(view, policy) for view in views]

    async def _of(self, view: EpisodeView, policy: Policy) -> list[Verdict]:
        turns = view.episode.turns
        try:
            answer = str(pick(view, self.gold))
        except (KeyError, Missing):
            return [Verdict.invalid(f"the task has no {self.gold}")] * len(turns)
        spoken = len(turns) - (turns[-1].tokens is None and not turns[-1].action)  # a turn at which the episode was cut holds nothing
        if not spoken or any(t.tokens is None for t in turns[:spoken]):
            return [Verdict.invalid("the episode has no token ids", "infra")] * len(turns)
        levels = [await self._level(view, policy, after, answer) for after in range(spoken)]
        levels += levels[-1:] * (len(turns) + 1 - spoken)
        return [Verdict.scored(p - levels[0]) for p in levels[1:]]

    async def _level(self, view: EpisodeView, policy: Policy, turn: int, answer: str) -> float:
        """The likelihood before ``turn`` was sampled."""
        name = f"{view.episode.id}/answer/{turn}"
        score = getattr(policy, "score", None)
        if score is None:
            raise CapabilityError(f"{policy.name} cannot score a continuation; take a policy that owns weights (hf:PATH)")
        logprobs = await score(Conversation(name, [], prefix=_before(view, turn)), answer)
        mean = math.fsum(logprobs) / max(1, len(logprobs))
        return mean if self.log else math.exp(mean)


def _before(view: EpisodeView, turn: int) -> list[Tokens]:
    """The tokens of a turn's segment before its first sampled one."""
    here = view.episode.turns[turn].tokens
    assert here is not None
    head = here.mask.index(1) if 1 in here.mask else len(here.mask)
    earlier = [t.tokens for t in view.episode.turns[:turn] if t.tokens is not None and t.tokens.segment == here.segment]
    return [*earlier, Tokens(here.ids[:head], here.mask[:head], segment=here.segment)]


class Vote(Stateless):
    """1 if an episode's answer is the majority answer of *another* group, that of the analogous task, else 0. No label is needed.

    ``task.data["analogous"]`` names the other task. Its majority (ties: the first in the alphabet) and the entropy of all answers are in
    the evidence; ``collapsed`` is set when a whole batch gives one answer. Source: "Co-Reward: Self-supervised Reinforcement Learning for
    Large Language Model Reasoning via Contrastive Agreement".
    """

    level: ClassVar[Literal["outcome"]] = "outcome"
    scope: ClassVar[Literal["batch"]] = "batch"

    def __init__(self, answer: str = "action", other: str = "task:analogous") -> None:
        self.answer, self.other = answer, other

    async def judge(self, views: Sequence[EpisodeView], policy: Policy) -> list[list[Verdict]]:
        """One verdict for each episode; ``invalid`` where the analogous task was not played."""
        answers = [self._answer(v) for v in views]
        votes: dict[str, Counter[str]] = {}
        for view, answer in zip(views, answers, strict=True):
            votes.setdefault(view.task.id, Counter())[answer] += 1
        every = Counter(answers)
        entropy = -sum(n / len(answers) * math.log(n / len(answers)) for n in every.values())
        return [[self._verdict(v, a, votes, entropy, len(votes) > 1 and len(every) == 1)] for v, a in zip(views, answers, strict=True)]

    def _answer(self, view: EpisodeView) -> str:
        try:
            return normal(str(pick(view, self.answer)))
        except Missing:
            return ""

    def _verdict(self, view: EpisodeView, answer: str, votes: dict[str, Counter[str]], entropy: float, collapsed: bool) -> Verdict:
        other = view.task.data.get(self.other.removeprefix("task:"))
        if other not in votes or other == view.task.id:
            return Verdict.invalid(f"the analogous task {other!r} was not played in this batch", "infra")
        label = min(votes[str(other)].items(), key=lambda item: (-item[1], item[0]))[0]
        return Verdict.scored(float(bool(answer) and answer == label), label=label, entropy=entropy, collapsed=collapsed)
