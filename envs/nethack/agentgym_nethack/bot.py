"""An honest player: it explores, fights, eats, prays, opens doors, and goes down. It reads what a player may see: the map, the inventory, the status.

On a level it is the oracle too: a game is a function of its keys, so the bot tries a level in a game beside the real one, with other choices
each time, until it wins, and gives the actions that won.
"""

from __future__ import annotations

import random
import re
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import closing
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from nle import nethack

from agentgym.errors import CapabilityError
from agentgym_nethack import words
from agentgym_nethack.commands import read
from agentgym_nethack.engine import Game, Setup
from agentgym_nethack.goals import ALTAR, SINK, STAIRS, Measure
from agentgym_nethack.hands import act, question
from agentgym_nethack.levels import FAMILIES

if TYPE_CHECKING:
    from agentgym_nethack.env import NetHackEnv

TRIES = 24
"""How often the oracle tries a level."""
SOLVED = ("room", "corridor", "maze", "key", "lava", "skill")
"""The families whose levels it wins, but for a few games that luck decides."""
ROCK = nethack.GLYPH_CMAP_OFF
WALLS = {"wall", "tree", "iron bars", "raised drawbridge"}
CLOSED, OPEN = {"closed door"}, {"open door", "broken door", "doorway", "no door"}
DEEP = {"water", "lava", "molten lava", "moat"}
DO_NOT_TOUCH = {"floating eye", "acid blob", "blue jelly", "gas spore", "green mold", "brown mold", "yellow mold", "red mold"}
WAYS = (
    (nethack.POTION_CLASS, "quaff", ""), (nethack.RING_CLASS, "put on", ""), (nethack.ARMOR_CLASS, "wear", "boots"), (nethack.WAND_CLASS, "zap", ""),
    (nethack.TOOL_CLASS, "apply", "horn"),
)  # fmt: skip
"""What may carry over water and lava, and how it is used."""
_KIND: dict[int, str] = {}


def kind(glyph: int) -> str:
    """What a square is to a walker: ``rock wall door closed deep trap boulder monster pet`` or ``free``."""
    if glyph not in _KIND:
        _KIND[glyph] = _kind(glyph)
    return _KIND[glyph]


def _kind(glyph: int) -> str:
    name = words.name_of(glyph)
    if glyph == ROCK or name == "boulder":
        return "rock" if glyph == ROCK else name
    if nethack.glyph_is_monster(glyph) or nethack.glyph_is_invisible(glyph):
        return "pet" if nethack.glyph_is_pet(glyph) else "monster"
    if nethack.glyph_is_trap(glyph):
        return "trap"
    kinds = {"wall": WALLS, "closed": CLOSED, "door": OPEN, "deep": DEEP}
    return next((k for k, names in kinds.items() if name in names), "free") if nethack.glyph_is_cmap(glyph) else "free"


Square = tuple[int, int]
"""Row and column of the map."""


class Explorer:
    """What the bot remembers of one dungeon level."""

    def __init__(self) -> None:
        self.visited: set[Square] = set()
        self.searched: Counter[Square] = Counter()
        self.stuck: Counter[Square] = Counter()
        self.locked: set[Square] = set()
        self.kicked: Counter[Square] = Counter()


