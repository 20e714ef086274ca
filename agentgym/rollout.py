"""Many environments × one policy: episodes out, every attempt kept.

An episode of the policy's is data whatever it does. A fault of the world marks the attempt ``invalid`` and is retried in a
fresh environment within a budget. The conversation a policy sees is the messages and nothing else.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Literal

import anyio
import msgspec
from anyio.abc import TaskGroup
from msgspec import Struct

from agentgym.budget import Bounds, Meter, Prices
from agentgym.core import AgentEnv, Completion, Conversation, EpisodeView, Policy, Reward, Task, Tokens, Verifier
from agentgym.episode import ArtefactStore, Episode, EpisodeStore, Turn
from agentgym.errors import ContextOverflow, EnvironmentFault, Fault, UsageError
from agentgym.grading import grade, require_valid
from agentgym.messages import Message, assistant_message
from agentgym.policies import attach
from agentgym.quarantine import Quarantine
from agentgym.rewards.settler import Settler
from agentgym.verdict import StopReason

Verifiers = Mapping[str, Verifier]


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
    verifiers twice now and then. ``grade="deferred"`` grades finished episodes on up to ``graders`` threads, beside stepping.
    ``max_tokens`` bounds one action, ``bounds`` an episode; once ``run`` is spent no further episode is begun.
    """

    make: Callable[[], AgentEnv]
    policy: Policy
    concurrency: int = 64
    retries: int = 2
    max_tokens: int | None = None
    bounds: Bounds = Bounds()
    prices: Prices = Prices()
    run_meter: Meter | None = None
    grade: Literal["inline", "deferred"] = "inline"
    graders: int = 4
    late: Settler | None = None
    quarantine: Quarantine | None = None
    keep: Keep = Keep()
    provenance: dict[str, Any] = {}
    on_episode: Callable[[Episode], None] | None = None

    async def run(self, jobs: Iterable[Job]) -> list[Episode]:
        """Play all jobs; the last attempt of each, in the order of the jobs. Fewer come back where the run's meter was spent before."""
        if self.late is not None:
            self.late.fit(self.policy)
        given = list(jobs)
        queue, desk = iter(enumerate(given)), _Desk(self, given)
        async with anyio.create_task_group() as group:
            for _ in range(min(self.concurrency, len(given))):
                group.start_soon(self._work, queue, desk, group)
        await desk.close()
        return [desk.finished[i] for i in sorted(desk.finished)]

    async def _work(self, queue: Iterator[tuple[int, Job]], desk: _Desk, group: TaskGroup) -> None:
        """One worker: takes jobs until there are none, keeping its environment between them."""
        env: AgentEnv | None = None
        try:
            for index, job in queue:
                if self.run_meter is not None and self.run_meter.spent:
                    return
                for retry in range(self.retries + 1):
                    env = env or self._environment()
                    episode = await self._attempt(env, job, retry)
                    if episode.status == "running":
                        group.start_soon(self._graded, index, job, retry, _view(env), env.verifiers, env.reward, desk)
                        break
                    if await self._taken(desk, index, retry, _view(env), episode):
                        break
                    env.close()
                    env = None
                if env is not None and env.episode.status == "invalid":
                    env.close()
                    env = None
        finally:
            if env is not None:
                env.close()

    def _environment(self) -> AgentEnv:
        env = self.make()
        env.deferred = self.grade == "deferred"
        return env

    async def _taken(self, desk: _Desk, index: int, retry: int, view: EpisodeView | None, episode: Episode) -> bool:
        """Hand an attempt in; True if its job needs no other."""
        over = episode.status == "valid" or retry == self.retries or self._hopeless(episode)
        if self.keep.artefacts is not None and episode.status == "valid" and view is not None:
            episode.artefacts = {n: self.keep.artefacts.put(data) for n, data in view.artefacts.items()}
        await desk.take(index, episode, view if episode.status == "valid" else None, over)
        return over

    async def _graded(self, index: int, job: Job, retry: int, view: EpisodeView, verifiers: Verifiers, reward: Reward, desk: _Desk) -> None:
        """Grade a finished episode on a thread; if that fails, play its job again, graded at once."""
        episode = view.episode
        episode.verdicts = await anyio.to_thread.run_sync(grade, verifiers, view, limiter=desk.graders)
        try:
            require_valid(episode.verdicts)
        except Fault as fault:
            _invalid(episode, fault)
        else:
            episode.status = "valid"
            episode.terms = [term for turn in range(len(episode.turns)) for term in reward.at(episode, turn)]
            self._inspect(verifiers, view)
        if await self._taken(desk, index, retry, view, episode):
            return
        for again in range(retry + 1, self.retries + 1):
            env = self.make()
            try:
                episode = await self._attempt(env, job, again)
                if await self._taken(desk, index, again, _view(env), episode):
                    return
            finally:
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
        if env.episode.status == "valid":
            self._inspect(env.verifiers, EpisodeView(env.task, env.episode, env.artefacts))
        return env.episode

    def _inspect(self, verifiers: Verifiers, view: EpisodeView) -> None:
        if self.quarantine is not None and (found := self.quarantine.inspect(verifiers, view)) is not None:
            _invalid(view.episode, found)

    def _hopeless(self, episode: Episode) -> bool:
        """Whether a fresh environment could not help."""
        return self.quarantine is not None and episode.culprit == "verifier" and bool(self.quarantine.out)

    def _label(self, episode: Episode, job: Job, retry: int) -> None:
        """Which attempt this record is of, and how it came to be."""
        episode.id = f"{job.task}#{job.attempt}" + (f".r{retry}" if retry else "")
        episode.attempt, episode.retry, episode.group = job.attempt, retry, job.group
        episode.policy, episode.provenance = self.policy.name, self.provenance
        episode.began = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")

    async def play_on(self, env: AgentEnv, job: Job, messages: list[Message], prefix: list[Tokens]) -> None:
        """Play from where ``env`` stands to the end; ``messages`` and ``prefix`` are the conversation so far, and its tokens."""
        policy, tools = attach(self.policy, env), [t.spec for t in env.tools.values()]
        name, over = f"{job.group}/{env.episode.id}", env.episode.stop_reason is not None
        bounds = msgspec.structs.replace(self.bounds, tokens=_least(self.bounds.tokens, env.limits.max_tokens))
        meter = Meter(bounds, self.run_meter)
        while not over:
            if (spent := meter.spent) is not None:
                await _call(env, env.end, spent)
                return
            began = time.perf_counter()
            conversation = Conversation(name, messages, tools, prefix, _least(self.max_tokens, meter.tokens_left), _deadline(meter), job.seed)
            completion = await _ask(policy, conversation, meter.seconds_left)
            if isinstance(completion, StopReason):
                meter.add(seconds=time.perf_counter() - began)
                await _call(env, env.end, completion)
                return
            generated, allowed = _generated(completion), meter.tokens_left
            cut = _cut(completion, generated, self.max_tokens, allowed)
            result = await (_call(env, env.step, completion.action) if cut is None else _call(env, env.end, cut, completion.action))
            over = result[2] or result[3]
            turn = _complete(env.episode, completion, prefix, began)
            cost = self.prices.of(completion.usage)
            env.episode.cost += cost
            meter.add(generated, turn.duration_s, cost)
            spoken = assistant_message(turn.action, turn.calls, len(env.episode.turns) - 1)
            messages = [*messages, spoken, *result[4]["messages"]]

    async def store(self, episodes: list[Episode], views: list[EpisodeView]) -> None:
        """Settle what belongs together, then keep it."""
        if self.late is not None and views:
            await self.late.settle(views, self.policy)
        for episode in episodes:
            if self.keep.episodes is not None:
                await self.keep.episodes.append(episode)
            if self.on_episode is not None:
                self.on_episode(episode)


