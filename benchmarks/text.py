"""Steps per second of the text and arena environments, beside the loops of the libraries under them: one JSON line.

``python benchmarks/text.py [--seconds S] [--only NAME]``. Each pair runs in turn in one process, five times; the median counts. What costs a
library a millisecond or more must keep 90% of its pace, all else must reach 5,000 steps a second.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import itertools
import json
import random
import resource
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import agentgym
from agentgym.game import GameEnv

warnings.filterwarnings("ignore")
ROUNDS = 5
Loop = Callable[[float], float]
"""Plays for so many seconds; steps a second."""


def ours(env_id: str, actions: Callable[[Any], Iterator[str]], **options: Any) -> Loop:
    """Our environment, stepped to its ends; the time of beginning an episode does not count. At a game every move is a step, as at PettingZoo's."""
    env, split = agentgym.make(env_id, **options), 0
    ids = env.taskset.ids()

    def loop(seconds: float) -> float:
        nonlocal split
        n, used = 0, 0.0
        while used < seconds:
            env.reset(seed=split, options={"task": ids[split % min(8, len(ids))]})
            split += 1
            script = actions(env)
            while env.episode.stop_reason is None:
                action = next(script)
                made, began = moves(env), time.perf_counter()
                env.step(action)
                used += time.perf_counter() - began
                n += max(1, moves(env) - made)
                if used > seconds:
                    break
        return n / used

    return loop


def moves(env: Any) -> int:
    """The moves of a game so far, the others' among them."""
    return len(env.match.moves) if isinstance(env, GameEnv) else 0


def legal(env: Any) -> Iterator[str]:
    """Any legal move."""
    dice = random.Random(0)
    while True:
        yield dice.choice(env.choices() or ("",))


def classic(module: str, **arguments: Any) -> Loop:
    """A game of PettingZoo's in its own wrappers, moves drawn from its mask."""
    env = importlib.import_module(f"pettingzoo.classic.{module}").env(**arguments)
    dice = np.random.default_rng(0)

    def loop(seconds: float) -> float:
        n, used = 0, 0.0
        while used < seconds:
            env.reset(seed=n)
            while env.agents and used < seconds:
                began = time.perf_counter()
                seen, _, terminated, truncated, _ = env.last()
                if terminated or truncated:
                    break
                env.step(int(dice.choice(np.flatnonzero(seen["action_mask"]))))
                used += time.perf_counter() - began
                n += 1
        return n / used

    return loop


LINES = ("look", "inventory", "go east", "go west", "go north", "go south", "examine table", "open chest")
EXPERIMENT = ("look around", "open door to kitchen", "go to kitchen", "open cupboard", "inventory", "look around", "go to hallway", "wait1")


def library(begin: Callable[[int], Callable[[str], bool]], said: Sequence[str], most: int) -> Loop:
    """A library's own loop: ``begin`` gives the step of a new episode, which says whether it is over; the lines are said in turn, ``most`` at once."""

    def loop(seconds: float) -> float:
        n, used, episode = 0, 0.0, 0
        while used < seconds:
            step = begin(episode)
            episode += 1
            for i in range(most):
                began = time.perf_counter()
                over = step(said[i % len(said)])
                used += time.perf_counter() - began
                n += 1
                if over or used > seconds:
                    break
        return n / used

    return loop


def repeated(said: Sequence[str]) -> Callable[[Any], Iterator[str]]:
    """The same lines as actions of ours."""
    return lambda env: itertools.cycle(said)


def textworld_loop() -> Loop:
    """TextWorld's own environment over the games of our tasks, asked for what ours asks for."""
    from agentgym_text.world import start

    tasks = agentgym.make("text/world", levels=[4, 5, 6]).taskset
    games = [start(tasks.get(i)) for i in tasks.ids()[:8]]

    def begin(episode: int) -> Callable[[str], bool]:
        game = games[episode % len(games)]
        game.reset()
        return lambda line: bool(game.step(line)[2])

    return library(begin, LINES, 30)


def scienceworld_loop() -> Loop:
    """ScienceWorld's own ``step``, as shipped."""
    from scienceworld import ScienceWorldEnv

    env = ScienceWorldEnv("boil")

    def begin(episode: int) -> Callable[[str], bool]:
        env.load("boil", 0, "")
        env.reset()
        return lambda line: bool(env.step(line)[2])

    return library(begin, EXPERIMENT, 40)


