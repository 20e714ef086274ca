"""What a training run owns, how it begins, how it is measured, and what it leaves in its folder."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

import msgspec
import torch
from anyio.from_thread import start_blocking_portal
from msgspec import Struct
from transformers import PreTrainedModel

from agentgym.core import AgentEnv, Policy
from agentgym.episode import Episode, EpisodeStore, read_episodes
from agentgym.errors import UsageError
from agentgym.evaluation.overlap import of_run, of_tasks, overlap
from agentgym.evaluation.run import Plan, Result, evaluate, write_reward
from agentgym.evaluation.stats import Interval
from agentgym.evaluation.verifiers import rank_correlation
from agentgym.game import GameEnv
from agentgym.quarantine import Quarantine
from agentgym.registry import make, resolve
from agentgym.rewards.settler import Settler
from agentgym.rollout import Job, Rollout
from agentgym_trainers import checkpoint
from agentgym_trainers.algorithm import Algorithm
from agentgym_trainers.config import Common, TrainConfig
from agentgym_trainers.engine import Engine, TransformersEngine
from agentgym_trainers.learner import Learner
from agentgym_trainers.model import adapted, keep_memory, load_model, tiny_model, tiny_tokenizer
from agentgym_trainers.parallel import from_first, rank, shard, world
from agentgym_trainers.renderer import WINDOW, ChatRenderer
from agentgym_trainers.sampler import Shuffle
from agentgym_trainers.seats import trainable
from agentgym_trainers.supervised import oracle_episode, text_of_episode, warm_start
from agentgym_trainers.tracker import Tracker
from agentgym_trainers.update import make_optimizer

Log = Callable[[str, dict[str, Any]], None]
"""Gets a phase (``warm``, ``train``, ``eval``, ``note``) and its numbers."""


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
    engine: Engine
    env: AgentEnv
    tracker: Tracker
    step: int = 0
    tokens_trained: int = 0
    notes: dict[str, Any] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)
    before: Measured | None = None
    late: Settler | None = None
    quarantine: Quarantine = field(default_factory=Quarantine)
    learner: Learner | None = None
    curriculum: Shuffle | None = None
    distant: Callable[..., AgentEnv] | None = None

    def environment(self, **options: Any) -> AgentEnv:
        """A new environment of the run's kind and reward to play in: here, or where its workers are."""
        made = self.distant or partial(make, self.config.env)
        return made(**{"split": self.config.split, "reward": self.env.reward_name, **self.config.option, **options})

    def metrics(self, row: dict[str, Any]) -> None:
        """Append one line to ``metrics.jsonl``, and tell the tracker."""
        if rank():
            return
        with (self.out / "metrics.jsonl").open("ab") as file:
            file.write(msgspec.json.encode(row) + b"\n")
        self.tracker.log(row)

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps beside weights and optimiser."""
        return {
            "trained": self.tokens_trained, "generated": self.engine.generated, "notes": self.notes, "said": self.said,
            "before": msgspec.to_builtins(self.before), "curriculum": self.curriculum.state() if self.curriculum else {},
        }  # fmt: skip

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from ``state``."""
        self.tokens_trained, self.engine.generated, self.notes, self.said = (state[k] for k in ("trained", "generated", "notes", "said"))
        self.before = msgspec.convert(state["before"], Measured)
        if self.curriculum is not None:
            self.curriculum.load_state(state["curriculum"])

    def save(self) -> Path:
        """Write a checkpoint of where the run stands."""
        late, learner = self.late.state() if self.late else b"", self.learner.state() if self.learner else {}
        return checkpoint.save(self.out, self.step, self.model, self.renderer.tokenizer, self.optimizer, self.state(), late, learner)

    def restore(self, folder: Path) -> None:
        """Continue from a checkpoint, whose weights are loaded already. Metrics of steps that will be taken again are dropped."""
        state, learner = checkpoint.restore(folder, self.model, self.optimizer)
        self.step = int(folder.name.removeprefix("step-"))
        self.load_state(state)
        if self.late is not None:
            self.late.load_state((folder / checkpoint.LATE).read_bytes())
        if self.learner is not None:
            self.learner.load_state(learner)
        if rank():
            return
        path = self.out / "metrics.jsonl"
        rows = [msgspec.json.decode(line) for line in path.read_bytes().split(b"\n") if line.endswith(b"}")]
        path.write_bytes(b"".join(msgspec.json.encode(r) + b"\n" for r in rows if r["phase"] == "warm" or r["step"] <= self.step))


