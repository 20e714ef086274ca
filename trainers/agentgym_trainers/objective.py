"""Objectives and divergences by name. The trainer and ``policy_loss`` run the same code.

An objective maps what the policy now says of each token, and the batch, to a loss per token; the loss is Σ weight · that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from agentgym.errors import UnknownName
from agentgym_trainers.streams import OUTSIDE, Batch, Unit, summed, turn_of, weigh


@dataclass(frozen=True)
class Scores:
    """What the policy now says of each sampled token; 0 elsewhere. The last three are there only for objectives that read values.

    ``q_N`` is the token's logit at its temperature, ``v_N`` the logarithm of the sum of all exponentiated logits, ``best_N`` the largest of
    them, so ``logp = q − v``.
    """

    logp_N: Tensor
    entropy_N: Tensor
    q_N: Tensor
    v_N: Tensor
    best_N: Tensor


@dataclass(frozen=True)
class Objective:
    """A loss per token, the unit that it must see whole, and whether it reads logits as ``values``.

    ``everywhere``: whether it moves tokens whose advantage is 0 too, always or where the option of that name is set.
    """

    loss: Callable[..., Tensor]
    whole: Unit = "token"
    values: bool = False
    everywhere: bool | str = False


def _surrogate(ratio_N: Tensor, advantage_N: Tensor, low: float, high: float, largest: float | None = None, dual: float | None = None) -> Tensor:
    free_N = ratio_N if largest is None else ratio_N.clamp(max=largest)
    loss_N = -torch.minimum(free_N * advantage_N, ratio_N.clamp(1 - low, 1 + high) * advantage_N)
    if dual is None:
        return loss_N
    return torch.where(advantage_N < 0, torch.minimum(loss_N, -dual * advantage_N), loss_N)


def clipped(now: Scores, batch: Batch, *, clip_low: float = 0.2, clip_high: float = 0.2, largest: float | None = None, dual: float | None = None) -> Tensor:
    """−min(ρA, clip(ρ, 1 − low, 1 + high)A) per token. Source: "Proximal Policy Optimization Algorithms".

    ``clip_high`` above ``clip_low`` is the asymmetric clip of "DAPO: An Open-Source LLM Reinforcement Learning System at Scale".
    ``largest`` bounds ρ in the unclipped term from above (as released in TRL, ``delta``); ``dual`` bounds the loss of negative advantages
    by −dual · A. Source: "Mastering Complex Control in MOBA Games with Deep Reinforcement Learning".
    """
    return _surrogate(torch.exp(now.logp_N - batch.old_N), batch.advantage_N, clip_low, clip_high, largest, dual)


def sequence_clipped(now: Scores, batch: Batch, *, clip_low: float = 0.2, clip_high: float = 0.2) -> Tensor:
    """The clipped surrogate of one ratio per segment, exp of the mean of log ρ over its sampled tokens; every token carries it.

    Source: "Group Sequence Policy Optimization".
    """
    mask_N = batch.mask_N.to(now.logp_N.dtype)
    total_N = summed((now.logp_N - batch.old_N) * mask_N, batch.segment_N)
    ratio_N = torch.exp(total_N / summed(mask_N, batch.segment_N).clamp(min=1))
    return _surrogate(ratio_N, batch.advantage_N, clip_low, clip_high)


def cispo(now: Scores, batch: Batch, *, clip_low: float = 0.2, clip_high: float = 0.2) -> Tensor:
    """−sg(clip(ρ, 1 − low, 1 + high)) A log π: the weight is clipped, no token loses its gradient.

    Source: "MiniMax-M1: Scaling Test-Time Compute Efficiently with Lightning Attention". A one-sided clip at c is ``clip_low=1``,
    ``clip_high=c − 1``.
    """
    weight_N = torch.exp(now.logp_N - batch.old_N).clamp(1 - clip_low, 1 + clip_high).detach()
    return -weight_N * batch.advantage_N * now.logp_N


def topr(
    now: Scores,
    batch: Batch,
    *,
    positive: tuple[float, float] = (1.0, 1.0),
    negative: tuple[float, float] = (0.0, 1.0),
    ratio: Literal["episode", "token"] = "episode",
) -> Tensor:
    """−sg(α) A log π, where α is ρ truncated to an interval of its own for each sign of A; by default 1 above and [0, 1] below zero.

    The ratio is of the whole episode, or of each token. Source: "Tapered Off-Policy REINFORCE: Stable and efficient reinforcement
    learning for LLMs", equation 8; the ratio of a token is as released by a third party.
    """
    log_N = ((now.logp_N - batch.old_N) * batch.mask_N).detach()
    ratio_N = torch.exp((summed(log_N, batch.episode_N) if ratio == "episode" else log_N).clamp(max=20))
    weight_N = torch.where(batch.advantage_N > 0, ratio_N.clamp(*positive), ratio_N.clamp(*negative))
    return -weight_N * batch.advantage_N * now.logp_N


def reinforce(now: Scores, batch: Batch, *, pull: float = 0.0) -> Tensor:
    """−A log π + ½ pull (log π − log μ)²: the policy gradient, held to the policy μ that sampled.

    Source: Williams, "Simple Statistical Gradient-Following Algorithms"; the pull is OPMD as "Group-Relative REINFORCE Is Secretly an
    Off-Policy Algorithm: Demystifying Some Myths About GRPO and Its Friends" reads it (per token: ours).
    """
    loss_N = -batch.advantage_N * now.logp_N
    return loss_N + pull / 2 * (now.logp_N - batch.behaviour_logp_N) ** 2 if pull else loss_N


def weighted(now: Scores, batch: Batch, *, by: Literal["exp", "positive", "signed", "one"] = "exp", heat: float = 1.0, most: float = 20.0) -> Tensor:
    """−w(A) log π, w without gradient: exp(A / heat) up to ``most``, 1[A > 0], A itself, or 1 (maximum likelihood).

    Source: "Advantage-Weighted Regression: Simple and Scalable Off-Policy Reinforcement Learning".
    """
    a_N = batch.advantage_N
    kinds = {"exp": lambda: torch.exp((a_N / heat).clamp(max=60.0)).clamp(max=most), "positive": lambda: (a_N > 0).to(a_N), "signed": lambda: a_N}
    weight_N = kinds[by]() if by in kinds else torch.ones_like(a_N)
    return -weight_N * now.logp_N


def negative_aware(now: Scores, batch: Batch, *, least: float = 0.1) -> Tensor:
    """Likelihood of what passed, and of the implicit negative policy for what failed: −log ρ, −log((1 − qρ)/(1 − q)), per token.

    q is the group's pass rate, stream ``rate``; an episode passed if its advantage is above 0. Groups weigh √((1 − q)/q), so on-policy the
    gradient is GRPO's; the fraction is held above ``least`` with its gradient passed through.
    Source: "Bridging Supervised Learning and Reinforcement Learning in Math Reasoning".
    """
    rate_N = batch.scored["rate"].to(now.logp_N).clamp(1e-3, 1 - 1e-3)
    log_N = now.logp_N - batch.old_N
    share_N = (1 - rate_N * torch.exp(log_N)) / (1 - rate_N)
    held_N = share_N + (share_N.clamp(min=least) - share_N).detach()
    loss_N = torch.where(batch.advantage_N > 0, -log_N, -torch.log(held_N))
    return torch.sqrt((1 - rate_N) / rate_N) * loss_N


def refined(now: Scores, batch: Batch, *, clip_low: float = 0.2, clip_high: float = 0.2, shape: float = 0.1) -> Tensor:
    """The clipped surrogate; for tokens from outside (sampled under a critique that was stripped) −A π/(π + shape), which learns rare ones.

    Source: "Critique-GRPO: Advancing LLM Reasoning with Natural Language and Numerical Feedback".
    """
    p_N = torch.exp(now.logp_N)
    return torch.where(batch.version_N == OUTSIDE, -batch.advantage_N * p_N / (p_N + shape), clipped(now, batch, clip_low=clip_low, clip_high=clip_high))


def bellman(
    now: Scores,
    batch: Batch,
    *,
    gamma: float = 1.0,
    error: float = 1.0,
    conservative: float = 0.0,
    backup: Literal["soft", "hard"] = "soft",
    paid: bool = True,
    residual: bool = False,
) -> Tensor:
    """Logits as token values: ½ error (Q − r − γV')² + conservative (V − Q), V' of the next sampled token of the episode, 0 at its end.

    V is soft (log-sum-exp) or hard (the largest). r is the stream ``reward`` if ``paid``; ``residual`` lets the gradient through V'. Since
    V − Q = −log π (soft), ``conservative`` 1 and ``error`` 0 is maximum likelihood. Sources: "B-Coder: Value-Based Deep Reinforcement Learning
    for Program Synthesis" (conservative), "Imitating Language via Scalable Inverse Reinforcement Learning" (unpaid, residual, χ² form).
    """
    value_N = now.v_N if backup == "soft" else now.best_N
    next_N, ends_N = following(batch)
    ahead_N = torch.where(ends_N, torch.zeros_like(value_N), value_N[next_N])
    target_N = gamma * (ahead_N if residual else ahead_N.detach())
    if paid:
        target_N = target_N + batch.scored["reward"]
    return error / 2 * (now.q_N - target_N) ** 2 + conservative * (now.v_N - now.q_N)


def following(batch: Batch) -> tuple[Tensor, Tensor]:
    """For each token the index of the next sampled one of its episode (0 where there is none), and where there is none."""
    order = torch.argsort(batch.episode_N, stable=True)
    at = order[batch.mask_N[order] > 0]
    next_N, ends_N = torch.zeros(len(batch), dtype=torch.long), torch.ones(len(batch), dtype=torch.bool)
    same = batch.episode_N[at[1:]] == batch.episode_N[at[:-1]]
    next_N[at[:-1][same]], ends_N[at[:-1][same]] = at[1:][same], False
    return next_N, ends_N


def preference(
    now: Scores,
    batch: Batch,
    *,
    beta: float = 0.1,
    link: Literal["logistic", "hinge", "squared", "regression"] = "logistic",
    length: Literal["sum", "mean"] = "sum",
    against: Literal["reference", "behaviour", "nothing"] = "reference",
    mix: float = 0.0,
    margin: float = 0.0,
    discount: float = 1.0,
    smoothing: float = 0.0,
    degree: float = 0.0,
) -> Tensor:
    """A loss on d, the difference of the implicit rewards of a pair's two episodes; all tokens of the pair carry it.

    An episode's is Σ (or the mean) over its sampled tokens of discountᵗ guide (log π − base), t its turn, ``guide`` a stream (1 if it is
    not there). The base is the reference, the policy that sampled, nothing, or reference · (1 − mix) + behaviour · mix. Links:
    ``logistic`` −log σ(βd − margin), ``hinge`` max(0, 1 − βd), ``squared`` (d − 1/2β)², ``regression`` ½(βd − ΔR)², ΔR of stream ``return``.
    ``smoothing`` is the share of flipped labels that is assumed; ``degree`` weighs (σ(βd) − σ(ΔR))². Stream ``confidence`` weighs a pair.

    Sources: "Direct Preference Optimization: Your Language Model is Secretly a Reward Model" (logistic), "SimPO: Simple Preference
    Optimization with a Reference-Free Reward" (mean, nothing, margin), "Contrastive Preference Learning: Learning from Human Feedback
    without RL" (nothing, discount), "A General Theoretical Paradigm to Understand Learning from Human Preferences" (squared),
    "Contrastive Policy Gradient: Aligning LLMs on sequence-level scores in a supervised-friendly fashion" (regression), "Iterative Nash
    Policy Optimization: Aligning LLMs with General Preferences via No-Regret Learning" (squared, mix), "Self-supervised Preference
    Optimization: Enhance Your Language Model with Preference Degree Awareness" (degree).
    """
    sign_N = torch.where(batch.advantage_N > 0, 1.0, -1.0)
    d_N = summed(sign_N * _implicit(now, batch, length, against, mix, discount), batch.pair_N)
    gap_N = _gap(batch, sign_N)
    logistic = torch.nn.functional.softplus
    losses = {
        "logistic": lambda: (1 - smoothing) * logistic(margin - beta * d_N) + smoothing * logistic(margin + beta * d_N),
        "hinge": lambda: (1 - beta * d_N).clamp(min=0),
        "squared": lambda: (d_N - 1 / (2 * beta)) ** 2,
        "regression": lambda: (beta * d_N - gap_N) ** 2 / 2,
    }
    loss_N = losses[link]()
    if degree:
        loss_N = loss_N + degree * (torch.sigmoid(beta * d_N) - torch.sigmoid(gap_N)) ** 2
    return loss_N * batch.scored.get("confidence", torch.ones_like(loss_N))


def _implicit(now: Scores, batch: Batch, length: str, against: str, mix: float, discount: float) -> Tensor:
    """``[N]``: what each sampled token adds to its episode's implicit reward."""
    mask_N = batch.mask_N.to(now.logp_N.dtype)
    base_N = torch.zeros_like(mask_N)
    if against == "behaviour":
        base_N = batch.behaviour_logp_N.to(base_N)
    elif against == "reference":
        base_N = (1 - mix) * batch.scored["reference"].to(base_N) + mix * batch.behaviour_logp_N
    told_N = (now.logp_N - base_N) * mask_N * batch.scored.get("guide", mask_N)
    if discount != 1.0:
        told_N = told_N * discount ** turn_of(batch)
    return told_N / summed(mask_N, batch.episode_N).clamp(min=1) if length == "mean" else told_N


