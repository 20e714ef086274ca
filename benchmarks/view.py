"""Opening a run of 10,000 episodes in the viewer: the first page, memory, and jumping to any episode, in a real headless browser.

    python benchmarks/view.py [--episodes 10000] [--repeats 5]

Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from agentgym_web.browser import chromium
from playwright.sync_api import Page, sync_playwright

from agentgym.episode import Episode, Turn, encode
from agentgym.verdict import EPISODE, Place, StopReason, Term, Verdict


def write(folder: Path, n: int) -> int:
    """A run of ``n`` made-up episodes of ten turns; its size in bytes."""
    rng = random.Random(0)
    with (folder / "episodes.jsonl").open("wb") as file:
        for i in range(n):
            turns = [
                Turn(
                    [
                        {
                            "role": "tool",
                            "content": f"id {rng.randrange(999)}\n" + "status open, owner p1, title a ticket of some length\n" * 4,
                            "tool_call_id": "c",
                            "name": "x",
                        }
                    ],
                    f"look {k}",
                )
                for k in range(10)
            ]
            e = Episode(
                f"task{i // 8}#{i % 8}",
                "tools/desk-v0",
                f"task{i // 8}",
                "d",
                "train",
                turns=turns,
                status="valid",
                stop_reason=StopReason.DONE,
                kind=f"kind{i % 37}",
            )
            e.verdicts = {"task": Verdict.scored(float(i % 3 == 0))}
            e.terms = [*(Term("progress", 0.1, Place("turn", k), k) for k in range(10)), Term("task", float(i % 3 == 0), EPISODE, 9)]
            file.write(encode(e))
    return (folder / "episodes.jsonl").stat().st_size


def served(folder: Path) -> tuple[subprocess.Popen[str], str]:
    """A viewer as a user starts it, and its address."""
    started = subprocess.Popen([sys.executable, "-m", "agentgym", "view", str(folder)], stderr=subprocess.PIPE, text=True)
    assert started.stderr is not None
    return started, started.stderr.readline().split()[1]


def shows(page: Page, title: str) -> None:
    """Wait until an episode is shown."""
    page.locator("h1", has_text=title).wait_for()


def memory(pid: int) -> float:
    """Resident megabytes."""
    line = next(x for x in Path(f"/proc/{pid}/status").read_text().splitlines() if x.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    first, whole, jumps, used = [], [], [], []
    with tempfile.TemporaryDirectory() as name, sync_playwright() as p:
        size = write(Path(name), given.episodes)
        browser = p.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        for _ in range(given.repeats):
            server, address = served(Path(name))
            try:
                page = browser.new_page(viewport={"width": 1280, "height": 800})
                began = time.perf_counter()
                page.goto(address)
                shows(page, "task0#0")
                first.append(time.perf_counter() - began)
                page.get_by_text(f"{given.episodes} episodes").wait_for()
                whole.append(time.perf_counter() - began)
                for n in random.Random(1).sample(range(given.episodes), 20):
                    began = time.perf_counter()
                    page.evaluate(f"() => {{ location.hash = 'e={n}' }}")
                    shows(page, f"task{n // 8}#{n % 8}")
                    jumps.append(time.perf_counter() - began)
                used.append(memory(server.pid))
                page.close()
            finally:
                server.terminate()
                server.wait()
        browser.close()
    row = {
        "benchmark": "view", "episodes": given.episodes, "megabytes": size / 1e6, "first_page_ms": 1e3 * statistics.median(first),
        "all_rows_ms": 1e3 * statistics.median(whole), "jump_ms": 1e3 * statistics.median(jumps), "server_mb": statistics.median(used),
    }  # fmt: skip
    print(json.dumps(row))


if __name__ == "__main__":
    main()