def open_run(config: Common, algorithm: Algorithm | None = None, start: Path | None = None) -> Run:
    """Make the folder, the model (or load it from the checkpoint ``start``) and the engine.

    Raises:
        UsageError: the folder holds another run, or no model can be loaded.
    """
    if not config.env:
        raise UsageError("give an environment: --env tools/desk-v0")
    if config.threads:
        torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    keep_memory()
    out = Path(config.out)
    if start is None and not rank() and (out / "config.toml").exists():
        raise UsageError(f"{out} holds a run already; continue it with --resume {out}, or choose another --out")
    env = make(config.env, split=config.split, reward=reward_of(config, algorithm), **config.option)
    if start is not None and not config.lora:
        model, tokenizer = load_model(str(start))
    elif config.model == "tiny":
        model, tokenizer = _make_tiny(config)
    else:
        model, tokenizer = load_model(config.model)
    if config.lora:
        model = adapted(model, config.lora, start)
    if config.window:
        tokenizer.init_kwargs[WINDOW] = config.window
    renderer = ChatRenderer(tokenizer, cast(Literal["refuse", "segment"], config.on_rewrite))
    out.mkdir(parents=True, exist_ok=True)
    if start is None and not rank():
        (out / "config.toml").write_bytes(msgspec.toml.encode({k: v for k, v in msgspec.to_builtins(config).items() if v is not None}))
        write_reward(env, out)
    lr = config.lr if isinstance(config, TrainConfig) else config.warm_lr
    tracker = Tracker("" if rank() else config.track, out)
    engine, notes = make_engine(config, model, renderer), checkpoint.notes_of(config.model)
    shard(model)
    return Run(config, out, model, renderer, make_optimizer(model, lr), engine, env, tracker, notes=notes)


def reward_of(config: Common, algorithm: Algorithm | None) -> str:
    """The reward spec: the one given, else the algorithm's, else ``outcome``."""
    given = config.reward if isinstance(config, TrainConfig) else ""
    return given or (algorithm.reward if algorithm else "") or "outcome"


def make_engine(config: Common, model: PreTrainedModel, renderer: ChatRenderer) -> Engine:
    """What samples: over the model itself, or over a copy of it where sampling goes on beside learning, or vLLM in a process of its own."""
    if not isinstance(config, TrainConfig):
        return TransformersEngine(model, renderer, name=f"hf:{config.model}", max_tokens=config.max_tokens, context=config.context)
    if config.engine == "vllm":
        from agentgym_trainers.vllm import VllmEngine

        return VllmEngine.start(model, renderer, config.vllm_python, temperature=config.temperature, max_tokens=config.max_tokens, context=config.context)
    served = deepcopy(model) if config.staleness or world() > 1 else model
    return TransformersEngine(served, renderer, name=f"hf:{config.model}", temperature=config.temperature, max_tokens=config.max_tokens, context=config.context)


def _make_tiny(config: Common) -> tuple[PreTrainedModel, Any]:
    """A tiny model whose tokenizer is trained on oracle episodes of the whole train split (at most ``vocab_tasks`` of them)."""
    env = make(config.env, split="train", **{k: v for k, v in config.option.items() if k not in ("templates", "levels")})
    shell = tiny_tokenizer([])

    def render(messages: Any) -> str:
        return str(ChatRenderer._render(renderer, messages))

    renderer = ChatRenderer(shell)
    played = (oracle_episode(env, task) for task in list(env.taskset.ids())[: config.vocab_tasks])
    texts = [text_of_episode(episode, render) for episode in played if episode is not None]
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
    run.notes = {"updates": steps, "episodes_per_update": config.warm_batch, "distinct_tasks": len(tasks), "split": config.split, "by": config.warm_by}
    run.notes["env"] = run.env.id

    def on_step(step: int, metrics: dict[str, float]) -> bool:
        log("warm", {"step": step + 1, "of": steps, **metrics})
        run.metrics({"phase": "warm", "step": step + 1, **metrics})
        run.notes["updates"] = step + 1
        return config.warm_until is not None and (step + 1) % 5 == 0 and _greedy_success(run, ids[-60:]) >= config.warm_until

    seats = trainable(config) if isinstance(config, TrainConfig) else ()
    envs = [run.env.at(seat) for seat in seats] if isinstance(run.env, GameEnv) and seats else [run.env]
    warm_start(
        run.model,
        run.optimizer,
        run.renderer,
        envs,
        tasks,
        steps=steps,
        batch_size=config.warm_batch,
        lr=config.warm_lr,
        lr_final=config.warm_lr_final,
        seed=config.seed,
        by=config.warm_by,
        on_step=on_step,
    )


