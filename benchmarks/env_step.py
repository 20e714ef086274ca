"""The desk on one core: steps/s, reset time; and what starting costs. Prints one JSON line. The floor is SQLite alone."""

from __future__ import annotations

import json
import os
import sqlite3
import statistics
import subprocess
import sys
import time

EPISODES, ROUNDS = 330, 5


def desk() -> dict[str, float]:
    """Oracle actions on 330 distinct tasks of all templates, reward ``stepwise``, grading of the end included."""
    import agentgym

    env = agentgym.make("tools/desk", reward="stepwise")
    actions: dict[str, list[str]] = {}
    for task in env.taskset.ids()[:EPISODES]:
        env.reset(options={"task": task})
        actions[task] = []
        for action in env.oracle():
            actions[task].append(action)
            env.step(action)
    rates, resets = [], []
    for _ in range(ROUNDS):
        stepping, steps = 0.0, 0
        for task, script in actions.items():
            began = time.perf_counter()
            env.reset(options={"task": task})
            middle = time.perf_counter()
            for action in script:
                env.step(action)
            stepping += time.perf_counter() - middle
            resets.append((middle - began) * 1e3)
            steps += len(script)
        rates.append(steps / stepping)
    return {"steps_per_s": statistics.median(rates), "reset_ms": statistics.median(resets), "reset_ms_p99": sorted(resets)[int(len(resets) * 0.99)]}


def floor() -> float:
    """Bare SQLite: one indexed read per step, as dictionaries."""
    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, a, b, c)")
    connection.executemany("INSERT INTO t VALUES (?, ?, ?, ?)", [(i, "a", "b", "c") for i in range(20)])
    began, n = time.perf_counter(), 20_000
    for i in range(n):
        dict(zip("iabc", connection.execute("SELECT * FROM t WHERE id = ?", (i % 20,)).fetchone(), strict=True))
    return n / (time.perf_counter() - began)


def seconds(*command: str) -> float:
    """Median wall time of a command, five times after one warm-up."""
    times = []
    for _ in range(6):
        began = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - began)
    return statistics.median(times[1:])


def main() -> None:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    bare = seconds(sys.executable, "-c", "pass")
    line = {
        "benchmark": "env_step",
        "desk": desk(),
        "sqlite_floor_reads_per_s": floor(),
        "import_agentgym_s": seconds(sys.executable, "-c", "import agentgym") - bare,
        "import_gymnasium_s": seconds(sys.executable, "-c", "import gymnasium") - bare,
        "agentgym_list_s": seconds(sys.executable, "-m", "agentgym", "list"),
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
