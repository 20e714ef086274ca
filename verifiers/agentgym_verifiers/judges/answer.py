"""What a judge may answer, and how it is read: the last valid JSON object of its reply, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Literal, TypeVar

import msgspec
from msgspec import Struct

from agentgym.errors import AgentGymError
from agentgym_verifiers.judges.show import MARK, visible

A = TypeVar("A", bound=Struct)


class Unanswered(AgentGymError, ValueError):
    """A judge gave no valid verdict within its attempts."""


class Score(Struct, forbid_unknown_fields=True):
    """A number on the scale that was asked for, after a critique and with quotes that bear it out."""

    critique: str
    score: float
    quotes: list[str] = []


class Preference(Struct, forbid_unknown_fields=True):
    """Which of two is better."""

    critique: str
    better: Literal["A", "B", "tie"]
    quotes: list[str] = []


class Ranking(Struct, forbid_unknown_fields=True):
    """Several, the best first, by their letters."""

    critique: str
    ranking: list[str]


class Item(Struct, forbid_unknown_fields=True):
    """Whether one criterion is met, and the words that show it."""

    id: str
    met: bool
    quote: str = ""


class Checked(Struct, forbid_unknown_fields=True):
    """Every criterion of a list."""

    items: list[Item]


class Drafted(Struct, forbid_unknown_fields=True):
    """Criteria that a judge wrote itself."""

    criteria: list[str]


class Mark(Struct, forbid_unknown_fields=True):
    """A place in an action that was good (1) or bad (-1), with the words quoted."""

    turn: int
    quote: str
    value: float


class Steps(Struct, forbid_unknown_fields=True):
    """The first wrong turn, if any, and places worth a word."""

    critique: str
    first_wrong: int | None
    marks: list[Mark] = []


class Choice(Struct, forbid_unknown_fields=True):
    """Which candidate action serves the task best, by its letter, and under which principle."""

    principle: str
    critique: str
    best: str


class Dimensions(Struct, forbid_unknown_fields=True):
    """What matters most here, and what might be wrong, before a second reading."""

    dimensions: list[str]
    hypotheses: list[str]


class Speech(Struct, forbid_unknown_fields=True):
    """What one side of a debate says, and the words of the episode it rests on."""

    argument: str
    quotes: list[str] = []


@cache
def schema_of(kind: type[Struct]) -> Mapping[str, Any]:
    """The JSON schema of an answer, with its parts in place."""
    (found,), parts = msgspec.json.schema_components([kind], ref_template="#/$defs/{name}")
    name = found["$ref"].rpartition("/")[2]
    return {**parts[name], "$defs": {k: v for k, v in parts.items() if k != name}}


def last_valid(reply: str, kind: type[A], why_not: Callable[[A], str]) -> A:
    """The last object of that kind in a reply that ``why_not`` finds no fault with; lines that quote an episode are passed over.

    Raises:
        Unanswered: there is none, with the reason of the last.
    """
    text = "\n".join(line for line in visible(reply).splitlines() if not line.startswith(MARK.strip()))
    why = "it holds no JSON object"
    for start, end in reversed(_objects(text)):
        try:
            found = msgspec.json.decode(text[start:end], type=kind)
        except msgspec.MsgspecError as error:
            why = str(error)
            continue
        if not (fault := why_not(found)):
            return found
        why = fault
    raise Unanswered(why)


def _objects(text: str) -> list[tuple[int, int]]:
    """Where balanced objects begin and end, outermost ones, in order; braces inside of strings do not count."""
    out: list[tuple[int, int]] = []
    at = text.find("{")
    while at >= 0:
        end = _end(text, at)
        if end is None:
            at = text.find("{", at + 1)
        else:
            out.append((at, end))
            at = text.find("{", end)
    return out


def _end(text: str, start: int) -> int | None:
    depth, inside, escaped = 0, False, False
    for i in range(start, len(text)):
        c = text[i]
        if escaped:
            escaped = False
        elif inside:
            escaped, inside = c == "\\", c != '"'
        elif c == '"':
            inside = True
        elif c in "{}":
            depth += 1 if c == "{" else -1
            if depth == 0:
                return i + 1
    return None
