"""``compare`` two runs; ``export`` one in the forms that others read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from msgspec import Meta, Struct
from rich.table import Table

from agentgym.cli.command import Answer, Command
from agentgym.cli.screen import Screen
from agentgym.errors import UnknownName
from agentgym.evaluation.bundle import opened, pack
from agentgym.evaluation.compare import Comparison, Side, compare
from agentgym.evaluation.export import FORMATS
from agentgym.evaluation.filmstrip import filmstrip
from agentgym.evaluation.probes import write_probes
from agentgym.evaluation.regrade import episodes_of
from agentgym.evaluation.report import write_report
from agentgym.registry import installed, load


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


class ExportConfig(Struct, forbid_unknown_fields=True):
    """A run, a format, and where to."""

    folder: Annotated[str, Meta(description="run folder, or a packed one; for verl-config a training run, or its table")]
    format: Annotated[str, Meta(description="atif, sts, openai, hf, parquet, html, filmstrip, probes or bundle; or an installed one: verl-config")] = "html"
    to: Annotated[str, Meta(description="file or folder to write; default beside the run, by the format's name")] | None = None


ENDINGS = {
    "openai": ".jsonl",
    "parquet": ".parquet",
    "html": ".html",
    "filmstrip": ".filmstrip.html",
    "bundle": ".zip",
    "atif": "-atif",
    "sts": "-sts",
    "hf": "-hf",
    "probes": "-probes",
}


def export_run(config: ExportConfig, screen: Screen) -> Answer:
    more = installed("formats")
    if config.format not in {*ENDINGS, *more}:
        raise UnknownName("format", config.format, {*ENDINGS, *more})
    source = Path(config.folder)
    to = Path(config.to) if config.to else source.with_name(source.name.removesuffix(".zip") + ENDINGS.get(config.format, f"-{config.format}"))
    if config.format in more:
        tasks = load("formats", config.format)(source, to)
        return Answer({"format": config.format, "tasks": tasks, "to": str(to)}, f"{tasks} tasks as {config.format} in {to}")
    if to.exists() and not to.is_dir():
        screen.say(f"{to} is written again")
    with opened(source) as folder:
        if config.format == "bundle":
            pack(folder, to)
            count = len(episodes_of(folder))
        else:
            count = {**FORMATS, "html": write_report, "filmstrip": filmstrip, "probes": write_probes}[config.format](folder, to)
    return Answer({"format": config.format, "episodes": count, "to": str(to)}, f"{count} episodes as {config.format} in {to}")


EXPORT = Command(
    "export", "Write a run in a form that others read: a page, a dataset, trajectories.", "agentgym export runs/oracle --format html", ExportConfig, export_run,
    ("folder",),
)  # fmt: skip
COMPARE = Command("compare", "Compare two runs, task by task.", "agentgym compare runs/oracle runs/noop", CompareConfig, compare_runs, ("first", "second"))
