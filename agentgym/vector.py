"""``make_vec``: several environments stepped together, right for text."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

import numpy as np
from gymnasium.spaces import Tuple
from gymnasium.vector import AutoresetMode, VectorEnv

from agentgym.core import AgentEnv
from agentgym.errors import UsageError
from agentgym.registry import make, spec


class ProseVectorEnv(VectorEnv[tuple[Any, ...], tuple[str, ...], np.ndarray[Any, Any]]):
    """``n`` environments in this process; observations are a tuple, one entry per environment.

    Gymnasium's NEXT_STEP mode: the step after an environment's end ignores its action, resets it, and returns its first
    observation with reward 0. In-memory text environments are faster inline than in worker processes.
    """

    def __init__(self, envs: Sequence[AgentEnv]) -> None:
        self.envs = list(envs)
        self.num_envs = len(self.envs)
        first = self.envs[0]
        self.metadata = {**first.metadata, "autoreset_mode": AutoresetMode.NEXT_STEP}
        self.single_observation_space, self.single_action_space = first.observation_space, first.action_space
        self.observation_space = Tuple([first.observation_space] * self.num_envs)
        self.action_space = Tuple([first.action_space] * self.num_envs)
        self._ended = np.zeros(self.num_envs, dtype=bool)

    def reset(self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Reset all. ``seed`` is one per environment, or an int ``s`` for ``s + i``; ``options={"task": [ids]}``."""
        seeds = [None] * self.num_envs if seed is None else [seed + i for i in range(self.num_envs)] if isinstance(seed, int) else list(seed)
        tasks = (options or {}).get("task") or [None] * self.num_envs
        if len(seeds) != self.num_envs or len(tasks) != self.num_envs:
            raise UsageError(f"{len(seeds)} seeds and {len(tasks)} tasks for {self.num_envs} environments")
        self._ended[:] = False
        observations, infos = list[Any](), dict[str, Any]()
        for i, env in enumerate(self.envs):
            observation, info = env.reset(seed=seeds[i], options={"task": tasks[i]} if tasks[i] else None)
            observations.append(observation)
            infos = self._add_info(infos, info, i)
        return tuple(observations), infos

    def step(self, actions: Sequence[str]) -> tuple[tuple[Any, ...], Any, Any, Any, dict[str, Any]]:
        """Step all; ``rewards``, ``terminations`` and ``truncations`` are arrays of length ``n``."""
        if len(actions) != self.num_envs:
            raise UsageError(f"{len(actions)} actions for {self.num_envs} environments")
        rewards = np.zeros(self.num_envs)
        ends = np.zeros((2, self.num_envs), dtype=bool)
        observations, infos = list[Any](), dict[str, Any]()
        for i, env in enumerate(self.envs):
            if self._ended[i]:
                observation, info = env.reset()
            else:
                observation, rewards[i], ends[0, i], ends[1, i], info = env.step(actions[i])
            observations.append(observation)
            infos = self._add_info(infos, info, i)
        self._ended = ends[0] | ends[1]
        return tuple(observations), rewards, ends[0], ends[1], infos

    def close_extras(self, **kwargs: Any) -> None:
        """Close every environment."""
        for env in self.envs:
            env.close()


def make_vec(env_id: str, n: int, *, split: str = "train", reward: str = "outcome", **options: Any) -> VectorEnv[Any, Any, Any]:
    """``n`` environments as one vector environment, equal to ``n`` single ones."""
    if n < 1:
        raise UsageError(f"a vector needs at least one environment, not {n}")
    if own := spec(env_id).vector:
        module, _, name = own.partition(":")
        made: VectorEnv[Any, Any, Any] = getattr(import_module(module), name)(env_id, n, split=split, reward=reward, **options)
        return made
    return ProseVectorEnv([make(env_id, split=split, reward=reward, **options) for _ in range(n)])
