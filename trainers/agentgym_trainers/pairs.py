"""Pairs of episodes of one group, preferred and other: chosen by their returns, retold, and weighed token by token."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from agentgym.episode import Episode
from agentgym_trainers.algorithm import Algorithm
from agentgym_trainers.paid import Paid
from agentgym_trainers.regulariser import reweighted, weights_of
from agentgym_trainers.roles import Role
from agentgym_trainers.sampler import pairs_of
from agentgym_trainers.streams import Batch, first, make_batch, summed
from agentgym_trainers.update import score

Tell = Callable[[Episode, str], Episode]
"""An episode again, as if its prompt had held a text too."""


def pair_batch(episodes: list[Episode], ledger: Paid, algorithm: Algorithm, model: PreTrainedModel, reference: Role | None, tell: Tell) -> Batch | None:
    """A batch of pairs: preferred and other, one after the other; None where no group has any."""
    return_of = dict(zip(map(id, episodes), ledger.total_B, strict=True))
    grouped: dict[int, list[Episode]] = {}
    for episode, g in zip(episodes, ledger.group_B, strict=True):
        grouped.setdefault(int(g), []).append(episode)
    found = [p for group in grouped.values() for p in pairs_of(group, algorithm.pairs, float(algorithm.options.get("gap", 1e-9)))]
    if not found:
        return None
    told = [(e, float(return_of[id(e)])) for pair in found for e in pair]
    if algorithm.condition:
        told = [each for k in range(len(found)) for each in _conditioned(told[2 * k], told[2 * k + 1], tell)]
    flat, returns = [e for e, _ in told], [r for _, r in told]
    batch = make_batch(flat, [1.0 if i % 2 == 0 else -1.0 for i in range(len(flat))], "pair", pairs=[i // 2 for i in range(len(flat))])
    batch = replace(batch, return_N=torch.tensor(returns)[batch.episode_N])
    if reference is not None:
        batch = batch.having(reference=reference.score(batch))
    if algorithm.guide:
        batch = batch.having(guide=_guide(algorithm.guide, batch, flat, model, tell))
    if algorithm.confidence:
        batch = batch.having(confidence=_confidence(algorithm.confidence, batch, model))
    weights = weights_of(algorithm.weights)
    return reweighted(batch, weights, Paid.of(np.array(returns), np.arange(len(flat))), 0) if weights.margin else batch


def _conditioned(good: tuple[Episode, float], bad: tuple[Episode, float], tell: Tell) -> list[tuple[Episode, float]]:
    """A pair twice: under the better score the better one is preferred, under the worse score the worse one."""
    return [(tell(e, score_text(preferred[1])), r) for preferred, other in ((good, bad), (bad, good)) for e, r in (preferred, other)]


def score_text(value: float) -> str:
    """How a score is told in a prompt."""
    return f"Quality: {round(10 * min(1.0, max(0.0, value)))} of 10."


def _guide(kind: str, batch: Batch, episodes: list[Episode], model: PreTrainedModel, tell: Tell) -> Tensor:
    """Weights of a pair's tokens, 1 on average over each episode's sampled tokens, 0 on observations.

    ``reference``: more where the reference was unsure. ``implicit``: more where the policy has moved from it. ``contrast``: by how much
    more likely a token is told to do well than told to fail. Sources: "SparsePO: Controlling Preference Alignment of LLMs via Sparse Token
    Masks", "TGDPO: Harnessing Token-Level Reward Guidance for Enhancing Direct Preference Optimization", "T-REG: Preference Optimization
    with Token-Level Reward Regularization". The functions are ours.
    """
    reference_N, sign_N = batch.scored["reference"], torch.where(batch.advantage_N > 0, 1.0, -1.0)
    if kind == "reference":
        raw_N = 1 - torch.exp(reference_N)
    else:
        raw_N = torch.sigmoid(sign_N * (score(model, batch) - reference_N if kind == "implicit" else contrast(episodes, model, tell)))
    return normalised_guide(raw_N, batch)


def normalised_guide(raw_N: Tensor, batch: Batch) -> Tensor:
    """Weights with mean 1 over the sampled tokens of each episode, and 0 elsewhere."""
    raw_N = raw_N.clamp(min=1e-6) * batch.mask_N
    return raw_N * summed(batch.mask_N, batch.episode_N) / summed(raw_N, batch.episode_N).clamp(min=1e-9)


def contrast(episodes: list[Episode], model: PreTrainedModel, tell: Tell) -> Tensor:
    """log p of each sampled token told to do well, minus told to fail, in the order of the batch's tokens."""
    found = []
    for text in (score_text(1.0), score_text(0.0)):
        again = make_batch([tell(e, text) for e in episodes], [0.0] * len(episodes))
        found.append(score(model, again)[again.mask_N > 0])
    plain = make_batch(episodes, [0.0] * len(episodes))
    return torch.zeros(len(plain)).masked_scatter(plain.mask_N > 0, found[0] - found[1])


def _confidence(kind: str, batch: Batch, model: PreTrainedModel) -> Tensor:
    """How sure each pair is, from the policy's own implicit reward (log π − log reference), in [0, 1].

    ``ranking``: the share of its group's pairs that the implicit reward orders alike; ``agreement``: 1 if it orders this pair alike, else 0;
    a tie agrees. Sources: "CREAM: Consistency Regularized Self-Rewarding Language Models", "Self-Consistency of the Internal Reward Models
    Improves Self-Rewarding Language Models".
    """
    implicit_N = (score(model, batch) - batch.scored["reference"]) * batch.mask_N
    gap_N = summed(torch.where(batch.advantage_N > 0, 1.0, -1.0) * implicit_N, batch.pair_N)
    agrees_N = (gap_N >= -1e-6).float()
    if kind == "agreement":
        return agrees_N
    once_N = first(batch.pair_N)
    return summed(agrees_N * once_N, batch.group_N) / summed(once_N, batch.group_N).clamp(min=1)
