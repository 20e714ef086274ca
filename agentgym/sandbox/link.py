"""The wire to a sandbox's supervisor (``supervise.c``): requests out, replies in, each with a deadline on this side too."""

from __future__ import annotations

import os
import select
import socket
import struct
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from msgspec import Struct

from agentgym.errors import SandboxFault

GREETING = b"gym1"
GRACE_S = 10.0
END = (1 << 64) - 1
_HEAD = struct.Struct("<IIQI")
_RUN = struct.Struct("<IIIIQ")
_RAN = struct.Struct("<IIIIQI")
_STREAM = struct.Struct("<QII")


class Entry(Struct, frozen=True):
    """One entry of a tree. ``type``: ``f`` file, ``d`` folder, ``l`` link (``data`` is its target), ``p`` pipe, ``o`` other, ``w`` removed."""

    type: str
    mode: int = 0o644
    data: bytes = b""
    uid: int = 0
    mtime_ns: int = 0


class Reply(Struct, frozen=True):
    """What the supervisor says of a command; ``streams`` are (bytes in all, head, tail)."""

    code: int
    flags: int
    ended: int
    refused: int
    took_us: int
    streams: list[tuple[int, bytes, bytes]]


class Wire(Protocol):
    """Two ends of bytes."""

    def receive(self, timeout: float) -> bytes:
        """Some bytes; none at the end. Raises ``TimeoutError``."""
        ...

    def send(self, data: bytes) -> None:
        """All of it. Raises ``OSError``."""
        ...

    def shut(self) -> None: ...


class Pipes:
    """A wire over a pair of pipes."""

    def __init__(self, receiving: int, sending: int) -> None:
        self._receiving, self._sending = receiving, sending
        self._poll = select.poll()
        self._poll.register(receiving, select.POLLIN | select.POLLHUP)

    def receive(self, timeout: float) -> bytes:
        if not self._poll.poll(max(0.0, timeout) * 1000):
            raise TimeoutError
        return os.read(self._receiving, 1 << 18)

    def send(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._sending, view) :]

    def shut(self) -> None:
        for fd in (self._sending, self._receiving):
            os.close(fd)


