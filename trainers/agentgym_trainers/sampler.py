"""Which tasks are sampled, how often, and which of the episodes are trained on. Three small choices, each by name.

A **curriculum** draws tasks, a **sampler** plans rounds of episodes of them, a **choice** picks what is learned from. All are bounded: they
end on a random model too, and say so when they trained on less than they wanted.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np

from agentgym.episode import Episode
from agentgym_trainers.streams import valid

Wanted = list[tuple[str, int]]
"""Tasks, and how many further episodes of each."""

Groups = dict[str, list[Episode]]
"""The episodes so far of each task that takes part in a step, in the order in which tasks were drawn."""


# Curricula


class Shuffle:
    """Every task once, in a seeded order, then again in another."""

    def __init__(self, ids: Sequence[str], seed: int) -> None:
        self.ids, self.seed, self.drawn = list(ids), seed, 0

    def draw(self, n: int) -> list[str]:
        """The next ``n`` tasks."""
        found = [task_of(self.ids, self.seed, self.drawn + i) for i in range(n)]
        self.drawn += n
        return found

    def learn(self, task: str, rewards: Sequence[float]) -> None:
        """Take note of the returns of a task's episodes."""

    def state(self) -> dict[str, Any]:
        return {k: v for k, v in vars(self).items() if k not in ("ids", "seed")}

    def load_state(self, state: dict[str, Any]) -> None:
        vars(self).update(state)


def task_of(ids: Sequence[str], seed: int, number: int) -> str:
    """Task ``number`` of the endless seeded shuffle of ``ids``: the order is a function of the number alone."""
    epoch, at = divmod(number, len(ids))
    return random.Random(f"{seed}/{epoch}").sample(list(ids), len(ids))[at]


class Prioritised(Shuffle):
    """Draws tasks in proportion to a priority, after each was met once with probability ``fresh``.

    ``difficulty``: 4p(1 − p), p the running mean of its return; ``regret``: the best return known (1 from the oracle) minus that mean.
    Source of the latter: "Prioritized Level Replay" and its regret form.
    """

    def __init__(self, ids: Sequence[str], seed: int, by: Literal["difficulty", "regret"] = "difficulty", fresh: float = 0.3, best: float = 1.0) -> None:
        super().__init__(ids, seed)
        self.by, self.fresh, self.best = by, fresh, best
        self.mean: dict[str, float] = {}

    def priority(self, task: str) -> float:
        """Of a task that was met."""
        p = self.mean[task]
        return 4 * p * (1 - p) if self.by == "difficulty" else max(0.0, self.best - p)

    def draw(self, n: int) -> list[str]:
        rng = random.Random(f"{self.seed}/draw/{self.drawn}")
        chosen: list[str] = []
        while len(chosen) < n:
            weights = {t: self.priority(t) + 1e-3 for t in self.mean if t not in chosen}
            if not weights or rng.random() < self.fresh:
                chosen += [t for t in super().draw(1) if t not in chosen or len(chosen) >= len(self.ids)]
            else:
                chosen += rng.choices(list(weights), list(weights.values()))
                self.drawn += 1
        return chosen

    def learn(self, task: str, rewards: Sequence[float]) -> None:
        for r in rewards:
            self.mean[task] = r if task not in self.mean else 0.8 * self.mean[task] + 0.2 * r


class Growing(Shuffle):
    """Levels of growing length: tasks sorted by ``length`` into ``levels``; the next opens once the mean return of the last open one reaches ``threshold``.

    A level is never skipped. Half of the draws are from the newest level. Source: "Learning to Navigate the Web".
    """

    def __init__(self, ids: Sequence[str], seed: int, length: Callable[[str], float], levels: int = 4, threshold: float = 0.7, window: int = 32) -> None:
        super().__init__(ids, seed)
        longer = sorted(ids, key=lambda t: (length(t), t))
        values = sorted({length(t) for t in ids})
        levels = min(levels, len(values))
        cut = [values[min(len(values) - 1, math.ceil((k + 1) * len(values) / levels) - 1)] for k in range(levels)]
        self.level_of = {t: next(k for k, c in enumerate(cut) if length(t) <= c) for t in longer}
        self.threshold, self.window, self.level, self.recent = threshold, window, 0, list[float]()

    def draw(self, n: int) -> list[str]:
        rng = random.Random(f"{self.seed}/draw/{self.drawn}")
        self.drawn += n
        newest = [t for t, k in self.level_of.items() if k == self.level]
        opened = [t for t, k in self.level_of.items() if k <= self.level]
        return [rng.choice(newest if rng.random() < 0.5 else opened) for _ in range(n)]

    def learn(self, task: str, rewards: Sequence[float]) -> None:
        if self.level_of[task] != self.level:
            return
        self.recent = [*self.recent, *rewards][-self.window :]
        if len(self.recent) == self.window and sum(self.recent) / self.window >= self.threshold and self.level < max(self.level_of.values()):
            self.level, self.recent = self.level + 1, []

    def state(self) -> dict[str, Any]:
        return {"drawn": self.drawn, "level": self.level, "recent": self.recent}


