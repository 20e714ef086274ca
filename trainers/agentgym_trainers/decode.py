"""A decoder's forward with few, large operations: a token's worth of a small model is bound by how many operations there are.

It stands in for a ``transformers`` model of the usual shape (RMS norm, rotary positions, grouped queries, gated feed-forward: Llama, Qwen2,
Qwen3 and their kin) and is used only where it is proved, when made, to give that model's own numbers.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  # its usual name
from torch import Tensor
from transformers import PreTrainedModel

LARGEST = 200_000_000
"""Weights beyond which the copy costs more than the operations that it saves."""


MOVING = ("dynamic", "longrope")
"""Rotary positions that depend on how long a sequence is."""


class Fused:
    """The weights of a model, those that are used together joined. They are copies: ``refresh`` after an update.

    The two numbers of a query or key that are turned together stand side by side, so that turning them is one complex product. A cache
    filled by this forward can be read by no other.
    """

    layers: list[tuple[Any, ...]]

    def __init__(self, model: PreTrainedModel) -> None:
        self.model, body = model, model.get_decoder()
        config = model.config
        self.heads, self.kept = int(config.num_attention_heads), int(config.num_key_value_heads)
        self.width = int(getattr(config, "head_dim", None) or config.hidden_size // self.heads)
        self.eps, self.hidden = float(config.rms_norm_eps), int(config.hidden_size)
        self.rotary, self.embed = body.rotary_emb, body.embed_tokens
        self.turns = torch.zeros(0)
        self.refresh()

    @torch.no_grad()
    def refresh(self) -> None:
        """Copy the weights as they are now."""
        body = self.model.get_decoder()
        self.norm, self.head = body.norm.weight, self.model.get_output_embeddings().weight
        self.layers = []
        for layer in body.layers:
            a, m = layer.self_attn, layer.mlp
            biases = [self._paired(p.bias) if p.bias is not None and p is not a.v_proj else p.bias for p in (a.q_proj, a.k_proj, a.v_proj)]
            norms = [self._paired(n.weight) if n is not None else None for n in (getattr(a, "q_norm", None), getattr(a, "k_norm", None))]
            self.layers.append(
                (
                    layer.input_layernorm.weight, torch.cat([self._paired(a.q_proj.weight), self._paired(a.k_proj.weight), a.v_proj.weight]),
                    torch.cat(biases) if biases[0] is not None else None, *norms, a.o_proj.weight, a.o_proj.bias,
                    layer.post_attention_layernorm.weight, torch.cat([m.gate_proj.weight, m.up_proj.weight]), m.down_proj.weight,
                )
            )  # fmt: skip

    def _turns(self, x: Tensor, reach: int) -> Tensor:
        """``[positions, heads, half]``: by what the pairs of queries and keys are turned at each position, as complex numbers; values are not (1)."""
        if len(self.turns) < reach:
            half, n = self.width // 2, 2 * reach
            cos, sin = self.rotary(x, torch.arange(n, device=x.device)[None])
            turn = torch.complex(cos[0, :, None, :half], sin[0, :, None, :half])
            self.turns = torch.cat([turn.expand(n, self.heads + self.kept, half), torch.ones_like(turn).expand(n, self.kept, half)], 1)
        return self.turns

    def _paired(self, weight: Tensor) -> Tensor:
        """Rows of queries or keys in the order of pairs: 0, half, 1, half + 1, … of each head."""
        return weight.view(-1, 2, self.width // 2, *weight.shape[1:]).transpose(1, 2).reshape(weight.shape)

    def __call__(self, ids: Tensor, position: Tensor, mask: Tensor, cache: Any) -> Tensor:
        """Logits ``[rows, vocabulary]`` after the last of ``ids [rows, width]``; keys and values go through ``cache.update``."""
        rows, width = ids.shape
        x = self.embed(ids)
        half, all_heads = self.width // 2, self.heads + 2 * self.kept
        turn = self._turns(x, int(mask.shape[-1]))[position]
        bias = torch.zeros(mask.shape, dtype=x.dtype, device=x.device).masked_fill_(~mask, -torch.inf)
        together = width == 1 and self.heads > self.kept  # the queries of one key are then as rows of one query
        for number, (first, qkv, added, q_norm, k_norm, out, out_bias, second, gate_up, down) in enumerate(self.layers):
            found = F.linear(F.rms_norm(x, (self.hidden,), first, self.eps), qkv, added).view(rows, width, -1, self.width)
            if q_norm is not None:
                q, k, v = found.split_with_sizes([self.heads, self.kept, self.kept], 2)
                norm = (self.width,)
                found = torch.cat([F.rms_norm(q, norm, q_norm, self.eps), F.rms_norm(k, norm, k_norm, self.eps), v], 2)
            found = torch.view_as_real(torch.view_as_complex(found.view(rows, width, all_heads, half, 2)) * turn).view(rows, width, all_heads, self.width)
            q, new = found.split_with_sizes([self.heads, 2 * self.kept], 2)
            keys, values = cache.write(new, number)
            if together:
                seen = F.scaled_dot_product_attention(q.reshape(rows, self.kept, -1, self.width), keys, values, attn_mask=bias)
            else:
                seen = F.scaled_dot_product_attention(q.transpose(1, 2), keys, values, attn_mask=bias, enable_gqa=self.heads != self.kept).transpose(1, 2)
            x = x + F.linear(seen.reshape(rows, width, -1), out, out_bias)
            gate, up = F.linear(F.rms_norm(x, (self.hidden,), second, self.eps), gate_up).chunk(2, -1)
            x = x + F.linear(F.silu(gate) * up, down)
        return F.linear(F.rms_norm(x[:, -1], (self.hidden,), self.norm, self.eps), self.head)


class _Alone:
    """A cache that holds nothing: for the proof."""

    def write(self, states: Tensor, number: int) -> tuple[Tensor, Tensor]:
        keys, values = states.transpose(1, 2).chunk(2, 1)
        return keys, values


@torch.no_grad()
def fused(model: PreTrainedModel) -> Fused | None:
    """The model's stand-in, if it is small, has the shape, and gives its own numbers on a sample; else None. Adapters are no part of the shape."""
    if hasattr(model, "peft_config") or model.num_parameters() > LARGEST:
        return None
    try:
        if model.get_decoder().rotary_emb.rope_type in MOVING:
            return None
        made = Fused(model)
        ids = torch.arange(3, 14, device=model.device)[None] % int(model.config.vocab_size)
        position = torch.arange(ids.shape[1], device=model.device)[None]
        mask = torch.ones((ids.shape[1],) * 2, dtype=torch.bool, device=model.device).tril()[None, None]
        mine = made(ids, position, mask, _Alone()).float()
        theirs = model(input_ids=ids, use_cache=False, logits_to_keep=1).logits[:, -1].float()
    except (AttributeError, TypeError, RuntimeError):
        return None
    return made if torch.allclose(mine, theirs, atol=1e-4 if model.dtype == torch.float32 else 5e-2, rtol=1e-3) else None
