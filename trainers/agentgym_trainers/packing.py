"""Sequences in one forward. A prefix that several share (a group's prompt, branches of a fork) is computed once.

A row holds the tree of such sequences: each token once, with the position it has in its own sequence, seeing its own past alone.
Loss and gradient equal those of one padded row per sequence, up to the rounding of sums.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from agentgym_trainers.streams import Batch

ROW = 1024
"""Tokens of a row that are filled before another is begun; a longer sequence has a row to itself."""


@dataclass(frozen=True)
class Layout:
    """``ids_RT``, their positions, what each may see ``[R, 1, T, T]`` (None: what came before it in its row).

    Of each token of the batch, ``place_N`` is where it lies and ``before_N`` where the one before it does (−1: it is the first), counted
    over all rows.
    """

    ids_RT: Tensor
    position_RT: Tensor
    sees_RTT: Tensor | None
    place_N: Tensor
    before_N: Tensor


def segments(batch: Batch) -> list[Tensor]:
    """The indices of each sequence's tokens, in order."""
    order = torch.argsort(batch.segment_N, stable=True)
    sizes = torch.unique_consecutive(batch.segment_N[order], return_counts=True)[1]
    return list(torch.split(order, sizes.tolist()))


def lay_out(batch: Batch, share: bool = True) -> Layout:
    """Rows for a forward over whole segments: trees of those that share a prefix, or one padded row for each."""
    pieces = segments(batch)
    return _trees(batch, pieces) if share else _padded(batch, pieces)


def _padded(batch: Batch, pieces: list[Tensor]) -> Layout:
    """One row per sequence."""
    width = max(len(p) for p in pieces)
    ids_RT = torch.zeros((len(pieces), width), dtype=torch.long)
    position_RT = torch.zeros_like(ids_RT)
    place_N, before_N = torch.zeros(len(batch), dtype=torch.long), torch.full((len(batch),), -1)
    for row, piece in enumerate(pieces):
        n = len(piece)
        ids_RT[row, :n], position_RT[row, :n] = batch.ids_N[piece], torch.arange(n)
        place_N[piece] = row * width + torch.arange(n)
        before_N[piece[1:]] = place_N[piece[:-1]]
    return Layout(ids_RT, position_RT, None, place_N, before_N)


@dataclass
class _Row:
    ids: list[int]
    position: list[int]
    paths: list[tuple[np.ndarray[tuple[int], np.dtype[np.int64]], int]]
    """For each sequence the columns of all its tokens, and how many of them it shares with one before it."""


def _trees(batch: Batch, pieces: list[Tensor]) -> Layout:
    ids = batch.ids_N.numpy()
    rows: list[_Row] = []
    where: list[tuple[Tensor, int, int]] = []
    said: list[list[np.ndarray[tuple[int], np.dtype[np.int64]]]] = []
    group_of = [int(batch.group_N[p[0]]) for p in pieces]
    for piece, _ in sorted(zip(pieces, group_of, strict=True), key=lambda x: x[1]):
        own = ids[piece.numpy()]
        shared, parent = max(((_common(own, other), k) for k, other in enumerate(said[-1])), default=(0, -1)) if rows else (0, -1)
        if not rows or len(rows[-1].ids) + len(own) - shared > ROW:
            rows.append(_Row([], [], []))
            said.append([])
            shared = 0
        row = rows[-1]
        start, n = len(row.ids), len(own) - shared
        columns = np.arange(start, start + n)
        if shared:
            columns = np.concatenate([row.paths[parent][0][:shared], columns])
        row.ids += own[shared:].tolist()
        row.position += range(shared, len(own))
        where.append((piece, len(rows) - 1, len(row.paths)))
        row.paths.append((columns, shared))
        said[-1].append(own)
    width = max(len(r.ids) for r in rows)
    sees = np.zeros((len(rows), width, width), dtype=bool)
    sees[:, np.arange(width), np.arange(width)] = True
    for k, row in enumerate(rows):
        for columns, shared in row.paths:
            n = len(columns)
            sees[k, columns[shared:, None], columns[None, :]] = np.arange(shared, n)[:, None] >= np.arange(n)[None, :]
    ids_RT, position_RT = torch.zeros((len(rows), width), dtype=torch.long), torch.zeros((len(rows), width), dtype=torch.long)
    for k, row in enumerate(rows):
        ids_RT[k, : len(row.ids)], position_RT[k, : len(row.ids)] = torch.tensor(row.ids), torch.tensor(row.position)
    place_N, before_N = torch.zeros(len(batch), dtype=torch.long), torch.full((len(batch),), -1)
    for piece, k, path in where:
        place_N[piece] = torch.from_numpy(rows[k].paths[path][0]) + k * width
        before_N[piece[1:]] = place_N[piece[:-1]]
    return Layout(ids_RT, position_RT, torch.from_numpy(sees)[:, None], place_N, before_N)


def _common(a: np.ndarray[tuple[int], np.dtype[np.int64]], b: np.ndarray[tuple[int], np.dtype[np.int64]]) -> int:
    """How many tokens two sequences have in common at their start."""
    n = min(len(a), len(b))
    differs = np.flatnonzero(a[:n] != b[:n])
    return int(differs[0]) if len(differs) else n
