"""An environment that is played elsewhere: an ``AgentEnv`` as any other, with the same state hashes and the same record."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any, ClassVar, Literal

import msgspec
import numpy as np

from agentgym.core import AgentEnv, EpisodeView, Limits, Message, Obs, Scene, Snapshot, StepResult, StopReason, Task, TaskSet, Verdict
from agentgym.episode import Episode
from agentgym.errors import ActionTypeError, CapabilityError, EnvironmentClosed, UnknownName, UsageError
from agentgym.messages import Tool, ToolSpec
from agentgym.picture import unpacked
from agentgym.registry import EnvSpec, installed
from agentgym.rewards.spec import Spec, World
from agentgym.rewards.text import load as load_spec
from agentgym.serving import protocol as p
from agentgym.serving.wire import Wire
from agentgym.verdict import Term

MOST = 1 << 20
"""Characters of an action that are sent; no environment reads as many."""


def token() -> str:
    """The bearer token of servers: what ``AGENTGYM_TOKEN`` says."""
    return os.environ.get("AGENTGYM_TOKEN", "")


class RemoteVerifier(msgspec.Struct, frozen=True):
    """A verifier that stays where the world is: it is sent the record and the artefacts."""

    env: type[RemoteEnv]
    name: str
    level: Literal["step", "outcome", "group"]

    def __call__(self, view: EpisodeView) -> Verdict:
        asked = p.Grade("", self.name, msgspec.msgpack.encode(view.episode), dict(view.artefacts))
        wire = Wire(self.env.url, self.env.bearer)
        try:
            wire.ask(p.Open(env=self.env.id, split=view.task.split, options=view.episode.options, version=p.VERSION), p.Opened)
            found: Verdict = wire.ask(asked, Verdict)
            return found
        finally:
            wire.close()


class RemoteTasks(TaskSet):
    """The tasks of a session's split, without what only the server may know of them; asked for when somebody looks."""

    def __init__(self, env: RemoteEnv) -> None:
        self._env, self._key = env, (env.url, env.id, env.split, repr(sorted(env._options.items())))

    def ids(self) -> Sequence[str]:
        """All ids, asked for once."""
        if self._key not in _IDS:
            _IDS[self._key] = tuple(self._env.ask(p.Tasks(), list[str]))
        return _IDS[self._key]

    def __len__(self) -> int:
        return len(self.ids())

    def __getitem__(self, index: int) -> Task:  # type: ignore[override]  # no slices, as in the base
        return self.get(self.ids()[index])

    def get(self, task_id: str) -> Task:
        """The task of that id. Raises ``UnknownName``."""
        return _task(self._env.ask(p.Tasks(task=task_id), dict[str, Any]))


_IDS: dict[tuple[str, str, str, str], tuple[str, ...]] = {}


