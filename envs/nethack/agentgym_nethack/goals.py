"""What a game is played for, measured on the engine's own state: never on the screen, into which an agent could write."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from nle import nethack

from agentgym_nethack.engine import Game

_CMAP = {nethack.symdef.from_idx(g - nethack.GLYPH_CMAP_OFF).explanation: g for g in range(nethack.GLYPH_CMAP_OFF, nethack.GLYPH_EXPLODE_OFF)}
ALTAR, SINK, STAIRS = _CMAP["altar"], _CMAP["sink"], _CMAP["staircase down"]
THE_ORACLE = next(g for g in range(nethack.GLYPH_MON_OFF, nethack.GLYPH_PET_OFF) if nethack.permonst(nethack.glyph_to_mon(g)).mname == "Oracle")
DEEPEST, HIGHEST = 50, 30
ENOUGH = {"gold": 1000.0, "eat a lot": 1600.0, "scout": 4000.0}
"""Gold, nutrition (two food rations) and squares that count as all there is to reach."""

KEPT = ("depth", "level", "gold", "score", "turns", "eaten", "explored", "done", "found", "dead", "_praying", "_nutrition")

TELLS = {
    "score": "Go as deep and grow as strong as you can, and stay alive.",
    "stairs": "Find the staircase down (>) and stand on it.",
    "pet": "Stand on the staircase down (>) while your pet is next to you.",
    "oracle": "Find the Oracle, some levels down, and stand next to it.",
    "gold": "Collect as much gold ($) as you can.",
    "eat a lot": "Find food (%) and eat as much as you can.",
    "scout": "See as much of the dungeon as you can.",
    "eat": "Eat the apple (%).",
    "wield": "Wield the dagger.",
    "wear": "Wear the robe.",
    "put on": "Put on the amulet.",
    "zap": "Zap the wand.",
    "read": "Read the scroll.",
    "pray": "Pray while you stand on the altar (_).",
    "drink": "Drink from the sink (#) while you stand on it.",
}


class Measure:
    """The running measures of one game, taken after every action.

    ``depth`` and ``level`` are the highest so far, ``eaten`` is nutrition, ``seen`` squares of all levels, ``done`` whether the goal was reached.
    """

    def __init__(self, goal: str, game: Game) -> None:
        self.goal, self.game = goal, game
        self.depth, self.level, self.gold, self.score, self.turns, self.eaten, self.explored = 1, 1, 0, 0, game.stats[20], 0, 0
        self.done = self.found = self.dead = self._praying = False
        self._nutrition = game.inside[7]
        self._reached = GOALS.get(goal)
        self._seen: dict[tuple[int, int], np.ndarray] = {}
        self._place: tuple[int, int] | None = None
        if goal in ("pray", "drink"):
            where = np.argwhere(game.arrays["glyphs"] == (ALTAR if goal == "pray" else SINK))
            self._place = (int(where[0][1]), int(where[0][0])) if len(where) else None
        self.take("")

    def take(self, action: str) -> None:
        """Take note of what an action, by its name, has led to."""
        game = self.game
        if game.over():
            self.dead = not self.done
            return
        s = game.stats
        now = s[20]
        spent, self.turns = now - self.turns, now
        if s[12] > self.depth:
            self.depth = s[12]
        if s[18] > self.level:
            self.level = s[18]
        self.gold, self.score = s[13], s[9]
        ate = game.inside[7] - self._nutrition + spent
        self._nutrition = game.inside[7]
        if ate > 0 and spent and not self._praying:
            self.eaten += ate
        self._praying = action == "pray" and bool(game.asks[0])
        if self.goal == "scout":
            self._scout()
        if self._reached is not None and not self.done:
            self.done = self._reached(self, action, spent, ate)

    def _scout(self) -> None:
        glyphs, s = self.game.arrays["glyphs"], self.game.stats
        known = glyphs != nethack.GLYPH_CMAP_OFF
        here = (s[23], s[24])
        before = self._seen.get(here)
        self._seen[here] = known.copy() if before is None else before | known
        self.explored = sum(int(np.count_nonzero(v)) for v in self._seen.values())

    def state_to_keep(self) -> dict[str, object]:
        """What a snapshot must hold beside the game."""
        kept = {k: getattr(self, k) for k in KEPT}
        return {**kept, "seen": [(list(k), v.tobytes()) for k, v in self._seen.items()], "place": self._place}

    def keep(self, kept: dict[str, Any]) -> None:
        """Go on from ``state_to_keep``."""
        for k in KEPT:
            setattr(self, k, kept[k])
        self._seen = {tuple(k): np.frombuffer(v, dtype=bool).reshape(nethack.DUNGEON_SHAPE) for k, v in kept["seen"]}
        self._place = tuple(kept["place"]) if kept["place"] else None

    @property
    def progress(self) -> float:
        """A level between 0 and 1: for a goal 1 once it is reached and 1/2 once its stairs are in sight; for ``score`` the progression."""
        if self.goal == "score":
            return (self.depth - 1) / (2 * (DEEPEST - 1)) + (self.level - 1) / (2 * (HIGHEST - 1))
        if self.goal in ENOUGH:
            return min(1.0, {"gold": self.gold, "eat a lot": self.eaten, "scout": self.explored}[self.goal] / ENOUGH[self.goal])
        if self.done:
            return 1.0
        if self.goal == "stairs" and not self.found and not self.game.over():
            self.found = bool((self.game.arrays["glyphs"] == STAIRS).any())
        return 0.5 if self.found else 0.0

    def state(self) -> dict[str, object]:
        """What verifiers may know."""
        return {
            "progress": self.progress, "done": self.done, "dead": self.dead, "depth": self.depth, "level": self.level, "turns": self.turns,
            "score": self.score, "gold": self.gold, "eaten": self.eaten,
        }  # fmt: skip


def _around(measure: Measure) -> np.ndarray:
    glyphs, s = measure.game.arrays["glyphs"], measure.game.stats
    return glyphs[max(0, s[1] - 1) : s[1] + 2, max(0, s[0] - 1) : s[0] + 2]


def _held(measure: Measure, oclass: int, name: str, worn: str) -> bool:
    """Whether an item of a class is in the inventory whose text has a name and ends in a state."""
    arrays = measure.game.arrays
    for n in np.flatnonzero(arrays["inv_oclasses"] == oclass):
        text = arrays["inv_strs"][n].tobytes().partition(b"\0")[0].decode("latin-1")
        if name in text and worn in text:
            return True
    return False


def _stairs(measure: Measure, action: str, spent: int, ate: int) -> bool:
    return bool(measure.game.inside[4])


def _pet(measure: Measure, action: str, spent: int, ate: int) -> bool:
    return bool(measure.game.inside[4]) and bool(np.any(nethack.glyph_is_pet(_around(measure))))


def _oracle(measure: Measure, action: str, spent: int, ate: int) -> bool:
    return bool(np.any(_around(measure) == THE_ORACLE))


def _eat(measure: Measure, action: str, spent: int, ate: int) -> bool:
    return ate >= 40 and spent > 0


def _pray(measure: Measure, action: str, spent: int, ate: int) -> bool:
    return action in ("pray", "answer") and spent >= 3 and (measure.game.stats[0], measure.game.stats[1]) == measure._place


def _drink(measure: Measure, action: str, spent: int, ate: int) -> bool:
    return action in ("drink", "quaff", "answer") and spent >= 1 and (measure.game.stats[0], measure.game.stats[1]) == measure._place


GOALS: dict[str, Callable[[Measure, str, int, int], bool]] = {
    "stairs": _stairs, "pet": _pet, "oracle": _oracle, "eat": _eat, "pray": _pray, "drink": _drink,
    "wield": lambda m, *_: _held(m, nethack.WEAPON_CLASS, "dagger", "(weapon in hand)"),
    "wear": lambda m, *_: _held(m, nethack.ARMOR_CLASS, "robe", "(being worn)"),
    "put on": lambda m, *_: _held(m, nethack.AMULET_CLASS, "amulet", "(being worn)"),
    "zap": lambda m, *_: _held(m, nethack.WAND_CLASS, "wand of enlightenment", ""),
    "read": lambda m, *_: _held(m, nethack.SCROLL_CLASS, "unlabeled scroll", "") is False and _held(m, nethack.SCROLL_CLASS, "blank paper", ""),
}  # fmt: skip
