"""The form of what was said: declared stages in order, patterns. Neither verifies that anything is right."""

from __future__ import annotations

import re
from typing import Any, Literal

from agentgym.core import EpisodeView
from agentgym.verdict import Verdict
from agentgym_verifiers.rules.pick import Rule, pick


class WellFormed(Rule, frozen=True, kw_only=True):
    """The share of the last turn's calls that were well-formed, by the fact ``calls`` that ``agentgym.messages.answer`` tells; 0 without one."""

    level: Literal["step", "outcome"] = "step"

    def score(self, view: EpisodeView) -> Verdict:
        states = view.episode.turns[-1].facts.get("calls") or []
        return Verdict.scored(sum(s != "malformed" for s in states) / max(1, len(states)))


class Stages(Rule, frozen=True, kw_only=True):
    """1 if the text holds each stage as ``<name>…</name>``, once, in order, not empty, and nothing but space outside; else 0.

    ``graded``: the share of stages present in order instead. Source of the idea: "DIP-R1: Deep Inspection and Perception with RL".
    """

    stages: tuple[str, ...]
    answer: str = "action"
    graded: bool = False

    def score(self, view: EpisodeView) -> Verdict:
        text, at, present = str(pick(view, self.answer)), 0, 0
        for name in self.stages:
            found = re.compile(rf"<{re.escape(name)}>(.*?)</{re.escape(name)}>", re.DOTALL).search(text, at)
            once = text.count(f"<{name}>") == text.count(f"</{name}>") == 1
            if found is None or not found[1].strip() or not once:
                break
            if not self.graded and text[at : found.start()].strip():
                break
            at, present = found.end(), present + 1
        whole = present == len(self.stages) and not text[at:].strip()
        return Verdict.scored(present / len(self.stages) if self.graded else float(whole), present=present)


class Pattern(Rule, frozen=True, kw_only=True):
    """The share of ``patterns`` (regular expressions) found in a text. It does not verify: the evidence says so.

    A reward made of it alone is a control, not a verifier: "The Climb Carves Wisdom Deeper Than the Summit".
    """

    patterns: tuple[str, ...]
    answer: str = "action"
    most_chars: int = 20_000

    def score(self, view: EpisodeView) -> Verdict:
        text: Any = str(pick(view, self.answer))[: self.most_chars]
        found = [p for p in self.patterns if re.search(p, text, re.IGNORECASE)]
        return Verdict.scored(len(found) / len(self.patterns), found=found, verifies=False)
