"""Tool calls against the calls a task wants."""

from __future__ import annotations

from typing import Any, Literal

from agentgym.core import EpisodeView
from agentgym.messages import ToolCall
from agentgym.verdict import Verdict
from agentgym_verifiers.rules.pick import Rule, pick

PARTS = ("format", "name", "arguments", "values")


class ToolCalls(Rule, frozen=True, kw_only=True):
    """All calls of an episode (or of the last turn, at level ``step``) against ``gold``, a list of ``{name, arguments}``.

    ``fine``: the weighted mean of four shares: well-formed turns (``format``), tool ``name``, argument names (``arguments``) and argument
    ``values``, each of the best pairing of made with wanted calls, whose order does not matter. ``coarse``: 1 if all is right, else 0; the
    two agree where everything or nothing is. Surplus calls cost ``extra`` each, making none scores ``inaction``. The parts are in the
    evidence. Source of the idea: "ToolRL: Reward is All Tool Learning Needs"; the decomposition and the weights are ours.
    """

    gold: str = "task:calls"
    granularity: Literal["fine", "coarse"] = "fine"
    weights: tuple[float, float, float, float] = (0.1, 0.3, 0.2, 0.4)
    extra: float = 0.1
    inaction: float = 0.0

    def score(self, view: EpisodeView) -> Verdict:
        wanted = [ToolCall(str(c["name"]), dict(c.get("arguments", {}))) for c in pick(view, self.gold)]
        turns = view.episode.turns[-1:] if self.level == "step" else view.episode.turns
        made = [c for t in turns for c in t.calls]
        if not made or not wanted:
            return Verdict.scored(1.0 if not made and not wanted else self.inaction if not made else 0.0)
        parts = {"format": sum(t.problem is None for t in turns) / len(turns), **self._shares(made, wanted)}
        surplus = max(0, len(made) - len(wanted))
        exact = min(parts.values()) == 1.0 and surplus == 0
        if self.granularity == "coarse":
            return Verdict.scored(float(exact), **parts)
        mean = sum(w * parts[p] for w, p in zip(self.weights, PARTS, strict=True)) / sum(self.weights)
        return Verdict.scored(max(-1.0, mean - self.extra * surplus), surplus=surplus, **parts)

    def _shares(self, made: list[ToolCall], wanted: list[ToolCall]) -> dict[str, float]:
        """Name, argument names and values over the wanted calls, each paired greedily with the made call that fits it best."""
        left, total = list(made), dict.fromkeys(PARTS[1:], 0.0)
        for call in sorted(wanted, key=lambda w: -max(_fit(m, w)[2] for m in made)):
            best = max(left, key=lambda m: _fit(m, call), default=None)
            if best is None:
                break
            name, arguments, values = _fit(best, call)
            if name:
                left.remove(best)
                for part, value in zip(PARTS[1:], (name, arguments, values), strict=True):
                    total[part] += value
        return {part: value / len(wanted) for part, value in total.items()}


def _fit(made: ToolCall, wanted: ToolCall) -> tuple[float, float, float]:
    """Name, share of argument names, share of argument values (in that order of weight)."""
    if made.name != wanted.name:
        return 0.0, 0.0, 0.0
    names = made.arguments.keys() | wanted.arguments.keys()
    if not names:
        return 1.0, 1.0, 1.0
    common = made.arguments.keys() & wanted.arguments.keys()
    same = sum(_same(made.arguments[k], wanted.arguments[k]) for k in common)
    return 1.0, len(common) / len(names), same / len(names)


def _same(one: Any, other: Any) -> bool:
    return isinstance(one, bool) == isinstance(other, bool) and one == other
