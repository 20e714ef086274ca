"""Orders of events over an episode: milestones that pay once, reward machines, and linear temporal logic over finite traces."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cache
from typing import Literal

from agentgym.core import EpisodeView
from agentgym.episode import Turn
from agentgym.verdict import Verdict
from agentgym_verifiers.rules.pick import Rule

Formula = tuple[object, ...]
TOKEN = re.compile(r"\s*(->|[()!&|]|[A-Za-z_][\w:.*-]*)")


def events_of(turn: Turn) -> frozenset[str]:
    """What happened in a turn: ``call:NAME`` for its calls, and the strings in its fact ``events``."""
    told = turn.facts.get("events", [])
    return frozenset([*(f"call:{c.name}" for c in turn.calls), *(e for e in told if isinstance(e, str))])


class Milestones(Rule, frozen=True, kw_only=True):
    """A step verdict: the share of the ``events`` reached so far, each once, in any order or ``in_order``. A level: ``delta`` pays it.

    Going back and forth over one pays nothing more. Source of the idea: "Assessing the Zero-Shot Capabilities of LLMs for Action
    Evaluation in RL".
    """

    events: tuple[str, ...]
    in_order: bool = False
    level: Literal["step", "outcome"] = "step"

    def score(self, view: EpisodeView) -> Verdict:
        reached: list[str] = []
        for turn in view.episode.turns:
            seen = events_of(turn)
            for event in self.events:
                if event in seen and event not in reached and (not self.in_order or event == self.events[len(reached)]):
                    reached.append(event)
        return Verdict.scored(len(reached) / len(self.events), reached=reached)


class Ordered(Rule, frozen=True, kw_only=True):
    """1 if the episode satisfies a formula over its events, else 0.

    Operators: ``!`` ``&`` ``|`` ``->``, ``X`` next, ``F`` eventually, ``G`` always, ``U`` until, ``last``. So "tests run after the last
    edit" is ``G(call:edit -> F call:test)``, which no reward of the final state alone can tell. Source of the need: "On The
    Expressivity of Objective-Specification Formalisms in Reinforcement Learning"; semantics: LTL over finite traces.
    """

    formula: str

    def score(self, view: EpisodeView) -> Verdict:
        return Verdict.scored(float(holds(self.formula, [events_of(t) for t in view.episode.turns])))


class Machine(Rule, frozen=True, kw_only=True):
    """A reward machine: a step verdict that pays the transitions taken in the last turn.

    ``transitions[state][event] = [next state, reward]``; an event without a transition changes nothing; the events of one turn are
    taken in the alphabet's order. Source: "Using Reward Machines for High-Level Task Specification and Decomposition in Reinforcement
    Learning".
    """

    transitions: dict[str, dict[str, tuple[str, float]]]
    start: str = "start"
    level: Literal["step", "outcome"] = "step"

    def score(self, view: EpisodeView) -> Verdict:
        state, paid = self.start, 0.0
        for turn in view.episode.turns:
            paid = 0.0
            for event in sorted(events_of(turn)):
                state, reward = self.transitions.get(state, {}).get(event, (state, 0.0))
                paid += reward
        return Verdict.scored(paid, state=state)


def holds(formula: str, trace: Sequence[frozenset[str]]) -> bool:
    """Whether a trace (the events of each turn) satisfies a formula. Raises ``ValueError`` if that is none."""
    if not trace:
        return False
    later = _Values(trace)
    return later.of(parse(formula))[0]


class _Values:
    """The truth of each subformula at each turn, from the last to the first: linear in turns times formula."""

    def __init__(self, trace: Sequence[frozenset[str]]) -> None:
        self.trace, self.n = trace, len(trace)

    def of(self, formula: Formula) -> list[bool]:
        op, *parts = formula
        if op == "event":
            return [str(parts[0]) in seen for seen in self.trace]
        if op == "last":
            return [i == self.n - 1 for i in range(self.n)]
        values = [self.of(p) for p in parts if isinstance(p, tuple)]
        if op in POINTWISE:
            return [POINTWISE[str(op)](*at) for at in zip(*values, strict=True)]
        if op == "X":
            return [*values[0][1:], False]
        return self._backwards(str(op), values)

    def _backwards(self, op: str, values: list[list[bool]]) -> list[bool]:
        out, after = [False] * self.n, op == "G"
        for i in range(self.n - 1, -1, -1):
            now = values[0][i]
            if op == "G":
                after = now and after
            elif op == "F":
                after = now or after
            else:
                after = values[1][i] or (now and after)
            out[i] = after
        return out


POINTWISE: dict[str, Callable[..., bool]] = {
    "!": lambda a: not a,
    "&": lambda a, b: a and b,
    "|": lambda a, b: a or b,
    "->": lambda a, b: not a or b,
}
LOOSER = ("->", "|", "&", "U")


@cache
def parse(text: str) -> Formula:
    """The syntax tree of a formula. Raises ``ValueError`` with what was not understood."""
    words, at = [], 0
    text = text.strip()
    while at < len(text):
        found = TOKEN.match(text, at)
        if found is None:
            raise ValueError(f"formula: cannot read {text[at : at + 20]!r}")
        words.append(found[1])
        at = found.end()
    formula, rest = _binary(words, 0)
    if rest:
        raise ValueError(f"formula: {rest[0]!r} is too much in {text!r}")
    return formula


def _binary(words: list[str], level: int) -> tuple[Formula, list[str]]:
    if level == len(LOOSER):
        return _unary(words)
    left, words = _binary(words, level + 1)
    if words and words[0] == LOOSER[level]:
        right, words = _binary(words[1:], level)
        return (LOOSER[level], left, right), words
    return left, words


def _unary(words: list[str]) -> tuple[Formula, list[str]]:
    if not words:
        raise ValueError("formula: it ends too early")
    word, *rest = words
    if word in ("!", "X", "F", "G"):
        inner, rest = _unary(rest)
        return (word, inner), rest
    if word == "(":
        inner, rest = _binary(rest, 0)
        if not rest or rest[0] != ")":
            raise ValueError("formula: a parenthesis is not closed")
        return inner, rest[1:]
    if word in (")", "&", "|", "->", "U"):
        raise ValueError(f"formula: {word!r} stands where an event should")
    return (("last",) if word == "last" else ("event", word)), rest
