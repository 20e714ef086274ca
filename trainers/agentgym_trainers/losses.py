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


def _grpo(rewards_B: Floats, group_B: Ints, epsilon: float = 1e-6) -> Floats:
    """(R − mean) / (std + ε), std unbiased."""
    return _dr_grpo(rewards_B, group_B) / (groups.std(rewards_B, group_B) + epsilon)


def _dr_grpo(rewards_B: Floats, group_B: Ints) -> Floats:
    """R − mean. Source: "Understanding R1-Zero-Like Training: A Critical Perspective"."""
    return rewards_B - groups.mean(rewards_B, group_B)


def _rloo(rewards_B: Floats, group_B: Ints) -> Floats:
    """R − mean of the others. Source: "Back to Basics: Revisiting REINFORCE Style Optimization"."""
    return rewards_B - groups.others(rewards_B, group_B)


ADVANTAGES: dict[str, Callable[..., Floats]] = {"grpo": _grpo, "dr_grpo": _dr_grpo, "rloo": _rloo}


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


def _clipped(logp_N: Tensor, batch: Batch, *, clip_low: float = 0.2, clip_high: float = 0.2) -> Tensor:
    """−min(ρA, clip(ρ, 1 − low, 1 + high)A) per token. Source: "Proximal Policy Optimization Algorithms"."""
    ratio_N = torch.exp(logp_N - batch.behaviour_logp_N)
    return -torch.minimum(ratio_N * batch.advantage_N, ratio_N.clamp(1 - clip_low, 1 + clip_high) * batch.advantage_N)


def _reinforce(logp_N: Tensor, batch: Batch) -> Tensor:
    """−A log π. Source: Williams, "Simple Statistical Gradient-Following Algorithms"."""
    return -batch.advantage_N * logp_N


OBJECTIVES: dict[str, Callable[..., Tensor]] = {"clipped": _clipped, "reinforce": _reinforce}


def objective_loss(name: str, logp_N: Tensor, batch: Batch, **options: Any) -> Tensor:
    """Σ weight · objective: what the trainer differentiates."""
    if name not in OBJECTIVES:
        raise UnknownName("objective", name, OBJECTIVES)
    return (batch.weight_N * OBJECTIVES[name](logp_N, batch, **options)).sum()


def kl_penalty(logp_N: Tensor, reference_N: Tensor) -> Tensor:
    """The k3 estimate e^d − d − 1, d = log π_ref − log π, per token. Source: Schulman, "Approximating KL Divergence"."""
    d_N = reference_N - logp_N
    return torch.exp(d_N) - d_N - 1


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
