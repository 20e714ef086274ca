"""Judging an action before it is done, and search at act time: the best of several candidates, another try after a critique, a look ahead."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol

import anyio
import msgspec
from msgspec import Struct

from agentgym.core import AgentEnv, Completion, Conversation, EpisodeView, Message, Policy, Verdict
from agentgym.errors import CapabilityError, PolicyFault, UsageError
from agentgym.policies import attach, resolve
from agentgym.registry import verifier
from agentgym.rewards.settler import Source
from agentgym.verdict import Json


class Proposal(Struct, frozen=True):
    """An action that has not been done: the conversation before it, and what the environment says would come of it (``consequences``)."""

    messages: Sequence[Message]
    action: str
    consequences: Mapping[str, Json] = {}


class Critic(Protocol):
    """Says of each proposal how good it is: a verdict in [0, 1], with what to do instead as its critique. One call judges several."""

    @property
    def level(self) -> Literal["action"]: ...

    def __call__(self, proposals: Sequence[Proposal], /) -> Sequence[Verdict]: ...


def critic(name: str) -> Critic:
    """An installed critic, ``NAME`` or ``NAME:ARGUMENT``. Raises ``UnknownName``, or ``UsageError`` for a verifier of another level."""
    found: Critic = verifier(name)
    if found.level != "action":
        raise UsageError(f"{name} is no critic of actions, but a verifier of level {found.level}")
    return found


class Guided:
    """The best of ``k`` candidates of a policy, by a critic; of equals the first. Only as different as the policy samples.

    The tokens of the candidates that were not taken count in ``usage``, not in the record. Source of the idea: best-of-n at every turn.
    """

    def __init__(self, policy: Policy, judge: Critic, k: int = 4, consequences: Callable[[str], Mapping[str, Json]] | None = None) -> None:
        if k < 1:
            raise UsageError(f"guided needs at least 1 candidate, not {k}")
        self.name = f"guided:{k}/{policy.name}"
        self.policy, self.judge, self.k, self._consequences = policy, judge, k, consequences

    def attach(self, env: AgentEnv) -> Guided:
        """One for the episode that ``env`` has just begun: the critic hears what the environment says of a candidate."""
        return Guided(attach(self.policy, env), self.judge, self.k, env.consequences)

    async def act(self, conversation: Conversation) -> Completion:
        """Sample, judge, choose.

        Raises:
            PolicyFault: the critic has no verdict on any candidate.
        """
        drawn = await _drawn(self.policy, conversation, self.k)
        best = drawn[await anyio.to_thread.run_sync(self._best, conversation.messages, drawn)]
        usage = {key: sum(c.usage.get(key, 0) for c in drawn) for key in best.usage}
        return msgspec.structs.replace(best, usage=usage, waited_s=max(c.waited_s for c in drawn))

    def _best(self, messages: Sequence[Message], drawn: Sequence[Completion]) -> int:
        tell = self._consequences or (lambda action: {})
        verdicts = self.judge([Proposal(messages, c.action, tell(c.action)) for c in drawn])
        values = [v.value if v.status == "scored" and v.value is not None else None for v in verdicts]
        known = [(value, -i) for i, value in enumerate(values) if value is not None]
        if not known:
            raise PolicyFault(f"{self.name}: the critic has no verdict")
        return -max(known)[1]


class Refined:
    """A policy that is told what a critic finds wrong with its action, and may write it again: at most ``rounds`` times, or until it is good enough.

    What it was told is not in the record: the action is. ``queries`` and the tokens of every try are in ``usage``. Sources: "Look Before You Leap: A
    GUI-Critic-R1 Model for Pre-Operative Error Diagnosis in GUI Automation", "Towards Efficient LLM Grounding for Embodied Multi-Agent Collaboration".
    """

    def __init__(
        self, policy: Policy, judge: Critic, rounds: int = 2, bar: float = 0.5, consequences: Callable[[str], Mapping[str, Json]] | None = None
    ) -> None:
        self.name = f"refined:{rounds}/{policy.name}"
        self.policy, self.judge, self.rounds, self.bar, self._consequences = policy, judge, rounds, bar, consequences

    def attach(self, env: AgentEnv) -> Refined:
        """One for the episode that ``env`` has just begun."""
        return Refined(attach(self.policy, env), self.judge, self.rounds, self.bar, env.consequences)

    async def act(self, conversation: Conversation) -> Completion:
        """Write, hear, write again; the best of all tries where none is good enough.

        Raises:
            PolicyFault: the critic has no verdict on the first try.
        """
        tell = self._consequences or (lambda action: {})
        tries: list[tuple[float, int, Completion]] = []
        messages = list(conversation.messages)
        for n in range(self.rounds + 1):
            asked = conversation if n == 0 else msgspec.structs.replace(conversation, messages=messages, prefix=None, seed=conversation.seed * 1009 + n)
            said = await self.policy.act(asked)
            if n:  # sampled after a prompt that is not the environment's: never to be trained on
                said = msgspec.structs.replace(said, tokens=None)
            proposal = Proposal(conversation.messages, said.action, tell(said.action))
            (verdict,) = await anyio.to_thread.run_sync(self.judge, [proposal])
            if verdict.status != "scored" or verdict.value is None:  # nothing can be said of it, so there is nothing to tell
                break
            tries.append((verdict.value, -n, said))
            if verdict.value >= self.bar:
                break
            told: Message = {"role": "user", "content": f"Not done yet. {verdict.critique or 'A critic advises against it.'} Write the action again."}
            messages += [{"role": "assistant", "content": said.action}, told]
        if not tries:
            raise PolicyFault(f"{self.name}: the critic has no verdict")
        best = max(tries, key=lambda t: t[:2])[2]
        usage = {key: sum(c.usage.get(key, 0) for *_, c in tries) for key in best.usage}
        return msgspec.structs.replace(best, usage={**usage, "queries": len(tries)}, waited_s=sum(c.waited_s for *_, c in tries))


class Lookahead:
    """The best of ``k`` candidates by what comes of them: each is played in a fork of the world, and a verifier of turns judges what it then sees.

    The verifier is shown the record alone, without the environment's own verdicts and the task's data: it may not read the answer. For environments that fork.
    Sources: "Rewarding Progress: Scaling Automated Process Verifiers for LLM Reasoning" (search by a process verifier), and best-first search
    with a value model in general.
    """

    def __init__(self, policy: Policy, source: Source, k: int = 4, env: AgentEnv | None = None) -> None:
        if source.level != "step":
            raise UsageError("a look ahead needs a verifier of turns, such as rm:PATH of one trained with level step")
        if getattr(source, "replays", False):
            raise UsageError("a look ahead takes no verifier that plays the world on to its end: that would read the answer")
        self.name = f"lookahead:{k}/{policy.name}"
        self.policy, self.source, self.k, self.env = policy, source, k, env

    def attach(self, env: AgentEnv) -> Lookahead:
        """One for the episode that ``env`` has just begun. Raises ``CapabilityError`` if it cannot be forked."""
        if not env.capabilities.snapshot:
            raise CapabilityError(f"{env.id} cannot be forked, so there is no look ahead")
        return Lookahead(attach(self.policy, env), self.source, self.k, env)

    async def act(self, conversation: Conversation) -> Completion:
        """Sample, play each distinct action in a fork, judge, choose.

        Raises:
            PolicyFault: the verifier has no verdict on any candidate.
        """
        assert self.env is not None
        drawn = await _drawn(self.policy, conversation, self.k)
        actions = list(dict.fromkeys(c.action for c in drawn))
        if len(actions) == 1:
            return drawn[0]
        ahead = [await anyio.to_thread.run_sync(self._ahead, action) for action in actions]
        found = await self.source.judge(ahead, self.policy)
        values = {a: v[-1].value for a, v in zip(actions, found, strict=True) if v and v[-1].status == "scored" and v[-1].value is not None}
        if not values:
            raise PolicyFault(f"{self.name}: the verifier has no verdict")
        chosen = max(values, key=lambda a: (values[a], -actions.index(a)))
        best = next(c for c in drawn if c.action == chosen)
        return msgspec.structs.replace(best, usage={key: sum(c.usage.get(key, 0) for c in drawn) for key in best.usage})

    def _ahead(self, action: str) -> EpisodeView:
        assert self.env is not None
        (fork,) = self.env.fork(1)
        try:
            fork.step(action)
            bare = [msgspec.structs.replace(t, verdicts={}, facts={}) for t in fork.episode.turns]
            task = msgspec.structs.replace(fork.task, data={})
            return EpisodeView(task, msgspec.structs.replace(fork.episode, turns=bare, verdicts={}, terms=[]))
        finally:
            fork.close()


async def _drawn(policy: Policy, conversation: Conversation, k: int) -> list[Completion]:
    """``k`` completions of one conversation, each with a seed of its own."""
    drawn: list[Completion] = [Completion("")] * k

    async def draw(i: int) -> None:
        drawn[i] = await policy.act(msgspec.structs.replace(conversation, seed=conversation.seed * 1009 + i))

    async with anyio.create_task_group() as group:
        for i in range(k):
            group.start_soon(draw, i)
    return drawn


def utility(reward: float, cost: float, weight: float) -> float:
    """What going on with a prefix is worth: expected reward less what it costs. Source: "Zero-Overhead Introspection for Adaptive Test-Time Compute"."""
    return reward - weight * cost


def _three(name: str, argument: str) -> tuple[int, str, str]:
    """``N/WHAT/POLICY``; what stands between the first and the last part may itself hold slashes if it is in brackets: ``4/(rm:a/b)/hf:c``."""
    n, _, rest = argument.partition("/")
    if rest.startswith("("):
        what, _, policy = rest[1:].partition(")/")
    else:
        what, _, policy = rest.partition("/")
    if not n.isdigit() or not policy:
        raise UsageError(f"{name}:N/WHAT/POLICY, such as {name}:4/careful/random or {name}:4/(rm:runs/rm/verifier)/hf:PATH, not {argument!r}")
    return int(n), what, policy


def guided(argument: str = "", **settings: Any) -> Guided:
    """``guided:K/CRITIC/POLICY``, such as ``guided:4/careful/openai:MODEL@URL``.

    Raises:
        UsageError, UnknownName: the text is not of that form, or names what is not installed.
    """
    k, judge, policy = _three("guided", argument)
    return Guided(resolve(policy, **settings), critic(judge), k)


def refined(argument: str = "", **settings: Any) -> Refined:
    """``refined:ROUNDS/CRITIC/POLICY``. Raises as ``guided`` does."""
    rounds, judge, policy = _three("refined", argument)
    return Refined(resolve(policy, **settings), critic(judge), rounds)


def lookahead(argument: str = "", **settings: Any) -> Lookahead:
    """``lookahead:K/VERIFIER/POLICY``, such as ``lookahead:4/(rm:runs/rm/verifier)/hf:PATH``. Raises as ``guided`` does."""
    k, source, policy = _three("lookahead", argument)
    return Lookahead(resolve(policy, **settings), verifier(source), k)
