"""Streams: groups of episodes as flat arrays over tokens. What a trainer consumes, and all that it sees.

Every array has one entry per token, N in all; ``segment_N`` says which tokens form one sequence, in order. Weights carry
their global denominators, so a loss is a plain sum and may be cut into micro-batches anywhere an objective allows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Literal

import torch
from torch import Tensor

from agentgym.episode import Episode
from agentgym.errors import UnknownName, UsageError

Unit = Literal["token", "turn", "segment", "episode", "pair"]
"""What an objective must see whole."""

OUTSIDE = -1
"""The weight version of tokens that another distribution gave: an oracle's, or those of a prompt with a hint."""


@dataclass(frozen=True)
class Batch:
    """Packed tokens. ``turn``, ``segment``, ``episode`` and ``group`` count from 0 over the batch; −1 is none.

    ``pair`` numbers pairs of episodes; within one, the preferred episode has ``advantage`` above 0. ``scored`` holds what roles say of
    each token (``reference``, ``value``, ``process``, ``proximal``, …) and other numbers an objective asks for by name.
    """

    ids_N: Tensor
    position_N: Tensor
    mask_N: Tensor
    behaviour_logp_N: Tensor
    temperature_N: Tensor
    version_N: Tensor
    turn_N: Tensor
    segment_N: Tensor
    episode_N: Tensor
    group_N: Tensor
    pair_N: Tensor
    advantage_N: Tensor
    return_N: Tensor
    weight_N: Tensor
    kl_weight_N: Tensor
    entropy_weight_N: Tensor
    scored: dict[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return int(self.ids_N.shape[0])

    def take(self, index_M: Tensor) -> Batch:
        """The tokens at ``index_M``, in that order."""
        cut = {f.name: getattr(self, f.name)[index_M] for f in fields(self) if f.name != "scored"}
        return Batch(**cut, scored={k: v[index_M] for k, v in self.scored.items()})

    def having(self, **scored_N: Tensor) -> Batch:
        """The batch with more numbers beside it."""
        return replace(self, scored={**self.scored, **scored_N})

    @property
    def old_N(self) -> Tensor:  # noqa: N802  # array names end in their axes
        """Log-probabilities that ratios are taken against: of the proximal policy if it was scored, else as sampled."""
        return self.scored.get("proximal", self.behaviour_logp_N)

    def units(self, unit: Unit) -> Tensor:
        """The number of each token's unit; tokens in none stand alone."""
        if unit == "token":
            return torch.arange(len(self))
        found_N: Tensor = getattr(self, f"{unit}_N")
        return found_N


def valid(episode: Episode) -> bool:
    """Whether an episode may be trained on: valid, ended by no fault of another seat, and with token ids."""
    return episode.decided and all(t.tokens is not None or not t.action for t in episode.turns) and any(t.tokens for t in episode.turns)


def outside(episode: Episode) -> bool:
    """Whether another than the policy, or the policy under another prompt, sampled some of it."""
    return any(version == str(OUTSIDE) for t in episode.turns if t.tokens for version, _ in t.tokens.weight_versions)


def make_batch(
    episodes: Sequence[Episode], advantage_B: Sequence[float], aggregation: str = "token", *, constant: int | None = None, pairs: Sequence[int] | None = None
) -> Batch:
    """One batch from valid episodes and one advantage each. ``aggregation`` fixes the weights (see ``weights``).

    Raises:
        UsageError: an episode was decoded greedily, or has no token ids.
    """
    skipped = ("scored", "return_N", "weight_N", "kl_weight_N", "entropy_weight_N")
    rows: dict[str, list[float]] = {f.name: [] for f in fields(Batch) if f.name not in skipped}
    groups: dict[str, int] = {}
    segments: dict[tuple[int, int], int] = {}
    lengths: dict[int, int] = {}
    turns = 0
    for number, (episode, advantage) in enumerate(zip(episodes, advantage_B, strict=True)):
        group = groups.setdefault(episode.group or episode.id, len(groups))
        for turn in episode.turns:
            if (tokens := turn.tokens) is None:
                continue
            if tokens.sampling.get("temperature", 0.0) <= 0.0:
                raise UsageError(f"{episode.id} was decoded greedily; sample at a temperature above 0 to train on it")
            n, segment = len(tokens.ids), segments.setdefault((number, tokens.segment), len(segments))
            start = lengths.get(segment, 0)
            lengths[segment] = start + n
            rows["ids_N"] += tokens.ids
            rows["position_N"] += range(start, start + n)
            rows["mask_N"] += tokens.mask
            rows["behaviour_logp_N"] += tokens.logprobs
            rows["version_N"] += _versions(tokens.mask, tokens.weight_versions)
            for name, value in (
                ("temperature_N", tokens.sampling["temperature"]), ("turn_N", turns), ("segment_N", segment), ("episode_N", number), ("group_N", group),
                ("pair_N", pairs[number] if pairs else -1), ("advantage_N", advantage),
            ):  # fmt: skip
                rows[name] += [value] * n
            turns += 1
    whole = {"ids_N", "position_N", "version_N", "turn_N", "segment_N", "episode_N", "group_N", "pair_N"}
    made = {k: torch.tensor(v, dtype=torch.long if k in whole else torch.float32) for k, v in rows.items()}
    zero_N = torch.zeros(len(rows["ids_N"]))
    made |= dict.fromkeys(("return_N", "weight_N", "kl_weight_N", "entropy_weight_N"), zero_N)
    return weigh(Batch(**made), aggregation, constant=constant)  # type: ignore[arg-type]  # every field but one is a Tensor


def _versions(mask: Sequence[int], runs: Sequence[tuple[str, int]]) -> list[float]:
    """The weight version of each token; tokens that were not sampled have that of the next one that was."""
    sampled = [float(version) for version, n in runs for _ in range(n)]
    out, at = [], 0
    for m in mask:
        out.append(sampled[min(at, len(sampled) - 1)] if sampled else 0.0)
        at += m
    return out


def weigh(batch: Batch, aggregation: str, *, constant: int | None = None) -> Batch:
    """The batch with the weights of an aggregation, for the objective, the divergence and the entropy alike."""
    weight_N = weights(batch, aggregation, constant=constant)
    return replace(batch, weight_N=weight_N, kl_weight_N=weight_N, entropy_weight_N=weight_N)


def summed(x_N: Tensor, unit_N: Tensor) -> Tensor:
    """``[N]``: the sum over each token's unit. Unit −1 is one unit like any other."""
    at_N = unit_N - unit_N.min() if len(unit_N) else unit_N
    total = torch.zeros(int(at_N.max()) + 1 if len(at_N) else 0, dtype=x_N.dtype, device=x_N.device).index_add(0, at_N, x_N)
    return total[at_N]


def first(unit_N: Tensor) -> Tensor:
    """``[N]``: 1 at the first token of each unit, 0 elsewhere."""
    at_N = unit_N - unit_N.min() if len(unit_N) else unit_N
    place = torch.full((int(at_N.max()) + 1 if len(at_N) else 0,), len(at_N), dtype=torch.long)
    place.scatter_reduce_(0, at_N, torch.arange(len(at_N)), "amin")
    return (place[at_N] == torch.arange(len(at_N))).float()


def turn_of(batch: Batch) -> Tensor:
    """``[N]``: each token's turn, counted from 0 in its episode."""
    start = torch.full((int(batch.episode_N.max()) + 1,), int(batch.turn_N.max()) + 1).scatter_reduce(0, batch.episode_N, batch.turn_N, "amin")
    return batch.turn_N - start[batch.episode_N]


def _count(unit_N: Tensor) -> int:
    return int(unit_N.max()) + 1 if len(unit_N) else 1


def weights(batch: Batch, aggregation: str, *, constant: int | None = None) -> Tensor:
    """Weights that make Σ weight · loss the aggregation of that name, over the whole batch.

    ``token``: mean over all sampled tokens. ``sequence``: mean over episodes of token means. ``constant``: sum over an
    episode's tokens divided by ``constant``, mean over episodes. ``turn``: mean over episodes of the mean over turns of token means.
    ``sum``: sum over an episode's tokens, mean over episodes. ``pair``: mean over pairs of a loss that every token of a pair carries.
    """
    if aggregation not in AGGREGATIONS:
        raise UnknownName("aggregation", aggregation, AGGREGATIONS)
    return AGGREGATIONS[aggregation](batch, batch.mask_N.to(batch.advantage_N.dtype), constant)


def _token(batch: Batch, mask_N: Tensor, constant: int | None) -> Tensor:
    return mask_N / mask_N.sum().clamp(min=1)


def _sequence(batch: Batch, mask_N: Tensor, constant: int | None) -> Tensor:
    return mask_N / (summed(mask_N, batch.episode_N).clamp(min=1) * _count(batch.episode_N))


def _constant(batch: Batch, mask_N: Tensor, constant: int | None) -> Tensor:
    if not constant:
        raise UsageError("aggregation constant needs constant=<longest number of sampled tokens>")
    return mask_N / (constant * _count(batch.episode_N))


def _sum(batch: Batch, mask_N: Tensor, constant: int | None) -> Tensor:
    return mask_N / _count(batch.episode_N)


def _turn(batch: Batch, mask_N: Tensor, constant: int | None) -> Tensor:
    turns_N = summed(first(batch.turn_N).to(mask_N.dtype), batch.episode_N)
    return mask_N / (summed(mask_N, batch.turn_N).clamp(min=1) * turns_N * _count(batch.episode_N))


def _pair(batch: Batch, mask_N: Tensor, constant: int | None) -> Tensor:
    mask_N = mask_N * (batch.pair_N >= 0)
    return mask_N / (summed(mask_N, batch.pair_N).clamp(min=1) * max(1, _count(batch.pair_N)))


AGGREGATIONS: dict[str, Callable[[Batch, Tensor, int | None], Tensor]] = {
    "token": _token, "sequence": _sequence, "constant": _constant, "turn": _turn, "sum": _sum, "pair": _pair,
}  # fmt: skip
