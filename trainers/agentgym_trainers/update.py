"""From a batch of streams to a step of a model: forward, loss, backward, clip, update."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache

from agentgym_trainers.objective import OBJECTIVES, Scores, kl_penalty, objective_loss
from agentgym_trainers.packing import lay_out, width_of
from agentgym_trainers.parallel import full, rank, through, world
from agentgym_trainers.parallel import summed as all_summed
from agentgym_trainers.regulariser import entropy_by_turn
from agentgym_trainers.streams import Batch, Unit

MICRO_TOKENS = 8192


def micro_batches(batch: Batch, whole: Unit = "segment", tokens: int = MICRO_TOKENS) -> Iterator[Tensor]:
    """Indices of whole units (and whole segments), a group's together, at most ``tokens`` of them unless one unit is longer; a fixed order."""
    unit_N = batch.units("segment" if whole in ("token", "turn") else whole)
    unit_N = torch.where(unit_N < 0, unit_N.max() + 1 + batch.episode_N, unit_N)
    order = torch.argsort(unit_N, stable=True)
    sizes = torch.unique_consecutive(unit_N[order], return_counts=True)[1].tolist()
    pieces = sorted(torch.split(order, sizes), key=lambda p: (int(batch.group_N[p[0]]), -len(p)))
    chosen: list[Tensor] = []
    held = 0
    for piece in pieces:
        if chosen and held + len(piece) > tokens:
            yield torch.cat(chosen)
            chosen, held = [], 0
        chosen.append(piece)
        held += len(piece)
    if chosen:
        yield torch.cat(chosen)


def hidden(model: PreTrainedModel, batch: Batch, at_M: Tensor, share: bool = True) -> Tensor:
    """``[M, H]``: the last hidden state before each of these tokens: what predicts them."""
    device, body, flat, kept = model.device, decoder(model), [], None
    layout = lay_out(batch, share, width_of(model.config), several=world() == 1)
    if layout.stem_GP is not None:
        kept = _StemCache()
        flat.append(body(input_ids=layout.stem_GP.to(device), past_key_values=kept, use_cache=True).last_hidden_state.flatten(0, 1))
    for rows in layout.rows:
        if kept is not None and rows.group_R is not None:
            kept.group_R = rows.group_R.to(device)
        sees = None if rows.sees_RTT is None else rows.sees_RTT.to(device)
        out = body(
            input_ids=rows.ids_RT.to(device), position_ids=rows.position_RT.to(device), attention_mask=sees, past_key_values=kept, use_cache=kept is not None
        )
        flat.append(out.last_hidden_state.flatten(0, 1))
    found: Tensor = torch.cat(flat)[layout.before_N[at_M].to(device)]
    return found


class _StemCache(Cache):  # type: ignore[misc]  # transformers is not typed
    """Keys and values of what groups begin with, with their gradient: kept at the first forward, put before each row's own at those after it."""

    group_R: Tensor

    def __init__(self) -> None:
        super().__init__(layers=[])
        self.held: list[tuple[Tensor, Tensor]] = []
        self.reading = 0

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if self.reading == layer_idx == len(self.held):
            self.held.append((key_states, value_states))
            self.reading += 1
            return key_states, value_states
        keys, values = self.held[layer_idx]
        return torch.cat([keys[self.group_R], key_states], 2), torch.cat([values[self.group_R], value_states], 2)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0


def decoder(model: PreTrainedModel) -> nn.Module:
    """What gives hidden states: the model without its head, also where adapters are wrapped around it."""
    found: nn.Module = model.get_base_model().get_decoder() if hasattr(model, "get_base_model") else model.get_decoder()
    return found


def sampled(batch: Batch) -> Tensor:
    """The indices of the tokens that were sampled and have one before them."""
    return torch.nonzero((batch.mask_N > 0) & (batch.position_N > 0))[:, 0]


