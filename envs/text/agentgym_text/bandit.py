"""``text/bandit-v0``: bandits in words. After "When Greedy Wins: Emergent Exploitation Bias in Meta-Bandit LLM Training".

Beside the five rewards there are ``raw`` (what each pull pays), ``regret`` (how near the pulled arm is to the best, by their true means) and
``imitation`` (1 where the pull is the one that UCB1 would make after the same history).
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import msgspec
from agentgym_verifiers.rules import Noted

from agentgym.core import AgentEnv, Capabilities, Limits, StopReason, Task, TaskSet, Verifier
from agentgym.errors import UsageError
from agentgym.rewards import Spec, outcome, standard, step
from agentgym_text.base import End, LineEnv, Said

ARMS = ("red", "blue", "green", "yellow", "purple", "orange", "white", "black", "brown", "pink")
COUNT = {"train": 2000, "dev": 200, "test": 400}
ENOUGH = 0.5
"""Who avoids this share of the regret of pulling at random has succeeded."""


class BanditEnv(LineEnv):
    """Arms that pay 1 or 0. Options: ``horizon`` (pulls), ``arms`` (2 to 10; default: by the task), ``summary`` (show what each arm paid so far)."""

    id = "text/bandit-v0"
    capabilities = Capabilities(snapshot=True)
    verifiers: ClassVar[Mapping[str, Verifier]] = {
        **{fact: Noted(fact=fact) for fact in ("pay", "nearness", "ucb", "greedy")}, "saved": Noted(fact="saved", kept=True), "result": End(),
    }  # fmt: skip
    rewards: ClassVar[Mapping[str, Spec]] = {
        **standard(outcome("result"), 0.02 * step("nearness"), step("saved")),
        "raw": 0.1 * step("pay"),
        "regret": 0.1 * step("nearness"),
        "imitation": 0.1 * step("ucb"),
    }

    def __init__(self, *, horizon: int = 30, arms: int = 0, summary: bool = False, **base: Any) -> None:
        if not 2 <= horizon <= 10_000 or not (arms == 0 or 2 <= arms <= len(ARMS)):
            raise UsageError(f"a bandit has 2 to 10,000 pulls and 2 to {len(ARMS)} arms, not {horizon} and {arms}")
        self._horizon, self._arms, self._summary = horizon, arms, summary
        super().__init__(**base)

    def tasks(self, split: str) -> TaskSet:
        """Arms and their means drawn by number."""
        return TaskSet([f"{split}/{i:04d}" for i in range(COUNT[split])], lambda name: _task(split, name, self._horizon, self._arms))

    def _open(self, task: Task) -> Said:
        if self.episode.seed is None:
            self.episode.seed = int(self.np_random.integers(1 << 31))
        self._seed = self.episode.seed
        self._means: dict[str, float] = dict(zip(task.data["arms"], task.data["means"], strict=True))
        self._pulls, self._paid = dict.fromkeys(self._means, 0), dict.fromkeys(self._means, 0)
        self._order: list[str] = []
        self._regret, self._greedy = 0.0, 0
        return Said(task.instruction, "nothing pulled yet")

    def _luck(self) -> str:
        return f"|{self._seed}"

    def _kept(self) -> int:
        return self._seed

    def _keep(self, kept: int) -> None:
        self.episode.seed = kept

    def fork(self, n: int, reseed: int | None = None) -> list[AgentEnv]:
        """Forks; with ``reseed`` the arms pay each of them otherwise from here on."""
        forks = super().fork(n, reseed)
        for env in forks:
            assert isinstance(env, BanditEnv)
            if reseed is not None:
                env._seed = int(env.np_random.integers(1 << 31))
                env._show(msgspec.structs.replace(env._shown, state=env._chain.hex() + env._luck()))
        return forks

    def _say(self, line: str) -> Said:
        if line not in self._means:
            return Said(f"error: {line[:40]!r} is none of the arms: {', '.join(self._means)}", self._seen(), malformed=True)
        best = max(self._means.values())
        greedy, ucb = line in self._best_so_far(), line == self._ucb()
        pays = int(random.Random(f"{self._seed}/{line}/{self._pulls[line]}").random() < self._means[line])
        self._pulls[line] += 1
        self._paid[line] += pays
        self._order.append(line)
        self._regret += best - self._means[line]
        self._greedy += greedy
        left = self.task.data["horizon"] - len(self._order)
        facts = {"pay": float(pays), "nearness": self._means[line] / best, "ucb": float(ucb), "greedy": float(greedy), "saved": self._saved()}
        text = f"{line} paid {pays}; {left} pulls left" + (f"\n{self._seen()}" if self._summary else "")
        return Said(text, self._seen(), StopReason.DONE if left == 0 else None, facts=facts)

    def _seen(self) -> str:
        return ", ".join(f"{arm} {self._paid[arm]} of {n}" for arm, n in self._pulls.items())

    def _best_so_far(self) -> list[str]:
        """The arms with the best mean so far; those never pulled count as none."""
        means = {a: self._paid[a] / n for a, n in self._pulls.items() if n}
        return [a for a, m in means.items() if m == max(means.values())]

    def _ucb(self) -> str:
        """The arm that UCB1 pulls next: the first that was never pulled, else the highest upper bound."""
        fresh = next((a for a, n in self._pulls.items() if not n), None)
        total = sum(self._pulls.values())
        return fresh or max(self._pulls, key=lambda a: self._paid[a] / self._pulls[a] + math.sqrt(2 * math.log(total) / self._pulls[a]))

    def _saved(self) -> float:
        """How much of the regret of pulling at random, over the whole horizon, was avoided by the pulls so far."""
        gaps = max(self._means.values()) - sum(self._means.values()) / len(self._means)
        horizon: int = self.task.data["horizon"]
        return max(0.0, (gaps * len(self._order) - self._regret) / (gaps * horizon))

    def _artefacts(self) -> Mapping[str, bytes]:
        n, horizon = len(self._order), self.task.data["horizon"]
        best = max(self._means, key=self._means.__getitem__)
        told = {
            "value": min(1.0, self._saved() / ENOUGH), "saved": self._saved(), "regret_per_pull": self._regret / max(1, n), "pulls": n,
            "early_failure": float(n == horizon and best not in self._order[n // 2 :]), "greedy_rate": self._greedy / max(1, n),
            "best_rate": self._order.count(best) / max(1, n), "mean_pay": sum(self._paid.values()) / max(1, n),
        }  # fmt: skip
        return {"end.json": msgspec.json.encode(told)}

    def choices(self) -> Sequence[str]:
        """The arms."""
        return tuple(self._means)

    def oracle(self) -> Iterator[str]:
        """Who knows the means: the best arm, always."""
        self._require_running()
        best = max(self._means, key=self._means.__getitem__)
        return iter([best] * (self.task.data["horizon"] - len(self._order)))

    def player(self) -> Iterator[str]:
        """UCB1, which knows no more than it has seen."""
        self._require_running()
        while self._status == "running":
            yield self._ucb()


def _task(split: str, name: str, horizon: int, arms: int) -> Task:
    dice = random.Random(f"bandit/{name}")
    n = arms or dice.choice((3, 5, 8))
    chosen = dice.sample(ARMS, n)
    gap = dice.choice((0.2, 0.4, 0.6))
    top = round(dice.uniform(gap + 0.15, 0.95), 3)
    means = [round(top - gap - dice.uniform(0, min(0.1, top - gap)), 3) for _ in chosen]
    means[dice.randrange(n)] = top
    said = f"There are {n} arms: {', '.join(chosen)}. Each pays 1 or 0 with a chance of its own. You have {horizon} pulls: answer with the name of an arm."
    data = {"arms": chosen, "means": means, "horizon": horizon, "number": name}
    return Task(name, said, split, data, Limits(max_turns=horizon + 5, max_malformed=5), kind=f"{n}-arms")
