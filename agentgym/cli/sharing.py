"""``compare`` two runs; ``export`` one in the forms that others read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from msgspec import Meta, Struct
from rich.table import Table

from agentgym.cli.command import Answer, Command
from agentgym.cli.screen import Screen
from agentgym.evaluation.bundle import opened
from agentgym.evaluation.compare import Comparison, Side, compare


class CompareConfig(Struct, forbid_unknown_fields=True):
    """Two runs."""

    first: Annotated[str, Meta(description="run folder, or a packed one")]
    second: Annotated[str, Meta(description="the run to compare with it")]


def compare_runs(config: CompareConfig, screen: Screen) -> Answer:
    with opened(Path(config.first)) as first, opened(Path(config.second)) as second:
        result = compare(first, second)
    return Answer(result, _table(result))


def _table(result: Comparison) -> Table:
    table = Table(title=f"{result.env} {result.split}: {result.tasks} tasks in common", title_justify="left", box=None)
    for title in ("", "success", "95% interval", "reward", "turns", "invalid"):
        table.add_column(title, justify="right" if title else "left")
    for side in (result.first, result.second):
        table.add_row(side.policy, *_row(side))
    gap, pay = result.success, result.reward
    table.add_row("difference", f"{gap.difference.mean:+.3f}", f"{gap.difference.low:+.3f} – {gap.difference.high:+.3f}", f"{pay.difference.mean:+.3f}", "", "")
    verdict = f"better on {gap.wins} tasks, equal on {gap.ties}, worse on {gap.losses}; p = {gap.p_value:.4f} (sign flips)"
    table.caption = "\n".join([verdict, f"a difference of {gap.detectable:.3f} would be found 4 times in 5", *(f"note: {n}" for n in result.notes)])
    table.caption_justify = "left"
    return table


def _row(side: Side) -> tuple[str, ...]:
    interval = f"{side.success.low:.3f} – {side.success.high:.3f}"
    return f"{side.success.mean:.3f}", interval, f"{side.reward.mean:.3f}", f"{side.turns_mean:.1f}", f"{side.invalid_share:.1%}"


COMPARE = Command("compare", "Compare two runs, task by task.", "agentgym compare runs/oracle runs/noop", CompareConfig, compare_runs, ("first", "second"))
