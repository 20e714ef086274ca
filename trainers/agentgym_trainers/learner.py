"""One gradient step from a batch of streams: forward, loss, backward, clip, update."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from agentgym_trainers.losses import kl_penalty, objective_loss
from agentgym_trainers.streams import Batch

MICRO_TOKENS = 8192


def micro_batches(batch: Batch, tokens: int = MICRO_TOKENS) -> Iterator[Tensor]:
    """Indices of whole segments, longest first, at most ``tokens`` padded positions each; a fixed order."""
    order_N = torch.argsort(batch.segment_N, stable=True)
    sizes = torch.bincount(batch.segment_N).tolist()
    pieces = [p for p in torch.split(order_N, sizes) if len(p)]
    chosen: list[Tensor] = []
    for piece in sorted(pieces, key=len, reverse=True):
        if chosen and len(chosen[0]) * (len(chosen) + 1) > tokens:
            yield torch.cat(chosen)
            chosen = []
        chosen.append(piece)
    if chosen:
        yield torch.cat(chosen)


def forward(model: PreTrainedModel, batch: Batch) -> tuple[Tensor, Tensor]:
    """Log-probability and entropy of each sampled token of whole segments, at its temperature; 0 elsewhere.

    Returns:
        ``logp_N`` with gradient, ``entropy_N`` without.
    """
    device = model.device
    _, row_N = torch.unique(batch.segment_N, return_inverse=True)
    shape = (int(row_N.max()) + 1, int(batch.position_N.max()) + 1)
    ids_BT, real_BT = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
    ids_BT[row_N, batch.position_N], real_BT[row_N, batch.position_N] = batch.ids_N, 1
    hidden_BTH = model.get_decoder()(input_ids=ids_BT.to(device), attention_mask=real_BT.to(device)).last_hidden_state
    at_M = torch.nonzero((batch.mask_N > 0) & (batch.position_N > 0))[:, 0]
    logits_MV = model.get_output_embeddings()(hidden_BTH[row_N[at_M].to(device), (batch.position_N[at_M] - 1).to(device)]).float()
    logp_MV = torch.log_softmax(logits_MV / batch.temperature_N[at_M].to(device)[:, None], dim=-1)
    chosen_M = logp_MV.gather(-1, batch.ids_N[at_M].to(device)[:, None])[:, 0]
    with torch.no_grad():
        entropy_M = -(logp_MV.exp() * logp_MV).sum(-1)
    zero_N = torch.zeros(len(batch), device=device)
    return zero_N.index_put((at_M.to(device),), chosen_M), zero_N.index_put((at_M.to(device),), entropy_M)


def score(model: PreTrainedModel, batch: Batch) -> Tensor:
    """Log-probabilities ``[N]`` under a model, without gradient: a role's score."""
    out_N = torch.zeros(len(batch))
    with torch.no_grad():
        for index_M in micro_batches(batch):
            out_N[index_M] = forward(model, batch.take(index_M))[0].float().cpu()
    return out_N


def make_optimizer(model: PreTrainedModel, lr: float) -> torch.optim.AdamW:
    """AdamW with the settings usual for policy gradients: no weight decay."""
    return torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.99), weight_decay=0.0)


def update(
    model: PreTrainedModel,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    objective: str,
    *,
    kl: float = 0.0,
    max_norm: float = 1.0,
    options: Mapping[str, Any] | None = None,
) -> dict[str, float]:
    """One optimiser step on Σ weight · objective + kl · Σ kl_weight · k3(reference). Returns metrics of the step.

    A loss or gradient that is not finite skips the step, and the metrics say ``skipped`` 1.
    """
    model.train()
    optimizer.zero_grad(set_to_none=True)
    totals = {"loss": 0.0, "entropy": 0.0, "mismatch": 0.0, "clipped": 0.0, "kl": 0.0}
    sampled = float(batch.mask_N.sum()) or 1.0
    for index_M in micro_batches(batch):
        micro = batch.take(index_M)
        logp_N, entropy_N = (x.cpu() for x in forward(model, micro))
        loss = objective_loss(objective, logp_N, micro, **(options or {}))
        if kl and "reference" in micro.scored:
            penalty = (micro.kl_weight_N * kl_penalty(logp_N, micro.scored["reference"])).sum()
            totals["kl"] += penalty.item()
            loss = loss + kl * penalty
        loss.backward()  # type: ignore[no-untyped-call]  # torch does not annotate it
        gap_N = (logp_N.detach() - micro.behaviour_logp_N) * micro.mask_N
        totals["loss"] += loss.item()
        totals["entropy"] += float((entropy_N * micro.mask_N).sum()) / sampled
        totals["mismatch"] += float(gap_N.abs().sum()) / sampled
        totals["clipped"] += float((((gap_N.exp() - 1).abs() > 0.2) * micro.mask_N).sum()) / sampled
    norm = float(torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm))
    finite = math.isfinite(norm) and math.isfinite(totals["loss"])
    if finite:
        optimizer.step()
    return {**totals, "grad_norm": norm, "skipped": float(not finite)}
