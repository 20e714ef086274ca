"""PettingZoo's views of a game: ``aec(id)`` and ``parallel(id)``. Actions are text, observations ``{"text": …}``: PettingZoo's tests know no bare text."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from gymnasium.spaces import Dict
from gymnasium.utils import seeding

from agentgym.core import StopReason, Task
from agentgym.errors import MissingExtra, ToolError, UsageError
from agentgym.game import GameEnv, Match
from agentgym.messages import parse_action
from agentgym.registry import make
from agentgym.spaces import Prose

try:
    from pettingzoo import AECEnv, ParallelEnv
    from pettingzoo.utils.conversions import turn_based_aec_to_parallel
except ImportError:
    raise MissingExtra("pettingzoo", "pip install 'agentgym-core[pettingzoo]'") from None


class Seats(AECEnv[str, dict[str, str], str | None]):  # type: ignore[misc]  # PettingZoo is optional, and untyped here
    """A game as an agent-environment cycle. A malformed action is an observation, within the task's budget; then the seat has lost.

    ``infos[agent]`` holds the ``task_id`` and, for the agent to move, the ``legal`` moves in words (none where it may say anything).
    """

    metadata = {"render_modes": ["ansi"], "name": "agentgym", "is_parallelizable": True}  # PettingZoo's attribute

    def __init__(self, env_id: str, *, render_mode: str | None = None, **options: Any) -> None:
        super().__init__()
        made = make(env_id, **options)
        if not isinstance(made, GameEnv):
            raise UsageError(f"{made.id} has one seat; PettingZoo's views are of games")
        self.env, self.render_mode = made, render_mode
        self.envs = {seat: made.at(seat) for seat in made.capabilities.seats}
        self.metadata = {**self.metadata, "name": made.id}
        self.possible_agents = list(made.capabilities.seats)
        self.observation_spaces = {a: Dict(text=Prose()) for a in self.possible_agents}
        self.action_spaces = {a: Prose() for a in self.possible_agents}
        self.match: Match | None = None

    @functools.cache  # noqa: B019  # PettingZoo wants the same object each time, and an environment lives as long as its user
    def observation_space(self, agent: str) -> Dict:
        """``text``, any."""
        return self.observation_spaces[agent]

    @functools.cache  # noqa: B019  # as above
    def action_space(self, agent: str) -> Prose:
        """Any text."""
        return self.action_spaces[agent]

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> None:
        """Begin a match. ``options={"task": id}`` chooses the task; else the seed draws one."""
        rng: np.random.Generator = seeding.np_random(seed)[0]
        taskset, chosen = self.env.taskset, (options or {}).get("task")
        self.task: Task = taskset.get(chosen) if chosen else taskset[int(rng.integers(len(taskset)))]
        self.env.task = self.task
        self.match = self.env.new_match(self.task, 0, "")
        self.agents = [a for a in self.possible_agents if a in self.match.game.seats]
        self.rewards = dict.fromkeys(self.agents, 0.0)
        self._cumulative_rewards = dict.fromkeys(self.agents, 0.0)
        self.terminations, self.truncations = dict.fromkeys(self.agents, False), dict.fromkeys(self.agents, False)
        self._wrong, self._malformed, self._turns = dict[str, str](), dict.fromkeys(self.agents, 0), dict.fromkeys(self.agents, 0)
        self._select()

    def observe(self, agent: str) -> dict[str, str]:
        """What is new to an agent, and what it sees; after a malformed action, what was wrong."""
        return {"text": self._seen(agent)}

    def _seen(self, agent: str) -> str:
        assert self.match is not None
        if agent in self._wrong:
            return f"error: {self._wrong[agent]}"
        rules = "" if self._turns[agent] else self.match.game.rules(agent)
        return f"{rules}\n\n{self.match.game.observe(agent)}" if rules else self.match.game.observe(agent)

    def step(self, action: str | None) -> None:
        """The action of ``agent_selection``; None for one that is done."""
        agent = self.agent_selection
        if self.terminations[agent] or self.truncations[agent]:
            self._was_dead_step(action)
            return
        assert self.match is not None
        game, limits = self.match.game, self.env.limits
        before = dict(game.rewards)
        self._cumulative_rewards[agent] = 0.0
        self._wrong.pop(agent, None)
        self._turns[agent] += 1
        reason: StopReason | None = None
        try:
            parsed = parse_action(str(action), max_chars=limits.max_action_chars, max_calls=limits.max_calls)
            if parsed.problem is not None:
                raise ToolError(parsed.problem, malformed=True)
            self.match.act(agent, self.envs[agent].said(parsed))
        except ToolError as error:
            self._wrong[agent] = str(error)
        self._malformed[agent] += agent in self._wrong or game.slip == agent
        if self._malformed[agent] >= limits.max_malformed and not self.match.over:
            reason = StopReason.PARSE_ERROR
        if reason is None and not self.match.over and self._turns[agent] >= limits.max_turns:
            reason = StopReason.MAX_TURNS
        if reason is not None:
            self.match.leave(agent, reason)
        self.rewards = {a: float(game.rewards[a] - before[a]) for a in self.agents}
        if self.match.over:
            ended_by_limit = reason == StopReason.MAX_TURNS
            self.terminations = {a: not (ended_by_limit and a == agent) for a in self.agents}
            self.truncations = {a: ended_by_limit and a == agent for a in self.agents}
        self._select()
        self._accumulate_rewards()

    def _select(self) -> None:
        assert self.match is not None
        current = self.match.game.current
        self.agent_selection = current if current is not None else self.agents[0]
        self.infos = {a: {"task_id": self.task.id, "legal": list(self.match.game.legal()) if a == current else []} for a in self.agents}

    def render(self) -> str | None:
        """The position as the agent to move sees it."""
        return self._seen(self.agent_selection) if self.render_mode == "ansi" and self.match is not None else None

    def close(self) -> None:
        """Close the environments; idempotent."""
        for env in (self.env, *self.envs.values()):
            env.close()


def aec(env_id: str, *, render_mode: str | None = None, **options: Any) -> AECEnv[str, dict[str, str], str | None]:
    """A game as PettingZoo's AEC environment. Raises ``UsageError`` for an environment of one seat, else as ``agentgym.make`` does."""
    return Seats(env_id, render_mode=render_mode, **options)


def parallel(env_id: str, *, render_mode: str | None = None, **options: Any) -> ParallelEnv[str, dict[str, str], str | None]:
    """A game as PettingZoo's Parallel environment: in each step the action of the agent to move counts."""
    return turn_based_aec_to_parallel(Seats(env_id, render_mode=render_mode, **options))
