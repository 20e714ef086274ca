"""An episode as one sequence, in the form that most trainers take: a prompt, what follows it, and what of that the policy said."""

from __future__ import annotations

from msgspec import Struct

from agentgym.episode import Episode
from agentgym.errors import UsageError


class Sequence(Struct, frozen=True):
    """Of each id after the prompt: ``mask`` 1 where the policy said it, its log-probability there, and what was paid at it.

    A turn's terms are paid at the last id that the policy said in it, those of the whole episode at its last.
    """

    prompt: list[int]
    ids: list[int]
    mask: list[int]
    logprobs: list[float]
    rewards: list[float]


def sequence(episode: Episode) -> Sequence | None:
    """The sequence of an episode; None if the policy said nothing in it.

    Raises:
        UsageError: it has several segments, so it is not one sequence.
    """
    parts = [(n, t.tokens) for n, t in enumerate(episode.turns) if t.tokens is not None]
    if any(tokens.segment != parts[0][1].segment for _, tokens in parts):
        raise UsageError("an episode in several segments is not one sequence; use a model whose template only appends")
    ids, mask = [i for _, t in parts for i in t.ids], [m for _, t in parts for m in t.mask]
    if 1 not in mask:
        return None
    rewards, last, at = [0.0] * len(ids), dict[int | None, int](), 0
    for turn, tokens in parts:
        said = [at + i for i, m in enumerate(tokens.mask) if m]
        last |= {turn: said[-1], None: said[-1]} if said else {}
        at += len(tokens.ids)
    for term in episode.terms:
        rewards[last.get(term.place.turn, last[None])] += term.value
    opening = mask.index(1)
    return Sequence(ids[:opening], ids[opening:], mask[opening:], [p for _, t in parts for p in t.logprobs][opening:], rewards[opening:])
