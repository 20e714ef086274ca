"""Streams: groups of episodes as flat arrays over tokens. What a trainer consumes, and all that it sees.

Every array has one entry per token, N in all; ``segment_N`` says which tokens form one sequence, in order. Weights carry
their global denominators, so a loss is a plain sum and may be cut into micro-batches anywhere an objective allows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace

import torch
from torch import Tensor

from agentgym.episode import Episode
from agentgym.errors import UsageError


@dataclass(frozen=True)
class Batch:
    """Packed tokens. ``turn``, ``segment``, ``episode`` and ``group`` count from 0 over the batch; −1 is none."""

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
    advantage_N: Tensor
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

    def with_scores(self, role: str, value_N: Tensor) -> Batch:
        """The batch with a role's score beside it."""
        return replace(self, scored={**self.scored, role: value_N})


def valid(episode: Episode) -> bool:
    """Whether an episode may be trained on: valid, with token ids, sampled at a temperature above 0."""
    return episode.status == "valid" and all(t.tokens is not None or not t.action for t in episode.turns) and any(t.tokens for t in episode.turns)


def make_batch(episodes: Sequence[Episode], advantage_B: Sequence[float], aggregation: str, *, constant: int | None = None) -> Batch:
    """One batch from valid episodes and one advantage each. ``aggregation`` fixes the weights (see ``weights``).

    Raises:
        UsageError: an episode was decoded greedily, or has no token ids.
    """
    rows: dict[str, list[float]] = {f.name: [] for f in fields(Batch) if f.name != "scored"}
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
            for name, value in (
                ("temperature_N", tokens.sampling["temperature"]), ("version_N", float(tokens.weight_versions[-1][0])), ("turn_N", turns),
                ("segment_N", segment), ("episode_N", number), ("group_N", group), ("advantage_N", advantage),
            ):  # fmt: skip
                rows[name] += [value] * n
            turns += 1
    n = len(rows["ids_N"])
    for name in ("weight_N", "kl_weight_N", "entropy_weight_N"):
        rows[name] = [0.0] * n
    whole = {"ids_N", "position_N", "version_N", "turn_N", "segment_N", "episode_N", "group_N"}
    batch = Batch(**{k: torch.tensor(v, dtype=torch.long if k in whole else torch.float32) for k, v in rows.items()})  # type: ignore[arg-type]  # every field is a Tensor
    weight_N = weights(batch, aggregation, constant=constant)
    return replace(batch, weight_N=weight_N, kl_weight_N=weight_N.clone())


def _per(unit_N: Tensor, mask_N: Tensor) -> tuple[Tensor, Tensor]:
    """The number of masked tokens of each token's unit, and the number of units."""
    units = int(unit_N.max()) + 1 if len(unit_N) else 0
    counts = torch.zeros(units, dtype=mask_N.dtype).scatter_add_(0, unit_N, mask_N)
    return counts[unit_N].clamp(min=1), torch.tensor(max(units, 1), dtype=mask_N.dtype)


def weights(batch: Batch, aggregation: str, *, constant: int | None = None) -> Tensor:
    """Weights that make Σ weight · loss the aggregation of that name, over the whole batch.

    ``token``: mean over all sampled tokens. ``sequence``: mean over episodes of token means. ``constant``: sum over an
    episode's tokens divided by ``constant``, mean over episodes. ``turn``: mean over episodes of the mean over turns of token means.
    """
    mask_N = batch.mask_N.to(batch.advantage_N.dtype)
    if aggregation not in AGGREGATIONS:
        from agentgym.errors import UnknownName

        raise UnknownName("aggregation", aggregation, AGGREGATIONS)
    return AGGREGATIONS[aggregation](batch, mask_N, constant)


def _token(batch: Batch, mask_N: Tensor, constant: int | None) -> Tensor:
    return mask_N / mask_N.sum().clamp(min=1)


def _sequence(batch: Batch, mask_N: Tensor, constant: int | None) -> Tensor:
    length_N, episodes = _per(batch.episode_N, mask_N)
    return mask_N / (length_N * episodes)


def _constant(batch: Batch, mask_N: Tensor, constant: int | None) -> Tensor:
    if not constant:
        raise UsageError("aggregation constant needs constant=<longest number of sampled tokens>")
    _, episodes = _per(batch.episode_N, mask_N)
    return mask_N / (constant * episodes)


def _turn(batch: Batch, mask_N: Tensor, constant: int | None) -> Tensor:
    length_N, _ = _per(batch.turn_N, mask_N)
    first_N = torch.ones_like(batch.turn_N, dtype=mask_N.dtype)
    first_N[1:] = (batch.turn_N[1:] != batch.turn_N[:-1]).to(mask_N.dtype)
    turns_N, episodes = _per(batch.episode_N, first_N)
    return mask_N / (length_N * turns_N * episodes)


AGGREGATIONS: dict[str, Callable[[Batch, Tensor, int | None], Tensor]] = {"token": _token, "sequence": _sequence, "constant": _constant, "turn": _turn}
