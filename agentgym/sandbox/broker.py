"""Sandboxes for a gym that itself runs in a container: it asks a broker outside, and is given the wire of a sandbox, never the engine.

The broker may start a sandbox from an image of the lock file, carry bytes between it and whoever asked, and close it. Nothing else can be
said to it.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import tempfile
import threading
from pathlib import Path

import msgspec

from agentgym.errors import AgentGymError, SandboxFault, SandboxRefused, UsageError
from agentgym.sandbox.base import Image, Sandbox
from agentgym.sandbox.brokered import Answer, Wanted, read_line
from agentgym.sandbox.docker import engine, locked
from agentgym.sandbox.pool import fresh

_WANTED = msgspec.json.Decoder(Wanted)
"""Made here, because msgspec cannot make one for a type in two threads at once."""


def allowed(name: str) -> str | None:
    """Why an image may not be used; None if it is one of the lock file, unchanged."""
    entry = locked().get(name)
    if entry is None:
        return f"image {name!r:.80} is not in the lock file"
    found = engine().images(name=name, quiet=True)
    return None if entry["id"] in found else f"image {name} is not the one of the lock file: python docker/build.py {name.rpartition('/')[2]}"


class Broker:
    """Listens on ``socket`` in a folder (default: one of its own) until closed; every sandbox it started goes with it.

    Raises:
        UsageError: another broker listens there.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or Path(tempfile.mkdtemp(prefix="agentgym-broker-"))
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o755)
        if (place := self.folder / "socket").exists():
            with socket.socket(socket.AF_UNIX) as other:
                if other.connect_ex(str(place)) == 0:
                    raise UsageError(f"another broker listens on {place}")
            place.unlink()
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
                wanted = _WANTED.decode(read_line(conversation))
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