class RemoteEnv(AgentEnv):
    """A session at a server. Its class, made by ``remote``, knows the ``url`` and what the environment is; ``known`` gives tasks that are here, too."""

    url: ClassVar[str]
    bearer: ClassVar[str]
    offered: ClassVar[EnvSpec]
    known: ClassVar[Callable[[str], Task] | None] = None

    def __init__(self, *, split: str = "train", reward: str | Spec = "outcome", render_mode: str | None = None, **options: Any) -> None:
        if split not in self.splits:
            raise UnknownName("split", split, self.splits)
        if render_mode is not None and render_mode not in self.metadata["render_modes"]:
            raise UnknownName("render mode", render_mode, self.metadata["render_modes"])
        self._wire = Wire(self.url, self.bearer)
        opened = self.ask(p.Open("", self.id, split, str(reward), options, True, p.VERSION), p.Opened)
        self.tools = _tools(opened.tools)
        super().__init__(split=split, reward=reward, render_mode=render_mode)

    def ask(self, request: p.Request, answer: Any) -> Any:
        """One request of this session; the calling thread waits."""
        return self._wire.ask(request, answer)

    def tasks(self, split: str) -> TaskSet:
        """The tasks of the session's split; asked for once."""
        return RemoteTasks(self)

    # What Gymnasium's users call

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Obs, dict[str, Any]]:
        """Begin an episode at the server."""
        return self._begun(self.ask(self._asked(seed, options), p.Shown))

    async def areset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Obs, dict[str, Any]]:
        """The same, on an event loop."""
        return self._begun(await self._wire.aask(self._asked(seed, options), p.Shown))

    def step(self, action: str) -> StepResult:
        """One turn at the server."""
        return self._played(self.ask(self._act(action), p.Shown), action)

    async def astep(self, action: str) -> StepResult:
        """The same, on an event loop."""
        return self._played(await self._wire.aask(self._act(action), p.Shown), action)

    def end(self, reason: StopReason, action: str = "") -> StepResult:
        """Close the episode at the server."""
        self._require_running()
        return self._played(self.ask(p.End("", reason, action[:MOST]), p.Shown), action)

    async def aend(self, reason: StopReason, action: str = "") -> StepResult:
        """The same, on an event loop."""
        self._require_running()
        return self._played(await self._wire.aask(p.End("", reason, action[:MOST]), p.Shown), action)

    def close(self) -> None:
        """End the session; idempotent."""
        super().close()
        self._wire.close()

    def choices(self) -> Sequence[str]:
        """The actions that are possible now."""
        found: list[str] = self.ask(p.Choices(), list[str])
        return found

    def consequences(self, action: str) -> Mapping[str, Any]:
        """What the world says of an action before it is done."""
        found: dict[str, Any] = self.ask(p.Consequences("", action), dict[str, Any])
        return found

    def oracle(self) -> Iterator[str]:
        """The solution, where the server tells it."""
        self._require_running()
        return self._script("oracle")

    def _script(self, who: str) -> Iterator[str]:
        first = self.ask(p.Script("", who), str | None)

        def rest() -> Iterator[str]:
            action = first
            while action is not None:
                yield action
                action = self.ask(p.Script("", who, False), str | None)

        return rest()

    # Snapshots: the server keeps them

    def _save(self) -> bytes:
        name: str = self.ask(p.Save(), str)
        return name.encode()

    def restore(self, snapshot: Snapshot) -> None:
        """Continue from a point that the server keeps."""
        if self._status == "closed":
            raise EnvironmentClosed(f"{self.id} was closed; make a new one")
        if snapshot.env != self.id:
            raise UsageError(f"a snapshot of {snapshot.env} cannot be restored into {self.id}")
        shown = self.ask(p.Restore("", snapshot.payload.decode()), p.Shown)
        self._begun(shown)
        self.episode, self._malformed = msgspec.msgpack.decode(snapshot.episode, type=Episode), snapshot.malformed
        self._show(msgspec.msgpack.decode(snapshot.scene, type=Scene), unpacked(snapshot.picture))

    # The record, as the server's own would be

    @property
    def limits(self) -> Limits:
        """The limits of this episode, as enforced at the server."""
        return self._limits

    _limits: Limits = Limits()

    def _asked(self, seed: int | None, options: dict[str, Any] | None) -> p.Reset:
        if self._status == "closed":
            raise EnvironmentClosed(f"{self.id} was closed; make a new one")
        if unknown := (options or {}).keys() - {"task"}:
            raise UnknownName("reset option", min(unknown), ["task"])
        if seed is not None:
            self._np_random, self._np_random_seed = np.random.default_rng(seed), seed
        return p.Reset("", seed, (options or {}).get("task"))

    def _act(self, action: str) -> p.Step:
        self._require_running()
        if not isinstance(action, str):
            raise ActionTypeError(f"an action is a str, not {type(action).__name__}")
        return p.Step("", action[:MOST].encode("utf-8", "replace").decode())  # what is no text cannot be sent

    def _begun(self, shown: p.Shown) -> tuple[Obs, dict[str, Any]]:
        assert shown.task is not None and shown.limits is not None
        known = type(self).known
        self.task = _task(shown.task) if known is None else known(str(shown.task["id"]))
        self._limits, self._malformed, self._status = shown.limits, shown.malformed, "running"
        self.episode = Episode(
            id=f"{self.task.id}#0", env=self.id, task=self.task.id, task_digest=shown.digest, split=self.split, seed=shown.seed, kind=self.task.kind,
            reward=self.reward_name, limits=msgspec.structs.asdict(shown.limits), options=self._options_to_record(),
        )  # fmt: skip
        self.artefacts = {}
        if shown.tools is not None:
            self.tools = _tools(shown.tools)
        self._take(shown)
        self.episode.start_hash, self.episode.start_anchor = self._hash, self._shown.anchor
        return self._observation(), shown.info

    def _played(self, shown: p.Shown, action: str) -> StepResult:
        assert shown.turn is not None
        turn = msgspec.structs.replace(shown.turn, observation=self._shown.messages, action=action[: self.limits.max_action_chars])
        episode, ending = self.episode, shown.ending
        episode.turns.append(turn)
        episode.terms += msgspec.convert(shown.info["reward_terms"], list[Term])
        self._malformed = shown.malformed
        if ending is not None:
            self._status = "over"
            episode.stop_reason, episode.status, episode.verdicts, episode.closing = ending.stop_reason, ending.status, ending.verdicts, ending.closing
            episode.fault, episode.culprit = ending.fault, ending.culprit
            self.artefacts = ending.artefacts
        self._take(shown)
        return self._observation(), shown.reward, shown.terminated, shown.truncated, shown.info

    def _take(self, shown: p.Shown) -> None:
        messages: list[Message] = shown.info["messages"]
        self._show(Scene(messages, shown.info["state_hash"], shown.info["anchor"]), unpacked(shown.screenshot))

    def _show(self, scene: Scene, screenshot: Any = None) -> None:
        """The scene's ``state`` is the hash that the server told."""
        self._shown, self._hash = msgspec.structs.replace(scene, screenshot=screenshot), scene.state


