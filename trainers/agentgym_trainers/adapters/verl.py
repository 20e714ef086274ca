"""Our environments, advantages and losses in verl 0.9: what ``agentgym export --format verl-config`` writes a configuration for.

verl imports this module in every process (``VERL_USE_EXTERNAL_MODULES``). An episode is sampled by verl's own servers, from ids to ids; each turn's reward
lies at the last id that was said in it. ``algorithm.adv_estimator`` and ``actor.policy_loss.loss_mode`` take ``agentgym_`` and one of our names.
An attempt that a fault has ended is played again; if that does not help it fails, and verl leaves its group out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from verl.experimental.agent_loop.agent_loop import AgentLoopBase, AgentLoopMetrics, AgentLoopOutput, register
from verl.trainer.ppo.core_algos import agg_loss, register_adv_est, register_policy_loss

from agentgym.episode import digest
from agentgym.errors import EnvironmentFault
from agentgym.evaluation.run import provenance, settler_of
from agentgym.registry import make
from agentgym.rollout import Job, Rollout
from agentgym_trainers.adapters.sequence import Sequence, sequence
from agentgym_trainers.advantage import ADVANTAGES, episode_advantages
from agentgym_trainers.engine import Sampled, TokenEngine
from agentgym_trainers.objective import OBJECTIVES, padded
from agentgym_trainers.paid import Paid
from agentgym_trainers.renderer import ChatRenderer

Row = Mapping[str, Any]


# Rollout


class ServedEngine(TokenEngine):
    """verl's servers as a policy: ids in, ids out."""

    def __init__(self, server: Any, renderer: ChatRenderer, params: dict[str, Any], max_tokens: int, context: int) -> None:
        super().__init__(renderer, "verl", float(params.get("temperature", 1.0)), max_tokens, context)
        self.server, self.params = server, params

    async def _generate(self, key: str, prompt: list[int], limit: int, seed: tuple[int, int]) -> Sampled:
        params = {**self.params, "logprobs": True, "max_tokens": limit, "stop_token_ids": sorted(self.renderer.stop_ids)}
        said = await self.server.generate(request_id=key, prompt_ids=prompt, sampling_params=params)
        version = str(said.extra_fields.get("global_steps", 0))
        stopped = bool(said.token_ids) and said.token_ids[-1] in self.renderer.stop_ids
        ids, logprobs = list(said.token_ids), list(said.log_probs or [0.0] * len(said.token_ids))
        return Sampled(ids, logprobs, [version] * len(ids), "stop" if stopped else "length")

    async def _logprobs(self, ids: list[int], start: int) -> list[float]:
        raise NotImplementedError("verl's servers score nothing")


class Output(AgentLoopOutput):  # type: ignore[misc]  # verl has no types
    """What verl takes of an episode, with a reward for each id instead of one at the end."""

    token_rewards: list[float] = []

    def as_dict(self) -> dict[str, Any]:
        """The fields that go to the trainer."""
        out: dict[str, Any] = super().as_dict()
        out["rm_scores"] = torch.tensor(out.pop("token_rewards"), dtype=torch.float32)
        return out


