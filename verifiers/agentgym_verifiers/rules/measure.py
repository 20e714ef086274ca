"""What an episode took (time, tokens, calls), and what its environment noted. Verdicts in [0, 1], 1 for nothing; combine them behind a gate."""

from __future__ import annotations

from typing import Literal

from agentgym.core import EpisodeView
from agentgym.verdict import Verdict
from agentgym_verifiers.rules.pick import Rule, pick


class Spent(Rule, frozen=True, kw_only=True):
    """1 − used / budget, at least 0, of turns, calls, characters or sampled tokens. A budget may be the task's (``task:KEY``)."""

    of: Literal["turns", "calls", "chars", "tokens"] = "turns"
    budget: float | str = 30

    def score(self, view: EpisodeView) -> Verdict:
        budget = float(str(pick(view, self.budget))) if isinstance(self.budget, str) else self.budget
        turns = view.episode.turns
        used = {
            "turns": lambda: len(turns),
            "calls": lambda: sum(len(t.calls) for t in turns),
            "chars": lambda: sum(len(t.action) for t in turns),
            "tokens": lambda: sum(sum(t.tokens.mask) for t in turns if t.tokens),
        }[self.of]()
        return Verdict.scored(max(0.0, 1.0 - used / budget), used=used, budget=budget)


class Noted(Rule, frozen=True, kw_only=True):
    """A number that the environment noted among the facts of the turn. A turn without it (it was malformed) has 0, or with ``kept`` the last one noted."""

    level: Literal["step", "outcome"] = "step"
    fact: str
    kept: bool = False

    def score(self, view: EpisodeView) -> Verdict:
        turns = view.episode.turns if self.kept else view.episode.turns[-1:]
        return Verdict.scored(float(next((t.facts[self.fact] for t in reversed(turns) if self.fact in t.facts), 0.0)))


class Duration(Rule, frozen=True, kw_only=True):
    """Faster is better, by the median of the runs that the environment measured into ``fact`` (seconds): min(1, reference / median).

    Source of the idea: "ACECode: A Reinforcement Learning Framework for Aligning Code Efficiency and Correctness in Code Language
    Models"; the ratio is ours. Alone it says nothing about being right: gate it.
    """

    fact: str = "fact:seconds"
    reference: str = "task:seconds"

    def score(self, view: EpisodeView) -> Verdict:
        runs = pick(view, self.fact)
        times = sorted(float(x) for x in (runs if isinstance(runs, list) else [runs]))
        reference = float(pick(view, self.reference))
        middle = len(times) // 2
        median = times[middle] if len(times) % 2 else (times[middle - 1] + times[middle]) / 2
        return Verdict.scored(min(1.0, reference / max(median, 1e-9)), median=median, runs=len(times))
