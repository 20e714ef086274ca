"""A page as a script reads it: what it asks, and the elements of its outline."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from msgspec import Struct

from agentgym.errors import CapabilityError

if TYPE_CHECKING:
    from agentgym_web.miniwob.env import MiniwobEnv

LINE = re.compile(r'\s*\[(\d+)\] (\w+)(?: "((?:[^"\\]|\\.)*)")?(.*)')


class Element(Struct, frozen=True):
    """A line of the outline."""

    id: int
    role: str
    name: str
    rest: str


class Page:
    """What is to be seen now; read anew by ``look``."""

    def __init__(self, env: MiniwobEnv) -> None:
        self.env = env
        self.look()

    def look(self) -> Page:
        """Read the page."""
        self.asks, text = self.env.seen()
        found = (LINE.match(line) for line in text.split("\n"))
        self.elements = [Element(int(m[1]), m[2], (m[3] or "").replace('\\"', '"').replace("\\\\", "\\"), m[4]) for m in found if m]
        return self

    def asked(self, pattern: str) -> tuple[str, ...]:
        """The groups of a pattern in what is asked."""
        found = re.search(pattern, self.asks)
        if found is None:
            raise CapabilityError(f"the oracle does not understand {self.asks!r}")
        return found.groups()

    def all(self, role: str = "", name: str | None = None) -> list[Element]:
        """The elements of a role and a name."""
        return [e for e in self.elements if (not role or e.role == role) and (name is None or e.name == name)]

    def one(self, role: str = "", name: str | None = None, nth: int = 0) -> int:
        """The number of the nth such element."""
        found = self.all(role, name)
        if len(found) <= nth:
            raise CapabilityError(f"the oracle finds no {role or 'element'} {name or ''} on {self.env.task.id}")
        return found[nth].id

    def click(self, role: str = "", name: str | None = None, nth: int = 0) -> str:
        """The action that clicks such an element."""
        return f"click {self.one(role, name, nth)}"
