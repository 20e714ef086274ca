"""Advantages by name: from what episodes were paid to a number per episode, per turn, or (with a critic) per token.

An episode that may teach nobody (NaN) is ignored and gets 0; so does one whose group has fewer than two others to compare with.
None favours length by itself: what is centred is a whole return, or what is still to come at the same turn or in the same state.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from agentgym.errors import UnknownName, UsageError
from agentgym.rewards import groups
from agentgym.rewards.groups import Floats, Ints
from agentgym_trainers.gae import critic, progress
from agentgym_trainers.paid import Paid, of_span, spread
from agentgym_trainers.streams import Batch


@dataclass(frozen=True)
class Advantage:
    """``of`` gives ``[B]`` or ``[B, T]`` from ``Paid``; with a critic (``values``) advantages and returns ``[N]`` from the batch and ``Paid``.

    ``alone``: it needs no group to compare with.
    """

    of: Callable[..., Any]
    values: bool = False
    alone: bool = False


# Of whole episodes


def grpo(paid: Paid, *, epsilon: float = 1e-6, scale: Literal["group", "batch"] = "group") -> Floats:
    """(R − mean) / (std + ε), std unbiased, of the group or (``scale="batch"``) of all rewards.

    Source: "DeepSeekMath: Pushing the Limits of Mathematical Reasoning in Open Language Models".
    """
    if scale not in ("group", "batch"):
        raise UnknownName("scale", scale, ("group", "batch"))
    total_B, whole_B = paid.total_B, np.zeros_like(paid.group_B)
    return dr_grpo(paid) / (groups.std(total_B, paid.group_B if scale == "group" else whole_B) + epsilon)


def dr_grpo(paid: Paid, *, shift: float = 0.0) -> Floats:
    """R − (mean + shift). Source: "Understanding R1-Zero-Like Training: A Critical Perspective".

    A ``shift`` below 0 leans on what succeeded (AsymRE, as "Group-Relative REINFORCE Is Secretly an Off-Policy Algorithm: Demystifying Some
    Myths About GRPO and Its Friends" reads it).
    """
    return paid.total_B - groups.mean(paid.total_B, paid.group_B) - shift


def rloo(paid: Paid) -> Floats:
    """R − mean of the others. Source: "Back to Basics: Revisiting REINFORCE Style Optimization"."""
    return paid.total_B - groups.others(paid.total_B, paid.group_B)


def reinforce_pp(paid: Paid, *, epsilon: float = 1e-8, baseline: bool = True) -> Floats:
    """R − mean of the group (or R alone), whitened over the whole batch of episodes.

    Source: "REINFORCE++: A Simple and Efficient Approach for Aligning Large Language Models". The paper whitens over tokens, where a long
    episode counts more: ``whiten`` does that.
    """
    centred_B = dr_grpo(paid) if baseline else paid.total_B
    whole_B = np.zeros_like(paid.group_B)
    return (centred_B - groups.mean(centred_B, whole_B)) / np.sqrt(groups.std(centred_B, whole_B) ** 2 + epsilon)


def maxrl(paid: Paid, *, epsilon: float = 1e-6) -> Floats:
    """(R − mean) / mean for rewards of at least 0: rare success weighs as in the likelihood of succeeding. A group's mean of 0 gives 0.

    Source: "Maximum Likelihood Reinforcement Learning".
    """
    mean_B = groups.mean(paid.total_B, paid.group_B)
    return np.where(mean_B > epsilon, (paid.total_B - mean_B) / np.maximum(mean_B, epsilon), 0.0)


def bnpo(paid: Paid, *, alpha: float | None = None, beta: float | None = None) -> Floats:
    """(R − mean of the group) / f(mean; α, β), f the density of a Beta distribution; each reward source apart, then summed.

    α = β = 1 is REINFORCE with a baseline, α = β = 3/2 is GRPO up to a constant. By default 1 + a/3 and 1 + b/3, where (a, b) are the moments
    of the batch's group means (as we read it: the paper's update of the parameters could not be checked). Rewards lie in [0, 1].
    Source: "BNPO: Beta Normalization Policy Optimization".
    """
    out_B = np.zeros(len(paid.whole_B))
    for value_B in paid.source_B.values():
        x_B = np.where(np.isnan(paid.whole_B), np.nan, value_B)
        mean_B = groups.mean(x_B, paid.group_B)
        a, b = _moments(mean_B)
        density_B = _beta(mean_B, alpha or 1 + a / 3, beta or 1 + b / 3)
        out_B = out_B + np.where(density_B > 1e-9, (x_B - mean_B) / np.maximum(density_B, 1e-9), 0.0 * x_B)
    return out_B


def _moments(mean_B: Floats) -> tuple[float, float]:
    """The Beta distribution with the mean and variance of these numbers; the flat one where they do not say."""
    known = mean_B[~np.isnan(mean_B)]
    if len(known) < 2 or known.var() < 1e-6 or known.var() >= known.mean() * (1 - known.mean()):
        return 1.0, 1.0
    size = known.mean() * (1 - known.mean()) / known.var() - 1
    return float(known.mean() * size), float((1 - known.mean()) * size)


def _beta(x_B: Floats, alpha: float, beta: float) -> Floats:
    from math import lgamma

    inside_B = np.clip(x_B, 1e-9, 1 - 1e-9)
    logged_B = (alpha - 1) * np.log(inside_B) + (beta - 1) * np.log(1 - inside_B) - (lgamma(alpha) + lgamma(beta) - lgamma(alpha + beta))
    out_B: Floats = np.where((x_B <= 0) | (x_B >= 1), 0.0, np.exp(logged_B))
    return np.where(np.isnan(x_B), np.nan, out_B) if alpha != 1 or beta != 1 else np.where(np.isnan(x_B), np.nan, 1.0)


def anchor_win(paid: Paid, *, seed: int = 0) -> Floats:
    """2 · P(beats the group's anchor) − 1, where one episode of each group, drawn by ``seed``, is the anchor and gets 0.

    Rewards are compared (ties count one half). Source: "Writing-Zero: Bridge the Gap Between Non-verifiable Problems and Verifiable Rewards".
    """
    out_B, rng = np.where(np.isnan(paid.total_B), np.nan, 0.0), np.random.default_rng(seed)
    for g in np.unique(paid.group_B):
        members = np.flatnonzero((paid.group_B == g) & ~np.isnan(paid.total_B))
        if len(members):
            out_B[members] = np.sign(paid.total_B[members] - paid.total_B[rng.choice(members)])
    return out_B


def sign(paid: Paid, *, bar: float = 0.5) -> Floats:
    """+1 for a return above ``bar``, −1 for one that is not. With weights by sign: learning from what failed, or from what passed, alone.

    Source: "The Surprising Effectiveness of Negative Reinforcement in LLM Reasoning".
    """
    return np.where(np.isnan(paid.total_B), np.nan, np.where(paid.total_B > bar, 1.0, -1.0))


def raw(paid: Paid) -> Floats:
    """The return itself."""
    return paid.total_B


# Of turns


def to_go(paid: Paid, gamma: float = 1.0, form: str = "sum") -> Floats:
    """``[B, T]``: what is still to come from each turn on, terms of the whole episode at its last turn.

    ``sum`` with discount, or ``min``: the least of the turn terms still to come, plus the episode's.
    Source of the latter: "Stop Summation: Min-Form Credit Assignment Is All Process Reward Model Needs for Reasoning".
    """
    if form not in ("sum", "min"):
        raise UnknownName("form", form, ("sum", "min"))
    b, t = paid.turn_BT.shape
    length_B = paid.played_BT.sum(axis=1)
    out_BT, ahead_B, least_B = np.full((b, t), np.nan), np.zeros(b), np.full(b, np.inf)
    for k in range(t - 1, -1, -1):
        here_B = paid.played_BT[:, k]
        end_B = np.where(k == length_B - 1, paid.whole_B + paid.of_spans_B, 0.0)
        if form == "min":
            ahead_B = np.where(here_B, np.where(k == length_B - 1, end_B, gamma * ahead_B), ahead_B)
            least_B = np.where(here_B, np.minimum(least_B, paid.turn_BT[:, k]), least_B)
            out_BT[:, k] = np.where(here_B, ahead_B + least_B, np.nan)
        else:
            ahead_B = np.where(here_B, paid.turn_BT[:, k] + end_B + gamma * ahead_B, ahead_B)
            out_BT[:, k] = np.where(here_B, ahead_B, np.nan)
    return out_BT


def turn(paid: Paid, *, gamma: float = 1.0, form: Literal["sum", "min"] = "sum", scale: bool = False) -> Floats:
    """What is still to come at a turn, minus the mean of that over the group's other episodes at the same turn; 0 where there is no other.

    ``scale`` divides by the group's deviation of whole returns. Turn terms are never centred one by one: that would pay or charge every
    further turn. Source of the returns: "Information Gain-based Policy Optimization: A Simple and Effective Approach for Multi-Turn Search Agents".
    """
    left_BT = to_go(paid, gamma, form)
    out_BT = left_BT.copy()
    for k in range(left_BT.shape[1]):
        out_BT[:, k] -= groups.others(left_BT[:, k], paid.group_B)
    out_BT = np.where(paid.played_BT & np.isnan(out_BT) & ~np.isnan(paid.whole_B)[:, None], 0.0, out_BT)
    return out_BT / (groups.std(paid.total_B, paid.group_B)[:, None] + 1e-6) if scale else out_BT


def gigpo(paid: Paid, *, omega: float = 1.0, gamma: float = 1.0, scale: bool = False) -> Floats:
    """A of the episode over its group, plus ω · A of the step over the group's actions from the same state (anchor).

    A state that was met once gives 0. Each action counts once, however long its episode. ``scale`` divides both by their deviations.
    Source: "Group-in-Group Policy Optimization for LLM Agent Training".
    """
    total_B = paid.total_B
    whole_B = total_B - groups.mean(total_B, paid.group_B)
    left_BT = np.where(np.isnan(paid.whole_B)[:, None], np.nan, to_go(paid, gamma))
    b, t = left_BT.shape
    place_N = (paid.group_B[:, None] * (paid.anchor_BT.max(initial=0) + 1 + b * t) + (paid.anchor_BT + b * t + 1)).reshape(-1)
    flat_N = left_BT.reshape(-1)
    step_N = flat_N - groups.mean(flat_N, place_N)
    if scale:
        whole_B = whole_B / (groups.std(total_B, paid.group_B) + 1e-6)
        step_N = step_N / (groups.std(flat_N, place_N) + 1e-6)
    step_BT = np.where(groups.count(flat_N, place_N) > 1, np.nan_to_num(step_N), 0.0).reshape(b, t)
    return np.where(paid.played_BT, whole_B[:, None] + omega * step_BT, np.nan)


# Of tokens, with a critic


ADVANTAGES: dict[str, Advantage] = {
    "grpo": Advantage(grpo), "dr_grpo": Advantage(dr_grpo), "rloo": Advantage(rloo), "reinforce_pp": Advantage(reinforce_pp), "maxrl": Advantage(maxrl),
    "bnpo": Advantage(bnpo), "anchor_win": Advantage(anchor_win), "sign": Advantage(sign, alone=True), "raw": Advantage(raw, alone=True),
    "turn": Advantage(turn), "gigpo": Advantage(gigpo), "critic": Advantage(critic, values=True, alone=True),
    "progress": Advantage(progress, values=True, alone=True),
}  # fmt: skip


def episode_advantages(name: str, paid: Paid, **options: Any) -> Floats:
    """``[B]`` or ``[B, T]``: the advantages of that name, 0 where there is nothing to learn from.

    Raises:
        UnknownName: there is no such advantage.
    """
    if name not in ADVANTAGES:
        raise UnknownName("advantage", name, ADVANTAGES)
    chosen = ADVANTAGES[name]
    if chosen.values:
        raise UsageError(f"advantage {name} needs a critic's values for each token; it is made in a run, not from rewards alone")
    with np.errstate(invalid="ignore", divide="ignore"):
        out: Floats = chosen.of(paid, **options)
    nothing_B = np.isnan(paid.whole_B) | ((groups.count(paid.whole_B, paid.group_B) < 2) & (not chosen.alone))
    return np.where(np.isnan(out) | (nothing_B if out.ndim == 1 else nothing_B[:, None]), 0.0, out)


def advantages(name: str, rewards_B: Tensor, group_B: Tensor, **options: Any) -> Tensor:
    """Advantages ``[B]`` of rewards ``[B]`` in groups ``[B]``. NaN rewards are invalid: they move nobody, and get 0.

    A group with fewer than two valid entries carries no advantage. Advantages of turns take each episode as one turn.
    """
    x_B: Floats = rewards_B.detach().cpu().double().numpy()
    g_B: Ints = group_B.cpu().numpy().astype(np.int64)
    out = episode_advantages(name, Paid.of(x_B, g_B), **options)
    return torch.from_numpy(out if out.ndim == 1 else out[:, 0]).to(rewards_B)


def streams(name: str, batch: Batch, paid: Paid, **options: Any) -> tuple[Tensor, Tensor]:
    """Advantages and returns ``[N]`` for a batch made of the episodes of ``paid``, in that order. Terms on spans go to their tokens alone.

    What a span is paid is centred over the group's episodes by its mean, so it moves no other token.
    """
    if ADVANTAGES[name].values:
        advantage_N, return_N = ADVANTAGES[name].of(batch, paid, **options)
        return advantage_N.to(batch.advantage_N), return_N.to(batch.advantage_N)
    apart = Paid(paid.whole_B, paid.turn_BT, paid.group_B, paid.anchor_BT, paid.seconds_BT, paid.source_B)
    out = episode_advantages(name, apart, **options)
    advantage_N = spread(batch, out[:, None] if out.ndim == 1 else out)
    mean_B = np.nan_to_num(groups.mean(np.where(np.isnan(paid.whole_B), np.nan, paid.of_spans_B), paid.group_B))
    for span in paid.spans:
        if not np.isnan(paid.whole_B[span.episode]):
            advantage_N[of_span(batch, span)] += span.value - float(mean_B[span.episode])
    return advantage_N, spread(batch, paid.total_B[:, None])
