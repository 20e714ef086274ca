"""Keys and values of many conversations, each in a slot that it keeps between its turns."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from transformers.cache_utils import Cache


class SlotCache(Cache):  # type: ignore[misc]  # transformers is not typed
    """Keys and values of many sequences: ``[slots, capacity + 1, 2 heads, dim]`` per layer, keys first; the last position is a bin.

    ``view`` says which rows and positions the next forward writes, and how far it reads.
    """

    def __init__(self) -> None:
        super().__init__(layers=[])
        self.held: list[torch.Tensor] = []
        self.slots, self.capacity = 0, 0

    def view(self, rows: torch.Tensor | None, write_rows: torch.Tensor, write_at: torch.Tensor, reach: int) -> None:
        """``rows`` None reads slots ``0 … len(write_rows) - 1`` without a copy."""
        self._read = (slice(len(write_rows)) if rows is None else rows, slice(reach))
        self._write = (write_rows[:, None] * (self.capacity + 1) + write_at).flatten()

    def grow(self, slots: int, capacity: int) -> None:
        """Make room, keeping what is there."""
        if slots <= self.slots and capacity <= self.capacity:
            return
        old_slots, old_capacity = self.slots, self.capacity
        self.slots, self.capacity = max(slots, self.slots), max(capacity, self.capacity)
        for i, old in enumerate(self.held):
            self.held[i] = old.new_zeros((self.slots, self.capacity + 1, *old.shape[2:]))
            self.held[i][:old_slots, :old_capacity] = old[:, :old_capacity]

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Write ``[rows, heads, new, dim]`` and return ``[rows, heads, reach, dim]``."""
        return self.write(torch.cat([key_states, value_states], 1).transpose(1, 2), layer_idx)

    def write(self, states: torch.Tensor, layer_idx: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The same of ``[rows, new, 2 heads, dim]``, keys first."""
        both, dim = states.shape[2:]
        if layer_idx == len(self.held):
            self.held.append(states.new_zeros((self.slots, self.capacity + 1, both, dim)))
        held = self.held[layer_idx]
        held.view(-1, both, dim).index_copy_(0, self._write, states.reshape(-1, both, dim))
        read = held[self._read].transpose(1, 2)
        return read[:, : both // 2], read[:, both // 2 :]

    def copy(self, source: np.ndarray[Any, Any], to: np.ndarray[Any, Any], reach: int) -> None:
        """Give slots ``to`` the first ``reach`` positions of slots ``source``."""
        for held in self.held:
            held[torch.from_numpy(to).to(held.device), :reach] = held[torch.from_numpy(source).to(held.device), :reach]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Positions are always given, so nothing asks for a common length."""
        return 0
