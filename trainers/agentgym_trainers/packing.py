"""Sequences in one forward. A prefix that several share (a group's prompt, branches of a fork) is computed once.

A row holds the tree of such sequences: each token once, with the position it has in its own sequence, seeing its own past alone.
Loss and gradient equal those of one padded row per sequence, up to the rounding of sums.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from agentgym_trainers.streams import Batch

ROWS = (512, 1024, 2048)
"""Tokens of a row that may be filled with several trees; a single tree may have a row of its own, up to ``TREE`` tokens."""
MASK = 1 << 28
"""Rows that need a mask of more cells than this are padded ones instead, which need none."""
BLOCKS, FEWEST = 4, 1024
"""Rows of their own length are computed in at most so many blocks; a block has at least so many positions, but for the last."""
TREE = 4096


@dataclass(frozen=True)
class Rows:
    """``ids_RT``, their positions, what each may see ``[R, 1, T, T]`` (None: what came before it in its row).

    Where there is a stem, ``group_R`` is which of its rows each hangs on; ``sees`` is then ``[R, 1, T, P + T]``.
    """

    ids_RT: Tensor
    position_RT: Tensor
    sees_RTT: Tensor | None = None
    group_R: Tensor | None = None


@dataclass(frozen=True)
class Layout:
    """Rows for one forward each. Of each token of the batch, ``place_N`` is where it lies and ``before_N`` where the one before it does (−1: it is
    the first), counted over all of them; with ``stem_GP``, what each group begins with, over that first.
    """

    rows: list[Rows]
    place_N: Tensor
    before_N: Tensor
    stem_GP: Tensor | None = None

    @property
    def cells(self) -> int:
        """How many positions are computed."""
        return sum(r.ids_RT.numel() for r in self.rows) + (0 if self.stem_GP is None else self.stem_GP.numel())


def segments(batch: Batch) -> list[Tensor]:
    """The indices of each sequence's tokens, in order."""
    order = torch.argsort(batch.segment_N, stable=True)
    sizes = torch.unique_consecutive(batch.segment_N[order], return_counts=True)[1]
    return list(torch.split(order, sizes.tolist()))


def lay_out(batch: Batch, share: bool = True, wide: float = 1.0, several: bool = True) -> Layout:
    """Rows over whole segments, whichever cost least: a row for each segment; rows that hang on what their group begins with; or trees of all that
    share a prefix. ``several`` allows more than one forward: rows are then cut to lengths that are alike.

    ``wide`` is how many further positions seen cost as much as a token's own layers (``width_of``): a row of trees sees all of itself.
    Without ``share``, one padded row for each segment.
    """
    pieces = segments(batch)
    if not share:
        return _apart(batch, pieces, {}, 1)
    trees = _trees(batch, pieces)
    sizes = [sum(n for _, _, n in tree) for tree in trees]
    costs = {}
    for room in {max(sizes), *ROWS}:
        rows = _filled(sizes, room)
        width = max(sum(sizes[k] for k in row) for row in rows)
        costs[room] = len(rows) * width * (wide + width) if len(rows) * width**2 <= MASK else math.inf
    room, most = min(costs, key=lambda r: costs[r]), BLOCKS if several else 1
    stems, lengths = _stems(batch, pieces), [len(p) for p in pieces]
    apart = sum(len(block) * lengths[block[0]] * (wide + lengths[block[0]] / 2) for block in _alike(lengths, most))
    deep, tails = max(stems.values()), [n - stems[int(batch.group_N[p[0]])] for n, p in zip(lengths, pieces, strict=True)]
    hung, cells = len(stems) * deep * (wide + deep / 2), 0
    for block in _alike(tails, most):
        n, width = len(block), tails[block[0]]
        hung, cells = hung + n * width * (wide + deep + width), max(cells, n * width * (deep + width))
    if several and deep and cells <= MASK and hung < min(costs[room], apart):
        return _apart(batch, pieces, stems, most)
    return _packed(batch, trees, _filled(sizes, room)) if costs[room] < apart else _apart(batch, pieces, {}, most)


