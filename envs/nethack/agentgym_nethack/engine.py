"""One game of NetHack on NLE's engine: seeded in full, asked only for the buffers that are used, every key kept.

A game is a function of its setup and its keys. That is what a snapshot is, and what makes it portable: the keys are pressed again, and the
digest of every screen on the way must come out the same.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from pathlib import Path
from zlib import crc32

import numpy as np
from msgspec import Struct
from nle.nethack import nethack

from agentgym.errors import EnvironmentFault
from agentgym_nethack.levels import data_folder
from agentgym_nethack.pinned import library

nethack.DLPATH = library()

NEEDED = ("tty_chars", "blstats", "misc", "internal", "message")
BUFFERS = (*NEEDED, "glyphs", "inv_letters", "inv_oclasses", "inv_strs")
"""What any game needs, and what a map, an inventory or a bot needs beside it. Each costs a little at every key."""
OPTIONS = (
    "color", "disclose:+i +a +v +g +c +o", "mention_walls", "nobones", "nocmdassist", "nolegacy", "nosparkle", "runmode:teleport", "showexp",
    "showscore", "time",
)  # fmt: skip
ESCAPE, SPACE, ENTER = 27, 32, 13
_rows = struct.Struct("80s" * 24).unpack


class Setup(Struct, frozen=True):
    """All that a game depends on beside its keys. ``level`` is its name, or the folder of one of your own; empty: NetHack's own dungeon.

    ``seeds`` are those of the core, of the display, and of the level generator.
    """

    seeds: tuple[int, int, int]
    character: str = "mon-hum-neu-mal"
    options: tuple[str, ...] = OPTIONS
    monsters: bool = True
    level: str = ""


class Game:
    """A running game. ``keys`` are all that were pressed since its beginning.

    The arrays of the engine are read through memory views of them: ``stats`` (27 numbers, as NetHack's bottom lines), ``inside`` (prompts, stairs,
    nutrition), and ``asks`` (a question, a line of text, a key to go on).
    """

    def __init__(self) -> None:
        self._nle: nethack.Nethack | None = None
        self._made_for: tuple[object, ...] = ()
        self.keys = bytearray()

    def start(self, setup: Setup, buffers: Sequence[str] = BUFFERS) -> None:
        """Begin a game; the engine fills these ``buffers``."""
        made_for = (setup.character, setup.options, setup.monsters, buffers)
        if self._nle is None or made_for != self._made_for:
            self.close()
            self._nle = nethack.Nethack(
                observation_keys=buffers, playername=f"Agent-{setup.character}", ttyrec=None, options=setup.options, spawn_monsters=setup.monsters
            )
            self._made_for = made_for
            self._engine = self._nle._pynethack
            self._press, self.over = self._engine.step, self._engine.done
            self.arrays: dict[str, np.ndarray] = self._nle._obs_buffers
            views = {name: memoryview(array).cast("B") if array.ndim > 1 else memoryview(array) for name, array in self.arrays.items()}
            self.screen, self.stats, self.inside, self.asks = views["tty_chars"], views["blstats"], views["internal"], views["misc"]
            self._message = views["message"]
        self._use(data_folder(setup.level) if setup.level else nethack.HACKDIR)
        self._nle.set_initial_seeds(*setup.seeds[:2], False, setup.seeds[2])
        self._nle.reset()
        self.setup, self.buffers, self.keys = setup, tuple(buffers), bytearray()
        self._chain = crc32(self.screen, crc32(repr(setup).encode()))

    def _use(self, folder: str) -> None:
        """Let the engine find the data file of that folder at its next beginning, and no high scores of games before."""
        assert self._nle is not None
        here = Path(self._nle._vardir)
        os.truncate(here / "record", 0)
        link = here / "nhdat"
        wanted = Path(folder) / "nhdat"
        if link.readlink() != wanted:
            link.unlink()
            link.symlink_to(wanted)

    def press(self, key: int) -> None:
        """Press one key. After the end of the game nothing happens any more."""
        if self.over():
            return
        self._press(key)
        self.keys.append(key)
        self._chain = crc32(self.screen, self._chain)

    @property
    def digest(self) -> str:
        """Of the setup, and of every screen since: equal where the games are the same, random numbers included."""
        return f"{len(self.keys)}.{self._chain:08x}"

    def replay(self, setup: Setup, keys: bytes, digest: str, buffers: Sequence[str] = BUFFERS) -> None:
        """Begin again and press ``keys``. Raises ``EnvironmentFault`` if the game that comes out is another."""
        self.start(setup, buffers)
        for key in keys:
            self.press(key)
        if self.digest != digest:
            raise EnvironmentFault(f"a game of {len(keys)} keys came out differently when it was played again")

    def message(self) -> str:
        """The message of the engine's message window, the last one only."""
        return bytes(self._message).partition(b"\0")[0].decode("latin-1")

    def text(self) -> str:
        """The screen: 24 lines of at most 80, without the blanks at their ends."""
        return b"\n".join(map(bytes.rstrip, _rows(self.screen))).decode("latin-1")

    def close(self) -> None:
        """End the engine; idempotent."""
        if self._nle is not None:
            self._nle.close()
            self._nle = None
