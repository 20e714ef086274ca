"""Two runs beside each other, on the tasks that both played."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

from msgspec import Struct

from agentgym.episode import Episode
from agentgym.errors import UsageError
from agentgym.evaluation.regrade import episodes_of
from agentgym.evaluation.stats import Interval, Paired, clustered, could_move, paired, share


class Side(Struct, frozen=True):
    """One run of a comparison, on the common tasks alone."""

    policy: str
    episodes: int
    valid: int
    invalid_share: float
    success: Interval
    reward: Interval
    turns_mean: float


class Comparison(Struct, frozen=True):
    """What ``compare --json`` prints. Differences are second less first, paired by task; ``notes`` are reasons for doubt."""

    env: str
    split: str
    tasks: int
    first: Side
    second: Side
    success: Paired
    reward: Paired
    notes: list[str]


def compare(first: Path, second: Path) -> Comparison:
    """Compare two run folders.

    Raises:
        UsageError: they are of different environments, or of different versions of a task, or share fewer than two tasks.
    """
    runs = [_last_attempts(episodes_of(path)) for path in (first, second)]
    kinds = [{(e.env, e.split) for e in run} for run in runs]
    if kinds[0] != kinds[1] or len(kinds[0]) != 1:
        raise UsageError(f"{first} played {_named(kinds[0])}, {second} played {_named(kinds[1])}: only runs of one environment and split can be compared")
    digests = [{e.task: e.task_digest for e in run if e.task_digest} for run in runs]
    common = digests[0].keys() & digests[1].keys()
    if changed := sorted(t for t in common if digests[0][t] != digests[1][t]):
        raise UsageError(f"{len(changed)} tasks are not the same in both runs, {changed[0]} for one")
    sides = [[e for e in run if e.task in common] for run in runs]
    try:
        success = paired(_by_task(sides[0], _success), _by_task(sides[1], _success))
        reward = paired(_by_task(sides[0], _total), _by_task(sides[1], _total))
    except ValueError as error:
        raise UsageError(f"{first} and {second}: {error}") from None
    described = [_side(s) for s in sides]
    ((env, split),) = kinds[0]
    return Comparison(env, split, success.tasks, described[0], described[1], success, reward, _doubts(runs, sides, described))


def _success(episode: Episode) -> float:
    return float(episode.success)


def _total(episode: Episode) -> float:
    return episode.total


def _named(kinds: set[tuple[str, str]]) -> str:
    return ", ".join(sorted(f"{env} split {split}" for env, split in kinds)) or "nothing"


def _last_attempts(episodes: Sequence[Episode]) -> list[Episode]:
    """One record for each task and attempt: the last, which is the valid one where there is one."""
    found: dict[tuple[str, int], Episode] = {}
    for e in episodes:
        if e.decided or (e.task, e.attempt) not in found:
            found[e.task, e.attempt] = e
    return list(found.values())


def _by_task(episodes: Sequence[Episode], value: Callable[[Episode], float]) -> dict[str, float]:
    """The mean over each task's valid attempts."""
    seen: dict[str, list[float]] = defaultdict(list)
    for e in episodes:
        if e.decided:
            seen[e.task].append(value(e))
    return {task: sum(values) / len(values) for task, values in seen.items()}


def _side(episodes: Sequence[Episode]) -> Side:
    good = [e for e in episodes if e.decided]
    tasks = [e.task for e in good]
    success = share([e.success for e in good], tasks)
    reward = clustered([e.total for e in good], tasks)
    turns = sum(len(e.turns) for e in good) / max(1, len(good))
    return Side(episodes[0].policy if episodes else "", len(episodes), len(good), 1 - len(good) / max(1, len(episodes)), success, reward, turns)


def _doubts(runs: Sequence[Sequence[Episode]], sides: Sequence[Sequence[Episode]], described: Sequence[Side]) -> list[str]:
    """What could make the comparison misleading."""
    notes = []
    for name, run, side, told in zip(("first", "second"), runs, sides, described, strict=True):
        if left := len({e.task for e in run}) - len({e.task for e in side}):
            notes.append(f"{left} tasks of the {name} run were not played by the other and are left out")
        if warning := could_move(told.valid, told.episodes - told.valid, told.success.mean, told.success):
            notes.append(f"{name} run: {warning}")
        if any(t.known_at is None for e in side for t in e.terms):
            notes.append(f"{name} run: its reward holds terms of sources with a state, which cannot be derived again; compare success instead")
    rewards, limits = ({tuple(sorted({value(e) for e in run})) for run in runs} for value in (lambda e: e.reward, lambda e: str(sorted(e.limits.items()))))
    if len(rewards) > 1:
        notes.append("the two runs were paid by different reward specs: their rewards are not on one scale")
    if len(limits) > 1:
        notes.append("the two runs had different limits")
    return notes