def forward(model: PreTrainedModel, batch: Batch, *, entropy_grad: bool = False, values: bool = False, share: bool = True) -> Scores:
    """What a model says of each sampled token of whole segments, at its temperature; 0 elsewhere.

    Entropy has a gradient, and logits are read as values, only if asked.
    """
    at_M = sampled(batch)

    def work(model: PreTrainedModel) -> tuple[Tensor, ...]:
        logits_MV = model.get_output_embeddings()(hidden(model, batch, at_M, share)).float()
        if not bool((temperature_M := batch.temperature_N[at_M]).eq(1).all()):
            logits_MV = logits_MV / temperature_M.to(model.device)[:, None]
        chosen_M1 = batch.ids_N[at_M].to(model.device)[:, None]
        logp_MV = torch.log_softmax(logits_MV, dim=-1)
        with torch.set_grad_enabled(entropy_grad and torch.is_grad_enabled()):
            entropy_M = -(logp_MV.exp() * logp_MV).sum(-1)
        told = (logp_MV.gather(-1, chosen_M1)[:, 0].clone(), entropy_M)
        if not values:
            return told
        return *told, logits_MV.gather(-1, chosen_M1)[:, 0].clone(), torch.logsumexp(logits_MV, dim=-1), logits_MV.detach().max(-1).values

    zero_N = torch.zeros(len(batch))
    found = [zero_N.index_put((at_M,), part_M.cpu()) for part_M in through(model, work)]
    return Scores(*found, *[zero_N] * (5 - len(found)))


def score(model: PreTrainedModel, batch: Batch) -> Tensor:
    """Log-probabilities ``[N]`` under a model, without gradient: a role's score."""
    out_N = torch.zeros(len(batch))
    with torch.no_grad():
        for index_M in micro_batches(batch):
            out_N[index_M] = forward(model, batch.take(index_M)).logp_N
    return out_N


def make_optimizer(parameters: nn.Module, lr: float) -> torch.optim.AdamW:
    """AdamW with the settings usual for policy gradients: no weight decay."""
    return torch.optim.AdamW([p for p in parameters.parameters() if p.requires_grad], lr=lr, betas=(0.9, 0.99), weight_decay=0.0)


@dataclass(frozen=True)
class Part:
    """One summand of a loss: ``scale`` · (Σ weight · objective + kl · Σ kl_weight · D(π, reference) − entropy · Σ entropy_weight · (H − P)).

    ``band`` is (low, high, strength): P = strength · the squared distance of a token's entropy H from [low, high]. It has a gradient, which
    what was released for "EPO: Entropy-regularized Policy Optimization for LLM Agents Reinforcement Learning" has not.
    """

    batch: Batch
    objective: str
    options: Mapping[str, Any] = field(default_factory=dict)
    scale: float = 1.0
    kl: float = 0.0
    divergence: str = "k3"
    entropy: float = 0.0
    band: tuple[float, float, float] | None = None

    def loss(self, now: Scores, batch: Batch) -> tuple[Tensor, float]:
        """Of a micro-batch of it; and the divergence alone."""
        loss = objective_loss(self.objective, now, batch, **self.options)
        apart = 0.0
        if self.kl and "reference" in batch.scored:
            penalty = (batch.kl_weight_N * kl_penalty(now.logp_N, batch.scored["reference"], self.divergence)).sum()
            apart, loss = penalty.item(), loss + self.kl * penalty
        if self.entropy:
            loss = loss - self.entropy * (batch.entropy_weight_N * (now.entropy_N - outside_band(now.entropy_N, self.band))).sum()
        return self.scale * loss, apart


def outside_band(entropy_N: Tensor, band: tuple[float, float, float] | None) -> Tensor:
    """How far each entropy lies outside the band, squared, times the band's strength; 0 inside it, or where there is none."""
    if band is None:
        return torch.zeros_like(entropy_N)
    low, high, strength = band
    return strength * ((low - entropy_N).clamp(min=0) ** 2 + (entropy_N - high).clamp(min=0) ** 2)


def backward(model: PreTrainedModel, parts: Sequence[Part], share: bool = True) -> dict[str, float]:
    """Add the gradient of the sum of the parts. Returns what is measured over the first part's sampled tokens."""
    totals = dict.fromkeys(("loss", "entropy", "entropy_by_turn", "mismatch", "mismatch_kl", "ratio_max", "clipped", "kl"), 0.0)
    for number, part in enumerate(parts):
        if not part.scale or not len(part.batch):
            continue
        count, episodes = float(part.batch.mask_N.sum()) or 1.0, len(torch.unique(part.batch.episode_N))
        for index_M, mine in dealt(list(micro_batches(part.batch, "episode" if part.band else OBJECTIVES[part.objective].whole))):
            micro = part.batch.take(index_M)
            now = forward(model, micro, entropy_grad=bool(part.entropy), values=OBJECTIVES[part.objective].values, share=share)
            loss, apart = part.loss(now, micro)
            (loss * mine * world()).backward()  # type: ignore[no-untyped-call]  # torch does not annotate it
            if not mine:
                continue
            totals["loss"] += loss.item()
            if number == 0:
                totals["kl"] += apart
                _measure(totals, now, micro, count, episodes)
    return all_summed(totals, ("ratio_max",))


