"""Many environments × one policy: episodes out, every attempt kept.

An episode of the policy's is data whatever it does. A fault of the world marks the attempt ``invalid`` and is retried in a
fresh environment within a budget. The conversation a policy sees is the messages and nothing else.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from itertools import groupby
from typing import Any, Literal, Protocol

import anyio
import msgspec
from anyio.abc import TaskGroup
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from msgspec import Struct

from agentgym.budget import Bounds, Meter, Prices
from agentgym.core import AgentEnv, Completion, Conversation, EpisodeView, Policy, Task, Tokens, Verifier
from agentgym.episode import ArtefactStore, Episode, EpisodeStore, Turn
from agentgym.errors import ContextOverflow, EnvironmentFault, Fault, MissingExtra, UsageError
from agentgym.game import GameEnv
from agentgym.grading import grade, require_valid
from agentgym.messages import Message, assistant_message
from agentgym.policies import attach
from agentgym.quarantine import Quarantine
from agentgym.rewards.settler import Settler
from agentgym.rewards.spec import Spec
from agentgym.verdict import StopReason

GATHER_S, AHEAD = 0.005, 1024
"""How long a finished episode waits for others to share its fsync, and how many may wait before playing does."""

Verifiers = Mapping[str, Verifier]


class Job(Struct, frozen=True):
    """One episode to play. ``seed`` drives the environment and the policy's sampling.

    Jobs that follow each other and name the same ``match`` are its seats: they are played together, each with a record of its own.
    """

    task: str
    attempt: int = 0
    seed: int = 0
    group: str | None = None
    match: str | None = None
    seat: str = ""

    @property
    def key(self) -> tuple[str, int]:
        """What a run resumes by."""
        return self.task, self.attempt


class Keep(Struct, frozen=True):
    """Where episodes go: the store acknowledges after fsync; artefacts are kept by content, if anywhere."""

    episodes: EpisodeStore | None = None
    artefacts: ArtefactStore | None = None


class Elsewhere(Protocol):
    """Plays attempts at tasks of a split of ``env`` in other processes. Raises a ``Fault`` for one that was lost there."""

    env: str
    split: str

    async def attempt(self, rollout: Rollout, job: Job, retry: int, /) -> EpisodeView: ...


class Rollout(Struct, frozen=True):
    """Settings of a rollout. ``make`` gives a new environment; ``late`` settles what ``step`` could not. ``seats`` play their seats of a match,
    ``policy`` the others.

    An episode is settled and stored after its end, or with its group where the reward compares a group, while others are played;
    ``on_episode`` gets it once it is on disk. ``quarantine`` asks
    verifiers twice now and then. ``grade="deferred"`` grades finished episodes on up to ``graders`` threads, beside stepping.
    ``max_tokens`` bounds one action, ``bounds`` an episode; once ``run`` is spent no further episode is begun. ``elsewhere`` plays the attempts, if
    not this process; all else stays here.
    """

    make: Callable[[], AgentEnv]
    policy: Policy
    seats: Mapping[str, Policy] = {}
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
    elsewhere: Elsewhere | None = None

    async def run(self, jobs: Iterable[Job]) -> list[Episode]:
        """Play all jobs; the last attempt of each, in the order of the jobs. Fewer come back where the run's meter was spent before."""
        if self.late is not None:
            self.late.fit(self.policy)
        given = list(jobs)
        send, receive = anyio.create_memory_object_stream[_Handful](AHEAD)
        tables = [list(those) for _, those in groupby(enumerate(given), lambda each: each[1].match or each[0])]
        queue, desk = iter(tables), _Desk(self, given, send)
        async with anyio.create_task_group() as keeping:
            keeping.start_soon(self._keep, receive)
            async with send:
                async with anyio.create_task_group() as group:
                    for _ in range(min(self.concurrency, len(tables))):
                        group.start_soon(self._work, queue, desk, group)
                await desk.close()
        return [desk.finished[i] for i in sorted(desk.finished)]

    async def _keep(self, receive: MemoryObjectReceiveStream[_Handful]) -> None:
        """Settle what belongs together, in order, then keep it: all that is waiting in one commit. Stepping goes on meanwhile."""
        held: list[_Handful] = []
        async with receive:
            try:
                async for handful in receive:
                    held = [handful]
                    await anyio.sleep(GATHER_S)
                    held += _waiting(receive)
                    ready, held = held, []
                    await self._store(ready)
            finally:
                if self.late is None and (left := [*held, *_waiting(receive)]):
                    with anyio.CancelScope(shield=True):
                        await self._store(left)

    async def _store(self, handfuls: Sequence[_Handful]) -> None:
        for _, views in handfuls:
            if self.late is not None and views:
                await self.late.settle(views, self.policy)
        episodes = [e for those, _ in handfuls for e in those]
        if self.keep.episodes is not None:
            await self.keep.episodes.append(*episodes)
        for episode in episodes:
            if self.on_episode is not None:
                self.on_episode(episode)

    async def _work(self, queue: Iterator[list[tuple[int, Job]]], desk: _Desk, group: TaskGroup) -> None:
        """One worker: takes jobs until there are none, keeping its environment between them."""
        env: AgentEnv | None = None
        try:
            for table in queue:
                if self.run_meter is not None and self.run_meter.spent:
                    return
                index, job = table[0]
                if job.match is not None:
                    await self._match(table, desk)
                    continue
                for retry in range(self.retries + 1):
                    if self.elsewhere is not None:
                        view = await self._sent(self.elsewhere, job, retry)
                        if await self._taken(desk, index, retry, view, view.episode):
                            break
                        continue
                    env = env or self._environment()
                    episode = await self.attempt(env, job, retry)
                    if episode.status == "running":
                        group.start_soon(self._graded, index, job, retry, _view(env), env.verifiers, env.reward, desk)
                        break
                    if await self._taken(desk, index, retry, _view(env), episode):
                        break
                    env.close()
                    env = None
                if env is not None and not env.episode.decided and env.episode.status != "running":
                    env.close()
                    env = None
        finally:
            if env is not None:
                env.close()

    def _environment(self) -> AgentEnv:
        env = self.make()
        env.deferred = self.grade == "deferred"
        return env

    async def _match(self, table: list[tuple[int, Job]], desk: _Desk) -> None:
        """Play the seats of a match beside each other. If a fault ended it, all play it again; who was there for nothing keeps a valid record."""
        jobs = [job for _, job in table]
        for retry in range(self.retries + 1):
            base = self.make()
            if not isinstance(base, GameEnv):
                raise UsageError(f"{base.id} has one seat; matches are of games")
            match = base.new_match(base.taskset.get(jobs[0].task), jobs[0].seed, f"{jobs[0].match}" + (f".r{retry}" if retry else ""))
            match.open |= {job.seat for job in jobs}
            envs = [base.at(job.seat) for job in jobs]
            for env in envs:
                env.sit(match)
            async with anyio.create_task_group() as group:
                for env, job in zip(envs, jobs, strict=True):
                    group.start_soon(self._seat, env, job, retry)
            again = not all(e.episode.decided for e in envs) and retry < self.retries
            for env, (index, _) in zip(envs, table, strict=True):
                await self._taken(desk, index, retry, _view(env), env.episode, over=not again)
                env.close()
            if not again:
                return

    async def _seat(self, env: GameEnv, job: Job, retry: int) -> None:
        """One seat of a match, which it leaves if it cannot go on: nobody waits for it then."""
        try:
            await self.attempt(env, job, retry)
        finally:
            with suppress(EnvironmentFault):
                env.abandon()

    async def _taken(self, desk: _Desk, index: int, retry: int, view: EpisodeView | None, episode: Episode, over: bool | None = None) -> bool:
        """Hand an attempt in; True if its job needs no other."""
        if over is None:
            over = episode.decided or retry == self.retries or self._hopeless(episode)
        if self.keep.artefacts is not None and episode.status == "valid" and view is not None:
            episode.artefacts = {n: self.keep.artefacts.put(data) for n, data in view.artefacts.items()}
        await desk.take(index, episode, view if episode.status == "valid" else None, over)
        return over

    async def _graded(self, index: int, job: Job, retry: int, view: EpisodeView, verifiers: Verifiers, reward: Spec, desk: _Desk) -> None:
        """Grade a finished episode on a thread; if that fails, play its job again, graded at once."""
        episode = view.episode
        episode.verdicts = await anyio.to_thread.run_sync(grade, verifiers, view, limiter=desk.graders)
        try:
            require_valid(episode.verdicts)
        except Fault as fault:
            invalid(episode, fault)
        else:
            episode.status = "valid"
            episode.terms = [term for turn in range(len(episode.turns)) for term in reward.at(episode, turn)]
            self._inspect(verifiers, view)
        if await self._taken(desk, index, retry, view, episode):
            return
        for again in range(retry + 1, self.retries + 1):
            env = self.make()
            try:
                episode = await self.attempt(env, job, again)
                if await self._taken(desk, index, again, _view(env), episode):
                    return
            finally:
                env.close()

    async def _sent(self, elsewhere: Elsewhere, job: Job, retry: int) -> EpisodeView:
        """An attempt that is played elsewhere, or the record of its loss."""
        if self.grade == "deferred":
            raise UsageError("episodes that are played elsewhere are graded there: leave --grade deferred out")
        try:
            view = await elsewhere.attempt(self, job, retry)
        except Fault as fault:
            lost = Episode(f"{job.task}#{job.attempt}", elsewhere.env, job.task, "", elsewhere.split)
            self._label(lost, job, retry)
            return EpisodeView(Task(job.task, "", elsewhere.split), invalid(lost, fault))
        if self.run_meter is not None:
            tokens = sum(t.usage.get("completion_tokens", 0) for t in view.episode.turns)
            self.run_meter.add(tokens, sum(t.duration_s for t in view.episode.turns), view.episode.cost, len(view.episode.turns))
        return view

    async def attempt(self, env: AgentEnv, job: Job, retry: int) -> Episode:
        """One attempt at a job in ``env``, from reset to its end; ``invalid`` if the world failed."""
        before = getattr(env, "episode", None)
        try:
            _, info = await call(env, env.reset, seed=job.seed, options={"task": job.task})
            self._label(env.episode, job, retry)
            await self.play_on(env, job, info["messages"], [])
        except Fault as fault:
            if getattr(env, "episode", None) is before:
                env.episode = Episode(f"{job.task}#{job.attempt}", env.id, job.task, "", env.split)
                self._label(env.episode, job, retry)
            return invalid(env.episode, fault)
        if env.episode.status == "valid":
            self._inspect(env.verifiers, EpisodeView(env.task, env.episode, env.artefacts))
        return env.episode

    def _inspect(self, verifiers: Verifiers, view: EpisodeView) -> None:
        if self.quarantine is not None and (found := self.quarantine.inspect(verifiers, view)) is not None:
            invalid(view.episode, found)

    def _hopeless(self, episode: Episode) -> bool:
        """Whether a fresh environment could not help."""
        return self.quarantine is not None and episode.culprit == "verifier" and bool(self.quarantine.out)

    def _label(self, episode: Episode, job: Job, retry: int) -> None:
        """Which attempt this record is of, and how it came to be."""
        episode.id = f"{job.task}#{job.attempt}" + (f"@{job.seat}" if job.seat else "") + (f".r{retry}" if retry else "")
        episode.attempt, episode.retry, episode.group = job.attempt, retry, job.group
        episode.policy, episode.provenance = self._policy(job).name, {**episode.provenance, **self.provenance}
        episode.began = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")

    def _policy(self, job: Job) -> Policy:
        return self.seats.get(job.seat, self.policy)

    async def play_on(self, env: AgentEnv, job: Job, messages: list[Message], prefix: list[Tokens]) -> None:
        """Play from where ``env`` stands to the end; ``messages`` and ``prefix`` are the conversation so far, and its tokens."""
        policy, tools = attach(self._policy(job), env), [t.spec for t in env.tools.values()]
        env.episode.policy = policy.name
        name, over = f"{job.group}/{env.episode.id}", env.episode.stop_reason is not None
        meter = self._meter(env)
        while not over:
            if meter is not None and (spent := meter.spent) is not None:
                await call(env, env.end, spent)
                return
            began = time.perf_counter()
            left = None if meter is None else meter.tokens_left
            completion = await self._ask(
                policy, Conversation(name, messages, tools, prefix, _least(self.max_tokens, left), _deadline(meter), job.seed, _pictures(env)), meter
            )
            if isinstance(completion, StopReason):
                await call(env, env.end, completion)
                return
            generated = _generated(completion)
            cut = _cut(completion, generated, self.max_tokens, left)
            result = await (call(env, env.step, completion.action) if cut is None else call(env, env.end, cut, completion.action))
            over = result[2] or result[3]
            turn = _complete(env.episode, completion, prefix, time.perf_counter() - began - env.graded_s)
            if completion.usage:
                env.episode.cost += self.prices.of(completion.usage)
            if meter is not None:
                meter.add(generated, turn.duration_s, self.prices.of(completion.usage), 1)
            spoken = assistant_message(turn.action, turn.calls, len(env.episode.turns) - 1)
            messages = [*messages, spoken, *result[4]["messages"]]

    def _meter(self, env: AgentEnv) -> Meter | None:
        """What bounds an episode; None if nothing does."""
        tokens = _least(self.bounds.tokens, env.limits.max_tokens)
        if self.run_meter is None and tokens is None and self.bounds == Bounds():
            return None
        return Meter(msgspec.structs.replace(self.bounds, tokens=tokens), self.run_meter)

    async def _ask(self, policy: Policy, conversation: Conversation, meter: Meter | None) -> Completion | StopReason:
        """A completion, or why there is none: the context is full, or the time is up."""
        began = time.perf_counter()
        try:
            if meter is None or meter.seconds_left is None:
                return await policy.act(conversation)
            with anyio.move_on_after(meter.seconds_left):
                return await policy.act(conversation)
            meter.add(seconds=time.perf_counter() - began)
            return StopReason.TIMEOUT
        except ContextOverflow:
            return StopReason.CONTEXT_OVERFLOW


