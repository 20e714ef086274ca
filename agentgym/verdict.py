"""The small words that a record is made of: why it ended, what a verifier said, what a reward term is."""

from __future__ import annotations

import enum
import math
from typing import Any, Literal

from msgspec import Struct

Culprit = Literal["policy", "env", "verifier", "infra"]
Json = Any
"""A JSON value. msgspec decodes no recursive alias, so it is spelt ``Any``."""


class StopReason(enum.StrEnum):
    """Why an episode ended. A closed set: the first four end the task itself, the others cut it."""

    DONE = "done"
    SUBMITTED = "submitted"
    REFUSED = "refused"
    PARSE_ERROR = "parse_error"
    MAX_TURNS = "max_turns"
    MAX_TOKENS = "max_tokens"
    CONTEXT_OVERFLOW = "context_overflow"
    TIMEOUT = "timeout"
    RESOURCE_LIMIT = "resource_limit"
    OPPONENT = "opponent"
    FAULT = "fault"

    @property
    def terminated(self) -> bool:
        """True for the task's own end (Gymnasium's ``terminated``), False for a limit (``truncated``)."""
        return self in (StopReason.DONE, StopReason.SUBMITTED, StopReason.REFUSED, StopReason.PARSE_ERROR, StopReason.OPPONENT)


class Verdict(Struct, frozen=True, omit_defaults=True, gc=False):
    """What a verifier says about a step or an episode. ``value`` exists only where ``status`` is ``scored``."""

    status: Literal["scored", "tampered", "invalid"]
    value: float | None = None
    evidence: dict[str, Json] = {}
    critique: str | None = None
    culprit: Culprit | None = None

    def __post_init__(self) -> None:
        if self.value is not None and self.status != "scored":
            raise ValueError(f"a verdict that is {str(self.status)[:20]} carries no value")

    @staticmethod
    def scored(value: float, /, **evidence: Json) -> Verdict:
        """A score in evidence's light. A value that is no finite number makes the verdict ``invalid``."""
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            return Verdict.invalid(f"a verifier's value must be a finite number, not {value!r:.80}")
        return Verdict("scored", float(value), evidence)

    @staticmethod
    def tampered(reason: str, /, **evidence: Json) -> Verdict:
        """The policy touched what decides: the floor, and flagged."""
        return Verdict("tampered", None, evidence, reason, "policy")

    @staticmethod
    def invalid(reason: str, culprit: Culprit = "verifier") -> Verdict:
        """Nothing can be said, and whose fault that is. Carries no value: it never becomes a reward."""
        return Verdict("invalid", None, {}, reason[:2000], culprit)


class Place(Struct, frozen=True, omit_defaults=True, gc=False):
    """Where credit belongs: a turn, a ``span`` of its action's characters or of its sampled tokens, the episode, its group."""

    level: Literal["turn", "span", "token", "episode", "group"]
    turn: int | None = None
    span: tuple[int, int] | None = None


class Term(Struct, frozen=True, omit_defaults=True, gc=False):
    """A named number with a place. ``known_at`` is the turn at which it could first be computed; None: after the episode."""

    source: str
    value: float
    place: Place
    known_at: int | None


EPISODE = Place("episode")
