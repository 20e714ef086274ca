"""``league``: players against each other."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import anyio
from msgspec import Meta, Struct
from rich.console import Group
from rich.table import Table

from agentgym.cli.command import Answer, Command
from agentgym.cli.screen import Screen
from agentgym.errors import UsageError
from agentgym.evaluation.league import Standings, league
from agentgym.evaluation.run import Plan
from agentgym.game import GameEnv, contender
from agentgym.registry import spec


class LeagueConfig(Struct, forbid_unknown_fields=True, kw_only=True):
    """Several players of one game."""

    env: Annotated[str, Meta(description="environment id of a game")]
    policy: Annotated[list[str], Meta(description="a player, repeatable: a scripted one of the game, or any policy")] = []
    held_out: Annotated[list[str], Meta(description="a player not met in training, repeatable: rated, and no part of the equilibrium")] = []
    split: Annotated[str, Meta(description="split; default test where there is one")] | None = None
    matches: Annotated[int, Meta(description="matches of each pair, in each order of seats", ge=1)] = 20
    option: Annotated[dict[str, Any], Meta(description="environment options as key=value, repeatable")] = {}
    temperature: Annotated[float, Meta(description="sampling temperature; 0 is greedy", ge=0)] = 0.0
    max_tokens: Annotated[int, Meta(description="longest action in tokens", ge=1)] | None = None
    seed: Annotated[int, Meta(description="seed", ge=0)] = 0
    concurrency: Annotated[int, Meta(description="matches at once", ge=1)] = 64
    out: Annotated[str, Meta(description="run folder, for a record of each seat")] | None = None


def run(config: LeagueConfig, screen: Screen) -> Answer:
    splits = spec(config.env).splits
    split = config.split or ("test" if "test" in splits else next(iter(splits)))
    plan = Plan(env=config.env, split=split, options=config.option, seed=config.seed, concurrency=config.concurrency, max_tokens=config.max_tokens)
    env = plan.environment()
    if not isinstance(env, GameEnv):
        raise UsageError(f"{env.id} has one seat; a league needs a game")
    out = Path(config.out) if config.out else None
    if out is not None and (out / "episodes.jsonl").exists():
        raise UsageError(f"{out} holds a run already; choose another --out")
    settings = {"temperature": config.temperature, **({} if config.max_tokens is None else {"max_tokens": config.max_tokens})}
    names = list(dict.fromkeys([*config.policy, *config.held_out]))
    players = {name: contender(name, env, **settings) for name in names}

    def tell(done: int, of: int) -> None:
        screen.progress("matches", done, of)

    found = anyio.run(league, plan, players, config.matches, config.held_out, out, tell)
    return Answer(found, Group(_ratings(found), _matrix(found), *found.notes), 3 if found.void == found.matches else 0)


def _ratings(found: Standings) -> Table:
    table = Table(title=f"{found.env} {found.split}: {found.matches} matches")
    for name in ("player", "rating", "95%", "games", "score"):
        table.add_column(name, justify="left" if name == "player" else "right")
    for r in found.ratings:
        held = " (held out)" if r.held_out else ""
        table.add_row(f"{r.name}{held}", f"{r.rating:.0f}", f"{r.low:.0f} to {r.high:.0f}", str(r.games), f"{r.score.mean:.3f}")
    return table


def _matrix(found: Standings) -> Table:
    """Who scored what against whom: rows against columns; the darker, the less."""
    names = [r.name for r in found.ratings]
    scores = {(c.row, c.column): c for c in found.cross_play}
    table = Table(title="cross-play: the row's score against the column")
    table.add_column("")
    for i, name in enumerate(names, 1):
        table.add_column(f"{i} {name}"[:18], justify="right")
    for i, row in enumerate(names, 1):
        cells = [scores.get((row, column)) for column in names]
        table.add_row(f"{i} {row}", *("·" if c is None else f"[{_colour(c.score.mean)}]{c.score.mean:.2f}[/]" for c in cells))
    return table


def _colour(score: float) -> str:
    return "green" if score > 0.6 else "red" if score < 0.4 else "yellow"


LEAGUE = Command(
    "league", "players of a game against each other: ratings, cross-play, equilibrium",
    "agentgym league --env arena/board --option games=tictactoe --policy random --policy greedy --policy perfect", LeagueConfig, run,
)  # fmt: skip
