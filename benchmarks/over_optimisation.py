"""How far a reward model may be followed: best of n by one model, by the worst of several, and by several less their disagreement.

    python benchmarks/over_optimisation.py [--out runs/over] [--picture docs/over-optimisation.png]

A small policy attempts tasks of an office desk many times. Reward models learn pairs of its attempts on train tasks, a quarter of the labels
turned round; on other tasks they choose the best of n. Gold is the environment's own verdict. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import math
import time
import tomllib
from functools import partial
from pathlib import Path
from typing import Any

import agentgym_trainers
import anyio
import numpy as np
import torch
from agentgym_trainers.config import TrainConfig
from agentgym_trainers.fitting import fit_pairs
from agentgym_trainers.lesson import Lesson
from agentgym_trainers.teach import Example, Pupil, body, made, pairs_of

from agentgym import make
from agentgym.episode import Episode, EpisodeStore, read_episodes
from agentgym.evaluation.verifiers import over_optimisation, view_of
from agentgym.policies import resolve
from agentgym.rewards.combine import FORMS
from agentgym.rollout import Job, Keep, Rollout

WARM = str(Path(agentgym_trainers.__file__).parent / "warm")
OPTIONS: dict[str, Any] = tomllib.loads((Path(agentgym_trainers.__file__).parent / "demo.toml").read_text())["option"]


def attempts(path: Path, split: str, tasks: int, n: int, temperature: float) -> list[Episode]:
    """``n`` attempts at each task, played once and kept."""
    if not path.exists():
        env = make("tools/desk", split=split, **OPTIONS)
        ids = list(env.taskset.ids())[:: max(1, len(env.taskset) // tasks)][:tasks]
        policy = resolve(f"hf:{WARM}", temperature=temperature, max_tokens=24)
        jobs = [Job(t, k, 1000 * i + k, t) for i, t in enumerate(ids) for k in range(n)]

        async def play() -> None:
            with EpisodeStore(path) as store:
                await Rollout(make=partial(make, "tools/desk", split=split, **OPTIONS), policy=policy, concurrency=128, keep=Keep(store)).run(jobs)

        anyio.run(play)
    return [e for e in read_episodes(path) if e.status == "valid"]


def trained(examples: list[Example], config: TrainConfig, members: int, noise: float) -> list[Pupil]:
    """Members of an ensemble, each with its own start, order and tokenizer's body; all see the same wrong labels."""
    pairs, _ = pairs_of(examples)
    turned = np.random.default_rng(0).random(len(pairs)) < noise
    pairs = np.where(turned[:, None], pairs[:, ::-1], pairs)
    out = []
    for m in range(members):
        torch.manual_seed(m)
        pupil = Pupil(*body(config, [e.episode for e in examples], m), Lesson(), config.lr)
        fit_pairs([(partial(pupil.whole, examples), pupil.optimizer)], pairs, Lesson(), steps=config.steps, batch=16, seed=m)
        out.append(pupil)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/over"))
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--tasks", type=int, default=48)
    parser.add_argument("--attempts", type=int, default=64)
    parser.add_argument("--members", type=int, default=4)
    parser.add_argument("--noise", type=float, default=0.25)
    parser.add_argument("--steps", type=int, default=60)
    given = parser.parse_args()
    began = time.perf_counter()
    given.out.mkdir(parents=True, exist_ok=True)
    learned = attempts(given.out / "train.jsonl", "train", 60, 6, 1.0)
    chosen = attempts(given.out / "test.jsonl", "demo", given.tasks, given.attempts, 1.0)
    config = TrainConfig(model="tiny", context=512, steps=given.steps, lr=1e-3)
    shell = body(config, learned, 0)[1]
    examples = made(learned, Lesson(), shell, config)
    pupils = trained(examples, config, given.members, given.noise)
    score_ME = np.array([[v[-1] for v in p.scalar.scores([view_of(e) for e in chosen])] for p in pupils])
    score_ME = np.log(score_ME / (1 - score_ME))  # logits: chances of every member saturate
    score_ME = (score_ME - score_ME.mean(1, keepdims=True)) / score_ME.std(1, keepdims=True)
    tasks: dict[str, list[int]] = {}
    for i, e in enumerate(chosen):
        tasks.setdefault(e.task, []).append(i)
    at = [np.array(rows) for rows in tasks.values()]
    gold_E = np.array([float(e.success) for e in chosen])
    proxies = {
        "one": score_ME[0], "mean": FORMS["mean"](score_ME, 1.0), "worst case": FORMS["min"](score_ME, 1.0),
        "uncertainty-weighted": FORMS["cautious"](score_ME, 1.0),
    }  # fmt: skip
    curves = {name: over_optimisation([x[rows] for rows in at], [gold_E[rows] for rows in at]) for name, x in proxies.items()}
    row = {
        "benchmark": "over_optimisation", "tasks": len(at), "attempts": min(map(len, at)), "success": float(gold_E.mean()),
        "possible": float(np.mean([gold_E[rows].max() for rows in at])), "noise": given.noise, "pairs": len(pairs_of(examples)[0]),
        "curves": {name: [_told(r) for r in curve] for name, curve in curves.items()},
        "wall_s": round(time.perf_counter() - began, 1),
    }  # fmt: skip
    if given.picture:
        draw(curves, row, given.picture)
    print(json.dumps(row))


def _told(r: dict[str, Any]) -> dict[str, Any]:
    return {"n": r["n"], "kl": r["kl"], "proxy": r["proxy"].mean, "gold": [r["gold"].mean, r["gold"].low, r["gold"].high]}


def draw(curves: dict[str, list[dict[str, Any]]], row: dict[str, Any], to: Path) -> None:
    """Gold against divergence, a line and its interval for each way to choose."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), constrained_layout=True)
    for name, curve in curves.items():
        x = [r["kl"] for r in curve]
        line = left.plot(x, [r["gold"].mean for r in curve], marker="o", markersize=3, label=name)[0]
        left.fill_between(x, [r["gold"].low for r in curve], [r["gold"].high for r in curve], color=line.get_color(), alpha=0.12, linewidth=0)
        right.plot(x, [r["proxy"].mean for r in curve], marker="o", markersize=3, color=line.get_color(), label=name)
    left.axhline(row["possible"], color="grey", linestyle=":", linewidth=1)
    left.text(0.0, row["possible"] + 0.01, "some attempt succeeds", color="grey", fontsize=8)
    left.set(xlabel="divergence of best-of-n, nats", ylabel="gold: share of tasks done", ylim=(0, 1.05))
    right.set(xlabel="divergence of best-of-n, nats", ylabel="proxy, standard deviations")
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
        top = axis.secondary_xaxis("top")
        top.set_xticks([r["kl"] for r in next(iter(curves.values()))], [str(r["n"]) for r in next(iter(curves.values()))], fontsize=7)
    left.legend(frameon=False, fontsize=8, loc="lower right")
    figure.savefig(to, dpi=130)
    assert math.isfinite(row["success"])


if __name__ == "__main__":
    main()
