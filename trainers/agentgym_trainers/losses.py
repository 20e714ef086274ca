"""Advantages and objectives by name. The trainer and ``policy_loss`` run the same code.

An objective maps ``(logp_N, batch, options)`` to a loss per token; the loss is Σ weight · that. Advantages map rewards of
groups to one number per episode; an entry that is NaN (an invalid episode) is ignored and gets advantage 0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from msgspec import Struct
from torch import Tensor

from agentgym.errors import UnknownName
from agentgym.rewards import groups
from agentgym.rewards.groups import Floats, Ints
from agentgym_trainers.streams import Batch, weights


class Recipe(Struct, frozen=True):
    """An algorithm by name: which advantage, objective and aggregation it combines, and the paper it is from."""

    advantage: str
    objective: str
    aggregation: str
    paper: str


GRPO = Recipe("grpo", "clipped", "sequence", "DeepSeekMath: Pushing the Limits of Mathematical Reasoning in Open Language Models")


def _grpo(rewards_B: Floats, group_B: Ints, epsilon: float = 1e-6, scale: str = "group") -> Floats:
    """(R − mean) / (std + ε), std unbiased, of the group or (``scale="batch"``) of all rewards.

    Source: "DeepSeekMath: Pushing the Limits of Mathematical Reasoning in Open Language Models".
    """
    if scale not in ("group", "batch"):
        raise UnknownName("scale", scale, ("group", "batch"))
    return _dr_grpo(rewards_B, group_B) / (groups.std(rewards_B, group_B if scale == "group" else np.zeros_like(group_B)) + epsilon)


def _dr_grpo(rewards_B: Floats, group_B: Ints) -> Floats:
    """R − mean. Source: "Understanding R1-Zero-Like Training: A Critical Perspective"."""
    return rewards_B - groups.mean(rewards_B, group_B)


def _rloo(rewards_B: Floats, group_B: Ints) -> Floats:
    """R − mean of the others. Source: "Back to Basics: Revisiting REINFORCE Style Optimization"."""
    return rewards_B - groups.others(rewards_B, group_B)


def _reinforce_pp(rewards_B: Floats, group_B: Ints, epsilon: float = 1e-8, baseline: bool = True) -> Floats:
    """R − mean of the group (or R alone), whitened over the whole batch of episodes.

    Source: "REINFORCE++: A Simple and Efficient Approach for Aligning Large Language Models". The paper whitens over tokens, where a long
    episode counts more: ``whiten`` does that.
    """
    centred_B = _dr_grpo(rewards_B, group_B) if baseline else rewards_B
    whole_B = np.zeros_like(group_B)
    return (centred_B - groups.mean(centred_B, whole_B)) / np.sqrt(groups.std(centred_B, whole_B) ** 2 + epsilon)


ADVANTAGES: dict[str, Callable[..., Floats]] = {"grpo": _grpo, "dr_grpo": _dr_grpo, "rloo": _rloo, "reinforce_pp": _reinforce_pp}


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


def value_loss(value_N: Tensor, old_N: Tensor, return_N: Tensor, clip: float | None = 0.2) -> Tensor:
    """½ max((V − R)², (clip(V, V_old ± c) − R)²) per token. Source: "Proximal Policy Optimization Algorithms", as released."""
    free_N = (value_N - return_N) ** 2
    if clip is None:
        return free_N / 2
    held_N = torch.minimum(torch.maximum(value_N, old_N - clip), old_N + clip)
    return torch.maximum(free_N, (held_N - return_N) ** 2) / 2


def advantages(name: str, rewards_B: Tensor, group_B: Tensor, **options: Any) -> Tensor:
    """Advantages ``[B]`` of rewards ``[B]`` in groups ``[B]``. NaN rewards are invalid: they move nobody, and get 0.

    A group with fewer than two valid entries carries no advantage.
    """
    if name not in ADVANTAGES:
        raise UnknownName("advantage", name, ADVANTAGES)
    x_B, g_B = rewards_B.detach().cpu().double().numpy(), group_B.cpu().numpy()
    out_B = ADVANTAGES[name](x_B, g_B, **options)
    out_B = np.where((groups.count(x_B, g_B) < 2) | np.isnan(out_B), 0.0, out_B)
    return torch.from_numpy(out_B).to(rewards_B)


def _clipped(logp_N: Tensor, batch: Batch, *, clip_low: float = 0.2, clip_high: float = 0.2, largest: float | None = None, dual: float | None = None) -> Tensor:
    """−min(ρA, clip(ρ, 1 − low, 1 + high)A) per token. Source: "Proximal Policy Optimization Algorithms".

    ``clip_high`` above ``clip_low`` is the asymmetric clip of "DAPO: An Open-Source LLM Reinforcement Learning System at Scale".
    ``largest`` bounds ρ in the unclipped term from above (as released in TRL, ``delta``); ``dual`` bounds the loss of negative advantages
    by −dual · A. Source: "Mastering Complex Control in MOBA Games with Deep Reinforcement Learning".
    """
    ratio_N = torch.exp(logp_N - batch.behaviour_logp_N)
    return _surrogate(ratio_N, batch.advantage_N, clip_low, clip_high, largest, dual)


def _surrogate(ratio_N: Tensor, advantage_N: Tensor, low: float, high: float, largest: float | None = None, dual: float | None = None) -> Tensor:
    free_N = ratio_N if largest is None else ratio_N.clamp(max=largest)
    loss_N = -torch.minimum(free_N * advantage_N, ratio_N.clamp(1 - low, 1 + high) * advantage_N)
    if dual is None:
        return loss_N
    return torch.where(advantage_N < 0, torch.minimum(loss_N, -dual * advantage_N), loss_N)


def _sequence_clipped(logp_N: Tensor, batch: Batch, *, clip_low: float = 0.2, clip_high: float = 0.2) -> Tensor:
    """The clipped surrogate of one ratio per segment, exp of the mean of log ρ over its sampled tokens; every token carries it.

    Source: "Group Sequence Policy Optimization".
    """
    mask_N = batch.mask_N.to(logp_N.dtype)
    total = torch.zeros(int(batch.segment_N.max()) + 1, dtype=logp_N.dtype)
    summed = total.index_add(0, batch.segment_N, (logp_N - batch.behaviour_logp_N) * mask_N)
    counts = total.index_add(0, batch.segment_N, mask_N).clamp(min=1)
    return _surrogate(torch.exp(summed / counts)[batch.segment_N], batch.advantage_N, clip_low, clip_high)


def _cispo(logp_N: Tensor, batch: Batch, *, clip_low: float = 0.2, clip_high: float = 0.2) -> Tensor:
    """−sg(clip(ρ, 1 − low, 1 + high)) A log π: the weight is clipped, no token loses its gradient.

    Source: "MiniMax-M1: Scaling Test-Time Compute Efficiently with Lightning Attention". A one-sided clip at c is ``clip_low=1``,
    ``clip_high=c − 1``.
    """
    weight_N = torch.exp(logp_N - batch.behaviour_logp_N).clamp(1 - clip_low, 1 + clip_high).detach()
    return -weight_N * batch.advantage_N * logp_N


def _topr(logp_N: Tensor, batch: Batch, *, positive: tuple[float, float] = (1.0, 1.0), negative: tuple[float, float] = (0.0, 1.0)) -> Tensor:
    """−sg(α) A log π, where α is ρ truncated to an interval of its own for each sign of A; by default 1 above and [0, 1] below zero.

    Source: "Tapered Off-Policy REINFORCE: Stable and efficient reinforcement learning for LLMs"; the paper's ratio is of the whole
    sequence, ours of the token.
    """
    ratio_N = torch.exp(logp_N - batch.behaviour_logp_N).detach()
    weight_N = torch.where(batch.advantage_N > 0, ratio_N.clamp(*positive), ratio_N.clamp(*negative))
    return -weight_N * batch.advantage_N * logp_N


def _reinforce(logp_N: Tensor, batch: Batch) -> Tensor:
    """−A log π. Source: Williams, "Simple Statistical Gradient-Following Algorithms"."""
    return -batch.advantage_N * logp_N


OBJECTIVES: dict[str, Callable[..., Tensor]] = {
    "clipped": _clipped,
    "sequence_clipped": _sequence_clipped,
    "cispo": _cispo,
    "topr": _topr,
    "reinforce": _reinforce,
}


def objective_loss(name: str, logp_N: Tensor, batch: Batch, **options: Any) -> Tensor:
    """Σ weight · objective: what the trainer differentiates."""
    if name not in OBJECTIVES:
        raise UnknownName("objective", name, OBJECTIVES)
    return (batch.weight_N * OBJECTIVES[name](logp_N, batch, **options)).sum()


def kl_penalty(logp_N: Tensor, reference_N: Tensor, estimate: str = "k3", behaviour_N: Tensor | None = None) -> Tensor:
    """An estimate of KL(π ‖ reference) per sampled token, d = log π_ref − log π: ``k1`` −d, ``k2`` d²/2, ``k3`` e^d − d − 1.

    With ``behaviour_N`` it is weighted by ρ = π / behaviour, so that it estimates the divergence of π where another policy sampled (as
    released in TRL). Source: Schulman, "Approximating KL Divergence"; the weight: "DeepSeek-V3.2: Pushing the Frontier of Open Large
    Language Models".
    """
    if estimate not in KL:
        raise UnknownName("KL estimate", estimate, KL)
    found_N = KL[estimate](reference_N - logp_N)
    return found_N if behaviour_N is None else torch.exp(logp_N - behaviour_N) * found_N


KL: dict[str, Callable[[Tensor], Tensor]] = {"k1": lambda d_N: -d_N, "k2": lambda d_N: d_N**2 / 2, "k3": lambda d_N: torch.exp(d_N) - d_N - 1}


def policy_loss(
    objective: str,
    logp_BT: Tensor,
    old_logp_BT: Tensor,
    advantages_BT: Tensor,
    mask_BT: Tensor,
    *,
    aggregation: str,
    constant: int | None = None,
    **options: Any,
) -> Tensor:
    """The loss of a padded batch, as a scalar, by the code the trainer runs. ``mask_BT`` is 1 at sampled tokens.

    ``sequence`` divides by all B rows (a row without sampled tokens counts as 0); ``constant`` defaults to T.
    """
    b, t = logp_BT.shape
    row_N = torch.arange(b).repeat_interleave(t)
    zero_N, dtype = torch.zeros(b * t, dtype=torch.long), logp_BT.dtype
    real_N = torch.zeros(b * t, dtype=dtype)
    batch = Batch(
        zero_N, torch.arange(t).repeat(b), mask_BT.reshape(-1).to(dtype), old_logp_BT.reshape(-1), real_N + 1, zero_N, row_N, row_N, row_N, zero_N,
        advantages_BT.expand(b, t).reshape(-1), real_N, real_N, real_N,
    )  # fmt: skip
    weight_N = weights(batch, aggregation, constant=constant or t)
    ready = Batch(**{**vars(batch), "weight_N": weight_N})
    return objective_loss(objective, logp_BT.reshape(-1), ready, **options)
