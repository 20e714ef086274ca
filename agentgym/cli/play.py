"""``play`` one episode and ``eval`` many."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import anyio
from msgspec import Meta, Struct
from rich.table import Table

from agentgym.cli.command import Answer, Command
from agentgym.cli.screen import Screen
from agentgym.core import Policy
from agentgym.episode import Episode
from agentgym.errors import UnknownName
from agentgym.evaluation.run import Plan, Result, evaluate, provenance, settler_of, stores, write_reward
from agentgym.policies import resolve
from agentgym.registry import spec
from agentgym.rollout import Job, Rollout


class PlayConfig(Struct, forbid_unknown_fields=True, kw_only=True):
    """One episode, shown as it was."""

    env: Annotated[str, Meta(description="environment id")]
    policy: Annotated[str, Meta(description="human, oracle, noop, random, replay:DIR, hf:PATH, openai:MODEL@URL")] = "human"
    task: Annotated[str, Meta(description="task id; default the first of the split")] | None = None
    split: Annotated[str, Meta(description="split; default the first")] | None = None
    reward: Annotated[str, Meta(description="reward spec")] = "outcome"
    option: Annotated[dict[str, Any], Meta(description="environment options as key=value, repeatable")] = {}
    seed: Annotated[int, Meta(description="seed", ge=0)] = 0
    out: Annotated[str, Meta(description="also keep the episode in this run folder")] | None = None


class EvalConfig(Struct, forbid_unknown_fields=True, kw_only=True):
    """Many episodes of one policy."""

    env: Annotated[str, Meta(description="environment id")]
    policy: Annotated[str, Meta(description="oracle, noop, random, replay:DIR, human, hf:PATH, openai:MODEL@URL")] = "oracle"
    split: Annotated[str, Meta(description="split; default test where there is one")] | None = None
    reward: Annotated[str, Meta(description="reward spec")] = "outcome"
    tasks: Annotated[int, Meta(description="distinct tasks; default 100", ge=1)] | None = None
    episodes: Annotated[int, Meta(description="episodes in all; default one per task", ge=1)] | None = None
    option: Annotated[dict[str, Any], Meta(description="environment options as key=value, repeatable")] = {}
    seed: Annotated[int, Meta(description="seed", ge=0)] = 0
    concurrency: Annotated[int, Meta(description="episodes at once", ge=1)] = 64
    retries: Annotated[int, Meta(description="fresh environments after a fault", ge=0)] = 2
    temperature: Annotated[float, Meta(description="sampling temperature; 0 is greedy", ge=0)] = 0.0
    max_tokens: Annotated[int, Meta(description="longest action in tokens", ge=1)] | None = None
    episode_tokens: Annotated[int, Meta(description="most tokens generated in an episode", ge=1)] | None = None
    out: Annotated[str, Meta(description="run folder; one that is there is resumed by task and attempt")] | None = None


def _split(env: str, split: str | None) -> str:
    splits = spec(env).splits
    if split is None:
        return "test" if "test" in splits else next(iter(splits))
    if split not in splits:
        raise UnknownName(f"split of {env}", split, splits)
    return split


def _policy(config: EvalConfig) -> Policy:
    sampled = {} if config.max_tokens is None else {"max_tokens": config.max_tokens}
    return resolve(config.policy, temperature=config.temperature, **sampled)


def play(config: PlayConfig, screen: Screen) -> Answer:
    plan = Plan(env=config.env, split=config.split or next(iter(spec(config.env).splits)), reward=config.reward, options=config.option)
    env = plan.environment()
    task = env.taskset.get(config.task).id if config.task else env.taskset.ids()[0]
    policy = resolve(config.policy)

    async def one() -> Episode:
        with stores(Path(config.out) if config.out else None) as keep:
            if config.out:
                write_reward(env, Path(config.out))
            rollout = Rollout(make=plan.environment, policy=policy, late=settler_of(env), keep=keep, provenance=provenance())
            return (await rollout.run([Job(task, seed=config.seed)]))[0]

    episode = anyio.run(one)
    return Answer(episode, transcript(episode), 0 if episode.status == "valid" else 3)


def transcript(episode: Episode) -> str:
    """An episode as text that people read."""
    lines = [f"task {episode.task}"]
    for number, turn in enumerate(episode.turns):
        lines += [f"\n{m['role']}: {m['content']}" for m in turn.observation]
        lines.append(f"\n[{number}] {turn.action}" + (f"   ({turn.problem})" if turn.problem else ""))
    lines += [f"\n{m['role']}: {m['content']}" for m in episode.closing]
    verdicts = ", ".join(f"{n} {v.status}{'' if v.value is None else f' {v.value:g}'}" for n, v in episode.verdicts.items())
    lines.append(f"\nended: {episode.stop_reason}; verdict: {verdicts or episode.fault}; reward {episode.total:g}")
    return "\n".join(lines)


def evaluation(config: EvalConfig, screen: Screen) -> Answer:
    plan = Plan(
        env=config.env, split=_split(config.env, config.split), reward=config.reward, options=config.option, tasks=config.tasks, episodes=config.episodes,
        seed=config.seed, concurrency=config.concurrency, retries=config.retries, max_tokens=config.max_tokens, episode_tokens=config.episode_tokens,
    )  # fmt: skip
    wins = [0, 0]

    def on_episode(episode: Episode, done: int, total: int) -> None:
        wins[0] += episode.success
        wins[1] += 1
        screen.progress("episodes", done, total, f"success {wins[0] / wins[1]:.3f}")

    result = anyio.run(evaluate, plan, _policy(config), Path(config.out) if config.out else None, on_episode)
    return Answer(result, _table(result), 3 if result.valid == 0 else 0)


def _table(result: Result) -> Table:
    table = Table(title=f"{result.policy} on {result.env} {result.split}: {result.valid} valid, {result.invalid} invalid", title_justify="left", box=None)
    for title in ("", "mean", "low", "high"):
        table.add_column(title, justify="right" if title else "left")
    for name, interval in {"success": result.success, "reward": result.reward, **result.metrics}.items():
        table.add_row(name, *(f"{x:.3f}" for x in (interval.mean, interval.low, interval.high)))
    table.caption = f"95% intervals ({result.success.method}); {result.turns_mean:.1f} turns; {result.wall_s:.1f} s" + (
        f"; in {result.out}" if result.out else ""
    )
    table.caption += "".join(f"\n{note}" for note in result.notes)
    table.caption_justify = "left"
    return table


PLAY = Command("play", "Play one episode, yourself or by a policy.", "agentgym play tools/desk --policy oracle", PlayConfig, play, ("env",))
EVAL = Command(
    "eval",
    "Evaluate a policy, with intervals; resumable.",
    "agentgym eval --env tools/desk --policy oracle --tasks 50 --out runs/oracle",
    EvalConfig,
    evaluation,
    ("env",),
)
