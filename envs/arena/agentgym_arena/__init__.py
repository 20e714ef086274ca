"""Games of several seats. This module is light: specs only."""

import tomllib
from pathlib import Path
from typing import Any

from agentgym.core import Capabilities
from agentgym.registry import EnvSpec

PER_GAME = {"train": 1000, "dev": 100, "test": 100}
GAMES = ("tictactoe", "connect_four", "leduc", "texas", "texas_no_limit", "chess", "go", "hanabi", "rps")
INSTALL = "pip install agentgym-arena"

BOARD = EnvSpec(
    id="arena/board-v0",
    entry_point="agentgym_arena.board:BoardEnv",
    domain="several players",
    summary="Board and card games of PettingZoo in words: from tic-tac-toe and poker to chess, go and Hanabi.",
    splits={split: n * len(GAMES) for split, n in PER_GAME.items()},
    capabilities=Capabilities(snapshot=True, seats=("first", "second")),
    requires=("pettingzoo", "rlcard", "chess", "pygame"),
    install=INSTALL,
)
NEGOTIATE = EnvSpec(
    id="arena/negotiate-v0",
    entry_point="agentgym_arena.negotiate:NegotiateEnv",
    domain="several players",
    summary="Two divide goods that each values otherwise, in offers and cheap talk; Pareto and fairness are measured by rule.",
    splits={"train": 2000, "dev": 200, "test": 200},
    capabilities=Capabilities(snapshot=True, seats=("first", "second")),
)
DEBATE = EnvSpec(
    id="arena/debate-v0",
    entry_point="agentgym_arena.debate:DebateEnv",
    domain="several players",
    summary="Two advocates argue for two answers to a question, and a judge decides; a rule knows which is right.",
    splits={"train": 2000, "dev": 200, "test": 200},
    capabilities=Capabilities(snapshot=True, seats=("judge", "pro", "con")),
)
CRITIC = EnvSpec(
    id="arena/critic-v0",
    entry_point="agentgym_arena.critic:CriticEnv",
    domain="several players",
    summary="A sneaky hand makes one step of a worked solution wrong, and a critic must name it.",
    splits={"train": 2000, "dev": 200, "test": 200},
    capabilities=Capabilities(snapshot=True, seats=("critic", "sneak")),
)
QUIZ = EnvSpec(
    id="arena/quiz-v0",
    entry_point="agentgym_arena.quiz:QuizEnv",
    domain="several players",
    summary="One asks about a document, four answer, one judges; a rule knows the answers, and documents grow.",
    splits={"train": 2000, "dev": 200, "test": 200},
    capabilities=Capabilities(snapshot=True, seats=("first", "second", "third", "fourth", "asker", "judge")),
)


def METHODS() -> dict[str, Any]:  # noqa: N802  # an entry point read like a table
    """Published methods that are at home here, as rows."""
    return tomllib.loads(Path(__file__).with_name("methods.toml").read_text())
