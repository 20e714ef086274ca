"""Starting sandboxes: by kind, within what the machine can bear, from a warm pool where there is one."""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from functools import cache
from typing import Generic, Protocol, TypeVar
from weakref import WeakSet

from agentgym.errors import SandboxFault, SandboxRefused
from agentgym.registry import installed, load
from agentgym.sandbox.base import Image, Resources, Sandbox, Snapshot
from agentgym.sandbox.owner import VARIABLE, state_folder

PREFERRED = ("bwrap", "docker")
PER_CORE = 32
PATIENCE_S = 600.0
SPARE_MEMORY, SPARE_DISK = 512 << 20, 1 << 30


class Admission:
    """How many sandboxes there may be at once, and how many may start at once; who comes too early waits in line.

    A start also waits while the machine is short of free memory or disk, so that a full disk pauses new episodes and ends none.
    """

    def __init__(self, most: int, starting: int) -> None:
        self.most, self.open = most, 0
        self._turn = threading.Condition()
        self._starting = threading.BoundedSemaphore(starting)

    @contextlib.contextmanager
    def starting(self) -> Iterator[None]:
        """Wait for a place; hold it if the body succeeds, until ``leave``."""
        deadline = time.monotonic() + PATIENCE_S
        with self._turn:
            while self.open >= self.most or shortage():
                left = deadline - time.monotonic()
                if left <= 0 or not (self._turn.wait(min(left, 1.0)) or time.monotonic() < deadline):
                    why = shortage() or f"{self.open} sandboxes are open (at most {self.most}: AGENTGYM_SANDBOXES=N changes it)"
                    raise SandboxFault(f"no place for another sandbox within {PATIENCE_S:.0f} s: {why}")
            self.open += 1
        try:
            with self._starting:
                yield
        except BaseException:
            self.leave()
            raise

    def leave(self) -> None:
        """Give a place back."""
        with self._turn:
            self.open -= 1
            self._turn.notify()


def shortage() -> str:
    """What the machine is short of, and what mends it; empty if nothing."""
    with contextlib.suppress(OSError, ValueError):
        with open("/proc/meminfo") as file:  # noqa: PTH123  # asked for often
            free = next(int(line.split()[1]) << 10 for line in file if line.startswith("MemAvailable"))
        if free < SPARE_MEMORY:
            return f"only {free >> 20} MiB of memory are free; lower --concurrency"
        if (disk := shutil.disk_usage(state_folder()).free) < SPARE_DISK:
            return f"only {disk >> 20} MiB of disk are free under {state_folder()}; agentgym clean"
    return ""


@cache
def admission() -> Admission:
    """The one of this process."""
    cores = os.cpu_count() or 1
    return Admission(int(os.environ.get("AGENTGYM_SANDBOXES", PER_CORE * cores)), 2 * cores)


@cache
def kind_of(name: str) -> type[Sandbox]:
    """The class of a kind; on first use, what killed gyms have left of it is reaped.

    Raises:
        UnknownName: no such kind is installed.
    """
    if name == "docker" and VARIABLE in os.environ:
        from agentgym.sandbox.brokered import Brokered

        return Brokered
    cls: type[Sandbox] = load("sandboxes", name)
    with contextlib.suppress(SandboxRefused, ImportError, OSError):
        cls.reap()
    return cls


def choose(resources: Resources, kinds: tuple[str, ...] = PREFERRED) -> str:
    """The first of the kinds that enforces what is asked for.

    Raises:
        SandboxRefused: none does; each says why, and what mends it.
    """
    problems = []
    for name in (k for k in kinds if k in installed("sandboxes")):
        try:
            kind_of(name).require(resources)
            return name
        except (SandboxRefused, ImportError) as error:
            problems.append(error)
    whys = "; ".join(str(p.args[0]) for p in problems) or f"no kind of {', '.join(kinds)} is installed"
    raise SandboxRefused(whys, str(problems[-1].args[1]) if problems else "pip install agentgym-core")


