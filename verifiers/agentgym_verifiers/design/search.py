"""The search for a reward: a designer writes, a critic reads, a sandbox tries, the environment's own verdict decides; the designer hears of the best."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import anyio
import msgspec
import numpy as np
from msgspec import Struct

from agentgym.core import Conversation, EpisodeView, Policy
from agentgym.episode import Episode
from agentgym.errors import Fault
from agentgym.evaluation.verifiers import best_of_n, rank_correlation
from agentgym.messages import Message
from agentgym.rewards.spec import Spec
from agentgym.rewards.text import load
from agentgym_verifiers.design.code import Field, Refused, dry_run, prompt_of, save

Fitness = Callable[[str, list[list[float]]], Awaitable[tuple[float, str]]]
"""How good a candidate (its code, its rewards on the recorded episodes) truly is, and what to tell the designer of it."""

Ranker = Callable[[Sequence[EpisodeView]], Awaitable[Sequence[float]]]
"""Numbers for episodes, the best highest: a person, or a judge. It sees episodes, and no code."""


class Candidate(Struct):
    """One that was tried. ``fitness`` is true success; None where it was refused, and why."""

    generation: int
    code: str
    fitness: float | None = None
    why: str = ""
    rewards: list[list[float]] = []


class Found(Struct):
    """All candidates in the order of trial, the best fitness after each generation, how often a model was asked, and a ranker."""

    candidates: list[Candidate]
    best: list[float]
    asked: int = 0
    ranked: int = 0

    @property
    def winner(self) -> Candidate | None:
        """The one of highest fitness, the earliest of equals."""
        known = [c for c in self.candidates if c.fitness is not None]
        return max(known, key=lambda c: (c.fitness or 0.0, -self.candidates.index(c))) if known else None


async def search(
    designer: Policy, fields: Sequence[Field], goal: str, episodes: Sequence[Episode], fitness: Fitness, *,
    generations: int = 3, candidates: int = 4, seed: int = 0,
) -> Found:  # fmt: skip
    """Generations of candidates; each hears of the best so far and of what was refused. Fitness never is the candidate's own reward.

    Sources: "Eureka: Human-Level Reward Design via Coding Large Language Models", "Text2Reward: Automated Dense Reward Function Generation for
    Reinforcement Learning", "Auto MC-Reward: Automated Dense Reward Design with Large Language Models for Minecraft".
    """
    found = Found([], [])
    for generation in range(generations):
        prompts = [_prompt(fields, goal, found) for _ in range(candidates)]
        codes, silent = [""] * candidates, dict[int, str]()

        async def write(i: int, prompts: list[str] = prompts, codes: list[str] = codes, silent: dict[int, str] = silent, generation: int = generation) -> None:
            asked: list[Message] = [{"role": "user", "content": prompts[i]}]
            try:
                said = await designer.act(Conversation(f"design-{generation}-{i}", asked, seed=seed + 1009 * generation + i))
            except Fault as error:
                silent[i] = f"not written: {error}"
            else:
                codes[i] = code_in(said.action)

        async with anyio.create_task_group() as group:
            for i in range(candidates):
                group.start_soon(write, i)
        found.asked += candidates
        for i, code in enumerate(codes):
            candidate = Candidate(generation, code, why=silent.get(i, ""))
            found.candidates.append(candidate if candidate.why else await _tried(candidate, fields, episodes, fitness))
        found.best.append(max((c.fitness for c in found.candidates if c.fitness is not None), default=0.0))
    return found


async def _tried(candidate: Candidate, fields: Sequence[Field], episodes: Sequence[Episode], fitness: Fitness) -> Candidate:
    try:
        candidate.rewards = await anyio.to_thread.run_sync(dry_run, candidate.code, fields, episodes)
    except Refused as error:
        candidate.why = f"refused: {error}"
        return candidate
    try:
        candidate.fitness, candidate.why = await fitness(candidate.code, candidate.rewards)
    except Fault as error:
        candidate.why = f"it could not be tried: {error}"
    return candidate


def _prompt(fields: Sequence[Field], goal: str, found: Found) -> str:
    """The description, the best so far with what came of it, and the last refusals."""
    text = prompt_of(fields, goal)
    if (best := found.winner) is not None:
        text += f"\n\nThe best so far has true success {best.fitness:.3f}. {best.why}\n\n{best.code}\n\nWrite a better one."
    refused = [c for c in found.candidates if c.fitness is None and c.code][-2:]
    return text + "".join(f"\n\nThis one was {c.why}\n\n{c.code}" for c in refused)


def code_in(text: str) -> str:
    """The code of an answer: the last fenced block, else all of it."""
    blocks = re.findall(r"```(?:python)?\n(.*?)```", text, re.DOTALL)
    return str(blocks[-1] if blocks else text).strip()


def by_choice(episodes: Sequence[Episode], n: int = 4) -> Fitness:
    """Fitness without training: the true success of what the reward likes best of ``n`` attempts at a task, over recorded episodes."""
    tasks: dict[str, list[int]] = {}
    for i, e in enumerate(episodes):
        tasks.setdefault(e.task, []).append(i)

    async def fitness(code: str, rewards: list[list[float]]) -> tuple[float, str]:
        await anyio.lowlevel.checkpoint()
        total = np.array([sum(r) for r in rewards])
        won = np.array([float(e.success) for e in episodes])
        share = float(np.mean([best_of_n(total[at], won[at], min(n, len(at))) for at in map(np.array, tasks.values())]))
        agrees = rank_correlation(list(zip(total.tolist(), won.tolist(), strict=True)))
        told = "its sums do not differ" if agrees is None else f"its sums agree with true success by {agrees:+.2f} (rank correlation)"
        return share, f"On recorded episodes {told}; mean sum {total.mean():+.2f}."

    return fitness


def by_training(arguments: Sequence[str], fields: Sequence[Field], weight: float = 0.2) -> Fitness:
    """Fitness by a short training run: held-out success, by the environment's own verdict, after ``agentgym train`` with the candidate beside the outcome.

    ``arguments`` are those of the command line (``--env tools/desk --steps 10 …``).
    """

    async def fitness(code: str, rewards: list[list[float]]) -> tuple[float, str]:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "reward.json"
            save(path, code, fields)
            reward = f"outcome('task') + {weight} * late('written:{path}')"
            command = [sys.executable, "-m", "agentgym", "train", *arguments, "--reward", reward, "--out", f"{folder}/run", "--json"]
            done = await anyio.run_process(command, check=False, stderr=subprocess.PIPE)
            if done.returncode:
                raise Fault(f"training failed: {done.stderr.decode()[-300:]}")
            result: Any = json.loads(done.stdout)
        before, after = (float(result[k]["success"]["mean"]) for k in ("before", "after"))
        return after, f"Training with it took held-out success from {before:.3f} to {after:.3f}."

    return fitness


def by_ranking(episodes: Sequence[EpisodeView], ranker: Ranker, found: Found, n: int = 4) -> Fitness:
    """Fitness by a ranker of episodes: the rank it gives what the reward likes best of each task. Queries are counted in ``found.ranked``.

    Source: "Few-shot In-Context Preference Learning Using Large Language Models".
    """

    async def fitness(code: str, rewards: list[list[float]]) -> tuple[float, str]:
        tasks: dict[str, list[int]] = {}
        for i, view in enumerate(episodes):
            tasks.setdefault(view.task.id, []).append(i)
        chosen = [max(at, key=lambda i: sum(rewards[i])) for at in tasks.values()]
        found.ranked += len(chosen)
        worth = await ranker([episodes[i] for i in chosen])
        return float(np.mean(list(worth))), f"The ranker gave what it likes {np.mean(list(worth)):.2f} on average."

    return fitness


def weights_in(text: str, components: Sequence[str]) -> Spec:
    """Weights of declared components, from a model's JSON object, as a spec: nothing but these names and numbers within ±10.

    Source: "Language to Rewards for Robotic Skill Synthesis".

    Raises:
        Refused: it is anything else.
    """
    try:
        found = msgspec.json.decode(text[text.index("{") : text.rindex("}") + 1], type=dict[str, float])
    except (ValueError, msgspec.MsgspecError) as error:
        raise Refused(f"it is no object of weights: {error}") from None
    if unknown := sorted(set(found) - set(components)):
        raise Refused(f"there is no component {', '.join(unknown)}; there are {', '.join(components)}")
    if wild := [k for k, w in found.items() if not abs(w) <= 10]:
        raise Refused(f"the weight of {', '.join(wild)} is not within ±10")
    if not found:
        raise Refused("it holds no weight")
    return load(" + ".join(f"{w!r} * {component}" for component, w in sorted(found.items())))
