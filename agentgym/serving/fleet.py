"""Episodes on other processes and machines: each worker is a server (``agentgym serve``).

A ``Fleet`` has whole attempts played there, by policies that are made there; ``Environments`` has environments there, for a policy that is here. What is
asked and what is kept stays with who asked: a worker that is lost takes nothing with it but the attempts under way, and these are played again elsewhere.
Records come over the workers' own connections; no object store is between.
"""

from __future__ import annotations

import importlib
import os
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import count
from select import select
from typing import Any, Protocol

import anyio
import msgspec

from agentgym.core import AgentEnv, EpisodeView, Task, TaskSet
from agentgym.errors import MissingExtra, UsageError
from agentgym.registry import resolve
from agentgym.rewards.spec import Spec
from agentgym.rollout import Job, Rollout
from agentgym.serving import protocol as p
from agentgym.serving.client import remote
from agentgym.serving.wire import Lost, Wire

START_S, AGAIN_S = 120.0, 30.0
"""So long a worker may take to start, and to start again; after that it is left alone for as long."""


class Servers(Protocol):
    """Where workers run. ``url`` gives the address of one, which is started if it is not there; ``Lost`` after so many seconds."""

    count: int
    token: str

    def url(self, number: int, patience: float, /) -> str: ...
    def close(self) -> None: ...


class _Worker:
    """One worker: its address, how many attempts it plays, connections that wait for the next, and until when it is left alone."""

    def __init__(self) -> None:
        self.url, self.playing, self.idle = "", 0, list[Wire]()
        self.starting, self.begun, self.rests = anyio.Lock(), False, 0.0

    @property
    def there(self) -> bool:
        """Whether it can be asked: it is up, or has not been started, or one may try to start it again."""
        return bool(self.url) or not self.begun or (not self.starting.locked() and time.monotonic() > self.rests)

    def lost(self) -> None:
        """It has gone."""
        self.url, self.idle = "", []


class Fleet:
    """Plays attempts of one environment on ``servers``: a rollout's ``elsewhere``. ``policy`` is made there, by name and ``settings``.

    ``task`` gives a task here, with all that settles a record.
    """

    def __init__(self, servers: Servers, opens: p.Open, policy: str, settings: dict[str, Any], task: Callable[[str], Task]) -> None:
        self.env, self.split = resolve(opens.env), opens.split
        self.servers, self.opens, self.policy, self.settings, self.task = servers, opens, policy, settings, task
        self.workers = [_Worker() for _ in range(servers.count)]

    async def attempt(self, rollout: Rollout, job: Job, retry: int) -> EpisodeView:
        """Play one where least is under way. Raises ``Lost`` if its worker goes."""
        if job.match is not None:
            raise UsageError("the seats of a match are played in one process; leave --workers out")
        number, worker = min(enumerate(self.workers), key=lambda each: (not each[1].there, each[1].playing))
        worker.playing += 1
        try:
            wire = worker.idle.pop() if worker.idle else await self._open(number, worker)
            asked = p.Play(
                "", job, self.policy, retry, self.settings, rollout.max_tokens, rollout.bounds, rollout.prices, {**rollout.provenance, "worker": number}
            )
            try:
                played: p.Played = await wire.aask(asked, p.Played)
            except Lost:
                worker.lost()
                raise
            except BaseException:
                wire.close()
                raise
        finally:
            worker.playing -= 1
        if played.episode.decided:
            worker.idle.append(wire)
        else:
            wire.close()  # and with it a world that has failed
        return EpisodeView(self.task(job.task), played.episode, played.artefacts)

    async def _open(self, number: int, worker: _Worker) -> Wire:
        """A connection with an environment, at a worker that is there."""
        async with worker.starting:
            if not worker.url:
                try:
                    patience = AGAIN_S if worker.begun else START_S
                    worker.url = await anyio.to_thread.run_sync(self.servers.url, number, patience, abandon_on_cancel=True)
                except Lost:
                    worker.rests = time.monotonic() + AGAIN_S
                    raise
                finally:
                    worker.begun = True
        try:
            wire = await anyio.to_thread.run_sync(Wire, worker.url, self.servers.token)
            await wire.aask(self.opens, p.Opened)
        except Lost:
            worker.lost()
            raise
        return wire

    def close(self) -> None:
        """End the workers."""
        for worker in self.workers:
            for wire in worker.idle:
                wire.close()
        self.servers.close()


class Environments:
    """Makes an environment at ``servers`` each time it is called, at the next worker in turn: a session there, an ``AgentEnv`` here.

    A session whose worker is lost has failed as an ``infra`` fault does: a rollout makes another, and plays its attempt again. Lost workers are started
    again meanwhile. ``tasks`` gives the tasks of a split that are here, with all that settles a record.
    """

    def __init__(self, servers: Servers, env: str, tasks: Callable[[str], TaskSet]) -> None:
        self.env, self.servers, self.tasks = resolve(env), servers, tasks
        self._turn, self._starters = count(), ThreadPoolExecutor(servers.count, thread_name_prefix="agentgym-worker")
        self._urls: list[Future[str]] = [self._starters.submit(servers.url, n, START_S) for n in range(servers.count)]

    def __call__(self, *, split: str, reward: str | Spec = "outcome", **options: Any) -> AgentEnv:
        """One more environment. Raises ``Lost`` if no worker is there, and none can be started again."""
        first, deadline = next(self._turn), time.monotonic() + START_S
        while True:
            for number in ((first + i) % self.servers.count for i in range(self.servers.count)):
                found = self._urls[number]
                if found.done() and (made := self._made(number, found, split, reward=reward, **options)) is not None:
                    return made
            if time.monotonic() > deadline:
                raise Lost(f"none of {self.servers.count} workers is there")
            time.sleep(0.02)

    def _made(self, number: int, found: Future[str], split: str, **options: Any) -> AgentEnv | None:
        """An environment at that worker; None, and the worker is started again, if it is not there."""
        try:
            known = remote(self.env, found.result(), self.servers.token)
            here: type[AgentEnv] = type("RemoteEnv", (known,), {"known": staticmethod(self.tasks(split).get)})
            return here(split=split, **options)
        except Lost:
            if self._urls[number] is found:
                self._urls[number] = self._starters.submit(self.servers.url, number, AGAIN_S)
            return None

    def close(self) -> None:
        """End the workers."""
        self._starters.shutdown(wait=False, cancel_futures=True)
        self.servers.close()


