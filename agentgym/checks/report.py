"""The checks themselves. Each is a function of a ``Subject`` that returns a detail, or raises ``Failed`` or ``Skipped``."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Literal

import anyio
import gymnasium
import msgspec
from gymnasium.utils.env_checker import check_env
from msgspec import Struct

from agentgym.checks.attacks import AttackResult, all_attacks, run_attack
from agentgym.core import AgentEnv, Term
from agentgym.errors import AgentGymError, CallOrderError
from agentgym.evaluation.run import Plan, Result, evaluate
from agentgym.policies import resolve as resolve_policy
from agentgym.registry import EnvSpec, make, spec
from agentgym.rewards.spec import Spec, settle

INFO = ("task_id", "turn", "state_hash", "anchor", "messages", "reward_terms", "verdicts", "stop_reason")
GARBAGE = (
    "", "garbage", "x" * 1_000_000, "<tool_call>", "</tool_call>", '<tool_call>{"name": "no such tool", "arguments": {}}</tool_call>',
    '<tool_call>{"name": 3}</tool_call>', "<tool_call>[[[[</tool_call>", '<tool_call>{"name": "../x", "arguments": {"a": 1e309}}</tool_call>',
    '<tool_call>{"name": "x", "arguments": {}}</tool_call>' * 500, "\x00\ud7ff\u2028<|im_end|>", "<tool_call>" + "[" * 20_000 + "</tool_call>",
)  # fmt: skip


class Failed(AssertionError):
    """Raised when a check does not hold."""


class Skipped(Exception):
    """Raised when a check does not apply to an environment."""


class Check(Struct, frozen=True):
    """One line of a report."""

    name: str
    status: Literal["pass", "fail", "skip"]
    detail: str


class Played(Struct, frozen=True):
    """How a scripted policy did."""

    episodes: int
    mean_reward: float
    success: float


class Report(Struct, kw_only=True):
    """What ``check --json`` prints."""

    env: str
    passed: bool
    checks: list[Check]
    oracle: Played | None
    noop: Played
    attacks: list[AttackResult]


class Subject(Struct):
    """The environment under check: ``tasks`` per split take part."""

    spec: EnvSpec
    tasks: int

    def make(self, split: str = "", reward: str = "outcome") -> AgentEnv:
        """A new one, on its first split unless told otherwise."""
        return make(self.spec.id, split=split or next(iter(self.spec.splits)), reward=reward)

    def actions(self, env: AgentEnv) -> list[str]:
        """What to play: the oracle's actions, or a few odd ones. Leaves ``env`` reset."""
        if type(env).oracle is AgentEnv.oracle:
            return ["hello", *(t for t in GARBAGE[:2])]
        made = []
        for action in env.oracle():
            made.append(action)
            *_, terminated, truncated, _ = env.step(action)
            if terminated or truncated:
                break
        env.reset(seed=7, options={"task": env.task.id})
        return made


def need(condition: object, detail: str) -> None:
    """Fail with ``detail`` unless the condition holds."""
    if not condition:
        raise Failed(detail)


