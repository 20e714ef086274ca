"""What an agent asks of a model, recorded token by token: every call becomes a turn of the episode that its session plays.

The agent is any program that speaks to a model's endpoint; it acts on the world by itself, over MCP or HTTP. A call whose messages go on from what was
said before stays in its segment, so that nothing is ever tokenised again; any other (an agent that shortens its history, or asks beside it) opens a new
one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any

import msgspec
from msgspec import Struct

from agentgym.core import Completion, Conversation, Message, Policy, Tokens, ToolSpec
from agentgym.episode import Episode, EpisodeStore, Turn
from agentgym.errors import Fault
from agentgym.messages import assistant_message, parse_action
from agentgym.rollout import call, invalid
from agentgym.serving.sessions import Session
from agentgym.verdict import StopReason


class _Call(Struct):
    """One call: what was new to the model, what it said, and which verdicts its session had given by then."""

    new: list[Message]
    action: str
    tokens: Tokens | None
    usage: dict[str, int]
    steps: int


class _Thread(Struct):
    """A conversation that only grew: its tools, the messages so far, their tokens. ``busy`` while a call goes on from it, so that another begins its own."""

    name: str
    tools: Sequence[ToolSpec]
    messages: list[Message] = []
    tokens: list[Tokens] = []
    busy: bool = True

    def goes_on(self, messages: Sequence[Message], tools: Sequence[ToolSpec]) -> bool:
        """Whether these messages are what was said here and what the world says to it: an answer that was not sampled here is another history."""
        n = len(self.messages)
        new = messages[n:]
        return not self.busy and bool(new) and tools == self.tools and all(map(_same, self.messages, messages)) and all(m["role"] != "assistant" for m in new)


class _Log(Struct):
    """The calls of one episode of a session; ``world`` is its own record, None until the world has begun."""

    world: Episode | None
    calls: list[_Call] = []
    threads: list[_Thread] = []
    segments: dict[tuple[str, int], int] = {}


class Recorder:
    """Fronts ``policy`` and keeps what it says, by session. Finished episodes go to ``store``, if there is one."""

    def __init__(self, policy: Policy, store: EpisodeStore | None = None) -> None:
        self.policy, self.store = policy, store
        self._logs: dict[str, _Log] = {}
        self._threads = count()

    async def ask(self, session: Session, messages: Sequence[Message], tools: Sequence[ToolSpec], max_tokens: int | None) -> Completion:
        """One completion, recorded. Raises what the policy raises: then nothing is."""
        log = self._log(session)
        steps = len(log.world.turns) if log.world is not None else 0
        thread = next((t for t in reversed(log.threads) if t.goes_on(messages, tools)), None) or _Thread(f"{session.id}/{next(self._threads)}", tools)
        thread.busy = True
        try:
            seed = (log.world.seed or 0 if log.world is not None else 0) + len(log.calls)
            completion = await self.policy.act(Conversation(thread.name, messages, tools, thread.tokens, max_tokens, seed=seed))
        finally:
            thread.busy = False
        if not any(t is thread for t in log.threads):
            log.threads.append(thread)
        tokens = completion.tokens
        if tokens is not None:  # an engine may open a segment for each turn; those of all threads are numbered as they come
            segment = log.segments.setdefault((thread.name, tokens.segment), len(log.segments))
            tokens = msgspec.structs.replace(tokens, segment=segment)
        log.calls.append(_Call(list(messages[len(thread.messages) :]), completion.action, tokens, completion.usage, steps))
        thread.messages = [*messages, _as_answered(completion.action, len(log.calls))]
        thread.tokens = [*thread.tokens, tokens] if tokens is not None else []
        return completion

    def _log(self, session: Session) -> _Log:
        """The log of the episode that the session plays now."""
        world = session.env.episode if hasattr(session.env, "episode") else None
        log = self._logs.setdefault(session.id, _Log(world))
        log.world = log.world or world
        return log

    def episode(self, session: Session) -> Episode | None:
        """The episode of a session as the model lived it: a turn for each call, with the verdicts of what was done before the next, and the world's
        own outcome. None where nothing was asked, or the world has not begun.
        """
        log = self._logs.get(session.id)
        if log is None or not log.calls or (log.world is None and not hasattr(session.env, "episode")):
            return None
        world = self._log(session).world
        assert world is not None
        told = msgspec.structs.replace(world, policy=self.policy.name, turns=[], terms=[], provenance={**world.provenance, "recorded": "model calls"})
        for asked, end in zip(log.calls, [*(c.steps for c in log.calls[1:]), len(world.turns)], strict=True):
            parsed = parse_action(asked.action, max_chars=1 << 20, max_calls=64)
            turn = Turn(asked.new, asked.action, list(parsed.calls), parsed.problem, tokens=asked.tokens, usage=asked.usage)
            done, last = world.turns[asked.steps : end], world.turns[end - 1] if end else None
            turn.state_hash, turn.anchor = (last.state_hash, last.anchor) if last is not None else (world.start_hash, world.start_anchor)
            turn.verdicts = {n: v for t in done for n, v in t.verdicts.items()}
            told.turns.append(turn)
        if world.status != "invalid":
            told.terms = [term for turn in range(len(told.turns)) for term in session.env.reward.at(told, turn)]
        return told

    async def over(self, session: Session) -> None:
        """The session ends, or begins another episode: what was recorded of this one is kept. A world that was left is graded as it stands."""
        env = session.env
        if session.id in self._logs and hasattr(env, "episode") and env.episode.stop_reason is None:
            try:
                await call(env, env.end, StopReason.TIMEOUT)
            except Fault as fault:
                invalid(env.episode, fault)
        episode = self.episode(session)
        self._logs.pop(session.id, None)
        if episode is not None and self.store is not None:
            await self.store.append(episode)


def _as_answered(action: str, turn: int) -> Message:
    """The message that an agent gets, and sends back."""
    return assistant_message(action, parse_action(action, max_chars=1 << 20, max_calls=64).calls, turn)


def _same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two messages say the same; ids of calls are each side's own."""
    return _essence(one) == _essence(other)


def _essence(message: Mapping[str, Any]) -> tuple[Any, ...]:
    calls = [(c["function"]["name"], _object(c["function"]["arguments"])) for c in message.get("tool_calls") or []]
    return message["role"], (message.get("content") or "").strip(), calls


def _object(arguments: Any) -> Any:
    try:
        return msgspec.json.decode(arguments) if isinstance(arguments, str) and arguments else arguments
    except msgspec.MsgspecError:
        return arguments