def _task(told: Mapping[str, Any]) -> Task:
    return msgspec.convert({**told, "data": {}}, Task)


def _tools(specs: Sequence[ToolSpec]) -> dict[str, Tool]:
    return {t.name: Tool(t, msgspec.Struct, _elsewhere, ()) for t in specs}


def _elsewhere(*args: Any, **kwargs: Any) -> Any:
    raise CapabilityError("this tool works at the server")


def _player(self: RemoteEnv) -> Iterator[str]:
    """The honest player, at the server."""
    self._require_running()
    return self._script("player")


def remote(name: str, url: str, bearer: str | None = None) -> type[RemoteEnv]:
    """The class of an environment at a server; without a ``bearer`` the token is what ``AGENTGYM_TOKEN`` says.

    Raises:
        Lost, Unauthorised: the server is not there, or does not take the token.
        UnknownName: it serves no such environment.
    """
    return _remote(name, url, token() if bearer is None else bearer)


@cache
def _remote(name: str, url: str, bearer: str) -> type[RemoteEnv]:
    wire = Wire(url, bearer)
    try:
        offered = wire.ask(p.Offer(), list[EnvSpec])
        full = {e.id: e for e in offered} | {e.id.rpartition("-v")[0]: e for e in sorted(offered, key=lambda e: e.id)}
        if name not in full:
            raise UnknownName(f"environment of {url}", name, [e.id for e in offered])
        spec = full[name]
        opened: p.Opened = wire.ask(p.Open(env=spec.id, split=next(iter(spec.splits)), version=p.VERSION), p.Opened)
    finally:
        wire.close()
    here = msgspec.structs.replace(spec, id=f"{spec.id}@{url}", entry_point="", requires=(), install="", vector="")
    world = World(dict(opened.verifiers), dict.fromkeys(installed("verifiers"), ""))
    known = {
        "id": spec.id, "url": url, "bearer": bearer,
        "offered": here, "capabilities": opened.capabilities, "screen": opened.screen, "splits": tuple(opened.splits),
        "rewards": {n: load_spec(text, world) for n, text in opened.rewards.items()},
        "metadata": {**AgentEnv.metadata, "render_modes": opened.render_modes}, "__doc__": f"{spec.id} at {url}.",
        **({"player": _player} if opened.player else {}),
    }  # fmt: skip
    cls: type[RemoteEnv] = type("RemoteEnv", (RemoteEnv,), known)
    cls.verifiers = {n: RemoteVerifier(cls, n, level) for n, level in opened.verifiers.items()}
    return cls
