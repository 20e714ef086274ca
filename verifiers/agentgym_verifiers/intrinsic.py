"""Intrinsic reward sources: state that outlives an episode, settled by the rollout, saved and resumed with the run."""

from __future__ import annotations

from collections import Counter

from agentgym.episode import Episode
from agentgym.verdict import Place, Term


class CountNovelty:
    """1/√n for the n-th visit of an anchor, at the turn that led to it: MBIE-EB's bonus on what the agent can see.

    Source: Strehl and Littman, "An analysis of model-based Interval Estimation for Markov Decision Processes".
    Memory is bounded: beyond ``capacity`` anchors, those seen once are forgotten.
    """

    def __init__(self, capacity: int = 1_000_000) -> None:
        self.capacity = capacity
        self.counts: Counter[str] = Counter()

    def settle(self, episode: Episode, weight: float) -> list[Term]:
        """The novelty terms of one finished episode, times ``weight``; known only after it."""
        terms = []
        for i, turn in enumerate(episode.turns):
            self.counts[turn.anchor] += 1
            terms.append(Term("novelty", weight * self.counts[turn.anchor] ** -0.5, Place("turn", i), None))
        if len(self.counts) > self.capacity:
            self.counts = Counter({k: n for k, n in self.counts.items() if n > 1})
        return terms

    def state(self) -> dict[str, int]:
        """What a checkpoint keeps."""
        return dict(self.counts)

    def load_state(self, state: dict[str, int]) -> None:
        """Continue from a checkpoint."""
        self.counts = Counter(state)
