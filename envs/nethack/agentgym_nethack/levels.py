"""MiniHack's levels: described by the ``minihack`` package, compiled once each into a data file that NetHack's engine reads."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tempfile
import tomllib
import warnings
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gymnasium
from msgspec import Struct
from nle.nethack.nethack import HACKDIR

from agentgym.errors import EnvironmentFault
from agentgym.sandbox import state_folder

_LIB = Path(next(iter(find_spec("minihack").submodule_search_locations))) / "lib"  # type: ignore[union-attr, arg-type]  # it is installed
_TABLE = tomllib.loads(Path(__file__).with_name("levels.toml").read_text())
FAMILIES: dict[str, list[str]] = _TABLE["families"]
GOALS: dict[str, str] = _TABLE["goals"]


class Level(Struct, frozen=True):
    """A level as its author describes it: NetHack's level language, who plays it, and how many steps an episode may take."""

    text: str
    character: str
    autopickup: bool
    turns: int


class _Captured(Exception):
    """Carries what a class of ``minihack`` passes to its base."""


@cache
def level(name: str) -> Level:
    """The level of that name (``Room-5x5``)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import minihack.base
    versions = [s for s in gymnasium.registry.values() if s.id.rpartition("-v")[0] == f"MiniHack-{name}"]
    module, _, cls = str(versions[-1].entry_point).partition(":")
    given: dict[str, Any] = {}

    def capture(self: object, *args: Any, **kwargs: Any) -> None:
        given.update(kwargs)
        raise _Captured

    before = minihack.base.MiniHack.__init__
    minihack.base.MiniHack.__init__ = capture
    try:
        getattr(import_module(module), cls)(**versions[-1].kwargs)
    except _Captured:
        pass
    finally:
        minihack.base.MiniHack.__init__ = before
    text = str(given["des_file"])
    if text.endswith(".des"):
        text = (Path(minihack.base.PATH_DAT_DIR) / text).read_text()
    return Level(text, given["character"], given.get("autopickup", True), given["max_episode_steps"])


@cache
def data_folder(name: str) -> str:
    """The folder of the level of that name, see ``compiled``; a folder is its own."""
    return name if "/" in name else compiled(level(name).text)


def compiled(text: str) -> str:
    """A folder with an ``nhdat`` in which a level stands for NetHack's first one; made on first use.

    Raises:
        EnvironmentFault: NetHack's level compiler refuses it.
    """
    target = state_folder() / "nethack" / hashlib.sha256(text.encode()).hexdigest()[:16]
    if (target / "nhdat").exists():
        return str(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        lib = Path(scratch) / "lib"
        shutil.copytree(_LIB, lib)
        (lib / "mylevel.des").write_text(text)
        _run([f"{HACKDIR}/lev_comp", "mylevel.des"], lib)
        (lib / "mylevel.des").unlink()
        _run([f"{HACKDIR}/dlb", "cf", "nhdat", *sorted(p.name for p in lib.iterdir())], lib)
        made = Path(scratch) / "made"
        made.mkdir()
        (lib / "nhdat").rename(made / "nhdat")
        try:
            made.rename(target)
        except OSError:  # another process was first
            if not (target / "nhdat").exists():
                raise
    return str(target)


def _run(command: list[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise EnvironmentFault(f"a level cannot be compiled: {(done.stdout + done.stderr)[-300:]}")
