"""Many environments × one policy: episodes out, every attempt kept.

An episode of the policy's is data whatever it does. A fault of the world marks the attempt ``invalid`` and is retried in a
fresh environment within a budget. The conversation a policy sees is the messages and nothing else.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol

import anyio
from msgspec import Struct

from agentgym.core import AgentEnv, Completion, Conversation, Policy, Tokens
from agentgym.episode import ArtefactStore, Episode, EpisodeStore, Turn
from agentgym.errors import ContextOverflow, EnvironmentFault, Fault, UsageError
from agentgym.messages import Message, assistant_message
from agentgym.policies import attach
from agentgym.verdict import StopReason, Term


class Job(Struct, frozen=True):
    """One episode to play. ``seed`` drives the environment and the policy's sampling."""

    task: str
    attempt: int = 0
    seed: int = 0
    group: str | None = None

    @property
    def key(self) -> tuple[str, int]:
        """What a run resumes by."""
        return self.task, self.attempt


class LateSource(Protocol):
    """Settles terms that need state beyond one record (novelty, models). Called once per valid episode, in order.

    ``state`` and ``load_state`` carry it through a checkpoint.
    """

    def settle(self, episode: Episode, weight: float) -> list[Term]: ...
    def state(self) -> Any: ...
    def load_state(self, state: Any, /) -> None: ...


class Keep(Struct, frozen=True):
    """Where episodes go: the store acknowledges after fsync; artefacts are kept by content, if anywhere."""

    episodes: EpisodeStore | None = None
    artefacts: ArtefactStore | None = None


class Rollout(Struct, frozen=True):
    """Settings of a rollout. ``make`` gives a new environment; ``late`` maps a source's name to it and its weight.

    ``max_tokens`` bounds one action, ``episode_tokens`` all that a policy may generate in an episode.
    """

    make: Callable[[], AgentEnv]
    policy: Policy
    concurrency: int = 64
    retries: int = 2
    max_tokens: int | None = None
    episode_tokens: int | None = None
    late: Mapping[str, tuple[LateSource, float]] = {}
    keep: Keep = Keep()
    provenance: dict[str, Any] = {}
    on_episode: Callable[[Episode], None] | None = None

    async def run(self, jobs: Iterable[Job]) -> list[Episode]:
        """Play all jobs; the last attempt of each, in the order of the jobs."""
        queue = iter(enumerate(jobs))
        finished: dict[int, Episode] = {}
        async with anyio.create_task_group() as group:
            for _ in range(self.concurrency):
                group.start_soon(self._work, queue, finished)
        return [finished[i] for i in sorted(finished)]

    async def _work(self, queue: Iterator[tuple[int, Job]], finished: dict[int, Episode]) -> None:
        """One worker: takes jobs until there are none, keeping its environment between them."""
        env: AgentEnv | None = None
        try:
            for index, job in queue:
                for retry in range(self.retries + 1):
                    env = env or self.make()
                    episode = await self._attempt(env, job, retry)
                    await self._store(env, episode)
                    finished[index] = episode
                    if episode.status == "valid":
                        break
                    env.close()
                    env = None
        finally:
            if env is not None:
                env.close()

    async def _attempt(self, env: AgentEnv, job: Job, retry: int) -> Episode:
        try:
            _, info = await _call(env, env.reset, seed=job.seed, options={"task": job.task})
            self._label(env.episode, job, retry)
            await self._play(env, job, info["messages"])
        except Fault as fault:
            if not hasattr(env, "episode") or env.episode.task != job.task:
                env.episode = Episode(f"{job.task}#{job.attempt}", env.id, job.task, "", env.split)
                self._label(env.episode, job, retry)
            return _invalid(env.episode, fault)
        return env.episode

    def _label(self, episode: Episode, job: Job, retry: int) -> None:
        """Which attempt this record is of, and how it came to be."""
        episode.id = f"{job.task}#{job.attempt}" + (f".r{retry}" if retry else "")
        episode.attempt, episode.retry, episode.group = job.attempt, retry, job.group
        episode.policy, episode.provenance = self.policy.name, self.provenance

    async def _play(self, env: AgentEnv, job: Job, messages: list[Message]) -> None:
        policy, tools = attach(self.policy, env), [t.spec for t in env.tools.values()]
        name, prefix, over = f"{job.group}/{env.episode.id}", list[Tokens](), False
        total = _least(self.episode_tokens, env.limits.max_tokens)
        while not over:
            began = time.perf_counter()
            budget = _least(self.max_tokens, total)
            try:
                if budget is not None and budget <= 0:
                    env.end(StopReason.MAX_TOKENS)
                    return
                completion = await policy.act(Conversation(name, messages, tools, prefix, budget, None, job.seed))
            except ContextOverflow:
                env.end(StopReason.CONTEXT_OVERFLOW)
                return
            generated = _generated(completion)
            cut = _cut(completion, generated, self.max_tokens, total)
            total = None if total is None else total - generated
            if cut is not None:
                result = await _call(env, env.end, cut, completion.action)
            else:
                result = await _call(env, env.step, completion.action)
            over = result[2] or result[3]
            turn = self._complete(env.episode, completion, prefix, began)
            spoken = assistant_message(turn.action, turn.calls, len(env.episode.turns) - 1)
            messages = [*messages, spoken, *result[4]["messages"]]

    def _complete(self, episode: Episode, completion: Completion, prefix: list[Tokens], began: float) -> Turn:
        """The policy's part of the turn that the environment has just recorded."""
        turn = episode.turns[-1]
        turn.duration_s = max(0.0, time.perf_counter() - began - completion.waited_s)
        if completion.tokens is not None:
            turn.tokens = completion.tokens
            prefix.append(completion.tokens)
        return turn

    async def _store(self, env: AgentEnv, episode: Episode) -> None:
        if episode.status == "valid":
            for source, weight in self.late.values():
                episode.terms += source.settle(episode, weight)
            if self.keep.artefacts is not None:
                episode.artefacts = {n: self.keep.artefacts.put(data) for n, data in env.artefacts.items()}
        if self.keep.episodes is not None:
            await self.keep.episodes.append(episode)
        if self.on_episode is not None:
            self.on_episode(episode)


