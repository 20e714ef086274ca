"""``agentgym new reward``: a model writes a reward for an environment, and its true success chooses among what it wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import anyio
import msgspec
from msgspec import Meta, Struct
from rich.table import Table

from agentgym.cli.command import Answer, Command
from agentgym.cli.screen import Screen
from agentgym.episode import read_episodes
from agentgym.errors import UsageError
from agentgym.policies import resolve
from agentgym.registry import make
from agentgym_verifiers.design.code import describe, save
from agentgym_verifiers.design.search import Found, by_choice, by_training, search


class RewardConfig(Struct, forbid_unknown_fields=True, kw_only=True):
    """A reward written by a model."""

    env: Annotated[str, Meta(description="environment id")] = ""
    policy: Annotated[str, Meta(description="who writes: openai:MODEL@URL, hf:PATH")] = ""
    data: Annotated[str, Meta(description="run folder whose episodes candidates are tried on")] = ""
    goal: Annotated[str, Meta(description="what the agent is for; default the environment's summary")] = ""
    generations: Annotated[int, Meta(description="rounds; each hears of the best so far", ge=1)] = 3
    candidates: Annotated[int, Meta(description="rewards written in each round", ge=1)] = 4
    train: Annotated[
        str, Meta(description="choose by short training runs with these flags, such as '--steps 10 --option levels=1'; else by recorded episodes")
    ] = ""
    option: Annotated[dict[str, Any], Meta(description="environment options as key=value, repeatable")] = {}
    temperature: Annotated[float, Meta(description="sampling temperature of the writer", ge=0)] = 0.8
    seed: Annotated[int, Meta(description="seed", ge=0)] = 0
    out: Annotated[str, Meta(description="folder for every candidate and the winner")] = "runs/reward"


def new_reward(config: RewardConfig, screen: Screen) -> Answer:
    """Raises ``UsageError`` where something is missing."""
    if not (config.env and config.policy and config.data):
        raise UsageError("agentgym new reward --env ID --policy openai:MODEL@URL --data RUN")
    path = Path(config.data) / "episodes.jsonl"
    if not path.is_file():
        raise UsageError(f"{config.data} holds no episodes.jsonl; record some: agentgym eval --env {config.env} --policy hf:PATH --out runs/some")
    episodes = [e for e in read_episodes(path) if e.status == "valid" and e.turns][:400]
    if not episodes:
        raise UsageError(f"{config.data} holds no valid episode")
    env = make(config.env, **config.option)
    fields = describe(env, episodes)
    fitness = by_training(["--env", config.env, *config.train.split()], fields) if config.train else by_choice(episodes)
    goal = config.goal or (type(env).__doc__ or env.id).strip().splitlines()[0]
    writer = resolve(config.policy, temperature=config.temperature)
    found: Found = anyio.run(_search, writer, fields, goal, episodes, fitness, config)
    out = Path(config.out)
    for i, c in enumerate(found.candidates):
        save(out / f"candidate-{i}.json", c.code, fields, generation=c.generation, fitness=c.fitness, why=c.why)
    best = found.winner
    if best is not None:
        save(out / "reward.json", best.code, fields, fitness=best.fitness, why=best.why)
    table = Table(title=f"{len(found.candidates)} rewards for {env.id}", title_justify="left", box=None)
    for title in ("", "round", "true success", "what came of it"):
        table.add_column(title)
    for i, c in enumerate(found.candidates):
        table.add_row(str(i), str(c.generation), "–" if c.fitness is None else f"{c.fitness:.3f}", c.why)
    table.caption = f"the best: --reward \"outcome('task') + 0.2 * late('written:{out}/reward.json')\"" if best else "none could be used"
    table.caption_justify = "left"
    data = {"env": env.id, "best": found.best, "asked": found.asked, "candidates": [msgspec.to_builtins(c) for c in found.candidates], "out": str(out)}
    return Answer(data, table, 0 if best is not None else 1)


async def _search(writer: Any, fields: Any, goal: str, episodes: Any, fitness: Any, config: RewardConfig) -> Found:
    return await search(writer, fields, goal, episodes, fitness, generations=config.generations, candidates=config.candidates, seed=config.seed)


NEW_REWARD = Command(
    "new reward", "A model writes a reward; true success chooses.", "agentgym new reward --env tools/desk --policy hf:PATH --data runs/some",
    RewardConfig, new_reward, ("env",),
)  # fmt: skip
