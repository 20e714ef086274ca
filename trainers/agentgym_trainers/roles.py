"""Roles beside the policy: each scores a batch, and may have a loss and an optimiser of its own. Score → streams → update."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from agentgym_trainers.parallel import copied, load_optimizer_state, load_state, optimizer_state, state_of, through
from agentgym_trainers.streams import Batch, first, summed
from agentgym_trainers.update import decoder, fit, forward, hidden, make_optimizer, micro_batches, sampled, score


class Role(Protocol):
    """``score`` gives the stream of its ``name``; ``update`` learns from a batch whose streams are complete."""

    name: str

    def score(self, batch: Batch) -> Tensor: ...
    def update(self, batch: Batch) -> dict[str, float]: ...
    def state(self) -> dict[str, Any]: ...
    def load_state(self, state: dict[str, Any], /) -> None: ...


def frozen(model: PreTrainedModel) -> PreTrainedModel:
    """A copy that never learns."""
    copy: PreTrainedModel = copied(model).eval().requires_grad_(False)
    return copy


class Reference:
    """A policy that stands still, or is the trained one ``refresh`` updates ago or less. Score: its log-probabilities."""

    name = "reference"

    def __init__(self, model: PreTrainedModel, refresh: int = 0) -> None:
        self.live, self.model, self.refresh, self.seen = model, frozen(model), refresh, 0

    def score(self, batch: Batch) -> Tensor:
        return score(self.model, batch)

    def update(self, batch: Batch) -> dict[str, float]:
        """Count an update; copy the policy when its time has come."""
        self.seen += 1
        if self.refresh and self.seen % self.refresh == 0:
            for mine, theirs in zip(self.model.parameters(), self.live.parameters(), strict=True):
                mine.data.copy_(theirs.data)
        return {}

    def state(self) -> dict[str, Any]:
        return {"seen": self.seen, "model": state_of(self.model)}

    def load_state(self, state: dict[str, Any]) -> None:
        self.seen = state["seen"]
        load_state(self.model, state["model"])


class _Headed(nn.Module):
    """The body of a causal LM under a head of one number."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = copied(model).requires_grad_(True)
        width = int(getattr(model.config, "hidden_size"))  # noqa: B009  # configs are not typed
        self.head = nn.Linear(width, 1).to(model.device)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def at(self, batch: Batch, at_M: Tensor) -> Tensor:
        """``[M]``: the number before each of these tokens."""
        found: Tensor = self.head(through(self.model, lambda model: hidden(model, batch, at_M).clone()).float())[:, 0].cpu()
        return found

    def parameters(self, recurse: bool = True) -> Any:
        return (p for m in (decoder(self.model), self.head) for p in m.parameters(recurse))


class _Learned(ABC):
    """What a role with weights of its own has: an optimiser, a state, one step per batch."""

    name: str
    whole: Literal["segment", "episode"] = "segment"

    def __init__(self, module: nn.Module, lr: float) -> None:
        self.module, self.optimizer = module, make_optimizer(module, lr)

    @abstractmethod
    def loss(self, batch: Batch) -> Tensor:
        """Of a micro-batch whose streams are complete."""

    def update(self, batch: Batch) -> dict[str, float]:
        """One step; its metrics under the role's name."""
        return {f"{self.name}_{k}": v for k, v in fit(self.module, self.optimizer, batch, self.whole, self.loss).items()}

    def state(self) -> dict[str, Any]:
        return {"module": state_of(self.module), "optimizer": optimizer_state(self.optimizer)}

    def load_state(self, state: dict[str, Any]) -> None:
        load_state(self.module, state["module"])
        load_optimizer_state(self.optimizer, state["optimizer"])


def value_loss(value_N: Tensor, old_N: Tensor, return_N: Tensor, clip: float | None = 0.2) -> Tensor:
    """½ max((V − R)², (clip(V, V_old ± c) − R)²) per token. Source: "Proximal Policy Optimization Algorithms", as released."""
    free_N = (value_N - return_N) ** 2
    if clip is None:
        return free_N / 2
    held_N = torch.minimum(torch.maximum(value_N, old_N - clip), old_N + clip)
    return torch.maximum(free_N, (held_N - return_N) ** 2) / 2


class Critic(_Learned):
    """Stream ``value``: the return expected before each sampled token. Observation tokens have none and teach it nothing."""

    name = "value"

    def __init__(self, model: PreTrainedModel, lr: float = 1e-3, clip: float | None = None) -> None:
        self.head, self.clip = _Headed(model), clip
        super().__init__(self.head, lr)

    def _values(self, batch: Batch) -> Tensor:
        at_M = sampled(batch)
        return torch.zeros(len(batch)).index_put((at_M,), self.head.at(batch, at_M))

    @torch.no_grad()
    def score(self, batch: Batch) -> Tensor:
        out_N = torch.zeros(len(batch))
        for index_M in micro_batches(batch):
            out_N[index_M] = self._values(batch.take(index_M))
        return out_N

    def loss(self, batch: Batch) -> Tensor:
        """Σ weight · value loss, weighted as the entropy: evenly over the sampled tokens that the aggregation counts."""
        return (batch.entropy_weight_N * value_loss(self._values(batch), batch.scored["value"], batch.return_N, self.clip)).sum()