@contextmanager
def environments(workers: str, env: AgentEnv) -> Iterator[Environments]:
    """Environments like ``env`` at ``workers`` (``N``, ``ray``, ``ray:N``), for as long as the context lasts."""
    made = Environments(servers_of(workers, [env.id]), env.id, env.tasks)
    try:
        yield made
    finally:
        made.close()


class LocalServers:
    """``count`` processes on this machine."""

    def __init__(self, count: int, envs: Sequence[str]) -> None:
        self.count, self.token, self.envs = count, secrets.token_urlsafe(24), list(envs)
        self.processes: dict[int, subprocess.Popen[bytes]] = {}

    def url(self, number: int, patience: float) -> str:
        """The address of a process, which is started here, in the place of what was there."""
        if (old := self.processes.get(number)) is not None:
            old.kill()
            old.wait()
        command = [sys.executable, "-m", "agentgym", "serve", *self.envs, "--port", "0", "--plays", "--sessions", "65536", "--idle", "86400"]
        started = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env={**os.environ, "AGENTGYM_TOKEN": self.token, "OMP_NUM_THREADS": "1"}
        )
        self.processes[number] = started
        assert started.stdout is not None
        line = started.stdout.readline() if select([started.stdout], [], [], patience)[0] else b""
        if not line:
            raise Lost(f"worker {number} did not start within {patience:g} s")
        url: str = msgspec.json.decode(line)["url"]
        return url

    def close(self) -> None:
        """End the processes."""
        for process in self.processes.values():
            process.kill()
            process.wait()


class RayServers:
    """``count`` actors of a Ray cluster (0: one for each of its CPUs), spread over its nodes; Ray starts one again that is lost.

    ``RAY_ADDRESS`` names the cluster; without it there is one on this machine, for as long as this process runs.

    Raises:
        MissingExtra: Ray is not installed.
    """

    def __init__(self, count: int, envs: Sequence[str]) -> None:
        try:
            ray: Any = importlib.import_module("ray")
        except ImportError:
            raise MissingExtra("ray", "pip install 'agentgym-core[ray]'") from None
        self._mine = not ray.is_initialized()
        if self._mine:
            with suppress(ConnectionError):
                ray.init(address=os.environ.get("RAY_ADDRESS"), include_dashboard=False, log_to_driver=False)
        if not ray.is_initialized():
            raise UsageError(f"no Ray cluster at {os.environ.get('RAY_ADDRESS')}")
        self.count = count or max(1, int(ray.cluster_resources().get("CPU", 1)))
        self.token = secrets.token_urlsafe(24)
        placed = ray.remote(num_cpus=1, max_restarts=-1, max_task_retries=-1, scheduling_strategy="SPREAD")(RayWorker)
        self.actors = [placed.remote(list(envs), self.token) for _ in range(self.count)]
        self._ray = ray

    def url(self, number: int, patience: float) -> str:
        """The address of an actor, once Ray has started it."""
        try:
            address: str = self._ray.get(self.actors[number].url.remote(), timeout=patience)
            return address
        except self._ray.exceptions.RayError as error:  # its time-out is one, too
            raise Lost(f"worker {number} is not there: {type(error).__name__}") from None

    def close(self) -> None:
        """End the actors, and the cluster if it was started here."""
        for actor in self.actors:
            self._ray.kill(actor)
        if self._mine:
            self._ray.shutdown()


class RayWorker:
    """A server on a thread of an actor, at the address by which its node is known in the cluster."""

    def __init__(self, envs: list[str], token: str) -> None:
        import socket

        import uvicorn

        from agentgym.serving.app import Server, alive, settings
        from agentgym.serving.sessions import Bounds, Sessions

        sessions = Sessions(envs, bounds=Bounds(sessions=65_536, idle_s=86_400), plays=True)
        node: str = importlib.import_module("ray").util.get_node_ip_address()
        listening = socket.create_server((node, 0), backlog=4096)
        alive(listening)
        host, port = listening.getsockname()[:2]
        self._url = f"http://{host}:{port}"
        server = uvicorn.Server(uvicorn.Config(Server(sessions, token, hosts=()).app(), **settings(sessions.bounds.message_bytes)))
        threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True).start()
        while not server.started:
            threading.Event().wait(0.01)

    def url(self) -> str:
        """Where it listens."""
        return self._url


def servers_of(text: str, envs: Sequence[str]) -> Servers:
    """``N`` processes here, ``ray`` or ``ray:N`` actors. Raises ``UsageError`` for anything else."""
    kind, _, number = text.partition(":")
    if kind.isdecimal() and not number and int(kind):
        return LocalServers(int(kind), envs)
    if kind == "ray" and (not number or number.isdecimal()):
        return RayServers(int(number or 0), envs)
    raise UsageError(f"--workers is a number, ray, or ray:N, not {text!r}")
