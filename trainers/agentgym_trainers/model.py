"""Models: any Hugging Face causal LM by path, or ``tiny``, made on the spot from an environment's own text."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM
from transformers.utils.logging import disable_progress_bar

from agentgym.errors import MissingExtra, UsageError
from agentgym.messages import CLOSE, OPEN
from agentgym_trainers.parallel import full

disable_progress_bar()  # a run shows its own progress

START, END, PAD = "<|im_start|>", "<|im_end|>", "<|pad|>"
TEMPLATE = (
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message.role + '\\n' -}}"
    "{{- message.content -}}"
    "{%- for call in message.tool_calls or [] -%}"
    "{%- if message.content or not loop.first -%}{{- '\\n' -}}{%- endif -%}"
    "{{- '<tool_call>{\"name\": \"' + call.function.name + '\", \"arguments\": ' + (call.function.arguments | tojson) + '}</tool_call>' -}}"
    "{%- endfor -%}"
    "{{- '<|im_end|>\\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)
"""The tiny model's chat template. It ignores tool schemas: the tiny model learns the tools from episodes."""


def keep_memory() -> None:
    """Let freed tensors' memory stay with the process (glibc alone): a step frees and asks for the same megabytes again and again, and given back
    to the kernel they would come page by page, zeroed each time. A few per cent of a small model's step on a CPU.
    """
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        for what in (-1, -3):  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD
            mallopt(what, 1 << 28)


def load_model(path: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A causal LM and its tokenizer, float32 on a CPU, bfloat16 on a GPU.

    Raises:
        UsageError: nothing can be loaded from ``path``.
    """
    cuda = torch.cuda.is_available()
    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
        model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16 if cuda else torch.float32)
    except (OSError, ValueError) as error:
        raise UsageError(f"no model can be loaded from {path!r}: {str(error).splitlines()[0][:200]}") from None
    return model.to("cuda" if cuda else "cpu"), tokenizer


def tiny_tokenizer(texts: Iterable[str], size: int = 2048) -> PreTrainedTokenizerFast:
    """A byte-level BPE of at most ``size`` entries, trained on ``texts``; digits stand alone, and so do the marks of a tool call."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=False))
    split = pre_tokenizers.Split(Regex(r" ?[A-Za-z_]+|[0-9]|[^A-Za-z0-9_]+"), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size - 2, special_tokens=[PAD, START, END], initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens([OPEN, CLOSE])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=[START],
        chat_template=TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def tiny_model(tokenizer: PreTrainedTokenizerBase, seed: int, *, hidden: int = 128, layers: int = 3, heads: int = 4, context: int = 1024) -> Qwen3ForCausalLM:
    """A Qwen3-architecture model of about a million parameters, initialised from ``seed``."""
    config: dict[str, Any] = {
        "vocab_size": len(tokenizer), "hidden_size": hidden, "intermediate_size": 3 * hidden, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": heads // 2, "head_dim": hidden // heads, "max_position_embeddings": context,
        "tie_word_embeddings": True, "pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id, "bos_token_id": None,
    }  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Qwen3ForCausalLM(Qwen3Config(**config)).float()


ADAPTER = "adapter"
"""The folder, inside a checkpoint, of the adapters that were trained; the checkpoint's own weights have them merged in."""


def adapted(model: PreTrainedModel, rank: int, start: Path | None = None) -> PreTrainedModel:
    """The model with LoRA adapters on all its linear layers, nothing else of it trainable; those of the checkpoint ``start`` if given.

    Raises:
        MissingExtra: peft is not installed.
    """
    try:
        from peft import LoraConfig, PeftModel, get_peft_model
    except ImportError:
        raise MissingExtra("peft", "pip install 'agentgym-trainers[lora]'") from None
    if start is not None and (start / ADAPTER).is_dir():
        wrapped: PreTrainedModel = PeftModel.from_pretrained(model, start / ADAPTER, is_trainable=True)
        return wrapped
    fresh: PreTrainedModel = get_peft_model(model, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM"))
    return fresh


def plain(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """The weights of the causal LM that a model is, adapters merged in, by the names of its own architecture."""
    if not hasattr(model, "peft_config"):
        return {k: full(v) for k, v in model.state_dict().items()}
    merged = {}
    modules = dict(model.base_model.model.named_modules())
    for key, value in model.base_model.model.state_dict().items():
        name = key.replace(".base_layer", "")
        if ".lora_" in key:
            continue
        owner = modules.get(key.rpartition(".base_layer.")[0]) if ".base_layer." in key else None
        merged[name] = value + owner.get_delta_weight("default") if owner is not None and key.endswith("weight") else value
    return merged


def save_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path, weights: dict[str, torch.Tensor] | None = None) -> None:
    """A Hugging Face folder with safetensors, adapters merged in; those are kept apart too. ``weights``: gathered ones, of a sharded model."""
    if weights is not None or hasattr(model, "peft_config"):
        bare = model.base_model.model if hasattr(model, "peft_config") else model
        empty: PreTrainedModel = AutoModelForCausalLM.from_config(bare.config)
        empty.load_state_dict(plain(model) if weights is None else weights)
        empty.to(bare.dtype).save_pretrained(folder, safe_serialization=True)
        if hasattr(model, "peft_config"):
            model.save_pretrained(folder / ADAPTER)
    else:
        model.save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)
