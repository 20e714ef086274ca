"""Every benchmark of speed in one run, and one table of what has something to stand beside: ours, theirs, the ratio. Prints each script's JSON line.

    python benchmarks/beside.py [--peers FOLDER --peer-scripts FOLDER] [--to docs/benchmarks.md] [--lines FILE]

``--lines`` writes the page from the lines of a run that is there; with ``--only``, what fits is measured anew and the rest kept. Wants a machine that does
nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from agentgym.errors import UsageError

HERE = Path(__file__).resolve().parent
SCRIPTS: dict[str, tuple[str, ...]] = {
    "env_step": (), "rewards": (), "evaluation": (), "rollout": ("rollout_peer.py",), "sandbox": ("sandbox_peer.py",), "train": ("trl_peer.py",),
    "nethack": (), "web": ("web_peer.py",), "gui": (), "text": (), "serving": (), "scaling": (), "verifiers": (), "view": (), "gpu_train": (),
}  # fmt: skip
PATIENCE_S = 1200
MORE = {"gpu_train": ["--tiny"]}


class Pair(NamedTuple):
    """A row: what is measured, the two numbers by their path in the script's line, who the other is, and whether less is better."""

    what: str
    script: str
    ours: str
    theirs: str
    who: str
    less: bool = False


PAIRS = (
    Pair("import of the core, s", "env_step", "import_agentgym_s", "import_gymnasium_s", "import gymnasium", True),
    Pair("reward of 512 episodes on arrays, ms", "rewards", "group_reward.arrays_ms", "group_reward.python_loops_ms", "plain Python loops", True),
    Pair("rollout of scripted turns, episodes/s", "rollout", "ours.episodes_per_s", "peers.inspect_nolog.episodes_per_s", "inspect_ai, logging off"),
    Pair("", "rollout", "ours.episodes_per_s", "peers.inspect.episodes_per_s", "inspect_ai"),
    Pair("", "rollout", "ours.episodes_per_s", "peers.verifiers_inproc.episodes_per_s", "verifiers, in-process harness"),
    Pair("rollout, peak memory, MB", "rollout", "ours.peak_rss_mb", "peers.verifiers_inproc.peak_rss_mb", "verifiers", True),
    Pair("sandbox, `true`, ms", "sandbox", "ours.bwrap.true", "reference.bwrap_per_command", "one bwrap a command", True),
    Pair("", "sandbox", "ours.docker.true", "reference.docker_exec", "docker exec", True),
    Pair("", "sandbox", "ours.docker.true", "peers.latency.figures.rexdocker_execute_true_ms.med", "SWE-ReX in Docker", True),
    Pair("", "sandbox", "ours.bwrap.true", "peers.latency.figures.rexlocal_execute_true_ms.med", "SWE-ReX, local", True),
    Pair("sandbox, 100 kB, ms", "sandbox", "ours.docker.cat_100k", "peers.latency.figures.rexdocker_execute_cat100k_ms.med", "SWE-ReX in Docker", True),
    Pair("", "sandbox", "ours.bwrap.cat_100k", "peers.latency.figures.rexlocal_execute_cat100k_ms.med", "SWE-ReX, local", True),
    Pair(
        "32 sandboxes at once, ten commands each, s",
        "sandbox",
        "ours.bwrap.at_once_32_s",
        "peers.concurrent.figures.x32_rexlocal_start_plus_commands_s.med",
        "SWE-ReX, local",
        True,
    ),
    Pair("", "sandbox", "ours.docker.at_once_32_s", "peers.concurrent.figures.x32_docker_exec_start_plus_commands_s.med", "docker run and exec", True),
    Pair("sandbox, start, ms", "sandbox", "ours.docker.cold_start", "peers.latency.figures.rexdocker_start_to_session_ms.med", "SWE-ReX in Docker", True),
    Pair("", "sandbox", "ours.bwrap.cold_start", "peers.latency.figures.rexlocal_start_to_session_ms.med", "SWE-ReX, local", True),
    Pair("training step, one turn, s", "train", "ours.single.s", "trl.single.s_per_step", "TRL", True),
    Pair("training step, four turns, s", "train", "ours.turns.s", "trl.turns.s_per_step", "TRL, `rollout_func`", True),
    Pair("training step, three tool rounds, s", "train", "ours.tools.s", "trl.tools.s_per_step", "TRL, `environment_factory`", True),
    Pair("packed sequences, trained tokens/s", "train", "packed.packed_per_s", "packed.padded_per_s", "the same, padded"),
    Pair("NetHack, full screen, steps/s", "nethack", "full.steps_per_s", "gymnasium.steps_per_s", "NLE's Gymnasium layer"),
    Pair("", "nethack", "full.steps_per_s", "full.bare_engine_steps_per_s", "the bare engine, same keys"),
    Pair("NetHack, compact, steps/s", "nethack", "compact.steps_per_s", "gymnasium.steps_per_s", "NLE's Gymnasium layer"),
    Pair("NetHack, eight games, steps/s", "nethack", "vector.steps_per_s", "async.steps_per_s", "AsyncVectorEnv"),
    Pair("", "nethack", "vector.steps_per_s", "sync.steps_per_s", "SyncVectorEnv"),
    Pair("web, reset, ms", "web", "ours_ms.reset", "peers_ms.miniwob_reset_ms", "miniwob (selenium)", True),
    Pair("", "web", "ours_ms.reset", "peers_ms.bgym_default_reset_ms", "BrowserGym", True),
    Pair("", "web", "ours_ms.reset", "floor_ms.reset", "a bare Playwright page", True),
    Pair("web, step, ms", "web", "ours_ms.step", "peers_ms.miniwob_step_noscreenshot_ms", "miniwob (selenium)", True),
    Pair("", "web", "ours_ms.step", "peers_ms.bgym_nodelay_step_ms", "BrowserGym without its delays", True),
    Pair("", "web", "ours_ms.step", "floor_ms.step", "a bare Playwright page", True),
    Pair("desktop, steps with a picture/s", "gui", "step.pixels_steps_s", "spawned.steps_s", "xdotool and a screenshot program, spawned"),
    Pair("served, 1 session, p50 ms", "serving", "sessions_1.ours.p50_ms", "sessions_1.openenv.p50_ms", "OpenEnv", True),
    Pair("served, 64 sessions, steps/s", "serving", "sessions_64.ours.steps_per_s", "sessions_64.openenv.steps_per_s", "OpenEnv"),
    Pair("served, 256 sessions, steps/s", "serving", "sessions_256.ours.steps_per_s", "sessions_256.openenv.steps_per_s", "OpenEnv"),
    Pair("served, 256 sessions, p99 ms", "serving", "sessions_256.ours.p99_ms", "sessions_256.openenv.p99_ms", "OpenEnv", True),
    Pair("workers on Ray, episodes/s", "serving", "workers.ray:2", "workers.2", "two local processes"),
    Pair("step reward model, 50 turns, ms", "verifiers", "step_model.one_pass_ms", "step_model.per_turn_ms", "one pass a turn", True),
    Pair("1,024 judge calls, times the ideal", "verifiers", "judge.times_ideal", "judge.httpx_times_ideal", "httpx", True),
)


