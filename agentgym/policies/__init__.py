"""Policies by name: ``oracle player noop random human``, ``replay:DIR``, ``openai:MODEL@URL``, and engines by entry point."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from agentgym.core import AgentEnv, Policy
from agentgym.errors import UnknownName, UsageError
from agentgym.registry import installed, load

__all__ = ["attach", "resolve"]

Factory = Callable[..., Policy]


def resolve(text: str, **settings: Any) -> Policy:
    """The policy of ``NAME`` or ``NAME:ARGUMENT``; ``settings`` (temperature, max_tokens, …) go to those that sample.

    Raises:
        UnknownName, UsageError: no such policy, or its argument is missing or wrong.
    """
    name, _, argument = text.partition(":")
    if name not in installed("policies"):
        raise UnknownName("policy", name, installed("policies"))
    factory: Factory = load("policies", name)
    return factory(argument, **settings)


def no_argument(name: str, argument: str) -> None:
    """Refuse ``oracle:something``."""
    if argument:
        raise UsageError(f"policy {name} takes no argument, not {argument!r}")


def attach(policy: Policy, env: AgentEnv) -> Policy:
    """The policy for this episode: scripted ones that read the environment itself (oracle, replay) get to see it."""
    bind = getattr(policy, "attach", None)
    bound: Policy = bind(env) if bind else policy
    return bound
