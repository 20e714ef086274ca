"""Novelty by counting: of what an agent sees, exactly (hash) or by how near it is to what was seen (archive)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import msgspec
import numpy as np

from agentgym.core import EpisodeView, Policy
from agentgym.verdict import Verdict
from agentgym_verifiers.intrinsic.features import arrays, captions, hashed, seen_after, unarrays


class Novelty:
    """1/√n at the n-th visit of an anchor (``form="count"``), or 1 at the first and 0 ever after (``"first"``).

    Source of the count form: Strehl and Littman, "An analysis of model-based Interval Estimation for Markov Decision Processes".
    Beyond ``capacity`` anchors the one not visited for the longest time is forgotten. ``life``: over the ``run``, or each ``episode``. ``of``:
    what is counted, the ``anchor`` or the ``caption`` of what a turn led to.
    """

    level: ClassVar[Literal["step"]] = "step"
    scope: ClassVar[Literal["episode"]] = "episode"

    def __init__(
        self,
        form: Literal["count", "first"] = "count",
        life: Literal["run", "episode"] = "run",
        capacity: int = 1_000_000,
        of: Literal["anchor", "caption"] = "anchor",
    ) -> None:
        self.form, self.life, self.capacity, self.of = form, life, capacity, of
        self.counts: OrderedDict[str, int] = OrderedDict()

    async def judge(self, views: Sequence[EpisodeView], policy: Policy) -> list[list[Verdict]]:
        """A verdict for each turn, on the anchor that it led to."""
        out = []
        for view in views:
            if self.life == "episode":
                self.counts.clear()
            seen = captions(view.episode) if self.of == "caption" else [t.anchor for t in view.episode.turns]
            out.append([Verdict("scored", self.visit(s) if s else 0.0) for s in seen])
        return out

    def visit(self, anchor: str) -> float:
        """Count a visit; its bonus."""
        n = self.counts.pop(anchor, 0) + 1
        self.counts[anchor] = n
        if len(self.counts) > self.capacity:
            self.counts.popitem(last=False)
        return n**-0.5 if self.form == "count" else float(n == 1)

    def state(self) -> bytes:
        """The counts, the longest unvisited first."""
        return msgspec.msgpack.encode(list(self.counts.items()))

    def load_state(self, state: bytes) -> None:
        """Continue from ``state``."""
        self.counts = OrderedDict(msgspec.msgpack.decode(state, type=list[tuple[str, int]]))


def messages(**settings: Any) -> Novelty:
    """``Novelty`` of captions: of NetHack's messages, say."""
    return Novelty(**{"of": "caption", **settings})


class ArchiveNovelty:
    """The mean distance of an observation to its ``nearest`` ones in an archive: near 0 for what is much like something seen.

    The archive is bounded: once full, a new observation replaces a random one. Distances are between hashed features, in [0, 2].
    """

    level: ClassVar[Literal["step"]] = "step"
    scope: ClassVar[Literal["episode"]] = "episode"

    def __init__(self, nearest: int = 5, capacity: int = 2_000, seed: int = 0) -> None:
        self.nearest, self.capacity = nearest, capacity
        self.archive = np.zeros((0, 256), dtype=np.float32)
        self.random = np.random.default_rng(seed)

    async def judge(self, views: Sequence[EpisodeView], policy: Policy) -> list[list[Verdict]]:
        """A verdict for each turn; its observation then joins the archive."""
        return [[Verdict("scored", self._visit(x_F)) for x_F in hashed(seen_after(v.episode))] for v in views]

    def _visit(self, x_F: np.ndarray[tuple[int], np.dtype[np.float32]]) -> float:
        bonus = 1.0
        if len(self.archive):
            squared = np.maximum(0.0, 2.0 - 2.0 * (self.archive @ x_F))
            k = min(self.nearest, len(squared))
            bonus = float(np.sqrt(np.partition(squared, k - 1)[:k]).mean())
        if len(self.archive) < self.capacity:
            self.archive = np.concatenate([self.archive, x_F[None]])
        else:
            self.archive[self.random.integers(self.capacity)] = x_F
        return bonus

    def state(self) -> bytes:
        """The archive and the random generator."""
        return arrays({"archive": self.archive}, {"random": self.random.bit_generator.state})

    def load_state(self, state: bytes) -> None:
        """Continue from ``state``."""
        found, rest = unarrays(state)
        self.archive, self.random.bit_generator.state = found["archive"], rest["random"]
