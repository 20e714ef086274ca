"""``broker``: sandboxes for evaluations in containers that something else has started, such as Compose."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from typing import Annotated

from msgspec import Meta, Struct

from agentgym.cli.command import Answer, Command
from agentgym.cli.screen import Screen
from agentgym.sandbox.broker import Broker
from agentgym.sandbox.docker import engine


class BrokerConfig(Struct, forbid_unknown_fields=True):
    """Where to listen."""

    folder: Annotated[str, Meta(description="folder of the socket; mount it, read-only, at /run/agentgym of an eval image")]


def broker(config: BrokerConfig, screen: Screen) -> Answer:
    """Start, carry and close sandboxes of images of the lock file until interrupted. Raises ``SandboxRefused`` where no engine answers."""
    engine()
    with Broker(Path(config.folder)) as listening:
        print(f"listening on {listening.folder / 'socket'}   (Ctrl-C ends it, and every sandbox)", file=sys.stderr, flush=True)
        threading.Event().wait()
    return Answer({"folder": config.folder}, "")


BROKER = Command("broker", "Start sandboxes for evaluations in containers.", "agentgym broker /tmp/agentgym-broker", BrokerConfig, broker, ("folder",))