def _view(env: AgentEnv) -> EpisodeView:
    """What a verifier, or a source, may see of the episode that has just ended."""
    return EpisodeView(env.task, env.episode, env.artefacts) if hasattr(env, "task") else EpisodeView(Task("", "", ""), env.episode)


async def _ask(policy: Policy, conversation: Conversation, seconds: float | None) -> Completion | StopReason:
    """A completion, or why there is none: the context is full, or the time is up."""
    try:
        with anyio.fail_after(seconds):
            return await policy.act(conversation)
    except ContextOverflow:
        return StopReason.CONTEXT_OVERFLOW
    except TimeoutError:
        if seconds is None:
            raise
        return StopReason.TIMEOUT


def _deadline(meter: Meter) -> float | None:
    return None if meter.seconds_left is None else time.monotonic() + meter.seconds_left


def _complete(episode: Episode, completion: Completion, prefix: list[Tokens], began: float) -> Turn:
    """The policy's part of the turn that the environment has just recorded."""
    turn = episode.turns[-1]
    turn.duration_s = max(0.0, time.perf_counter() - began - completion.waited_s)
    turn.usage = completion.usage
    if completion.tokens is not None:
        turn.tokens = completion.tokens
        prefix.append(completion.tokens)
    return turn


class _Desk:
    """Where finished attempts wait for those that they are settled with, and to be graded."""

    def __init__(self, rollout: Rollout, jobs: list[Job]) -> None:
        self.rollout, self.scope = rollout, rollout.late.scope if rollout.late else "episode"
        self.finished: dict[int, Episode] = {}
        self.missing = Counter(self._place(j.group) for j in jobs)
        self.waiting: dict[str | None, list[Episode]] = defaultdict(list)
        self.views: dict[str | None, list[EpisodeView]] = defaultdict(list)
        self.graders = anyio.CapacityLimiter(rollout.graders)

    def _place(self, group: str | None) -> str | None:
        return group if self.scope == "group" else None

    async def take(self, index: int, episode: Episode, view: EpisodeView | None, over: bool) -> None:
        """Take an attempt in, with its view if it is valid; ``over`` if its job will have no other."""
        self.finished[index] = episode
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

    async def close(self) -> None:
        """Settle what waited for episodes that were not begun."""
        for place in list(self.waiting):
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
