"""Worlds made of text. This module is light: specs only."""

import tomllib
from pathlib import Path
from typing import Any

from agentgym.core import Capabilities
from agentgym.registry import EnvSpec

INSTALL = "pip install 'agentgym-text[world,science]'"
SCIENCE_TASKS: dict[str, tuple[int, int, int]] = {
    "boil": (14, 7, 9), "change-the-state-of-matter-of": (14, 7, 9), "chemistry-mix": (16, 8, 8), "chemistry-mix-paint-secondary-color": (18, 9, 9),
    "chemistry-mix-paint-tertiary-color": (18, 9, 9), "find-animal": (150, 75, 75), "find-living-thing": (150, 75, 75),
    "find-non-living-thing": (150, 75, 75), "find-plant": (150, 75, 75), "freeze": (14, 7, 9), "grow-fruit": (62, 31, 33), "grow-plant": (62, 31, 33),
    "identify-life-stages-1": (6, 3, 5), "identify-life-stages-2": (4, 2, 4), "inclined-plane-determine-angle": (84, 42, 42),
    "inclined-plane-friction-named-surfaces": (692, 346, 348), "inclined-plane-friction-unnamed-surfaces": (80, 40, 42),
    "lifespan-longest-lived": (62, 31, 32), "lifespan-longest-lived-then-shortest-lived": (62, 31, 32), "lifespan-shortest-lived": (62, 31, 32),
    "measure-melting-point-known-substance": (218, 109, 109), "measure-melting-point-unknown-substance": (150, 75, 75), "melt": (14, 7, 9),
    "mendelian-genetics-known-plant": (60, 30, 30), "mendelian-genetics-unknown-plant": (240, 120, 120), "power-component": (10, 5, 5),
    "power-component-renewable-vs-nonrenewable-energy": (10, 5, 5), "test-conductivity": (450, 225, 225),
    "test-conductivity-of-unknown-substances": (300, 150, 150), "use-thermometer": (270, 135, 135),
}  # fmt: skip
"""ScienceWorld's tasks, and how many variations it has for train, dev and test, which follow each other."""
SPLITS = ("train", "dev", "test")

WORLD = EnvSpec(
    id="text/world-v0",
    entry_point="agentgym_text.world:WorldEnv",
    domain="text worlds",
    summary="TextWorld games, generated offline: rooms, doors, things, and quests of one to twelve steps.",
    splits={"train": 1000, "dev": 100, "test": 200},
    capabilities=Capabilities(snapshot=True),
    requires=("textworld",),
    install=INSTALL,
)
SCIENCE = EnvSpec(
    id="text/science-v0",
    entry_point="agentgym_text.science:ScienceEnv",
    domain="text worlds",
    summary="ScienceWorld: thirty kinds of experiment in a simulated laboratory, scored by sub-goals.",
    splits={split: sum(n[i] for n in SCIENCE_TASKS.values()) for i, split in enumerate(SPLITS)},
    capabilities=Capabilities(snapshot=True, blocking=True),
    requires=("scienceworld", "py4j"),
    install=INSTALL,
)
BANDIT = EnvSpec(
    id="text/bandit-v0",
    entry_point="agentgym_text.bandit:BanditEnv",
    domain="text worlds",
    summary="Bandits in words: explore arms, then exploit them; regret, early failures and greedy choices are measured.",
    splits={"train": 2000, "dev": 200, "test": 400},
    capabilities=Capabilities(snapshot=True),
)
SEARCH = EnvSpec(
    id="text/search-v0",
    entry_point="agentgym_text.search:SearchEnv",
    domain="text worlds",
    summary="Questions of two to four hops over a generated corpus, with a BM25 search; every answer is known.",
    splits={"train": 1200, "dev": 200, "test": 300},
    capabilities=Capabilities(snapshot=True),
)
SQL = EnvSpec(
    id="text/sql-v0",
    entry_point="agentgym_text.sql:SqlEnv",
    domain="text worlds",
    summary="Questions over generated databases, answered by a query; it must fit rows that were never seen, too.",
    splits={"train": 1200, "dev": 200, "test": 300},
    capabilities=Capabilities(snapshot=True),
)
MALLOC = EnvSpec(
    id="text/malloc-v0",
    entry_point="agentgym_text.malloc:MallocEnv",
    domain="text worlds",
    summary="Memory mapping: place a program's buffers in a small fast memory; an exact cost model, and nothing for an infeasible mapping.",
    splits={"train": 2000, "dev": 200, "test": 200},
    capabilities=Capabilities(snapshot=True),
)
ROOMS = EnvSpec(
    id="text/rooms-v0",
    entry_point="agentgym_text.rooms:RoomsEnv",
    domain="text worlds",
    summary="Rooms to explore, paid at the far end alone; a radio in the first says something new whenever somebody listens.",
    splits={"train": 2000, "dev": 200, "test": 400},
    capabilities=Capabilities(snapshot=True),
)


def METHODS() -> dict[str, Any]:  # noqa: N802  # an entry point read like a table
    """Published methods that are at home here, as rows."""
    return tomllib.loads(Path(__file__).with_name("methods.toml").read_text())
