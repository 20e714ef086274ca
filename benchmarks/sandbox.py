"""Sandboxes: round trip, start, lease, snapshot, fork, many at once, idle memory, grading; beside plain processes, and the peers where given.

One JSON line: medians in milliseconds (or as named), ours and the references measured in turn in the same run, and their ratios.
``--peers DIR`` is the folder of the peers' environments and ``--peer-script FILE`` their sandbox script, run with its own Python.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from agentgym.errors import MissingExtra
from agentgym.sandbox import AGENT_UID, WORK, Image, Layer, Resources, Sandbox, choose, fork, restore, start, warm

IMAGE = Image(base="agentgym/swe")
LIMITS = Resources()


def ms(call: Callable[[], Any], n: int) -> float:
    """The median of ``n`` calls, in milliseconds."""
    times = []
    for _ in range(n):
        began = time.perf_counter()
        call()
        times.append((time.perf_counter() - began) * 1e3)
    return round(statistics.median(times), 3)


def started(kind: str, n: int) -> tuple[float, float]:
    """Medians of a cold start and of a close."""
    opened, closed = [], []
    for _ in range(n):
        began = time.perf_counter()
        box = start(IMAGE, LIMITS, kind)
        opened.append((time.perf_counter() - began) * 1e3)
        began = time.perf_counter()
        box.close()
        closed.append((time.perf_counter() - began) * 1e3)
    return round(statistics.median(opened), 2), round(statistics.median(closed), 2)


def leased(kind: str, n: int) -> float:
    """The median of a lease from a warm pool that has had time to fill."""
    times = []
    warm(IMAGE, LIMITS, kind, 2)
    for _ in range(n):
        time.sleep(0.05 if kind == "bwrap" else 0.6)
        began = time.perf_counter()
        box = start(IMAGE, LIMITS, kind)
        times.append((time.perf_counter() - began) * 1e3)
        box.close()
    warm(IMAGE, LIMITS, kind, 0)
    return round(statistics.median(times), 2)


def snapshots(kind: str) -> dict[str, float]:
    """Snapshot and one fork of a 200 MB tree with few changes."""
    with tempfile.TemporaryDirectory() as folder:
        for i in range(100):
            Path(folder, f"f{i}").write_bytes(os.urandom(2 << 20))
        for path in (Path(folder), *Path(folder).iterdir()):
            os.chown(path, AGENT_UID, AGENT_UID)
        Path(folder).chmod(0o755)
        image = Image(base=IMAGE.base, layers=(Layer(folder, "/work"),))
        with start(image, LIMITS, kind) as box:
            box.exec("echo new > f1; rm f2; mkdir d; echo x > d/y")
            snapshot = ms(box.snapshot, 7)
            here, times = box.snapshot(), []
            for _ in range(7):
                began = time.perf_counter()
                other = restore(here, image, LIMITS)
                times.append((time.perf_counter() - began) * 1e3)
                assert other.exec("cat d/y; ls f2").output.startswith("x")
                other.close()
            began = time.perf_counter()
            one = fork(box, 1)[0]
            whole = (time.perf_counter() - began) * 1e3
            one.close()
    return {"snapshot": snapshot, "restore": round(statistics.median(times), 2), "fork_with_snapshot": round(whole, 2)}


def many(kind: str, n: int, pooled: bool = False) -> float:
    """Seconds for ``n`` sandboxes at once with 10 commands each, started and closed; from a warm pool, the pool's start left out."""
    if pooled:
        warm(IMAGE, LIMITS, kind, n)

    def one(i: int) -> bool:
        with start(IMAGE, LIMITS, kind) as box:
            return all(box.exec(["/bin/true"]).code == 0 for _ in range(10))

    if pooled:  # only what is there is handed out: nothing is started behind
        from agentgym.sandbox import pool

        pool._pool.want((kind, IMAGE, LIMITS), 0)
    began = time.perf_counter()
    with ThreadPoolExecutor(n) as threads:
        good = list(threads.map(one, range(n)))
    assert all(good), "some were lost"
    return round(time.perf_counter() - began, 3)


def idle(n: int = 16) -> float:
    """Proportional resident megabytes per idle ``bwrap`` sandbox, its processes and what the gym holds for it."""

    def held(pids: list[int]) -> int:
        return sum(int(line.split()[1]) for p in pids for line in Path(f"/proc/{p}/smaps_rollup").read_text().splitlines() if line.startswith("Pss:"))

    before = held([os.getpid()])
    boxes = [start(IMAGE, LIMITS, "bwrap") for _ in range(n)]
    pids = [int(p) for box in boxes for p in _processes(box)]
    used = held([os.getpid(), *pids]) - before
    for box in boxes:
        box.close()
    return round(used / n / 1024, 2)


def _processes(box: Sandbox) -> list[str]:
    return (Path(box._group.paths["memory"]) / "cgroup.procs").read_text().split()  # type: ignore[attr-defined]  # of the bwrap kind


