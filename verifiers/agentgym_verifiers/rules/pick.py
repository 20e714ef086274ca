"""Where a rule finds what it compares, and the frame all rules share."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any, Literal

import msgspec
from msgspec import Struct

from agentgym.core import EpisodeView
from agentgym.errors import UnknownName, UsageError
from agentgym.verdict import Json, Verdict


class Missing(LookupError):
    """Raised when the episode does not hold what a rule asks for: the policy has not given it."""


def pick(view: EpisodeView, where: str) -> Json:
    """The value at ``where``:

    ``task:KEY`` of the task's data; ``action`` the text of the last action; ``call:TOOL.ARGUMENT`` of the last call of that tool;
    ``fact:KEY`` the last turn's fact of that name; ``artefact:NAME`` its text; ``json:NAME`` the artefact decoded.

    Raises:
        Missing: the episode does not hold it.
        KeyError: the task does not, or ``where`` is of no such form.
    """
    kind, _, name = where.partition(":")
    if kind == "task":
        return view.task.data[name]
    turns = view.episode.turns
    if kind == "action" and turns:
        return turns[-1].action
    if kind == "call":
        tool, _, argument = name.partition(".")
        calls = [c for t in reversed(turns) for c in reversed(t.calls) if c.name == tool]
        if calls and argument in calls[0].arguments:
            return calls[0].arguments[argument]
    elif kind == "fact":
        found = [t.facts[name] for t in reversed(turns) if name in t.facts]
        if found:
            return found[0]
    elif kind in ("artefact", "json"):
        if name in view.artefacts:
            return _read(view.artefacts[name], kind)
    elif kind != "action":
        raise KeyError(f"{where!r} is none of task:, action, call:, fact:, artefact:, json:")
    raise Missing(where)


def _read(data: bytes, kind: str) -> Json:
    if kind == "artefact":
        return data.decode("utf-8", "replace")
    try:
        return msgspec.json.decode(data)
    except msgspec.DecodeError as error:
        raise Missing(f"no JSON: {error}") from None


class Rule(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of the rules: a missing answer scores 0, a missing gold makes the verdict ``invalid``."""

    level: Literal["step", "outcome"] = "outcome"

    def __call__(self, view: EpisodeView) -> Verdict:
        try:
            return self.score(view)
        except Missing as missing:
            return Verdict.scored(0.0, missing=str(missing)[:200])

    def score(self, view: EpisodeView) -> Verdict:
        """The verdict, where everything is there."""
        raise NotImplementedError


def rule(text: str, rules: Mapping[str, type[Rule]]) -> Rule:
    """A rule from an expression such as ``Exact(gold='task:answer')``: a class of ``rules``, keywords and literals.

    Raises:
        UsageError: it is none; the message says why.
    """
    try:
        call = ast.parse(text.strip(), mode="eval").body
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.args:
            raise ValueError("write NAME(key=value, …)")
        if call.func.id not in rules:
            raise UnknownName("rule", call.func.id, rules)
        given = {str(k.arg): ast.literal_eval(k.value) for k in call.keywords}
        return msgspec.convert(given, rules[call.func.id])
    except (SyntaxError, ValueError) as error:
        if isinstance(error, UnknownName):
            raise
        raise UsageError(f"rule {text!r:.80}: {error}") from None


class Compared(Rule, frozen=True, kw_only=True):
    """A rule on one answer and one reference. ``similarity`` is all that a child writes."""

    answer: str = "action"
    gold: str = "task:answer"

    def score(self, view: EpisodeView) -> Verdict:
        gold = pick(view, self.gold)
        value = self.similarity(pick(view, self.answer), gold)
        return Verdict.scored(value)

    def similarity(self, answer: Any, gold: Any) -> float:
        """How well an answer agrees with the reference, usually in [0, 1]."""
        raise NotImplementedError
