"""The reward algebra: sources, transforms, gates and combination, as pure functions of the record."""

import tomllib
from pathlib import Path
from typing import Any

from agentgym.rewards.spec import Spec, delta, gate, late, outcome, potential, settle, step

__all__ = ["Spec", "delta", "gate", "late", "outcome", "potential", "settle", "step"]


def METHODS() -> list[dict[str, Any]]:  # noqa: N802  # an entry point read like a table
    """The recipes of published methods that are made of reward primitives alone."""
    return list(tomllib.loads(Path(__file__).with_name("recipes.toml").read_text())["method"])
