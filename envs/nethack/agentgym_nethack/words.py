"""What the engine knows, in words: glyphs, the status line, what stands next to the player, and a short text of it all."""

from __future__ import annotations

from functools import cache

import numpy as np
from nle import nethack

from agentgym_nethack.engine import Game

HUNGER = ("satiated", "", "hungry", "weak", "fainting", "fainted", "starved")
LOAD = ("", "burdened", "stressed", "strained", "overtaxed", "overloaded")
CONDITIONS = {
    nethack.BL_MASK_STONE: "turning to stone", nethack.BL_MASK_SLIME: "turning to slime", nethack.BL_MASK_STRNGL: "strangled",
    nethack.BL_MASK_FOODPOIS: "food poisoned", nethack.BL_MASK_TERMILL: "terminally ill", nethack.BL_MASK_BLIND: "blind", nethack.BL_MASK_DEAF: "deaf",
    nethack.BL_MASK_STUN: "stunned", nethack.BL_MASK_CONF: "confused", nethack.BL_MASK_HALLU: "hallucinating", nethack.BL_MASK_LEV: "levitating",
    nethack.BL_MASK_FLY: "flying", nethack.BL_MASK_RIDE: "riding",
}  # fmt: skip
AROUND = {
    "northwest": (-1, -1),
    "north": (-1, 0),
    "northeast": (-1, 1),
    "west": (0, -1),
    "east": (0, 1),
    "southwest": (1, -1),
    "south": (1, 0),
    "southeast": (1, 1),
}
ROWS, COLUMNS = 21, 79
HIGH, WIDE = 7, 15
"""The cropped map of the compact style."""


@cache
def name_of(glyph: int) -> str:
    """A glyph in words; empty for what is not there (dark or solid rock)."""
    if glyph >= nethack.MAX_GLYPH:
        return ""
    if nethack.glyph_is_invisible(glyph):
        return "something unseen"
    if nethack.glyph_is_warning(glyph):
        return "something dangerous"
    if nethack.glyph_is_monster(glyph):
        name = nethack.permonst(nethack.glyph_to_mon(glyph)).mname
        return f"tame {name}" if nethack.glyph_is_pet(glyph) else name
    if nethack.glyph_is_body(glyph):
        return f"{nethack.permonst(glyph - nethack.GLYPH_BODY_OFF).mname} corpse"
    if nethack.glyph_is_statue(glyph):
        return f"statue of {nethack.permonst(glyph - nethack.GLYPH_STATUE_OFF).mname}"
    if nethack.glyph_is_object(glyph):
        thing = nethack.objclass(nethack.glyph_to_obj(glyph))
        return str(nethack.OBJ_NAME(thing) or nethack.OBJ_DESCR(thing) or "thing")
    if nethack.glyph_is_trap(glyph):
        return f"{nethack.symdef.from_idx(nethack.glyph_to_cmap(glyph)).explanation} (trap)"
    if nethack.glyph_is_cmap(glyph):
        return str(nethack.symdef.from_idx(nethack.glyph_to_cmap(glyph)).explanation).replace("dark part of a room", "").replace("stone", "")
    return ""


def status(game: Game) -> str:
    """The bottom lines in words."""
    s = game.stats
    words = [
        f"health {s[10]}/{s[11]}", f"power {s[14]}/{s[15]}" if s[15] else "", f"armour class {s[16]}", f"level {s[18]}", f"depth {s[12]}", f"turn {s[20]}",
        f"gold {s[13]}" if s[13] else "", HUNGER[min(6, s[21])], LOAD[min(5, s[22])], *(word for bit, word in CONDITIONS.items() if s[25] & bit),
    ]  # fmt: skip
    return ", ".join(w for w in words if w)


def adjacent(game: Game) -> str:
    """What stands next to the player, floor left out."""
    glyphs, x, y = game.arrays["glyphs"], game.stats[0], game.stats[1]
    found = []
    for direction, (dy, dx) in AROUND.items():
        if 0 <= y + dy < ROWS and 0 <= x + dx < COLUMNS:
            name = name_of(int(glyphs[y + dy, x + dx]))
            if name and name not in ("floor of a room", "corridor", "lit corridor"):
                found.append(f"{direction} {name}")
    return "; ".join(found)


def cropped(game: Game) -> str:
    """The map around the player."""
    screen = game.arrays["tty_chars"]
    x, y = game.stats[0], game.stats[1] + 1
    top, left = max(1, min(y - HIGH // 2, 22 - HIGH)), max(0, min(x - WIDE // 2, 80 - WIDE))
    rows = [bytes(row).decode("latin-1").rstrip() for row in screen[top : top + HIGH, left : left + WIDE]]
    while rows and not rows[-1]:
        rows.pop()
    return "\n".join(rows)


def inventory(game: Game) -> list[str]:
    """The lines of the inventory: letter and text."""
    letters, texts = game.arrays["inv_letters"], game.arrays["inv_strs"]
    return [f"{chr(letters[i])} - {texts[i].tobytes().partition(b'%c' % 0)[0].decode('latin-1')}" for i in range(int(np.count_nonzero(letters)))]


def compact(game: Game, pages: list[str], asked: str) -> str:
    """The compact style: messages, question, status, what is adjacent, and the map around the player."""
    said = [p for p in [*pages, "" if asked else game.message()] if p]
    lines = [" ".join(said) if said else "", f"NetHack asks: {asked}" if asked else "", status(game), adjacent(game), cropped(game)]
    return "\n".join(line for line in lines if line)
