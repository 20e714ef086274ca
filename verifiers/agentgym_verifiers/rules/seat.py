"""The verdicts of a seat at a game."""

from __future__ import annotations

from collections.abc import Callable

from agentgym.core import Task, Verifier
from agentgym.game import Game, Result
from agentgym_verifiers.rules.measure import Noted


def seat_verdicts(game: Callable[[Task], Game]) -> dict[str, Verifier]:
    """Whether moves were legal, how it stands, and how it came out, by the maker of a task's game."""
    return {"legal": Noted(fact="legal"), "standing": Noted(fact="standing", kept=True), "result": Result(game)}