CURRICULA = ("shuffle", "difficulty", "regret", "growing")


# Samplers


class Fixed:
    """``groups`` tasks, ``size`` episodes of each, in one round."""

    def __init__(self, groups: int, size: int) -> None:
        self.groups, self.size = groups, size

    def more(self, have: Groups, draw: Callable[[int], list[str]], round: int) -> Wanted:
        """What to sample next; empty when done. ``draw`` gives new tasks."""
        return [(t, self.size) for t in draw(self.groups)] if round == 0 else []

    def kept(self, have: Groups) -> tuple[list[Episode], str]:
        """The episodes that are trained on, and a note if they are fewer than wanted."""
        return [e for group in have.values() for e in group], ""


def returns(episodes: Sequence[Episode]) -> list[float]:
    """The returns of those that may be trained on."""
    return [e.total for e in episodes if valid(e)]


def varies(episodes: Sequence[Episode]) -> bool:
    """Whether the returns of a group differ: otherwise no relative advantage is in it."""
    found = returns(episodes)
    return len(found) > 1 and max(found) - min(found) > 1e-9


class Refill(Fixed):
    """Groups whose returns do not differ are dropped and others drawn, at most ``rounds`` times.

    Source: "DAPO: An Open-Source LLM Reinforcement Learning System at Scale".
    """

    def __init__(self, groups: int, size: int, rounds: int = 4) -> None:
        super().__init__(groups, size)
        self.rounds = rounds

    def more(self, have: Groups, draw: Callable[[int], list[str]], round: int) -> Wanted:
        missing = self.groups - sum(map(varies, have.values()))
        return [(t, self.size) for t in draw(missing)] if missing and round < self.rounds else []

    def kept(self, have: Groups) -> tuple[list[Episode], str]:
        good = [g for g in have.values() if varies(g)][: self.groups]
        note = "" if len(good) == self.groups else f"refill: {len(good)} of {self.groups} groups differ after {len(have)} were sampled"
        return [e for g in good for e in g], note


class Eliminate(Fixed):
    """Rounds of ``size`` episodes for every task that is undecided, at most ``rounds``; then each group is cut to ``size``.

    A task is decided with one positive, or (``balanced``) with size / 2 positives and size / 2 others; positive is a return above ``bar``. Cut
    groups hold half of each where there are that many. Source: "Reinforce-Ada: An Adaptive Sampling Framework for Reinforce-Style LLM
    Training", as released; statistics over the whole pool are an option there, off by default, and left out here.
    """

    def __init__(self, groups: int, size: int, rounds: int = 4, bar: float = 0.7, balanced: bool = True) -> None:
        super().__init__(groups, size)
        self.rounds, self.bar, self.balanced = rounds, bar, balanced

    def decided(self, episodes: Sequence[Episode]) -> bool:
        """Whether a task needs no further episode."""
        positive = sum(r > self.bar for r in returns(episodes))
        if not self.balanced:
            return positive >= 1
        return positive >= self.size / 2 and len(returns(episodes)) - positive >= self.size / 2

    def more(self, have: Groups, draw: Callable[[int], list[str]], round: int) -> Wanted:
        if round == 0:
            return [(t, self.size) for t in draw(self.groups)]
        return [(t, self.size) for t, g in have.items() if not self.decided(g)] if round < self.rounds else []

    def kept(self, have: Groups) -> tuple[list[Episode], str]:
        undecided = sum(not self.decided(g) for g in have.values())
        note = f"eliminate: {undecided} of {len(have)} tasks undecided after {self.rounds} rounds" if undecided else ""
        return [e for g in have.values() for e in self._cut(g)], note

    def _cut(self, episodes: Sequence[Episode]) -> list[Episode]:
        """``size`` of them, balanced as far as they go."""
        good = [e for e in episodes if valid(e) and e.total > self.bar]
        rest = [e for e in episodes if valid(e) and e.total <= self.bar]
        half = self.size // 2
        n = max(min(len(good), half), self.size - len(rest))
        return [*good[:n], *rest[: self.size - min(n, len(good))]]


