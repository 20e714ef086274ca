"""What a verifier is taught, as data: rows of ``lessons.toml``."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import Struct

from agentgym.errors import UnknownName, UsageError


class Lesson(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """What a verifier learns, and from which labels.

    Attributes:
        level: a number for the whole episode, or one at the end of each turn.
        loss: ``preference`` (pairs of one task), ``logistic``, ``regression``, ``mixed`` (regression, then preference on the same head).
        label: ``outcome``, ``return``, ``oracle`` (a demonstration or not), ``policy`` (of the reference's policy or not), ``first_wrong`` (what a
            probe knows), ``late:NAME`` (a source's verdict in the record), ``agreed:A,B`` (two of them, where they agree).
        margin: how far apart a pair has to be for each unit of its labels' difference.
        siblings: pairs are of attempts that share their first actions, and part after them.
        centre: weight of the squared mean of a pair's numbers, which holds them near 0.
        noise: what is done with the weakest pairs: ``drop``, ``flip``, ``soften`` them by the vote of ``voters``, or ``exchange`` pairs between two members.
        contrast: weight of the same loss on an episode under another task's instruction.
        merge: share of examples in which two neighbouring turns are one.
        reference: another episode of the target policy is told before each.
        members: how many are trained, from different seeds and orders.
        gold: one more is taught on the held-out tasks alone (folder ``gold``): what the others are measured by, and never trained on. Its own
            accuracy is unknown, and so it is no evidence of theirs on these tasks.
        options: ``share`` of the pairs that is taken for noise.
    """

    name: str = ""
    paper: str = ""
    level: Literal["outcome", "step"] = "outcome"
    loss: Literal["preference", "logistic", "regression", "mixed"] = "preference"
    label: str = "outcome"
    margin: float = 0.0
    siblings: bool = False
    centre: float = 0.0
    noise: Literal["", "drop", "flip", "soften", "exchange"] = ""
    voters: int = 0
    contrast: float = 0.0
    merge: float = 0.0
    reference: bool = False
    members: int = 1
    gold: bool = False
    options: dict[str, float] = {}

    @property
    def pairs(self) -> bool:
        """Whether it learns from pairs."""
        return self.loss in ("preference", "mixed")

    @property
    def share(self) -> float:
        """The share of pairs that is taken for noise."""
        return float(self.options.get("share", 0.1))


ABOUT = ("id", "kind", "formula", "summary", "primitives")


def lessons() -> dict[str, dict[str, Any]]:
    """The rows of ``lessons.toml``, by name."""
    return {name: {"name": name, **row} for name, row in tomllib.loads(Path(__file__).with_name("lessons.toml").read_text()).items()}


def lesson_of(name: str, given: Mapping[str, Any] | None = None) -> Lesson:
    """The lesson of that name, with settings of your own over its.

    Raises:
        UnknownName, UsageError: there is no such lesson or setting, or it has the wrong type.
    """
    table = lessons()
    if name not in table:
        raise UnknownName("algorithm of --role verifier", name, table)
    row = {k: v for k, v in table[name].items() if k not in ABOUT}
    for key, value in (given or {}).items():
        if key == "share":
            row["options"] = {**row.get("options", {}), key: value}
        elif key in Lesson.__struct_fields__ and key not in ("name", "paper", "options"):
            row[key] = value
        else:
            raise UnknownName(f"setting of {name}", key, [*Lesson.__struct_fields__, "share"])
    try:
        found = msgspec.convert(row, Lesson)
    except msgspec.ValidationError as error:
        raise UsageError(f"algorithm {name}: {error}") from None
    if found.noise == "exchange" and found.members != 2:
        raise UsageError(f"algorithm {name}: noise = exchange is between two members, not {found.members}")
    if found.noise in ("drop", "flip", "soften") and found.voters < 2:
        raise UsageError(f"algorithm {name}: noise = {found.noise} needs at least 2 voters")
    if found.level == "step" and found.pairs:
        raise UsageError(f"algorithm {name}: a verifier of turns learns labels of turns, not pairs; set loss to logistic or regression")
    return found
