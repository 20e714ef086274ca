"""Trainers of agentgym. This module is light: torch is imported when something is used."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agentgym_trainers.losses import advantages as advantages
    from agentgym_trainers.losses import policy_loss as policy_loss


def __getattr__(name: str) -> Any:
    if name in ("policy_loss", "advantages"):
        from agentgym_trainers import losses

        return getattr(losses, name)
    raise AttributeError(name)


def hf_policy(argument: str, **settings: Any) -> Any:
    """``hf:PATH``: the transformers engine over a Hugging Face causal LM."""
    from agentgym_trainers.engine import load_engine

    return load_engine(argument, **settings)


def METHODS() -> dict[str, Any]:  # noqa: N802  # an entry point read like a table
    """The primitives of published methods that the trainers have."""
    return tomllib.loads(Path(__file__).with_name("recipes.toml").read_text())
