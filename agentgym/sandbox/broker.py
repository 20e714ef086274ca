"""Sandboxes for a gym that itself runs in a container: it asks a broker outside, and is given the wire of a sandbox, never the engine.

The broker may start a sandbox from an image of the lock file, carry bytes between it and whoever asked, and close it. Nothing else can be
said to it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import tempfile
import threading
from pathlib import Path
from typing import ClassVar

import msgspec
from msgspec import Struct

from agentgym.errors import AgentGymError, SandboxFault, SandboxRefused
from agentgym.sandbox.base import Image, Resources, Sandbox, Snapshot
from agentgym.sandbox.docker import ENFORCED, engine, locked
from agentgym.sandbox.link import Entry, Link, packed
from agentgym.sandbox.pool import fresh

VARIABLE = "AGENTGYM_BROKER"
MOST_REQUEST = 1 << 16


class Wanted(Struct, forbid_unknown_fields=True):
    """All that may be asked for."""

    image: str
    resources: Resources


class Answer(Struct):
    """``error`` is empty where a sandbox was started."""

    error: str = ""
    fault: bool = False


def allowed(name: str) -> str | None:
    """Why an image may not be used; None if it is one of the lock file, unchanged."""
    entry = locked().get(name)
    if entry is None:
        return f"image {name!r:.80} is not in the lock file"
    found = engine().images(name=name, quiet=True)
    return None if entry["id"] in found else f"image {name} is not the one of the lock file: python docker/build.py {name.rpartition('/')[2]}"


class Broker:
    """Listens on a socket in a folder of its own, until closed; every sandbox it started goes with it."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="agentgym-broker-"))
        self.folder.chmod(0o755)
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(self.folder / "socket"))
        (self.folder / "socket").chmod(0o666)
        self._listening.listen(128)
        self._open: set[Sandbox] = set()
        self.refused: list[str] = []
        threading.Thread(target=self._serve, name="agentgym-broker", daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                conversation, _ = self._listening.accept()
                threading.Thread(target=self._converse, args=(conversation,), daemon=True).start()

    def _converse(self, conversation: socket.socket) -> None:
        with conversation:
            try:
                wanted = msgspec.json.decode(_line(conversation), type=Wanted)
                if why := allowed(wanted.image):
                    raise SandboxRefused(why, "")
                sandbox = fresh(Image(base=wanted.image), wanted.resources, "docker")
            except (AgentGymError, msgspec.MsgspecError, OSError) as error:
                self.refused.append(str(error))
                with contextlib.suppress(OSError):
                    conversation.sendall(msgspec.json.encode(Answer(str(error)[:500] or "refused", isinstance(error, SandboxFault))) + b"\n")
                return
            self._open.add(sandbox)
            try:
                conversation.sendall(msgspec.json.encode(Answer()) + b"\n")
                _carry(conversation, sandbox)
            except OSError:
                pass
            finally:
                self._open.discard(sandbox)
                sandbox.close()

    def close(self) -> None:
        """Stop listening and close every sandbox; idempotent."""
        self._listening.close()
        for sandbox in list(self._open):
            sandbox.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Broker:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _line(conversation: socket.socket) -> bytes:
    data = b""
    while not data.endswith(b"\n"):
        more = conversation.recv(1)
        if not more or len(data) > MOST_REQUEST:
            raise OSError("no request")
        data += more
    return data


def _carry(conversation: socket.socket, sandbox: Sandbox) -> None:
    """Bytes, both ways, until one side has ended."""
    wire = sandbox._link._wire

    def outwards() -> None:
        with contextlib.suppress(OSError, TimeoutError):
            while data := wire.receive(1e6):
                conversation.sendall(data)
        with contextlib.suppress(OSError):
            conversation.shutdown(socket.SHUT_RDWR)

    threading.Thread(target=outwards, daemon=True).start()
    while data := conversation.recv(1 << 18):
        wire.send(data)


class _Socket:
    """A wire over a connected socket."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected

    def receive(self, timeout: float) -> bytes:
        self._socket.settimeout(max(0.001, timeout))
        return self._socket.recv(1 << 18)

    def send(self, data: bytes) -> None:
        self._socket.settimeout(60)
        self._socket.sendall(data)

    def shut(self) -> None:
        self._socket.close()


class Brokered(Sandbox):
    """A ``docker`` sandbox that a broker started. Layers are written into it; it cannot be snapshotted."""

    kind: ClassVar[str] = "docker"

    @classmethod
    def enforces(cls) -> frozenset[str]:
        return ENFORCED

    def __init__(self, image: Image, resources: Resources, snapshot: Snapshot | None = None) -> None:
        super().__init__(image, resources)
        self.require(resources)
        connected = socket.socket(socket.AF_UNIX)
        try:
            connected.settimeout(120)
            connected.connect(os.environ[VARIABLE])
            connected.sendall(msgspec.json.encode(Wanted(image.base, resources)) + b"\n")
            answer = msgspec.json.decode(_line(connected), type=Answer)
        except (OSError, msgspec.MsgspecError) as error:
            connected.close()
            raise SandboxFault(f"the broker does not answer: {error}") from None
        if answer.error:
            connected.close()
            raise SandboxFault(answer.error) if answer.fault else SandboxRefused(answer.error, "")
        self._link = Link(_Socket(connected), lambda: " (behind the broker)")
        for layer in image.layers:
            files = {p: Entry("f", 0o755 if os.access(p, os.X_OK) else 0o644, p.read_bytes()) for p in sorted(Path(layer.host).rglob("*")) if p.is_file()}
            archive = packed((f"{layer.inside}/{p.relative_to(layer.host)}".lstrip("/"), e) for p, e in files.items())
            if problem := self._link.write("/", archive, layer.inside != "/work"):
                raise SandboxFault(f"writing {layer.inside}: {problem}")

    def _destroy(self) -> None:
        if hasattr(self, "_link"):
            self._link.shut()
