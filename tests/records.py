"""Records made by hand, and strategies that draw them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

from agentgym.episode import Episode, Turn
from agentgym.verdict import StopReason, Verdict

NUMBERS = st.floats(-10, 10).map(lambda x: round(x, 3))
SCORES = st.one_of(NUMBERS.map(Verdict.scored), st.just(Verdict.invalid("x")), st.just(Verdict.tampered("x")))
LEVELS = st.lists(SCORES, min_size=1, max_size=12)


def record(levels: Sequence[Verdict], end: Verdict, id: str = "e", **more: Any) -> Episode:
    """An episode with a step verdict ``s`` (and ``t``, its negative where it has a value) and an outcome ``o``."""
    turns = [Turn([], f"act {i % 3}", anchor=f"a{i % 2}", verdicts={"s": v, "t": _other(v)}) for i, v in enumerate(levels)]
    return Episode(id, "x", "t", "d", "train", stop_reason=StopReason.DONE, turns=turns, verdicts={"o": end}, **{"group": "g", **more})


def _other(verdict: Verdict) -> Verdict:
    return Verdict.scored(-verdict.value) if verdict.value is not None else verdict


def scored(values: Sequence[float], end: float = 1.0, id: str = "e", **more: Any) -> Episode:
    """An episode whose verdict ``s`` has these values and whose outcome is ``end``."""
    return record([Verdict.scored(v) for v in values], Verdict.scored(end), id, **more)


def group_of(n: int) -> st.SearchStrategy[list[Episode]]:
    """A group of 1 to ``n`` episodes."""
    one = st.tuples(st.lists(NUMBERS.map(Verdict.scored), min_size=1, max_size=5), NUMBERS.map(Verdict.scored))
    return st.lists(one, min_size=1, max_size=n).map(lambda rows: [record(levels, end, f"e{i}") for i, (levels, end) in enumerate(rows)])