class Bot:
    """Plays one game, one action at a time. ``goal`` is what it is played for, ``luck`` decides among choices that look equal,
    ``courage`` is how often it fights what it could run from.
    """

    def __init__(self, game: Game, goal: str, luck: random.Random, courage: float = 1.0) -> None:
        self.game, self.goal, self.luck, self.courage = game, goal, luck, courage
        self.levels: dict[Square, Explorer] = {}
        self.used: set[str] = set()
        self.prayed, self.aim = -1000, ""
        self.last: tuple[Square, Square] | None = None

    def actions(self) -> Iterator[str]:
        """The next action, as long as there is a game. Each must be done before the next is asked for."""
        while not self.game.over():
            yield self._next()

    # The world as it stands

    @property
    def _here(self) -> Square:
        return self.game.stats[1], self.game.stats[0]

    @property
    def _explorer(self) -> Explorer:
        return self.levels.setdefault((self.game.stats[23], self.game.stats[24]), Explorer())

    def _kinds(self) -> dict[Square, str]:
        """The squares that are known, and what they are."""
        glyphs = self.game.arrays["glyphs"]
        return {(int(y), int(x)): kind(int(glyphs[y, x])) for y, x in np.argwhere(glyphs != ROCK)}

    def _items(self, oclass: int) -> list[tuple[str, str]]:
        """Letter and text of the items of a class."""
        arrays = self.game.arrays
        lines = words.inventory(self.game)
        return [(lines[n][0], lines[n][4:]) for n in range(len(lines)) if arrays["inv_oclasses"][n] == oclass]

    # Deciding

    def _next(self) -> str:
        asked = question(self.game)
        if asked:
            return self._answer(asked)
        s, here, explorer = self.game.stats, self._here, self._explorer
        known = self._kinds()
        self._learn(here, explorer)
        explorer.visited.add(here)
        if (s[10] * 7 <= s[11] or s[10] < 6 or s[21] >= 3) and s[20] - self.prayed > 900 and (s[20] > 300 or s[10] * 7 <= s[11]) and self.goal not in ("pray",):
            self.prayed = s[20]
            return "pray"
        if fight := self._fight(here, known):
            return fight
        if s[21] >= 2 and (food := self._items(nethack.FOOD_CLASS)):
            return f"eat {food[0][0]}"
        if s[10] * 2 < s[11] and self.goal == "score" and s[20] % 50 < 45 and not any(k == "monster" for k in known.values()):
            return "search 10"
        return self._use(here, known) or self._walk(here, known, explorer)

    def _answer(self, asked: str) -> str:
        if "Really attack" in asked:
            if self.last is not None:
                self._explorer.stuck[self.last[1]] += 3
            return "answer esc"
        if "want to pray" in asked or "Unlock it" in asked or "Drink from" in asked or "eat it?" in asked:
            return "answer y"
        if "Lock it" in asked:
            self._explorer.locked.clear()
            return "answer n"
        if "Right or Left" in asked:
            return "answer r"
        if "Improvise" in asked:
            return "answer n"
        if "direction" in asked and self.aim:
            return f"answer {self.aim}"
        return "answer esc"

    def _learn(self, here: Square, explorer: Explorer) -> None:
        """Whether the last step did what it should; if not, a few times, the square is no way."""
        message = self.game.message()
        if re.search("succeed in|door opens|crashes open|is no door", message):
            explorer.locked.clear()
        if self.last is not None:
            before, wanted = self.last
            if here == before:
                explorer.stuck[wanted] += 1
                if "locked" in message:
                    explorer.locked.add(wanted)
        self.last = None

    def _fight(self, here: Square, known: dict[Square, str]) -> str:
        glyphs = self.game.arrays["glyphs"]
        if self.luck.random() > self.courage:
            return ""
        if thrown := self._throw(here, known):
            return thrown
        for direction, (dy, dx) in words.AROUND.items():
            at = here[0] + dy, here[1] + dx
            if known.get(at) == "monster" and words.name_of(int(glyphs[at])) not in DO_NOT_TOUCH and self._explorer.stuck[at] < 6:
                if dy and dx and "door" in (known.get(here), known.get(at)):
                    continue
                self.last = None
                return f"fight {direction}"
        return ""

    def _throw(self, here: Square, known: dict[Square, str]) -> str:
        """A dagger at a monster in line, a few squares away, with nothing between."""
        if "monster" not in known.values():
            return ""
        daggers = [letter for letter, text in self._items(nethack.WEAPON_CLASS) if "dagger" in text and "weapon in hand" not in text]
        if not daggers:
            return ""
        for direction, (dy, dx) in words.AROUND.items():
            for n in range(1, 6):
                there = known.get((here[0] + n * dy, here[1] + n * dx))
                if there == "monster":
                    self.last = None
                    return f"throw {daggers[0]} {direction}"
                if there not in ("free", "trap"):
                    break
        return ""

    def _use(self, here: Square, known: dict[Square, str]) -> str:
        """What a skill's goal asks for, once its thing is at hand."""
        if self.goal in ("pray", "drink"):
            place = self._place()
            return ("pray" if self.goal == "pray" else "drink") if place == here else ""
        wanted = {
            "wield": (nethack.WEAPON_CLASS, "dagger", "wield"), "wear": (nethack.ARMOR_CLASS, "robe", "wear"), "put on": (nethack.AMULET_CLASS, "", "put on"),
            "zap": (nethack.WAND_CLASS, "", "zap"), "read": (nethack.SCROLL_CLASS, "", "read"),
        }.get(self.goal)  # fmt: skip
        if self.goal == "eat" and "apple" in self.game.message():
            return "eat floor"
        if wanted is not None:
            for letter, text in self._items(wanted[0]):
                if wanted[1] in text:
                    return f"{wanted[2]} {letter}"
        if self._things_here(wanted is not None):
            return "pick up all"
        return ""

    def _things_here(self, wanted: bool) -> bool:
        """Whether something lies here that is worth taking and has not been refused."""
        said = self.game.message()
        key = f"{self._here}{(self.game.stats[23], self.game.stats[24])}"
        if ("You see here" in said or "several" in said or "many objects" in said or "things that are here" in said) and key not in self.used:
            useful = wanted or re.search(r"key|potion|ring|boots|wand|horn|lock pick", said) is not None
            if useful:
                self.used.add(key)
                return True
        return False

    def _place(self) -> Square | None:
        where = np.argwhere(self.game.arrays["glyphs"] == (ALTAR if self.goal == "pray" else SINK))
        if len(where):
            self._remembered: Square | None = (int(where[0][0]), int(where[0][1]))
        return getattr(self, "_remembered", None)

    # Walking

    def _walk(self, here: Square, known: dict[Square, str], explorer: Explorer) -> str:
        reach = self._reach(here, known, explorer)
        glyphs = self.game.arrays["glyphs"]
        targets = {(int(y), int(x)) for y, x in np.argwhere(glyphs == STAIRS)}
        if self.game.inside[4] and self.goal in ("score", "oracle", "scout", "gold", "eat a lot"):
            return "down"
        if self.goal in ("pray", "drink") and (place := self._place()):
            targets = {place}
        things = {sq for sq, k in known.items() if k == "free" and sq not in explorer.visited and nethack.glyph_is_object(int(glyphs[sq]))}
        if self.goal in ("eat", "wield", "wear", "put on", "zap", "read") or (self.goal in ("gold", "eat a lot") and things & reach.keys()):
            targets = things
        for wanted in (targets, things if self._locked_out(known, reach, targets) else set(), self._frontier(known, explorer)):
            if found := self._nearest(reach, wanted, explorer):
                return self._step(here, found, reach)
        if opened := self._door(here, known, reach, explorer):
            return opened
        if used := self._try_items(here, known):
            return used
        return self._search(here, known, reach, explorer)

    def _locked_out(self, known: dict[Square, str], reach: dict[Square, Square], targets: set[Square]) -> bool:
        return not (targets & reach.keys())

    def _reach(self, here: Square, known: dict[Square, str], explorer: Explorer) -> dict[Square, Square]:
        """The squares that can be walked to, each with the one before it; nearest first."""
        floating = bool(self.game.stats[25] & (nethack.BL_MASK_LEV | nethack.BL_MASK_FLY))
        free = {"free", "door", "pet", "monster", *(("deep", "trap") if floating else ())}
        came: dict[Square, Square] = {here: here}
        waiting = deque([here])
        around = list(words.AROUND.values())
        self.luck.shuffle(around)
        around.sort(key=lambda d: abs(d[0]) + abs(d[1]))
        while waiting:
            y, x = waiting.popleft()
            for dy, dx in around:
                to = y + dy, x + dx
                if to in came or known.get(to) not in free or explorer.stuck[to] >= 4:
                    continue
                if dy and dx and ("door" in (known.get((y, x)), known.get(to)) or self._tight(known, (y, x), to)):
                    continue
                came[to] = (y, x)
                waiting.append(to)
        return came

    def _tight(self, known: dict[Square, str], a: Square, b: Square) -> bool:
        """Whether a diagonal step squeezes between two boulders."""
        return known.get((a[0], b[1])) == "boulder" and known.get((b[0], a[1])) == "boulder"

    def _frontier(self, known: dict[Square, str], explorer: Explorer) -> set[Square]:
        """Squares not yet stood on, with something unknown beside them."""
        found = set()
        for sq, k in known.items():
            if k in ("free", "door") and sq not in explorer.visited:
                y, x = sq
                if any((y + dy, x + dx) not in known and 0 < y + dy < 21 and 0 < x + dx < 79 for dy, dx in words.AROUND.values()):
                    found.add(sq)
        return found

    def _nearest(self, reach: dict[Square, Square], wanted: set[Square], explorer: Explorer) -> Square | None:
        return next((sq for sq in reach if sq in wanted and reach[sq] != sq), None)

    def _step(self, here: Square, to: Square, reach: dict[Square, Square]) -> str:
        """The first step of the way to a square."""
        while reach[to] != here:
            to = reach[to]
        self.last = here, to
        return _direction(here, to)

    def _door(self, here: Square, known: dict[Square, str], reach: dict[Square, Square], explorer: Explorer) -> str:
        """Go to a closed door and open it: by hand, with a key, or with a foot."""
        closed = {sq for sq, k in known.items() if k == "closed" and explorer.kicked[sq] < 25}
        beside: dict[Square, Square] = {}
        for y, x in closed:
            for dy, dx in ((0, 1), (0, -1), (1, 0), (-1, 0)):
                if (y + dy, x + dx) in reach:
                    beside[y + dy, x + dx] = (y, x)
        if here in beside:
            door = beside[here]
            direction = _direction(here, door)
            explorer.kicked[door] += 1
            if "locked" in self.game.message() or door in explorer.locked:
                explorer.locked.add(door)
                tools = [letter for letter, text in self._items(nethack.TOOL_CLASS) if re.search(r"key|lock pick|credit card", text)]
                return f"apply {tools[0]} {direction}" if tools else f"kick {direction}"
            return f"open {direction}"
        found = next((sq for sq in reach if sq in beside), None)
        return self._step(here, found, reach) if found else ""

    def _try_items(self, here: Square, known: dict[Square, str]) -> str:
        """Where there is no way on, use what there is, each once: float over lava, or freeze it."""
        if "deep" not in known.values():
            return ""
        ways = (
            (nethack.POTION_CLASS, "quaff", ""),
            (nethack.RING_CLASS, "put on", ""),
            (nethack.ARMOR_CLASS, "wear", "boots"),
            (nethack.WAND_CLASS, "zap", ""),
            (nethack.TOOL_CLASS, "apply", "horn"),
        )
        for oclass, verb, needs in ways:
            for letter, text in self._items(oclass):
                if needs in text and f"{verb} {text}" not in self.used and "being worn" not in text and "on " not in text:
                    self.used.add(f"{verb} {text}")
                    self.aim = self._towards(here, known)
                    return f"{verb} {letter} {self.aim}" if verb in ("zap", "apply") else f"{verb} {letter}"
        return ""

    def _towards(self, here: Square, known: dict[Square, str]) -> str:
        """The direction in which water or lava lies nearest in a straight line."""
        for n in range(1, 12):
            for direction, (dy, dx) in words.AROUND.items():
                if not (dy and dx) and known.get((here[0] + n * dy, here[1] + n * dx)) == "deep":
                    return direction
        return "east"

    def _search(self, here: Square, known: dict[Square, str], reach: dict[Square, Square], explorer: Explorer) -> str:
        """Look for what is hidden: at dead ends first, then along walls; where it was looked for least."""

        def worth(sq: Square) -> tuple[float, int]:
            y, x = sq
            ways = sum((y + dy, x + dx) in reach for dy, dx in words.AROUND.values())
            walls = sum(known.get((y + dy, x + dx), "rock") in ("wall", "rock") for dy, dx in words.AROUND.values())
            dead_end = ways <= 1
            return explorer.searched[sq] * (1.0 if dead_end else 2.5) + (0.0 if dead_end else 3.0 if walls >= 3 else 9.0), 0

        order = {sq: n for n, sq in enumerate(reach)}
        best = min(reach, key=lambda sq: (worth(sq)[0] + order[sq] / 60, order[sq]))
        if best == here:
            explorer.searched[here] += 1
            if explorer.searched[here] % 4 == 0:
                explorer.stuck.clear()
            return "search 8"
        return self._step(here, best, reach)


