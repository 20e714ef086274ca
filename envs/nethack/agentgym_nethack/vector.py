"""Games in worker processes, answers through shared memory: several games as one vector environment, on all processors.

Each worker plays some of the games, in turn. Actions and answers lie in a ring of frames in shared memory, with the number of the last frame
that was asked and of the last that was answered. Who waits looks at the number for a moment before it sleeps on a pipe: being woken costs more
than a step of a game. A worker that dies (the engine is C, and can) is replaced: the game it was in has ended by a fault, and its other games are
played again to where they were, from their actions.
"""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import select
import struct
import time
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from multiprocessing.shared_memory import SharedMemory
from typing import Any

import msgspec
import numpy as np
from gymnasium.spaces import Tuple
from gymnasium.vector import AutoresetMode, VectorEnv

from agentgym.core import AgentEnv
from agentgym.errors import EnvironmentFault, Fault, UsageError
from agentgym.registry import make as make_one

SLOT = 1 << 15
"""Bytes for an action, and for the answer to it, of one game."""
FRAMES = 2
PATIENCE = 60.0
"""Seconds that a worker may take for one step of its games."""
SPIN, NAP = 0.002, 0.05
"""Seconds that a worker looks for the next frame before it sleeps, and that anyone sleeps at a time."""
ASKED, ANSWERED, WORKER_SLEEPS, PARENT_SLEEPS, PLAYING = range(5)
HEADER = 64
_HEAD = struct.Struct("<IIdB")
Answer = tuple[str, float, int, bytes]
"""Of a game: the observation, the reward, how it ended (0 not, 1 terminated, 2 truncated), and its info, encoded."""
_ENCODE, _DECODE = msgspec.msgpack.Encoder().encode, msgspec.msgpack.Decoder().decode


class Request(msgspec.Struct):
    """What a game is to do: reset with a seed and perhaps a task, or step by an action."""

    action: str | None = None
    seed: int | None = None
    task: str | None = None


_READ = msgspec.msgpack.Decoder(Request).decode


def make(env_id: str, n: int, *, split: str = "train", reward: Any = "outcome", workers: int = 0, **options: Any) -> Games:
    """``n`` games in ``workers`` processes (as many as processors, unless told otherwise), equal to ``n`` single environments."""
    return Games(env_id, n, {"split": split, "reward": reward, **options}, workers or min(n, os.cpu_count() or 1))


class _Worker:
    """A process, its shared memory, and what its games were told since their last resets."""

    def __init__(self, env_id: str, options: dict[str, Any], games: Sequence[int]) -> None:
        self.env_id, self.options, self.games = env_id, options, list(games)
        self.told: dict[int, list[Request]] = {g: [] for g in games}
        self.begin()

    def begin(self) -> None:
        """Start the process."""
        self.memory = SharedMemory(create=True, size=HEADER + FRAMES * len(self.games) * SLOT)
        assert self.memory.buf is not None
        self.buffer: memoryview[int] = self.memory.buf
        self.header = self.buffer[:HEADER].cast("I")
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(self.env_id, self.options, len(self.games), self.memory.name, theirs), daemon=True)
        self.process.start()
        theirs.close()

    def ask(self, requests: Sequence[Request]) -> None:
        """Hand a request to each game."""
        number = self.header[ASKED] + 1
        for start, request in zip(_slots(number, len(requests)), requests, strict=True):
            data = _ENCODE(request)
            if len(data) > SLOT - 4:
                raise UsageError(f"an action of {len(data):,} bytes is too long")
            self.buffer[start : start + 4 + len(data)] = len(data).to_bytes(4, "little") + data
        self.header[ASKED] = number
        if self.header[WORKER_SLEEPS]:
            with contextlib.suppress(OSError):
                os.write(self.pipe.fileno(), b".")

    def answers(self) -> list[Answer] | None:
        """The answer of each game; None where the process died, or takes for ever."""
        number, found = self.header[ASKED], list[Answer]()
        if not self._wait(number):
            return None
        for start in _slots(number, len(self.games)):
            text, size, reward, end = _HEAD.unpack_from(self.buffer, start)
            start += _HEAD.size
            said = bytes(self.buffer[start : start + text + size])
            found.append((said[:text].decode(), reward, end, said[text:]))
        return found

    def _wait(self, number: int) -> bool:
        """Whether that frame was answered before patience, or the process, ended."""
        until = time.monotonic() + PATIENCE
        fd = self.pipe.fileno()
        while self.header[ANSWERED] != number:
            self.header[PARENT_SLEEPS] = 1
            if self.header[ANSWERED] != number:
                ready, _, _ = select.select([fd], [], [], NAP)
                if ready and not _drained(fd) and self.header[ANSWERED] != number:
                    return False
            self.header[PARENT_SLEEPS] = 0
            if time.monotonic() > until:
                return False
        return True

    @property
    def playing(self) -> int:
        """Which of its games the process was in when it died."""
        return self.header[PLAYING]

    def end(self) -> None:
        """End the process, and give its memory back; idempotent."""
        self.process.kill()
        self.process.join()
        self.pipe.close()
        self.header.release()
        self.memory.close()
        with contextlib.suppress(FileNotFoundError):
            self.memory.unlink()


