"""Where a step's episodes come from: rounds of rollouts as the sampler plans them, or a stored run."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import anyio
import msgspec

from agentgym.core import AgentEnv, Policy
from agentgym.episode import Episode, read_episodes
from agentgym.errors import CapabilityError, UsageError
from agentgym.evaluation.run import provenance
from agentgym.game import GameEnv
from agentgym.registry import make
from agentgym.rollout import Job, Keep, Rollout
from agentgym_trainers.algorithm import Algorithm, options_of, parts
from agentgym_trainers.config import TrainConfig
from agentgym_trainers.parallel import gathered, rank, world
from agentgym_trainers.rewrite import Hinted, answer_of, critique_of, learned_from, retold, spliced
from agentgym_trainers.run import Run
from agentgym_trainers.sampler import Fixed, Groups, Growing, Prioritised, Shuffle, Wanted
from agentgym_trainers.seats import Pool, Table, trainable
from agentgym_trainers.streams import valid
from agentgym_trainers.supervised import oracle_episode, tokenize


def make_curriculum(algorithm: Algorithm, config: TrainConfig, env: AgentEnv) -> Shuffle:
    """The curriculum of an algorithm over the tasks of an environment's split."""
    ids = list(env.taskset.ids())
    if algorithm.curriculum == "growing":
        with closing(make(config.env, split=config.split, **config.option)) as oracle:
            lengths = _oracle_lengths(oracle, ids)
        return Growing(ids, config.seed, lengths.__getitem__, **options_of(algorithm, Growing))
    if algorithm.curriculum in ("difficulty", "regret"):
        return Prioritised(ids, config.seed, algorithm.curriculum, **options_of(algorithm, Prioritised))
    return Shuffle(ids, config.seed)


def _oracle_lengths(env: AgentEnv, ids: Sequence[str]) -> dict[str, float]:
    """How many turns the oracle takes on each task, or, where that is the same for all, how much it reads.

    Where kinds tell tasks apart, one of each kind is measured.
    """
    kinds = {task: env.taskset.get(task).kind or task for task in ids}
    turns, read = dict[str, float](), dict[str, float]()
    for task, kind in kinds.items():
        if kind not in turns:
            played = oracle_episode(env, task)
            turns[kind] = float(len(played.turns)) if played is not None else float(env.limits.max_turns)
            read[kind] = float(sum(len(m["content"]) for t in played.turns for m in t.observation)) if played is not None else math.inf
    of = turns if len(set(turns.values())) > 1 else read
    return {task: of[kind] for task, kind in kinds.items()}


def _whole(group: str | None) -> str:
    """A group with all the seats of its matches."""
    return (group or "").partition("@")[0]


ROUNDS = 64
"""More rounds in a step are not asked for, whatever a sampler wants; those that are here end long before."""