_Handful = tuple[list[Episode], list[EpisodeView]]
"""Attempts that are settled together, and the views of the valid ones."""


def _waiting(receive: MemoryObjectReceiveStream[_Handful]) -> list[_Handful]:
    """Everything that can be had at once."""
    found: list[_Handful] = []
    with suppress(anyio.WouldBlock, anyio.EndOfStream):
        while True:
            found.append(receive.receive_nowait())
    return found


def _view(env: AgentEnv) -> EpisodeView:
    """What a verifier, or a source, may see of the episode that has just ended."""
    return EpisodeView(env.task, env.episode, env.artefacts) if hasattr(env, "task") else EpisodeView(Task("", "", ""), env.episode)


def _deadline(meter: Meter | None) -> float | None:
    return None if meter is None or meter.seconds_left is None else time.monotonic() + meter.seconds_left


def _complete(episode: Episode, completion: Completion, prefix: list[Tokens], took_s: float) -> Turn:
    """The policy's part of the turn that the environment has just recorded. What it took holds no grading, which is nobody's working time."""
    turn = episode.turns[-1]
    turn.duration_s = max(0.0, took_s - completion.waited_s)
    if completion.usage:
        turn.usage = completion.usage
    if completion.tokens is not None:
        turn.tokens = completion.tokens
        prefix.append(completion.tokens)
    return turn


