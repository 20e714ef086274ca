"""``text/rooms-v0``: rooms to explore, paid at the far end alone, with a radio in the first that always says something new.

What comes out of the radio cannot be learned: a world to tell curiosity from a taste for noise. After "Large-Scale Study of Curiosity-Driven Learning".
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import msgspec
from agentgym_verifiers.rules import Noted

from agentgym.core import Capabilities, Limits, StopReason, Task, TaskSet, Verifier
from agentgym.errors import UsageError
from agentgym.rewards import Spec, delta, outcome, standard, step
from agentgym_text.base import End, LineEnv, Said

COUNT = {"train": 2000, "dev": 200, "test": 400}
WAYS = {"north": (0, 1), "south": (0, -1), "east": (1, 0), "west": (-1, 0)}
BACK = {"north": "south", "south": "north", "east": "west", "west": "east"}
ROOMS = (
    "attic", "bakery", "cellar", "chapel", "court", "crypt", "den", "forge", "gallery", "garden", "hall", "kitchen", "larder", "library", "loft", "mill",
    "nursery", "office", "pantry", "parlour", "pool", "porch", "prison", "shed", "stable", "studio", "study", "tower", "vault", "well",
)  # fmt: skip
WORDS = (
    "amber", "basin", "candle", "dune", "ember", "fern", "glade", "harbour", "iris", "jade", "kelp", "lantern", "meadow", "nettle", "opal", "pebble", "quartz",
    "reed", "slate", "thistle", "umber", "velvet", "willow", "yarrow", "zinc",
)  # fmt: skip


class RoomsEnv(LineEnv):
    """Rooms in a tree. Options: ``rooms`` (3 to 30), ``turns`` (default 3 a room), ``maps``, ``radio``.

    ``maps`` is how many worlds all tasks share, so that what is learned of one stays true, and the noise alone is new; 0 is one world for each task.
    """

    id = "text/rooms-v0"
    capabilities = Capabilities(snapshot=True)
    verifiers: ClassVar[Mapping[str, Verifier]] = {
        "seen": Noted(fact="seen", kept=True), "near": Noted(fact="near", kept=True), "listened": Noted(fact="listened"), "result": End(),
    }  # fmt: skip
    rewards: ClassVar[Mapping[str, Spec]] = standard(outcome("result"), 0.2 * delta(step("seen")), step("near"))

    def __init__(self, *, rooms: int = 12, turns: int = 0, maps: int = 0, radio: bool = True, **base: Any) -> None:
        if not 3 <= rooms <= len(ROOMS) or turns < 0 or maps < 0:
            raise UsageError(f"there are 3 to {len(ROOMS)} rooms, and no negative numbers of turns or maps; not {rooms}, {turns} and {maps}")
        self._rooms, self._turns, self._maps, self._radio = rooms, turns or 3 * rooms, maps, radio
        super().__init__(**base)

    def tasks(self, split: str) -> TaskSet:
        """Worlds by number."""
        return TaskSet([f"{split}/{i:04d}" for i in range(COUNT[split])], self._task)

    def _task(self, name: str) -> Task:
        split, _, number = name.partition("/")
        world = f"{int(number) % self._maps}" if self._maps else name
        ways = drawn(random.Random(f"rooms/{world}"), self._rooms)
        far = distances(ways, next(iter(ways)))
        said = "Find the room with the treasure. Answer with one command: north, south, east or west" + (", or listen." if self._radio else ".")
        data = {"ways": ways, "goal": max(far, key=far.__getitem__), "noise": name, "radio": self._radio}
        return Task(name, said, split, data, Limits(max_turns=self._turns, max_malformed=5), kind=f"{max(far.values())}-steps")

    def _open(self, task: Task) -> Said:
        self._ways: dict[str, dict[str, str]] = task.data["ways"]
        self._home = self._at = next(iter(self._ways))
        self._left = distances(self._ways, task.data["goal"])
        self._seen, self._heard = {self._at}, 0
        return Said(f"{task.instruction}\n\n{self._look()}", self._look())

    def _say(self, line: str) -> Said:
        facts = {"listened": 0.0}
        if line == "listen" and "listen" in self.choices():
            self._heard += 1
            dice = random.Random(f"{self.task.data['noise']}/{self._heard}")
            return self._told(f"the radio says: {' '.join(dice.choices(WORDS, k=3))}", facts={"listened": 1.0})
        if line not in self._ways[self._at]:
            return Said(f"error: {line[:40]!r} is none of: {', '.join(self.choices())}", self._look(), malformed=True, facts=facts)
        self._at = self._ways[self._at][line]
        self._seen.add(self._at)
        return self._told(self._look(), StopReason.DONE if self._at == self.task.data["goal"] else None, facts)

    def _told(self, text: str, end: StopReason | None = None, facts: dict[str, float] | None = None) -> Said:
        near = 1 - self._left[self._at] / self._left[self._home]
        return Said(text, text, end, facts={**(facts or {}), "seen": len(self._seen) / len(self._ways), "near": max(0.0, near)})

    def _look(self) -> str:
        if self._at == self.task.data["goal"]:
            return f"{self._at}: the treasure is here"
        return f"{self._at}: {', '.join(self.choices())}"

    def choices(self) -> Sequence[str]:
        """The ways out, and ``listen`` where the radio is."""
        ways = tuple(w for w in WAYS if w in self._ways[self._at])  # in one order everywhere: it must not tell which is the way back
        return (*ways, "listen") if self.task.data["radio"] and self._at == self._home else ways

    def _artefacts(self) -> Mapping[str, bytes]:
        turns = max(1, len(self._lines))
        told = {"value": float(self._at == self.task.data["goal"]), "seen": len(self._seen) / len(self._ways), "listened": self._heard / turns}
        return {"end.json": msgspec.json.encode(told)}

    def oracle(self) -> Iterator[str]:
        """The shortest way."""
        self._require_running()
        at, goal = self._at, self.task.data["goal"]
        while at != goal:
            way = min(self._ways[at], key=lambda w: self._left[self._ways[at][w]])
            yield way
            at = self._ways[at][way]

    def player(self) -> Iterator[str]:
        """Who tries everything in a room once, then goes back to where they came from; they know no more than they have seen."""
        self._require_running()
        tried: dict[str, set[str]] = {}
        back: dict[str, str] = {}
        dice = random.Random(f"player/{self.task.id}/{self.episode.attempt}")
        while self._status == "running":
            here = self._at
            known = tried.setdefault(here, {back[here]} if here in back else set())
            left = [c for c in self.choices() if c not in known]
            chosen = dice.choice(left) if left else back.get(here, "listen")
            known.add(chosen)
            yield chosen
            if left and self._at != here:
                back[self._at] = BACK[chosen]


def drawn(dice: random.Random, n: int) -> dict[str, dict[str, str]]:
    """A tree of ``n`` rooms on a grid, each joined to one that was there: the ways out of each room, the first room first."""
    names = dice.sample(ROOMS, n)
    place = {(0, 0): names[0]}
    ways: dict[str, dict[str, str]] = {names[0]: {}}
    for name in names[1:]:
        free = [((x, y), way, (x + dx, y + dy)) for x, y in place for way, (dx, dy) in WAYS.items() if (x + dx, y + dy) not in place]
        newest = [f for f in free if place[f[0]] == next(reversed(ways))]
        at, way, to = dice.choice(newest if newest and dice.random() < 0.7 else free)
        ways[place[at]][way], ways[name] = name, {BACK[way]: place[at]}
        place[to] = name
    return ways


def distances(ways: Mapping[str, Mapping[str, str]], to: str) -> dict[str, int]:
    """Steps from every room to one."""
    found, queue = {to: 0}, deque([to])
    while queue:
        here = queue.popleft()
        for there in ways[here].values():
            if there not in found:
                found[there] = found[here] + 1
                queue.append(there)
    return found