def gymnasium_conformance(subject: Subject) -> str:
    """Gymnasium's own checker, and ``gymnasium.make``."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        env = gymnasium.make(f"agentgym:{subject.spec.id}")
        env.reset(seed=1)
        check_env(env.unwrapped, skip_render_check=False)
        env.close()
    odd = [str(w.message) for w in caught if "Overriding" not in str(w.message) and "rgb_array" not in str(w.message)]
    return f"{len(odd)} warnings" + "".join(f"; {w[:100]}" for w in odd[:3])


def declared(subject: Subject) -> str:
    """Splits have the declared sizes and distinct ids; info has its keys; tools do not change; declared rewards exist."""
    env, seen = subject.make(), dict[str, str]()
    for split, size in subject.spec.splits.items():
        ids = subject.make(split).taskset.ids()
        need(len(ids) == size == len(set(ids)), f"split {split} has {len(ids)} ids, declared {size}")
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


def hashes(env_id: str, split: str, tasks: Sequence[str]) -> list[str]:
    """The state hashes of a scripted walk through each task: what determinism is measured by."""
    subject = Subject(spec(env_id), 1)
    env, seen = subject.make(split), []
    for task in tasks:
        _, info = env.reset(seed=7, options={"task": task})
        seen.append(info["state_hash"])
        for action in subject.actions(env):
            seen.append(env.step(action)[4]["state_hash"])
            if env.episode.stop_reason is not None:
                break
    return seen


def determinism(subject: Subject) -> str:
    """The same hashes twice in this process and once in another with another hash seed; a seed alone fixes the task."""
    split = next(iter(subject.spec.splits))
    tasks = list(subject.make(split).taskset.ids()[:4])
    first, again = hashes(subject.spec.id, split, tasks), hashes(subject.spec.id, split, tasks)
    need(first == again, "two runs in one process differ")
    code = f"import agentgym.checks.report as r; print(*r.hashes({subject.spec.id!r}, {split!r}, {tasks!r}))"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, env=_environ())
    need(other.stdout.split() == first, f"another process differs: {other.stderr[-300:]}")
    env = subject.make()
    need(env.reset(seed=3)[1] == env.reset(seed=3)[1], "the same seed gives two starts")
    return f"{len(first)} state hashes, two processes"


def _environ() -> dict[str, str]:
    import os

    return {**os.environ, "PYTHONHASHSEED": "12345"}


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
    """For every spec: the step rewards add up to the settled terms, and are finite."""
    env = subject.make()
    for name in env.rewards:
        env = subject.make(reward=name)
        for task in env.taskset.ids()[: subject.tasks]:
            env.reset(seed=1, options={"task": task})
            paid = sum(float(env.step(a)[1]) for a in subject.actions(env) if env.episode.stop_reason is None)
            settled = sum(t.value for t in _settled(env))
            need(abs(paid - settled) < 1e-9, f"{name}: step paid {paid}, the terms say {settled} on {task}")
    return ", ".join(env.rewards)


def _settled(env: AgentEnv) -> list[Term]:
    """The terms that ``step`` should have paid, from the finished record alone."""
    if isinstance(env.reward, Spec):
        return [t for t in settle(env.reward, [env.episode])[0] if t.known_at is not None]
    return [t for turn in range(len(env.episode.turns)) for t in env.reward.at(env.episode, turn)]


CHECKS: dict[str, Callable[[Subject], str]] = {
    "gymnasium": gymnasium_conformance,
    "declared": declared,
    "determinism": determinism,
    "call order": call_order,
    "malformed actions": garbage,
    "snapshot": snapshots,
    "reward specs": reward_specs,
}


def _run(name: str, function: Callable[[Subject], str], subject: Subject) -> Check:
    try:
        return Check(name, "pass", function(subject))
    except Skipped as reason:
        return Check(name, "skip", str(reason))
    except Exception as error:
        return Check(name, "fail", f"{type(error).__name__}: {error}"[:500])


def _play(subject: Subject, policy: str, splits: Sequence[str]) -> tuple[Played, list[tuple[str, Result]]]:
    results = []
    for split in splits:
        plan = Plan(env=subject.spec.id, split=split, tasks=min(subject.tasks, subject.spec.splits[split]))
        results.append((split, anyio.run(evaluate, plan, resolve_policy(policy))))
    n = sum(r.episodes for _, r in results)
    mean = sum(r.reward.mean * r.valid for _, r in results) / max(1, n)
    return Played(n, mean, sum(r.success.mean * r.valid for _, r in results) / max(1, n)), results


def check(env_id: str, tasks: int = 40, on_check: Callable[[Check], None] = lambda check: None) -> Report:
    """Run everything on ``tasks`` tasks of each split.

    Raises:
        UnknownName: no such environment.
    """
    subject = Subject(spec(env_id), tasks)
    checks: list[Check] = []

    def add(line: Check) -> None:
        checks.append(line)
        on_check(line)

    for name, function in CHECKS.items():
        add(_run(name, function, subject))
    splits = list(subject.spec.splits)
    try:
        env = subject.make()
    except AgentGymError as error:
        return Report(env=subject.spec.id, passed=False, checks=[Check("make", "fail", str(error))], oracle=None, noop=Played(0, 0.0, 0.0), attacks=[])
    oracle = None
    if type(env).oracle is not AgentEnv.oracle:
        oracle, results = _play(subject, "oracle", splits)
        low = [f"{s} {r.success.mean:.3f} ({r.invalid} invalid)" for s, r in results if r.success.mean < 1 or r.invalid]
        add(Check("oracle", "fail" if low else "pass", "; ".join(low) or f"1.0 on {', '.join(splits)}"))
    else:
        add(Check("oracle", "skip", "the environment has none"))
    noop, _ = _play(subject, "noop", splits)
    add(Check("noop", "pass" if noop.success == 0 and noop.mean_reward <= 0 else "fail", f"success {noop.success}, reward {noop.mean_reward}"))
    attacks = [run_attack(env, a, env.taskset.ids()[:tasks]) for a in all_attacks()]
    broken = [a.name for a in attacks if not a.held]
    add(Check("attacks", "fail" if broken else "pass", f"paid: {', '.join(broken)}" if broken else f"{len(attacks)} held"))
    return Report(env=subject.spec.id, passed=all(c.status != "fail" for c in checks), checks=checks, oracle=oracle, noop=noop, attacks=attacks)
