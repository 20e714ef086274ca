"""The verbs ``train``, ``sft`` and ``demo``."""

from __future__ import annotations

import os
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct
from rich.table import Table

from agentgym.cli.command import Answer, Command
from agentgym.cli.play import with_sandbox
from agentgym.cli.screen import Screen
from agentgym.errors import UnknownName, UsageError
from agentgym.registry import resolve
from agentgym_trainers.algorithm import known
from agentgym_trainers.config import Common, SftConfig, TrainConfig


class DemoConfig(Struct, forbid_unknown_fields=True):
    """The main job, start to end, on a laptop's CPU."""

    out: Annotated[str, Meta(description="run folder; default runs/demo-<date>")] = ""
    seed: Annotated[int, Meta(description="seed of everything", ge=0)] = 0
    steps: Annotated[int, Meta(description="reinforcement-learning updates", ge=0)] | None = None


def _logger(screen: Screen) -> Callable[[str, dict[str, Any]], None]:
    """Progress of a run: a bar per phase, a line per evaluation."""

    def log(phase: str, row: dict[str, Any]) -> None:
        if phase == "eval":
            screen.say(f"held-out greedy success after {row['step']} updates: {row['success']:.3f} [{row['low']:.3f}, {row['high']:.3f}]")
        elif phase == "warm":
            screen.progress("warm start", row["step"], row["of"], f"loss {row['loss']:.4f}")
        else:
            screen.progress(
                "training", row["step"], row["of"], f"success {row['success']:.3f}  reward {row['reward']:.3f}  entropy {row.get('entropy', 0):.2f}"
            )

    return log


def _placed(out: str, verb: str) -> str:
    return out or f"runs/{verb}-{time.strftime('%Y%m%d-%H%M%S')}"


def _options(config: Common) -> dict[str, Any]:
    """The environment's options, the kind of sandbox among them. Names first, so that a wrong one costs nothing: torch takes seconds to import."""
    if not config.env:
        raise UsageError("which environment? e.g. --env tools/desk-v0")
    resolve(config.env)
    if isinstance(config, TrainConfig) and config.algo not in (table := known()):
        raise UnknownName("algorithm", config.algo, table)
    return with_sandbox(config.env, config.option, config.sandbox)


def train(config: TrainConfig, screen: Screen) -> Answer:
    if config.role == "verifier" and config.data:
        from agentgym_trainers.teach import teach

        return _answer(teach(msgspec.structs.replace(config, out=_placed(config.out, "verifier")), _logger(screen)))
    from agentgym_trainers.train import train as run

    if not config.resume:
        config = msgspec.structs.replace(config, option=_options(config), out=_placed(config.out, "train"))
    return _answer(run(config, _logger(screen)))


def sft(config: SftConfig, screen: Screen) -> Answer:
    from agentgym_trainers.train import sft as run

    return _answer(run(msgspec.structs.replace(config, option=_options(config), out=_placed(config.out, "sft")), _logger(screen)))


def demo(config: DemoConfig, screen: Screen) -> Answer:
    """Reinforcement learning from the warm-started model that ships with this package (``warm.toml`` makes it again)."""
    here = Path(__file__).parent
    table = tomllib.loads((here / "demo.toml").read_text())
    given = {k: v for k, v in msgspec.structs.asdict(config).items() if v is not None}
    full = msgspec.convert({**table, "model": str(here / "warm"), **given, "out": _placed(config.out, "demo")}, TrainConfig)
    screen.say(f"A small model learns an office desk: {len(full.option['templates'])} kinds of task, from reward alone. See {full.out}.")
    return train(full, screen)


def _answer(result: Any) -> Answer:
    from agentgym_trainers.report import warm_text, write_report

    if int(os.environ.get("RANK", "0")):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the first process speaks for all
        return Answer(result, "")

    page = write_report(result)
    table = Table(
        title=f"{result.env}: {result.algorithm}, reward {result.reward}, {result.steps} updates, {result.wall_s:.0f} s", title_justify="left", box=None
    )
    for title in ("held-out tasks", "greedy success", "95% interval", "at temperature 1", "valid"):
        table.add_column(title, justify="left" if title == "held-out tasks" else "right")
    for name, m in (("before", result.before), ("after", result.after)):
        bar = "█" * round(20 * m.success.mean) + "·" * (20 - round(20 * m.success.mean))
        sampled = f"{m.sampled.mean:.3f}" if m.sampled else "–"
        table.add_row(f"{name:<7}{bar}", f"{m.success.mean:.3f}", f"{m.success.low:.3f} – {m.success.high:.3f}", sampled, f"{m.valid}/{m.episodes}")
    table.caption, table.caption_justify = "\n".join([warm_text(result), *(f"note: {n}" for n in result.notes), f"picture and episodes: {page}"]), "left"
    return Answer(result, table)


TRAIN = Command(
    "train", "Train a policy by reinforcement learning.", "agentgym train --env tools/desk-v0 --option levels=1 --steps 20", TrainConfig, train, ("env",)
)
SFT = Command("sft", "Warm a model up on oracle episodes.", "agentgym sft --env tools/desk-v0 --option levels=1 --warm-steps 200", SftConfig, sft, ("env",))
DEMO = Command("demo", "The main job end to end: warm start, training, before and after.", "agentgym demo", DemoConfig, demo)
