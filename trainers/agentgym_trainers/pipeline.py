"""Sampling beside learning: groups are played on weights that are at most so many updates old, while the learner works on earlier ones.

Group n belongs to batch n // G and is begun once that is at most version + staleness (the capacity rule of "AReaL: A Large-Scale
Asynchronous Reinforcement Learning System for Language Reasoning"). New weights reach conversations that are under way: every token says
which version sampled it.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from agentgym.episode import Episode
from agentgym.errors import UsageError
from agentgym_trainers.collect import Collector
from agentgym_trainers.config import TrainConfig
from agentgym_trainers.run import Run
from agentgym_trainers.streams import valid


@dataclass
class _Group:
    """One group under way: what it was begun with, and its task."""

    number: int
    version: int
    name: str
    task: asyncio.Task[list[Episode]]


class Pipeline:
    """Batches for a learner that does not wait. ``stragglers`` says what becomes of groups that lag behind their batch.

    ``wait``: a batch is complete with its own groups. ``carry``: with any groups that are done; those that would grow too old are waited
    for. ``cut``: the same, but what would grow too old is ended and learned by nobody.
    """

    def __init__(self, run: Run, config: TrainConfig, collector: Collector) -> None:
        if run.late is not None and run.late.scope == "batch":
            raise UsageError("--staleness: the reward compares whole batches, which are only known in turn; use --staleness 0")
        self.run, self.config, self.collector = run, config, collector
        self.version, self.begun, self.cut = run.step, run.step * config.groups, 0
        self.under_way: dict[int, _Group] = {}
        run.engine.sync(run.model, str(run.step))

    def _launch(self) -> None:
        curriculum = self.run.curriculum
        assert curriculum is not None
        while (batch := self.begun // self.config.groups) <= min(self.version + self.config.staleness, self.config.steps - 1):
            name = curriculum.draw(1)[0]
            play = self.collector.play(self.begun, [(name, self.config.group_size)], {}, self.run.engine, batch)
            self.under_way[self.begun] = _Group(self.begun, self.version, name, asyncio.create_task(play))
            self.begun += 1

    def publish(self, version: int) -> None:
        """The learner's weights are now those of ``version``: sample with them from here on."""
        self.version = version
        self.run.engine.sync(self.run.model, str(version))
        self._launch()

    async def step(self, step: int) -> list[Episode]:
        """The groups that update ``step`` learns from; none holds a token older than the bound."""
        self._launch()
        chosen = await self._complete(step)
        episodes: list[Episode] = []
        curriculum = self.run.curriculum
        assert curriculum is not None
        for group in chosen:
            del self.under_way[group.number]
            played = group.task.result()
            curriculum.learn(group.name, [e.total for e in played if valid(e)])
            episodes += played
        return self.collector.picked(episodes)

    async def _complete(self, step: int) -> list[_Group]:
        wanted = self.config.groups
        while True:
            groups = sorted(self.under_way.values(), key=lambda g: g.number)
            if self.config.stragglers == "wait":
                due = [g for g in groups if g.number // wanted <= step]
                await asyncio.gather(*(g.task for g in due))
                return due
            overdue = [g for g in groups if not g.task.done() and step - g.version >= self.config.staleness]
            if self.config.stragglers == "cut" and len(groups) - len(overdue) >= wanted:
                for group in overdue:
                    group.task.cancel()
                    del self.under_way[group.number]
                    self.cut += 1
                    self.run.said.append(f"step {step + 1}: cut the group of {group.name}, which would have grown too old")
                overdue = []
            done = [g for g in groups if g.task.done() and g.number in self.under_way]
            urgent = [g for g in done if step - g.version >= self.config.staleness]
            if not overdue and (len(done) >= wanted or len(done) == len(self.under_way)):
                return sorted(done, key=lambda g: (g not in urgent, g.number))[: max(wanted, len(urgent))]
            pending = [g.task for g in groups if not g.task.done() and g.number in self.under_way]
            await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)

    async def close(self) -> None:
        """End what is under way."""
        tasks = [g.task for g in self.under_way.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.under_way.clear()
        await self.collector.close()