class Process(_Learned):
    """Stream ``process``: log π_ψ − log π_ref per token, an implicit reward; ψ learns outcomes by the cross-entropy of σ(β Σ q).

    The sum over a turn is the turn's reward. Source: "Process Reinforcement through Implicit Rewards", where β is not multiplied into the reward.
    """

    name = "process"
    whole = "episode"

    def __init__(self, model: PreTrainedModel, lr: float = 1e-4, beta: float = 0.05) -> None:
        self.model: PreTrainedModel = copied(model)
        self.reference, self.beta = frozen(model), beta
        super().__init__(self.model, lr)

    def score(self, batch: Batch) -> Tensor:
        return (score(self.model, batch) - score(self.reference, batch)) * batch.mask_N

    def loss(self, batch: Batch) -> Tensor:
        """Mean over the batch's episodes; an outcome is the stream ``outcome``, in [0, 1]."""
        with torch.no_grad():
            base_N = forward(self.reference, batch).logp_N
        q_N = (forward(self.model, batch).logp_N - base_N) * batch.mask_N
        return _outcome_loss(self.beta * summed(q_N, batch.episode_N), batch)


class RewardModel(_Learned):
    """Stream ``reward_model``: a number for the whole episode, read before its last sampled token, there and 0 elsewhere.

    It goes on learning while the policy moves, from episodes that the rule confirms and from the failures that it likes best (``hard``: the share
    of the failures that is learned, those of highest score). Where it agrees with the rule on less than ``trust`` of the last batches it is in
    quarantine: it learns, and pays nothing. Source: "Cooper: Co-Optimizing Policy and Reward Models in Reinforcement Learning for Large
    Language Models"; that it is set aside is ours.
    """

    name = "reward_model"
    whole = "episode"

    def __init__(self, model: PreTrainedModel, lr: float = 1e-3, hard: float = 0.5, trust: float = 0.0) -> None:
        self.head, self.hard, self.trust = _Headed(model), hard, trust
        self.agreed: list[float] = []
        self.start = self.head.head.weight.detach().clone()
        super().__init__(self.head, lr)

    @property
    def trusted(self) -> bool:
        """Whether it may pay."""
        return len(self.agreed) >= 3 and sum(self.agreed[-5:]) / len(self.agreed[-5:]) >= self.trust if self.trust else True

    def _scores(self, batch: Batch) -> Tensor:
        at_M = sampled(batch)
        last_M = torch.nonzero(torch.cat([batch.episode_N[at_M][1:] != batch.episode_N[at_M][:-1], torch.ones(1, dtype=torch.bool)]))[:, 0]
        return torch.zeros(len(batch)).index_put((at_M[last_M],), self.head.at(batch, at_M[last_M]))

    @torch.no_grad()
    def score(self, batch: Batch) -> Tensor:
        out_N = torch.zeros(len(batch))
        for index_M in micro_batches(batch, "episode"):
            out_N[index_M] = self._scores(batch.take(index_M))
        return torch.sigmoid(out_N) * (out_N != 0)

    def update(self, batch: Batch) -> dict[str, float]:
        """Learn from what the rule confirms and from hard negatives, evenly; measure agreement with the rule, and drift, before."""
        first_B = torch.nonzero(first(batch.episode_N))[:, 0]
        told_N = batch.scored.get(self.name, None)
        score_B = summed(self.score(batch) if told_N is None else told_N, batch.episode_N)[first_B]
        right_B = batch.scored["outcome"][first_B] > 0.5
        self.agreed.append(float(((score_B > 0.5) == right_B).float().mean()))
        weight_B = mined(right_B, score_B, self.hard)
        share_N = torch.zeros(int(batch.episode_N.max()) + 1).index_put((batch.episode_N[first_B],), weight_B)[batch.episode_N]
        row = super().update(batch.having(share=share_N))
        drift = float((self.head.head.weight.detach() - self.start).norm())
        return {**row, f"{self.name}_agreement": self.agreed[-1], f"{self.name}_drift": drift, f"{self.name}_trusted": float(self.trusted)}

    def loss(self, batch: Batch) -> Tensor:
        return _outcome_loss(summed(self._scores(batch), batch.episode_N), batch)

    def state(self) -> dict[str, Any]:
        return {**super().state(), "agreed": self.agreed}

    def load_state(self, state: dict[str, Any]) -> None:
        super().load_state(state)
        self.agreed = list(state["agreed"])


def mined(right_B: Tensor, score_B: Tensor, hard: float) -> Tensor:
    """``[B]`` weights that sum to 1: half over all successes, half over the ``hard`` share of the failures that score highest.

    All of it is on one side if the other is empty.
    """
    wrong = torch.nonzero(~right_B)[:, 0]
    kept = wrong[torch.argsort(score_B[wrong], descending=True, stable=True)[: max(1, math.ceil(hard * len(wrong)))]] if len(wrong) else wrong
    weight_B = torch.zeros(len(right_B))
    sides = [side for side in (torch.nonzero(right_B)[:, 0], kept) if len(side)]
    for side in sides:
        weight_B[side] = 1 / (len(sides) * len(side))
    return weight_B


def _outcome_loss(logit_N: Tensor, batch: Batch) -> Tensor:
    """The cross-entropy of episodes' outcomes, once per episode; the stream ``share`` is 1 / the number of episodes of the whole batch."""
    per_N = torch.nn.functional.binary_cross_entropy_with_logits(logit_N, batch.scored["outcome"], reduction="none")
    return (per_N * first(batch.episode_N) * batch.scored["share"]).sum()


def skew_score(first_BK: Tensor, second_BK: Tensor) -> Tensor:
    """``[B]``: how much the first of two is preferred, from their representations of an even width K: Σ over planes of a cross product.

    score(a, b) = −score(b, a), and it can turn in a circle (rock, paper, scissors), which no single number per answer can.
    Source: "General Preference Modeling with Preference Representations for Aligning Language Models" (the form is ours).
    """
    return (first_BK[..., 0::2] * second_BK[..., 1::2] - first_BK[..., 1::2] * second_BK[..., 0::2]).sum(-1)