async def _call(env: AgentEnv, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Await its ``areset`` or ``astep`` if it has one; else call inline, or on a thread where the environment blocks.

    An unexpected exception of its own is a fault.
    """
    asynchronous = getattr(env, f"a{method.__name__}", None)
    try:
        if asynchronous is not None:
            return await asynchronous(*args, **kwargs)
        if env.capabilities.blocking:
            return await anyio.to_thread.run_sync(lambda: method(*args, **kwargs))
        return method(*args, **kwargs)
    except (Fault, UsageError):
        raise
    except Exception as error:
        raise EnvironmentFault(f"{type(error).__name__} in {env.id}: {error}") from error


def _invalid(episode: Episode, fault: Fault) -> Episode:
    """An attempt that says nothing about the policy: no terms, no reward, and whose fault it was."""
    episode.status, episode.stop_reason, episode.terms = "invalid", StopReason.FAULT, []
    episode.culprit, episode.fault = fault.culprit, str(fault)[:2000]  # type: ignore[assignment]  # Fault.culprit is one of Culprit
    return episode


def _least(*limits: int | None) -> int | None:
    known = [x for x in limits if x is not None]
    return min(known) if known else None


def _generated(completion: Completion) -> int:
    if completion.tokens is not None:
        return sum(completion.tokens.mask)
    return completion.usage.get("completion_tokens", 0)


def _cut(completion: Completion, generated: int, per_action: int | None, total: int | None) -> StopReason | None:
    """Why a completion must not be executed: given up, or cut by the episode's budget or by the context."""
    if completion.finish == "abort":
        return StopReason.TIMEOUT
    if completion.finish != "length":
        return None
    if total is not None and generated >= total:
        return StopReason.MAX_TOKENS
    known = completion.tokens is not None
    return StopReason.CONTEXT_OVERFLOW if known and (per_action is None or generated < per_action) else None
