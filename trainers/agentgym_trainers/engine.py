"""The ``transformers`` engine: continuous batching over a slot cache, on a CPU or one GPU.

A conversation keeps its slot between turns, so only new tokens are computed. Each conversation has its own random numbers:
what it samples does not depend on who else is in the batch (up to the rounding of a batched product).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, Protocol

import anyio
import anyio.lowlevel
import numpy as np
import torch
from msgspec import Struct
from transformers import PreTrainedModel

from agentgym.core import Completion, Conversation, Tokens
from agentgym.errors import ContextOverflow, UsageError
from agentgym_trainers.decode import fused
from agentgym_trainers.parallel import full
from agentgym_trainers.renderer import ChatRenderer
from agentgym_trainers.slots import SlotCache

KEPT = 256
"""How many conversations keep their keys and values between turns, beyond those that are being written."""


@dataclass(eq=False)
class _Request:
    """One completion being made."""

    key: str
    prompt: list[int]
    limit: int
    uniform: np.ndarray[Any, Any]
    slot: int = -1
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    versions: list[str] = field(default_factory=list)
    finish: Literal["stop", "length"] | None = None
    wake: anyio.Event = field(default_factory=anyio.Event)


class Engine(Protocol):
    """A policy that owns weights. ``sync`` makes it sample with a model's weights from now on, stamped with a version; ``close`` ends it."""

    name: str
    generated: int

    async def act(self, conversation: Conversation, /) -> Completion: ...
    async def score(self, conversation: Conversation, continuation: str, /) -> list[float]: ...
    def sync(self, model: PreTrainedModel, version: str) -> None: ...
    def close(self) -> None: ...


class Sampled(Struct, frozen=True):
    """What was sampled after some ids: token by token its log-probability and the version of the weights."""

    ids: list[int]
    logprobs: list[float]
    versions: list[str]
    finish: Literal["stop", "length"]


class TokenEngine(ABC):
    """An engine that takes and gives token ids. ``temperature`` 0 is greedy: evaluable, refused for training.

    Args:
        context: longest conversation in tokens.
        max_tokens: longest action in tokens.
    """

    def __init__(self, renderer: ChatRenderer, name: str, temperature: float, max_tokens: int, context: int) -> None:
        self.renderer, self.name, self.temperature, self.max_tokens, self.context = renderer, name, temperature, max_tokens, context
        self.version, self.generated = "0", 0

    @abstractmethod
    async def _generate(self, key: str, prompt: list[int], limit: int, seed: tuple[int, int]) -> Sampled:
        """Sample at most ``limit`` ids; ``seed`` is the episode's and the number of messages so far."""

    @abstractmethod
    async def _logprobs(self, ids: list[int], start: int) -> list[float]:
        """Log-probabilities, at temperature 1, of the ids from ``start`` on."""

    async def act(self, conversation: Conversation) -> Completion:
        """Sample one action. Raises ``ContextOverflow`` if the conversation leaves no room for a token."""
        new, before = self._prompt(conversation)
        room = self.context - len(new) - sum(len(t.ids) for t in before)
        if room <= 0:
            raise ContextOverflow(f"{conversation.id} needs more than {self.context} tokens")
        limit = min(room, conversation.max_tokens or self.max_tokens, self.max_tokens)
        history = [i for t in before for i in t.ids]
        said = await self._generate(conversation.id, history + new, limit, (conversation.seed & (2**64 - 1), len(conversation.messages)))
        n = len(said.ids)
        self.generated += n
        tokens = Tokens(
            new + said.ids, [0] * len(new) + [1] * n, [0.0] * len(new) + said.logprobs,
            {"temperature": self.temperature}, _runs(said.versions), len(conversation.prefix or ()) if self.renderer.segment_each_turn else 0,
        )  # fmt: skip
        return Completion(self.renderer.parse(said.ids)["content"], tokens, said.finish, {"completion_tokens": n})

    async def score(self, conversation: Conversation, continuation: str) -> list[float]:
        """Log-probabilities, at temperature 1, of the tokens of a text after a conversation.

        Where the conversation has no messages, the ids of its prefix are all that comes before.
        """
        new, before = self._prompt(conversation) if conversation.messages else ([], conversation.prefix or [])
        start = [*(i for t in before for i in t.ids), *new]
        said = list(self.renderer.tokenizer(continuation, add_special_tokens=False)["input_ids"])
        if len(start) + len(said) > self.context:
            raise ContextOverflow(f"{conversation.id} needs more than {self.context} tokens")
        return await self._logprobs(start + said, len(start)) if said else []

    def _prompt(self, conversation: Conversation) -> tuple[list[int], Sequence[Tokens]]:
        """The ids that are new, and the turns they follow in this segment."""
        before = [] if self.renderer.segment_each_turn else conversation.prefix or []
        if not before:
            return self.renderer.open(conversation.tools, conversation.messages), before
        said = max(i for i, m in enumerate(conversation.messages) if m["role"] == "assistant")
        return self.renderer.bridge(conversation.messages[said + 1 :], before[-1].ids[-1] in self.renderer.stop_ids), before