class Games(VectorEnv[tuple[Any, ...], tuple[str, ...], np.ndarray[Any, Any]]):
    """``n`` games in worker processes; otherwise as ``agentgym.vector.ProseVectorEnv``.

    A game whose worker died is truncated: its reward is NaN, ``info["fault"]`` says why, and the next step resets it.
    """

    def __init__(self, env_id: str, n: int, options: dict[str, Any], workers: int) -> None:
        self.num_envs = n
        one = make_one(env_id, **options)
        self.metadata = {**one.metadata, "autoreset_mode": AutoresetMode.NEXT_STEP}
        self.single_observation_space, self.single_action_space = one.observation_space, one.action_space
        self.observation_space, self.action_space = Tuple([one.observation_space] * n), Tuple([one.action_space] * n)
        self._pixels = one.screen is not None
        if self._pixels:
            raise UsageError("games in worker processes give text; make single environments for pixels")
        one.close()
        self._ended = np.zeros(n, dtype=bool)
        self.workers = [_Worker(env_id, options, range(w, n, workers)) for w in range(workers)]

    def reset(self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Reset all. ``seed`` is one per game, or an int ``s`` for ``s + i``; ``options={"task": [ids]}``."""
        seeds = [None] * self.num_envs if seed is None else [seed + i for i in range(self.num_envs)] if isinstance(seed, int) else list(seed)
        tasks = (options or {}).get("task") or [None] * self.num_envs
        if len(seeds) != self.num_envs or len(tasks) != self.num_envs:
            raise UsageError(f"{len(seeds)} seeds and {len(tasks)} tasks for {self.num_envs} environments")
        observations, rewards, _, _, infos = self._play([Request(None, s, t) for s, t in zip(seeds, tasks, strict=True)])
        if np.isnan(rewards).any():
            raise EnvironmentFault(next(f for f in infos["fault"] if f))
        return observations, infos

    def step(self, actions: Sequence[str]) -> tuple[tuple[Any, ...], Any, Any, Any, dict[str, Any]]:
        """Step all; ``rewards``, ``terminations`` and ``truncations`` are arrays of length ``n``."""
        if len(actions) != self.num_envs:
            raise UsageError(f"{len(actions)} actions for {self.num_envs} environments")
        return self._play([Request() if ended else Request(str(a)) for a, ended in zip(actions, self._ended, strict=True)])

    def _play(self, requests: list[Request]) -> tuple[tuple[Any, ...], Any, Any, Any, dict[str, Any]]:
        n = self.num_envs
        for worker in self.workers:
            worker.ask([requests[g] for g in worker.games])
        rewards, ends = np.zeros(n), np.zeros((2, n), dtype=bool)
        observations, told = [""] * n, [b""] * n
        for worker in self.workers:
            asked = [requests[g] for g in worker.games]
            found = worker.answers()
            if found is None:
                found = _replaced(worker, asked)
            for g, request, (observation, reward, end, info) in zip(worker.games, asked, found, strict=True):
                observations[g], told[g] = observation, info
                if reward or end:
                    rewards[g], ends[0, g], ends[1, g] = reward, end == 1, end == 2
                if request.action is None:
                    worker.told[g] = [request]
                else:
                    worker.told[g].append(request)
        self._ended = ends[0] | ends[1]
        return tuple(observations), rewards, ends[0], ends[1], Infos(told)

    def close_extras(self, **kwargs: Any) -> None:
        """End every worker."""
        for worker in self.workers:
            worker.end()


class Infos(dict[str, Any]):
    """The infos of all games as Gymnasium gives them, decoded when somebody looks: at full speed nobody does."""

    def __init__(self, told: list[bytes]) -> None:
        super().__init__()
        self._told: list[bytes] | None = told

    def _open(self) -> Infos:
        if self._told is not None:
            told, self._told = self._told, None
            self.update(_columns([_DECODE(t) for t in told]))
        return self

    def __getitem__(self, key: str) -> Any:
        return dict.__getitem__(self._open(), key)

    def __contains__(self, key: object) -> bool:
        return dict.__contains__(self._open(), key)

    def __iter__(self) -> Iterator[str]:
        return dict.__iter__(self._open())

    def __len__(self) -> int:
        return dict.__len__(self._open())

    def get(self, key: str, default: Any = None) -> Any:
        return dict.get(self._open(), key, default)

    def keys(self) -> Any:
        return dict.keys(self._open())

    def values(self) -> Any:
        return dict.values(self._open())

    def items(self) -> Any:
        return dict.items(self._open())


def _columns(told: list[dict[str, Any]]) -> dict[str, Any]:
    """The infos of all games as Gymnasium gives them: an array for each key, and which games have it."""
    n, out = len(told), dict[str, Any]()
    for key in dict.fromkeys(k for info in told for k in info):
        values = [info.get(key) for info in told]
        if any(isinstance(v, dict) for v in values):
            out[key] = _columns([v if isinstance(v, dict) else {} for v in values])
        else:
            numbers = all(type(v) in (int, float) for v in values if v is not None) and any(v is not None for v in values)
            column = np.zeros(n, dtype=type(next(v for v in values if v is not None))) if numbers else np.empty(n, dtype=object)
            for i, value in enumerate(values):
                if value is not None:
                    column[i] = value
            out[key] = column
        out[f"_{key}"] = np.array([key in info for info in told])
    return out


def _replaced(worker: _Worker, asked: list[Request]) -> list[Answer]:
    """Start another process in a worker's place; what its games answer to what was asked."""
    culprit = worker.playing
    code = worker.process.exitcode
    worker.end()
    worker.begin()
    for length in range(max((len(t) for t in worker.told.values()), default=0)):
        worker.ask([_at(worker.told[g], length) for g in worker.games])
        if worker.answers() is None:
            worker.end()
            worker.begin()
            raise EnvironmentFault("a worker died again while its games were played again")
    fault = ("", float("nan"), 2, _ENCODE({"fault": f"the engine's process died (exit code {code})"}))
    worker.ask([_NOTHING if k == culprit else request for k, request in enumerate(asked)])
    found = worker.answers()
    if found is None:
        raise EnvironmentFault("a worker died again after it was replaced")
    return [fault if k == culprit else answer for k, answer in enumerate(found)]


_NOTHING = Request("\0")


def _at(told: list[Request], n: int) -> Request:
    return told[n] if n < len(told) else _NOTHING


def _slots(number: int, games: int) -> range:
    """Where the slots of a frame begin."""
    first = HEADER + number % FRAMES * games * SLOT
    return range(first, first + games * SLOT, SLOT)


def _drained(fd: int) -> bool:
    """Read what woke us; False at the end of the pipe."""
    try:
        return bool(os.read(fd, 64))
    except OSError:
        return False


def _serve(env_id: str, options: dict[str, Any], games: int, memory_name: str, pipe: Connection) -> None:
    """The worker: play what is asked, frame after frame, until the pipe is closed."""
    memory = SharedMemory(memory_name)
    assert memory.buf is not None
    buffer: memoryview[int] = memory.buf
    header, fd = buffer[:HEADER].cast("I"), pipe.fileno()
    envs = [make_one(env_id, **options) for _ in range(games)]
    gc.set_threshold(50_000, 20, 50)  # records grow and hold no cycles
    number = 0
    while _asked(header, number, fd):
        number = header[ASKED]
        for k, (start, env) in enumerate(zip(_slots(number, games), envs, strict=True)):
            header[PLAYING] = k
            size = int.from_bytes(buffer[start : start + 4], "little")
            _answer(env, _READ(buffer[start + 4 : start + 4 + size]), buffer, start)
        header[ANSWERED] = number
        if header[PARENT_SLEEPS]:
            os.write(fd, b".")


def _asked(header: memoryview[int], number: int, fd: int) -> bool:
    """Wait for the frame after ``number``; False once nobody can ask any more."""
    until = time.perf_counter() + SPIN
    while header[ASKED] == number:
        if time.perf_counter() < until:
            os.sched_yield()
            continue
        header[WORKER_SLEEPS] = 1
        if header[ASKED] == number:
            ready, _, _ = select.select([fd], [], [], NAP)
            if ready and not _drained(fd):
                return False
        header[WORKER_SLEEPS] = 0
    return True


def _answer(env: AgentEnv, request: Request, buffer: memoryview[int], start: int) -> None:
    """Do what is asked of one game, and write down what came of it."""
    text, told, reward, end = "", dict[str, Any](), 0.0, 0
    try:
        if request.action is None:
            observation, told = env.reset(seed=request.seed, options={"task": request.task} if request.task else None)
            text = str(observation)
        elif request.action != _NOTHING.action:
            observation, reward, terminated, truncated, told = env.step(request.action)
            text, end = str(observation), 1 if terminated else 2 if truncated else 0
    except Fault as error:
        reward, end, told = float("nan"), 2, {"fault": f"{type(error).__name__}: {error}"}
    said, info = text.encode(), _ENCODE(told)
    if len(said) + len(info) > SLOT - _HEAD.size:
        said, info, reward, end = b"", _ENCODE({"fault": "the answer is too long for its slot"}), float("nan"), 2
    _HEAD.pack_into(buffer, start, len(said), len(info), reward, end)
    start += _HEAD.size
    buffer[start : start + len(said) + len(info)] = said + info
