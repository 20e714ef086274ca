"""The report of a training run: one self-contained HTML page, and its picture as a PNG beside it."""

from __future__ import annotations

import base64
import html
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # the back-end must be chosen first
import msgspec
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from agentgym.episode import Episode, read_episodes
from agentgym.evaluation.report import STYLE
from agentgym.evaluation.transcript import transcript
from agentgym_trainers.run import TrainResult

PICTURED = (
    "Pictured: success, reward terms by source, entropy, distances, shares, seconds and tokens per second by phase, "
    "and what was gained on the reward against held-out success."
)


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
        f"<p>{html.escape(warm_text(result))} Intervals are 95% (Wilson).</p>{_notes(result)}<p>{PICTURED}</p>"
        f"<img style='max-width:100%' alt='learning curve' src='data:image/png;base64,{picture}'>{_samples(out)}"
        f"<h2>Configuration</h2><pre>{html.escape((out / 'config.toml').read_text())}</pre>"
    )
    return page


def _notes(result: TrainResult) -> str:
    return f"<ul>{''.join(f'<li>{html.escape(n)}</li>' for n in result.notes)}</ul>" if result.notes else ""


def warm_text(result: TrainResult) -> str:
    """What the warm start saw, in a sentence."""
    warm = result.warm_start
    if not warm:
        return "There was no warm start."
    shown = f"{warm['episodes_per_update']} episodes of the {warm.get('by', 'oracle')}, on {warm['distinct_tasks']} distinct tasks"
    return f"The warm start was {warm['updates']} supervised updates of {shown} of split {warm['split']}."


def measured_as(result: TrainResult) -> str:
    """What the number before and after is of: a policy's success, or a verifier's right labels."""
    return "labels right" if result.algorithm.startswith("verifier:") else "greedy success"


def _table(result: TrainResult) -> str:
    rows = []
    for name, m in (("before", result.before), ("after", result.after)):
        sampled = f"{m.sampled.mean:.3f}" if m.sampled else "–"
        rows.append(f"<tr><td>{name}<td>{m.success.mean:.3f}<td>{m.success.low:.3f} – {m.success.high:.3f}<td>{sampled}<td>{m.valid} of {m.episodes}")
    return f"<table><tr><th>updates: {result.steps}<th>{measured_as(result)}<th>interval<th>at temperature 1<th>valid episodes{''.join(rows)}</table>"


def _draw(result: TrainResult, rows: list[dict[str, Any]], path: Path) -> None:
    """A panel for each thing there is to see."""
    warm, train, evals = ([r for r in rows if r["phase"] == phase] for phase in ("warm", "train", "eval"))
    panels: list[Callable[[Axes], None]] = [lambda axis: _success(axis, result, train, evals)]
    if warm:
        panels.insert(0, lambda axis: _lines(axis, warm, {"loss": "loss"}, "warm start: loss per token", log=True))
    if train:
        terms = {k: k.removeprefix("term:") for k in sorted({k for r in train for k in r}) if k.startswith("term:")}
        panels += [
            lambda axis: _lines(axis, train, {"reward": "reward", **terms}, "reward terms, mean per episode"),
            lambda axis: _lines(axis, train, {"entropy": "entropy"}, "entropy of sampled tokens, nats"),
            lambda axis: _lines(
                axis, train, {"mismatch": "|log ratio|", "mismatch_kl": "KL to the sampler", "kl": "KL to the reference"}, "distance per token", log=True
            ),
            lambda axis: _lines(axis, train, {"clipped": "ratios past 0.2", "trained": "episodes trained on", "invalid": "invalid episodes"}, "shares"),
            lambda axis: _phases(axis, train),
        ]
    if any("drift" in r for r in evals):
        panels.append(lambda axis: _optimised(axis, evals))
    columns = min(4, len(panels))
    lines = -(-len(panels) // columns)
    figure, axes = plt.subplots(lines, columns, figsize=(4.4 * columns, 3.5 * lines), constrained_layout=True, squeeze=False)
    for axis, panel in zip(axes.flat, panels, strict=False):
        panel(axis)
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def _success(axis: Axes, result: TrainResult, train: list[dict[str, Any]], evals: list[dict[str, Any]]) -> None:
    axis.plot([r["step"] for r in train], [r["success"] for r in train], color="#9bbcd8", label="training, sampled")
    below, above = [r["success"] - r["low"] for r in evals], [r["high"] - r["success"] for r in evals]
    steps, mean = [r["step"] for r in evals], [r["success"] for r in evals]
    axis.errorbar(steps, mean, yerr=[below, above], fmt="o-", color="#1b4f72", capsize=3, label="held-out, greedy")
    axis.set(title=f"success: {result.algorithm} on {result.env}", xlabel="update", ylim=(-0.03, 1.03))
    axis.legend(frameon=False, loc="lower right", fontsize=8)


def _lines(axis: Axes, rows: list[dict[str, Any]], names: dict[str, str], title: str, log: bool = False) -> None:
    """Numbers over updates; those that are never there, or always 0, are left out."""
    for name, label in names.items():
        if any(r.get(name) for r in rows):
            axis.plot([r["step"] for r in rows if name in r], [r[name] for r in rows if name in r], label=label)
    axis.set(title=title, xlabel="update")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    if log:
        axis.set_yscale("symlog", linthresh=1e-3)
        axis.set_ylim(bottom=0)
    if len(names) > 1 and axis.lines:
        axis.legend(frameon=False, fontsize=8)


def _phases(axis: Axes, train: list[dict[str, Any]]) -> None:
    """Seconds of a step by phase, and tokens per second over it."""
    steps = [r["step"] for r in train]
    axis.stackplot(steps, [r["sample_s"] for r in train], [r["learn_s"] for r in train], labels=["sampling", "learning"], colors=["#9bbcd8", "#e59866"])
    axis.set(title="seconds per step, and tokens per second", xlabel="update")
    made = [b["tokens"] - a["tokens"] for a, b in pairwise([{"tokens": train[0]["tokens"]}, *train])]
    rate = axis.twinx()
    rate.plot(steps[1:], [n / max(1e-9, r["sample_s"] + r["learn_s"]) for n, r in zip(made[1:], train[1:], strict=True)], color="#1b4f72", lw=1)
    rate.set_ylabel("sampled tokens per second", fontsize=8)
    rate.spines[["top"]].set_visible(False)
    axis.legend(frameon=False, fontsize=8, loc="upper left")


def _optimised(axis: Axes, evals: list[dict[str, Any]]) -> None:
    """The reward that is trained on, and held-out success, over the distance from the start."""
    rows = [r for r in evals if "drift" in r]
    axis.plot([r["drift"] for r in rows], [r["proxy"] for r in rows], "o-", color="#e59866", label="reward trained on")
    axis.plot([r["drift"] for r in rows], [r["success"] for r in rows], "o-", color="#1b4f72", label="held-out success")
    axis.set(title="over-optimisation", xlabel="KL from the start, nats per token")
    axis.legend(frameon=False, fontsize=8)


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
