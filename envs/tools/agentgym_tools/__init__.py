"""Tool-use environments of agentgym. This module is light: specs only."""

from agentgym.core import Capabilities
from agentgym.registry import EnvSpec

DESK = EnvSpec(
    id="tools/desk-v0",
    entry_point="agentgym_tools.env:DeskEnv",
    domain="tool use",
    summary="An office desk over a real database: mail, calendar, files, tickets, orders, payments and a sheet, under rules.",
    splits={"train": 6600, "dev": 1650, "test": 1650, "unseen": 200, "demo": 300},
    capabilities=Capabilities(snapshot=True),
)
