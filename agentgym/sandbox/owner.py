"""Whose a thing is, so that what a killed gym left behind is found and removed at the next start."""

from __future__ import annotations

import os
import socket
from functools import cache
from pathlib import Path

LABEL = "agentgym.owner"
VARIABLE = "AGENTGYM_BROKER"
"""Where a gym in a container asks for sandboxes: the socket of a broker."""


@cache
def boot_id() -> str:
    """This boot of this machine."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return "unknown"


def me() -> str:
    """The owner label of this process: ``<host>:<pid>:<boot id>``."""
    return f"{socket.gethostname()}:{os.getpid()}:{boot_id()}"


def abandoned(owner: str) -> bool:
    """Whether the process behind a label of this machine is gone; what another machine owns is never abandoned here."""
    host, _, rest = owner.partition(":")
    pid, _, boot = rest.partition(":")
    if host != socket.gethostname() or not pid.isdigit():
        return False
    return boot != boot_id() or not Path(f"/proc/{pid}").exists()


def state_folder() -> Path:
    """Where this user's gym keeps what is fetched, built and mounted: ``$AGENTGYM_HOME``, or ``~/.cache/agentgym``."""
    base = os.environ.get("AGENTGYM_HOME") or os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "agentgym")  # noqa: PTH118, PTH111  # plain strings
    folder = Path(base)
    folder.mkdir(parents=True, exist_ok=True)
    return folder