class Select(Fixed):
    """``factor`` times as many groups are sampled; kept are those of the largest variance, or of a pass rate nearest to ``aim``.

    Source: "VCRL: Variance-based Curriculum Reinforcement Learning for Large Language Models" (variance).
    """

    def __init__(self, groups: int, size: int, factor: int = 2, by: Literal["variance", "difficulty"] = "variance", aim: float = 0.5) -> None:
        super().__init__(groups, size)
        self.factor, self.by, self.aim = factor, by, aim

    def more(self, have: Groups, draw: Callable[[int], list[str]], round: int) -> Wanted:
        return [(t, self.size) for t in draw(self.groups * self.factor)] if round == 0 else []

    def _rank(self, group: Sequence[Episode]) -> float:
        found = returns(group)
        if not found:
            return -1.0
        return float(np.var(found)) if self.by == "variance" else -abs(float(np.mean([r > 0.5 for r in found])) - self.aim)

    def kept(self, have: Groups) -> tuple[list[Episode], str]:
        best = sorted(have.values(), key=self._rank, reverse=True)[: self.groups]
        return [e for g in best for e in g], ""


SAMPLERS: dict[str, type[Fixed]] = {"fixed": Fixed, "refill": Refill, "eliminate": Eliminate, "select": Select}


# Choices: which episodes of each group are learned from


def everything(group: list[Episode]) -> list[Episode]:
    """All."""
    return group


def top(group: list[Episode], *, keep: int = 1) -> list[Episode]:
    """The ``keep`` best. Source: "RAFT: Reward rAnked FineTuning for Generative Foundation Model Alignment"."""
    return sorted((e for e in group if valid(e)), key=lambda e: -e.total)[:keep]


def passed(group: list[Episode], *, bar: float = 0.5) -> list[Episode]:
    """Those whose return lies above ``bar``: rejection sampling."""
    return [e for e in group if valid(e) and e.total > bar]


def best_worst(group: list[Episode], *, keep: int = 2) -> list[Episode]:
    """The best and the worst, ``keep`` in all: where a noisy reward is most reliable.

    Source: "Policy Filtration in RLHF to Fine-Tune LLM for Code Generation".
    """
    order = sorted((e for e in group if valid(e)), key=lambda e: -e.total)
    return [*order[: (keep + 1) // 2], *order[max((keep + 1) // 2, len(order) - keep // 2) :]]


def accepted(group: list[Episode], *, beta: float = 0.5, seed: int = 0) -> list[Episode]:
    """Each kept with probability exp((R − the group's best) / β): samples of the policy tilted by exp(R / β).

    Source: "Statistical Rejection Sampling Improves Preference Optimization".
    """
    good = [e for e in group if valid(e)]
    best = max((e.total for e in good), default=0.0)
    return [e for e in good if random.Random(f"{seed}/{e.group}/{e.id}").random() < math.exp((e.total - best) / beta)]


CHOICES: dict[str, Callable[..., list[Episode]]] = {"all": everything, "top": top, "passed": passed, "best_worst": best_worst, "accepted": accepted}


def reliability(kept: Sequence[tuple[float, float]]) -> float:
    """R² between proxy and true rewards of the samples that a filter keeps: by it a filter is chosen."""
    proxy, true = np.array(kept, dtype=np.float64).T
    if proxy.std() == 0 or true.std() == 0:
        return 0.0
    return float(np.corrcoef(proxy, true)[0, 1] ** 2)


# Pairs


def pairs_of(group: list[Episode], how: str = "best_worst", gap: float = 1e-9) -> list[tuple[Episode, Episode]]:
    """Preferred and other of one group: the best against the worst, or every two whose returns differ by more than ``gap``."""
    order = sorted((e for e in group if valid(e)), key=lambda e: -e.total)
    if how == "best_worst":
        return [(order[0], order[-1])] if len(order) > 1 and order[0].total - order[-1].total > gap else []
    return [(a, b) for i, a in enumerate(order) for b in order[i + 1 :] if a.total - b.total > gap]
