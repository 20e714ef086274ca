"""What holds a policy: corrections for samples of another policy, weights of the loss, entropy's own history, the states it visits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from agentgym.errors import UnknownName
from agentgym.rewards import groups
from agentgym.rewards.groups import Floats
from agentgym_trainers.objective import DIVERGENCES
from agentgym_trainers.paid import Paid, spread
from agentgym_trainers.streams import Batch, first, summed

# Corrections: the weight of a sample of another policy than the one that the update starts from


def tis(log_N: Tensor, batch: Batch, most: float) -> Tensor:
    """min(π / μ, most) per token. Source: "AReaL: A Large-Scale Asynchronous Reinforcement Learning System for Language Reasoning"."""
    return torch.exp(log_N).clamp(max=most)


def tis_sequence(log_N: Tensor, batch: Batch, most: float) -> Tensor:
    """The same of the whole segment's product."""
    return torch.exp(summed(log_N, batch.segment_N).clamp(max=50)).clamp(max=most)


def band(log_N: Tensor, batch: Batch, most: float) -> Tensor:
    """π / μ per token where it lies in [1 / most, most], else 0. Source: "Every Step Evolves: Scaling Reinforcement Learning for Trillion-Scale
    Thinking Model" (IcePop)."""
    ratio_N = torch.exp(log_N)
    return ratio_N * ((ratio_N >= 1 / most) & (ratio_N <= most))


CORRECTIONS: dict[str, Callable[[Tensor, Batch, float], Tensor]] = {"tis": tis, "tis_sequence": tis_sequence, "band": band}


def corrected(batch: Batch, name: str, most: float = 2.0) -> Batch:
    """Weights times the truncated ratio of stream ``proximal`` (the policy at the start of the update) to the one that sampled.

    The objective's own ratio is then against the proximal policy: decoupled PPO.
    """
    if name not in CORRECTIONS:
        raise UnknownName("correction", name, CORRECTIONS)
    log_N = (batch.scored["proximal"] - batch.behaviour_logp_N) * batch.mask_N
    return replace(batch, weight_N=batch.weight_N * CORRECTIONS[name](log_N, batch, most))


# Weights of the loss


@dataclass(frozen=True)
class Weights:
    """Factors of the loss; 1 (or power 0) leaves it as it is.

    ``positive`` and ``negative`` by the sign of the advantage. ``duration``: (a turn's seconds / the batch's mean) to that power, so that slow,
    better actions are not lost to fast ones. ``difficulty``: (1 − the group's share of successes + ½) to that power. ``margin``: 1 + that
    weight · (1 − exp(−gap of a pair's returns)), over its mean. ``stale``: that power of 1 + the age of the weights that sampled; an episode
    older than ``oldest`` weighs 0.
    """

    positive: float = 1.0
    negative: float = 1.0
    duration: float = 0.0
    difficulty: float = 0.0
    margin: float = 0.0
    stale: float = 0.0
    oldest: float = float("inf")


def reweighted(batch: Batch, by: Weights, paid: Paid, version: int) -> Batch:
    """The batch with its weights times those factors. ``paid`` is of the batch's episodes, in order.

    Sources: "The Surprising Effectiveness of Negative Reinforcement in LLM Reasoning" (signs), "Reinforcement Learning for Machine Learning
    Engineering Agents" (duration; weighting by wall time is our reading), "GUI-G1: Understanding R1-Zero-Like Training for Visual Grounding
    in GUI Agents" (difficulty), "MM-RLHF: The Next Step Forward in Multimodal LLM Alignment" (margin; the function is ours).
    """
    weight_N = batch.weight_N * torch.where(batch.advantage_N > 0, by.positive, torch.where(batch.advantage_N < 0, by.negative, 1.0))
    if by.duration:
        weight_N = weight_N * spread(batch, (paid.seconds_BT / max(float(np.nanmean(paid.seconds_BT)), 1e-9)) ** by.duration)
    if by.difficulty:
        weight_N = weight_N * spread(batch, ((1.5 - np.nan_to_num(pass_rate(paid))) ** by.difficulty)[:, None])
    if by.margin:
        once_N = first(batch.episode_N)
        gap_N = summed(torch.where(batch.advantage_N > 0, 1.0, -1.0) * batch.return_N * once_N, batch.pair_N).abs()
        factor_N = 1 + by.margin * (1 - torch.exp(-gap_N))
        weight_N = weight_N * factor_N / ((factor_N * batch.weight_N).sum() / batch.weight_N.sum().clamp(min=1e-9))
    if by.stale or by.oldest != float("inf"):
        age_N = (version - batch.version_N).clamp(min=0).to(weight_N)
        weight_N = weight_N * (1 + age_N) ** -by.stale * (age_N <= by.oldest)
    return replace(batch, weight_N=weight_N)


