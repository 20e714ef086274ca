"""A served environment against OpenEnv in the same run: one session, 64 and 256, and two thousand that are held. One JSON line.

OpenEnv runs in an environment of its own (``--peers``); its server is started here, and the same client talks to both. Without it our numbers alone
are printed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import anyio
import httpx
from websockets.asyncio.client import ClientConnection, connect

import agentgym
from agentgym.policies import resolve
from agentgym.rollout import Job, Rollout
from agentgym.serving import protocol
from agentgym.serving.fleet import Fleet, servers_of

ROUNDS = 5
TEXT = "the quick brown fox jumps over the lazy dog"
ECHO = """
import sys
from importlib.metadata import EntryPoint
import uvicorn
from agentgym.core import AgentEnv, Limits, Scene, Task, TaskSet, Verdict
from agentgym.registry import EnvSpec, installed
from agentgym.rewards import outcome, standard
from agentgym.serving.app import Server, alive, settings
from agentgym.serving.sessions import Sessions

class Done:
    level = "outcome"
    def __call__(self, view):
        return Verdict.scored(1.0)

class Echo(AgentEnv):
    id = "bench/echo-v0"
    verifiers = {"done": Done()}
    rewards = standard(outcome("done"), outcome("done"), outcome("done"))
    def tasks(self, split):
        return TaskSet(["a"], lambda name: Task(name, "ready", split, limits=Limits(max_turns=1 << 30)))
    def _begin(self, task):
        self.n = 0
        return Scene([{"role": "user", "content": "ready"}], "0", "ready")
    def _advance(self, action):
        self.n += 1
        return Scene([{"role": "user", "content": action.prose}], str(self.n), action.prose)

SPEC = EnvSpec("bench/echo-v0", "__main__:Echo", "bench", "echo", {"train": 1})
installed("environments")["bench/echo-v0"] = EntryPoint("bench/echo-v0", "__main__:SPEC", "agentgym.environments")
sessions = Sessions(["bench/echo", "tools/desk"])
import socket
listening = socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=4096)
alive(listening)
uvicorn.Server(uvicorn.Config(Server(sessions, "benchmark").app(), **settings(sessions.bounds.message_bytes))).run(sockets=[listening])
"""
SERVER = """
import sys
from openenv.core.env_server.http_server import create_fastapi_app
from openenv.core.env_server.interfaces import Environment
from openenv.core.env_server.types import Action, Observation, State
class A(Action):
    message: str
class O(Observation):
    echo: str = ""
class E(Environment):
    SUPPORTS_CONCURRENT_SESSIONS = True
    def __init__(self):
        super().__init__()
        self._s = State(episode_id="0", step_count=0)
    def reset(self, seed=None, episode_id=None, **kw):
        self._s = State(episode_id=episode_id or "0", step_count=0)
        return O(echo="ready", done=False, reward=0.0)
    def step(self, action, timeout_s=None, **kw):
        self._s.step_count += 1
        return O(echo=action.message, done=False, reward=1.0)
    @property
    def state(self):
        return self._s
