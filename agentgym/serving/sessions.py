"""The sessions of a server: environments, who may use them, and when they are over. No transport is known here."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol

import anyio
import msgspec
from msgspec import Struct

from agentgym.core import AgentEnv, EpisodeView, Policy, Snapshot
from agentgym.episode import Episode
from agentgym.errors import CapabilityError, ProtocolError, ResetNeeded, ServerFull, SessionBusy, SessionGone, Unauthorised, UnknownName, UsageError
from agentgym.messages import Tool
from agentgym.picture import packed
from agentgym.policies import resolve as policy_of
from agentgym.quarantine import Quarantine
from agentgym.registry import make, resolve
from agentgym.rollout import Rollout, call
from agentgym.serving import protocol as p


class Recorder(Protocol):
    """What keeps the calls that a session's agent makes of a model."""

    async def over(self, session: Session, /) -> None: ...
    def episode(self, session: Session, /) -> Episode | None: ...


AGENTS = (p.Step, p.Look, p.Choices)
"""What the key of a session allows; the token of the server allows everything."""


class Bounds(Struct, frozen=True):
    """What a server holds: sessions, seconds that one may stand idle, points kept in all and bytes of them, bytes of a message."""

    sessions: int = 4096
    idle_s: float = 1800.0
    points: int = 65_536
    point_bytes: int = 1 << 30
    message_bytes: int = 8 << 20


class Session(Struct):
    """An environment that somebody plays."""

    id: str
    key: str
    env: AgentEnv
    record: bool
    used: float
    busy: bool = False
    script: Iterator[str] = iter(())
    tools: Mapping[str, Tool] = {}


