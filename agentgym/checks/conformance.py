"""Conformance: does it behave as an environment must? Each check is a function of a ``Subject`` that returns a detail."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any

import gymnasium
import msgspec
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env

from agentgym.checks.subject import GARBAGE, Failed, Skipped, Subject, need
from agentgym.errors import CallOrderError
from agentgym.registry import installed, spec
from agentgym.rewards.spec import World

INFO = ("task_id", "turn", "state_hash", "anchor", "messages", "reward_terms", "verdicts", "stop_reason")


def gymnasium_conformance(subject: Subject) -> str:
    """Gymnasium's own checker, and ``gymnasium.make``."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        name, at, _ = subject.spec.id.partition("@")
        elsewhere = EnvSpec(f"remote/{name.replace('/', '-')}", "agentgym.registry:build", kwargs={"env_id": subject.spec.id}, order_enforce=False)
        options = {"split": next(iter(subject.spec.splits)), **subject.options}
        with closing(gymnasium.make(elsewhere if at else f"agentgym:{name}", **options)) as env:
            env.reset(seed=1)
            check_env(env.unwrapped, skip_render_check=False)
    odd = [str(w.message) for w in caught if "Overriding" not in str(w.message) and "rgb_array" not in str(w.message)]
    return f"{len(odd)} warnings" + "".join(f"; {w[:100]}" for w in odd[:3])


def declared(subject: Subject) -> str:
    """Splits have the declared sizes (0: as the options say) and distinct ids; info has its keys; tools do not change; declared rewards exist."""
    env, seen = subject.make(), dict[str, str]()
    for split, size in subject.spec.splits.items():
        ids = subject.make(split).taskset.ids()
        need(len(ids) == (size or len(ids)) == len(set(ids)), f"split {split} has {len(ids)} ids, declared {size}")
        for task in ids:
            need(split == "demo" or task not in seen, f"task {task} is in {split} and {seen.get(task)}")
            seen[task] = split
    _, info = env.reset(seed=1)
    need(tuple(info) == INFO, f"info has {tuple(info)}")
    tools = msgspec.json.encode([t.spec for t in env.tools.values()])
    for action in subject.actions(env):
        if set(env.step(action)[4]) != set(INFO):
            raise Failed("info changes its keys")
    need(tools == msgspec.json.encode([t.spec for t in env.tools.values()]), "the tools changed during an episode")
    need(set(subject.spec.rewards) <= set(env.rewards), f"rewards {set(subject.spec.rewards) - set(env.rewards)} are declared but not there")
    return f"{sum(subject.spec.splits.values())} tasks in {len(subject.spec.splits)} splits, {len(env.tools)} tools"


def hashes(env_id: str, split: str, tasks: Sequence[str], options: dict[str, Any]) -> list[str]:
    """State hashes and verdicts of a scripted walk through each task: what determinism is measured by."""
    subject = Subject(spec(env_id), 1, options)
    env, seen = subject.make(split), []
    for task in tasks:
        _, info = env.reset(seed=7, options={"task": task})
        seen.append(info["state_hash"])
        for action in subject.actions(env):
            info = env.step(action)[4]
            seen.append(f"{info['state_hash']}:{','.join(repr(v.get('value')) for v in info['verdicts'].values())}")
            if env.episode.stop_reason is not None:
                break
    return seen


def determinism(subject: Subject) -> str:
    """The same hashes twice in this process and once in another with another hash seed; a seed alone fixes the task."""
    split = next(iter(subject.spec.splits))
    tasks = list(subject.make(split).taskset.ids()[:4])
    first, again = hashes(subject.spec.id, split, tasks, subject.options), hashes(subject.spec.id, split, tasks, subject.options)
    need(first == again, "two runs in one process differ")
    code = f"import agentgym.checks.conformance as r; print(*r.hashes({subject.spec.id!r}, {split!r}, {tasks!r}, {subject.options!r}))"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, env=_environ())
    need(other.stdout.split() == first, f"another process differs: {other.stderr[-300:]}")
    env = subject.make()
    need(env.reset(seed=3)[1] == env.reset(seed=3)[1], "the same seed gives two starts")
    return f"{len(first)} state hashes, two processes"


