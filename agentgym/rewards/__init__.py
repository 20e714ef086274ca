"""The reward algebra: sources, transforms, gates, combination and credit, as pure functions of the record."""

import tomllib
from pathlib import Path
from typing import Any

from agentgym.rewards.combine import blend, combine, diversity, group, lagrangian, route, win_rate
from agentgym.rewards.credit import assign, attribute, min_form
from agentgym.rewards.relative import centre, normalise, residual, schedule, trust
from agentgym.rewards.sources import budget, late, length, outcome, span, step
from agentgym.rewards.spec import Spec, World
from agentgym.rewards.text import load, to_table
from agentgym.rewards.transforms import cap, clip, delta, discretise, flip, gate, potential, sigmoid, threshold

__all__ = [
    "Spec", "World", "assign", "attribute", "blend", "budget", "cap", "centre", "clip", "combine", "delta", "discretise", "diversity",
    "flip", "gate", "group", "lagrangian", "late", "length", "load", "min_form", "normalise", "outcome", "potential", "residual", "route", "schedule",
    "sigmoid", "span", "standard", "step", "threshold", "to_table", "trust", "win_rate",
]  # fmt: skip


def standard(goal: Spec, steps: Spec, level: Spec) -> dict[str, Spec]:
    """The five rewards that every environment ships, from its outcome, its step terms, and a step verdict that is a level of progress."""
    return {
        "outcome": goal, "stepwise": goal + steps, "gated": goal + gate(steps, by=goal), "potential": goal + potential(level),
        "intrinsic": goal + 0.05 * late("hindsight"),
    }  # fmt: skip


def METHODS() -> dict[str, Any]:  # noqa: N802  # an entry point read like a table
    """Published methods as rows, and the primitives of theirs that are here."""
    return tomllib.loads(Path(__file__).with_name("recipes.toml").read_text())
