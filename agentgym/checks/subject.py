"""What is checked, and how a check answers: a detail, or ``Failed`` or ``Skipped``."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any, Literal

from msgspec import Struct

from agentgym.core import AgentEnv
from agentgym.errors import CapabilityError
from agentgym.registry import EnvSpec, make

GARBAGE = (
    "", "garbage", "x" * 1_000_000, "<tool_call>", "</tool_call>", '<tool_call>{"name": "no such tool", "arguments": {}}</tool_call>',
    '<tool_call>{"name": 3}</tool_call>', "<tool_call>[[[[</tool_call>", '<tool_call>{"name": "../x", "arguments": {"a": 1e309}}</tool_call>',
    '<tool_call>{"name": "x", "arguments": {}}</tool_call>' * 500, "\x00\ud7ff\u2028<|im_end|>", "<tool_call>" + "[" * 20_000 + "</tool_call>",
)  # fmt: skip


class Failed(AssertionError):
    """Raised when a check does not hold."""


class Skipped(Exception):
    """Raised when a check does not apply to an environment."""


class Check(Struct, frozen=True):
    """One line of a report."""

    name: str
    status: Literal["pass", "fail", "skip"]
    detail: str


class Subject(Struct):
    """The environment under check: ``tasks`` per split take part, ``options`` are given to it."""

    spec: EnvSpec
    tasks: int
    options: dict[str, Any] = {}

    def make(self, split: str = "", reward: str = "outcome") -> AgentEnv:
        """A new one, on its first split unless told otherwise."""
        return make(self.spec.id, split=split or next(iter(self.spec.splits)), reward=reward, **self.options)

    def actions(self, env: AgentEnv) -> list[str]:
        """What to play: the oracle's actions, or those of its player, or a few odd ones. Leaves ``env`` reset as it was."""
        seed = env.episode.seed
        script = oracle_of(env) or (islice(env.player(), PLAYED) if has_player(env) else None)
        if script is None:
            return ["hello", *(t for t in GARBAGE[:2])]
        made = []
        for action in script:
            made.append(action)
            *_, terminated, truncated, _ = env.step(action)
            if terminated or truncated:
                break
        env.reset(seed=seed, options={"task": env.task.id})
        return made


PLAYED = 60
"""So many turns of a player stand for an episode of it."""


def oracle_of(env: AgentEnv) -> Iterator[str] | None:
    """The oracle from where ``env`` stands; None where there is none for this task."""
    try:
        return env.oracle()
    except CapabilityError:
        return None


def has_player(env: AgentEnv) -> bool:
    """Whether there is an honest scripted player."""
    return type(env).player is not AgentEnv.player


def need(condition: object, detail: str) -> None:
    """Fail with ``detail`` unless the condition holds."""
    if not condition:
        raise Failed(detail)
