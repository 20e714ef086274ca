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
from rich.markup import escape
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


def _logger(screen: Screen, what: str = "held-out greedy success", phases: str = "warm start") -> Callable[[str, dict[str, Any]], None]:
    """Progress of a run: a bar per phase, a line per evaluation."""

    def log(phase: str, row: dict[str, Any]) -> None:
        if phase == "eval":
            screen.say(f"{what} after {row['step']} updates: {row['success']:.3f} [{row['low']:.3f}, {row['high']:.3f}]")
        elif phase == "warm":
            screen.progress(phases, row["step"], row["of"], f"loss {row['loss']:.4f}")
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
        more = ", or --data RUN to teach a reward model from its episodes" if getattr(config, "role", "") == "verifier" else ""
        raise UsageError(f"which environment? e.g. --env tools/desk-v0{more}")
    resolve(config.env)
    if isinstance(config, TrainConfig) and config.algo not in (table := known()):
        raise UnknownName("algorithm", config.algo, table)
    return with_sandbox(config.env, config.option, config.sandbox)


def varied(config: TrainConfig) -> list[tuple[str, TrainConfig]]:
    """The cells of a one-at-a-time grid, by name: as given, then each value of each setting by itself. Everything else stays, the seed too.

    Sources: "Part I: Tricks or Traps? A Deep Dive into RL for LLM Reasoning", "A Practitioner's Guide to Multi-turn Agentic Reinforcement Learning".
    """
    base = msgspec.structs.replace(config, vary={})
    cells = [("base", base)]
    for key, values in config.vary.items():
        for text in str(values).split(","):
            value = _value(text)
            own = key in TrainConfig.__struct_fields__ and key not in ("set", "option", "vary", "out", "resume")
            changed = {key: value} if own else {"set": {**config.set, key: value}}
            cells.append((f"{key}={text}", msgspec.convert({**msgspec.to_builtins(base), **changed}, TrainConfig)))
    return cells


def _value(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text


def train(config: TrainConfig, screen: Screen) -> Answer:
    if config.vary:
        out = _placed(config.out, "vary")
        answers = {name: train(msgspec.structs.replace(cell, out=f"{out}/{name.replace('/', '-')}"), screen) for name, cell in varied(config)}
        return Answer({"runs": [{"cell": n, **msgspec.to_builtins(a.data)} for n, a in answers.items()]}, _grid(answers), max(a.code for a in answers.values()))
    if config.role == "verifier" and config.data:
        from agentgym_trainers.teach import teach

        return _answer(teach(msgspec.structs.replace(config, out=_placed(config.out, "verifier")), _logger(screen, "held-out labels right", "lesson")))
    from agentgym_trainers.train import train as run

    if not config.resume:
        config = msgspec.structs.replace(config, option=_options(config), out=_placed(config.out, "train"))
    return _answer(run(config, _logger(screen)))


def _grid(answers: dict[str, Answer]) -> Table:
    """The cells beside each other."""
    table = Table(title="one setting at a time", title_justify="left", box=None)
    for title in ("cell", "before", "after", "95% interval", "tokens"):
        table.add_column(title, justify="left" if title == "cell" else "right")
    for name, answer in answers.items():
        r, m = answer.data, answer.data.after.success
        table.add_row(name, f"{r.before.success.mean:.3f}", f"{m.mean:.3f}", f"{m.low:.3f} – {m.high:.3f}", f"{r.tokens_trained:,}")
    return table


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
    from agentgym_trainers.report import measured_as, warm_text, write_report

    if int(os.environ.get("RANK", "0")):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the first process speaks for all
        return Answer(result, "")

    page = write_report(result)
    table = Table(
        title=f"{result.env}: {result.algorithm}, reward {escape(result.reward)}, {result.steps} updates, {result.wall_s:.0f} s", title_justify="left", box=None
    )
    for title in ("held-out tasks", measured_as(result), "95% interval", "at temperature 1", "valid"):
        table.add_column(title, justify="left" if title == "held-out tasks" else "right")
    for name, m in (("before", result.before), ("after", result.after)):
        bar = "█" * round(20 * m.success.mean) + "·" * (20 - round(20 * m.success.mean))
        sampled = f"{m.sampled.mean:.3f}" if m.sampled else "–"
        table.add_row(f"{name:<7}{bar}", f"{m.success.mean:.3f}", f"{m.success.low:.3f} – {m.success.high:.3f}", sampled, f"{m.valid}/{m.episodes}")
    table.caption, table.caption_justify = (
        "\n".join(
            [
                f"use it: rm:{result.checkpoint_after}" if measured_as(result) == "labels right" else warm_text(result),
                *(f"note: {n}" for n in result.notes),
                f"picture and episodes: {page}",
            ]
        ),
        "left",
    )
    return Answer(result, table)


TRAIN = Command(
    "train", "Train a policy by reinforcement learning.", "agentgym train --env tools/desk-v0 --option levels=1 --steps 20", TrainConfig, train, ("env",)
)
SFT = Command("sft", "Warm a model up on oracle episodes.", "agentgym sft --env tools/desk-v0 --option levels=1 --warm-steps 200", SftConfig, sft, ("env",))
DEMO = Command("demo", "The main job end to end: warm start, training, before and after.", "agentgym demo", DemoConfig, demo)