def _gap(batch: Batch, sign_N: Tensor) -> Tensor:
    """``[N]``: the difference of the returns of a pair's two episodes."""
    once_N = _first_in(batch.episode_N, batch.pair_N)
    return summed(sign_N * batch.return_N * once_N, batch.pair_N)


def _first_in(episode_N: Tensor, pair_N: Tensor) -> Tensor:
    """1 at one token of each episode of each pair: an episode may be in several pairs, as a copy."""
    key_N = pair_N * (int(episode_N.max()) + 1) + episode_N
    new_N = torch.ones(len(key_N))
    order = torch.argsort(key_N, stable=True)
    new_N[order[1:]] = (key_N[order[1:]] != key_N[order[:-1]]).float()
    return new_N


OBJECTIVES: dict[str, Objective] = {
    "clipped": Objective(clipped), "sequence_clipped": Objective(sequence_clipped, "segment"), "cispo": Objective(cispo), "topr": Objective(topr, "episode"),
    "reinforce": Objective(reinforce, everywhere="pull"), "weighted": Objective(weighted, everywhere=True), "refined": Objective(refined),
    "negative_aware": Objective(negative_aware, everywhere=True), "bellman": Objective(bellman, "episode", values=True, everywhere=True),
    "preference": Objective(preference, "pair"),
}  # fmt: skip


