"""The attacks of this package, as rows of a data file."""

from __future__ import annotations

import tomllib
from pathlib import Path

import msgspec

from agentgym.checks.attacks import Attack


def load() -> list[Attack]:
    """Attacks with a shell on hidden tests."""
    return msgspec.convert(tomllib.loads(Path(__file__).with_name("attacks.toml").read_text())["attack"], list[Attack])