def dealt(pieces: Sequence[Tensor]) -> list[tuple[Tensor, float]]:
    """This process's share of micro-batches; as many for each process, so some are computed for nothing (0). FSDP averages what it sums."""
    mine = [(p, 1.0) for p in pieces[rank() :: world()]]
    return mine + [(pieces[0], 0.0)] * (-(-len(pieces) // world()) - len(mine))


@torch.no_grad()
def _measure(totals: dict[str, float], now: Scores, micro: Batch, count: float, episodes: int) -> None:
    """Entropy, and how the policy now differs from the one that sampled: |log ρ|, KL(behaviour ‖ π) by k3, the largest ratio, the share past 0.2."""
    log_N = (now.logp_N - micro.behaviour_logp_N) * micro.mask_N
    ratio_N = log_N.exp()
    totals["entropy_by_turn"] += entropy_by_turn(micro, now.entropy_N) * len(torch.unique(micro.episode_N)) / episodes
    totals["entropy"] += float((now.entropy_N * micro.mask_N).sum()) / count
    totals["mismatch"] += float(log_N.abs().sum()) / count
    totals["mismatch_kl"] += float(((ratio_N - 1 - log_N) * micro.mask_N).sum()) / count
    totals["clipped"] += float((((ratio_N - 1).abs() > 0.2) * micro.mask_N).sum()) / count
    totals["ratio_max"] = max(totals["ratio_max"], float(ratio_N.max()) if len(ratio_N) else 0.0)


def gradient(model: PreTrainedModel, parts: Sequence[Part]) -> Tensor:
    """The gradient of the sum of the parts, as one vector; what the model had is lost."""
    model.zero_grad(set_to_none=True)
    backward(model, parts)
    found = torch.cat([full(p.grad).flatten().float().cpu() for p in model.parameters() if p.grad is not None])
    model.zero_grad(set_to_none=True)
    return found


def clip(module: nn.Module, most: float) -> float:
    """Scale all gradients so that their common norm is at most ``most``; what it was. Some may be sharded and others not."""
    sharded: list[list[nn.Parameter]] = [[], []]
    for p in module.parameters():
        if p.grad is not None:
            sharded[isinstance(p.grad, DTensor)].append(p)
    norms = [full(torch.nn.utils.get_total_norm([p.grad for p in those if p.grad is not None])).float().cpu() for those in sharded if those]
    norm = torch.linalg.vector_norm(torch.stack(norms)) if len(norms) > 1 else norms[0] if norms else torch.zeros(())
    for those in sharded:
        if those:
            torch.nn.utils.clip_grads_with_norm_(those, most, norm.to(those[0].device))
    return float(norm)


def take_step(module: nn.Module, optimizer: torch.optim.Optimizer, loss: float, max_norm: float) -> dict[str, float]:
    """Clip, and update unless the loss or a gradient is not finite: then the step is skipped, and ``skipped`` is 1."""
    norm = clip(module, max_norm)
    finite = math.isfinite(norm) and math.isfinite(loss)
    if finite:
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return {"grad_norm": norm, "skipped": float(not finite)}


def update(model: PreTrainedModel, optimizer: torch.optim.Optimizer, parts: Sequence[Part], *, max_norm: float = 1.0, share: bool = True) -> dict[str, float]:
    """One optimiser step on the sum of the parts. Returns metrics of the step.

    A loss or gradient that is not finite skips the step, and the metrics say ``skipped`` 1.
    """
    model.train()
    optimizer.zero_grad(set_to_none=True)
    totals = backward(model, parts, share)
    return {**totals, **take_step(model, optimizer, totals["loss"], max_norm)}


def fit(
    module: nn.Module, optimizer: torch.optim.Optimizer, batch: Batch, whole: Unit, loss_of: Callable[[Batch], Tensor], max_norm: float = 1.0
) -> dict[str, float]:
    """One optimiser step of another role, on Σ of ``loss_of`` over micro-batches."""
    optimizer.zero_grad(set_to_none=True)
    total = 0.0
    for index_M in micro_batches(batch, whole):
        loss = loss_of(batch.take(index_M))
        loss.backward()  # type: ignore[no-untyped-call]  # torch does not annotate it
        total += loss.item()
    return {"loss": total, **take_step(module, optimizer, total, max_norm)}