def _direction(a: Square, b: Square) -> str:
    step = (b[0] > a[0]) - (b[0] < a[0]), (b[1] > a[1]) - (b[1] < a[1])
    return next(name for name, way in words.AROUND.items() if way == step)


def solve(env: NetHackEnv) -> tuple[str, ...]:
    """The actions that win a level from where a game stands, found in a game beside it.

    Raises:
        CapabilityError: the task is of no family that is solved, or the bot did not win it within its tries.
    """
    if not any(env.task.data["name"] in FAMILIES[family] for family in SOLVED):
        raise CapabilityError(f"{env.task.id} has no oracle; those of nethack/{', nethack/'.join(SOLVED)} have")
    game = env.game
    found = _solution(game.setup, bytes(game.keys), game.digest, str(env.task.data["goal"]), env.limits.max_turns - len(env.episode.turns))
    if found is None:
        raise CapabilityError(f"the search of {TRIES} tries did not win {env.task.id}")
    return found


@lru_cache(1024)
def _solution(setup: Setup, keys: bytes, digest: str, goal: str, left: int) -> tuple[str, ...] | None:
    with closing(Game()) as game:
        for number in range(TRIES):
            game.replay(setup, keys, digest)
            measure, done = Measure(goal, game), list[str]()
            for action in Bot(game, goal, random.Random(number), (1.0, 0.0, 0.5)[number % 3]).actions():
                if len(done) == left:
                    break
                plan = read(action)
                act(game, plan)
                measure.take(plan.name)
                done.append(action)
                if measure.done:
                    return tuple(done)
    return None
