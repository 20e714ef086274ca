"""Step rules for worlds that are acted upon through what they show: pages, desktops."""

from __future__ import annotations

from typing import Any, Literal

from agentgym.core import EpisodeView
from agentgym.verdict import Verdict
from agentgym_verifiers.rules.pick import Rule


class Aimed(Rule, frozen=True, kw_only=True):
    """A step verdict: the share of the calls that could be done: what they aimed at was there, in sight, and took it."""

    level: Literal["step", "outcome"] = "step"

    def score(self, view: EpisodeView) -> Verdict:
        states: Any = view.episode.turns[-1].facts.get("calls") or []
        return Verdict.scored(sum(s == "ok" for s in states) / max(1, len(states)))


class Progressed(Rule, frozen=True, kw_only=True):
    """A step verdict: 1 if what is to be seen now was not seen before in this episode, else 0."""

    level: Literal["step", "outcome"] = "step"

    def score(self, view: EpisodeView) -> Verdict:
        *before, last = [view.episode.start_anchor, *(t.anchor for t in view.episode.turns)]
        return Verdict.scored(float(last not in before))


class Idle(Rule, frozen=True, kw_only=True):
    """A step verdict: 1 if the action had no effect on what is to be seen (the fact ``moved``), or was done before from the same place; else 0."""

    level: Literal["step", "outcome"] = "step"

    def score(self, view: EpisodeView) -> Verdict:
        turns = view.episode.turns
        places = [view.episode.start_anchor, *(t.anchor for t in turns)]
        again = any(t.action == turns[-1].action and place == places[-2] for t, place in zip(turns[:-1], places, strict=False))
        return Verdict.scored(float(again or not turns[-1].facts.get("moved")), repeated=again)