app = create_fastapi_app(E, A, O, max_concurrent_envs=4096)
import uvicorn
uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="error", ws_max_size=1 << 24)
"""
OURS = {"open": {"op": "open", "env": "bench/echo", "version": 1}, "reset": {"op": "reset", "seed": 1}, "step": {"op": "step", "action": TEXT}}
THEIRS = {"reset": {"type": "reset", "data": {}}, "step": {"type": "step", "data": {"message": TEXT}}}
HEADERS = {"Authorization": "Bearer benchmark"}


@contextlib.contextmanager
def running(python: str, script: str) -> Iterator[tuple[int, int]]:
    """A server of that script: its process id and port."""
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.NamedTemporaryFile("w", suffix=".py") as file:
        file.write(script)
        file.flush()
        process = subprocess.Popen([python, file.name, str(port)])
        try:
            for _ in range(600):
                with contextlib.suppress(httpx.HTTPError):
                    httpx.get(f"http://127.0.0.1:{port}/health", timeout=1)
                    break
                if process.poll() is not None:
                    raise SystemExit("the server did not start")
                time.sleep(0.05)
            yield process.pid, port
        finally:
            process.terminate()
            process.wait()


async def ask(ws: ClientConnection, message: dict[str, Any]) -> str | bytes:
    await ws.send(json.dumps(message))
    return await ws.recv()


@contextlib.asynccontextmanager
async def sessions(port: int, n: int, says: dict[str, Any]) -> AsyncIterator[list[ClientConnection]]:
    """So many connections, each with an episode begun."""
    held: list[ClientConnection] = []
    try:
        while len(held) < n:
            held += await asyncio.gather(*(connect(f"ws://127.0.0.1:{port}/ws", additional_headers=HEADERS) for _ in range(min(64, n - len(held)))))
        for first in ("open", "reset"):
            if first in says:
                await asyncio.gather(*(ask(ws, says[first]) for ws in held))
        yield held
    finally:
        await asyncio.gather(*(ws.close() for ws in held), return_exceptions=True)


async def pace(port: int, n: int, steps: int, says: dict[str, Any]) -> tuple[float, float, float]:
    """Steps a second of ``n`` sessions at once, and the 50th and 99th percentile of a step in ms."""
    took: list[float] = []

    async def play(ws: ClientConnection) -> None:
        for _ in range(steps):
            began = time.perf_counter()
            answer = await ask(ws, says["step"])
            took.append((time.perf_counter() - began) * 1e3)
            assert TEXT in str(answer), answer

    async with sessions(port, n, says) as held:
        began = time.perf_counter()
        await asyncio.gather(*map(play, held))
        whole = time.perf_counter() - began
    took.sort()
    return n * steps / whole, took[len(took) // 2], took[int(len(took) * 0.99)]


def status(pid: int, name: str) -> int:
    return next(int(line.split()[1]) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith(name))


async def held(pid: int, port: int, n: int) -> dict[str, float]:
    """``n`` sessions of the desk, each with an episode begun; what they take beyond their environments, and whether all answer."""
    says = {"open": {"op": "open", "env": "tools/desk", "version": 1}, "reset": {"op": "reset", "seed": 1}}
    async with sessions(port, 16, says):
        pass
    before = status(pid, "VmRSS")
    async with sessions(port, n, says) as all_:
        after, threads = status(pid, "VmRSS"), status(pid, "Threads")
        answers = await asyncio.gather(*(ask(ws, {"op": "step", "action": "hello"}) for ws in all_))
        good = sum('"observation"' in str(a) for a in answers)
    alone = (
        "import agentgym; from pathlib import Path\n"
        "rss = lambda: next(int(x.split()[1]) for x in Path('/proc/self/status').read_text().splitlines() if x.startswith('VmRSS'))\n"
        "warm = [agentgym.make('tools/desk') for _ in range(16)]; [e.reset(seed=1) for e in warm]; before = rss()\n"
        f"envs = [agentgym.make('tools/desk') for _ in range({n})]; [e.reset(seed=1) for e in envs]; print(rss() - before)"
    )
    own = int(subprocess.run([sys.executable, "-c", alone], capture_output=True, text=True, check=True).stdout)
    return {"sessions": n, "answered": good, "kb_each": (after - before) / n, "environment_kb_each": own / n, "beyond_kb_each": (after - before - own) / n,
            "threads": threads}  # fmt: skip


async def tools_in_flight(port: int, n: int) -> dict[str, float]:
    """``n`` sessions that are spoken to over MCP at once, by the official client; calls that were not answered."""
    from mcp.client.session import ClientSession
    from mcp.client.streamable_http import streamable_http_client

    lost, begun = 0, time.perf_counter()

    async def one(http: httpx.AsyncClient) -> int:
        opened = (await http.post("/sessions", json={"env": "tools/desk", "version": 1})).json()
        headers = {"Authorization": f"Bearer {opened['key']}"}
        async with (
            httpx.AsyncClient(headers=headers, timeout=300) as mine,
            streamable_http_client(f"http://127.0.0.1:{port}/mcp/{opened['session']}", http_client=mine) as (read, write, *_),
            ClientSession(read, write) as session,
        ):
            await session.initialize()
            answers = [await session.call_tool("observe", {})] + [await session.call_tool("list_mail", {}) for _ in range(3)]
            return sum(bool(a.content) for a in answers)

    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", headers=HEADERS, timeout=300, limits=httpx.Limits(max_connections=None)) as http:
        for answered in await asyncio.gather(*(one(http) for _ in range(n)), return_exceptions=True):
            lost += 4 - answered if isinstance(answered, int) else 4
    return {"sessions": n, "calls": 4 * n, "lost": lost, "calls_per_s": 4 * n / (time.perf_counter() - begun)}


def workers(kinds: tuple[str, ...], episodes: int) -> dict[str, Any]:
    """Episodes a second on two processes here and on two Ray actors, and the one over the other; the median of the rounds after the first."""
    tasks = agentgym.make("tools/desk").taskset
    opens = protocol.Open(env="tools/desk", version=protocol.VERSION)
    fleets = {kind: Fleet(servers_of(kind, ["tools/desk"]), opens, "oracle", {}, tasks.get) for kind in kinds}
    found: dict[str, list[float]] = {kind: [] for kind in kinds}
    try:
        for _ in range(ROUNDS + 1):
            for kind, fleet in fleets.items():
                rollout = Rollout(lambda: agentgym.make("tools/desk"), resolve("oracle"), concurrency=32, elsewhere=fleet)
                began = time.perf_counter()
                played = anyio.run(rollout.run, [Job(t, seed=i) for i, t in enumerate(tasks.ids()[:episodes])])
                assert all(e.success for e in played)
                found[kind].append(episodes / (time.perf_counter() - began))
                for worker in fleet.workers:  # connections belong to a loop no longer there
                    worker.idle.clear()
    finally:
        for fleet in fleets.values():
            fleet.close()
    row: dict[str, Any] = {kind: round(statistics.median(rates[1:]), 1) for kind, rates in found.items()}
    return {**row, "ratio": round(row[kinds[1]] / row[kinds[0]], 2), "unit": "episodes/s"}


async def measure(given: argparse.Namespace) -> dict[str, Any]:
    out: dict[str, Any] = {}
    peer = Path(given.peers, "openenv", "bin", "python") if given.peers else None
    with contextlib.ExitStack() as stack:
        pid, port = stack.enter_context(running(sys.executable, ECHO))
        servers = {"ours": (port, OURS)}
        if peer is not None:
            servers["openenv"] = (stack.enter_context(running(str(peer), SERVER))[1], THEIRS)
        for n, steps in ((1, 1000), (64, 40), (256, 20)):
            found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in servers}
            for _ in range(ROUNDS):
                for name, (at, says) in servers.items():
                    found[name].append(await pace(at, n, steps, says))
            row = {name: dict(zip(("steps_per_s", "p50_ms", "p99_ms"), (round(statistics.median(x), 3) for x in zip(*r, strict=True)), strict=True))
                   for name, r in found.items()}  # fmt: skip
            if peer is not None:
                row["ratio"] = round(row["ours"]["steps_per_s"] / row["openenv"]["steps_per_s"], 2)
            out[f"sessions_{n}"] = row
        out["held"] = {k: round(v, 1) for k, v in (await held(pid, port, given.hold)).items()}
        out["mcp"] = {k: round(v, 1) for k, v in (await tools_in_flight(port, given.mcp)).items()}
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", default=os.environ.get("PEERS_VENVS", ""), help="folder of the peers' environments")
    parser.add_argument("--hold", type=int, default=2000)
    parser.add_argument("--mcp", type=int, default=500)
    parser.add_argument("--episodes", type=int, default=1000, help="of each round on workers")
    given = parser.parse_args()
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(65_536, most), most))
    out = asyncio.run(measure(given))
    out["workers"] = workers(("2", "ray:2"), given.episodes)
    print(json.dumps({"benchmark": "serving", **out, "cpus": os.cpu_count()}))


if __name__ == "__main__":
    main()
