"""Verifiers and intrinsic reward sources of agentgym, and judging as environments. This module is light: specs and data."""

import tomllib
from pathlib import Path
from typing import Any

from agentgym.core import Capabilities
from agentgym.registry import EnvSpec


def METHODS() -> dict[str, Any]:  # noqa: N802  # an entry point read like a table
    """Published methods as rows, and the primitives of theirs that are here."""
    return tomllib.loads(Path(__file__).with_name("recipes.toml").read_text())


def _judging(name: str, kind: str, summary: str) -> EnvSpec:
    return EnvSpec(
        id=f"judge/{name}-v0", entry_point=f"agentgym_verifiers.judges.env:{kind}", domain="judging", summary=summary,
        splits={"train": 400, "dev": 100, "test": 100}, capabilities=Capabilities(snapshot=True), requires=("agentgym_tools",),
        install="pip install agentgym-tools",
    )  # fmt: skip


OUTCOME = _judging("outcome", "JudgeOutcome", "Judge episodes: was the task done? The rule's verdict is the label, the quote is checked.")
PAIR = _judging("pair", "JudgePair", "Judge pairs of episodes: which did the task better?")
STEP = _judging("step", "JudgeStep", "Judge turns: name the first wrong one, if any. Mistakes were put in and confirmed by playing them.")
