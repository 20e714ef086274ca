"""Verifiers and intrinsic reward sources of agentgym."""

import tomllib
from pathlib import Path
from typing import Any


def METHODS() -> dict[str, Any]:  # noqa: N802  # an entry point read like a table
    """Published methods as rows, and the primitives of theirs that are here."""
    return tomllib.loads(Path(__file__).with_name("recipes.toml").read_text())
