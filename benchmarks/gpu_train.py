"""Generation and training of a randomly initialised 0.6B Qwen3 shape on one GPU: tokens/s, utilisation, share of each phase. One JSON line.

    python benchmarks/gpu_train.py [--context 16384] [--compile]       (on a CPU: --tiny)

Plain PyTorch and transformers, no downloads. The engine and the update are the trainer's own. FLOPs are counted as 6 · parameters per trained
token plus 6 · layers · heads · head size · context per token for causal attention (12 · … · context / 2), recomputation not counted; the
embedding's look-up is not counted, the head is. Utilisation is that over the card's dense bf16 peak.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from typing import Any

import anyio
import torch
from agentgym_trainers.engine import TransformersEngine
from agentgym_trainers.model import tiny_tokenizer
from agentgym_trainers.renderer import ChatRenderer
from agentgym_trainers.streams import make_batch
from agentgym_trainers.update import Part, make_optimizer, update
from transformers import Qwen3Config, Qwen3ForCausalLM

from agentgym.core import Conversation, Tokens
from agentgym.episode import Episode, Turn

PEAK = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "4090": 165e12}
"""Dense bf16 operations per second, as the makers give them."""


def build(tiny: bool) -> tuple[Any, ChatRenderer]:
    """The model and a renderer over a tokenizer of the tiny kind."""
    tokenizer = tiny_tokenizer(["go north and look at the lamp"] * 4, 600)
    shape: dict[str, Any] = {"vocab_size": 151_936, "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16}
    if tiny:
        shape = {"vocab_size": 600, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = Qwen3Config(
        **shape, num_key_value_heads=shape["num_attention_heads"] // 2, head_dim=16 if tiny else 128, max_position_embeddings=40_960, tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    torch.manual_seed(0)
    cuda = torch.cuda.is_available()
    model = Qwen3ForCausalLM(config).to(dtype=torch.bfloat16 if cuda else torch.float32, device="cuda" if cuda else "cpu")
    return model, ChatRenderer(tokenizer)


def flops_per_token(model: Any, context: int) -> float:
    """Of training one token at a context: forward and backward."""
    c = model.config
    heads = c.num_attention_heads * c.head_dim
    layer = heads * c.hidden_size * 2 + 2 * c.num_key_value_heads * c.head_dim * c.hidden_size + 3 * c.hidden_size * c.intermediate_size
    return 6.0 * (c.num_hidden_layers * layer + c.hidden_size * c.vocab_size) + 6.0 * c.num_hidden_layers * heads * context


def wait() -> None:
    """Until the device has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def generate(model: Any, renderer: ChatRenderer, rows: int, prompt: int, new: int) -> float:
    """Seconds to sample ``new`` tokens for each of ``rows`` conversations of one prompt."""
    renderer.stop_ids = frozenset()
    engine = TransformersEngine(model, renderer, max_tokens=new, context=prompt + new + 64)
    words = "north " * (prompt // 2)

    async def run() -> None:
        async with anyio.create_task_group() as group:
            for i in range(rows):
                group.start_soon(engine.act, Conversation(f"g/{i}", [{"role": "user", "content": words}], seed=i))

    wait()
    began = time.perf_counter()
    anyio.run(run)
    wait()
    return time.perf_counter() - began


def episodes_of(rows: int, context: int, vocabulary: int) -> list[Episode]:
    """Random token sequences of a length, a quarter of which is the prompt, different in each."""
    generator = torch.Generator().manual_seed(0)
    out = []
    for k in range(rows):
        ids = torch.randint(3, min(vocabulary, 600), (context,), generator=generator).tolist()
        n = context - context // 4
        tokens = Tokens(ids, [0] * (context - n) + [1] * n, [0.0] * (context - n) + [-6.0] * n, {"temperature": 1.0}, [("0", n)])
        out.append(Episode(f"e{k}", "x", "t", "d", "train", group=str(k), turns=[Turn([], "a", tokens=tokens)], status="valid"))
    return out


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--context", type=int, default=16_384)
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--new", type=int, default=256)
    parser.add_argument("--sampled-rows", type=int, default=64)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--checkpoint", action="store_true", help="recompute activations")
    parser.add_argument("--tiny", action="store_true")
    given = parser.parse_args()
    if given.tiny:
        given.context, given.rows, given.steps, given.new, given.sampled_rows = 256, 2, 2, 16, 4
    model, renderer = build(given.tiny)
    sampled = [generate(model, renderer, given.sampled_rows, given.context // 4, given.new) for _ in range(2)][-1]
    if given.checkpoint:
        model.gradient_checkpointing_enable()
    if given.compile:
        for layer in model.get_decoder().layers:
            layer.compile()
    batch = make_batch(episodes_of(given.rows, given.context, model.config.vocab_size), [(-1.0) ** k for k in range(given.rows)], "token")
    optimizer, times = make_optimizer(model, 1e-6), []
    for _ in range(given.steps + 1):
        wait()
        began = time.perf_counter()
        row = update(model, optimizer, [Part(batch, "clipped")])
        wait()
        times.append(time.perf_counter() - began)
        assert not row["skipped"]
    learned = statistics.median(times[1:])
    name = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "cpu"
    peak = next((p for card, p in PEAK.items() if card in name), None)
    rate = len(batch) / learned
    out = {
        "benchmark": "gpu_train", "card": name, "parameters": sum(p.numel() for p in model.parameters()), "dtype": str(model.dtype), "context": given.context,
        "compiled": given.compile, "generated_tokens_per_s": round(given.sampled_rows * given.new / sampled, 1), "trained_tokens_per_s": round(rate, 1),
        "mfu": None if peak is None else round(rate * flops_per_token(model, given.context) / peak, 4),
        "flops_per_token": flops_per_token(model, given.context),
        "sample_share": round(sampled / (sampled + learned), 3), "learn_share": round(learned / (sampled + learned), 3),
        "peak_memory_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2) if torch.cuda.is_available() else None,
    }  # fmt: skip
    print(json.dumps(out))


if __name__ == "__main__":
    main()