def _looking(run: Run, temperature: float) -> TransformersEngine:
    """An engine over the weights as they are now, for evaluation. In several processes every one must ask."""
    served = run.model
    if world() > 1 and isinstance(run.engine, TransformersEngine):
        run.engine.sync(run.model, run.engine.version)
        served = run.engine.model
    served.eval()
    return TransformersEngine(served, run.renderer, temperature=temperature, max_tokens=run.config.max_tokens, context=run.config.context)


def _greedy_success(run: Run, tasks: list[str]) -> float:
    """The share of these tasks that succeed by greedy decoding."""
    policy: Policy = _looking(run, 0.0)
    with start_blocking_portal() as portal:
        episodes = portal.call(Rollout(make=run.environment, policy=policy, concurrency=64).run, [Job(t, seed=i) for i, t in enumerate(tasks)])
    return sum(e.success for e in episodes) / len(episodes)


async def measure(run: Run, log: Log, **beside: float) -> Measured:
    """Greedy success on the held-out split; with ``sampled_eval`` also at temperature 1. ``beside`` are numbers of the same moment."""
    config = run.config
    plan = Plan(env=config.env, split=config.eval_split, options=config.option, tasks=config.eval_tasks, max_tokens=config.max_tokens, concurrency=128)

    async def at(temperature: float) -> Result:
        policy = _looking(run, temperature)
        return from_first(None if rank() else await evaluate(plan, policy, make=partial(run.environment, split=plan.split, reward=plan.reward)))

    greedy = await at(0.0)
    sampled = (await at(1.0)).success if isinstance(config, TrainConfig) and config.sampled_eval else None
    found = greedy.success
    log("eval", {"step": run.step, "success": found.mean, "low": found.low, "high": found.high})
    row = {"phase": "eval", "step": run.step, "success": found.mean, "low": found.low, "high": found.high, "sampled": sampled and sampled.mean, **beside}
    run.metrics(row)
    return Measured(found, greedy.episodes, greedy.valid, sampled)


def result_of(run: Run, algorithm: str, reward: str, after: Measured, seconds: float) -> TrainResult:
    """Sum a run up, in its folder too."""
    assert run.before is not None
    first, last = (str(checkpoint.folder_of(run.out, step)) for step in (0, run.step))
    seen = [] if rank() else [*_contamination(run), *_mismatch(run.out)]
    notes = list(dict.fromkeys([*run.said, *run.quarantine.notes(), *(run.late.notes() if run.late else ()), *seen]))
    numbers = (run.engine.generated, run.tokens_trained, round(seconds, 2), str(run.out), run.notes, notes)
    result = TrainResult(resolve(run.config.env), algorithm, reward, run.step, run.before, after, first, last, *numbers)
    if rank():
        return result
    (run.out / "result.json").write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=1))
    return result


def _contamination(run: Run) -> list[str]:
    """Whether tasks that are evaluated were trained on, or stand beside some that were."""
    config = run.config
    held_out = make(config.env, split=config.eval_split, **config.option).taskset
    note = overlap(of_tasks(held_out, held_out.ids()[: config.eval_tasks]), of_run(run.out)).says("evaluated", "those trained on")
    saw = run.notes.get("env", run.env.id) == run.env.id and run.notes.get("split") == config.eval_split
    warm = [f"the warm start saw tasks of {config.eval_split}, the split that is evaluated"] if saw else []
    return [*warm, *([note] if note else [])]


def _mismatch(out: Path) -> list[str]:
    """How far what was trained on agrees with what is wanted, over the evaluations of a run.

    Source: "The Alignment Ceiling: Objective Mismatch in Reinforcement Learning from Human Feedback".
    """
    path = out / "metrics.jsonl"
    rows = [msgspec.json.decode(line) for line in path.read_bytes().splitlines()] if path.exists() else []
    pairs = [(float(r["proxy"]), float(r["success"])) for r in rows if r["phase"] == "eval" and r.get("proxy") is not None]
    found = rank_correlation(pairs)
    if found is None:
        return []
    agreed = [float(r["reward_model_agreement"]) for r in rows if "reward_model_agreement" in r]
    told = f"; the reward model agreed with the rule on {sum(agreed) / len(agreed):.2f} of the episodes" if agreed else ""
    return [f"training reward and held-out success agree by {found:+.2f} (rank correlation of {len(pairs)} evaluations){told}"]


class Once(EpisodeStore):
    """A store that passes over episodes it holds already: steps taken again after a resume give the same ones."""

    def __init__(self, path: Path) -> None:
        held = {e.id for e in read_episodes(path)} if path.exists() else set[str]()
        super().__init__(path)
        self.held = held

    async def append(self, *episodes: Episode) -> None:
        if new := [e for e in episodes if e.id not in self.held]:
            await super().append(*new)
