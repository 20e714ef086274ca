"""What a sandbox is: an image, resources that are enforced, commands, files, snapshots. One class; kinds differ in how they begin and end."""

from __future__ import annotations

import contextlib
import threading
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import ClassVar

from msgspec import Struct

from agentgym.errors import CapabilityError, SandboxClosed, SandboxRefused
from agentgym.messages import printable
from agentgym.sandbox.link import Entry, Link, Reply, packed

AGENT_UID = 10001
WORK, HOME = "/work", "/home/agent"


class Resources(Struct, frozen=True, kw_only=True):
    """What a sandbox may use. Every number is enforced or the sandbox is refused; None is not asked for.

    ``memory`` (bytes) is what the sandbox is sure of; it is killed at ``head_room`` times that, so that a peak is no verdict.
    ``disk`` (bytes) and ``files`` bound what is written; ``seconds`` one command. ``network`` lists hosts that may be reached.
    """

    cpus: float | None = 1.0
    memory: int | None = 2 << 30
    head_room: float = 3.0
    pids: int | None = 512
    disk: int | None = 1 << 30
    files: int | None = 200_000
    seconds: float = 30.0
    network: tuple[str, ...] = ()

    @property
    def kill_at(self) -> int | None:
        """Bytes of memory at which the kernel kills."""
        return None if self.memory is None else int(self.memory * self.head_room)

    def asked(self) -> set[str]:
        """What has to be enforced."""
        named = {n for n in ("cpus", "memory", "pids", "disk", "files") if getattr(self, n) is not None}
        return named | {"seconds", "allow-list" if self.network else "network"}


class Layer(Struct, frozen=True):
    """A read-only tree of the host at a place in the sandbox. The layer at ``/work`` is the agent's to change: a copy on write."""

    host: str
    inside: str


