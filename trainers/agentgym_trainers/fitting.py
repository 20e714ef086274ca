"""How verifiers learn: losses on pairs and labels, how sure a label is, what two models hand each other. Numbers in, numbers out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid

from agentgym.errors import UsageError
from agentgym_trainers.lesson import Lesson

Floats = NDArray[np.float64]


def preference_loss(gap_P: Tensor, weight_P: Tensor | None = None, margin_P: Tensor | None = None, soft_P: Tensor | None = None) -> Tensor:
    """``[P]``: Bradley and Terry's negative log-likelihood of r(chosen) − r(rejected), less a margin; ``soft`` is the chance that the label is wrong.

    Sources: "Training language models to follow instructions with human feedback"; "Llama 2: Open Foundation and Fine-Tuned Chat Models" (margin).
    """
    d_P = gap_P if margin_P is None else gap_P - margin_P
    loss_P = -logsigmoid(d_P)
    if soft_P is not None:
        loss_P = (1 - soft_P) * loss_P - soft_P * logsigmoid(-d_P)
    return loss_P if weight_P is None else loss_P * weight_P


def label_loss(value: Tensor, label: Tensor, kind: str) -> Tensor:
    """The loss of numbers against labels, element by element: cross-entropy of their sigmoid, or squared error."""
    if kind == "regression":
        return (value - label) ** 2
    return binary_cross_entropy_with_logits(value, label, reduction="none")


def strengths(gap_VP: Floats, fold_P: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """``[P]`` the mean and deviation of r(chosen) − r(rejected) over the voters that did not learn the pair: voter v learns all but fold v.

    Source: "Secrets of RLHF in Large Language Models Part II: Reward Modeling"; that voters do not judge what they learned is ours.
    """
    voters = len(gap_VP)
    held_VP = np.where(np.arange(voters)[:, None] == fold_P[None] % voters, gap_VP, np.nan)
    mean_P = np.nanmean(held_VP, axis=0)
    return mean_P, gap_VP.std(axis=0)


def treated(strength_P: Floats, how: str, share: float) -> tuple[Floats, NDArray[np.bool_], Floats]:
    """Weight, whether to turn round, and softness of each pair: the weakest ``share`` of them are dropped, flipped, or softened to a coin's toss."""
    n = len(strength_P)
    weakest_P = np.zeros(n, dtype=bool)
    weakest_P[np.argsort(strength_P, kind="stable")[: round(share * n)]] = True
    none_P = np.zeros(n)
    if how == "drop":
        return (~weakest_P).astype(np.float64), np.zeros(n, dtype=bool), none_P
    if how == "flip":
        return np.ones(n), weakest_P & (strength_P < 0), none_P
    return np.ones(n), np.zeros(n, dtype=bool), np.where(weakest_P, 0.5, 0.0)


def handed_over(loss_P: Tensor, share: float, done: float) -> Tensor:
    """The indices of the pairs that one model hands to the other: those of least loss. All at the start (``done`` 0), all but ``share`` from halfway on.

    Source: "Two Minds Better Than One: Collaborative Reward Modeling for LLM Alignment"; the schedule is that of co-teaching.
    """
    keep = max(1, round(len(loss_P) * (1 - share * min(1.0, 2 * done))))
    return torch.argsort(loss_P.detach())[:keep]


Values = Callable[[Sequence[int]], Tensor]
"""A model's numbers of the items with these indices, ``[B]``, with their gradient."""


def fit_pairs(
    models: Sequence[tuple[Values, torch.optim.Optimizer]], pairs: NDArray[np.int64], lesson: Lesson, *, steps: int, batch: int, seed: int = 0,
    gap_P: Floats | None = None, weight_P: Floats | None = None, soft_P: Floats | None = None, on_step: Callable[[int, float], None] = lambda step, loss: None,
) -> None:  # fmt: skip
    """Train models on ``[P, 2]`` pairs (chosen, rejected): each by itself, or two that hand each other what to learn.

    ``gap_P`` are the differences of the labels, for margins.
    """
    random = np.random.default_rng(seed)
    drawn = [i for i in range(len(pairs)) if weight_P is None or weight_P[i] > 0]
    if not drawn:
        raise UsageError("there is no pair left to learn from")
    for step in range(steps):
        at = random.choice(drawn, size=min(batch, len(drawn)), replace=False)

        def losses(values: Values, at: NDArray[np.int64] = at) -> Tensor:
            flat = pairs[at].reshape(-1).tolist()
            x_P2 = values(flat).reshape(-1, 2)
            margin = None if gap_P is None or not lesson.margin else lesson.margin * torch.tensor(gap_P[at], dtype=x_P2.dtype)
            soft = None if soft_P is None else torch.tensor(soft_P[at], dtype=x_P2.dtype)
            weight = None if weight_P is None else torch.tensor(weight_P[at], dtype=x_P2.dtype)
            return preference_loss(x_P2[:, 0] - x_P2[:, 1], weight, margin, soft) + lesson.centre * x_P2.mean(dim=1) ** 2

        found = [losses(values) for values, _ in models]
        chosen = [torch.arange(len(f)) for f in found]
        if lesson.noise == "exchange":
            chosen = [handed_over(f, lesson.share, step / steps) for f in reversed(found)]
        for loss_P, (_, optimizer), mine in zip(found, models, chosen, strict=True):
            optimizer.zero_grad(set_to_none=True)
            loss_P[mine].mean().backward()  # type: ignore[no-untyped-call]  # torch does not annotate it
            optimizer.step()
        on_step(step, float(found[0].detach().mean()))
