"""Training runs: warm start, then step after step episodes → streams → updates; resumable bit for bit on one thread."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import anyio
import msgspec
import torch

from agentgym.core import AgentEnv
from agentgym.episode import Episode, EpisodeStore
from agentgym.errors import MissingExtra, TrainingStopped, UsageError
from agentgym.evaluation.run import settler_of, unpaid, unpaid_notes
from agentgym.game import GameEnv
from agentgym.rollout import Keep
from agentgym_trainers import checkpoint
from agentgym_trainers.algorithm import Algorithm, resolve
from agentgym_trainers.collect import Collector, Stored, make_curriculum
from agentgym_trainers.config import SftConfig, TrainConfig
from agentgym_trainers.learner import Learner, Pace
from agentgym_trainers.model import load_model
from agentgym_trainers.parallel import begin, end, rank, summed, world
from agentgym_trainers.pipeline import Pipeline
from agentgym_trainers.run import Log, Measured, Once, Run, TrainResult, measure, open_run, result_of, reward_of, warm
from agentgym_trainers.seats import trainable
from agentgym_trainers.streams import make_batch, outside, valid
from agentgym_trainers.update import score


def train(config: TrainConfig, log: Log) -> TrainResult:
    """A whole run: warm start, evaluation, updates, evaluation, report. ``config.resume`` continues one.

    Raises:
        UsageError, UnknownName: the configuration is wrong.
        CheckpointMismatch: the folder to resume is of another version or model.
        TrainingStopped: updates are not finite any more, or memory is out.
        KeyboardInterrupt: it was interrupted; a checkpoint was written.
    """
    with interruptible() as stop:
        return anyio.run(_train, config, log, stop)


def resumed(folder: str) -> TrainConfig:
    """The configuration of the run in ``folder``."""
    path = Path(folder) / "config.toml"
    if not path.is_file():
        raise UsageError(f"{folder} is not a training run: it has no config.toml")
    return msgspec.structs.replace(msgspec.toml.decode(path.read_bytes(), type=TrainConfig), out=folder)


Source = Collector | Stored | Pipeline
"""Where the episodes of a step come from: sampled for it, stored, or sampled beside learning."""


class Stop:
    """Whether an interrupt has come, and what is to be left when it does. Before there is a ``loop``, nothing is worth keeping."""

    def __init__(self) -> None:
        self.asked = False
        self.scope: anyio.CancelScope | None = None
        self.loop: asyncio.AbstractEventLoop | None = None

    def ask(self) -> None:
        """Leave what is being waited for at the next chance; one of several processes must not leave alone."""
        self.asked = True
        if self.loop is None:
            raise KeyboardInterrupt
        if self.scope is not None and world() == 1:
            self.loop.call_soon_threadsafe(self.scope.cancel)

    def agreed(self) -> bool:
        """Whether any process was asked: each must ask this, at the same place."""
        return bool(summed({"asked": float(self.asked)})["asked"])


@contextmanager
def interruptible() -> Iterator[Stop]:
    """The first interrupt asks to stop once there is something to keep, the second is Python's own."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def first(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, before)
        stop.ask()

    before = signal.signal(signal.SIGINT, first)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)


async def _train(config: TrainConfig, log: Log, stop: Stop) -> TrainResult:
    began = time.perf_counter()
    begin()
    if rank():
        log = _silent
    found = None
    if config.resume:
        config = resumed(config.resume)
        found = checkpoint.latest(Path(config.out))
        if found is None:
            raise UsageError(f"{config.out} has no checkpoint yet; delete it and start again")
    algorithm = resolve(config.algo, config.set)
    if config.staleness and (algorithm.sampler != "fixed" or algorithm.hint or config.data):
        raise UsageError(f"--staleness works with sampler fixed and without hints; algorithm {algorithm.name} needs its episodes in turn")
    if world() > 1 and (config.staleness or config.engine == "vllm" or config.lora or config.workers):
        raise UsageError("in several processes --staleness is 0, the engine is transformers, all weights are trained, and there are no --workers")
    if world() > 1 and config.against == "double-oracle":
        raise UsageError("--against double-oracle compares checkpoints by matches of its own: run it in one process")
    trainable(config)
    run = open_run(config, algorithm, found[1] if found else None)
    try:
        run.late = settler_of(run.env)
        run.curriculum = make_curriculum(algorithm, config, run.env)
        with nullcontext() if rank() else Once(run.out / "episodes.jsonl") as store, _distant(config, run.env) as run.distant:
            after = await _steps(run, config, algorithm, found[1] if found else None, store, log, stop)
        return result_of(run, config.algo, reward_of(config, algorithm), after or await measure(run, log), time.perf_counter() - began)
    finally:
        run.tracker.close()
        run.engine.close()
        end()


