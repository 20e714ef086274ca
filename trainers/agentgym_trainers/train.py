"""Training runs: warm start, then groups of episodes → streams → updates; resumable bit for bit on one thread."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

import anyio
import msgspec
import torch
from anyio.from_thread import start_blocking_portal
from msgspec import Struct
from transformers import PreTrainedModel

from agentgym.core import AgentEnv, Reward
from agentgym.episode import Episode, EpisodeStore, read_episodes
from agentgym.errors import UsageError
from agentgym.evaluation.overlap import of_run, of_tasks, overlap
from agentgym.evaluation.run import Plan, Result, evaluate, provenance, settler_of, write_reward
from agentgym.evaluation.stats import Interval
from agentgym.quarantine import Quarantine
from agentgym.registry import load, make, resolve
from agentgym.rewards.settler import Settler
from agentgym.rewards.spec import Spec, lacking
from agentgym.rollout import Job, Keep, Rollout
from agentgym_trainers import checkpoint
from agentgym_trainers.config import Common, SftConfig, TrainConfig
from agentgym_trainers.engine import TransformersEngine
from agentgym_trainers.learner import make_optimizer, score, update
from agentgym_trainers.losses import Recipe, advantages
from agentgym_trainers.model import load_model, tiny_model, tiny_tokenizer
from agentgym_trainers.renderer import ChatRenderer
from agentgym_trainers.streams import make_batch, valid
from agentgym_trainers.supervised import oracle_episode, text_of_episode, warm_start

Log = Callable[[str, dict[str, Any]], None]
"""Gets a phase (``warm``, ``train``, ``eval``) and its numbers."""


class Measured(Struct, frozen=True):
    """One evaluation in a training result."""

    success: Interval
    episodes: int
    valid: int
    sampled: Interval | None = None


class TrainResult(Struct):
    """What ``train --json`` prints."""

    env: str
    algorithm: str
    reward: str
    steps: int
    before: Measured
    after: Measured
    checkpoint_before: str
    checkpoint_after: str
    tokens_generated: int
    tokens_trained: int
    wall_s: float
    out: str
    warm_start: dict[str, Any] = {}
    notes: list[str] = []


@dataclass
class Run:
    """Everything a run owns: its folder, model, renderer, engine and optimiser."""

    config: Common
    out: Path
    model: PreTrainedModel
    renderer: ChatRenderer
    optimizer: torch.optim.Optimizer
    engine: TransformersEngine
    env: AgentEnv
    step: int = 0
    tokens_trained: int = 0
    notes: dict[str, Any] = field(default_factory=dict)
    before: Measured | None = None
    late: Settler | None = None
    quarantine: Quarantine = field(default_factory=Quarantine)

    def metrics(self, row: dict[str, Any]) -> None:
        """Append one line to ``metrics.jsonl``."""
        with (self.out / "metrics.jsonl").open("ab") as file:
            file.write(msgspec.json.encode(row) + b"\n")


def open_run(config: Common, start: Path | None = None) -> Run:
    """Make the folder, the model (or load it from the checkpoint ``start``) and the engine.

    Raises:
        UsageError: the folder holds another run, or no model can be loaded.
    """
    if not config.env:
        raise UsageError("give an environment: --env tools/desk-v0")
    if config.threads:
        torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    out = Path(config.out)
    if start is None and (out / "config.toml").exists():
        raise UsageError(f"{out} holds a run already; continue it with --resume {out}, or choose another --out")
    reward = config.reward if isinstance(config, TrainConfig) else "outcome"
    env = make(config.env, split=config.split, reward=reward, **config.option)
    if start is not None:
        model, tokenizer = load_model(str(start))
    elif config.model == "tiny":
        model, tokenizer = _make_tiny(config)
    else:
        model, tokenizer = load_model(config.model)
    renderer = ChatRenderer(tokenizer, cast(Literal["refuse", "segment"], config.on_rewrite))
    out.mkdir(parents=True, exist_ok=True)
    if start is None:
        (out / "config.toml").write_bytes(msgspec.toml.encode({k: v for k, v in msgspec.to_builtins(config).items() if v is not None}))
        write_reward(env, out)
    temperature = config.temperature if isinstance(config, TrainConfig) else 1.0
    engine = TransformersEngine(model, renderer, name=f"hf:{config.model}", temperature=temperature, max_tokens=config.max_tokens, context=config.context)
    lr = config.lr if isinstance(config, TrainConfig) else config.warm_lr
    return Run(config, out, model, renderer, make_optimizer(model, lr), engine, env, notes=checkpoint.notes_of(config.model))


def _make_tiny(config: Common) -> tuple[PreTrainedModel, Any]:
    """A tiny model whose tokenizer is trained on oracle episodes of the whole train split (at most 1,500 of them)."""
    env = make(config.env, split="train", **{k: v for k, v in config.option.items() if k not in ("templates", "levels")})
    shell = tiny_tokenizer([])

    def render(messages: Any) -> str:
        return str(ChatRenderer._render(renderer, messages))

    renderer = ChatRenderer(shell)
    texts = [text_of_episode(oracle_episode(env, task), render) for task in list(env.taskset.ids())[:1500]]
    env.close()
    tokenizer = tiny_tokenizer(texts)
    return tiny_model(tokenizer, config.seed, context=config.context), tokenizer


def warm(run: Run, log: Log) -> None:
    """The supervised part, if any; what it saw is noted in the result."""
    config = run.config
    steps = config.warm_steps if config.warm_steps is not None else 250 if config.model == "tiny" else 0
    if not steps:
        return
    ids = list(run.env.taskset.ids())
    tasks = ids[: config.warm_tasks] if config.warm_tasks else ids
    run.notes = {"updates": steps, "episodes_per_update": config.warm_batch, "distinct_tasks": len(tasks), "split": config.split}

    def on_step(step: int, metrics: dict[str, float]) -> bool:
        log("warm", {"step": step + 1, "of": steps, **metrics})
        run.metrics({"phase": "warm", "step": step + 1, **metrics})
        run.notes["updates"] = step + 1
        return config.warm_until is not None and (step + 1) % 5 == 0 and _greedy_success(run, ids[-60:]) >= config.warm_until

    warm_start(
        run.model, run.optimizer, run.renderer, run.env, tasks, steps=steps, batch_size=config.warm_batch, lr=config.warm_lr, seed=config.seed, on_step=on_step
    )


def _greedy_success(run: Run, tasks: list[str]) -> float:
    """The share of these tasks that succeed by greedy decoding."""
    run.model.eval()
    engine = TransformersEngine(run.model, run.renderer, temperature=0.0, max_tokens=run.config.max_tokens, context=run.config.context)
    make_env = partial(make, run.config.env, split=run.config.split, **run.config.option)
    with start_blocking_portal() as portal:
        episodes = portal.call(Rollout(make=make_env, policy=engine, concurrency=64).run, [Job(t, seed=i) for i, t in enumerate(tasks)])
    return sum(e.success for e in episodes) / len(episodes)


async def measure(run: Run, log: Log) -> Measured:
    """Greedy success on the held-out split; with ``sampled_eval`` also at temperature 1."""
    config = run.config
    plan = Plan(env=config.env, split=config.eval_split, options=config.option, tasks=config.eval_tasks, max_tokens=config.max_tokens, concurrency=128)

    async def at(temperature: float) -> Result:
        run.model.eval()
        engine = TransformersEngine(run.model, run.renderer, temperature=temperature, max_tokens=config.max_tokens, context=config.context)
        return await evaluate(plan, engine)

    greedy = await at(0.0)
    sampled = (await at(1.0)).success if isinstance(config, TrainConfig) and config.sampled_eval else None
    measured = Measured(greedy.success, greedy.episodes, greedy.valid, sampled)
    log("eval", {"step": run.step, "success": greedy.success.mean, "low": greedy.success.low, "high": greedy.success.high})
    run.metrics(
        {
            "phase": "eval",
            "step": run.step,
            "success": greedy.success.mean,
            "low": greedy.success.low,
            "high": greedy.success.high,
            "sampled": sampled and sampled.mean,
        }
    )
    return measured


def task_of(ids: list[str], seed: int, number: int) -> str:
    """Task ``number`` of the endless seeded shuffle of ``ids``: the task cursor is a function of the step alone."""
    epoch, at = divmod(number, len(ids))
    return random.Random(f"{seed}/{epoch}").sample(ids, len(ids))[at]


async def collect(run: Run, config: TrainConfig, keep: Keep) -> list[Episode]:
    """The groups of one step, sampled from the current weights."""
    ids = list(run.env.taskset.ids())
    tasks = [task_of(ids, config.seed, run.step * config.groups + g) for g in range(config.groups)]
    jobs = [
        Job(task, run.step * config.group_size + i, (config.seed * 1_000_003 + run.step) * 4096 + g * config.group_size + i, f"{run.step}.{g}")
        for g, task in enumerate(tasks)
        for i in range(config.group_size)
    ]
    run.model.eval()
    run.engine.renew(str(run.step))
    return await Rollout(
        make=lambda: make(config.env, split=config.split, reward=config.reward, **config.option), policy=run.engine,
        concurrency=len(jobs), max_tokens=config.max_tokens, late=run.late, quarantine=run.quarantine, keep=keep, provenance=provenance(),
    ).run(jobs)  # fmt: skip


def rewards_of(reward: Reward, episodes: list[Episode]) -> torch.Tensor:
    """``[B]``: what each episode was paid; NaN where none may learn from it: it is invalid, has no tokens, or a verdict that its reward uses failed."""
    paid = (valid(e) and not (isinstance(reward, Spec) and lacking(reward, e)) for e in episodes)
    return torch.tensor([e.total if ok else float("nan") for e, ok in zip(episodes, paid, strict=True)], dtype=torch.float64)


def learn(run: Run, config: TrainConfig, recipe: Recipe, episodes: list[Episode], reference: PreTrainedModel | None) -> dict[str, float]:
    """Terms → rewards → advantages → streams → one update. Invalid episodes and groups of one carry nothing."""
    groups = {g: i for i, g in enumerate(dict.fromkeys(e.group for e in episodes))}
    reward_B = rewards_of(run.env.reward, episodes)
    group_B = torch.tensor([groups[e.group] for e in episodes])
    advantage_B = advantages(recipe.advantage, reward_B, group_B).tolist()
    used = [(e, a) for e, a in zip(episodes, advantage_B, strict=True) if abs(a) > 1e-9]
    row = {
        "reward": float(reward_B.nanmean()), "success": sum(e.success for e in episodes) / max(1, sum(e.status == "valid" for e in episodes)),
        "invalid": sum(e.status != "valid" for e in episodes) / len(episodes), "unpaid": float(reward_B.isnan().double().mean()),
        "turns": sum(len(e.turns) for e in episodes) / len(episodes), "trained": len(used) / len(episodes),
    }  # fmt: skip
    if not used:
        return row
    batch = make_batch([e for e, _ in used], [a for _, a in used], recipe.aggregation, constant=config.max_tokens)
    if reference is not None:
        batch = batch.with_scores("reference", score(reference, batch))
    run.tokens_trained += int(batch.mask_N.sum())
    for group in run.optimizer.param_groups:
        group["lr"] = config.lr * min(1.0, (run.step + 1) / config.lr_warmup) * (1.0 - (1.0 - config.lr_final) * run.step / config.steps)
    options = {"clip_low": config.clip_low, "clip_high": config.clip_high} if recipe.objective == "clipped" else {}
    parts = [batch.take(torch.nonzero(batch.episode_N % config.updates == k)[:, 0]) for k in range(config.updates)]
    done = [update(run.model, run.optimizer, p, recipe.objective, kl=config.kl, max_norm=config.max_norm, options=options) for p in parts if len(p)]
    return {**row, **{name: sum(d[name] for d in done) / len(done) for name in done[0]}}


def train(config: TrainConfig, log: Log) -> TrainResult:
    """A whole run: warm start, evaluation, updates, evaluation, report. ``config.resume`` continues one.

    Raises:
        UsageError, UnknownName: the configuration is wrong.
        CheckpointMismatch: the folder to resume is of another version or model.
    """
    return anyio.run(_train, config, log)


def resumed(folder: str) -> TrainConfig:
    """The configuration of the run in ``folder``."""
    path = Path(folder) / "config.toml"
    if not path.is_file():
        raise UsageError(f"{folder} is not a training run: it has no config.toml")
    return msgspec.structs.replace(msgspec.toml.decode(path.read_bytes(), type=TrainConfig), out=folder)


async def _train(config: TrainConfig, log: Log) -> TrainResult:
    began = time.perf_counter()
    recipe: Recipe = load("algorithms", config.algo)
    found = None
    if config.resume:
        config = resumed(config.resume)
        found = checkpoint.latest(Path(config.out))
        if found is None:
            raise UsageError(f"{config.out} has no checkpoint yet; delete it and start again")
    run = open_run(config, found[1] if found else None)
    run.late = settler_of(run.env)
    run.before = await _begin(run, found, log)
    reference = load_model(str(checkpoint.folder_of(run.out, 0)))[0].eval() if config.kl else None
    after = await _steps(run, config, recipe, reference, log) or await measure(run, log)
    return _result(run, config.algo, config.reward, after, began)


def _result(run: Run, algorithm: str, reward: str, after: Measured, began: float) -> TrainResult:
    """Sum a run up, in its folder too."""
    assert run.before is not None
    first, last = (str(checkpoint.folder_of(run.out, step)) for step in (0, run.step))
    seconds = round(time.perf_counter() - began, 2)
    numbers = (run.engine.generated, run.tokens_trained, seconds, str(run.out), run.notes, [*run.quarantine.notes(), *_contamination(run)])
    result = TrainResult(resolve(run.config.env), algorithm, reward, run.step, run.before, after, first, last, *numbers)
    (run.out / "result.json").write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=1))
    return result


def _contamination(run: Run) -> list[str]:
    """Whether tasks that are evaluated were trained on, or stand beside some that were."""
    config = run.config
    held_out = make(config.env, split=config.eval_split, **config.option).taskset
    note = overlap(of_tasks(held_out, held_out.ids()[: config.eval_tasks]), of_run(run.out)).says("evaluated", "those trained on")
    return [note] if note else []


async def _begin(run: Run, found: tuple[int, Path] | None, log: Log) -> Measured:
    """Warm up and measure, or take both from the checkpoint."""
    if found is not None:
        extra = checkpoint.restore(found[1], run.model, run.optimizer)
        run.step, run.tokens_trained, run.engine.generated, run.notes = found[0], extra["trained"], extra["generated"], extra["notes"]
        if run.late is not None:
            run.late.load_state((found[1] / checkpoint.LATE).read_bytes())
        _forget_after(run.out, run.step)
        return msgspec.convert(extra["before"], Measured)
    warm(run, log)
    run.before = await measure(run, log)
    _save(run)
    return run.before


def _save(run: Run) -> None:
    extra = {
        "trained": run.tokens_trained, "generated": run.engine.generated, "notes": run.notes,
        "before": msgspec.to_builtins(run.before),
    }  # fmt: skip
    checkpoint.save(run.out, run.step, run.model, run.renderer.tokenizer, run.optimizer, extra, run.late.state() if run.late else b"")


def _forget_after(out: Path, step: int) -> None:
    """Drop the metrics of steps that will be taken again."""
    path = out / "metrics.jsonl"
    rows = [msgspec.json.decode(line) for line in path.read_bytes().split(b"\n") if line.endswith(b"}")]
    kept = [r for r in rows if r["phase"] == "warm" or r["step"] <= step]
    path.write_bytes(b"".join(msgspec.json.encode(r) + b"\n" for r in kept))


class _Once(EpisodeStore):
    """A store that passes over episodes it holds already: steps taken again after a resume give the same ones."""

    def __init__(self, path: Path) -> None:
        held = {e.id for e in read_episodes(path)} if path.exists() else set[str]()
        super().__init__(path)
        self.held = held

    async def append(self, *episodes: Episode) -> None:
        if new := [e for e in episodes if e.id not in self.held]:
            await super().append(*new)


async def _steps(run: Run, config: TrainConfig, recipe: Recipe, reference: PreTrainedModel | None, log: Log) -> Measured | None:
    """The updates. Returns the evaluation after the last, if one was due."""
    measured = None
    with _Once(run.out / "episodes.jsonl") as store:
        while run.step < config.steps:
            started = time.perf_counter()
            episodes = await collect(run, config, Keep(store))
            sampled = time.perf_counter()
            row = learn(run, config, recipe, episodes, reference)
            run.step += 1
            if run.late is not None:
                row |= {f"dial:{k}": v for k, v in run.late.advance(run.step, episodes).items() if k != "step"}
            row |= {"sample_s": sampled - started, "learn_s": time.perf_counter() - sampled, "tokens": run.engine.generated}
            log("train", {"step": run.step, "of": config.steps, **row})
            run.metrics({"phase": "train", "step": run.step, **row})
            last = run.step == config.steps
            measured = await measure(run, log) if last or (config.eval_every and run.step % config.eval_every == 0) else None
            if last or run.step % config.save_every == 0:
                _save(run)
    return measured


def sft(config: SftConfig, log: Log) -> TrainResult:
    """The warm start alone, as a run of its own: evaluation, supervised updates, evaluation."""
    return anyio.run(_sft, config, log)


async def _sft(config: SftConfig, log: Log) -> TrainResult:
    began = time.perf_counter()
    run = open_run(config)
    run.before = await measure(run, log)
    _save(run)
    warm(run, log)
    run.step = int(run.notes.get("updates", 0))
    after = await measure(run, log)
    _save(run)
    return _result(run, "sft", "oracle", after, began)
