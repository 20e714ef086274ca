"""NetHack: our text against NLE's Gymnasium layer (which gives none) and the bare engine, on one stream of actions. Prints one JSON line.

The stream is drawn once: 70% steps in eight directions, 10% far moves, 10% searches, 10% menus (the inventory). All sides play the same games
again and again; a finished game is begun anew. Ours handles pages and questions; so does NLE's layer, its way.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

STEPS, ROUNDS, GAMES, VECTOR_STEPS = 12_000, 3, 8, 1_000
EIGHT = ("north", "south", "east", "west", "northeast", "northwest", "southeast", "southwest")


def stream(n: int, seed: int = 0) -> list[str]:
    """The actions, by name."""
    rng, found = random.Random(seed), list[str]()
    for _ in range(n):
        kind = rng.random()
        found.append(rng.choice(EIGHT) if kind < 0.7 else f"far {rng.choice(EIGHT)}" if kind < 0.8 else "search" if kind < 0.9 else "inventory")
    return found


def ours(style: str) -> dict[str, float]:
    """Steps a second of ``nethack/score``, and the keys it pressed by which the engine alone is measured."""
    from agentgym_nethack.engine import Game

    import agentgym

    env: Any = agentgym.make("nethack/score", style=style, limits={"max_turns": 10**6, "max_malformed": 10**6})
    actions, rates, bare, resets = stream(STEPS), [], [], []
    for _ in range(ROUNDS):
        spent, pressed = 0.0, list[tuple[Any, Any, bytes]]()
        env.reset(seed=0)
        game_number = 0
        for action in actions:
            took, ended = _timed(env, action)
            spent += took
            if ended:
                pressed.append((env.game.setup, env.game.buffers, bytes(env.game.keys)))
                game_number += 1
                env.reset(seed=game_number)
        pressed.append((env.game.setup, env.game.buffers, bytes(env.game.keys)))
        rates.append(len(actions) / spent)
        bare.append(len(actions) / sum(_bare(Game(), *each) for each in pressed))
    for number in range(50):
        began = time.perf_counter()
        env.reset(seed=number)
        resets.append((time.perf_counter() - began) * 1e3)
        for action in actions[:15]:
            env.step(action)
    return {"steps_per_s": statistics.median(rates), "bare_engine_steps_per_s": statistics.median(bare), "reset_ms": statistics.median(resets)}


def _timed(env: Any, action: Any) -> tuple[float, bool]:
    """Seconds that one step took, and whether the game ended."""
    began = time.perf_counter()
    result = env.step(action)
    return time.perf_counter() - began, result[2] or result[3]


def _bare(game: Any, setup: Any, buffers: Any, keys: bytes) -> float:
    """Seconds in which the engine alone takes the same keys, with the same buffers."""
    game.start(setup, buffers)
    press, over = game._press, game.over
    began = time.perf_counter()
    for key in keys:
        press(key)
        if over():
            break
    spent = time.perf_counter() - began
    game.close()
    return spent


def _nle() -> tuple[Any, list[int], dict[str, int]]:
    warnings.simplefilter("ignore")
    import gymnasium
    from nle import nethack
    from nle.env.tasks import TASK_ACTIONS

    keys = (*TASK_ACTIONS, nethack.Command.INVENTORY)
    index = {}
    for names, kind in ((EIGHT, nethack.CompassDirection), (tuple(f"far {d}" for d in EIGHT), nethack.CompassDirectionLonger)):
        order = ("north", "east", "south", "west", "northeast", "southeast", "southwest", "northwest")
        index |= {name: keys.index(list(kind)[order.index(name.removeprefix("far "))]) for name in names}
    index |= {"search": keys.index(nethack.Command.SEARCH), "inventory": keys.index(nethack.Command.INVENTORY)}

    def make() -> Any:
        return gymnasium.make("NetHackScore-v0", actions=keys, max_episode_steps=10**6)

    return make, [index[a] for a in stream(STEPS)], index


def gymnasium_layer() -> dict[str, float]:
    """Steps a second of NLE's own environment."""
    make, actions, _ = _nle()
    env, rates = make(), []
    for _ in range(ROUNDS):
        env.unwrapped.seed(1, 1, False)
        env.reset()
        spent = 0.0
        for action in actions:
            took, ended = _timed(env, action)
            spent += took
            if ended:
                env.reset()
        rates.append(len(actions) / spent)
    return {"steps_per_s": statistics.median(rates)}