def pass_rate(paid: Paid, bar: float = 0.5) -> Floats:
    """``[B]``: the share of the group's valid episodes whose return lies above ``bar``."""
    return groups.mean(np.where(np.isnan(paid.total_B), np.nan, (paid.total_B > bar).astype(np.float64)), paid.group_B)


# Terms that enter the reward


def kl_cost(batch: Batch, weight: float, divergence: str) -> Batch:
    """The stream ``kl_cost``: weight · D of the sampling policy to the reference, per token, to be taken from its reward."""
    found_N = DIVERGENCES[divergence](batch.scored["reference"] - batch.behaviour_logp_N) * batch.mask_N
    return batch.having(kl_cost=weight * found_N)


def charged(paid: Paid, cost_BT: Floats) -> Paid:
    """The same episodes, their turns charged with a cost."""
    return replace(paid, turn_BT=paid.turn_BT - np.nan_to_num(cost_BT))


@dataclass
class Occupancy:
    """How often states (anchors) are met by the base policy, and the chi-squared divergence of another policy's states from it.

    The cost of a turn is λ · (π(s) / base(s) − 1), the derivative of ½ χ²(π ‖ base) with respect to how often s is met; add-one smoothing.
    Source: "Correlated Proxies: A New Definition and Improved Mitigation for Reward Hacking", which bounds occupancies rather than actions.
    """

    base: Counter[str] = field(default_factory=Counter)

    def learn(self, anchors: list[list[str]]) -> None:
        """Count the states of episodes of the base policy."""
        self.base.update(a for row in anchors for a in row)

    def ratio(self, anchors: list[list[str]]) -> list[list[float]]:
        """π(s) / base(s) for every state met, both from counts."""
        now = Counter(a for row in anchors for a in row)
        kinds = len(set(now) | set(self.base))
        n, m = sum(now.values()) + kinds, sum(self.base.values()) + kinds
        return [[(now[a] + 1) / n / ((self.base[a] + 1) / m) for a in row] for row in anchors]

    def divergence(self, anchors: list[list[str]]) -> float:
        """χ²(π ‖ base) over the states either has met: 0 of a policy from itself."""
        now = Counter(a for row in anchors for a in row)
        states = set(now) | set(self.base)
        n, m = sum(now.values()) + len(states), sum(self.base.values()) + len(states)
        return sum(((now[a] + 1) / n) ** 2 / ((self.base[a] + 1) / m) for a in states) - 1.0

    def cost(self, anchors: list[list[str]], width: int, weight: float) -> Floats:
        """``[B, T]``: what each turn pays."""
        out_BT = np.zeros((len(anchors), width))
        for b, row in enumerate(self.ratio(anchors)):
            out_BT[b, : len(row)] = [weight * (r - 1.0) for r in row]
        return out_BT


# Entropy


class EntropyBand:
    """A band around the mean of the entropies so far, each averaged over the turns of whole episodes, from a share of the run on.

    Source: "EPO: Entropy-regularized Policy Optimization for LLM Agents Reinforcement Learning", with the defaults of its released code; there
    the penalty has no gradient, here it is a squared distance.
    """

    def __init__(self, low: float = 0.8, high: float = 1.2, strength: float = 0.1, begins: float = 0.5, phase: Literal["step", "linear"] = "step") -> None:
        self.low, self.high, self.strength, self.begins, self.phase = low, high, strength, begins, phase
        self.history: list[float] = []

    def now(self, done: float) -> tuple[float, float, float] | None:
        """The band at this share of the run; None before it begins, or with no history."""
        if not self.history or done < self.begins:
            return None
        mean = sum(self.history) / len(self.history)
        grown = 1.0 if self.phase == "step" else (done - self.begins) / max(1e-9, 1.0 - self.begins)
        return self.low * mean, self.high * mean, self.strength * grown

    def learn(self, entropy: float) -> None:
        """Remember a batch's entropy."""
        self.history.append(entropy)


def entropy_by_turn(batch: Batch, entropy_N: Tensor) -> float:
    """The mean over episodes of the mean over turns of the mean over a turn's sampled tokens."""
    mask_N = batch.mask_N
    turn_N = summed(entropy_N * mask_N, batch.turn_N) / summed(mask_N, batch.turn_N).clamp(min=1)
    once_N = first(batch.turn_N)
    episode_N = summed(turn_N * once_N, batch.episode_N) / summed(once_N, batch.episode_N)
    begins_N = first(batch.episode_N)
    return float((episode_N * begins_N).sum() / begins_N.sum().clamp(min=1))


def weights_of(table: Mapping[str, float]) -> Weights:
    """Weights from a table of an algorithm.

    Raises:
        UnknownName: there is no such factor.
    """
    for name in table:
        if name not in Weights.__dataclass_fields__:
            raise UnknownName("weight", name, Weights.__dataclass_fields__)
    return Weights(**table)
