"""Seeds the boards: scripted policies on every installed environment, in Docker and here, compared episode by episode, then submitted.

    python scripts/boards.py [--to leaderboards] [--runs runs/boards] [--tasks 20] [ENV …]

Prints one JSON line for each run, and exits with 1 if any verdict differs or any run is refused.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from agentgym.episode import read_episodes
from agentgym.registry import specs

POLICIES = ("oracle", "player", "random", "noop")
"""``player`` is the scripted bot that some environments bring along; what an environment has not is left out."""
TWICE = ("oracle", "random", "noop")
"""Those that are also played here; of these the first two that there are."""


def played(env: str, policy: str, tasks: int, out: Path, *more: str) -> str:
    """Evaluate; empty, or why it could not be."""
    command = [sys.executable, "-m", "agentgym", "eval", "--env", env, "--policy", policy, "--split", "test", "--tasks", str(tasks), "--out", str(out)]
    done = subprocess.run([*command, "--json", "--plain", *more], capture_output=True, text=True)
    return "" if done.returncode == 0 else (done.stderr.strip().splitlines() or ["no word"])[-1]


def verdicts(folder: Path) -> dict[tuple[str, int], Any]:
    """By attempt, what it did and what was made of it."""
    return {
        (e.task, e.attempt): ([t.action for t in e.turns], {n: (v.status, v.value) for n, v in e.verdicts.items()}, [t.state_hash for t in e.turns])
        for e in read_episodes(folder / "episodes.jsonl")
        if e.status == "valid"
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("envs", nargs="*", default=[], metavar="ENV")
    parser.add_argument("--to", default="leaderboards")
    parser.add_argument("--runs", default="runs/boards")
    parser.add_argument("--tasks", type=int, default=20)
    given = parser.parse_args()
    code = 0
    for spec in specs():
        if given.envs and spec.id.rpartition("-v")[0] not in given.envs and spec.id not in given.envs:
            continue
        compared = 0
        for policy in POLICIES:
            began, folder = time.perf_counter(), Path(given.runs, spec.id.replace("/", "-"), policy)
            tasks = min(given.tasks, spec.splits["test"])
            row: dict[str, Any] = {"env": spec.id, "policy": policy, "in": "docker"}
            if why := played(spec.id, policy, tasks, folder, "--in", "docker"):
                print(json.dumps(row | {"left_out": why}), flush=True)
                code |= " has no " not in why
                continue
            if policy in TWICE and compared < 2:
                compared += 1
                here = folder.with_name(f"{policy}-here")
                why = played(spec.id, policy, tasks, here, *(("--sandbox", "docker") if spec.capabilities.sandboxes else ()))
                these, those = verdicts(folder), {} if why else verdicts(here)
                differ = [task for task in these if task not in those or these[task][:2] != those[task][:2]]
                row |= {
                    "episodes": len(these),
                    "verdicts_differ": len(differ),
                    "states_differ": sum(those.get(k, (0, 0, 0))[2] != v[2] for k, v in these.items()),
                }
                if differ or why:
                    code, row["such_as"] = 1, why or differ[0]
            done = subprocess.run([sys.executable, "-m", "agentgym", "leaderboard", "submit", str(folder), "--board", given.to, "--json"], capture_output=True)
            found = json.loads(done.stdout or b'{"accepted": false, "reasons": ["it could not be submitted"]}')
            code |= done.returncode
            print(json.dumps(row | {"accepted": found["accepted"], "reasons": found["reasons"][:3], "seconds": round(time.perf_counter() - began)}), flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