class Multiplexed:
    """A wire over the engine's attach socket: what comes back is cut into frames of two streams."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket, self._raw, self.errors = sock, b"", b""

    def receive(self, timeout: float) -> bytes:
        deadline = time.monotonic() + timeout
        while True:
            if len(self._raw) >= 8:
                stream, length = self._raw[0], int.from_bytes(self._raw[4:8])
                if len(self._raw) >= 8 + length:
                    data, self._raw = self._raw[8 : 8 + length], self._raw[8 + length :]
                    if stream == 1:
                        return data
                    self.errors = (self.errors + data)[-4096:]
                    continue
            self._socket.settimeout(max(0.001, deadline - time.monotonic()))
            more = self._socket.recv(1 << 18)
            if not more:
                return b""
            self._raw += more

    def send(self, data: bytes) -> None:
        self._socket.settimeout(GRACE_S)
        self._socket.sendall(data)

    def shut(self) -> None:
        self._socket.close()


class Link:
    """Requests to one supervisor. A request that fails kills the link: what came after it could not be understood."""

    def __init__(self, wire: Wire, autopsy: Callable[[], str]) -> None:
        self._wire, self._buffer, self.alive = wire, bytearray(), True
        self._autopsy, self._deadline = autopsy, 0.0

    def greet(self, timeout: float) -> None:
        """Wait until the supervisor is there."""
        self._deadline = time.monotonic() + timeout
        if self._take(4) != GREETING:
            raise self._dead("it answered something else")

    def run(self, argv: Sequence[str], env: Sequence[str], cwd: str, seconds: float, head: int, tail: int, separate: bool, file_size: int) -> Reply:
        """Run a command to its end or time-out."""
        body = [b"x", _RUN.pack(min(int(seconds * 1000), (1 << 32) - 1), head, max(1, tail), 2 * separate, file_size), _string(cwd)]
        for each in (argv, env):
            body += [struct.pack("<I", len(each)), *map(_string, each)]
        self._ask(b"".join(body), seconds + GRACE_S)
        code, flags, ended, refused, took, n = _RAN.unpack(self._take(_RAN.size))
        streams = []
        for _ in range(n):
            total, first, last = _STREAM.unpack(self._take(_STREAM.size))
            streams.append((total, self._take(first), self._take(last)))
        return Reply(code, flags, ended, refused, took, streams)

    def write(self, below: str, archive: bytes, root: bool) -> str:
        """Unpack an archive below a folder; what went wrong, if anything did."""
        request = b"".join([b"w", struct.pack("<I", int(root)), _string(below), struct.pack("<Q", len(archive)), archive])
        return self._files(request, 60 + len(archive) / 1e6)[4:].decode("utf-8", "replace")

    def collect(self, path: str, max_bytes: int, max_files: int) -> tuple[dict[str, Entry], str]:
        """The entries at and below a path, and what went wrong, if anything did."""
        return unpacked(self._files(b"".join([b"r", struct.pack("<I", 0), _string(path), struct.pack("<QQ", max_bytes, max_files)]), 120))

    def _files(self, request: bytes, seconds: float) -> bytes:
        """A request that a child of the supervisor carries out as the agent, which may kill it, or leave no room for it: then once more, alone."""
        self._ask(request, seconds)
        blob, status = self._blob()
        if status:
            self.end_all()
            self._ask(request, seconds)
            blob, status = self._blob()
        if status:
            raise self._dead(f"a file request ended with status {status}")
        return blob

    def ask(self, socket_path: str, data: bytes, seconds: int) -> bytes | None:
        """What a service on a Unix socket of the sandbox answers until it closes; None if it is not there, or not done in time."""
        self._ask(b"".join([b"a", struct.pack("<I", seconds), _string(socket_path), struct.pack("<Q", len(data)), data]), seconds + GRACE_S)
        blob, status = self._blob()
        return None if status else blob

    def end_all(self) -> int:
        """End every process."""
        self._ask(b"k", GRACE_S)
        return int.from_bytes(self._take(4), "little")

    def snapshot(self) -> bytes:
        """End every process; the archive of what differs from the lower layer."""
        self._ask(b"s", 120)
        self._number()
        blob, status = self._blob()
        if status:
            raise self._dead(f"a snapshot ended with status {status}")
        return blob

    def shut(self) -> None:
        """Close both ends: the supervisor goes."""
        self.alive = False
        self._wire.shut()

    # Bytes

    def _ask(self, request: bytes, seconds: float) -> None:
        if not self.alive:
            raise self._dead("it had died before")
        self._deadline = time.monotonic() + seconds
        try:
            self._wire.send(request)
        except OSError as error:
            raise self._dead(str(error)) from None

    def _take(self, n: int) -> bytes:
        buffer = self._buffer
        while len(buffer) < n:
            try:
                more = self._wire.receive(self._deadline - time.monotonic())
            except TimeoutError:
                raise self._dead("it does not answer") from None
            except OSError as error:
                raise self._dead(str(error)) from None
            if not more:
                raise self._dead("it has ended")
            buffer += more
        taken = bytes(buffer[:n])
        del buffer[:n]
        return taken

    def _dead(self, why: str) -> SandboxFault:
        self.alive = False
        return SandboxFault(f"the sandbox died: {why}{self._autopsy()}")

    def _number(self) -> int:
        return int.from_bytes(self._take(4), "little")

    def _blob(self) -> tuple[bytes, int]:
        """The output of a child of the supervisor, and its wait status."""
        parts = []
        while n := self._number():
            parts.append(self._take(n))
        return b"".join(parts), self._number()


def unpacked(archive: bytes) -> tuple[dict[str, Entry], str]:
    """An archive's entries by path, and what went wrong, if anything did."""
    found, at = dict[str, Entry](), 0

    def number(size: int) -> int:
        nonlocal at
        at += size
        return int.from_bytes(archive[at - size : at], "little")

    def field() -> bytes:
        nonlocal at
        size = number(4)
        at += size
        return archive[at - size : at]

    while kind := archive[at : at + 1].strip(b"\0").decode():
        at += 1
        path = field().decode("utf-8", "surrogateescape")
        mode, uid, mtime, _ = _HEAD.unpack_from(archive, at)
        at += _HEAD.size
        data = b""
        if kind == "f":
            size, parts = number(8), dict[int, bytes]()
            while (where := number(8)) != END:
                length = number(8)
                parts[where] = archive[at : at + length]
                at += length
            data = _joined(size, parts)
        elif kind == "l":
            data = field()
        found[path] = Entry(kind, mode, data, uid, mtime)
    at += 1
    return found, field().decode("utf-8", "replace")


def _joined(size: int, parts: dict[int, bytes]) -> bytes:
    """A file from its extents; of one that is mostly hole, only what is there, lest a claimed terabyte be allocated."""
    if len(parts) == 1 and 0 in parts and len(parts[0]) == size:
        return parts[0]
    if size > 1 << 26 and sum(map(len, parts.values())) < size // 2:
        return b"".join(parts.values())
    whole = bytearray(size)
    for at, part in parts.items():
        whole[at : at + len(part)] = part
    return bytes(whole)


def _string(text: str) -> bytes:
    data = text.encode("utf-8", "surrogateescape")
    return struct.pack("<I", len(data)) + data


def packed(entries: Iterable[tuple[str, Entry]]) -> bytes:
    """Entries as the archive that the supervisor unpacks."""
    out = []
    for path, e in entries:
        out += [e.type.encode(), _string(path), _HEAD.pack(e.mode, e.uid, e.mtime_ns or time.time_ns(), 0)]
        if e.type == "f":
            out.append(struct.pack("<Q", len(e.data)))
            if e.data:
                out += [struct.pack("<QQ", 0, len(e.data)), e.data]
            out.append(struct.pack("<Q", END))
        elif e.type == "l":
            out += [struct.pack("<I", len(e.data)), e.data]
    return b"".join([*out, b"\0"])