def scripted(env: Any) -> Iterator[str]:
    """The oracle where there is one, then nothing."""
    yield from env.oracle()
    while True:
        yield ""


def median_of(loop: Loop, other: Loop | None, seconds: float) -> tuple[float, float | None]:
    """Both loops in turn; the median of each."""
    loop(0.2)
    if other is not None:
        other(0.2)
    pairs = [(loop(seconds), other(seconds) if other is not None else None) for _ in range(ROUNDS)]
    theirs = [b for _, b in pairs if b is not None]
    return statistics.median(a for a, _ in pairs), statistics.median(theirs) if theirs else None


def memory(env_id: str, n: int, **options: Any) -> dict[str, float]:
    """What ``n`` environments in one process take, each in an episode of its own."""
    gc.collect()
    before = resident()
    envs = [agentgym.make(env_id, **options) for _ in range(n)]
    for i, env in enumerate(envs):
        env.reset(seed=i, options={"task": env.taskset.ids()[i % min(len(env.taskset), 64)]})
    used = resident() - before
    for env in envs:
        env.close()
    return {"environments": n, "mib": round(used, 1), "mib_of_1000": round(used / n * 1000, 1)}


def resident() -> float:
    """The resident memory of this process, in MiB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


PACES: dict[str, tuple[Callable[[], Loop], Callable[[], Loop] | None]] = {
    "arena/board tictactoe": (lambda: ours("arena/board", legal, games="tictactoe"), lambda: classic("tictactoe_v3")),
    "arena/board connect_four": (lambda: ours("arena/board", legal, games="connect_four"), lambda: classic("connect_four_v3")),
    "arena/board leduc": (lambda: ours("arena/board", legal, games="leduc"), lambda: classic("leduc_holdem_v4")),
    "arena/board texas": (lambda: ours("arena/board", legal, games="texas"), lambda: classic("texas_holdem_v4")),
    "arena/board chess": (lambda: ours("arena/board", legal, games="chess"), lambda: classic("chess_v6")),
    "arena/board go": (lambda: ours("arena/board", legal, games="go"), lambda: classic("go_v5", board_size=5, komi=0.5)),
    "arena/negotiate": (lambda: ours("arena/negotiate", legal), None),
    "arena/debate": (lambda: ours("arena/debate", legal), None),
    "arena/critic": (lambda: ours("arena/critic", legal), None),
    "arena/quiz": (lambda: ours("arena/quiz", legal), None),
    "text/world": (lambda: ours("text/world", repeated(LINES), levels=[4, 5, 6]), textworld_loop),
    "text/science": (lambda: ours("text/science", repeated(EXPERIMENT), kinds="boil"), scienceworld_loop),
    "text/bandit": (lambda: ours("text/bandit", legal), None),
    "text/search": (lambda: ours("text/search", scripted), None),
    "text/sql": (lambda: ours("text/sql", scripted), None),
    "text/malloc": (lambda: ours("text/malloc", legal), None),
    "text/rooms": (lambda: ours("text/rooms", legal), None),
    "tools/desk-user": (lambda: ours("tools/desk-user", scripted), None),
    "tools/desk-sim": (lambda: ours("tools/desk-sim", scripted), None),
}
CROWDS: dict[str, tuple[int, dict[str, Any]]] = {
    "arena/board": (1000, {"games": "tictactoe"}), "arena/negotiate": (1000, {}), "text/bandit": (1000, {}), "text/search": (1000, {}), "text/sql": (1000, {}),
    "tools/desk-user": (1000, {}), "text/world": (1000, {"levels": [1, 2, 3]}),
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each round")
    parser.add_argument("--only", default="", help="names that begin so")
    parser.add_argument("--no-memory", action="store_true")
    given = parser.parse_args()
    paces, crowds = {}, {}
    for name, (mine, theirs) in PACES.items():
        if name.startswith(given.only):
            own, library = median_of(mine(), theirs() if theirs else None, given.seconds)
            paces[name] = {"steps_per_s": round(own, 1)} | ({"library": round(library, 1), "ratio": round(own / library, 3)} if library else {})
    for name, (n, options) in CROWDS.items():
        if name.startswith(given.only) and not given.no_memory:
            crowds[name] = memory(name, n, **options)
    print(json.dumps({"benchmark": "text", "rounds": ROUNDS, "paces": paces, "memory": crowds}))


if __name__ == "__main__":
    main()
