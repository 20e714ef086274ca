"""Sandboxes: processes, files and limits for what an agent runs. Kinds come by entry point; each says what it enforces."""

from agentgym.sandbox.base import AGENT_UID, HOME, WORK, Completed, Image, Layer, Resources, Sandbox, Snapshot
from agentgym.sandbox.link import Entry
from agentgym.sandbox.look import IGNORED, look, shorten, told
from agentgym.sandbox.owner import state_folder
from agentgym.sandbox.pool import choose, fork, restore, start, warm

__all__ = [
    "AGENT_UID", "HOME", "IGNORED", "WORK", "Completed", "Entry", "Image", "Layer", "Resources", "Sandbox", "Snapshot", "choose", "fork",
    "look", "restore", "shorten", "start", "state_folder", "told", "warm",
]  # fmt: skip