def _vector_rate(vector: Any, draw: Callable[[random.Random], Any]) -> float:
    rng, rates = random.Random(0), []
    vector.reset(seed=0)
    for _ in range(ROUNDS):
        steps = [[draw(rng) for _ in range(GAMES)] for _ in range(VECTOR_STEPS)]
        began = time.perf_counter()
        for actions in steps:
            vector.step(actions)
        rates.append(GAMES * VECTOR_STEPS / (time.perf_counter() - began))
    vector.close()
    return statistics.median(rates)


def vector(which: str) -> dict[str, float]:
    """Steps a second of eight games."""
    import gymnasium

    if which == "ours":
        import agentgym

        names = stream(4096)
        return {"steps_per_s": _vector_rate(agentgym.make_vec("nethack/score", GAMES), lambda rng: rng.choice(names))}
    make, actions, _ = _nle()
    kind = {"sync": gymnasium.vector.SyncVectorEnv, "async": gymnasium.vector.AsyncVectorEnv}[which]
    return {"steps_per_s": _vector_rate(kind([make] * GAMES), lambda rng: rng.choice(actions))}


def memory() -> dict[str, float]:
    """Resident megabytes of each further game in a process, after 500 steps each, its record left out."""
    import agentgym

    def resident() -> float:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

    games: list[Any] = []
    for n in range(1 + GAMES):
        env: Any = agentgym.make("nethack/score")
        env.reset(seed=n)
        for action in stream(500, n):
            if not env.game.over() and env.episode.stop_reason is None:
                env.step(action)
        env.episode.turns.clear()
        games.append(env)
        if n == 0:
            before = resident()
    return {"mb_per_further_game": (resident() - before) / GAMES}


def snapshots() -> dict[str, float]:
    """What a snapshot and its restoring take, by the number of keys that are pressed again."""
    import agentgym

    env: Any = agentgym.make("nethack/score", limits={"max_turns": 10**6})
    other: Any = agentgym.make("nethack/score")
    env.reset(seed=3)
    found = {}
    for n, action in enumerate(stream(1000, 5), 1):
        if env.episode.stop_reason is None:
            env.step(action)
        if n in (100, 1000) and env.episode.stop_reason is None:
            began = time.perf_counter()
            point = env.snapshot()
            middle = time.perf_counter()
            other.restore(point)
            found |= {f"snapshot_ms_at_{n}": (middle - began) * 1e3, f"restore_ms_at_{n}": (time.perf_counter() - middle) * 1e3}
    return found


PARTS: dict[str, Callable[[], dict[str, float]]] = {
    "full": lambda: ours("full"), "compact": lambda: ours("compact"), "gymnasium": gymnasium_layer, "vector": lambda: vector("ours"),
    "sync": lambda: vector("sync"), "async": lambda: vector("async"), "memory": memory, "snapshots": snapshots,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--part", default="", help="measure this alone, in this process")
    given = parser.parse_args()
    if given.part:
        print(json.dumps(PARTS[given.part]()))
        return
    found = {}
    for part in PARTS:
        done = subprocess.run([sys.executable, __file__, "--part", part], capture_output=True, text=True, check=True)
        found[part] = json.loads(done.stdout.splitlines()[-1])
    rate = {k: v["steps_per_s"] for k, v in found.items() if "steps_per_s" in v}
    ratios = {
        "full_to_gymnasium_layer": rate["full"] / rate["gymnasium"], "compact_to_gymnasium_layer": rate["compact"] / rate["gymnasium"],
        "full_to_bare_engine": rate["full"] / found["full"]["bare_engine_steps_per_s"],
        "vector_to_async": rate["vector"] / rate["async"], "vector_to_sync": rate["vector"] / rate["sync"],
    }  # fmt: skip
    line = {"benchmark": "nethack", "games": GAMES, "mix": "70% steps, 10% far, 10% search, 10% inventory"}
    print(json.dumps({**line, **{k: {n: round(x, 2) for n, x in v.items()} for k, v in found.items()}, "ratio": {k: round(v, 2) for k, v in ratios.items()}}))


if __name__ == "__main__":
    main()
