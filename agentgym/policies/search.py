"""Judging an action before it is done, and search at act time: the best of several candidates, by a critic."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol

import anyio
import msgspec
from msgspec import Struct

from agentgym.core import AgentEnv, Completion, Conversation, Message, Policy, Verdict
from agentgym.errors import PolicyFault, UsageError
from agentgym.policies import attach, resolve
from agentgym.registry import verifier
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
        drawn: list[Completion] = [Completion("")] * self.k

        async def draw(i: int) -> None:
            drawn[i] = await self.policy.act(msgspec.structs.replace(conversation, seed=conversation.seed * 1009 + i))

        async with anyio.create_task_group() as group:
            for i in range(self.k):
                group.start_soon(draw, i)
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


def guided(argument: str = "", **settings: Any) -> Guided:
    """``guided:K/CRITIC/POLICY``, such as ``guided:4/careful/openai:MODEL@URL``.

    Raises:
        UsageError, UnknownName: the text is not of that form, or names what is not installed.
    """
    k, _, rest = argument.partition("/")
    judge, _, policy = rest.partition("/")
    if not k.isdigit() or not policy:
        raise UsageError(f"guided:K/CRITIC/POLICY, such as guided:4/careful/random, not {argument!r}")
    return Guided(resolve(policy, **settings), critic(judge), int(k))