class Collector:
    """Samples the groups of a step. What it draws and stores is a function of the step and of what the curriculum has learned."""

    def __init__(self, run: Run, config: TrainConfig, algorithm: Algorithm, keep: Keep) -> None:
        self.run, self.config, self.algorithm, self.keep = run, config, algorithm, keep
        chosen = parts(algorithm)
        self.sampler: Fixed = chosen["sampler"](config.groups, config.group_size, **options_of(algorithm, chosen["sampler"]))
        self.choose: Callable[..., list[Episode]] = chosen["choose"]
        self.chosen = options_of(algorithm, chosen["choose"])
        self.table: Table | None = None
        if trainable(config):
            assert isinstance(run.env, GameEnv)
            self.table = Table(config, run.env, Pool(config, run.out, run.renderer))
        self.shown: dict[str, Episode | None] = {}
        self.shown_so_far = 0

    @cached_property
    def demonstrator(self) -> AgentEnv:
        """The environment that its oracle plays in, and replays; made when it is first needed."""
        return make(self.config.env, split=self.config.split, **self.config.option)

    async def close(self) -> None:
        """End what was made."""
        await anyio.lowlevel.checkpoint()
        if "demonstrator" in vars(self):
            self.demonstrator.close()

    async def step(self, step: int) -> list[Episode]:
        """All episodes that step ``step`` is to learn from."""
        have: Groups = {}
        curriculum = self.run.curriculum
        assert curriculum is not None
        for round in range(ROUNDS):
            wanted = self.sampler.more(have, curriculum.draw, round)
            if not wanted:
                break
            for episode in await self.play(step, wanted, have, self.run.engine, step):
                have.setdefault(episode.task, []).append(episode)
        for task, group in have.items():
            curriculum.learn(task, [e.total for e in group if valid(e)])
        if self.algorithm.hint:
            await self._refine(step, have)
        kept, note = self.sampler.kept(have)
        if note:
            self.run.said.append(f"step {step + 1}: {note}")
        return self.picked(kept)

    async def play(self, number: int, wanted: Wanted, have: Groups, policy: Policy, update: int, hint: str = "") -> list[Episode]:
        """Roll out further episodes of tasks. ``number`` is this call's or its step's: seeds are drawn by it; ``update`` sets the budget.

        ``hint`` is noted in the records: their tokens were sampled after a prompt that is not the environment's.
        """
        jobs: list[Job] = []
        already = {task: len(group) for task, group in have.items()}
        for task, n in wanted:
            for _ in range(n):
                nth = already[task] = already.get(task, 0) + 1
                seed = (self.config.seed * 1_000_003 + number) * 4096 + sum(map(len, have.values())) + len(jobs)
                jobs.append(Job(task, number * 1000 + nth - 1, seed, f"{number}.{task}"))
        learned = None
        if self.table is not None:
            jobs, policy, learned = await self.table.seat(jobs, policy, update)
        limits, longest = self._budget(update)
        noted = {**provenance(), "hint": hint} if hint else provenance()
        options: dict[str, Any] = self.table.option() if self.table else {}
        if limits:
            options["limits"] = {**dict(self.config.option.get("limits") or {}), **limits}
        rollout = Rollout(
            make=partial(self.run.environment, **options), policy=policy, concurrency=len(jobs),
            max_tokens=longest, late=self.run.late, quarantine=self.run.quarantine, keep=self.keep, provenance=noted,
        )  # fmt: skip
        played = await self._shared(rollout, jobs)
        return played if learned is None else [e for e in played if e.group in learned]

    async def _shared(self, rollout: Rollout, jobs: list[Job]) -> list[Episode]:
        """Roll out; in several processes each its share of the groups (the first all of them, where the reward has a state of its own)."""
        if world() == 1:
            return await rollout.run(jobs)
        names = list(dict.fromkeys(_whole(j.group) for j in jobs))
        owner = {name: 0 if self.run.late is not None else i % world() for i, name in enumerate(names)}
        mine = await rollout.run([j for j in jobs if owner[_whole(j.group)] == rank()])
        others = [e for r, part in enumerate(gathered(mine)) if r != rank() for e in part]
        if self.keep.episodes is not None:
            await self.keep.episodes.append(*others)
        self.run.engine.generated += sum(sum(t.tokens.mask) for e in others for t in e.turns if t.tokens)
        found = {(e.task, e.attempt, e.group): e for e in (*mine, *others)}
        return [found[(*j.key, j.group)] for j in jobs]

    def _budget(self, update: int) -> tuple[dict[str, int], int]:
        """The environment's limits and the longest action at an update."""
        at = {name: round(a + (b - a) * min(1.0, update / max(1, over))) for name, (a, b, over) in self.algorithm.budget.items()}
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
        """For each failed episode of a group its splice with a successful sibling, replayed, paid, and with tokens; the recovery alone is learned."""
        good = next((e for e in group if e.success and valid(e)), None)
        out = []
        for bad in group:
            found = spliced(bad, good, self.demonstrator) if good is not None else None
            if found is not None:
                made, wrong = found
                made = msgspec.structs.replace(made, id=f"{bad.id}+{made.id}", group=bad.group)
                made.terms = self.run.env.reward.settle([made])[0]
                out.append(learned_from(tokenize(made, self.run.renderer, self.demonstrator), wrong))
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
        for episode in await self.play(step, [(t, max(1, self.config.group_size // 4)) for t in hints], have, policy, step, self.algorithm.hint):
            have[episode.task].append(retold(episode, self.run.renderer, tools) if valid(episode) else episode)

    def demonstrate(self, n: int) -> list[Episode]:
        """Oracle episodes with tokens, of the next ``n`` tasks with an oracle of a shuffle of their own.

        Raises:
            CapabilityError: none of the tasks has one.
        """
        ids, out = list(self.demonstrator.taskset.ids()), list[Episode]()
        while len(out) < n:
            task = ids[(self.shown_so_far * 7919) % len(ids)]
            self.shown_so_far += 1
            if task not in self.shown:
                played = oracle_episode(self.demonstrator, task)
                self.shown[task] = None if played is None else tokenize(played, self.run.renderer, self.demonstrator)
            shown = self.shown[task]
            if shown is not None:
                out.append(shown)
            elif len(self.shown) == len(ids) and not any(self.shown.values()):
                raise CapabilityError(f"no task of {self.demonstrator.id} has an oracle to learn from")
        return out


class Stored:
    """Groups of a stored run or bundle, in a seeded order, again and again: nothing is sampled.

    What was sampled with a hint is left out. What was paid by another reward is paid again by this run's.

    Raises:
        UsageError: there is nothing in the folder that can be trained on with this model, or it is of another environment.
    """

    def __init__(self, folder: str, collector: Collector) -> None:
        path = Path(folder) / "episodes.jsonl"
        if not path.is_file():
            raise UsageError(f"{folder} holds no episodes.jsonl; give a run's folder or an unpacked bundle")
        found = [e for e in read_episodes(path) if valid(e) and not e.provenance.get("hint")]
        run = collector.run
        if other := sorted({e.env for e in found} - {run.env.id}):
            raise UsageError(f"{folder} holds episodes of {', '.join(other)}, not of {run.env.id}")
        size = len(run.renderer.tokenizer)
        if not found or any(i >= size for e in found for t in e.turns if t.tokens for i in t.tokens.ids):
            raise UsageError(f"{folder} has no episodes whose tokens are this model's; record them with a policy that owns weights (hf:PATH)")
        self.groups: Groups = {}
        for episode in found:
            self.groups.setdefault(episode.group or episode.task, []).append(episode)
        for group in self.groups.values():
            if any(e.reward != run.env.reward_name for e in group):
                for episode, terms in zip(group, run.env.reward.settle(group), strict=True):
                    episode.terms = terms
        self.order, self.collector = Shuffle(sorted(self.groups), collector.config.seed), collector

    async def step(self, step: int) -> list[Episode]:
        """The groups of step ``step``."""
        await anyio.lowlevel.checkpoint()
        self.order.drawn = step * self.collector.config.groups
        have = {name: self.groups[name] for name in dict.fromkeys(self.order.draw(self.collector.config.groups))}
        return self.collector.picked(self.collector.sampler.kept(have)[0])

    async def close(self) -> None:
        """End what was made for it."""
        await self.collector.close()
