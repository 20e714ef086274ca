"""A run as one self-contained page: pictures, numbers with their intervals, and the episodes worth reading."""

from __future__ import annotations

import base64
import html
import io
import tomllib
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from agentgym.episode import Episode
from agentgym.errors import MissingExtra
from agentgym.evaluation.regrade import episodes_of
from agentgym.evaluation.stats import Interval, share
from agentgym.evaluation.transcript import transcript

STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:64rem;margin:2rem auto;padding:0 1rem;color:#222}
table{border-collapse:collapse} td,th{padding:.25rem .9rem;border-bottom:1px solid #ddd;text-align:right}
td:first-child,th:first-child{text-align:left} img{max-width:100%}
pre{background:#f6f6f4;padding:1rem;overflow-x:auto;font-size:13px;white-space:pre-wrap;max-height:32rem;overflow-y:auto}
summary{cursor:pointer;padding:.3rem 0} .doubt{color:#a04000}
"""
BLUE, PALE, WARM, GREY = "#1b4f72", "#9bbcd8", "#b9770e", "#777777"


def plots() -> Any:
    """Matplotlib, drawing to files. Raises ``MissingExtra`` without it."""
    try:
        import matplotlib
    except ImportError:
        raise MissingExtra("matplotlib", "pip install 'agentgym-core[report]'") from None
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def picture(figure: Any, says: str) -> str:
    """A figure as an image inside the page."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110)
    plots().close(figure)
    return f"<img alt='{html.escape(says)}' src='data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}'>"


def write_report(folder: Path, to: Path) -> int:
    """Write the page of a run folder to ``to``; return the number of episodes in it."""
    episodes = episodes_of(folder)
    good = [e for e in episodes if e.decided]
    result = msgspec.json.decode((folder / "result.json").read_bytes()) if (folder / "result.json").exists() else {}
    config = (folder / "config.toml").read_text() if (folder / "config.toml").exists() else ""
    title = f"{tomllib.loads(config).get('policy', 'policy') if config else ''} on {episodes[0].env if episodes else folder.name}"
    notes = "".join(f"<p class=doubt>{html.escape(n)}</p>" for n in result.get("notes", []))
    to.write_text(
        f"<!doctype html><meta charset=utf-8><title>{html.escape(title)}</title><style>{STYLE}</style><h1>{html.escape(title)}</h1>"
        f"<p>{len(good)} valid episodes, {len(episodes) - len(good)} invalid. Intervals are 95%.</p>{notes}{_numbers(result)}"
        f"{picture(_figure(good, episodes), 'success by kind of task, turns, reward terms by turn, why episodes ended') if good else ''}"
        f"{_readable('The longest', sorted(good, key=lambda e: -len(e.turns))[:3])}{_readable('The worst', sorted(good, key=lambda e: e.total)[:3])}"
        f"<h2>Configuration</h2><pre>{html.escape(config)}</pre>"
    )
    return len(episodes)


def _numbers(result: dict[str, Any]) -> str:
    """The table of everything that has an interval, and what the run took."""
    named = {"success": result.get("success"), "reward": result.get("reward"), **result.get("metrics", {})}
    rows = [f"<tr><td>{html.escape(n)}<td>{i['mean']:.3f}<td>{i['low']:.3f} – {i['high']:.3f}" for n, i in named.items() if i]
    if not rows:
        return ""
    took = f"{result['turns_mean']:.1f} turns on average, {result['tokens']} tokens, cost {result.get('cost', 0):.4g}, {result['wall_s']:.1f} s"
    return f"<table><tr><th><th>mean<th>interval{''.join(rows)}</table><p>{html.escape(took)}</p>"


def _figure(good: Sequence[Episode], episodes: Sequence[Episode]) -> Any:
    figure, ((kinds, turns), (terms, ends)) = plots().subplots(2, 2, figsize=(11, 7.4), constrained_layout=True)
    _draw_kinds(kinds, good)
    longest = max(len(e.turns) for e in good)
    bins = range(1, longest + 2)
    turns.hist([[len(e.turns) for e in good if e.success], [len(e.turns) for e in good if not e.success]], bins=bins, stacked=True, color=[BLUE, PALE])
    turns.legend(["succeeded", "failed"], frameon=False)
    turns.set(title="turns", xlabel="turns of an episode", ylabel="episodes")
    _draw_terms(terms, good)
    counted = Counter(e.stop_reason.value for e in episodes if e.stop_reason).most_common()
    ends.barh([n for n, _ in counted][::-1], [c for _, c in counted][::-1], color=GREY)
    ends.set(title="why episodes ended", xlabel="episodes")
    for axis in figure.axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
        axis.set_axisbelow(True)
    return figure


def _draw_kinds(axis: Any, good: Sequence[Episode]) -> None:
    """Success with its interval, for all and for each kind of task (the twelve most played)."""
    by_kind: dict[str, list[Episode]] = defaultdict(list)
    for e in good:
        by_kind[e.kind or "(no kind)"].append(e)
    shown = sorted(by_kind.items(), key=lambda item: -len(item[1]))[:12]
    rows: list[tuple[str, Interval]] = [("all", _success(good)), *((k, _success(v)) for k, v in shown if len(by_kind) > 1)]
    for i, (_, interval) in enumerate(reversed(rows)):
        axis.plot([interval.low, interval.high], [i, i], color=PALE, linewidth=4, solid_capstyle="butt")
        axis.plot(interval.mean, i, "o", color=BLUE)
    axis.set_yticks(range(len(rows)), [name for name, _ in reversed(rows)])
    axis.set(title="success by kind of task", xlim=(-0.03, 1.03), xlabel="share, with 95% interval")


def _success(episodes: Sequence[Episode]) -> Interval:
    return share([e.success for e in episodes], [e.task for e in episodes])


def _draw_terms(axis: Any, good: Sequence[Episode]) -> None:
    """What each source of reward paid at each turn, on average; what belongs to the whole episode stands at "end"."""
    longest = max(len(e.turns) for e in good)
    paid: dict[str, list[float]] = defaultdict(lambda: [0.0] * (longest + 1))
    for e in good:
        for t in e.terms:
            paid[t.source][longest if t.place.turn is None else t.place.turn] += t.value / len(good)
    below = [0.0] * (longest + 1)
    colours = plots().cm.tab10.colors
    for i, (source, values) in enumerate(sorted(paid.items(), key=lambda item: -sum(map(abs, item[1])))[:10]):
        axis.bar(range(longest + 1), values, bottom=below, label=source, color=colours[i])
        below = [b + v for b, v in zip(below, values, strict=True)]
    axis.set(title="reward terms by place", xlabel="turn (last bar: the whole episode)", ylabel="mean value")
    if paid:
        axis.legend(frameon=False, fontsize=8)


def _readable(title: str, episodes: Sequence[Episode]) -> str:
    parts = []
    for e in episodes:
        told = f"{e.id}: {len(e.turns)} turns, reward {e.total:.3g}, {e.stop_reason}"
        parts.append(f"<details><summary>{html.escape(told)}</summary><pre>{html.escape(transcript(e))}</pre></details>")
    return f"<h2>{title} episodes</h2>{''.join(parts)}" if parts else ""