def _alike(lengths: list[int], most: int) -> list[list[int]]:
    """Rows in at most ``most`` blocks, longest first: a new one begins where lengths have fallen by a quarter, if ``FEWEST`` positions are behind."""
    blocks: list[list[int]] = []
    for k in sorted(range(len(lengths)), key=lambda k: -lengths[k]):
        longest = lengths[blocks[-1][0]] if blocks else 0
        if not blocks or (len(blocks) < most and lengths[k] < 0.75 * longest and len(blocks[-1]) * longest >= FEWEST):
            blocks.append([])
        blocks[-1].append(k)
    return blocks


def width_of(config: Any) -> float:
    """How many positions of attention cost as much as a token's linear layers: by operations, times 3, since its fused kernel is that much quicker
    (measured on a CPU with small models)."""
    hidden = int(config.hidden_size)
    inner = int(getattr(config, "intermediate_size", None) or 4 * hidden)
    heads = int(config.num_attention_heads) * int(getattr(config, "head_dim", None) or hidden // int(config.num_attention_heads))
    kept = int(getattr(config, "num_key_value_heads", config.num_attention_heads)) / int(config.num_attention_heads)
    return 3 * (heads * hidden * (2 + 2 * kept) + 3 * hidden * inner) / (2 * heads)


def _stems(batch: Batch, pieces: list[Tensor]) -> dict[int, int]:
    """How many tokens the sequences of each group have in common at their start; each keeps one of its own. 0 where a group has one."""
    ids, groups = batch.ids_N.numpy(), dict[int, list[Indices]]()
    for piece in pieces:
        groups.setdefault(int(batch.group_N[piece[0]]), []).append(ids[piece.numpy()])
    return {g: min(min(_common(own[0], other), len(other) - 1) for other in own) if len(own) > 1 else 0 for g, own in groups.items()}


def _apart(batch: Batch, pieces: list[Tensor], stems: dict[int, int], most: int) -> Layout:
    """A row for what each sequence has of its own, and one for what its group begins with (``stems``; all of it is its own where there are none)."""
    groups = {g: k for k, g in enumerate(stems)}
    deep = max(stems.values(), default=0)
    stem_GP, ids = np.zeros((len(groups), deep), dtype=np.int64), batch.ids_N.numpy()
    place_N, before_N = np.zeros(len(batch), dtype=np.int64), np.full(len(batch), -1)
    shared = [stems.get(int(batch.group_N[p[0]]), 0) for p in pieces]
    rows, start = [], len(groups) * deep
    for block in _alike([len(p) - n for p, n in zip(pieces, shared, strict=True)], most):
        width = len(pieces[block[0]]) - shared[block[0]]
        ids_RT, position_RT = np.zeros((len(block), width), dtype=np.int64), np.zeros((len(block), width), dtype=np.int64)
        group_R = np.zeros(len(block), dtype=np.int64)
        for r, k in enumerate(block):
            at, n = pieces[k].numpy(), shared[k]
            own = len(at) - n
            ids_RT[r, :own], position_RT[r] = ids[at[n:]], np.arange(n, n + width)  # padding goes on counting: a new 0 would be read as a new sequence
            place_N[at[n:]] = start + r * width + np.arange(own)
            if groups:
                g = group_R[r] = groups[int(batch.group_N[at[0]])]
                stem_GP[g, :n], place_N[at[:n]] = ids[at[:n]], g * deep + np.arange(n)
            before_N[at[1:]] = place_N[at[:-1]]
        sees = _hanging(np.array(shared)[block], width, deep) if groups else None
        rows.append(Rows(torch.from_numpy(ids_RT), torch.from_numpy(position_RT), sees, torch.from_numpy(group_R) if groups else None))
        start += len(block) * width
    return Layout(rows, torch.from_numpy(place_N), torch.from_numpy(before_N), torch.from_numpy(stem_GP) if groups else None)


def _hanging(shared_R: Indices, width: int, deep: int) -> Tensor:
    """``[R, 1, width, deep + width]``: rows see what is theirs of a stem, and their own past."""
    stem = np.broadcast_to((np.arange(deep)[None] < shared_R[:, None])[:, None, None, :], (len(shared_R), 1, width, deep))
    own = np.broadcast_to(np.tril(np.ones((width, width), dtype=bool))[None, None], (len(shared_R), 1, width, width))
    return torch.from_numpy(np.concatenate([stem, own], -1))


def _filled(sizes: list[int], room: int) -> list[list[int]]:
    """Trees dealt into rows of at most ``room`` tokens, in order; a larger one stands alone."""
    rows: list[list[int]] = []
    held = room + 1
    for k, n in enumerate(sizes):
        if held + n > room:
            rows.append([])
            held = 0
        rows[-1].append(k)
        held += n
    return rows


Indices = np.ndarray[tuple[int], np.dtype[np.int64]]
_Tree = list[tuple[Tensor, tuple[int, int], int]]
"""Sequences in order: the indices of its tokens, how many of them it shares with which one before it, and how many are its own."""


def _trees(batch: Batch, pieces: list[Tensor]) -> list[_Tree]:
    """The sequences of each group as trees: each hangs on the one before it with which it has most in common."""
    ids = batch.ids_N.numpy()
    trees: list[_Tree] = []
    said: list[Indices] = []
    group, size = -2, 0
    for piece in sorted(pieces, key=lambda p: int(batch.group_N[p[0]])):
        own = ids[piece.numpy()]
        if int(batch.group_N[piece[0]]) != group or size + len(own) > TREE:
            trees.append([])
            said, size, group = [], 0, int(batch.group_N[piece[0]])
        shared, parent = max(((_common(own, other), -k) for k, other in enumerate(said)), default=(0, 0))
        trees[-1].append((piece, (shared, -parent), len(own) - shared))
        said.append(own)
        size += len(own) - shared
    return trees


def _packed(batch: Batch, trees: list[_Tree], rows: list[list[int]]) -> Layout:
    """The trees in their rows."""
    width = max(sum(n for k in row for _, _, n in trees[k]) for row in rows)
    ids_RT, position_RT = np.zeros((len(rows), width), dtype=np.int64), np.zeros((len(rows), width), dtype=np.int64)
    sees = np.zeros((len(rows), width, width), dtype=bool)
    sees[:, np.arange(width), np.arange(width)] = True
    place_N, before_N = np.zeros(len(batch), dtype=np.int64), np.full(len(batch), -1)
    ids = batch.ids_N.numpy()
    for r, row in enumerate(rows):
        start = 0
        for k in row:
            paths: list[Indices] = []
            for piece, (shared, parent), n in trees[k]:
                columns = np.concatenate([paths[parent][:shared], np.arange(start, start + n)]) if shared else np.arange(start, start + n)
                at, length = piece.numpy(), len(columns)
                ids_RT[r, columns[shared:]], position_RT[r, columns[shared:]] = ids[at[shared:]], np.arange(shared, length)
                sees[r, columns[shared:, None], columns[None, :]] = np.arange(shared, length)[:, None] >= np.arange(length)[None, :]
                place_N[at] = columns + r * width
                before_N[at[1:]] = place_N[at[:-1]]
                paths.append(columns)
                start += n
    whole = Rows(torch.from_numpy(ids_RT), torch.from_numpy(position_RT), torch.from_numpy(sees[:, None]))
    return Layout([whole], torch.from_numpy(place_N), torch.from_numpy(before_N))


def _common(a: Indices, b: Indices) -> int:
    """How many tokens two sequences have in common at their start."""
    n = min(len(a), len(b))
    differs = np.flatnonzero(a[:n] != b[:n])
    return int(differs[0]) if len(differs) else n
