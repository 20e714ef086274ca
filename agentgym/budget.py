"""What may be used: tokens, seconds and money, of an episode and of a whole run."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from agentgym.verdict import StopReason


class Bounds(Struct, frozen=True):
    """Limits; None is no limit. ``seconds`` is working time: waiting to ask an endpoint again does not count. ``cost`` is in the prices' unit."""

    tokens: int | None = None
    seconds: float | None = None
    cost: float | None = None
    turns: int | None = None


class Prices(Struct, frozen=True):
    """Of a million tokens, read and written."""

    prompt: float = 0.0
    completion: float = 0.0

    def of(self, usage: Mapping[str, int]) -> float:
        """What one completion cost."""
        return (usage.get("prompt_tokens", 0) * self.prompt + usage.get("completion_tokens", 0) * self.completion) / 1e6


class Meter:
    """Counts what is used against ``bounds``, and passes it on to the meter it is part of."""

    def __init__(self, bounds: Bounds, whole: Meter | None = None) -> None:
        self.bounds, self.whole = bounds, whole
        self.tokens, self.seconds, self.cost, self.turns = 0, 0.0, 0.0, 0

    def add(self, tokens: int = 0, seconds: float = 0.0, cost: float = 0.0, turns: int = 0) -> None:
        """Something was used."""
        self.turns += turns
        self.tokens += tokens
        self.seconds += seconds
        self.cost += cost
        if self.whole is not None:
            self.whole.add(tokens, seconds, cost, turns)

    @property
    def spent(self) -> StopReason | None:
        """Why nothing more may be used, if so."""
        if self.tokens_left is not None and self.tokens_left <= 0:
            return StopReason.MAX_TOKENS
        if self.seconds_left is not None and self.seconds_left <= 0:
            return StopReason.TIMEOUT
        if self.bounds.turns is not None and self.turns >= self.bounds.turns:
            return StopReason.MAX_TURNS
        return StopReason.RESOURCE_LIMIT if self.bounds.cost is not None and self.cost >= self.bounds.cost else None

    @property
    def tokens_left(self) -> int | None:
        """How many tokens may still be generated."""
        return None if self.bounds.tokens is None else self.bounds.tokens - self.tokens

    @property
    def seconds_left(self) -> float | None:
        """How long it may still work."""
        return None if self.bounds.seconds is None else self.bounds.seconds - self.seconds
