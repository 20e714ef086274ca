"""The web: MiniWoB resets and text steps beside a bare Playwright page in the same minute, sixteen episodes at once, memory, and the shop's clicks.
Prints one JSON line.

``--peers DIR`` is the folder of the peers' environments and ``--peer-script FILE`` their web script (Farama's miniwob on selenium, BrowserGym on
Playwright), run with its own Python on the same four pages before ours. Times are medians in milliseconds. Memory is proportional (PSS): what
sixteen open shops take beyond one, per shop.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agentgym_web.browser import host
from agentgym_web.miniwob.oracles import SCRIPTS

import agentgym

PAGES = ("click-test-2", "click-button", "enter-text", "login-user")
ROUNDS, AT_ONCE = 25, 16


def ms(call: Callable[[], object]) -> float:
    """How long it took."""
    began = time.perf_counter()
    call()
    return (time.perf_counter() - began) * 1e3


def pages() -> dict[str, float]:
    """Resets and steps of ``web/miniwob``: a click on a place where nothing is, as the peers do it."""
    env = agentgym.make("web/miniwob")
    resets, steps, painted = [], [], []
    for page in PAGES:
        env.reset(options={"task": f"{page}.train.0"})
        for n in range(ROUNDS):
            resets.append(ms(lambda page=page, n=n: env.reset(options={"task": f"{page}.train.{n}"})))
            steps.append(ms(lambda: env.step("click_at 5 5")))
    env.close()
    picture = agentgym.make("web/miniwob", screenshot=True)
    picture.reset(options={"task": "click-button.train.0"})
    painted = [ms(lambda: picture.step("click_at 5 5")) for _ in range(10)]
    picture.close()
    return {"reset": statistics.median(resets), "step": statistics.median(steps), "step_with_picture": statistics.median(painted)}


def floor() -> dict[str, float]:
    """The same with Playwright alone: a page kept, begun anew by a script, its DOM as text."""
    start = (
        "s => { Math.seedrandom(s); core.EPISODE_MAX_TIME = 1e6; core.startEpisodeReal(); return [core.getUtterance(), JSON.stringify(core.getDOMInfo())]; }"
    )
    look = "() => [WOB_RAW_REWARD_GLOBAL, WOB_DONE_GLOBAL, JSON.stringify(core.getDOMInfo())]"

    async def run() -> dict[str, float]:
        lease = await host().lease("floor", (332, 214))
        lease.visit.at("miniwob.test", None)
        resets, steps, page = [], [], lease.page
        for name in PAGES:
            await page.goto(f"http://miniwob.test/miniwob/{name}.html")
            await page.evaluate(start, 1)
            for n in range(ROUNDS):
                began = time.perf_counter()
                await page.evaluate("() => core.endEpisode(0)")
                await page.evaluate(start, n)
                resets.append((time.perf_counter() - began) * 1e3)
                began = time.perf_counter()
                await page.mouse.click(5, 5)
                await page.evaluate(look)
                steps.append((time.perf_counter() - began) * 1e3)
        lease.broken = True
        await host().give_back(lease)
        return {"reset": statistics.median(resets), "step": statistics.median(steps)}

    return host().run(run(), 120)


def at_once() -> dict[str, Any]:
    """Sixteen threads play every page that has an oracle."""
    jobs, lock, failed, turns = [f"{page}.train.1" for page in SCRIPTS], threading.Lock(), list[str](), list[int]()

    def work() -> None:
        env = agentgym.make("web/miniwob")
        while True:
            with lock:
                if not jobs:
                    break
                task = jobs.pop()
            try:
                env.reset(options={"task": task})
                for action in env.oracle():
                    if env.episode.stop_reason is None:
                        env.step(action)
                turns.append(len(env.episode.turns))
            except Exception as error:
                failed.append(f"{task}: {error}"[:200])
        env.close()

    threads = [threading.Thread(target=work) for _ in range(AT_ONCE)]
    took = ms(lambda: [t.start() for t in threads] and [t.join() for t in threads]) / 1e3
    return {"episodes": len(turns), "failed": failed, "seconds": took, "steps_s": sum(turns) / took}


def pss() -> float:
    """Memory of all processes of this one's browser, in MB."""
    children = subprocess.run(["ps", "-eo", "pid,ppid"], capture_output=True, text=True).stdout.split()[2:]
    parents = dict(zip(map(int, children[::2]), map(int, children[1::2]), strict=True))
    mine, total = {os.getpid()}, 0
    for _ in range(8):
        mine |= {pid for pid, parent in parents.items() if parent in mine}
    for pid in mine - {os.getpid()}:
        try:
            found = re.search(r"^Pss:\s+(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
        except OSError:
            continue
        total += int(found[1]) if found else 0
    return total / 1024


def shop() -> dict[str, float]:
    """Clicks on links of ``web/shop`` until the next page is read; and the memory of further shops."""
    env = agentgym.make("web/shop")
    resets, clicks = [], []
    for n in range(8):
        resets.append(ms(lambda n=n: env.reset(options={"task": f"price.train.{n}"})))
        time.sleep(0.5)  # a context is made ahead after the first
        for name in ("Orders", "Order 1", "Forum", "Account", "Cart"):
            link = re.search(rf'\[(\d+)\] link "{name}', env._seen["seen"])
            assert link is not None
            clicks.append(ms(lambda link=link: env.step(f"click {link[1]}")))
    time.sleep(2)
    before = pss()
    more = [agentgym.make("web/shop") for _ in range(AT_ONCE - 1)]
    for n, each in enumerate(more):
        each.reset(options={"task": f"wish.train.{n}"})
    time.sleep(2)
    after = pss()
    for each in [env, *more]:
        each.close()
    return {"reset": statistics.median(resets), "click": statistics.median(clicks), "pss_first_mb": before, "pss_further_mb": (after - before) / len(more)}


def peers(folder: str, script: str) -> dict[str, Any]:
    """What the peers' script measures on this machine, now."""
    environment = {**os.environ, "PEERS_VENVS": folder}
    done = subprocess.run([f"{folder}/web/bin/python", script], capture_output=True, text=True, env=environment, cwd=Path(script).parent)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    return json.loads(lines[-1]) if lines else {"error": done.stderr[-500:]}


def median_of(found: dict[str, Any], name: str) -> float | None:
    """A figure of the peers' line."""
    figure = found.get("figures", found).get(name)
    return figure["med"] if isinstance(figure, dict) else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers")
    parser.add_argument("--peer-script")
    given = parser.parse_args()
    theirs = peers(given.peers, given.peer_script) if given.peers else {}
    clicks = shop()
    ours, bare = pages(), floor()
    result: dict[str, Any] = {
        "benchmark": "web", "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores", "ours_ms": ours, "floor_ms": bare,
        "over_floor": {k: ours[k] / bare[k] for k in bare}, "at_once_16": at_once(), "shop": clicks,
    }  # fmt: skip
    if theirs:
        figures = {
            n: median_of(theirs, n)
            for n in (
                "miniwob_reset_ms",
                "miniwob_step_noscreenshot_ms",
                "miniwob_step_ms",
                "bgym_default_reset_ms",
                "bgym_nodelay_step_ms",
                "floor_reset_text_ms",
                "floor_step_text_ms",
            )
        }
        result["peers_ms"] = figures if any(figures.values()) else theirs
        pairs = {
            "reset_over_miniwob": ("miniwob_reset_ms", "reset"), "step_over_miniwob": ("miniwob_step_noscreenshot_ms", "step"),
            "reset_over_browsergym": ("bgym_default_reset_ms", "reset"), "step_over_browsergym_nodelay": ("bgym_nodelay_step_ms", "step"),
        }  # fmt: skip
        result["times_faster"] = {k: figures[theirs_] / ours[mine] for k, (theirs_, mine) in pairs.items() if figures[theirs_]}
    print(json.dumps(result, default=lambda x: round(x, 2)))


if __name__ == "__main__":
    main()
