"""NetHack environments of agentgym. This module is light: specs only."""

import tomllib
from pathlib import Path

from agentgym.core import Capabilities
from agentgym.registry import EnvSpec

PER_LEVEL = {"train": 100, "dev": 10, "test": 10}
GAMES = {"train": 1000, "dev": 50, "test": 50}
DUNGEON = {
    "score": "Play NetHack from its beginning; progression (depth and experience level) and the score are measured.",
    "staircase": "Find the first staircase down and stand on it.",
    "staircase-pet": "Stand on the first staircase down with the pet beside you.",
    "oracle": "Reach the Oracle, deep in the dungeon, and stand next to it.",
    "gold": "Collect gold.",
    "eat": "Find food and eat it.",
    "scout": "See as much of the dungeon as you can.",
}
LEVELS = {
    "room": "Rooms with a staircase: dark, with monsters, with traps.",
    "corridor": "Random rooms joined by corridors.",
    "maze": "Mazes and labyrinths.",
    "key": "Doors that are closed or locked, and keys.",
    "river": "A river to cross by pushing boulders into it.",
    "sokoban": "The boulder puzzles of Sokoban.",
    "lava": "Lava to cross: by levitation, by freezing it, or around it.",
    "skill": "One skill at a time: eat, wield, wear, put on, zap, read, pray, drink.",
    "battle": "Monsters that must be fought, or avoided, on the way.",
    "quest": "Several skills in one level.",
}
_TABLE = tomllib.loads(Path(__file__).with_name("levels.toml").read_text())["families"]


def _spec(name: str, summary: str, splits: dict[str, int]) -> EnvSpec:
    return EnvSpec(
        id=f"nethack/{name}-v0", entry_point="agentgym_nethack.env:NetHackEnv", domain="games", summary=summary, splits=splits,
        capabilities=Capabilities(snapshot=True, pixels=True), requires=("nle",), install="pip install agentgym-nethack", vector="agentgym_nethack.vector:make",
    )  # fmt: skip


SPECS = {
    **{name: _spec(name, summary, GAMES) for name, summary in DUNGEON.items()},
    **{name: _spec(name, summary, {s: n * len(_TABLE[name]) for s, n in PER_LEVEL.items()}) for name, summary in LEVELS.items()},
}
SCORE, STAIRCASE, STAIRCASE_PET, ORACLE, GOLD, EAT, SCOUT = (SPECS[n] for n in DUNGEON)
ROOM, CORRIDOR, MAZE, KEY, RIVER, SOKOBAN, LAVA, SKILL, BATTLE, QUEST = (SPECS[n] for n in LEVELS)
