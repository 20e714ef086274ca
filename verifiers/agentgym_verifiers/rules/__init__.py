"""Rule verifiers: data that says what to compare, by which rule. Each is a frozen struct and a ``Verifier`` of the core.

``answer`` and ``gold`` name where a value comes from, see ``pick``. What cannot be found in the task is the task's fault and makes the
verdict ``invalid``; what cannot be found in the episode is the policy's and scores 0.
"""

from agentgym_verifiers.rules.acting import Aimed, Idle, Progressed
from agentgym_verifiers.rules.calls import ToolCalls
from agentgym_verifiers.rules.events import Machine, Milestones, Ordered, holds
from agentgym_verifiers.rules.form import Pattern, Stages, WellFormed
from agentgym_verifiers.rules.match import Bleu, Boxes, Exact, Numeric, Rank, Sets, Similar
from agentgym_verifiers.rules.math import Math
from agentgym_verifiers.rules.measure import Duration, Noted, Spent
from agentgym_verifiers.rules.pick import Missing, Rule, pick, rule
from agentgym_verifiers.rules.seat import seat_verdicts
from agentgym_verifiers.rules.state import Schema, SqlMatch, StateMatch
from agentgym_verifiers.rules.unit_tests import UnitTests

__all__ = [
    "Aimed", "Bleu", "Boxes", "Duration", "Exact", "Idle", "Machine", "Math", "Milestones", "Missing", "Noted", "Numeric", "Ordered", "Pattern", "Progressed",
    "Rank", "Rule", "Schema", "Sets", "Similar", "Spent", "SqlMatch", "Stages", "StateMatch", "ToolCalls", "UnitTests", "WellFormed", "holds", "load", "pick",
    "seat_verdicts",
]  # fmt: skip

RULES: dict[str, type[Rule]] = {
    c.__name__: c
    for c in (
        Aimed, Bleu, Boxes, Duration, Exact, Idle, Machine, Math, Milestones, Noted, Numeric, Ordered, Pattern, Progressed, Rank, Schema, Sets, Similar,
        Spent, SqlMatch, Stages, StateMatch, ToolCalls, UnitTests, WellFormed,
    )
}  # fmt: skip


def load(text: str) -> Rule:
    """A rule from its expression, such as ``Exact(gold='task:answer')``. Raises ``UsageError`` or ``UnknownName``."""
    return rule(text, RULES)