class Sessions:
    """Makes, plays and ends sessions. ``envs`` may be made; ``options`` are given to each; ``oracle`` says whether solutions are told,
    ``plays`` whether whole attempts are played here by policies of the server's own, as workers do: a scripted policy's record tells solutions, too.

    Everything runs on one event loop: what must not interleave is marked ``busy``.
    """

    def __init__(
        self, envs: Iterable[str], *, options: Mapping[str, Any] | None = None, bounds: Bounds | None = None, oracle: bool = False, plays: bool = False
    ) -> None:
        self.envs = [resolve(e) for e in envs]
        self.options, self.bounds, self.oracle = dict(options or {}), bounds or Bounds(), oracle
        self.plays = plays
        self.open: dict[str, Session] = {}
        self.recorder: Recorder | None = None
        self._ending: set[asyncio.Task[None]] = set()
        self._policies: dict[bytes, Policy] = {}
        self._quarantine = Quarantine()
        self._keys: dict[str, str] = {}
        self._gone: OrderedDict[str, str] = OrderedDict()
        self._points: OrderedDict[str, tuple[float, Snapshot]] = OrderedDict()
        self._kept = 0
        self._ops: dict[type[p.Request], Callable[[Session, Any], Any]] = {
            p.Reset: self._reset, p.Step: self._step, p.End: self._end, p.Look: self._look, p.Choices: self._choices,
            p.Consequences: self._consequences, p.Script: self._script, p.Save: self._save, p.Restore: self._restore, p.Tasks: self._tasks,
            p.Grade: self._grade, p.Record: self._record, p.Play: self._play,
        }  # fmt: skip

    async def serve(self, request: p.Request, key: str | None = None) -> Any:
        """The answer to a request other than ``open``. With ``key`` it comes from an agent, who may do no more than play.

        Raises:
            AgentGymError: it is refused.
        """
        session = self.session(request.session)
        if key is not None and (not secrets.compare_digest(key.encode(), session.key.encode()) or not isinstance(request, AGENTS)):
            raise Unauthorised(f"this key does not allow {type(request).__struct_config__.tag}")
        if session.busy:
            raise SessionBusy(f"session {session.id} is answering somebody else")
        if isinstance(request, p.Close):
            self.close(session, "it was closed")
            return {}
        session.used, session.busy = time.monotonic(), True
        try:
            answer = await self._ops[type(request)](session, request)
        finally:
            session.busy, session.used = False, time.monotonic()
        if key is not None and isinstance(answer, p.Shown):  # no reward, no verdict and no hash is an agent's to see
            return p.Shown(answer.observation, terminated=answer.terminated, truncated=answer.truncated, screenshot=answer.screenshot)
        return answer

    def session(self, name: str) -> Session:
        """The session of that name. Raises ``SessionGone``."""
        found = self.open.get(name)
        if found is None:
            raise SessionGone(f"session {name[:40]} is over: {self._gone[name]}" if name in self._gone else f"there is no session {name[:40]!r}")
        return found

    def of_key(self, key: str) -> Session | None:
        """The session that an agent's key is for."""
        return self.open.get(self._keys.get(key, ""))

    def begin(self, request: p.Open) -> p.Opened:
        """A new session. Raises ``ServerFull``, ``ProtocolError`` for another version, and what ``make`` raises."""
        if request.version != p.VERSION:
            raise ProtocolError(f"this server speaks version {p.VERSION} of the protocol, you speak {request.version}: install the same agentgym on both sides")
        if len(self.open) >= self.bounds.sessions:
            raise ServerFull(f"{len(self.open)} sessions are open, which is all that this server holds")
        name = resolve(request.env) if request.env else self.envs[0]
        if name not in self.envs:
            raise UnknownName("environment of this server", request.env, self.envs)
        if request.reward.strip().endswith(".toml"):
            raise UsageError("a reward is named, or written out as an expression; files are read by no server")
        env = make(name, split=request.split, reward=request.reward, **{**request.options, **self.options})
        session = Session(secrets.token_hex(8), secrets.token_urlsafe(16), env, request.record, time.monotonic(), tools=env.tools)
        self.open[session.id] = session
        self._keys[session.key] = session.id
        player = type(env).player is not AgentEnv.player
        return p.Opened(
            session.id, session.key, env.id, [t.spec for t in env.tools.values()], env.capabilities, env.screen, env.metadata["render_modes"],
            list(env.splits), {n: str(r) for n, r in env.rewards.items()}, {n: v.level for n, v in env.verifiers.items()}, player,
        )  # fmt: skip

    def close(self, session: Session, why: str) -> None:
        """End a session, from within the event loop; idempotent."""
        if self.open.pop(session.id, None) is None:
            return
        self._keys.pop(session.key, None)
        self._gone[session.id] = why
        while len(self._gone) > 4096:
            self._gone.popitem(last=False)
        ending = asyncio.get_running_loop().create_task(self._over(session))
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)

    async def _over(self, session: Session) -> None:
        """What takes time at the end of a session that nobody can use any more: grading what was left, and closing the world."""
        try:
            if self.recorder is not None:
                await self.recorder.over(session)
        finally:
            await call(session.env, session.env.close)

    async def aclose(self) -> None:
        """End all sessions; return once their worlds are closed."""
        for session in list(self.open.values()):
            self.close(session, "the server ended")
        await asyncio.gather(*self._ending, return_exceptions=True)

    def reap(self) -> int:
        """End what has stood idle for too long, and forget points that nobody asked for; how many sessions ended."""
        before = time.monotonic() - self.bounds.idle_s
        idle = [s for s in self.open.values() if not s.busy and s.used < before]
        for session in idle:
            self.close(session, f"it stood idle for {self.bounds.idle_s:g} s")
        while self._points and next(iter(self._points.values()))[0] < before:
            self._forget()
        return len(idle)

    def _forget(self) -> None:
        _, (_, point) = self._points.popitem(last=False)
        self._kept -= _size(point)

    # What can be done in a session

    async def _reset(self, session: Session, request: p.Reset) -> p.Shown:
        if self.recorder is not None:
            await self.recorder.over(session)
        options = {"task": request.task} if request.task is not None else None
        observation, info = await call(session.env, session.env.reset, seed=request.seed, options=options)
        return self._shown(session, (observation, 0.0, False, False, info), fresh=True)

    async def _step(self, session: Session, request: p.Step) -> p.Shown:
        return self._shown(session, await call(session.env, session.env.step, request.action))

    async def _end(self, session: Session, request: p.End) -> p.Shown:
        return self._shown(session, await call(session.env, session.env.end, request.reason, request.action))

    async def _look(self, session: Session, request: p.Look) -> p.Shown:
        env = session.env
        if not hasattr(env, "episode"):
            await self._reset(session, p.Reset())
        reason = env.episode.stop_reason
        ended = reason is not None, reason is not None and reason.terminated
        return self._shown(session, (env._observation(), 0.0, ended[1], ended[0] and not ended[1], env._info([], {})), turn=False)

    async def _choices(self, session: Session, request: p.Choices) -> list[str]:
        return list(session.env.choices())

    async def _consequences(self, session: Session, request: p.Consequences) -> dict[str, Any]:
        return dict(session.env.consequences(request.action))

    async def _script(self, session: Session, request: p.Script) -> str | None:
        if request.fresh:
            if request.who not in ("oracle", "player"):
                raise UnknownName("script", request.who, ("oracle", "player"))
            if request.who == "oracle" and not self.oracle:
                raise CapabilityError("this server tells no solutions; start it with --with-oracle if it may")
            session.script = session.env.oracle() if request.who == "oracle" else session.env.player()
        return next(session.script, None)

    async def _save(self, session: Session, request: p.Save) -> str:
        point = await call(session.env, session.env.snapshot)
        if len(self._points) >= self.bounds.points or self._kept + _size(point) > self.bounds.point_bytes:
            raise ServerFull(f"{len(self._points)} points of {self._kept:,} bytes are kept, and this server keeps no more")
        name = secrets.token_hex(8)
        self._points[name] = time.monotonic(), point
        self._kept += _size(point)
        return name

    async def _restore(self, session: Session, request: p.Restore) -> p.Shown:
        if request.point not in self._points:
            raise SessionGone(f"no point {request.point[:40]!r} is kept here: they are forgotten after {self.bounds.idle_s:g} s")
        _, point = self._points[request.point]
        self._points[request.point] = time.monotonic(), point
        self._points.move_to_end(request.point)
        await call(session.env, session.env.restore, point)
        env = session.env
        return self._shown(session, (env._observation(), 0.0, False, False, env._info([], {})), fresh=True, turn=False)

    async def _tasks(self, session: Session, request: p.Tasks) -> Any:
        return list(session.env.taskset.ids()) if request.task is None else self._task(session.env, request.task)

    def _task(self, env: AgentEnv, name: str | None = None) -> dict[str, Any]:
        """A task without its hidden data."""
        task = env.task if name is None else env.taskset.get(name)
        return {"id": task.id, "instruction": task.instruction, "split": task.split, "limits": msgspec.to_builtins(task.limits), "kind": task.kind}

    async def _grade(self, session: Session, request: p.Grade) -> Any:
        env = session.env
        if request.verifier not in env.verifiers:
            raise UnknownName("verifier", request.verifier, env.verifiers)
        try:
            episode = msgspec.msgpack.decode(request.episode, type=Episode)
        except msgspec.MsgspecError as error:
            raise ProtocolError(f"not an episode: {error}") from None
        view = EpisodeView(env.taskset.get(episode.task), episode, request.artefacts)
        return await anyio.to_thread.run_sync(env.verifiers[request.verifier], view)

    async def _record(self, session: Session, request: p.Record) -> Episode:
        lived = self.recorder.episode(session) if self.recorder is not None else None
        if lived is None and not hasattr(session.env, "episode"):
            raise ResetNeeded("no episode has begun")
        return lived or session.env.episode

    async def _play(self, session: Session, request: p.Play) -> p.Played:
        if not self.plays:
            raise CapabilityError("this server plays nothing itself; workers are started with --plays")
        known = msgspec.json.encode((request.policy, request.settings), order="sorted")
        if known not in self._policies:
            self._policies[known] = policy_of(request.policy, **request.settings)
        env = session.env
        rollout = Rollout(
            lambda: env, self._policies[known], max_tokens=request.max_tokens, bounds=request.bounds, prices=request.prices,
            quarantine=self._quarantine, provenance=request.provenance,
        )  # fmt: skip
        episode = await rollout.attempt(env, request.job, request.retry)
        return p.Played(episode, dict(env.artefacts) if episode.status == "valid" else {})

    def _shown(self, session: Session, result: Any, *, fresh: bool = False, turn: bool = True) -> p.Shown:
        """The answer to what changed an environment."""
        observation, reward, terminated, truncated, info = result
        env = session.env
        text = observation if env.screen is None else observation["text"]
        shown = p.Shown(text, info, reward, terminated, truncated)
        if env.screen is not None:
            shown.screenshot = packed(observation["screenshot"])
        if not session.record:
            return shown
        shown.malformed = env._malformed
        if fresh:
            shown.task, shown.digest, shown.seed, shown.limits = self._task(env), env.episode.task_digest, env.episode.seed, env.limits
            if env.tools is not session.tools:
                session.tools, shown.tools = env.tools, [t.spec for t in env.tools.values()]
        elif turn:
            shown.turn = msgspec.structs.replace(env.episode.turns[-1], observation=[], action="")
        if terminated or truncated:
            e = env.episode
            assert e.stop_reason is not None
            shown.ending = p.Ending(e.stop_reason, e.status, e.verdicts, e.closing, dict(env.artefacts), e.fault, e.culprit)
        return shown


def _size(point: Snapshot) -> int:
    return len(point.payload) + len(point.episode) + len(point.scene) + (len(point.picture[1]) if point.picture else 0)
