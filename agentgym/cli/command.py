"""What a verb is made of. Packages add verbs by entry points of the group ``agentgym.commands``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec import Struct

from agentgym.cli.screen import Screen


class Answer(Struct, frozen=True):
    """What a verb came to: ``data`` is the JSON document, ``text`` what people read, ``code`` the exit code."""

    data: Any
    text: Any = ""
    code: int = 0


class Command(Struct, frozen=True):
    """A verb. ``config`` is its typed settings; ``positional`` names the fields that may come without a flag, in order."""

    name: str
    summary: str
    example: str
    config: type[Struct]
    run: Callable[[Any, Screen], Answer]
    positional: tuple[str, ...] = ()