class Image(Struct, frozen=True, kw_only=True):
    """What a sandbox starts from: ``base`` (an image of the engine; ``bwrap`` takes the host's system folders), layers, and variables.

    ``moved`` is a folder of the base image that becomes ``/work``, the agent's own, with a link in its old place.
    """

    base: str = "agentgym/base"
    layers: tuple[Layer, ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    moved: str = ""

    @property
    def tree(self) -> str:
        """The host folder under ``/work``; empty if there is none."""
        return next((layer.host for layer in self.layers if layer.inside == WORK), "")


class Completed(Struct, frozen=True):
    """A command that has ended. ``output`` holds standard error too, unless ``separate`` was asked for.

    ``code`` is 128 + signal where a signal ended it. ``left_out`` bytes were cut from the middle. ``ended`` processes were killed: at the
    time-out, or since the limit of processes was met and some were left running. ``refused`` attempts to reach the network failed meanwhile.
    """

    code: int
    output: str
    error: str = ""
    left_out: int = 0
    timed_out: bool = False
    oom: bool = False
    disk_full: bool = False
    ended: int = 0
    refused: int = 0
    duration_s: float = 0.0


class Snapshot(Struct, frozen=True):
    """The files of a sandbox at one moment: for ``bwrap`` what differs from the image, for ``docker`` an image of the engine.

    ``ended`` names the programs that ran and were ended first: a snapshot holds files, not processes.
    """

    kind: str
    data: bytes
    ended: tuple[str, ...] = ()


class Sandbox:
    """A running sandbox. Calls are serialised; every one of them has a deadline. Use ``agentgym.sandbox.start``.

    Raises (from every method):
        SandboxFault: the sandbox died or does not answer; never the agent's command failing.
        SandboxClosed: it was closed.
    """

    kind: ClassVar[str] = ""

    def __init__(self, image: Image, resources: Resources, snapshot: Snapshot | None = None) -> None:
        self.image, self.resources = image, resources
        self._lock = threading.Lock()
        self._closed = False
        self._after: list[Callable[[], object]] = []
        self._link: Link

    @classmethod
    def enforces(cls) -> frozenset[str]:
        """What this kind enforces on this machine."""
        return frozenset()

    @classmethod
    def mend(cls) -> str:
        """The line that makes this kind work, or enforce more, on this machine."""
        return ""

    @classmethod
    def leftovers(cls, everything: bool = False) -> list[str]:
        """What gyms that are gone have left, by name; with ``everything``, also what belongs to those that still run."""
        return []

    @classmethod
    def reap(cls, everything: bool = False) -> list[str]:
        """Remove the leftovers; their names."""
        return []

    @classmethod
    def require(cls, resources: Resources) -> None:
        """Raise ``SandboxRefused`` unless everything asked for is enforced."""
        if lacking := sorted(resources.asked() - cls.enforces()):
            raise SandboxRefused(f"a {cls.kind} sandbox cannot enforce {', '.join(lacking)} here", cls.mend())

    def exec(
        self, command: str | Sequence[str], *, cwd: str = WORK, env: Mapping[str, str] | None = None, timeout: float | None = None,
        head: int = 1 << 15, tail: int = 1 << 15, separate: bool = False,
    ) -> Completed:  # fmt: skip
        """Run a command (a ``str`` by ``/bin/sh``) as the agent, in a session of its own, with nothing on standard input.

        Of each stream the first ``head`` and last ``tail`` bytes are kept. On ``timeout`` (seconds) every process of the sandbox is killed.
        """
        argv = ["/bin/sh", "-c", command] if isinstance(command, str) else list(command)
        seconds = self.resources.seconds if timeout is None else timeout
        given = {**self._environment(), **(env or {})}
        if any("\0" in part for part in (*argv, cwd, *given, *given.values())):
            return Completed(126, "a command cannot hold a NUL character")
        with self._open() as link:
            reply = link.run(argv, [f"{k}={v}" for k, v in given.items()], cwd, seconds, head, tail, separate, self.resources.disk or 0)
        return completed(reply)

    def write(self, files: Mapping[str, bytes | Entry], *, root: bool = False) -> None:
        """Write files by absolute path, making folders, replacing what is in the way, following no link; as the agent's, or root's.

        Raises:
            PermissionError: the agent may not write there.
        """
        entries = [e if isinstance(e, Entry) else Entry("f", 0o644, data=e) for e in files.values()]
        with self._open() as link:
            problem = link.write("/", packed(zip((f.lstrip("/") for f in files), entries, strict=True)), root)
        if problem:
            raise PermissionError(problem)

    def read(self, path: str, max_bytes: int = 1 << 20) -> bytes:
        """The bytes of a regular file that the agent may read; a link is not followed.

        Raises:
            FileNotFoundError: there is none, it is no regular file, or it is larger.
        """
        with self._open() as link:
            found, problem = link.collect(path, max_bytes, 1)
        if problem or "" not in found or found[""].type != "f":
            raise FileNotFoundError(problem or f"{path}: not a regular file")
        return found[""].data

    def collect(self, path: str, max_bytes: int = 1 << 28, max_files: int = 100_000) -> dict[str, Entry]:
        """Everything below a folder, by relative path, as the agent sees it; what is no file, folder or link is named, not opened.

        Raises:
            FileNotFoundError: no such folder, or it holds more than may be copied out.
        """
        with self._open() as link:
            found, problem = link.collect(path, max_bytes, max_files)
        if problem:
            raise FileNotFoundError(problem)
        return found

    def ask(self, socket_path: str, data: bytes, seconds: int = 30) -> bytes:
        """What a service of the agent's, on a Unix socket in the sandbox, answers to ``data`` until it closes the connection.

        Raises:
            ConnectionError: nobody listens there, or the answer has not ended in time.
        """
        with self._open() as link:
            answer = link.ask(socket_path, data, seconds)
        if answer is None:
            raise ConnectionError(f"nothing answers on {socket_path} within {seconds} s")
        return answer

    def about(self) -> dict[str, object]:
        """What a record says of it: its kind, its image by content, and the limits as they are enforced."""
        return {"sandbox": self.kind, "image": self._image_id(), "enforced": {k: getattr(self.resources, k) for k in self.resources.__struct_fields__}}

    def _image_id(self) -> str:
        return f"{self.image.base} {','.join(layer.host.rpartition('/')[2] for layer in self.image.layers)}"

    def freeze(self) -> int:
        """End every process but the supervisor; how many there were. After it, nobody changes a file."""
        with self._open() as link:
            return link.end_all()

    def snapshot(self) -> Snapshot:
        """The files as they are; ends every process first."""
        raise CapabilityError(f"a {self.kind} sandbox cannot be snapshotted")

    def processes(self) -> list[str]:
        """The names of the programs that run in it, the supervisor left out."""
        names = self.exec(
            'for p in /proc/[0-9]*; do [ "${p#/proc/}" -gt 1 ] && [ "${p#/proc/}" != $$ ] && read n < $p/comm && echo "$n"; done 2>/dev/null', cwd="/"
        )
        return sorted(names.output.split("\n"))[1:] if names.output else []

    def close(self) -> None:
        """End everything in it and give back what it held; idempotent."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._destroy()
                for call in self._after:
                    call()

    def on_close(self, call: Callable[[], object]) -> None:
        """Call this once it has been closed."""
        self._after.append(call)

    @property
    def closed(self) -> bool:
        """Whether it was closed, or died."""
        return self._closed or not self._link.alive

    @abstractmethod
    def _destroy(self) -> None:
        """Give back what the kind holds."""

    def _environment(self) -> dict[str, str]:
        """The variables of a command: an allow-list, nothing of the host's."""
        base = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": HOME, "LANG": "C.UTF-8", "USER": "agent", "SHELL": "/bin/sh", "TERM": "dumb", "TZ": "UTC"}
        return {**base, **dict(self.image.env)}

    @contextlib.contextmanager
    def _open(self) -> Iterator[Link]:
        """The link, while nobody else uses it. What interrupts an exchange half-way makes it unusable: the rest could be taken for an answer."""
        with self._lock:
            if self._closed:
                raise SandboxClosed("the sandbox was closed; start a new one")
            try:
                yield self._link
            except BaseException:
                self._link.alive = False
                raise

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
            self.close()

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def completed(reply: Reply) -> Completed:
    """A reply as text: invalid bytes replaced, control characters made visible, cuts marked."""
    texts, left_out = [], 0
    for total, head, tail in reply.streams:
        missing = total - len(head) - len(tail)
        left_out += missing
        middle = f"\n[… {missing:,} bytes left out …]\n" if missing else ""
        texts.append(visible(head) + middle + visible(tail))
    error = texts[1] if len(texts) > 1 else ""
    flags = reply.flags
    return Completed(reply.code, texts[0], error, left_out, bool(flags & 1), bool(flags & 2), bool(flags & 4), reply.ended, reply.refused, reply.took_us / 1e6)


def visible(data: bytes) -> str:
    """Bytes as text that cannot move a cursor: what is no UTF-8 is replaced, control characters but tab and newline are shown as ``\\x1b``."""
    return printable(data.decode("utf-8", "replace"))
