"""The tasks of the desk, as templates: each draws what it needs, says what the files are to begin with and at the end, and the way there."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

from msgspec import Struct

from agentgym.verdict import Json
from agentgym_gui.desk.words import CITIES, FIRST, LAST, THINGS

Way = list[list[Any]]
HOME_FOLDER = "/home/agent"


class Draft(Struct):
    """A task in the making. ``files`` are there at the start, ``opens`` are the programs that are open then, each with its arguments.

    ``after`` are the files at the end where they differ (None: gone), each a text or what ``goal.fits`` takes; ``pictures`` are files drawn from
    lines of text. ``way`` are the oracle's steps, the last of which ends the task.
    """

    asks: str
    way: Way
    files: dict[str, Any] = {}
    opens: list[list[str]] = []
    after: dict[str, Any] = {}
    pictures: dict[str, list[str]] = {}
    settings: dict[str, str] = {}
    shows: list[dict[str, str]] = []
    answer: float | str | None = None
    refusal: str = ""


class Bench(random.Random):
    """A generator with the words of this office."""

    def name(self) -> str:
        """Somebody's."""
        return f"{self.choice(FIRST)} {self.choice(LAST)}"

    def names(self, n: int) -> list[str]:
        """Several, no two alike."""
        return [f"{first} {self.choice(LAST)}" for first in self.sample(FIRST, n)]

    def things(self, n: int) -> list[str]:
        """Words for things, no two alike."""
        return self.sample(THINGS, n)

    def city(self) -> str:
        """A town."""
        return self.choice(CITIES)

    def lines(self, n: int) -> list[str]:
        """Lines of a list, no two alike."""
        return [f"{thing} {self.randrange(10, 99)}" for thing in self.things(n)]


TEMPLATES: dict[str, tuple[str, Callable[[Bench], Draft]]] = {}
"""By name: the kind (the program it is about, or ``across``), and the function."""


def template(kind: str) -> Callable[[Callable[[Bench], Draft]], Callable[[Bench], Draft]]:
    """Register a template."""

    def register(function: Callable[[Bench], Draft]) -> Callable[[Bench], Draft]:
        TEMPLATES[function.__name__.strip("_").replace("_", "-")] = kind, function
        return function

    return register


def horizon(way: Sequence[Any]) -> str:
    """``short`` up to 5 actions, ``medium`` up to 12, else ``long``."""
    return "short" if len(way) <= 5 else "medium" if len(way) <= 12 else "long"


def goal(draft: Draft) -> dict[str, Json]:
    """What should be at the end, for the verifier. Files that are not told of stay as they are."""
    as_it_was = {*draft.pictures, *(p for p, text in draft.files.items() if "sheet" in text and isinstance(text, dict))}
    files: dict[str, Json] = {p: text if isinstance(text, dict) else {"text": text} for p, text in draft.files.items() if p not in as_it_was}
    files |= {p: {"as": p} for p in as_it_was}
    for path, text in draft.after.items():
        files.pop(path, None)
        if text is not None:
            files[path] = text if isinstance(text, dict) else {"text": text}
    wanted: dict[str, Json] = {"files": files, "settings": draft.settings, "shows": draft.shows}
    if draft.answer is not None:
        wanted["answer"] = draft.answer
    if draft.refusal:
        wanted["refusal"] = draft.refusal
    return wanted


def changing(draft: Draft) -> list[str]:
    """The names of the goal's parts that are not so at the start."""
    return [*(p for p, text in draft.after.items() if text is not None), *draft.settings, *(f"shows {s['text']}" for s in draft.shows)]


def menu(*names: str) -> Way:
    """The steps through a menu."""
    return [["click", "menu" if n < len(names) - 1 else "menuitem", name] for n, name in enumerate(names)]


def done(draft_way: Way) -> Way:
    """A way with its end."""
    return [*draft_way, ["done"]]


def sheet(rows: Sequence[Sequence[Any]]) -> dict[str, Json]:
    """A spreadsheet as a file: rows of cells, texts and numbers."""
    return {"sheet": [list(row) for row in rows]}
