"""``clean``: list what gyms that are gone have left, then remove it."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from agentgym.cli.command import Answer, Command
from agentgym.cli.screen import Screen
from agentgym.errors import MissingExtra
from agentgym.registry import installed, load


class CleanConfig(Struct, forbid_unknown_fields=True, kw_only=True):
    """How far to go."""

    list: Annotated[bool, Meta(description="only list")] = False
    everything: Annotated[bool, Meta(description="also what belongs to gyms that still run, and prepared images")] = False


def clean(config: CleanConfig, screen: Screen) -> Answer:
    """List leftovers of each kind of sandbox and of whatever else says that it leaves some, and remove them unless told otherwise."""
    found, removed = dict[str, list[str]](), dict[str, list[str]]()
    for group, kind in ((g, k) for g in ("sandboxes", "leftovers") for k in sorted(installed(g))):
        cls = load(group, kind)
        try:
            if left := cls.leftovers(config.everything):
                found[kind] = left
                removed[kind] = [] if config.list else cls.reap(config.everything)
        except (MissingExtra, OSError) as error:
            screen.say(f"{kind}: not looked at: {error}")
    lines = [f"{kind:<8}{name}{'   removed' if name in removed[kind] else ''}" for kind, names in found.items() for name in names]
    return Answer({"found": found, "removed": removed}, "\n".join(lines) or "nothing was left behind")


CLEAN = Command(
    "clean", "Remove what killed gyms have left behind: containers, snapshots, volumes, control groups, browsers.", "agentgym clean --list", CleanConfig, clean
)
