"""Where a step's episodes come from: rounds of rollouts as the sampler plans them, or a stored run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import anyio
import msgspec

from agentgym.core import AgentEnv, Policy
from agentgym.episode import Episode, read_episodes
from agentgym.errors import UsageError
from agentgym.evaluation.run import provenance
from agentgym.registry import make
from agentgym.rollout import Job, Keep, Rollout
from agentgym_trainers.algorithm import Algorithm, options_of, parts
from agentgym_trainers.config import TrainConfig
from agentgym_trainers.parallel import gathered, rank, world
from agentgym_trainers.rewrite import Hinted, answer_of, critique_of, retold, scripted, spliced
from agentgym_trainers.run import Run, reward_of
from agentgym_trainers.sampler import Fixed, Groups, Growing, Prioritised, Shuffle
from agentgym_trainers.streams import valid
from agentgym_trainers.supervised import oracle_episode, tokenize


def make_curriculum(algorithm: Algorithm, config: TrainConfig, env: AgentEnv) -> Shuffle:
    """The curriculum of an algorithm over the tasks of an environment's split."""
    ids = list(env.taskset.ids())
    if algorithm.curriculum == "growing":
        oracle = make(config.env, split=config.split, **config.option)
        found = Growing(ids, config.seed, lambda t: lengths[t], **options_of(algorithm, Growing)) if (lengths := _oracle_lengths(oracle, ids)) else None
        oracle.close()
        assert found is not None
        return found
    if algorithm.curriculum in ("difficulty", "regret"):
        return Prioritised(ids, config.seed, algorithm.curriculum, **options_of(algorithm, Prioritised))
    return Shuffle(ids, config.seed)


def _oracle_lengths(env: AgentEnv, ids: Sequence[str]) -> dict[str, float]:
    """How many turns the oracle takes on each task: where kinds tell tasks apart, one of each kind is measured."""
    seen: dict[str, float] = {}
    out: dict[str, float] = {}
    for task in ids:
        kind = env.taskset.get(task).kind or task
        if kind not in seen:
            seen[kind] = float(len(oracle_episode(env, task).turns))
        out[task] = seen[kind]
    return out