def grading() -> dict[str, float]:
    """Grading a ``swe/mend`` task over the bare pytest time of the same files on the host's Python, per library, in turn."""
    from agentgym_swe import mend, workshop
    from agentgym_swe.libraries import site
    from agentgym_verifiers.rules.unit_tests import grade_patch

    ratios = {}
    for row in ("toolz-000", "tabulate-000", "sqlparse-000", "addict-000"):
        bench = mend.bench(mend.task_of(row))
        with tempfile.TemporaryDirectory() as folder:
            for path, data in {**bench.tree, **bench.tests}.items():
                Path(folder, path).parent.mkdir(parents=True, exist_ok=True)
                Path(folder, path).write_bytes(data)
            paths = [p.replace("/work", folder, 1) for p in bench.path if p.startswith("/work")]
            bare = ["/usr/bin/python3", "-S", "-B", "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull, f"--rootdir={folder}"]
            files = [f"{folder}/{f}" for f in workshop.test_files(workshop.libraries()[workshop.rows()[row].library])]
            env = {"PYTHONPATH": ":".join([*paths, str(site())]), "PATH": os.environ["PATH"], "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
            plain = lambda bare=bare, files=files, env=env: subprocess.run([*bare, *files], env=env, capture_output=True)  # noqa: E731
            ours, theirs = [], []
            for _ in range(5):
                theirs.append(ms(plain, 1))
                ours.append(ms(lambda bench=bench: grade_patch(bench, {}), 1))
            ratios[row] = round(statistics.median(ours) / statistics.median(theirs), 2)
    return ratios


def peers(folder: str, script: str) -> dict[str, Any]:
    """What the peers' script measures on this machine, now."""
    env = {**os.environ, "PEERS_VENVS": folder}
    found: dict[str, Any] = {}
    for part in ("latency", "concurrent"):
        done = subprocess.run([f"{folder}/sandbox/bin/python", script, part], capture_output=True, text=True, env=env, cwd=Path(script).parent)
        lines = done.stdout.strip().splitlines()
        found[part] = json.loads(lines[-1]) if done.returncode == 0 and lines else done.stderr[-300:]
    return found


def references() -> dict[str, float]:
    """What one would do by hand: a plain process, one ``bwrap`` per command, ``docker exec``."""
    bare = ["bwrap", "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc", "--unshare-all", "true"]
    found = {"process": ms(lambda: subprocess.run(["/bin/true"]), 50), "bwrap_per_command": ms(lambda: subprocess.run(bare), 30)}
    if shutil.which("docker") and subprocess.run(["docker", "info"], capture_output=True).returncode == 0:
        run = lambda: subprocess.run(["docker", "run", "-d", "--network", "none", "agentgym/swe", "sleep", "600"], capture_output=True, text=True)  # noqa: E731
        name = run().stdout.strip()
        found["docker_exec"] = ms(lambda: subprocess.run(["docker", "exec", name, "true"]), 15)
        subprocess.run(["docker", "rm", "-f", name], capture_output=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers")
    parser.add_argument("--peer-script")
    given = parser.parse_args()
    kinds = []
    for kind in ("bwrap", "docker"):
        try:
            kinds.append(choose(LIMITS, (kind,)))
        except MissingExtra as error:
            print(f"{kind}: {error}", flush=True)
    ours: dict[str, Any] = {}
    reference = references()
    for kind in kinds:
        with start(IMAGE, LIMITS, kind) as box:
            box.write({f"{WORK}/text": b"a line of text, as a file of source has\n" * 2500})
            ours[kind] = {
                "true": ms(lambda box=box: box.exec(["/bin/true"]), 300),
                "cat_100k": ms(lambda box=box: box.exec(["/bin/cat", f"{WORK}/text"], head=1 << 18), 100),
            }
        cold, close = started(kind, 20 if kind == "bwrap" else 10)
        ours[kind] |= {"cold_start": cold, "close": close, "lease": leased(kind, 10), **snapshots(kind)}
        ours[kind] |= {"at_once_32_s": statistics.median(many(kind, 32) for _ in range(5 if kind == "bwrap" else 3))}
        ours[kind] |= {"at_once_32_warm_s": many(kind, 32, pooled=True)}
        if kind == "bwrap":
            ours[kind] |= {"at_once_64_s": many(kind, 64), "idle_mb": idle()}
    ratios = {k: round(reference["docker_exec"] / v["true"], 1) for k, v in ours.items() if "docker_exec" in reference}
    result: dict[str, Any] = {"benchmark": "sandbox", "unit": "ms unless said", "ours": ours, "reference": reference}
    result |= {"docker_exec_over_ours": ratios, "grading_over_pytest": grading()}
    if given.peers and given.peer_script:
        result["peers"] = peers(given.peers, given.peer_script)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
