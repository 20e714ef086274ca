"""Advantages of single tokens, from the values of a critic or the rewards of a process model."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from agentgym_trainers.paid import Paid, reward_stream
from agentgym_trainers.streams import Batch


def whiten(x_BT: Tensor, mask_BT: Tensor, epsilon: float = 1e-8) -> Tensor:
    """(x − mean) / √(var + ε) over the masked entries, var unbiased; entries outside the mask are shifted and scaled alike."""
    mask_BT = mask_BT.to(x_BT.dtype)
    n = mask_BT.sum().clamp(min=2)
    mean = (x_BT * mask_BT).sum() / n
    variance = ((x_BT - mean) ** 2 * mask_BT).sum() / (n - 1)
    return (x_BT - mean) * torch.rsqrt(variance + epsilon)


def discounted(rewards_BT: Tensor, mask_BT: Tensor, gamma: float = 1.0) -> Tensor:
    """Rewards to go, discounted by sampled tokens alone: tokens outside the mask carry the return that follows them, and pay nothing."""
    running_B, out_BT = torch.zeros_like(rewards_BT[:, 0]), torch.zeros_like(rewards_BT)
    for t in range(rewards_BT.shape[1] - 1, -1, -1):
        running_B = torch.where(mask_BT[:, t] > 0, rewards_BT[:, t] + gamma * running_B, running_B)
        out_BT[:, t] = running_B
    return out_BT


def gae(rewards_BT: Tensor, values_BT: Tensor, mask_BT: Tensor, gamma: float = 1.0, lam: float = 1.0) -> tuple[Tensor, Tensor]:
    """Advantages and returns ``[B, T]`` with a critic; tokens outside the mask are stepped over, as if they were not there.

    Source: "High-Dimensional Continuous Control Using Generalized Advantage Estimation".
    """
    zero_B = torch.zeros_like(rewards_BT[:, 0])
    next_B, last_B, out_BT = zero_B, zero_B, torch.zeros_like(rewards_BT)
    for t in range(rewards_BT.shape[1] - 1, -1, -1):
        here_B = mask_BT[:, t] > 0
        step_B = rewards_BT[:, t] + gamma * next_B - values_BT[:, t] + gamma * lam * last_B
        last_B, next_B = torch.where(here_B, step_B, last_B), torch.where(here_B, values_BT[:, t], next_B)
        out_BT[:, t] = last_B
    return out_BT, out_BT + values_BT


def bi_level(
    rewards_BT: Tensor,
    values_BT: Tensor,
    mask_BT: Tensor,
    turn_BT: Tensor,
    gamma: float = 1.0,
    lam: float = 1.0,
    turn_gamma: float = 1.0,
    turn_lam: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """GAE inside a turn, and over turns with a discount of their own: a turn's last token looks at the next turn's value and advantage.

    A turn's value is that of its first sampled token, its advantage r + γ_turn (V' + λ_turn A') − V. With equal discounts and both λ = 1
    it is plain GAE. Source: "RAGEN: Understanding Self-Evolution in LLM Agents via Multi-Turn Reinforcement Learning" (the form is ours).
    """
    zero_B = torch.zeros_like(rewards_BT[:, 0])
    next_B, last_B, out_BT = zero_B, zero_B, torch.zeros_like(rewards_BT)
    value_B, above_B, paid_B, current_B = zero_B, zero_B, zero_B, torch.full_like(turn_BT[:, 0], -1)
    for t in range(rewards_BT.shape[1] - 1, -1, -1):
        here_B, v_B, r_B = mask_BT[:, t] > 0, values_BT[:, t], rewards_BT[:, t]
        crosses_B = here_B & (turn_BT[:, t] != current_B)
        later_B = torch.where(current_B < 0, zero_B, paid_B + turn_gamma * (value_B + turn_lam * above_B) - next_B)
        value_B, above_B = torch.where(crosses_B, next_B, value_B), torch.where(crosses_B, later_B, above_B)
        paid_B = torch.where(crosses_B, zero_B, paid_B) + torch.where(here_B, r_B, zero_B)
        current_B = torch.where(here_B, turn_BT[:, t], current_B)
        end_B, inside_B = turn_gamma * (value_B + turn_lam * above_B), gamma * (next_B + lam * last_B)
        last_B = torch.where(here_B, r_B - v_B + torch.where(crosses_B, end_B, inside_B), last_B)
        next_B = torch.where(here_B, v_B, next_B)
        out_BT[:, t] = last_B
    return out_BT, out_BT + values_BT


def _padded(batch: Batch, *streams_N: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The sampled tokens as rows of episodes: their index ``[B, T]`` (−1 is none), and each stream so."""
    at = torch.nonzero(batch.mask_N > 0)[:, 0]
    episode_M = batch.episode_N[at]
    place_M = torch.arange(len(at)) - (episode_M[None, :] < torch.unique(episode_M)[:, None]).sum(1)[torch.unique(episode_M, return_inverse=True)[1]]
    index_BT = torch.full((int(batch.episode_N.max()) + 1, int(place_M.max()) + 1), -1)
    index_BT[episode_M, place_M] = at
    return index_BT, [x_N[index_BT.clamp(min=0)] * (index_BT >= 0) for x_N in streams_N]


