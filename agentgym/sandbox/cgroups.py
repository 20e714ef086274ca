"""Control groups, of either version: memory, processes and processor of one sandbox, as the kernel enforces them."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import threading
import time
from functools import cache
from pathlib import Path

from agentgym.sandbox.base import Resources
from agentgym.sandbox.owner import abandoned, me

ROOT = Path("/sys/fs/cgroup")
NEEDED = ("memory", "pids", "cpu")
_numbers = itertools.count(1)


@cache
def homes(root: Path = ROOT) -> dict[str, Path]:
    """The folder in which this process may make groups, per controller; empty where it may not."""
    if (root / "cgroup.controllers").exists():
        home = _unified(root)
        return dict.fromkeys(NEEDED, home) if home else {}
    made = {}
    for name in NEEDED:
        home = root / name / "agentgym"
        try:
            home.mkdir(exist_ok=True)
        except OSError:
            return {}
        if not (home / "cgroup.procs").exists() or not os.access(home, os.W_OK):
            return {}
        made[name] = home
    return made


def _unified(root: Path) -> Path | None:
    """Version 2: the nearest group above this process that it may write to, with the controllers passed on."""
    own = next((line[3:].strip() for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::")), "/")
    start = root / own.lstrip("/")
    for parent in (start, *start.parents):
        if parent != root and not parent.is_relative_to(root):
            return None
        home = parent / "agentgym"
        try:
            for group in (parent, home):
                group.mkdir(exist_ok=True)
                wanted = "".join(f"+{c} " for c in NEEDED if c not in (group / "cgroup.subtree_control").read_text().split())
                if wanted:
                    (group / "cgroup.subtree_control").write_text(wanted)
            return home
        except OSError:
            continue
    return None


class Group:
    """The groups of one sandbox. Processes join through ``joins``: files to which they write ``0``."""

    def __init__(self, resources: Resources) -> None:
        self.name = f"{me()}@{next(_numbers)}"
        self.paths = {c: home / self.name for c, home in homes().items()}
        for path in set(self.paths.values()):
            path.mkdir()
        self.unified = len(set(self.paths.values())) == 1
        for controller, file, value in self._settings(resources):
            with contextlib.suppress(FileNotFoundError):  # no swap is accounted here
                (self.paths[controller] / file).write_text(value)

    def _settings(self, asked: Resources) -> list[tuple[str, str, str]]:
        """The disk of a sandbox lies in memory, so what may be written to it comes on top."""
        memory = None if asked.kill_at is None else str(asked.kill_at + (asked.disk or 0))
        quota = None if asked.cpus is None else int(asked.cpus * 100_000)
        pids = None if asked.pids is None else str(asked.pids + 3)
        if self.unified:
            rows = [("memory", "memory.max", memory), ("memory", "memory.swap.max", memory and "0"), ("cpu", "cpu.max", quota and f"{quota} 100000")]
        else:
            rows = [
                ("memory", "memory.limit_in_bytes", memory),
                ("memory", "memory.memsw.limit_in_bytes", memory),
                ("cpu", "cpu.cfs_quota_us", quota and str(quota)),
            ]
        return [(c, f, v) for c, f, v in [*rows, ("pids", "pids.max", pids)] if v]

    @property
    def joins(self) -> list[str]:
        """Files to write ``0`` to."""
        return [str(p / "cgroup.procs") for p in sorted(set(self.paths.values()))]

    @property
    def watched(self) -> dict[str, str]:
        """The supervisor's flags for the files that count what the kernel killed for memory and which forks it refused."""
        return {
            "--oom": str(self.paths["memory"] / ("memory.events" if self.unified else "memory.oom_control")),
            "--pids": str(self.paths["pids"] / "pids.events"),
        }

    def remove(self) -> None:
        """Kill what is left in it, and remove it."""
        for path in set(self.paths.values()):
            if not _remove(path):
                threading.Thread(target=_remove, args=(path, 5.0), daemon=True).start()


def _remove(path: Path, patience: float = 0.02) -> bool:
    deadline = time.monotonic() + patience
    while True:
        try:
            path.rmdir()
            return True
        except FileNotFoundError:
            return True
        except OSError:
            with contextlib.suppress(OSError):
                for pid in (path / "cgroup.procs").read_text().split():
                    os.kill(int(pid), signal.SIGKILL)
        if time.monotonic() > deadline:
            return False
        time.sleep(0.002)


def leftovers(everything: bool = False) -> list[Path]:
    """Groups whose owner is gone; with ``everything``, all but this process's own."""
    found = {p for home in set(homes().values()) for p in home.iterdir() if p.is_dir()}
    return sorted(p for p in found if abandoned(owner := p.name.rpartition("@")[0]) or (everything and owner != me()))


def reap(everything: bool = False) -> list[str]:
    """Remove the leftovers; their names."""
    return [str(p) for p in leftovers(everything) if _remove(p, 1.0)]
