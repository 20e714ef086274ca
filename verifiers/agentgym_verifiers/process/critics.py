"""Critics by rule: of what cannot be undone. They judge proposals as ``agentgym.policies.search`` hands them over."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import ClassVar, Literal

import msgspec
from msgspec import Struct

from agentgym.policies.search import Proposal
from agentgym.verdict import Verdict

WORDS = {
    "pay": r"\b(buy|order|pay|purchase)", "delete": r"\b(delete|remove|drop)", "cancel": r"\bcancel", "return": r"\breturn|send back", "ship": r"\bship",
    "import": r"\bimport",
}  # fmt: skip
"""By the word that a site has for an act, what an instruction says that asks for it."""


class Careful(Struct, frozen=True):
    """0 for what cannot be undone, else 1: with mode ``suggest``, every such act has to be done twice."""

    level: ClassVar[Literal["action"]] = "action"

    def __call__(self, proposals: Sequence[Proposal]) -> list[Verdict]:
        return [self._one(str(p.consequences.get("irreversible", ""))) for p in proposals]

    def _one(self, word: str) -> Verdict:
        if not word:
            return Verdict.scored(1.0)
        return _bad(word, f"this would {word}, which cannot be undone; make sure that it is what was asked for")


class Asked(Struct, frozen=True):
    """0 for what cannot be undone and was not asked for, in so many words, by the first message of a user; else 1."""

    level: ClassVar[Literal["action"]] = "action"

    def __call__(self, proposals: Sequence[Proposal]) -> list[Verdict]:
        return [self._one(p, str(p.consequences.get("irreversible", ""))) for p in proposals]

    def _one(self, proposal: Proposal, word: str) -> Verdict:
        asked = next((m["content"].partition("\n\n")[0] for m in proposal.messages if m["role"] == "user"), "")
        if not word or re.search(WORDS.get(word, rf"\b{re.escape(word)}"), asked, re.IGNORECASE):
            return Verdict.scored(1.0)
        return _bad(word, f"nobody asked you to {word}, and it cannot be undone")


def _bad(word: str, why: str) -> Verdict:
    return msgspec.structs.replace(Verdict.scored(0.0, irreversible=word), critique=why)
