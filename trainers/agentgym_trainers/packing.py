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
TREE = 4096


@dataclass(frozen=True)
class Stem:
    """What every sequence of a group begins with, computed once: ``ids_GP`` and positions, their lengths, and each row's group."""

    ids_GP: Tensor
    length_G: Tensor
    group_R: Tensor


@dataclass(frozen=True)
class Layout:
    """``ids_RT``, their positions, what each may see ``[R, 1, T, T]`` (None: what came before it in its row).

    Of each token of the batch, ``place_N`` is where it lies and ``before_N`` where the one before it does (−1: it is the first), counted
    over all rows; with a ``stem``, over the stem's rows first. Rows then hold what comes after it, and see it whole.
    """

    ids_RT: Tensor
    position_RT: Tensor
    sees_RTT: Tensor | None
    place_N: Tensor
    before_N: Tensor
    stem: Stem | None = None


def segments(batch: Batch) -> list[Tensor]:
    """The indices of each sequence's tokens, in order."""
    order = torch.argsort(batch.segment_N, stable=True)
    sizes = torch.unique_consecutive(batch.segment_N[order], return_counts=True)[1]
    return list(torch.split(order, sizes.tolist()))


def lay_out(batch: Batch, share: bool = True, wide: float = 1.0, stem: bool = True) -> Layout:
    """Rows for a forward over whole segments, whichever costs least: one padded row for each; rows that hang on what their group begins
    with (``stem`` allows it); or trees of all that share a prefix.

    ``wide`` is how many further positions seen cost as much as a token's own layers (``width_of``): a row of trees sees all of itself.
    """
    pieces = segments(batch)
    if not share:
        return _padded(batch, pieces)
    trees = _trees(batch, pieces)
    sizes = [sum(n for _, _, n in tree) for tree in trees]
    longest = max(len(p) for p in pieces)
    apart = len(pieces) * longest * (wide + longest / 2)
    costs = {}
    for room in {max(sizes), *ROWS}:
        rows = _filled(sizes, room)
        width = max(sum(sizes[k] for k in row) for row in rows)
        costs[room] = len(rows) * width * (wide + width) if len(rows) * width**2 <= MASK else math.inf
    room = min(costs, key=lambda r: costs[r])
    stems = _stems(batch, pieces)
    tails = [len(p) - stems[int(batch.group_N[p[0]])] for p in pieces]
    deep, wide_row = max(stems.values()), max(tails)
    hung = len(stems) * deep * (wide + deep / 2) + len(pieces) * wide_row * (wide + deep + wide_row)
    fits = stem and deep and len(pieces) * wide_row * (deep + wide_row) <= MASK
    if fits and hung < min(costs[room], apart):
        return _hung(batch, pieces, stems)
    return _packed(batch, trees, _filled(sizes, room)) if costs[room] < apart else _padded(batch, pieces)


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
    ids, first, out = batch.ids_N.numpy(), dict[int, Indices](), dict[int, int]()
    for piece in pieces:
        group, own = int(batch.group_N[piece[0]]), ids[piece.numpy()]
        if group not in first:
            first[group], out[group] = own, 0
            continue
        common = min(_common(first[group], own), len(own) - 1, len(first[group]) - 1)
        out[group] = common if not out[group] else min(out[group], common)
    return out


def _hung(batch: Batch, pieces: list[Tensor], stems: dict[int, int]) -> Layout:
    """A row for what each sequence has of its own, and one for what its group begins with."""
    groups = {g: k for k, g in enumerate(stems)}
    deep, width = max(stems.values()), max(len(p) - stems[int(batch.group_N[p[0]])] for p in pieces)
    stem_GP, length_G = np.zeros((len(groups), deep), dtype=np.int64), np.array(list(stems.values()))
    ids_RT, position_RT = np.zeros((len(pieces), width), dtype=np.int64), np.zeros((len(pieces), width), dtype=np.int64)
    place_N, before_N = np.zeros(len(batch), dtype=np.int64), np.full(len(batch), -1)
    ids, group_R = batch.ids_N.numpy(), np.zeros(len(pieces), dtype=np.int64)
    for r, piece in enumerate(pieces):
        at = piece.numpy()
        g = group_R[r] = groups[int(batch.group_N[piece[0]])]
        n = int(length_G[g])
        own = len(at) - n
        stem_GP[g, :n], ids_RT[r, :own], position_RT[r, :own] = ids[at[:n]], ids[at[n:]], np.arange(n, len(at))
        place_N[at] = np.concatenate([g * deep + np.arange(n), len(groups) * deep + r * width + np.arange(own)])
        before_N[at[1:]] = place_N[at[:-1]]
    seen = (np.arange(deep)[None] < length_G[group_R][:, None])[:, None, None, :]
    later = np.tril(np.ones((width, width), dtype=bool))[None, None]
    sees = np.concatenate([np.broadcast_to(seen, (len(pieces), 1, width, deep)), np.broadcast_to(later, (len(pieces), 1, width, width))], -1)
    made = [torch.from_numpy(np.ascontiguousarray(a)) for a in (ids_RT, position_RT, sees, place_N, before_N)]
    stem = Stem(torch.from_numpy(stem_GP), torch.from_numpy(length_G), torch.from_numpy(group_R))
    return Layout(made[0], made[1], made[2], made[3], made[4], stem)


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


def _padded(batch: Batch, pieces: list[Tensor]) -> Layout:
    """One row per sequence."""
    width = max(len(p) for p in pieces)
    ids_RT = torch.zeros((len(pieces), width), dtype=torch.long)
    position_RT = torch.arange(width).repeat(len(pieces), 1)  # padding goes on counting: a new 0 would be read as a new sequence
    place_N, before_N = torch.zeros(len(batch), dtype=torch.long), torch.full((len(batch),), -1)
    for row, piece in enumerate(pieces):
        n = len(piece)
        ids_RT[row, :n] = batch.ids_N[piece]
        place_N[piece] = row * width + torch.arange(n)
        before_N[piece[1:]] = place_N[piece[:-1]]
    return Layout(ids_RT, position_RT, None, place_N, before_N)


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
    made = [torch.from_numpy(a) for a in (ids_RT, position_RT, sees[:, None], place_N, before_N)]
    return Layout(made[0], made[1], made[2], made[3], made[4])


def _common(a: Indices, b: Indices) -> int:
    """How many tokens two sequences have in common at their start."""
    n = min(len(a), len(b))
    differs = np.flatnonzero(a[:n] != b[:n])
    return int(differs[0]) if len(differs) else n
