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
USER = EnvSpec(
    id="tools/desk-user-v0",
    entry_point="agentgym_tools.user:DeskUserEnv",
    domain="tool use",
    summary="The office desk with the person on the other seat: hidden preferences, a phone of their own, and talk.",
    splits={"train": 1200, "dev": 300, "test": 300},
    capabilities=Capabilities(snapshot=True, seats=("agent", "user")),
)
SIM = EnvSpec(
    id="tools/desk-sim-v0",
    entry_point="agentgym_tools.sim:DeskSimEnv",
    domain="tool use",
    summary="The office desk whose tools are answered by a model; a rule measures how faithful its answers are.",
    splits={"train": 6600, "dev": 1650, "test": 1650},
    capabilities=Capabilities(snapshot=True, seats=("agent", "world")),
)