class TransformersEngine(TokenEngine):
    """Samples from a ``transformers`` model in this process."""

    def __init__(
        self, model: PreTrainedModel, renderer: ChatRenderer, *, name: str = "hf", temperature: float = 1.0, max_tokens: int = 128, context: int | None = None
    ) -> None:
        layers = set(getattr(model.config, "layer_types", None) or ["full_attention"])
        if layers != {"full_attention"}:
            raise UsageError(f"{name}: layers of kind {sorted(layers)} are not supported by the transformers engine; use full attention")
        super().__init__(renderer, name, temperature, max_tokens, context or int(getattr(model.config, "max_position_embeddings", 4096)))
        self.model, self._fused = model, fused(model)
        self._cache, self._lengths = SlotCache(), np.zeros(0, dtype=np.int64)
        self._owner: dict[str, int] = {}
        self._free: list[int] = []
        self._pending: list[_Request] = []
        self._active: list[_Request] = []
        self._driving = False

    def sync(self, model: PreTrainedModel, version: str) -> None:
        """Sample with these weights (copied, unless they are the model's own) from now on, stamped with ``version``; forget every key and value.

        What is being written goes on: its tokens so far are read again with the new weights.
        """
        if model is not self.model:
            with torch.no_grad():
                for mine, theirs in zip(self.model.parameters(), model.parameters(), strict=True):
                    mine.copy_(full(theirs))
        if self._fused is not None:
            self._fused.refresh()
        self.version = version
        busy = {r.key: r.slot for r in self._active}
        self._owner = {k: s for k, s in self._owner.items() if k in busy}
        if not busy:
            self._lengths = np.zeros(0, dtype=np.int64)
        self._lengths[:] = 0
        self._free = sorted(set(range(len(self._lengths))) - set(self._owner.values()))

    def close(self) -> None:
        """Nothing to end: the model is the caller's."""

    async def _generate(self, key: str, prompt: list[int], limit: int, seed: tuple[int, int]) -> Sampled:
        if self.renderer.segment_each_turn and key in self._owner:
            self._lengths[self._owner[key]] = 0  # another segment: nothing that was read of the last one holds
        request = _Request(key, prompt, limit, np.random.Generator(np.random.Philox(key=list(seed))).random(limit))
        await self._complete(request)
        return Sampled(request.ids, request.logprobs, request.versions, request.finish or "stop")

    @torch.no_grad()
    async def _logprobs(self, ids: list[int], start: int) -> list[float]:
        row, said = torch.tensor([ids], device=self.model.device), len(ids) - start
        logits = self.model(input_ids=row[:, :-1], use_cache=False, logits_to_keep=said).logits[0, -said:].float()
        found: list[float] = torch.log_softmax(logits, -1).gather(-1, row[0, -said:, None])[:, 0].tolist()
        return found

    # Continuous batching: whoever waits and finds no driver drives

    async def _complete(self, request: _Request) -> None:
        self._pending.append(request)
        try:
            await anyio.lowlevel.checkpoint()  # let everyone who is ready ask first
            while request.finish is None:
                if self._driving:
                    await request.wake.wait()
                    request.wake = anyio.Event()
                    continue
                self._driving = True
                try:
                    while request.finish is None:
                        await anyio.lowlevel.checkpoint()
                        self._forward()
                finally:
                    self._driving = False
        finally:  # whoever gave up (a time limit, a group that was cut) is written no further, and hands the wheel on
            self._pending = [r for r in self._pending if r is not request]
            self._active = [r for r in self._active if r is not request]
            if not self._driving:
                for other in [*self._active, *self._pending][:1]:
                    other.wake.set()

    @torch.no_grad()
    def _forward(self) -> None:
        """One forward: the prompts of those who wait, if enough do; else one more token of everyone.

        Of conversations that wait with the same prompt (a group's) one is computed, and its keys and values are copied to the others.
        """
        if self._pending and len(self._pending) * 4 >= len(self._active):
            batch, self._pending = self._pending, []
            for request in batch:
                self._admit(request, batch)
            leader = self._leaders(batch)
            self._active += batch
        else:
            batch = self._active
            leader = np.arange(len(batch))
        heads = np.flatnonzero(leader == np.arange(len(batch)))
        leading = [batch[i] for i in heads]
        logits = self._logits(leading, [_unread(r, int(self._lengths[r.slot])) for r in leading])
        if len(heads) < len(batch):
            self._copy(batch, leader)
            logits = logits[torch.from_numpy(np.searchsorted(heads, leader)).to(logits.device)]
        self._sample(batch, logits)
        self._active = [r for r in self._active if r.finish is None]

    def _leaders(self, batch: list[_Request]) -> np.ndarray[Any, Any]:
        """For each the first with the same prompt, where nothing of it has been read yet; itself otherwise."""
        seen: dict[tuple[int, ...], int] = {}
        return np.array([seen.setdefault(tuple(r.prompt), i) if not self._lengths[r.slot] else i for i, r in enumerate(batch)])

    def _copy(self, batch: list[_Request], leader: np.ndarray[Any, Any]) -> None:
        followers = np.flatnonzero(leader != np.arange(len(batch)))
        to = np.array([batch[i].slot for i in followers])
        source = np.array([batch[leader[i]].slot for i in followers])
        self._cache.copy(source, to, int(self._lengths[source].max()))
        self._lengths[to] = self._lengths[source]

    def _admit(self, request: _Request, batch: list[_Request]) -> None:
        """Give a slot; keep what it holds of the prompt's keys already."""
        slot = self._owner.pop(request.key, -1)
        if slot < 0:
            slot = self._free_slot(batch)
            self._lengths[slot] = 0
        self._owner[request.key], request.slot = slot, slot
        self._lengths[slot] = int(min(self._lengths[slot], len(request.prompt) - 1))
        self._cache.grow(-(-len(self._lengths) // 32) * 32, -(-(len(request.prompt) + request.limit) // 64) * 64)

    def _free_slot(self, batch: list[_Request]) -> int:
        """A slot nobody has; beyond ``KEPT`` of them, that of the conversation that has waited longest (it is computed again if it comes back)."""
        if self._free:
            return self._free.pop(0)
        if len(self._lengths) >= KEPT:
            busy = {r.slot for r in (*self._active, *batch)}
            idle = next((key for key, slot in self._owner.items() if slot not in busy), None)
            if idle is not None:
                return self._owner.pop(idle)
        self._lengths = np.append(self._lengths, 0)
        return len(self._lengths) - 1

    def _logits(self, batch: list[_Request], chunks: list[list[int]]) -> torch.Tensor:
        """Logits ``[len(batch), vocabulary]`` after each chunk; rows are left-padded to the longest."""
        slots = np.array([r.slot for r in batch])
        counts = np.array([len(c) for c in chunks])
        width, whole = int(counts.max()), len(self._lengths)
        everyone = width == 1 and len(batch) * 10 >= whole * 6
        rows = np.arange(whole) if everyone else slots
        at = slots if everyone else np.arange(len(batch))
        ids = np.zeros((len(rows), width), dtype=np.int64)
        position = np.full((len(rows), width), -1, dtype=np.int64)
        if width == 1:
            ids[at, 0], position[at, 0] = [chunk[0] for chunk in chunks], self._lengths[slots]
        else:
            for i, chunk, slot in zip(at, chunks, slots, strict=True):
                ids[i, width - len(chunk) :] = chunk
                position[i, width - len(chunk) :] = np.arange(self._lengths[slot], self._lengths[slot] + len(chunk))
        reach = int(position.max()) + 1
        device = self.model.device
        write_at = torch.from_numpy(np.where(position < 0, self._cache.capacity, position)).to(device)
        self._cache.view(None if everyone else torch.from_numpy(rows).to(device), torch.from_numpy(rows).to(device), write_at, reach)
        seen = torch.from_numpy(np.maximum(position, 0)).to(device)
        mask = torch.arange(reach, device=device)[None, None, None, :] <= seen[:, None, :, None]
        read = torch.from_numpy(ids).to(device)
        if self._fused is not None:
            logits = self._fused(read, seen, mask, self._cache)
        else:
            out = self.model(input_ids=read, position_ids=seen, attention_mask=mask, past_key_values=self._cache, use_cache=True, logits_to_keep=1)
            logits = out.logits[:, -1]
        self._lengths[slots] += counts
        chosen: torch.Tensor = logits[torch.from_numpy(at).to(device)].float()
        return chosen

    def _sample(self, batch: list[_Request], logits: torch.Tensor) -> None:
        """One token each, by inverse transform of the request's own uniform number; log-probabilities as sampled."""
        logp = torch.log_softmax(logits / self.temperature if self.temperature > 0 else logits, dim=-1)
        if self.temperature > 0:
            u = torch.from_numpy(np.array([r.uniform[len(r.ids)] for r in batch])).to(logits.device)
            below = logp.exp().cumsum(-1, dtype=torch.float64)
            chosen = (below < u[:, None] * below[:, -1:]).sum(-1).clamp_(max=logp.shape[-1] - 1)
        else:
            chosen = logp.argmax(-1)
        picked = logp.gather(-1, chosen[:, None])[:, 0].tolist()
        for request, token, value in zip(batch, chosen.tolist(), picked, strict=True):
            request.ids.append(token)
            request.logprobs.append(value)
            request.versions.append(self.version)
            if token in self.renderer.stop_ids:
                request.finish = "stop"
            elif len(request.ids) >= request.limit:
                request.finish = "length"
            if request.finish:
                request.wake.set()


def _unread(request: _Request, held: int) -> list[int]:
    """What a request's slot has not read yet: the last token, or more after new weights."""
    n = len(request.prompt)
    return request.ids[held - n :] if held >= n else request.prompt[held:] + request.ids


def _runs(versions: list[str]) -> list[tuple[str, int]]:
    """Versions of single tokens as runs."""
    return [(version, len(list(same))) for version, same in groupby(versions)]


def load_engine(
    path: str, *, temperature: float = 0.0, max_tokens: int = 128, on_rewrite: Literal["refuse", "segment"] = "refuse", **settings: Any
) -> TransformersEngine:
    """``hf:PATH``: a Hugging Face causal LM, from a folder or from the hub.

    Raises:
        UsageError: nothing can be loaded from ``path``.
    """
    from agentgym_trainers.model import load_model

    model, tokenizer = load_model(path)
    name = f"hf:{Path(path).name}"
    return TransformersEngine(model.eval(), ChatRenderer(tokenizer, on_rewrite), name=name, temperature=temperature, max_tokens=max_tokens)
