"""What a batch of episodes was paid, by place: where terms of the record become arrays that advantages are made from."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from agentgym.episode import Episode, Turn
from agentgym.rewards.groups import Floats, Ints
from agentgym.rewards.spec import Spec
from agentgym_trainers.streams import Batch, turn_of, valid

Decode = Callable[[Sequence[int]], str]


@dataclass(frozen=True)
class Span:
    """A term placed on sampled tokens ``start … end`` of one turn, counted among the turn's sampled tokens."""

    episode: int
    turn: int
    start: int
    end: int
    value: float


@dataclass(frozen=True)
class Paid:
    """Terms of B episodes of at most T turns. NaN in ``whole_B``: the episode may teach nobody anything.

    ``turn_BT`` sums the terms of each turn (NaN where none was played), ``whole_B`` those of the episode and its group, ``source_B`` all of
    each source. ``anchor_BT`` numbers what the agent saw before each action, equal where it saw the same. ``seconds_BT`` it took.
    """

    whole_B: Floats
    turn_BT: Floats
    group_B: Ints
    anchor_BT: Ints
    seconds_BT: Floats
    source_B: Mapping[str, Floats] = field(default_factory=dict)
    spans: Sequence[Span] = ()

    @property
    def total_B(self) -> Floats:  # noqa: N802  # array names end in their axes
        """The whole return of each episode."""
        total_B: Floats = self.whole_B + np.nansum(self.turn_BT, axis=1) + self.of_spans_B
        return total_B

    @property
    def of_spans_B(self) -> Floats:  # noqa: N802  # array names end in their axes
        """The sum of the terms on spans of each episode."""
        out_B = np.zeros(len(self.whole_B))
        for span in self.spans:
            out_B[span.episode] += span.value
        return out_B

    @property
    def played_BT(self) -> NDArray[np.bool_]:  # noqa: N802  # array names end in their axes
        """True where a turn was played."""
        return ~np.isnan(self.turn_BT)

    def take(self, index_M: Ints) -> Paid:
        """The same of some episodes. Their groups keep their numbers."""
        new = {int(b): i for i, b in enumerate(index_M)}
        spans = [Span(new[s.episode], s.turn, s.start, s.end, s.value) for s in self.spans if s.episode in new]
        i, sources = index_M, {k: v[index_M] for k, v in self.source_B.items()}
        return Paid(self.whole_B[i], self.turn_BT[i], self.group_B[i], self.anchor_BT[i], self.seconds_BT[i], sources, spans)

    @staticmethod
    def of(rewards_B: Floats, group_B: Ints) -> Paid:
        """Episodes of one turn that were paid at their end."""
        b = len(rewards_B)
        return Paid(rewards_B, np.zeros((b, 1)), group_B, np.arange(b)[:, None], np.ones((b, 1)), {"reward": rewards_B})


def paid(episodes: Sequence[Episode], reward: Spec | None = None, decode: Decode | None = None) -> Paid:
    """Read the terms of episodes. One that is invalid, has no tokens, or whose reward lacks a verdict that it uses, gets NaN.

    ``decode`` turns ids into text, to find the tokens of a span of characters; without it, such a term belongs to its turn.
    """
    b, t = len(episodes), max((len(e.turns) for e in episodes), default=1) or 1
    whole_B, turn_BT = np.zeros(b), np.full((b, t), np.nan)
    anchor_BT, seconds_BT = np.full((b, t), -1), np.full((b, t), np.nan)
    seen: dict[str, int] = {}
    groups: dict[str, int] = {}
    source_B: dict[str, Floats] = {}
    spans: list[Span] = []
    for i, episode in enumerate(episodes):
        n = len(episode.turns)
        turn_BT[i, :n] = 0.0
        seconds_BT[i, :n] = [turn.duration_s for turn in episode.turns]
        before = [episode.start_anchor, *(turn.anchor for turn in episode.turns[:-1])]
        anchor_BT[i, :n] = [seen.setdefault(a, len(seen)) if a else -2 - i * t - k for k, a in enumerate(before[:n])]
        for term in episode.terms:
            source_B.setdefault(term.source, np.zeros(b))[i] += term.value
            place = term.place
            if place.turn is None:
                whole_B[i] += term.value
            elif place.level in ("span", "token") and place.span is not None and (found := _tokens(episode.turns[place.turn], place.span, place.level, decode)):
                spans.append(Span(i, place.turn, *found, term.value))
            else:
                turn_BT[i, place.turn] += term.value
        if not valid(episode) or (reward is not None and reward.lacking(episode)) or not math.isfinite(episode.total):
            whole_B[i] = np.nan
    group_B = np.array([groups.setdefault(e.group or e.id, len(groups)) for e in episodes], dtype=np.int64)
    return Paid(whole_B, turn_BT, group_B, anchor_BT, seconds_BT, source_B, spans)


def _tokens(turn: Turn, span: tuple[int, int], level: str, decode: Decode | None) -> tuple[int, int] | None:
    """The sampled tokens of a span: itself if it counts tokens, else those that hold its characters."""
    if level == "token" or turn.tokens is None:
        return span
    if decode is None:
        return None
    said = [i for i, m in zip(turn.tokens.ids, turn.tokens.mask, strict=True) if m]
    ends = [len(decode(said[: n + 1])) for n in range(len(said))]
    starts = [0, *ends[:-1]]
    held = [n for n, (a, z) in enumerate(zip(starts, ends, strict=True)) if a < span[1] and z > span[0]]
    return (held[0], held[-1] + 1) if held else None


def spread(batch: Batch, value_BT: Floats) -> Tensor:
    """``[N]`` of a number per turn (or one per episode, ``[B, 1]``) for a batch made of these episodes in this order."""
    at_T = turn_of(batch).clamp(max=value_BT.shape[1] - 1)
    return torch.from_numpy(np.nan_to_num(value_BT)).to(batch.advantage_N)[batch.episode_N, at_T]


def of_span(batch: Batch, span: Span) -> Tensor:
    """The indices of a span's tokens in a batch."""
    here = torch.nonzero((batch.episode_N == span.episode) & (turn_of(batch) == span.turn) & (batch.mask_N > 0))[:, 0]
    return here[span.start : span.end]


def reward_stream(batch: Batch, ledger: Paid) -> Tensor:
    """``[N]``: what each sampled token was paid: a turn's terms at its last, an episode's at its last, a span's at its last."""
    reward_N = torch.zeros(len(batch), dtype=batch.advantage_N.dtype)
    sampled = torch.nonzero(batch.mask_N > 0)[:, 0]
    last_turn = _last(batch.turn_N[sampled])
    reward_N[sampled[last_turn]] += spread(batch, ledger.turn_BT)[sampled[last_turn]]
    last = _last(batch.episode_N[sampled])
    reward_N[sampled[last]] += spread(batch, ledger.whole_B[:, None])[sampled[last]]
    for span in ledger.spans:
        if len(at := of_span(batch, span)):
            reward_N[at[-1]] += span.value
    return reward_N


def _last(unit_M: Tensor) -> Tensor:
    """The positions that are the last of their unit; units stand in one piece."""
    return torch.nonzero(torch.cat([unit_M[1:] != unit_M[:-1], torch.ones(1, dtype=torch.bool)]))[:, 0] if len(unit_M) else unit_M