@register("agentgym")
class AgentLoop(AgentLoopBase):  # type: ignore[misc]
    """Plays the task that a row of the data set names. ``env`` and ``options`` are the environment's; ``reward`` names its reward."""

    def __init__(self, *args: Any, env: str, reward: str = "outcome", options: Row | None = None, max_tokens: int = 256, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.env, self.reward, self.options, self.max_tokens = env, reward, dict(options or {}), max_tokens
        self.renderer = ChatRenderer(self.tokenizer)

    async def run(self, sampling_params: dict[str, Any], **row: Any) -> Output:
        """One episode. Raises ``EnvironmentFault`` if no attempt at it was valid."""
        told, lengths = row["extra_info"], self.rollout_config
        engine = ServedEngine(self.server_manager, self.renderer, sampling_params, self.max_tokens, lengths.prompt_length + lengths.response_length)
        new = partial(make, self.env, split=told["split"], reward=self.reward, **self.options)
        attempt = int(row.get("session_id", row.get("__rollout_index__", 0)))
        seed = int(digest(f"{told['task']}|{attempt}|{row.get('global_steps', 0)}".encode())[:12], 16)
        with closing(new()) as one:
            late = settler_of(one)
        rollout = Rollout(new, engine, max_tokens=self.max_tokens, late=late, provenance=provenance())
        (episode,) = await rollout.run([Job(told["task"], attempt, seed, str(row.get("uid", told["task"])))])
        if not episode.decided:
            raise EnvironmentFault(f"{episode.id}: {episode.fault}")
        found = sequence(episode) or Sequence([self.renderer.end_id], [self.renderer.end_id], [0], [0.0], [0.0])
        most = lengths.response_length
        steps = [int(v) for t in episode.turns if t.tokens for v, _ in t.tokens.weight_versions]
        return Output(
            prompt_ids=found.prompt, response_ids=found.ids[:most], response_mask=found.mask[:most], response_logprobs=found.logprobs[:most],
            reward_score=episode.total, token_rewards=_within(found.rewards, most), num_turns=2 * len(episode.turns), metrics=AgentLoopMetrics(),
            extra_fields={
                "turn_scores": [sum(t.value for t in episode.terms if t.place.turn == n) for n in range(len(episode.turns))], "tool_rewards": [],
                "reward_extra_info": {"success": float(episode.success)}, "min_global_steps": min(steps, default=0), "max_global_steps": max(steps, default=0),
            },
        )  # fmt: skip


def _within(rewards: list[float], most: int) -> list[float]:
    """The rewards of the first ids; what was paid behind them is paid at the last."""
    return rewards if len(rewards) <= most else [*rewards[: most - 1], sum(rewards[most - 1 :])]


# Advantages


def paid_of(rewards_BT: Tensor, mask_BT: Tensor, index: Any) -> tuple[Paid, Tensor]:
    """What rows were paid, turn by turn, and of each id the turn (a run of what was said) that it belongs to, [B, T]."""
    said_BT = mask_BT.bool()
    begins_BT = said_BT & ~torch.cat([torch.zeros_like(said_BT[:, :1]), said_BT[:, :-1]], 1)
    turn_BT = (begins_BT.cumsum(1) - 1).clamp(min=0)
    played_B = begins_BT.sum(1)
    summed_BK = torch.zeros(len(mask_BT), max(int(played_B.max()), 1), dtype=rewards_BT.dtype).scatter_add(1, turn_BT, rewards_BT)
    value_BK = np.where(np.arange(summed_BK.shape[1])[None, :] < played_B[:, None].numpy(), summed_BK.double().numpy(), np.nan)
    b = len(value_BK)
    _, group_B = np.unique(np.asarray(index if index is not None else np.arange(b)).astype(str), return_inverse=True)
    whole_B = np.where(played_B.numpy() > 0, 0.0, np.nan)
    anchors = -2 - np.arange(value_BK.size).reshape(value_BK.shape)
    return Paid(whole_B, value_BK, group_B.astype(np.int64), anchors, np.ones_like(value_BK), {"reward": np.nansum(value_BK, 1)}), turn_BT


def estimated(name: str, token_level_rewards: Tensor, response_mask: Tensor, index: Any = None, config: Any = None, **other: Any) -> tuple[Tensor, Tensor]:
    """Our advantage of that name for verl: advantages and returns, [B, T]."""
    ledger, turn_BT = paid_of(token_level_rewards.cpu(), response_mask.cpu(), index)
    out = torch.from_numpy(episode_advantages(name, ledger))
    out_BT = out[:, None].expand(turn_BT.shape) if out.ndim == 1 else out.gather(1, turn_BT)
    made = out_BT.to(token_level_rewards) * response_mask
    return made, made


NEED_MORE = {"gigpo"}
"""Advantages of what is not in verl's batches: equal observations."""
for _name, _advantage in ADVANTAGES.items():
    if not _advantage.values and _name not in NEED_MORE:
        register_adv_est(f"agentgym_{_name}")(partial(estimated, _name))


# Losses


def lost(
    name: str, old_log_prob: Tensor, log_prob: Tensor, advantages: Tensor, response_mask: Tensor, loss_agg_mode: str = "token-mean", config: Any = None,
    rollout_is_weights: Tensor | None = None,
) -> tuple[Tensor, dict[str, Any]]:  # fmt: skip
    """Our objective of that name for verl, aggregated by verl: the loss and what was measured."""
    now, batch = padded(log_prob, old_log_prob, advantages, response_mask)
    loss_BT = OBJECTIVES[name].loss(now, batch, **_clips(name, config)).view(log_prob.shape)
    if rollout_is_weights is not None:
        loss_BT = loss_BT * rollout_is_weights
    loss = agg_loss(loss_mat=loss_BT, loss_mask=response_mask, loss_agg_mode=loss_agg_mode, **getattr(config, "global_batch_info", {}))
    moved = ((old_log_prob - log_prob) * response_mask).sum() / response_mask.sum().clamp(min=1)
    return loss, {"actor/ppo_kl": float(moved.detach())}


def _clips(name: str, config: Any) -> dict[str, float]:
    """The clips that verl's actor is configured with, for the objectives that clip."""
    if config is None or name not in CLIPPED:
        return {}
    usual = config.clip_ratio
    return {
        "clip_low": usual if config.clip_ratio_low is None else config.clip_ratio_low,
        "clip_high": usual if config.clip_ratio_high is None else config.clip_ratio_high,
    }


CLIPPED = ("clipped", "sequence_clipped", "cispo")
LOSSES: dict[str, Callable[..., tuple[Tensor, dict[str, Any]]]] = {n: partial(lost, n) for n in (*CLIPPED, "topr", "reinforce")}
for _name, _loss in LOSSES.items():
    register_policy_loss(f"agentgym_{_name}")(_loss)
