"""Tic-tac-toe by self-play, the tiny model: games lost, drawn and won against scripted players, before and after. One JSON line.

Without ``--run`` it trains first: a warm start on the games of an honest player, then self-play alone, in about an hour of two CPUs.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import anyio
from agentgym_trainers.config import TrainConfig
from agentgym_trainers.train import train

from agentgym.evaluation.run import Plan
from agentgym.evaluation.stats import share
from agentgym.policies import resolve
from agentgym.rollout import Rollout

GAME: dict[str, Any] = {"games": "tictactoe", "limits": {"max_malformed": 1}}
OTHERS = ("random", "greedy", "perfect")
SETTINGS = TrainConfig(
    env="arena/board", option=GAME, trainable=["first", "second"], against="self", window=1, warm_by="player", warm_steps=4000, warm_batch=64,
    warm_lr_final=0.1, steps=300, set={"entropy": 0.03}, groups=16, group_size=16, updates=2, lr=4e-4, lr_final=0.3, max_tokens=4,
    context=256, eval_tasks=100, eval_every=50,
    save_every=50,
)  # fmt: skip


def against(model: Path, other: str, games: int) -> dict[str, Any]:
    """Shares of ``games`` games in each seat, played greedily on the test split, with 95% intervals; an illegal move loses."""
    ended: list[float] = []
    illegal, tasks = 0, list[str]()
    for seat in ("first", "second"):
        plan = Plan(env="arena/board", options={**GAME, "seat": seat, "opponents": other}, episodes=games, tasks=min(games, 100))
        rollout = Rollout(plan.environment, resolve(f"hf:{model}", temperature=0.0, max_tokens=4))
        for episode in anyio.run(rollout.run, plan.jobs(plan.environment().taskset.ids())):
            value = episode.verdicts["result"].value
            assert value is not None
            ended.append(value)
            tasks.append(f"{seat}/{episode.task}")
            illegal += episode.stop_reason == "parse_error"
    told = {name: share([v == value for v in ended], tasks) for name, value in (("lost", 0.0), ("drawn", 0.5), ("won", 1.0))}
    shares = {n: [round(x, 3) for x in (i.mean, i.low, i.high)] for n, i in told.items()}
    return {**shares, "illegal": round(illegal / len(ended), 3), "games": len(ended)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, help="a run that is there: measured, not trained")
    parser.add_argument("--before", type=Path, help="the model to compare with; default the run's first checkpoint")
    parser.add_argument("--games", type=int, default=200, help="in each seat, against each player")
    given = parser.parse_args()
    folder = given.run or Path(train(SETTINGS, lambda *_: None).out)
    saved = sorted(p for p in (folder / "checkpoints").iterdir() if (p / "model").is_dir() or (p / "config.json").exists())
    rows = {}
    for name, at in (("before", given.before or saved[0]), ("after", saved[-1])):
        model = at / "model" if (at / "model").is_dir() else at
        rows[name] = {"checkpoint": at.name, **{other: against(model, other, given.games) for other in OTHERS}}
    print(json.dumps({"benchmark": "selfplay", **rows}))


if __name__ == "__main__":
    main()
