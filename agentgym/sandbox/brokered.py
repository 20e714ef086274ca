"""What is seen of the broker from inside the eval image: sandboxes that the host starts on request, and how the two talk."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import ClassVar

import msgspec
from msgspec import Struct

from agentgym.errors import SandboxFault, SandboxRefused
from agentgym.sandbox.base import Image, Resources, Sandbox, Snapshot
from agentgym.sandbox.docker import ENFORCED
from agentgym.sandbox.link import Entry, Link, packed
from agentgym.sandbox.owner import VARIABLE

MOST_REQUEST = 1 << 16


class Wanted(Struct, forbid_unknown_fields=True):
    """All that may be asked for."""

    image: str
    resources: Resources


class Answer(Struct):
    """``error`` is empty where a sandbox was started."""

    error: str = ""
    fault: bool = False


_ANSWER = msgspec.json.Decoder(Answer)


def read_line(conversation: socket.socket) -> bytes:
    data = b""
    while not data.endswith(b"\n"):
        more = conversation.recv(1)
        if not more or len(data) > MOST_REQUEST:
            raise OSError("no request")
        data += more
    return data


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
            answer = _ANSWER.decode(read_line(connected))
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
