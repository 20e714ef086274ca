"""A model as a critic before the act: it states its principle, says what would come of an action, and picks among several."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any, ClassVar, Literal

import msgspec

from agentgym.core import Policy
from agentgym.policies.search import Proposal
from agentgym.verdict import Verdict
from agentgym_verifiers.judges.answer import Choice, Score, Unanswered
from agentgym_verifiers.judges.ask import Question
from agentgym_verifiers.judges.forms import JUDGE, lettered, together
from agentgym_verifiers.judges.judge import Judge
from agentgym_verifiers.judges.show import quoted


class Judged:
    """``judged:openai:MODEL@URL``, or ``judged:FILE.toml`` (see ``JudgeConfig``). Its verdicts hold what to do instead as their critique.

    One proposal gets a share of the scale. Of several from one conversation it names the best, asked with the list and with the list turned
    round, in an order that does not depend on theirs: 1 for it, 1/2 each where it changed its mind, 0 for the others; equal actions are one.
    An answer that names no candidate is none. Sources: "WebArbiter: A Principle-Guided Reasoning Process Reward Model for Web Agents",
    "Look Before You Leap: A GUI-Critic-R1 Model for Pre-Operative Error Diagnosis in GUI Automation".
    """

    level: ClassVar[Literal["action"]] = "action"

    def __init__(self, text: str = "", *, policies: Sequence[Policy] | None = None, **given: Any) -> None:
        self.judge = Judge(text, policies=policies, **given)

    def __call__(self, proposals: Sequence[Proposal]) -> list[Verdict]:
        """A verdict on each; ``invalid`` where there was no answer. It waits, and may be called in any thread."""
        return asyncio.run_coroutine_threadsafe(self._all(proposals), _beside()).result()

    async def _all(self, proposals: Sequence[Proposal]) -> list[Verdict]:
        actions = sorted({p.action for p in proposals})
        if len(actions) > 1 and all(p.messages == proposals[0].messages for p in proposals):
            ask: list[Callable[[], Any]] = [partial(self._best, proposals[0], order) for order in (actions, actions[::-1])]
        else:
            ask = [partial(self._score, p) for p in proposals]
            return [Verdict.invalid(str(f), "infra") if isinstance(f, Unanswered) else f for f in await together(ask)]
        found = await together(ask)
        named = [f for f in found if not isinstance(f, Unanswered)]
        if not named:
            return [Verdict.invalid(str(found[0]), "infra")] * len(proposals)
        first = named[0]
        told = {"principle": first[1].principle, "position_bias": len({action for action, _ in named}) > 1}
        return [
            msgspec.structs.replace(Verdict.scored(sum(p.action == action for action, _ in named) / len(named), **told), critique=first[1].critique)
            for p in proposals
        ]

    async def _best(self, proposal: Proposal, actions: Sequence[str]) -> tuple[str, Choice]:
        letters = lettered(actions)
        listed = "\n".join(f"[candidate {c}]\n{quoted(a)}" for c, a in zip(letters, actions, strict=True))
        known: Callable[[Choice], str] = lambda c: "" if c.best in letters else f"name one of {', '.join(letters)}"  # noqa: E731
        role = f"{JUDGE}\n\nSay what matters at this point as your principle, then which candidate action brings the task furthest, by its letter."
        (answer, _), *_ = await self.judge._ask(Question(role, f"{_said(proposal)}\n{listed}", Choice, known))
        return actions[letters.index(answer.best)], answer

    async def _score(self, proposal: Proposal) -> Verdict:
        low, high = self.judge.config.scale
        on_scale: Callable[[Score], str] = lambda s: "" if low <= s.score <= high else f"the score is not on the scale from {low} to {high}"  # noqa: E731
        role = (
            f"{JUDGE}\n\nPrinciple: {self.judge.config.principle}\n\nAn action is about to be done. Say what would come of it, and score it from {low} (it must"
            f" not be done) to {high} (it should). Your critique is given to the agent: say what to do instead, if it is bad."
        )
        said = await self.judge._ask(Question(role, f"{_said(proposal)}\n[the action]\n{quoted(proposal.action)}", Score, on_scale, (low, high)))
        value = sum((a.score - low) / (high - low) for a, _ in said) / len(said)
        return msgspec.structs.replace(Verdict.scored(value), critique=said[0][0].critique)


def _said(proposal: Proposal) -> str:
    told = "\n".join(f"[{m['role']}]\n{quoted(str(m['content']))}" for m in proposal.messages)
    known = "\n".join(f"{k}: {v}" for k, v in proposal.consequences.items())
    return f"{told}\n[what the world says would come of it]\n{quoted(known)}" if known else told


@cache
def _beside() -> asyncio.AbstractEventLoop:
    """A loop in a thread of its own, for callers that are themselves within one; it ends with the process."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="agentgym-critic", daemon=True).start()
    return loop
