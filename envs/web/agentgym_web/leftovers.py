"""Browsers whose gym is gone, for ``agentgym clean``. They end by themselves when its pipe closes; this is for those that did not."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

from agentgym.sandbox.owner import abandoned

OWNER = "--agentgym-owner="


class Browsers:
    """The browsers that gyms have started, found by the owner on their command lines."""

    @staticmethod
    def _found(everything: bool) -> dict[int, str]:
        found = {}
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                words = path.read_bytes().decode("utf-8", "replace").split("\0")
                owner = next((w.removeprefix(OWNER) for w in words if w.startswith(OWNER)), "")
                if owner and (everything or abandoned(owner)):
                    found[int(path.parent.name)] = owner
        return found

    @classmethod
    def leftovers(cls, everything: bool) -> list[str]:
        """The processes of such browsers."""
        return [f"process {pid} of {owner}" for pid, owner in sorted(cls._found(everything).items())]

    @classmethod
    def reap(cls, everything: bool) -> list[str]:
        """Kill them."""
        gone = []
        for pid, owner in sorted(cls._found(everything).items()):
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
                gone.append(f"process {pid} of {owner}")
        return gone
