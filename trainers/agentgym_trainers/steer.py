"""Decoding under a reward that speaks token by token: base logits plus the log-probabilities of autoregressive reward models, each by a weight."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from agentgym.errors import UsageError
from agentgym_trainers.engine import Sampled, TransformersEngine
from agentgym_trainers.model import load_model
from agentgym_trainers.renderer import ChatRenderer


def steered_logits(base: Tensor, arms: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """``[…, V]``: log p_base + Σ w · log p_arm; with no weight the base's own.

    Source: "GenARM: Reward Guided Generation with Autoregressive Reward Model for Test-time Alignment" (its form up to the scale of w).
    """
    total = torch.log_softmax(base.float(), -1)
    for arm, weight in zip(arms, weights, strict=True):
        if weight:
            total = total + weight * torch.log_softmax(arm.float(), -1)
    return total


class Steered(TransformersEngine):
    """``steered:BASE+ARM*W``, paths of causal LMs of one tokenizer, and more of those. Nothing is trained.

    It computes whole sequences for every token: for evaluation of small models.
    """

    def __init__(self, base: PreTrainedModel, renderer: ChatRenderer, arms: Sequence[tuple[PreTrainedModel, float]], **settings: Any) -> None:
        super().__init__(base, renderer, **settings)
        self.arms = list(arms)

    async def _generate(self, key: str, prompt: list[int], limit: int, seed: tuple[int, int]) -> Sampled:
        uniform = np.random.Generator(np.random.Philox(key=list(seed))).random(limit)
        ids, logprobs = list[int](), list[float]()
        for u in uniform:
            row = torch.tensor([[*prompt, *ids]])
            with torch.no_grad():
                found = [m(input_ids=row.to(m.device), use_cache=False, logits_to_keep=1).logits[0, -1].cpu() for m in (self.model, *(a for a, _ in self.arms))]
            logits = steered_logits(found[0], found[1:], [w for _, w in self.arms])
            logp = torch.log_softmax(logits / self.temperature if self.temperature > 0 else logits, -1)
            below = logp.exp().double().cumsum(-1)
            chosen = int((below < u * below[-1]).sum().clamp(max=len(logp) - 1)) if self.temperature > 0 else int(logp.argmax())
            ids.append(chosen)
            logprobs.append(logp[chosen].item())
            if chosen in self.renderer.stop_ids:
                return Sampled(ids, logprobs, ["0"] * len(ids), "stop")
        return Sampled(ids, logprobs, ["0"] * len(ids), "length")


def steered(argument: str = "", *, temperature: float = 0.0, max_tokens: int = 128, **settings: Any) -> Steered:
    """Raises ``UsageError`` where the argument is not of that form, or a tokenizer differs."""
    first, *rest = argument.split("+")
    pairs = [part.rpartition("*") for part in rest]
    if not first or not rest or not all(path for path, _, _ in pairs):
        raise UsageError(f"steered:BASE+ARM*W, such as steered:runs/base+runs/arm*0.5, not {argument!r}")
    try:
        weights = [float(w) for _, _, w in pairs]
    except ValueError:
        raise UsageError(f"a weight of steered:{argument} is no number") from None
    base, tokenizer = load_model(first)
    arms = []
    for (path, _, _), weight in zip(pairs, weights, strict=True):
        arm, other = load_model(path)
        if other.get_vocab() != tokenizer.get_vocab():
            raise UsageError(f"{path} has another tokenizer than {first}: what they say of a token cannot be added")
        arms.append((arm.eval(), weight))
    return Steered(base.eval(), ChatRenderer(tokenizer), arms, name=f"steered:{Path(first).name}", temperature=temperature, max_tokens=max_tokens)