def at(line: Any, path: str) -> float | None:
    """The number at a path; None where there is none."""
    for part in path.split("."):
        line = line.get(part) if isinstance(line, dict) else None
    return float(line) if isinstance(line, (int, float)) and not isinstance(line, bool) else None


def run(script: str, peers: str, peer_scripts: str) -> dict[str, Any]:
    """One script's line, with when it began and how busy the machine was then."""
    command = [sys.executable, str(HERE / f"{script}.py"), *MORE.get(script, [])]
    if peers and script == "serving":
        command += ["--peers", peers]
    elif peers and SCRIPTS[script]:
        command += ["--peers", peers, "--peer-script", str(Path(peer_scripts) / SCRIPTS[script][0])]
    about = {"script": script, "at": time.strftime("%Y-%m-%d %H:%M"), "load": round(os.getloadavg()[0], 2)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        out, err = process.communicate(timeout=PATIENCE_S)
    except subprocess.TimeoutExpired:
        return {**about, "error": f"not done after {PATIENCE_S} s"}
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # with whatever it started: the next script wants the machine for itself
    said = [x for x in out.splitlines() if x.startswith("{")]
    return {**about, **(json.loads(said[-1]) if said else {"error": err.strip()[-400:]})}


def rows(lines: dict[str, dict[str, Any]]) -> list[tuple[str, float, float, str, bool]]:
    """The pairs that were measured, and those of the text worlds, which name themselves."""
    found, what = [], ""
    for pair in PAIRS:
        what = pair.what or what
        mine, theirs = (at(lines.get(pair.script, {}), p) for p in (pair.ours, pair.theirs))
        if mine is not None and theirs is not None:
            found.append((what, mine, theirs, pair.who, pair.less))
    for name, pace in lines.get("text", {}).get("paces", {}).items():
        if "library" in pace:
            found.append((f"{name}, steps/s", pace["steps_per_s"], pace["library"], "the library's own loop", False))
    return found


def page(lines: dict[str, dict[str, Any]]) -> str:
    """The page: the table, and what was measured without anything beside it."""
    when = sorted(line["at"] for line in lines.values() if "at" in line)
    head = [
        "# Benchmarks", "",
        f"`make bench` on {os.cpu_count()} cores ({platform.machine()}, Python {platform.python_version()}), {when[0]} to {when[-1][-5:]}.",
        "Both numbers of a row come from the same script, one after the other. The ratio is how many times better ours is; below 1 it is worse.", "",
        "| what | ours | theirs | ratio | theirs is |", "|---|---|---|---|---|",
    ]  # fmt: skip
    body = [f"| {what} | {_short(a)} | {_short(b)} | {(b / a if less else a / b):.2f} | {who} |" for what, a, b, who, less in rows(lines)]
    failed = [f"- `{name}` did not run: {line['error']}" for name, line in lines.items() if "error" in line]
    rest = ["", "What each script printed, and when, is in [benchmarks.json](benchmarks.json); `benchmarks/README.md` says what they measure.", *failed, ""]
    return "\n".join([*head, *body, *rest])


def _short(x: float) -> str:
    return f"{x:,.0f}" if abs(x) >= 100 else f"{x:.3g}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", default=os.environ.get("PEERS_VENVS", ""), help="folder of the peers' environments")
    parser.add_argument("--peer-scripts", default="", help="folder of the scripts that measure them")
    parser.add_argument("--only", help="measure the scripts whose names fit this expression; all, unless lines are given")
    parser.add_argument("--lines", type=Path, help="lines of a run that is there")
    parser.add_argument("--to", type=Path, help="page to write, the lines beside it as JSON")
    given = parser.parse_args()
    if given.peers and not given.peer_scripts:
        raise SystemExit(str(UsageError("--peers wants --peer-scripts, the folder of the scripts that measure them")))
    lines = {line["script"]: line for line in map(json.loads, given.lines.read_text().splitlines())} if given.lines else {}
    for script in SCRIPTS:
        if re.search(given.only, script) if given.only else not given.lines:
            lines[script] = run(script, given.peers, given.peer_scripts)
            print(json.dumps(lines[script]), flush=True)
    if given.to:
        given.to.write_text(page(lines))
        given.to.with_suffix(".json").write_text(json.dumps(list(lines.values()), indent=1) + "\n")


if __name__ == "__main__":
    main()