def objective_loss(name: str, now: Scores, batch: Batch, **options: Any) -> Tensor:
    """Σ weight · objective: what the trainer differentiates. A sequence without weight adds nothing, whatever its numbers."""
    if name not in OBJECTIVES:
        raise UnknownName("objective", name, OBJECTIVES)
    return (batch.weight_N * OBJECTIVES[name].loss(now, batch, **options)).sum()


# Divergences

DIVERGENCES: dict[str, Callable[[Tensor], Tensor]] = {
    "k1": lambda d_N: -d_N,
    "k2": lambda d_N: d_N**2 / 2,
    "k3": lambda d_N: torch.exp(d_N) - d_N - 1,
    "forward": lambda d_N: torch.exp(d_N) * d_N - torch.exp(d_N) + 1,
    "chi2": lambda d_N: (torch.exp(d_N) - 1) ** 2 / 2,
    "hellinger": lambda d_N: 2 * (torch.exp(d_N / 2) - 1) ** 2,
}
"""Of d = log π_ref − log π: three estimates of KL(π ‖ ref), one of KL(ref ‖ π), χ² and Hellinger; all are 0 at d = 0."""


def kl_penalty(logp_N: Tensor, reference_N: Tensor, estimate: str = "k3", behaviour_N: Tensor | None = None) -> Tensor:
    """An estimate per sampled token of how far π is from the reference, by name (see ``DIVERGENCES``).

    With ``behaviour_N`` it is weighted by ρ = π / behaviour, so that it estimates the divergence of π where another policy sampled (as
    released in TRL). Source: Schulman, "Approximating KL Divergence"; the weight: "DeepSeek-V3.2: Pushing the Frontier of Open Large
    Language Models".
    """
    if estimate not in DIVERGENCES:
        raise UnknownName("divergence", estimate, DIVERGENCES)
    found_N = DIVERGENCES[estimate](reference_N - logp_N)
    return found_N if behaviour_N is None else torch.exp(logp_N - behaviour_N) * found_N


