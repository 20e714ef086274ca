"""Episodes on other processes and machines: each worker is a server (``agentgym serve``) that plays whole attempts and answers with their records.

What is asked and what is kept stays with who asked: a worker that is lost takes nothing with it but the attempts under way, and these are played again
elsewhere. Records come over the workers' own connections; no object store is between. A worker is asked for no more than it has places.
"""

from __future__ import annotations

import importlib
import os
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Protocol

import anyio
import msgspec

from agentgym.core import EpisodeView, Task
from agentgym.errors import MissingExtra, UsageError
from agentgym.registry import resolve
from agentgym.rollout import Job, Rollout
from agentgym.serving import protocol as p
from agentgym.serving.wire import Lost, Wire

START_S, AGAIN_S = 120.0, 30.0
"""So long a worker may take to start, and to start again; after that it is left alone for as long."""


class Servers(Protocol):
    """Where workers run. ``url`` gives the address of one, which is started if it is not there; ``Lost`` after so many seconds."""

    count: int
    token: str

    async def url(self, number: int, patience: float, /) -> str: ...
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
                    worker.url = await self.servers.url(number, AGAIN_S if worker.begun else START_S)
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


class LocalServers:
    """``count`` processes on this machine."""

    def __init__(self, count: int, envs: Sequence[str]) -> None:
        self.count, self.token, self.envs = count, secrets.token_urlsafe(24), list(envs)
        self.processes: dict[int, subprocess.Popen[bytes]] = {}

    async def url(self, number: int, patience: float) -> str:
        """The address of a process, which is started here."""
        try:
            with anyio.fail_after(patience):
                return await anyio.to_thread.run_sync(self._start, number, abandon_on_cancel=True)
        except TimeoutError:
            raise Lost(f"worker {number} did not start within {patience:g} s") from None

    def _start(self, number: int) -> str:
        if (old := self.processes.get(number)) is not None:
            old.kill()
            old.wait()
        command = [sys.executable, "-m", "agentgym", "serve", *self.envs, "--port", "0", "--plays", "--sessions", "65536", "--idle", "86400"]
        started = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env={**os.environ, "AGENTGYM_TOKEN": self.token, "OMP_NUM_THREADS": "1"}
        )
        self.processes[number] = started
        assert started.stdout is not None
        line = started.stdout.readline()
        if not line:
            raise Lost(f"worker {number} did not start")
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

    async def url(self, number: int, patience: float) -> str:
        """The address of an actor, once Ray has started it."""

        async def told() -> str:
            address: str = await self.actors[number].url.remote()
            return address

        try:
            with anyio.fail_after(patience):
                return await told()
        except (TimeoutError, self._ray.exceptions.RayError) as error:
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
