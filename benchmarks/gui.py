"""The GUI: an action and the next screenshot, leases of desktops, several at once, memory; and one spawned program per action beside it.
Prints one JSON line.

Times are medians in milliseconds, in the sandbox kind that is named. ``beyond_redraw_ms`` is what a step takes after the last thing that the
program drew; the rest is the program's own. The reference does what agents on desktops commonly do: one ``xdotool`` for the input and one
``import`` or ``xwd`` for the picture, each a program started for it, on a display of the same size (``--spawned`` off where they are not installed).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agentgym_gui.desktop import Kind, pool, start

import agentgym

ROUNDS, AT_ONCE, IDLE = 60, 8, 4
SIZE = (1024, 768)


def ms(call: Callable[[], object]) -> float:
    """How long it took."""
    began = time.perf_counter()
    call()
    return (time.perf_counter() - began) * 1e3


def steps(sandbox: str) -> dict[str, float]:
    """Keys, clicks and moves of the text cursor in an editor: the whole step of the environment, picture included, with and without elements."""
    told: dict[str, float] = {}
    for name, options in (("pixels", {"tree": False}), ("pixels_and_elements", {})):
        env = agentgym.make("gui/desk", sandbox=sandbox, ahead=0, limits={"max_turns": 10_000}, **options)
        env.reset(options={"task": "append-line.train.0"})
        taken: dict[str, list[float]] = {"type": [], "click": []}
        for n in range(ROUNDS):
            taken["type"].append(ms(lambda env=env: env.step("type x")))
            taken["click"].append(ms(lambda env=env, n=n: env.step(f"click_at {400 + n} {300 + n % 5 * 18}")))
        everything = taken["type"] + taken["click"]
        told |= {f"{name}_{what}_ms": statistics.median(times) for what, times in taken.items()}
        told[f"{name}_steps_s"] = 1e3 * len(everything) / sum(everything)
        if name == "pixels":
            beyond = []
            for _ in range(ROUNDS):
                beyond.append(ms(lambda env=env: env.step("type y")) - env.desktop.seen["redraw"] * 1e3)
            told["beyond_redraw_ms"] = statistics.median(beyond)
        env.close()
    return told


def leases(sandbox: str) -> dict[str, float]:
    """A desktop begun now, and one that was kept ready."""
    kind = Kind(sandbox, SIZE)
    cold = []
    for _ in range(5):
        began = time.perf_counter()
        desktop = start(kind)
        cold.append((time.perf_counter() - began) * 1e3)
        desktop.close()
    pool.warm(kind, 5)
    pool.want(kind, 0)
    warm, leased = [], []
    for _ in range(5):
        warm.append(ms(lambda: leased.append(pool.take(kind))))
        desktop = leased[-1]
        assert desktop is not None
        warm[-1] += ms(lambda desktop=desktop: desktop.ask("look"))
        desktop.close()
    return {"cold_ms": statistics.median(cold), "warm_ms": statistics.median(warm)}


def pss(pids: set[int]) -> float:
    """Memory of processes, shared parts divided, in MB."""
    total = 0
    for pid in pids:
        try:
            found = re.search(r"^Pss:\s+(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
        except OSError:
            continue
        total += int(found[1]) if found else 0
    return total / 1024


def running() -> set[int]:
    """The processes of this machine."""
    return {int(p.name) for p in Path("/proc").glob("[0-9]*")}


def memory(sandbox: str) -> float:
    """What an idle desktop holds, in MB."""
    before = running()
    desktops = [start(Kind(sandbox, SIZE)) for _ in range(IDLE)]
    time.sleep(2)
    held = pss(running() - before)
    for each in desktops:
        each.close()
    return held / IDLE


def at_once(sandbox: str) -> dict[str, Any]:
    """Eight desktops play at the same time."""
    names = ["append-line", "rename-file", "fill-form", "product", "set-cell", "sort-lines", "total-into-note", "make-folder"] * 2
    lock, failed, turns = threading.Lock(), list[str](), list[int]()

    def work() -> None:
        env = agentgym.make("gui/desk", sandbox=sandbox, ahead=0)
        while True:
            with lock:
                if not names:
                    break
                name = names.pop()
            try:
                env.reset(options={"task": f"{name}.train.1"})
                for action in env.oracle():
                    env.step(action)
                turns.append(len(env.episode.turns))
                if not env.episode.success:
                    failed.append(name)
            except Exception as error:
                failed.append(f"{name}: {error}"[:200])
        env.close()

    threads = [threading.Thread(target=work) for _ in range(AT_ONCE)]
    took = ms(lambda: [t.start() for t in threads] and [t.join() for t in threads]) / 1e3
    return {"episodes": len(turns), "failed": failed, "seconds": took, "steps_s": sum(turns) / took}


def spawned() -> dict[str, float] | None:
    """One program for the input and one for the picture, for every action, on a bare display with an editor."""
    shooter = next((c for c in ("import", "xwd") if shutil.which(c)), None)
    if not (shutil.which("xdotool") and shooter and shutil.which("Xvfb")):
        return None
    display = f":{90 + os.getpid() % 9}"
    env = {**os.environ, "DISPLAY": display}
    server = subprocess.Popen(["Xvfb", display, "-screen", "0", f"{SIZE[0]}x{SIZE[1]}x24", "-nolisten", "tcp"], stderr=subprocess.DEVNULL)
    try:
        time.sleep(1)
        editor = subprocess.Popen(["mousepad", "--disable-server"], env=env, stderr=subprocess.DEVNULL)
        time.sleep(2)
        shoot = (
            ["import", "-window", "root", "/tmp/agentgym-shot.png"] if shooter == "import" else ["xwd", "-root", "-silent", "-out", "/tmp/agentgym-shot.xwd"]
        )

        def once() -> None:
            subprocess.run(["xdotool", "type", "--delay", "0", "x"], env=env, check=True)
            subprocess.run(shoot, env=env, check=True)

        once()
        taken = [ms(once) for _ in range(20)]
        editor.kill()
        editor.wait()
    finally:
        server.kill()
        server.wait()
    return {"action_and_picture_ms": statistics.median(taken), "steps_s": 1e3 / statistics.median(taken), "with": f"xdotool and {shooter}, no settling"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sandbox", default="bwrap", help="bwrap or docker")
    sandbox = parser.parse_args().sandbox
    result: dict[str, Any] = {
        "benchmark": "gui", "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores", "sandbox": sandbox, "size": "1024x768",
        "step": steps(sandbox), "lease": leases(sandbox), "idle_pss_mb": memory(sandbox), "at_once_8": at_once(sandbox), "spawned": spawned(),
    }  # fmt: skip
    if result["spawned"]:
        result["times_faster_than_spawned"] = result["step"]["pixels_steps_s"] / result["spawned"]["steps_s"]
    print(json.dumps(result, default=lambda x: round(x, 2)))


if __name__ == "__main__":
    main()
