"""Tasks of the desk, made when asked for. A split's parameters are its own: the instruction of a task decides its split."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from functools import lru_cache

import agentgym_tools.templates  # noqa: F401  # fills TEMPLATES
from agentgym.core import Limits, Task
from agentgym.errors import UnknownName, UsageError
from agentgym_tools.plan import TEMPLATES, Plan
from agentgym_tools.world import World

SPLITS = ("train", "dev", "test", "unseen", "demo")
PER_TEMPLATE = {"train": 200, "dev": 50, "test": 50, "unseen": 50}
DEMO = ("set_status", "other_room", "file_mail", "close_by_title", "room_by_title", "archive_by_subject")
"""The templates of the split ``demo``: three of level 1, and three of level 2 whose look-up returns one row."""


def world_of(task: Task) -> World:
    """The world that a task's data names."""
    return _world(str(task.data["seed"]))


@lru_cache(maxsize=128)
def _world(seed: str) -> World:
    return World(seed)


@lru_cache(maxsize=512)
def _plan(template: str, seed: str) -> Plan:
    return TEMPLATES[template].make(World(seed))


def plan_of(task: Task) -> Plan:
    """What must be true at the end of a task, and how an oracle gets there: from the task's data alone."""
    return _plan(str(task.data["template"]), str(task.data["seed"]))


def split_of(template: str, instruction: str) -> str:
    """The split that an instruction of a template belongs to: 60% train, 20% dev, 20% test; held-out templates are ``unseen``."""
    if TEMPLATES[template].unseen:
        return "unseen"
    bucket = hashlib.blake2b(f"{template}|{instruction}".encode(), digest_size=2).digest()[0] % 5
    return ("train", "train", "train", "dev", "test")[bucket]


@lru_cache(maxsize=4096)
def draw(template: str, split: str, number: int) -> Task:
    """Task ``number`` of a template in a split: the first seed whose parameters exist and belong to the split."""
    attempt = 0
    while True:
        seed = f"{template}/{split}/{number}/{attempt}"
        try:
            plan = TEMPLATES[template].make(World(seed))
        except LookupError:
            plan = None
        if plan is not None and split_of(template, plan.say) == split:
            level = TEMPLATES[template].level
            data = {"template": template, "level": level, "seed": seed}
            return Task(f"{template}.{split}.{number}", plan.say, split, data, Limits(max_turns=10 + 5 * level), template)
        attempt += 1


class DeskTasks(Sequence[Task]):
    """The tasks of one split, optionally of some templates or levels only."""

    def __init__(self, split: str, templates: Iterable[str] = (), levels: Iterable[int] = ()) -> None:
        if split not in SPLITS:
            raise UnknownName("split", split, SPLITS)
        self.split = "dev" if split == "demo" else split
        known = [t for t in TEMPLATES.values() if t.unseen == (split == "unseen") and (split != "demo" or t.name in DEMO)]
        for name in templates:
            if name not in [t.name for t in known]:
                raise UnknownName(f"template of split {split}", name, [t.name for t in known])
        wanted, levels = set(templates), set(levels)
        self.templates = [t.name for t in known if (not wanted or t.name in wanted) and (not levels or t.level in levels)]
        if not self.templates:
            raise UsageError(f"no template of split {split} is of levels {sorted(levels)}")
        self._each = PER_TEMPLATE[self.split]

    def __len__(self) -> int:
        return len(self.templates) * self._each

    def __getitem__(self, index: int) -> Task:  # type: ignore[override]  # no slices: tasks are made one at a time
        if not 0 <= index < len(self):
            raise IndexError(index)
        return draw(self.templates[index % len(self.templates)], self.split, index // len(self.templates))

    def ids(self) -> Sequence[str]:
        """All ids, in the order of the index."""
        return [f"{t}.{self.split}.{n}" for n in range(self._each) for t in self.templates]

    def get(self, task_id: str) -> Task:
        """The task of that id. Raises ``UnknownName``."""
        template, _, rest = task_id.partition(".")
        split, _, number = rest.partition(".")
        if template not in self.templates or split != self.split or not number.isdecimal() or int(number) >= self._each:
            raise UnknownName("task", task_id, self.ids())
        return draw(template, self.split, int(number))
