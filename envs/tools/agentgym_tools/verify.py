"""The desk's verifiers: the final database row by row, and the shape of each call. They read no model text but the answer."""

from __future__ import annotations

from collections import Counter
from typing import Any, ClassVar, Literal

import msgspec
from msgspec import Struct

from agentgym.core import EpisodeView, Task, Verdict
from agentgym.messages import ToolCall
from agentgym_tools.desk import rows_of
from agentgym_tools.plan import Answer
from agentgym_tools.tasks import plan_of, world_of
from agentgym_tools.world import Rows


class TaskDone(Struct, frozen=True):
    """1 if the database is exactly as expected and the episode ended as the task demands, else 0."""

    level: ClassVar[Literal["outcome"]] = "outcome"

    def __call__(self, view: EpisodeView) -> Verdict:
        ended, wrong = done(view.task, rows_of(view.artefacts["desk.sqlite"]), msgspec.json.decode(view.artefacts["ending.json"]))
        return Verdict.scored(float(ended and not wrong), ended=ended, wrong_rows=wrong[:20])


def done(task: Task, rows: Rows, ending: Any) -> tuple[bool, list[str]]:
    """Whether a task was ended as it demands, and which rows are not as they must be."""
    plan, start = plan_of(task), world_of(task).tuples()
    ended = isinstance(ending, (list, tuple)) and ending[0] == plan.ending[0] and same_answer(plan.ending[1], ending[1])
    return ended, _differences(start, plan.expected(start), rows)


def _differences(start: Rows, wanted: Rows, have: Rows) -> list[str]:
    """Names of rows that are not as they must be. Rows that were added are compared without their ids."""
    wrong = []
    for table in wanted:
        old = start[table].keys()
        wrong += [f"{table} {k}" for k in old if wanted[table].get(k) != have[table].get(k)]
        new_wanted = Counter(r[1:] for k, r in wanted[table].items() if k not in old)
        new_have = Counter(r[1:] for k, r in have[table].items() if k not in old)
        if new_wanted != new_have:
            wrong.append(f"{table} new rows")
    return wrong


def same_answer(wanted: Answer | None, given: Any) -> bool:
    """Equality of answers: words without regard to case and outer space, numbers as numbers, lists in any order."""
    if isinstance(wanted, list):
        return isinstance(given, list) and all(isinstance(g, str) for g in given) and sorted(map(_plain, wanted)) == sorted(map(_plain, given))
    if wanted is None or isinstance(given, (list, dict, bool)) or given is None:
        return wanted is None and given is None
    return _plain(str(wanted)) == _plain(str(given)) or _number(wanted) == _number(given) is not None


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


def _number(value: object) -> float | None:
    try:
        number = float(str(value)) if len(str(value)) < 32 else float("nan")
    except ValueError:
        return None
    return number if number == number else None


class Call(Struct, frozen=True):
    """A step verdict on the last turn's calls: the mean over them of one property.

    ``tool``: the name is that of a call still to be made.
    ``names`` and ``values``: so are the argument names, and the share of argument values, of the best such call.
    A turn without a call scores 0.
    """

    what: Literal["tool", "names", "values"]
    level: ClassVar[Literal["step"]] = "step"

    def __call__(self, view: EpisodeView) -> Verdict:
        turn = view.episode.turns[-1]
        if not turn.calls:
            return Verdict.scored(0.0)
        waiting = remaining(view)
        return Verdict.scored(sum(self._score(c, waiting) for c in turn.calls) / len(turn.calls))

    def _score(self, made: ToolCall, waiting: list[ToolCall]) -> float:
        like = [w for w in waiting if w.name == made.name]
        if self.what == "tool":
            return float(bool(like))
        if self.what == "names":
            return float(any(w.arguments.keys() == made.arguments.keys() for w in like))
        shares = [
            sum(made.arguments.get(k) == v for k, v in w.arguments.items()) / max(1, len(w.arguments.keys() | made.arguments.keys()))
            if w.arguments or made.arguments
            else 1.0
            for w in like
        ]
        return max(shares, default=0.0)


def remaining(view: EpisodeView) -> list[ToolCall]:
    """The oracle's calls that had not been made before the last turn."""
    return still_to_do(view.task, [c for t in view.episode.turns[:-1] for c in t.calls])


def still_to_do(task: Task, made: list[ToolCall]) -> list[ToolCall]:
    """The oracle's calls for a task less those that were made, each once."""
    waiting = plan_of(task).oracle()
    for call in made:
        if call in waiting:
            waiting.remove(call)
    return waiting


class Progress(Struct, frozen=True):
    """A step verdict: the share of the oracle's calls made so far, less a share for each row written that must not be; at least 0.

    It is a level, not a change: ``delta`` and ``potential`` make terms of it.
    """

    level: ClassVar[Literal["step"]] = "step"

    def __call__(self, view: EpisodeView) -> Verdict:
        plan = plan_of(view.task)
        total = len(plan.calls) + 1
        done = total - len(still_to_do(view.task, [c for t in view.episode.turns for c in t.calls]))
        allowed = {(c.table, c.key) for c in plan.changes}
        stray = sum((w[0], w[1]) not in allowed and (w[0], None) not in allowed for t in view.episode.turns for w in t.facts.get("writes", []))
        return Verdict.scored(max(0.0, (done - stray) / total))
