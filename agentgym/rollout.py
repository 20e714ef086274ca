"""Many environments × one policy: episodes out, every attempt kept.

An episode of the policy's is data whatever it does. A fault of the world marks the attempt ``invalid`` and is retried in a
fresh environment within a budget. The conversation a policy sees is the messages and nothing else.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import anyio
from msgspec import Struct

from agentgym.core import AgentEnv, Completion, Conversation, EpisodeView, Policy, Tokens
from agentgym.episode import ArtefactStore, Episode, EpisodeStore, Turn
from agentgym.errors import ContextOverflow, EnvironmentFault, Fault, UsageError
from agentgym.messages import Message, assistant_message
from agentgym.policies import attach
from agentgym.quarantine import Quarantine
from agentgym.rewards.settler import Settler
from agentgym.verdict import StopReason


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


class Keep(Struct, frozen=True):
    """Where episodes go: the store acknowledges after fsync; artefacts are kept by content, if anywhere."""

    episodes: EpisodeStore | None = None
    artefacts: ArtefactStore | None = None


class Rollout(Struct, frozen=True):
    """Settings of a rollout. ``make`` gives a new environment; ``late`` settles what ``step`` could not.

    An episode is stored once it is settled: at its end, or with its group where the reward compares a group. ``quarantine`` asks
    verifiers twice now and then. ``max_tokens`` bounds one action, ``episode_tokens`` all that a policy may generate in an episode.
    """

    make: Callable[[], AgentEnv]
    policy: Policy
    concurrency: int = 64
    retries: int = 2
    max_tokens: int | None = None
    episode_tokens: int | None = None
    late: Settler | None = None
    quarantine: Quarantine | None = None
    keep: Keep = Keep()
    provenance: dict[str, Any] = {}
    on_episode: Callable[[Episode], None] | None = None

    async def run(self, jobs: Iterable[Job]) -> list[Episode]:
        """Play all jobs; the last attempt of each, in the order of the jobs."""
        if self.late is not None:
            self.late.fit(self.policy)
        given = list(jobs)
        queue, desk = iter(enumerate(given)), _Desk(self, given)
        finished: dict[int, Episode] = {}
        async with anyio.create_task_group() as group:
            for _ in range(min(self.concurrency, len(given))):
                group.start_soon(self._work, queue, desk, finished)
        return [finished[i] for i in sorted(finished)]

    async def _work(self, queue: Iterator[tuple[int, Job]], desk: _Desk, finished: dict[int, Episode]) -> None:
        """One worker: takes jobs until there are none, keeping its environment between them."""
        env: AgentEnv | None = None
        try:
            for index, job in queue:
                for retry in range(self.retries + 1):
                    env = env or self.make()
                    episode = finished[index] = await self._attempt(env, job, retry)
                    over = episode.status == "valid" or retry == self.retries or self._hopeless(episode)
                    if self.keep.artefacts is not None and episode.status == "valid":
                        episode.artefacts = {n: self.keep.artefacts.put(data) for n, data in env.artefacts.items()}
                    view = EpisodeView(env.task, episode, env.artefacts) if episode.status == "valid" else None
                    await desk.take(episode, view, over)
                    if episode.status != "valid":
                        env.close()
                        env = None
                    if over:
                        break
        finally:
            if env is not None:
                env.close()

    async def _attempt(self, env: AgentEnv, job: Job, retry: int) -> Episode:
        try:
            _, info = await _call(env, env.reset, seed=job.seed, options={"task": job.task})
            self._label(env.episode, job, retry)
            await self.play_on(env, job, info["messages"], [])
        except Fault as fault:
            if not hasattr(env, "episode") or env.episode.task != job.task:
                env.episode = Episode(f"{job.task}#{job.attempt}", env.id, job.task, "", env.split)
                self._label(env.episode, job, retry)
            return _invalid(env.episode, fault)
        if self.quarantine is not None and (found := self.quarantine.inspect(env)) is not None:
            return _invalid(env.episode, found)
        return env.episode

    def _hopeless(self, episode: Episode) -> bool:
        """Whether a fresh environment could not help."""
        return self.quarantine is not None and episode.culprit == "verifier" and bool(self.quarantine.out)

    def _label(self, episode: Episode, job: Job, retry: int) -> None:
        """Which attempt this record is of, and how it came to be."""
        episode.id = f"{job.task}#{job.attempt}" + (f".r{retry}" if retry else "")
        episode.attempt, episode.retry, episode.group = job.attempt, retry, job.group
        episode.policy, episode.provenance = self.policy.name, self.provenance

    async def play_on(self, env: AgentEnv, job: Job, messages: list[Message], prefix: list[Tokens]) -> None:
        """Play from where ``env`` stands to the end; ``messages`` and ``prefix`` are the conversation so far, and its tokens."""
        policy, tools = attach(self.policy, env), [t.spec for t in env.tools.values()]
        name, over = f"{job.group}/{env.episode.id}", env.episode.stop_reason is not None
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

    async def store(self, episodes: list[Episode], views: list[EpisodeView]) -> None:
        """Settle what belongs together, then keep it."""
        if self.late is not None and views:
            await self.late.settle(views, self.policy)
        for episode in episodes:
            if self.keep.episodes is not None:
                await self.keep.episodes.append(episode)
            if self.on_episode is not None:
                self.on_episode(episode)


class _Desk:
    """Where finished attempts wait for those that they are settled with."""

    def __init__(self, rollout: Rollout, jobs: list[Job]) -> None:
        self.rollout, self.scope = rollout, rollout.late.scope if rollout.late else "episode"
        self.missing = Counter(self._place(j.group) for j in jobs)
        self.waiting: dict[str | None, list[Episode]] = defaultdict(list)
        self.views: dict[str | None, list[EpisodeView]] = defaultdict(list)

    def _place(self, group: str | None) -> str | None:
        return group if self.scope == "group" else None

    async def take(self, episode: Episode, view: EpisodeView | None, over: bool) -> None:
        """Take an attempt in, with its view if it is valid; ``over`` if its job will have no other."""
        views = [view] if view is not None else []
        if self.scope == "episode":
            await self.rollout.store([episode], views)
            return
        place = self._place(episode.group)
        self.waiting[place].append(episode)
        self.views[place] += views
        self.missing[place] -= over
        if self.missing[place] == 0:
            await self.rollout.store(self.waiting.pop(place), self.views.pop(place))


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
