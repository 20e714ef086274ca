"""The report of a training run: one self-contained HTML page, and its picture as a PNG beside it."""

from __future__ import annotations

import base64
import html
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # the back-end must be chosen first
import msgspec

from agentgym.episode import Episode, read_episodes
from agentgym.evaluation.report import STYLE
from agentgym.evaluation.transcript import transcript
from agentgym_trainers.run import TrainResult


def write_report(result: TrainResult) -> Path:
    """Write ``report.html`` and ``curve.png`` into the run's folder; return the page's path."""
    out = Path(result.out)
    rows = [msgspec.json.decode(line) for line in (out / "metrics.jsonl").read_bytes().split(b"\n") if line]
    _draw(result, rows, out / "curve.png")
    picture = base64.b64encode((out / "curve.png").read_bytes()).decode()
    page = out / "report.html"
    page.write_text(
        f"<!doctype html><meta charset=utf-8><title>{html.escape(result.env)} {result.algorithm}</title><style>{STYLE}</style>"
        f"<h1>{html.escape(result.env)}: {html.escape(result.algorithm)}, reward {html.escape(result.reward)}</h1>{_table(result)}"
        f"<p>{html.escape(warm_text(result))} Intervals are 95% (Wilson).</p><img alt='learning curve' src='data:image/png;base64,{picture}'>{_samples(out)}"
        f"<h2>Configuration</h2><pre>{html.escape((out / 'config.toml').read_text())}</pre>"
    )
    return page


def warm_text(result: TrainResult) -> str:
    """What the warm start saw, in a sentence."""
    warm = result.warm_start
    if not warm:
        return "There was no warm start."
    seen = f"{warm['updates']} supervised updates of {warm['episodes_per_update']} oracle episodes, on {warm['distinct_tasks']} distinct tasks"
    return f"The warm start was {seen} of split {warm['split']}; the evaluated tasks were seen by neither stage."


def _table(result: TrainResult) -> str:
    rows = []
    for name, m in (("before", result.before), ("after", result.after)):
        sampled = f"{m.sampled.mean:.3f}" if m.sampled else "–"
        rows.append(f"<tr><td>{name}<td>{m.success.mean:.3f}<td>{m.success.low:.3f} – {m.success.high:.3f}<td>{sampled}<td>{m.valid} of {m.episodes}")
    return f"<table><tr><th>updates: {result.steps}<th>greedy success<th>interval<th>at temperature 1<th>valid episodes{''.join(rows)}</table>"


def _draw(result: TrainResult, rows: list[dict[str, Any]], path: Path) -> None:
    """A panel for each thing there is: the warm start's loss, success over updates, entropy."""
    warm, train, evals = ([r for r in rows if r["phase"] == phase] for phase in ("warm", "train", "eval"))
    figure, axes = plt.subplots(1, 1 + bool(warm) + bool(train), figsize=(4.6 * (1 + bool(warm) + bool(train)), 3.8), constrained_layout=True, squeeze=False)
    panels = iter(axes[0])
    if warm:
        axis = next(panels)
        axis.plot([r["step"] for r in warm], [r["loss"] for r in warm], color="#777777")
        axis.set(title="warm start", xlabel="supervised update", ylabel="loss per token", yscale="log")
    axis = next(panels)
    axis.plot([r["step"] for r in train], [r["success"] for r in train], color="#9bbcd8", label="training episodes, sampled")
    steps, mean = [r["step"] for r in evals], [r["success"] for r in evals]
    below, above = [r["success"] - r["low"] for r in evals], [r["high"] - r["success"] for r in evals]
    axis.errorbar(steps, mean, yerr=[below, above], fmt="o-", color="#1b4f72", capsize=3, label="held-out tasks, greedy")
    axis.set(title=f"{result.algorithm} on {result.env}", xlabel="update", ylabel="success", ylim=(-0.03, 1.03))
    axis.legend(frameon=False, loc="lower right")
    if train:
        axis = next(panels)
        axis.plot([r["step"] for r in train if "entropy" in r], [r["entropy"] for r in train if "entropy" in r], color="#b9770e")
        axis.set(title="entropy of sampled tokens", xlabel="update", ylabel="nats")
    for axis in axes[0]:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _samples(out: Path) -> str:
    """The last training episode that succeeded and the last that did not."""
    last: dict[bool, Episode] = {}
    if (out / "episodes.jsonl").exists():
        for episode in read_episodes(out / "episodes.jsonl"):
            last[episode.success] = episode
    parts = [
        f"<h2>A late training episode that {'succeeded' if ok else 'failed'}</h2><pre>{html.escape(transcript(e))}</pre>"
        for ok, e in sorted(last.items(), reverse=True)
    ]
    return "".join(parts)