class Collector:
    """Samples the groups of a step. What it draws and stores is a function of the step and of what the curriculum has learned."""

    def __init__(self, run: Run, config: TrainConfig, algorithm: Algorithm, keep: Keep) -> None:
        self.run, self.config, self.algorithm, self.keep = run, config, algorithm, keep
        chosen = parts(algorithm)
        self.sampler: Fixed = chosen["sampler"](config.groups, config.group_size, **options_of(algorithm, chosen["sampler"]))
        self.choose: Callable[..., list[Episode]] = chosen["choose"]
        self.chosen = options_of(algorithm, chosen["choose"])
        self.reward = reward_of(config, algorithm)
        self.demonstrator = make(config.env, split=config.split, **config.option)
        self.shown: dict[str, Episode] = {}
        self.shown_so_far = 0

    async def step(self, step: int) -> list[Episode]:
        """All episodes that step ``step`` is to learn from."""
        have: Groups = {}
        curriculum = self.run.curriculum
        assert curriculum is not None
        for round in range(64):
            wanted = self.sampler.more(have, curriculum.draw, round)
            if not wanted:
                break
            for episode in await self.play(step, wanted, have, self.run.engine):
                have.setdefault(episode.task, []).append(episode)
        for task, group in have.items():
            curriculum.learn(task, [e.total for e in group if valid(e)])
        if self.algorithm.hint:
            await self._refine(step, have)
        kept, note = self.sampler.kept(have)
        if note:
            self.run.said.append(f"step {step + 1}: {note}")
        return self.picked(kept)

    async def play(self, step: int, wanted: Sequence[tuple[str, int]], have: Groups, policy: Policy) -> list[Episode]:
        """Roll out further episodes of tasks."""
        jobs: list[Job] = []
        already = {task: len(group) for task, group in have.items()}
        for task, n in wanted:
            for _ in range(n):
                number = already[task] = already.get(task, 0) + 1
                seed = (self.config.seed * 1_000_003 + step) * 4096 + sum(map(len, have.values())) + len(jobs)
                jobs.append(Job(task, step * 1000 + number - 1, seed, f"{step}.{task}"))
        limits, longest = self._budget(step)
        options = {**self.config.option, **({"limits": {**dict(self.config.option.get("limits") or {}), **limits}} if limits else {})}
        rollout = Rollout(
            make=lambda: make(self.config.env, split=self.config.split, reward=self.reward, **options), policy=policy, concurrency=len(jobs),
            max_tokens=longest, late=self.run.late, quarantine=self.run.quarantine, keep=self.keep, provenance=provenance(),
        )  # fmt: skip
        return await self._shared(rollout, jobs)

    async def _shared(self, rollout: Rollout, jobs: list[Job]) -> list[Episode]:
        """Roll out; in several processes each its share of the groups (the first all of them, where the reward has a state of its own)."""
        if world() == 1:
            return await rollout.run(jobs)
        names = list(dict.fromkeys(j.group for j in jobs))
        owner = {name: 0 if self.run.late is not None else i % world() for i, name in enumerate(names)}
        mine = await rollout.run([j for j in jobs if owner[j.group] == rank()])
        others = [e for r, part in enumerate(gathered(mine)) if r != rank() for e in part]
        if self.keep.episodes is not None:
            await self.keep.episodes.append(*others)
        self.run.engine.generated += sum(sum(t.tokens.mask) for e in others for t in e.turns if t.tokens)
        found = {(e.task, e.attempt): e for e in (*mine, *others)}
        return [found[j.key] for j in jobs]

    def _budget(self, step: int) -> tuple[dict[str, int], int]:
        """The environment's limits and the longest action at a step."""
        at = {name: round(a + (b - a) * min(1.0, step / max(1, over))) for name, (a, b, over) in self.algorithm.budget.items()}
        longest = min(self.config.max_tokens, at.pop("max_tokens", self.config.max_tokens))
        return at, longest

    def picked(self, episodes: list[Episode]) -> list[Episode]:
        """Those of each group that the choice keeps, and what is spliced from it."""
        groups: Groups = {}
        for episode in episodes:
            groups.setdefault(episode.group or episode.task, []).append(episode)
        made = [e for group in groups.values() for e in self._spliced(group)] if self.algorithm.splice else []
        return [*(e for group in groups.values() for e in self.choose(group, **self.chosen)), *made]

    def _spliced(self, group: list[Episode]) -> list[Episode]:
        """For each failed episode of a group its splice with a successful sibling, replayed and with tokens."""
        good = next((e for e in group if e.success and valid(e)), None)
        out = []
        for bad in group:
            actions = spliced(bad, good, self.demonstrator) if good is not None and not bad.success else None
            if actions is not None:
                made = tokenize(scripted(actions, self.demonstrator, bad.task, bad.seed), self.run.renderer, self.demonstrator)
                whole = [t for t in self.run.env.reward.at(made, len(made.turns) - 1)]
                out.append(msgspec.structs.replace(made, id=f"{bad.id}+{made.id}", group=bad.group, terms=whole))
        return out

    async def _refine(self, step: int, have: Groups) -> None:
        """Further attempts at what failed, told why, or how it is done; then told again without that."""
        failed = {t: g for t, g in have.items() if g and not any(e.success for e in g)}
        if self.algorithm.hint == "answer":
            hints = {t: answer_of(self.demonstrator, t) for t in failed}
        else:
            hints = {t: critique_of(g[0]) for t, g in failed.items()}
        if not hints:
            return
        tools = [t.spec for t in self.run.env.tools.values()]
        policy: Any = Hinted(self.run.engine, hints)
        for episode in await self.play(step, [(t, max(1, self.config.group_size // 4)) for t in hints], have, policy):
            have[episode.task].append(retold(episode, self.run.renderer, tools) if valid(episode) else episode)

    def demonstrate(self, n: int) -> list[Episode]:
        """Oracle episodes with tokens, of the next ``n`` tasks of a shuffle of their own."""
        ids = list(self.demonstrator.taskset.ids())
        out = []
        for _ in range(n):
            task = ids[(self.shown_so_far * 7919) % len(ids)]
            self.shown_so_far += 1
            if task not in self.shown:
                self.shown[task] = tokenize(oracle_episode(self.demonstrator, task), self.run.renderer, self.demonstrator)
            out.append(self.shown[task])
        return out


class Stored:
    """Groups of a stored run or bundle, in a seeded order, again and again: nothing is sampled.

    Raises:
        UsageError: there is nothing in the folder that can be trained on with this model.
    """

    def __init__(self, folder: str, collector: Collector) -> None:
        path = Path(folder) / "episodes.jsonl"
        if not path.is_file():
            raise UsageError(f"{folder} holds no episodes.jsonl; give a run's folder or an unpacked bundle")
        found = [e for e in read_episodes(path) if valid(e)]
        size = len(collector.run.renderer.tokenizer)
        if not found or any(i >= size for e in found for t in e.turns if t.tokens for i in t.tokens.ids):
            raise UsageError(f"{folder} has no episodes whose tokens are this model's; record them with a policy that owns weights (hf:PATH)")
        self.groups: Groups = {}
        for episode in found:
            self.groups.setdefault(episode.group or episode.task, []).append(episode)
        self.order, self.collector = Shuffle(sorted(self.groups), collector.config.seed), collector

    async def step(self, step: int) -> list[Episode]:
        """The groups of step ``step``."""
        await anyio.lowlevel.checkpoint()
        self.order.drawn = step * self.collector.config.groups
        have = {name: self.groups[name] for name in dict.fromkeys(self.order.draw(self.collector.config.groups))}
        return self.collector.picked(self.collector.sampler.kept(have)[0])
