"""``play`` one episode and ``eval`` many."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import anyio
import msgspec
from msgspec import Meta, Struct
from rich.console import Group
from rich.markup import escape
from rich.table import Table

from agentgym.budget import Bounds, Prices
from agentgym.cli.command import Answer, Command
from agentgym.cli.screen import Screen
from agentgym.core import Policy
from agentgym.episode import Episode
from agentgym.errors import MissingExtra, UnknownName, UsageError
from agentgym.evaluation.bundle import pack, unseal
from agentgym.evaluation.run import Plan, Result, evaluate, provenance, settler_of, stores, write_reward
from agentgym.evaluation.transcript import transcript
from agentgym.policies import resolve
from agentgym.registry import spec
from agentgym.rollout import Elsewhere, Job, Rollout
from agentgym.sandbox.owner import VARIABLE

if TYPE_CHECKING:
    from agentgym.evaluation.verifiers import VerifierResult


class PlayConfig(Struct, forbid_unknown_fields=True, kw_only=True):
    """One episode, shown as it was."""

    env: Annotated[str, Meta(description="environment id")]
    policy: Annotated[str, Meta(description="human, oracle, noop, random, replay:DIR, hf:PATH, openai:MODEL@URL")] = "human"
    task: Annotated[str, Meta(description="task id; default the first of the split")] | None = None
    split: Annotated[str, Meta(description="split; default the first")] | None = None
    reward: Annotated[str, Meta(description="reward spec")] = "outcome"
    option: Annotated[dict[str, Any], Meta(description="environment options as key=value, repeatable")] = {}
    sandbox: Annotated[str, Meta(description="kind of sandbox: bwrap, docker, runsc")] | None = None
    seed: Annotated[int, Meta(description="seed", ge=0)] = 0
    out: Annotated[str, Meta(description="also keep the episode in this run folder")] | None = None


class EvalConfig(Struct, forbid_unknown_fields=True, kw_only=True, rename={"within": "in"}):
    """Many episodes of one policy."""

    env: Annotated[str, Meta(description="environment id, or several with commas between")] = ""
    policy: Annotated[str, Meta(description="oracle, noop, random, replay:DIR, human, hf:PATH, openai:MODEL@URL")] = "oracle"
    verifier: Annotated[str, Meta(description="evaluate this verifier instead of a policy: NAME[:ARGUMENT], or a reward spec of several")] | None = None
    on: Annotated[str, Meta(description="the run or probe set that --verifier is evaluated on")] | None = None
    split: Annotated[str, Meta(description="split; default test where there is one")] | None = None
    reward: Annotated[str, Meta(description="reward spec")] = "outcome"
    tasks: Annotated[int, Meta(description="distinct tasks; default 100", ge=1)] | None = None
    episodes: Annotated[int, Meta(description="episodes in all; default one per task", ge=1)] | None = None
    option: Annotated[dict[str, Any], Meta(description="environment options as key=value, repeatable")] = {}
    sandbox: Annotated[str, Meta(description="kind of sandbox: bwrap, docker, runsc")] | None = None
    within: Annotated[Literal["docker"], Meta(description="run the whole evaluation in the image that holds the environment")] | None = None
    seed: Annotated[int, Meta(description="seed", ge=0)] = 0
    concurrency: Annotated[int, Meta(description="episodes at once", ge=1)] = 64
    workers: Annotated[str, Meta(description="play in so many processes, or on Ray's cluster: N, ray, ray:N; the policy is made in each")] | None = None
    retries: Annotated[int, Meta(description="fresh environments after a fault", ge=0)] = 2
    temperature: Annotated[float, Meta(description="sampling temperature; 0 is greedy", ge=0)] = 0.0
    max_tokens: Annotated[int, Meta(description="longest action in tokens", ge=1)] | None = None
    max_turns: Annotated[int, Meta(description="most turns of an episode", ge=1)] | None = None
    episode_tokens: Annotated[int, Meta(description="most tokens generated in an episode", ge=1)] | None = None
    episode_seconds: Annotated[float, Meta(description="longest working time of an episode", gt=0)] | None = None
    episode_cost: Annotated[float, Meta(description="most an episode may cost, in the unit of the prices", gt=0)] | None = None
    run_turns: Annotated[int, Meta(description="most turns of the whole run; no episode is begun after", ge=1)] | None = None
    run_tokens: Annotated[int, Meta(description="most tokens of the whole run; no episode is begun after", ge=1)] | None = None
    run_seconds: Annotated[float, Meta(description="longest working time of all episodes together", gt=0)] | None = None
    run_cost: Annotated[float, Meta(description="most the whole run may cost", gt=0)] | None = None
    price_prompt: Annotated[float, Meta(description="price of a million tokens read", ge=0)] = 0.0
    price_completion: Annotated[float, Meta(description="price of a million tokens written", ge=0)] = 0.0
    grade: Annotated[Literal["inline", "deferred"], Meta(description="grade at the end of an episode, or as a stage of its own beside stepping")] = "inline"
    suite: Annotated[str, Meta(description="TOML file of several runs: [[run]] tables of these same settings")] | None = None
    pack: Annotated[str, Meta(description="also pack the run folder into this one file (.zip)")] | None = None
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
    options = with_sandbox(config.env, config.option, config.sandbox)
    plan = Plan(env=config.env, split=config.split or next(iter(spec(config.env).splits)), reward=config.reward, options=options)
    env = plan.environment()
    task = env.taskset.get(config.task).id if config.task else env.taskset.ids()[0]
    policy = resolve("live" if config.policy == "human" and env.screen is not None else config.policy)

    async def one() -> Episode:
        with stores(Path(config.out) if config.out else None) as keep:
            if config.out:
                unseal(Path(config.out))
                write_reward(env, Path(config.out))
            rollout = Rollout(make=plan.environment, policy=policy, late=settler_of(env), keep=keep, provenance=provenance())
            return (await rollout.run([Job(task, seed=config.seed)]))[0]

    episode = anyio.run(one)
    return Answer(episode, transcript(episode), 0 if episode.status == "valid" else 3)


def with_sandbox(env: str, options: Mapping[str, Any], kind: str | None) -> dict[str, Any]:
    """Options with the kind of sandbox among them; behind a broker it is ``docker``, so that the record says so.

    Raises:
        UsageError: the environment runs in none.
        UnknownName: not in one of that kind.
    """
    kinds = spec(env).capabilities.sandboxes
    if kind is None and VARIABLE in os.environ and "docker" in kinds:
        kind = "docker"
    if kind is None:
        return dict(options)
    if not kinds:
        raise UsageError(f"{env} runs in no sandbox; leave --sandbox out")
    if kind not in kinds:
        raise UnknownName(f"sandbox of {env}", kind, kinds)
    return {**options, "sandbox": kind}


def plan_of(config: EvalConfig) -> Plan:
    """What a command line, or a table of a suite, asks for."""
    options = with_sandbox(config.env, config.option, config.sandbox)
    if config.max_turns is not None:
        options["limits"] = {**options.get("limits", {}), "max_turns": config.max_turns}
    return Plan(
        env=config.env, split=_split(config.env, config.split), reward=config.reward, options=options, tasks=config.tasks, episodes=config.episodes,
        seed=config.seed, concurrency=config.concurrency, retries=config.retries, max_tokens=config.max_tokens, grade=config.grade,
        episode=Bounds(config.episode_tokens, config.episode_seconds, config.episode_cost),
        run=Bounds(config.run_tokens, config.run_seconds, config.run_cost, config.run_turns), prices=Prices(config.price_prompt, config.price_completion),
    )  # fmt: skip


def several(config: EvalConfig) -> list[EvalConfig]:
    """The runs that a list of environments, or a suite file, asks for; each has a folder of its own under ``out``."""
    if config.suite is not None:
        return [_of_suite(config, number, table) for number, table in enumerate(_suite(config.suite))]
    envs = [e for e in config.env.split(",") if e]
    if len(envs) == 1:
        return [config]
    return [msgspec.structs.replace(config, env=e, out=_below(config.out, e.replace("/", "-")), pack=None) for e in envs]


def _below(out: str | None, name: str) -> str | None:
    return None if out is None else str(Path(out) / name)


def _suite(path: str) -> list[dict[str, Any]]:
    try:
        tables: list[dict[str, Any]] = tomllib.loads(Path(path).read_text()).get("run", [])
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"cannot read the suite {path}: {error}") from None
    if not tables:
        raise UsageError(f"{path} has no [[run]] table")
    return tables


def _of_suite(config: EvalConfig, number: int, table: dict[str, Any]) -> EvalConfig:
    """A table of a suite over what the command line says for all."""
    for key in table:
        if key not in EvalConfig.__struct_fields__ or key in ("suite", "out", "pack"):
            raise UnknownName(f"key of run {number} of {config.suite}", key, EvalConfig.__struct_fields__)
    given = {**msgspec.structs.asdict(config), **table, "suite": None, "pack": None}
    given["in"] = given.pop("within")
    given["out"] = _below(config.out, f"{number:02d}-{str(given['env']).replace('/', '-')}")
    try:
        return msgspec.convert(given, EvalConfig, strict=False)
    except msgspec.ValidationError as error:
        raise UsageError(f"run {number} of {config.suite}: {error}") from None


def evaluation(config: EvalConfig, screen: Screen) -> Answer:
    if config.verifier is not None:
        return _verifier(config)
    if config.on is not None:
        raise UsageError("--on is the set for a verifier: add --verifier NAME")
    if not config.env and not config.suite:
        raise UsageError("agentgym eval needs ENV (or --suite FILE); e.g. agentgym eval --env tools/desk --policy oracle --tasks 50 --out runs/oracle")
    if config.pack and not config.out:
        raise UsageError("--pack needs --out: a run folder to pack")
    runs = several(config)
    if len(runs) == 1:
        answer = _one(runs[0], screen)
        if config.pack:
            pack(Path(str(runs[0].out)), Path(config.pack))
        return answer
    answers = [_one(run, screen) for run in runs]
    return Answer({"runs": [a.data for a in answers]}, Group(*(a.text for a in answers)), max(a.code for a in answers))


def _verifier(config: EvalConfig) -> Answer:
    from agentgym.evaluation.verifiers import evaluate_verifier

    if config.on is None:
        raise UsageError("--verifier needs --on RUN: a run's folder, or what agentgym export RUN --format probes wrote")
    result = evaluate_verifier(str(config.verifier), Path(config.on), Path(config.out) if config.out else None, config.episodes)
    return Answer(result, _of_verifier(result), 3 if result.valid == 0 else 0)


def _of_verifier(result: VerifierResult) -> Group:
    """What people read of a verifier: agreement with the rules, then what moved it that should not have."""
    first = Table(title=escape(f"{result.verifier} on {result.on}") + f": {result.valid} valid, {result.invalid} invalid", title_justify="left", box=None)
    for title in ("", "mean", "low", "high"):
        first.add_column(title, justify="right" if title else "left")
    named = {"accuracy": result.accuracy, "pairs": result.pairs, "one against many": result.one_vs_many}
    for name, interval in {**named, **{f"best of {n}": i for n, i in result.best_of.items()}}.items():
        if interval is not None:
            first.add_row(name, *(f"{x:.3f}" for x in (interval.mean, interval.low, interval.high)))
    alone = {"kappa": result.kappa, "calibration error": result.calibration, "Brier": result.brier, "least turn is the last": result.last_lowest}
    for name, x in {**alone, **{f"first error, {k}": v for k, v in result.first_error.items()}, **{f"bias to {k}": v for k, v in result.bias.items()}}.items():
        if x is not None:
            first.add_row(name, f"{x:.3f}", "", "")
    second = Table(title="probes", title_justify="left", box=None)
    for title in ("", "episodes", "accuracy", "turned round", "moved by"):
        second.add_column(title, justify="right" if title else "left")
    for name, row in result.probes.items():
        told = [f"{row[k]:.3f}" if k in row else "" for k in ("accuracy", "flipped", "moved")]
        second.add_row(name, f"{row['episodes']:.0f}", *told)
    said = ", ".join(f"{n} {k}" for k, n in sorted(result.calls.items()))
    second.caption, second.caption_justify = f"{result.wall_s:.1f} s" + (f"; {said}" if said else ""), "left"
    return Group(first, second)


def _one(config: EvalConfig, screen: Screen) -> Answer:
    if config.within is not None:
        from agentgym.cli.indoors import indoors

        return indoors(config, screen)
    plan = plan_of(config)
    wins = [0, 0]

    def on_episode(episode: Episode, done: int, total: int) -> None:
        wins[0] += episode.success
        wins[1] += 1
        screen.progress("episodes", done, total, f"success {wins[0] / wins[1]:.3f}")

    with _elsewhere(config, plan) as elsewhere:
        result = anyio.run(evaluate, plan, _policy(config), Path(config.out) if config.out else None, on_episode, elsewhere)
    return Answer(result, _table(result), 3 if result.valid == 0 else 0)


@contextmanager
def _elsewhere(config: EvalConfig, plan: Plan) -> Iterator[Elsewhere | None]:
    """Where episodes are played, if not in this process."""
    if config.workers is None:
        yield None
        return
    try:
        from agentgym.serving import protocol
        from agentgym.serving.fleet import Fleet, servers_of
    except ImportError as error:
        raise MissingExtra(str(error.name), "pip install 'agentgym-core[serve]'") from None
    sampled = {} if config.max_tokens is None else {"max_tokens": config.max_tokens}
    env = plan.environment()
    reward = str(env.reward) if plan.reward.endswith(".toml") else plan.reward  # files are here
    opens = protocol.Open("", plan.env, plan.split, reward, plan.options, version=protocol.VERSION)
    fleet = Fleet(servers_of(config.workers, [plan.env]), opens, config.policy, {"temperature": config.temperature, **sampled}, env.taskset.get)
    try:
        yield fleet
    finally:
        fleet.close()


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
