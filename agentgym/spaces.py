"""``Prose``: a space of any text up to a length."""

from __future__ import annotations

from typing import Any

from gymnasium.spaces import Text


class Prose(Text):
    """Any ``str`` of at most ``max_length`` characters.

    Gymnasium's ``Text`` tests each character against a charset whose default has no space; a full Unicode charset costs
    seconds to build. ``contains`` here tests type and length only; ``sample`` draws letters and digits.
    """

    def __init__(self, max_length: int = 1 << 20, *, seed: Any = None) -> None:
        super().__init__(max_length, min_length=0, seed=seed)

    def contains(self, x: Any) -> bool:
        """True for a ``str`` that is short enough."""
        return isinstance(x, str) and len(x) <= self.max_length

    def sample(self, mask: Any = None, probability: Any = None) -> str:
        """A short random word: long samples would test nothing more."""
        n = int(self.np_random.integers(1, min(self.max_length, 24) + 1))
        return "".join(self.np_random.choice(list(self.character_set), size=n))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Prose) and self.max_length == other.max_length

    def __repr__(self) -> str:
        return f"Prose({self.max_length})"
