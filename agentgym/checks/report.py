"""The report of ``agentgym check``: conformance, the health of the verifiers, and attacks on the reward."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial

import anyio
import msgspec
from msgspec import Struct

from agentgym.checks.attacks import Attack, AttackResult, all_attacks, oracle_endings, run_attack
from agentgym.checks.conformance import CHECKS
from agentgym.checks.health import HEALTH
from agentgym.checks.subject import Check, Skipped, Subject, has_player, oracle_of
from agentgym.core import AgentEnv
from agentgym.episode import Episode
from agentgym.errors import AgentGymError
from agentgym.policies import resolve
from agentgym.registry import spec
from agentgym.rollout import Job, Rollout
from agentgym.verdict import Json

REPEATS = 3
"""How often the oracle plays each task."""


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


def _run(name: str, function: Callable[[Subject], str], subject: Subject) -> Check:
    try:
        return Check(name, "pass", function(subject))
    except Skipped as reason:
        return Check(name, "skip", str(reason))
    except Exception as error:
        return Check(name, "fail", f"{type(error).__name__}: {error}"[:500])


def _play(subject: Subject, policy: str, repeats: int = 1, skipped: Collection[str] = ()) -> tuple[Played, list[str]]:
    """A scripted policy on each split but the tasks that are ``skipped``, and the splits on which it did not always succeed."""
    episodes, low = list[Episode](), []
    for split in subject.spec.splits:
        env = subject.make(split)
        jobs = [Job(t, attempt, attempt) for t in env.taskset.ids()[: subject.tasks] if t not in skipped for attempt in range(repeats)]
        env.close()
        played = anyio.run(Rollout(make=partial(subject.make, split), policy=resolve(policy), retries=0).run, jobs)
        episodes += played
        won, invalid = sum(e.success for e in played), sum(e.status == "invalid" for e in played)
        if won < len(played):
            low.append(f"{split} {won / len(played):.3f} ({invalid} invalid), {_why(next(e for e in played if not e.success))}")
    n = max(1, len(episodes))
    return Played(len(episodes), sum(e.total for e in episodes) / n, sum(e.success for e in episodes) / n), low


def _why(episode: Episode) -> str:
    """How an episode that should have succeeded did not."""
    said = episode.fault or ", ".join(f"{n}: {v.critique or msgspec.json.encode(v.evidence).decode()}" for n, v in episode.verdicts.items() if v.value != 1.0)
    return f"e.g. {episode.id}: {said[:600]}"


def check(env_id: str, tasks: int = 40, on_check: Callable[[Check], None] = lambda check: None, options: Mapping[str, Json] | None = None) -> Report:
    """Run everything on ``tasks`` tasks of each split, with these options of the environment.

    Raises:
        UnknownName: no such environment.
    """
    return audit(Subject(spec(env_id), tasks, dict(options or {})), on_check)


def audit(subject: Subject, on_check: Callable[[Check], None] = lambda check: None) -> Report:
    """Run everything on a subject."""
    checks: list[Check] = []

    def add(line: Check) -> None:
        checks.append(line)
        on_check(line)

    for name, function in {**CHECKS, **HEALTH}.items():
        add(_run(name, function, subject))
    try:
        env = subject.make()
    except AgentGymError as error:
        return Report(env=subject.spec.id, passed=False, checks=[Check("make", "fail", str(error))], oracle=None, noop=Played(0, 0.0, 0.0), attacks=[])
    oracle = _oracle(subject, env, add)
    noop, _ = _play(subject, "noop")
    add(Check("noop", "pass" if noop.success == 0 and noop.mean_reward <= 0 else "fail", f"success {noop.success}, reward {noop.mean_reward}"))
    attacks = under_attack(env, all_attacks(), subject.tasks)
    broken = [f"{a.name} ({a.task or a.status})" for a in attacks if not a.held]
    used = sum(a.status != "not applicable" for a in attacks)
    add(Check("attacks", "fail" if broken else "pass", f"paid: {', '.join(broken)}" if broken else f"{used} held, {len(attacks) - used} not applicable"))
    return Report(env=subject.spec.id, passed=all(c.status != "fail" for c in checks), checks=checks, oracle=oracle, noop=noop, attacks=attacks)


def _oracle(subject: Subject, env: AgentEnv, add: Callable[[Check], None]) -> Played | None:
    """The oracle at the top, each time; where there is none, its player above chance."""
    asked, without = 0, list[str]()
    for split in subject.spec.splits:
        here = subject.make(split)
        for task in here.taskset.ids()[: subject.tasks]:
            asked += 1
            here.reset(seed=0, options={"task": task})
            without += [task] if oracle_of(here) is None else []
        here.close()
    if len(without) == asked:
        add(_above_chance(subject) if has_player(env) else Check("oracle", "skip", "the environment has none"))
        return None
    oracle, low = _play(subject, "oracle", REPEATS, frozenset(without))
    left_out = f"; there is none for {len(without)} of {asked} tasks, such as {without[0]}" if without else ""
    add(Check("oracle", "fail" if low else "pass", ("; ".join(low) or f"1.0 on {', '.join(subject.spec.splits)}, {REPEATS} times each") + left_out))
    return oracle


def _above_chance(subject: Subject) -> Check:
    """Whether the environment's honest player is paid more than random play."""
    few = msgspec.structs.replace(subject, tasks=min(subject.tasks, 8))
    player, chance = (_play(few, policy)[0].mean_reward for policy in ("player", "random"))
    detail = f"there is none; an honest player is paid {player:.4f} on average, random play {chance:.4f}"
    return Check("oracle", "pass" if player > 1.5 * max(0.0, chance) else "fail", detail)


def under_attack(env: AgentEnv, attacks: Sequence[Attack], tasks: int) -> list[AttackResult]:
    """Each attack on up to ``tasks`` tasks."""
    chosen = env.taskset.ids()[:tasks]
    endings = oracle_endings(env, chosen)
    return [run_attack(env, attack, chosen, endings) for attack in attacks]