@contextmanager
def _distant(config: TrainConfig, env: AgentEnv) -> Iterator[Callable[..., AgentEnv] | None]:
    """Makes environments where they are played, if that is not here."""
    if config.workers is None:
        yield None
        return
    if isinstance(env, GameEnv):
        raise UsageError("the seats of a match are played in one process; leave --workers out")
    try:
        from agentgym.serving.fleet import environments
    except ImportError as error:
        raise MissingExtra(str(error.name), "pip install 'agentgym-core[serve]'") from None
    with environments(config.workers, env) as made:
        yield made


def _silent(phase: str, row: dict[str, Any]) -> None:
    """What the other processes than the first say."""


async def _begin(run: Run, found: Path | None, log: Log, learner: Learner) -> None:
    """Warm up and measure, or take both from the checkpoint."""
    run.learner = learner
    if found is None:
        warm(run, log)
        learner.restart()
        run.before = await measure(run, log)
        run.save()
    else:
        run.restore(found)


async def _steps(run: Run, config: TrainConfig, algorithm: Algorithm, found: Path | None, store: EpisodeStore | None, log: Log, stop: Stop) -> Measured | None:
    """The updates. Returns the evaluation after the last, if one was due."""
    collector = Collector(run, config, algorithm, Keep(store))
    learner = Learner(run.model, run.optimizer, run.renderer, run.env, algorithm, collector.demonstrate)
    await _begin(run, found, log, learner)
    source = Stored(config.data, collector) if config.data else Pipeline(run, config, collector) if config.staleness else collector
    stop.loop = asyncio.get_running_loop()
    try:
        return await _updates(run, config, learner, source, log, stop)
    finally:
        with anyio.CancelScope(shield=True):
            await source.close()


async def _updates(run: Run, config: TrainConfig, learner: Learner, source: Source, log: Log, stop: Stop) -> Measured | None:
    measured, best, since = None, -1.0, 0
    while run.step < config.steps:
        started, here = time.perf_counter(), _mark(run)
        run.model.eval()
        episodes: list[Episode] = []
        if isinstance(source, Collector):
            run.engine.sync(run.model, str(run.step))
        with anyio.CancelScope() as stop.scope, memory(run, config, "sampling"):
            if not (leaving := stop.agreed()):
                episodes = await source.step(run.step)
        if leaving or stop.scope.cancel_called:
            _leave(run, here)
        sampled = time.perf_counter()
        with memory(run, config, "learning"):
            row = await _learned(run, config, learner, episodes, source)
        run.step += 1
        own = [e for e in episodes if not outside(e)]
        if row.get("unpaid") == 1.0:
            run.said += unpaid_notes(run.env.reward, unpaid(run.env.reward, own))
        if run.late is not None:
            row |= {f"dial:{k}": v for k, v in run.late.advance(run.step, own).items() if k != "step"}
        row |= {"sample_s": sampled - started, "learn_s": time.perf_counter() - sampled, "tokens": run.engine.generated}
        log("train", {"step": run.step, "of": config.steps, **row})
        run.metrics({"phase": "train", "step": run.step, **row})
        last = run.step == config.steps
        measured = None
        if last or (config.eval_every and run.step % config.eval_every == 0):
            measured = await measure(run, log, proxy=row["reward"], drift=_drift(run, own))
            since = 0 if measured.success.mean > best else since + 1
            best = max(best, measured.success.mean)
            last = last or _enough(run, config, measured, since)
        if last or run.step % config.save_every == 0:
            run.save()
        if last:
            break
    return measured


