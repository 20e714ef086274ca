"""Our environments as a task set of Prime's ``verifiers`` (v1), which ``prime-rl`` trains on.

    uv run eval agentgym_taskset --env.taskset.env tools/desk --env.player.runtime.type subprocess

A task's episode is played here, on the host: our environment is the agent's user, so that no tool of it runs in the agent's box. Its tools are told in the
system prompt and called in the text; the reward is the episode's, and its turns' are in ``trace.info["agentgym"]``. ``stamp`` gives each sampled token the
advantage that one of our estimators finds for it, in the field that trainers read. A fault of the world is an error of the episode, never a reward.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from typing import Any

import verifiers.v1 as vf

from agentgym.core import AgentEnv, EpisodeView, StopReason
from agentgym.errors import UsageError
from agentgym.evaluation.run import settler_of
from agentgym.messages import ToolSpec
from agentgym.policies import resolve
from agentgym.registry import make
from agentgym.rollout import call

__all__ = ["AgentGymEnv", "AgentGymTaskset"]


class AgentGymConfig(vf.TasksetConfig):  # type: ignore[misc]  # verifiers' own bases
    """``env`` and ``options`` are the environment's, ``reward`` names its reward."""

    env: str
    split: str = "train"
    reward: str = "outcome"
    options: dict[str, Any] = {}


class AgentGymData(vf.TaskData):  # type: ignore[misc]
    """A task of ours, by name: what it is made of stays here."""

    env: str
    split: str
    reward: str
    options: dict[str, Any]
    task: str


class AgentGymTask(vf.Task[AgentGymData, vf.State, vf.TaskConfig]):  # type: ignore[misc]
    """One task; its world is judged where it is played."""


class AgentGymTaskset(vf.Taskset[AgentGymTask, AgentGymConfig]):  # type: ignore[misc]
    """The tasks of a split."""

    def load(self) -> Iterator[AgentGymTask]:
        """Every task, in the order of the split."""
        config = self.config
        with closing(make(config.env, split=config.split, reward=config.reward, **config.options)) as env:
            if env.screen is not None:
                raise UsageError(f"{config.env} has pixels; here it must be text")
            told = _told(list(t.spec for t in env.tools.values()))
            for name in env.taskset.ids():
                yield AgentGymTask(
                    AgentGymData(
                        name=name, prompt=None, system_prompt=told, env=config.env, split=config.split, reward=config.reward, options=config.options, task=name
                    ),
                    config.task,
                )


class AgentGymEnvConfig(vf.EnvConfig):  # type: ignore[misc]
    """``player`` is the agent that is evaluated or trained."""

    player: vf.AgentConfig = vf.AgentConfig()


class AgentGymEnv(vf.Env[AgentGymEnvConfig]):  # type: ignore[misc]
    """One episode: our environment speaks, the agent answers, until it is over."""

    async def run(self, task: AgentGymTask, agents: Any) -> None:
        """Play a task to its end, and record what it was paid."""
        data = task.data
        env = make(data.env, split=data.split, reward=data.reward, **data.options)
        try:
            async with agents.player.interaction(task) as interaction:
                await self._play(env, data.task, interaction)
            if not interaction.trace.has_error:
                await self._record(env, interaction.trace)
        finally:
            env.close()

    async def _play(self, env: AgentEnv, task: str, interaction: Any) -> None:
        _, info = await call(env, env.reset, options={"task": task})
        segment = await interaction.turn(_text(info["messages"]))
        while not segment.terminated:
            _, _, terminated, truncated, info = await call(env, env.step, segment.last_reply)
            if terminated or truncated:
                return
            segment = await interaction.turn(_text(info["messages"]) or "(nothing new)")
        env.end(StopReason.RESOURCE_LIMIT)

    async def _record(self, env: AgentEnv, trace: Any) -> None:
        episode, late = env.episode, settler_of(env)
        if late is not None:
            nobody = resolve("noop")  # the policy is not here: a reward that asks it is refused
            late.fit(nobody)
            await late.settle([EpisodeView(env.task, episode, env.artefacts)], nobody)
        turns = [sum(t.value for t in episode.terms if t.place.turn == n) for n in range(len(episode.turns))]
        whole = sum(t.value for t in episode.terms if t.place.turn is None)
        trace.info["agentgym"] = {"turn_rewards": turns, "whole": whole, "stop_reason": str(episode.stop_reason), "episode": episode.id}
        trace.record_reward("agentgym", episode.total, 1.0)
        trace.record_metric("success", float(episode.success))


def _told(tools: Sequence[ToolSpec]) -> str:
    """The tools in words."""
    if not tools:
        return "Answer with your move, as plain text."
    lines = "\n".join(json.dumps({"name": t.name, "description": t.description, "parameters": t.parameters}) for t in tools)
    return f'Call a tool by writing <tool_call>{{"name": ..., "arguments": {{...}}}}</tool_call>; its answer is what you are told next. The tools:\n{lines}'


def _text(messages: Sequence[Any]) -> str:
    return "\n\n".join(str(m["content"]) for m in messages)


def stamp(traces: Iterable[Any], advantage: str = "turn", **options: Any) -> int:
    """Give the sampled tokens of a group's traces their advantages, by our estimator of that name; how many tokens have one.

    Traces without a reward (their episode failed) stay as they are: they teach nobody anything.
    """
    import numpy as np

    from agentgym_trainers.advantage import episode_advantages
    from agentgym_trainers.paid import Paid

    group = [t for t in traces if "agentgym" in t.info]
    paid = [t.info["agentgym"] for t in group]
    most = max((len(p["turn_rewards"]) for p in paid), default=0)
    if not most:
        return 0
    turn_BT = np.array([p["turn_rewards"] + [np.nan] * (most - len(p["turn_rewards"])) for p in paid])
    b, whole_B = len(group), np.array([p["whole"] for p in paid])
    anchor_BT = -2 - np.arange(b * most).reshape(b, most)
    found = episode_advantages(advantage, Paid(whole_B, turn_BT, np.zeros(b, dtype=np.int64), anchor_BT, np.ones_like(turn_BT)), **options)
    out_BT = np.broadcast_to(found[:, None], turn_BT.shape) if found.ndim == 1 else found
    count = 0
    for b, trace in enumerate(group):
        said = [n for n in trace.nodes if sum(n.mask)]
        for turn, node in enumerate(said):
            node.advantages = [float(out_BT[b, min(turn, most - 1)])] * sum(node.mask)
            count += sum(node.mask)
    return count
