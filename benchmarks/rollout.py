"""Rollout overhead: 256 episodes × 10 turns on an echo environment, zero-latency scripted policy, 64 at once, all on disk.

Prints one JSON line: our episodes/s and peak memory, and the peers' in the same run where ``--peers FOLDER`` holds their
environments and ``--peer-script FILE`` their script (one JSON line last, with ``results.NAME.episodes_per_s``).
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

EPISODES, CONCURRENCY = 256, 64


def once() -> dict[str, float]:
    """One rollout in this process."""
    import anyio
    from _echo import EchoEnv, EchoPolicy

    from agentgym.episode import EpisodeStore, read_episodes
    from agentgym.rollout import Job, Keep, Rollout

    async def run(folder: Path) -> float:
        with EpisodeStore(folder / "episodes.jsonl") as store:
            rollout = Rollout(make=EchoEnv, policy=EchoPolicy(), concurrency=CONCURRENCY, keep=Keep(store))
            began = time.perf_counter()
            episodes = await rollout.run(Job(f"echo.{i}") for i in range(EPISODES))
            seconds = time.perf_counter() - began
        assert all(e.success for e in episodes)
        return seconds

    rates = []
    for _ in range(5):
        with tempfile.TemporaryDirectory() as folder:
            rates.append(EPISODES / anyio.run(run, Path(folder)))
            assert sum(1 for _ in read_episodes(Path(folder) / "episodes.jsonl")) == EPISODES
    return {"episodes_per_s": statistics.median(rates), "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--once", action="store_true")
    parser.add_argument("--peers", help="folder of the peers' environments")
    parser.add_argument("--peer-script", help="script that measures them")
    args = parser.parse_args()
    if args.once:
        print(json.dumps(once()))
        return
    ours = json.loads(subprocess.run([sys.executable, __file__, "--once"], capture_output=True, text=True, check=True).stdout)
    line = {"benchmark": "rollout", "episodes": EPISODES, "turns": 10, "concurrency": CONCURRENCY, "ours": ours}
    if args.peer_script:
        command = [sys.executable, args.peer_script, "--root", args.peers, "--only", "inspect,inspect_nolog,verifiers_inproc"]
        peers = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])["results"]
        line["peers"] = {name: {k: row.get(k) for k in ("episodes_per_s", "peak_rss_mb", "error") if row.get(k) is not None} for name, row in peers.items()}
        line["ratio_to_fastest"] = ours["episodes_per_s"] / max(row.get("episodes_per_s", 0.0) for row in peers.values())
    print(json.dumps(line))


if __name__ == "__main__":
    main()