def _enough(run: Run, config: TrainConfig, measured: Measured, since: int) -> bool:
    """Whether a run may end early, and why."""
    if config.stop_at is not None and measured.success.mean >= config.stop_at:
        run.said.append(f"stopped after {run.step} updates: held-out success {measured.success.mean:.3f} reached {config.stop_at:g}")
        return True
    if config.patience and since >= config.patience:
        run.said.append(f"stopped after {run.step} updates: no better held-out success in {since} evaluations")
        return True
    return False


def _mark(run: Run) -> tuple[dict[str, Any], bytes]:
    """What sampling a step changes: it is put back where the step is left half-way."""
    return msgspec.msgpack.decode(msgspec.msgpack.encode(run.state())), run.late.state() if run.late else b""


def _leave(run: Run, here: tuple[dict[str, Any], bytes]) -> NoReturn:
    """Write a checkpoint of the last whole step and go."""
    run.load_state(here[0])
    if run.late is not None:
        run.late.load_state(here[1])
    run.save()
    raise KeyboardInterrupt


async def _learned(run: Run, config: TrainConfig, learner: Learner, episodes: list[Episode], source: Source) -> dict[str, float]:
    """One step's updates; beside sampling where that goes on meanwhile."""
    rate = config.lr * min(1.0, (run.step + 1) / config.lr_warmup) * (1.0 - (1.0 - config.lr_final) * run.step / config.steps)
    pace = Pace(config.updates, rate, config.max_norm, config.max_tokens, run.step / config.steps, run.step)
    try:
        if isinstance(source, Pipeline):
            row = await anyio.to_thread.run_sync(learner.learn, episodes, pace)
            source.publish(run.step + 1)
        else:
            row = learner.learn(episodes, pace)
    except TrainingStopped as error:
        await _keep_bad(run, episodes)
        raise TrainingStopped(f"{error}; they are in {run.out / 'bad.jsonl'}") from None
    if row.get("skipped"):
        await _keep_bad(run, episodes)
        run.said.append(f"step {run.step + 1}: skipped {row['skipped']:.0%} of its updates, whose loss or gradient was not finite; see bad.jsonl")
    run.tokens_trained += int(row.pop("tokens_trained", 0))
    return row


@contextmanager
def memory(run: Run, config: TrainConfig, doing: str) -> Iterator[None]:
    """Say in one line what to lower where memory is out."""
    try:
        yield
    except Exception as error:
        if not out_of_memory(error):
            raise
        wanted = f"--groups, --group-size or --context (now {config.groups}, {config.group_size}, {config.context})"
        raise TrainingStopped(f"out of memory while {doing}, in update {run.step + 1}: lower {wanted}") from None


def out_of_memory(error: BaseException) -> bool:
    """Whether this is what an error, or one of a group of them, says. On a CPU torch says it in words alone."""
    if isinstance(error, BaseExceptionGroup):
        return any(map(out_of_memory, error.exceptions))
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (isinstance(error, RuntimeError) and "memory" in str(error).lower())


async def _keep_bad(run: Run, episodes: list[Episode]) -> None:
    if rank():
        return
    with Once(run.out / "bad.jsonl") as store:
        await store.append(*episodes)


def _drift(run: Run, episodes: list[Episode]) -> float:
    """KL(policy now ‖ policy at the start) per sampled token of the last episodes, by k3: what over-optimisation is read against."""
    good = [e for e in episodes if valid(e)][:64]
    start = checkpoint.folder_of(run.out, 0)
    if not good or not (start / "trainer.json").is_file():
        return 0.0
    batch = make_batch(good, [0.0] * len(good))
    d_N = (score(load_model(str(start))[0].eval(), batch) - score(run.model, batch)) * batch.mask_N
    return float(((torch.exp(d_N) - d_N - 1) * batch.mask_N).sum() / batch.mask_N.sum().clamp(min=1))


def sft(config: SftConfig, log: Log) -> TrainResult:
    """The warm start alone, as a run of its own: evaluation, supervised updates, evaluation."""
    return anyio.run(_sft, config, log)


async def _sft(config: SftConfig, log: Log) -> TrainResult:
    began = time.perf_counter()
    run = open_run(config)
    run.before = await measure(run, log)
    run.save()
    warm(run, log)
    run.step = int(run.notes.get("updates", 0))
    after = await measure(run, log)
    run.save()
    run.tracker.close()
    return result_of(run, "sft", "oracle", after, time.perf_counter() - began)