def start(image: Image, resources: Resources | None = None, kind: str | None = None) -> Sandbox:
    """A running sandbox: of a kind, or of the first that enforces what is asked for. From the warm pool if it holds one like it.

    Raises:
        UnknownName, SandboxRefused: no such kind, or it cannot enforce what is asked for.
        SandboxFault: it could not be started.
    """
    resources = resources or Resources()
    name = kind or choose(resources)
    if (warm := _pool.take((name, image, resources))) is not None:
        return warm
    return fresh(image, resources, name)


def fresh(image: Image, resources: Resources, kind: str, snapshot: Snapshot | None = None) -> Sandbox:
    """A sandbox started now."""
    cls = kind_of(kind)
    with admission().starting():
        sandbox = cls(image, resources, snapshot)
    sandbox.on_close(admission().leave)
    _open_ones.add(sandbox)
    return sandbox


def restore(snapshot: Snapshot, image: Image, resources: Resources) -> Sandbox:
    """A new sandbox with the files of a snapshot; of the kind that took it, and from the same image."""
    return fresh(image, resources, snapshot.kind, snapshot)


def fork(sandbox: Sandbox, n: int) -> list[Sandbox]:
    """``n`` independent sandboxes with the files of one as they are; ends every process in it first."""
    here, forks = sandbox.snapshot(), list[Sandbox]()
    try:
        forks.extend(restore(here, sandbox.image, sandbox.resources) for _ in range(n))
    except BaseException:
        for each in forks:
            each.close()
        raise
    return forks


class Kept(Protocol):
    """What a pool can keep."""

    @property
    def closed(self) -> bool: ...
    def close(self) -> None: ...


K = TypeVar("K")
T = TypeVar("T", bound=Kept)


class Pool(Generic[K, T]):
    """Things started ahead of need, per key, and filled again behind each lease."""

    def __init__(self, make: Callable[[K], T]) -> None:
        self._make = make
        self._ready: dict[K, deque[T]] = {}
        self._wanted: dict[K, int] = {}
        self._lock = threading.Lock()

    def warm(self, key: K, n: int) -> None:
        """Keep ``n`` ready; returns when they are. 0 gives them back."""
        with self._lock:
            self._wanted[key] = n
            extra = [self._ready[key].pop() for _ in range(max(0, len(self._ready.get(key, ())) - n))]
        for each in extra:
            each.close()
        self._fill(key)

    def want(self, key: K, n: int) -> None:
        """Keep ``n`` ready behind the next lease on; nothing is waited for."""
        with self._lock:
            self._wanted[key] = n

    def take(self, key: K) -> T | None:
        """A ready one, if there is any that still lives."""
        if key not in self._wanted:
            return None
        found = None
        with self._lock:
            ready = self._ready.get(key, deque())
            while ready and found is None:
                found = ready.popleft()
                if found.closed:
                    found = None
        if self._wanted[key]:
            threading.Thread(target=self._fill, args=(key,), daemon=True).start()
        return found

    def _fill(self, key: K) -> None:
        while True:
            with self._lock:
                if len(self._ready.setdefault(key, deque())) >= self._wanted[key]:
                    return
            made = self._make(key)
            with self._lock:
                if len(self._ready[key]) < self._wanted[key]:
                    self._ready[key].append(made)
                    continue
            made.close()
            return


Like = tuple[str, Image, Resources]
_pool: Pool[Like, Sandbox] = Pool(lambda like: fresh(like[1], like[2], like[0]))
_open_ones: WeakSet[Sandbox] = WeakSet()


def warm(image: Image, resources: Resources, kind: str, n: int) -> None:
    """Keep ``n`` sandboxes of a kind ready; returns when they are. 0 gives them back."""
    _pool.warm((kind, image, resources), n)


@atexit.register
def close_all() -> None:
    """Close every sandbox of this process."""
    for sandbox in list(_open_ones):
        with contextlib.suppress(Exception):
            sandbox.close()
