"""Tasks of the desk, made when asked for. A split's parameters are its own: the instruction of a task decides its split."""

from __future__ import annotations

import hashlib
from functools import lru_cache

import agentgym_tools.talk
import agentgym_tools.templates  # noqa: F401  # both fill TEMPLATES
from agentgym.core import Limits, Task, TaskSet
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


@lru_cache(maxsize=64)
def tasks_of(split: str, templates: tuple[str, ...] = (), levels: tuple[int, ...] = (), talk: bool = False) -> TaskSet:
    """The tasks of one split, optionally of some templates or levels only: number n of each template, then number n + 1."""
    known = [t for t in TEMPLATES.values() if t.talk == talk and t.unseen == (split == "unseen") and (split != "demo" or t.name in DEMO)]
    for name in templates:
        if name not in [t.name for t in known]:
            raise UnknownName(f"template of split {split}", name, [t.name for t in known])
    chosen = [t.name for t in known if (not templates or t.name in templates) and (not levels or t.level in levels)]
    if not chosen:
        raise UsageError(f"no template of split {split} is of levels {sorted(levels)}")
    source = "dev" if split == "demo" else split
    return TaskSet([f"{t}.{source}.{n}" for n in range(PER_TEMPLATE[source]) for t in chosen], _task)


def _task(task_id: str) -> Task:
    template, split, number = task_id.split(".")
    return draw(template, split, int(number))