class _Desk:
    """Where finished attempts wait for those that they are settled with, and to be graded."""

    def __init__(self, rollout: Rollout, jobs: list[Job], send: MemoryObjectSendStream[_Handful]) -> None:
        self.send, self.scope = send, rollout.late.scope if rollout.late else "episode"
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
            await self.send.send(([episode], views))
            return
        place = self._place(episode.group)
        self.waiting[place].append(episode)
        self.views[place] += views
        self.missing[place] -= over
        if self.missing[place] == 0:
            await self.send.send((self.waiting.pop(place), self.views.pop(place)))

    async def close(self) -> None:
        """Settle what waited for episodes that were not begun."""
        for place in list(self.waiting):
            await self.send.send((self.waiting.pop(place), self.views.pop(place)))


async def call(env: AgentEnv, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
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
    except (Fault, UsageError, MissingExtra):
        raise
    except Exception as error:
        raise EnvironmentFault(f"{type(error).__name__} in {env.id}: {error}") from error


def invalid(episode: Episode, fault: Fault) -> Episode:
    """An attempt that says nothing about the policy: no terms, no reward, and whose fault it was."""
    episode.status, episode.stop_reason, episode.terms = "invalid", StopReason.FAULT, []
    episode.culprit, episode.fault = fault.culprit, str(fault)[:2000]  # type: ignore[assignment]  # Fault.culprit is one of Culprit
    return episode


def _pictures(env: AgentEnv) -> Sequence[Any]:
    """What a policy that sees is shown beside the messages: the screen as it is now, where observations have one."""
    return () if env.screen is None or env._shown.screenshot is None else (env._shown.screenshot,)


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