def _environ() -> dict[str, str]:
    return {**os.environ, "PYTHONHASHSEED": "12345", "TZ": "Asia/Kathmandu"}


def replayed(subject: Subject) -> str:
    """The actions of an episode, played again in a new environment, give the same hashes, rewards and verdicts."""
    first, again, turns = subject.make(), subject.make(), 0
    for task in first.taskset.ids()[: min(8, subject.tasks)]:
        start = first.reset(seed=11, options={"task": task})[1]
        told = [first.step(a)[1:] for a in subject.actions(first) if first.episode.stop_reason is None]
        need(again.reset(seed=first.episode.seed, options={"task": task})[1]["messages"] == start["messages"], f"{task} starts otherwise when replayed")
        same = [again.step(t.action)[1:] for t in first.episode.turns]
        need(same == told, f"{task} goes another way when replayed")
        turns += len(told)
    return f"{turns} turns"


def call_order(subject: Subject) -> str:
    """Wrong order is a typed error; ``close`` is idempotent."""
    env = subject.make()

    def refuses(call: Callable[[], object], when: str) -> None:
        try:
            call()
        except CallOrderError:
            return
        raise Failed(f"{when} raises no CallOrderError")

    refuses(lambda: env.step("x"), "step before reset")
    env.reset(seed=1)
    while env.episode.stop_reason is None:
        env.step("")
    refuses(lambda: env.step("x"), "step after the end")
    env.close()
    env.close()
    refuses(lambda: env.step("x"), "step after close")
    refuses(lambda: env.reset(), "reset after close")
    return "typed errors"


def garbage(subject: Subject) -> str:
    """Whatever a model writes is an observation, and too much of it ends the episode; it never raises and never pays."""
    env = subject.make()
    for text in GARBAGE:
        env.reset(seed=2)
        total = 0.0
        while env.episode.stop_reason is None:
            observation, reward, *_ = env.step(text)
            need(env.observation_space.contains(observation), f"the observation after {text[:30]!r} is not in the space")
            total += reward
        need(total <= 0.0, f"garbage {text[:30]!r} pays {total}")
    return f"{len(GARBAGE)} malformed actions"


def snapshots(subject: Subject) -> str:
    """``restore`` gives the same hash and the same future, also in forks and after the first environment has closed."""
    if not subject.spec.capabilities.snapshot:
        raise Skipped("no snapshot capability")
    env = subject.make()
    env.reset(seed=5)
    actions = subject.actions(env)
    middle = len(actions) // 2
    for action in actions[:middle]:
        env.step(action)
    point, here = env.snapshot(), env._hash
    forks = env.fork(2)
    rest = [env.step(a)[4]["state_hash"] for a in actions[middle:]]
    env.close()
    fresh = subject.make()
    fresh.restore(point)
    for each in (fresh, *forks):
        need(each._hash == here, "restore gives another state hash")
        need([each.step(a)[4]["state_hash"] for a in actions[middle:]] == rest, "the future of a restored state differs")
    return f"restored and forked at turn {middle}"


def reward_specs(subject: Subject) -> str:
    """For every spec: it names what there is, and the step rewards add up to the settled terms, and are finite."""
    env = subject.make()
    world = World({n: v.level for n, v in env.verifiers.items()}, dict.fromkeys(installed("verifiers"), ""))
    for reward in env.rewards.values():
        reward.check(world, "reward")
    for name in env.rewards:
        env = subject.make(reward=name)
        for task in env.taskset.ids()[: subject.tasks]:
            env.reset(seed=1, options={"task": task})
            paid = sum(float(env.step(a)[1]) for a in subject.actions(env) if env.episode.stop_reason is None)
            settled = sum(t.value for t in env.reward.settle([env.episode])[0] if t.known_at is not None)
            need(math.isfinite(paid), f"{name}: step paid {paid} on {task}")
            need(abs(paid - settled) < 1e-9, f"{name}: step paid {paid}, the terms say {settled} on {task}")
    return ", ".join(env.rewards)


CHECKS: dict[str, Callable[[Subject], str]] = {
    "gymnasium": gymnasium_conformance,
    "declared": declared,
    "determinism": determinism,
    "call order": call_order,
    "malformed actions": garbage,
    "replay": replayed,
    "snapshot": snapshots,
    "reward specs": reward_specs,
}