def policy_loss(
    objective: str,
    logp_BT: Tensor,
    old_logp_BT: Tensor,
    advantages_BT: Tensor,
    mask_BT: Tensor,
    *,
    aggregation: str,
    constant: int | None = None,
    scored: dict[str, Tensor] | None = None,
    **options: Any,
) -> Tensor:
    """The loss of a padded batch, as a scalar, by the code the trainer runs. ``mask_BT`` is 1 at sampled tokens.

    ``sequence`` divides by all B rows (a row without sampled tokens counts as 0); ``constant`` defaults to T. ``scored`` are further
    ``[B, T]`` streams that an objective asks for; rows 2k and 2k + 1 are a pair.
    """
    now, batch = padded(logp_BT, old_logp_BT, advantages_BT, mask_BT, scored)
    return objective_loss(objective, now, weigh(batch, aggregation, constant=constant or logp_BT.shape[1]), **options)


def padded(logp_BT: Tensor, old_logp_BT: Tensor, advantages_BT: Tensor, mask_BT: Tensor, scored: dict[str, Tensor] | None = None) -> tuple[Scores, Batch]:
    """A padded batch as a flat one without weights, row by row, and what the policy now says of it."""
    b, t = logp_BT.shape
    at: Any = {"device": logp_BT.device}
    row_N = torch.arange(b, **at).repeat_interleave(t)
    zero_N, dtype = torch.zeros(b * t, dtype=torch.long, **at), logp_BT.dtype
    real_N = torch.zeros(b * t, dtype=dtype, **at)
    flat = {k: v.expand(b, t).reshape(-1) for k, v in (scored or {}).items()}
    batch = Batch(
        zero_N, torch.arange(t, **at).repeat(b), mask_BT.reshape(-1).to(dtype), old_logp_BT.reshape(-1), real_N + 1, zero_N, row_N, row_N, row_N, zero_N,
        row_N // 2, advantages_BT.expand(b, t).reshape(-1), flat.pop("return", real_N), real_N, real_N, real_N, flat,
    )  # fmt: skip
    logp_N = logp_BT.reshape(-1)
    return Scores(logp_N, real_N, logp_N, real_N, real_N), batch