def _unpadded(batch: Batch, index_BT: Tensor, x_BT: Tensor) -> Tensor:
    out_N = torch.zeros(len(batch), dtype=x_BT.dtype)
    out_N[index_BT[index_BT >= 0]] = x_BT[index_BT >= 0]
    return out_N


def critic(
    batch: Batch, paid: Paid, *, gamma: float = 1.0, lam: float = 0.95, turn_gamma: float | None = None, turn_lam: float = 1.0, white: bool = True
) -> tuple[Tensor, Tensor]:
    """GAE over sampled tokens with the stream ``value``; with ``turn_gamma`` bi-level. ``white``: advantages are whitened over the batch."""
    index_BT, (reward_BT, value_BT, turn_BT) = _padded(batch, reward_stream(batch, paid) - _kl_cost(batch), batch.scored["value"], batch.turn_N)
    mask_BT = (index_BT >= 0).to(reward_BT)
    if turn_gamma is None:
        advantage_BT, return_BT = gae(reward_BT, value_BT, mask_BT, gamma, lam)
    else:
        advantage_BT, return_BT = bi_level(reward_BT, value_BT, mask_BT, turn_BT, gamma, lam, turn_gamma, turn_lam)
    if white:
        advantage_BT = whiten(advantage_BT, mask_BT)
    return _unpadded(batch, index_BT, advantage_BT), _unpadded(batch, index_BT, return_BT)


def progress(batch: Batch, paid: Paid) -> tuple[Tensor, Tensor]:
    """What each turn changed in the critic's prediction of the return: V of the next turn − V of this one; the return itself after the last.

    Source: "Improving Multi-Step Reasoning Abilities of Large Language Models with Direct Advantage Policy Optimization".
    """
    index_BT, (value_BT, turn_BT) = _padded(batch, batch.scored["value"], batch.turn_N)
    total_B = torch.from_numpy(np.nan_to_num(paid.total_B)).to(value_BT)
    advantage_BT, there_BT = torch.zeros_like(value_BT), index_BT >= 0
    for b in range(len(value_BT)):
        n = int(there_BT[b].sum())
        starts = [t for t in range(n) if t == 0 or turn_BT[b, t] != turn_BT[b, t - 1]]
        for start, end in zip(starts, [*starts[1:], n], strict=True):
            advantage_BT[b, start:end] = (value_BT[b, end] if end < n else total_B[b]) - value_BT[b, start]
    return _unpadded(batch, index_BT, advantage_BT), _unpadded(batch, index_BT, total_B[:, None].expand_as(value_BT))


def _kl_cost(batch: Batch) -> Tensor:
    return batch.scored.get("kl_cost", torch.zeros(len(batch)))
