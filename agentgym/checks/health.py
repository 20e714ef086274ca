"""The health of verifiers: the same record, the same verdict, whatever else is going on."""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import combinations
from typing import Any

from agentgym.checks.subject import Skipped, Subject, need, oracle_of
from agentgym.core import AgentEnv, EpisodeView, StopReason, Verdict
from agentgym.errors import EnvironmentFault
from agentgym.evaluation.overlap import of_tasks, overlap
from agentgym.grading import grade
from agentgym.messages import parse_action

REPEATS = 4
DAYS_400 = 400 * 86_400


def finished(subject: Subject) -> tuple[AgentEnv, list[EpisodeView]]:
    """Records of each task: solved by the oracle where there is one, ended at once, and babbled at."""
    env, views = subject.make(), list[EpisodeView]()
    for task in env.taskset.ids()[: min(20, subject.tasks)]:
        for actions in (subject.actions, lambda env: [], lambda env: ["what?", "<tool_call>{}</tool_call>"]):
            env.reset(seed=3, options={"task": task})
            try:
                for action in actions(env):
                    if env.episode.stop_reason is None:
                        env.step(action)
                if env.episode.stop_reason is None:
                    env.end(StopReason.MAX_TURNS)
            except EnvironmentFault:
                pass
            views.append(EpisodeView(env.task, env.episode, dict(env.artefacts)))
    return env, views


def _same(one: dict[str, Verdict], other: dict[str, Verdict]) -> bool:
    return {n: (v.status, v.value) for n, v in one.items()} == {n: (v.status, v.value) for n, v in other.items()}


def repeated(subject: Subject) -> str:
    """Asked again, in any order, a verifier says the same; the flake rate is how often it does not."""
    env, views = finished(subject)
    if not any(v.level == "outcome" for v in env.verifiers.values()):
        raise Skipped("no outcome verifier")
    first = [grade(env.verifiers, view) for view in views]
    order, asked, differ = random.Random(0), 0, 0
    for _ in range(REPEATS):
        numbers = list(range(len(views)))
        order.shuffle(numbers)
        for i in numbers:
            asked += 1
            differ += not _same(grade(env.verifiers, views[i]), first[i])
    rate = differ / max(1, asked)
    need(differ == 0, f"flake rate {rate:.3f}: {differ} of {asked} repeats say otherwise")
    return f"flake rate 0.000 over {asked} repeats in shuffled order"


@contextmanager
def elsewhere() -> Iterator[None]:
    """400 days later, with no network, and other random numbers."""
    clock, stamp, door = time.time, time.time_ns, socket.socket.connect

    def closed(self: socket.socket, *address: Any) -> None:
        if self.family != socket.AF_UNIX:
            raise OSError("the network is closed during this check")
        door(self, *address)

    state = random.getstate()
    random.seed(99)
    time.time, time.time_ns = (lambda: clock() + DAYS_400), (lambda: stamp() + DAYS_400 * 10**9)
    socket.socket.connect = closed  # type: ignore[method-assign, assignment]  # put back below
    try:
        yield
    finally:
        time.time, time.time_ns, socket.socket.connect = clock, stamp, door  # type: ignore[method-assign]  # as it was
        random.setstate(state)


def unmoved(subject: Subject) -> str:
    """Verdicts depend neither on the time of day, nor on the network, nor on the global random numbers."""
    here(subject, "its verdicts are given there")
    env, views = finished(subject)
    first = [grade(env.verifiers, view) for view in views]
    with elsewhere():
        differ = [i for i, view in enumerate(views) if not _same(grade(env.verifiers, view), first[i])]
    need(not differ, f"{len(differ)} of {len(views)} verdicts change with time, network or random numbers")
    return f"{len(views)} verdicts, 400 days later and offline"


def floor(subject: Subject) -> str:
    """Ended at once, no task is passed and none pays."""
    env = subject.make()
    for task in env.taskset.ids()[: subject.tasks]:
        env.reset(seed=1, options={"task": task})
        try:
            _, reward, *_ = env.end(StopReason.MAX_TURNS)
        except EnvironmentFault as fault:
            need(False, f"{task} cannot be graded when nothing was done: {fault}")
        need(reward <= 0 and not env.episode.success, f"{task} pays {reward} for nothing")
    return f"{min(subject.tasks, len(env.taskset))} tasks"


def offered(env: AgentEnv) -> set[str]:
    """What the tools offer to everybody: their names, and the values that their schemas list."""
    properties = [p for t in env.tools.values() for p in t.spec.parameters.get("properties", {}).values()]
    return {*env.tools, *(str(v) for p in properties for v in (*p.get("enum", ()), *p.get("examples", ())))}


def leaks(subject: Subject) -> str:
    """What the oracle ends with is not to be read at the start: neither in the first messages, beyond the instruction, nor in the tools.

    An environment with a world to look around in may say itself, by a method ``exposed``, what of the answer lies open there.
    """
    env = subject.make()
    found, looked, exposed = list[str](), 0, getattr(env, "exposed", list)
    for task in env.taskset.ids()[: min(20, subject.tasks)]:
        env.reset(seed=1, options={"task": task})
        found += [f"{task}: {what}" for what in exposed()]
        if oracle_of(env) is None:
            continue
        looked += 1
        *_, last = subject.actions(env) or [""]
        _, info = env.reset(seed=1, options={"task": task})
        seen = " ".join(str(m["content"]) for m in info["messages"]).replace(env.task.instruction, " ")
        tools = " ".join(t.spec.description for t in env.tools.values())
        told = [s for s in _strings(last) if len(s) >= 4 and s not in env.task.instruction and (s in seen or s in tools)]
        found += [f"{task}: {s[:40]!r}" for s in told if s not in offered(env)]
    if not looked:
        raise Skipped("no oracle, so no answer to look for")
    need(not found, f"the answer can be read at the start: {'; '.join(found[:3])}")
    return "no answer in first messages or tools"


def _strings(action: str) -> list[str]:
    """The string arguments of an action's calls; the whole text where it has none."""
    calls = parse_action(action, max_chars=1 << 20, max_calls=64).calls
    return [v for c in calls for v in c.arguments.values() if isinstance(v, str)] if calls else [action.strip()]


def here(subject: Subject, why: str) -> None:
    """Skip what can only be looked at where the environment is."""
    if "@" in subject.spec.id:
        raise Skipped(f"at a server: {why}")


def contamination(subject: Subject) -> str:
    """No task of one split, by instruction and data, stands in another; those of one text, and near ones, are counted."""
    here(subject, "the tasks' data stay there")
    names = [s for s in subject.spec.splits if s != "demo"]
    if len(names) < 2:
        raise Skipped("only one split")
    sets = {s: subject.make(s).taskset for s in names}
    texts = {s: of_tasks(t, t.ids()[: 25 * subject.tasks], content=True) for s, t in sets.items()}
    told = []
    for one, other in combinations(names, 2):
        found = overlap(texts[other], texts[one])
        need(not found.same, f"{len(found.same)} tasks of {other} are tasks of {one} too, such as {found.same[:1]}")
        told.append(f"{other} in {one}: {len(found.text)} of one text, {len(found.near)} near, of {found.of}")
    return "; ".join(told)


HEALTH: dict[str, Callable[[Subject], str]] = {"repeat": repeated, "elsewhere": unmoved, "floor": floor, "leaks": leaks, "contamination": contamination}
