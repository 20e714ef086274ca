"""Tic-tac-toe by self-play, the tiny model: games lost, drawn and won against scripted players, before and after. One JSON line.

Without ``--run`` it trains first: a warm start on the games of an honest player, then self-play alone, in about an hour of one CPU.
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
SETTINGS: dict[str, Any] = {
    "env": "arena/board", "option": {**GAME, "opening": 4}, "trainable": ["first", "second"], "against": "self", "window": 1, "groups": 12, "group_size": 16,
    "updates": 2, "lr": 4e-4, "max_tokens": 4, "context": 256, "eval_tasks": 100, "eval_every": 50, "save_every": 50, "threads": 1,
}  # fmt: skip
WARM: dict[str, Any] = {"warm_by": "player", "warm_steps": 4000, "warm_batch": 64, "warm_lr_final": 0.1}
PHASES: tuple[dict[str, Any], ...] = (
    {"steps": 150, "tremble": 0.3, "lr_final": 0.2, "set": {"entropy": 0.05, "entropy_of": "all"}},
    {"steps": 200, "tremble": 0.3, "lr_final": 0.1, "set": {"entropy": 0.05, "entropy_of": "all"}},
    {"steps": 160, "tremble": 0.6, "lr_final": 0.1, "set": {"entropy": 0.1, "entropy_of": "all"}},
)
"""Self-play, each phase from where the last one ended; the first after a warm start."""


def trained(folder: Path) -> None:
    """All phases, below a folder; the last checkpoint of one is where the next begins."""
    begins: dict[str, Any] = WARM
    for number, phase in enumerate(PHASES):
        result = train(TrainConfig(**{**SETTINGS, **begins, **phase, "out": str(folder / f"phase-{number}")}), lambda *_: None)
        begins = {"model": result.checkpoint_after, "warm_steps": 0}


def saved(folder: Path) -> list[Path]:
    """The checkpoints of a run, or of the phases below a folder, in order."""
    found = sorted(p for p in folder.glob("**/checkpoints/step-*") if (p / "config.json").exists())
    if not found:
        raise SystemExit(f"{folder} holds no checkpoint")
    return found


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
    parser.add_argument("--out", type=Path, default=Path("runs/selfplay"), help="where the phases go")
    parser.add_argument("--before", type=Path, help="the model to compare with; default the run's first checkpoint")
    parser.add_argument("--games", type=int, default=200, help="in each seat, against each player")
    given = parser.parse_args()
    if given.run is None:
        trained(given.out)
    checkpoints = saved(given.run or given.out)
    rows = {}
    for name, model in (("before", given.before or checkpoints[0]), ("after", checkpoints[-1])):
        rows[name] = {"checkpoint": model.name, **{other: against(model, other, given.games) for other in OTHERS}}
    print(json.dumps({"benchmark": "selfplay", **rows}))


if __name__ == "__main__":
    main()
