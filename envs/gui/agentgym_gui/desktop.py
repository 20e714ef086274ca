"""A desktop in a sandbox, from this side: begun, asked to act and to show itself, kept ready ahead of need."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil
import struct
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from msgspec import Struct

from agentgym.errors import EnvironmentFault, MissingExtra, SandboxFault
from agentgym.sandbox import Image, Layer, Resources, Sandbox
from agentgym.sandbox.base import HOME
from agentgym.sandbox.link import Entry
from agentgym.sandbox.owner import state_folder
from agentgym.sandbox.pool import Pool, choose, fresh

INSIDE = Path(__file__).with_name("inside")
PLACE, SOCKET = "/opt/agentgym-gui", "/tmp/.desktop"
PACKAGES = ("Xlib", "six", "jeepney")
PROGRAMS = ("Xvfb", "openbox", "dbus-daemon", "mousepad", "thunar", "galculator", "gnumeric", "lxterminal", "ristretto")
DEBIAN = "xvfb openbox dbus at-spi2-core mousepad thunar galculator gnumeric lxterminal ristretto python3 python3-tk fonts-dejavu-core adwaita-icon-theme"
RESOURCES = Resources(cpus=2.0, pids=400, seconds=60.0)
WITHIN = 30
"""Seconds in which a desktop answers anything; what waits inside it is bounded by far less."""


class Kind(Struct, frozen=True):
    """What desktops of one pool have in common."""

    sandbox: str
    size: tuple[int, int]


@cache
def layer() -> str:
    """The folder of what runs inside: this package's part, and the pure Python packages that it needs. Kept by content."""
    sources = {f"packages/{name}": Path(str(importlib.util.find_spec(name).origin)) for name in PACKAGES}  # type: ignore[union-attr]  # they are requirements
    files = {p.relative_to(INSIDE).as_posix(): p for p in sorted(INSIDE.rglob("*")) if p.is_file() and p.suffix != ".pyc"}
    for place, origin in sources.items():
        if origin.name == "__init__.py":
            files |= {f"{place}/{p.relative_to(origin.parent).as_posix()}": p for p in sorted(origin.parent.rglob("*.py"))}
        else:
            files[f"{place}.py"] = origin
    digest = hashlib.blake2b(b"".join(f"{name}\0".encode() + p.read_bytes() for name, p in files.items()), digest_size=8).hexdigest()
    folder = state_folder() / f"gui-{digest}"
    if not folder.is_dir():
        begun = Path(tempfile.mkdtemp(dir=state_folder(), prefix="gui-"))
        begun.chmod(0o755)
        for name, path in files.items():
            (begun / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, begun / name)
        try:
            begun.rename(folder)
        except OSError:  # somebody else was as quick
            shutil.rmtree(begun)
    return str(folder)


def image() -> Image:
    """What the sandbox of a desktop starts from."""
    return Image(base="agentgym/gui", layers=(Layer(layer(), PLACE),), env=(("PYTHONDONTWRITEBYTECODE", "1"),))


class Desktop:
    """A display with its programs in a sandbox of its own.

    ``frame`` is the screen as it was last seen, ``[height, width, 3]`` of ``uint8``; ``seen`` what else was told of it: windows, menus, pointer,
    and the widgets where they were asked for.

    Raises (from every method):
        EnvironmentFault: the display is gone, or does not answer.
    """

    def __init__(self, sandbox: Sandbox, size: tuple[int, int]) -> None:
        self.sandbox, self.size = sandbox, size
        done = sandbox.exec(["/usr/bin/python3", f"{PLACE}/serve.py", *map(str, size)], cwd=HOME, timeout=30)
        if done.code:
            sandbox.close()
            raise EnvironmentFault(f"the desktop did not start: {done.output.strip()[-600:]}")
        self.frame = np.zeros((size[1], size[0], 3), np.uint8)
        self.seen: dict[str, Any] = {}
        self._digests: dict[int, bytes] = {}

    @property
    def digest(self) -> str:
        """A digest of the screen, made of those of its bands: only what has changed is read again."""
        return hashlib.blake2b(b"".join(d for _, d in sorted(self._digests.items())), digest_size=12).hexdigest()

    def ask(self, op: str, **given: Any) -> dict[str, Any]:
        """One request; the answer's header. ``frame`` and ``seen`` are what they are after it."""
        try:
            said = self.sandbox.ask(SOCKET, json.dumps({"op": op, **given}).encode(), WITHIN)
        except (ConnectionError, SandboxFault) as error:
            raise EnvironmentFault(f"the display is gone: {error}") from None
        if len(said) < 4:
            raise EnvironmentFault("the display is gone: it broke off")
        (length,) = struct.unpack_from("<I", said)
        header: dict[str, Any] = json.loads(said[4 : 4 + length])
        if "fault" in header:
            raise EnvironmentFault(f"the desktop failed: {header['fault'][:300]}")
        if "bands" in header:
            self._paint(header["band"], header["bands"], memoryview(said)[4 + length :])
        self.seen = header
        return header

    def peek(self) -> list[dict[str, Any]]:
        """The widgets as they are, for who reads the world without being the agent: nothing that the agent sees later is changed by it."""
        kept = self.seen
        rows: list[dict[str, Any]] = self.ask("look", tree=True, number=False)["tree"]
        self.seen = kept
        return rows

    def _paint(self, band: int, bands: Sequence[int], data: memoryview) -> None:
        width, at = self.size[0], 0
        for first in bands:
            rows = min(band, self.size[1] - first * band)
            part = np.frombuffer(data, np.uint8, rows * width * 4, at).reshape(rows, width, 4)
            self.frame[first * band : first * band + rows] = part[:, :, 2::-1]
            self._digests[first] = hashlib.blake2b(data[at : at + rows * width * 4], digest_size=16).digest()
            at += rows * width * 4

    def write(self, files: Mapping[str, bytes]) -> None:
        """Files of the home folder, by their paths in it."""
        try:
            self.sandbox.write({f"{HOME}/{name}": Entry("f", 0o644, data, mtime_ns=978_339_600_000_000_000) for name, data in files.items()})
        except SandboxFault as error:
            raise EnvironmentFault(str(error)) from None

    def files(self) -> dict[str, Entry]:
        """What is in the home folder, by path."""
        try:
            return self.sandbox.collect(HOME, max_bytes=32 << 20, max_files=5000)
        except (FileNotFoundError, SandboxFault) as error:
            raise EnvironmentFault(f"the home folder cannot be read: {error}") from None

    @property
    def closed(self) -> bool:
        """Whether its sandbox has ended."""
        return self.sandbox.closed

    def close(self) -> None:
        """End it; idempotent."""
        self.sandbox.close()


def start(kind: Kind) -> Desktop:
    """A desktop started now.

    Raises:
        MissingExtra: a program is not installed (``bwrap`` takes those of the host).
    """
    if kind.sandbox == "bwrap" and (missing := [p for p in PROGRAMS if shutil.which(p) is None]):
        raise MissingExtra(f"{', '.join(missing)}", f"apt-get install -y --no-install-recommends {DEBIAN}")
    return Desktop(fresh(image(), RESOURCES, kind.sandbox), kind.size)


pool: Pool[Kind, Desktop] = Pool(start)


def lease(sandbox: str | None, size: tuple[int, int], ahead: int) -> Desktop:
    """A desktop nobody has used, from the pool if one is ready there; ``ahead`` are kept ready from now on."""
    kind = Kind(sandbox or choose(RESOURCES), size)
    pool.want(kind, ahead)
    return pool.take(kind) or start(kind)
