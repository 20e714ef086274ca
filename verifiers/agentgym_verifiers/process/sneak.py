"""A sneaky hand against a critic: one puts a mistake into what was right, the other has to find it. Labels without people, payoffs that sum to zero."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from agentgym.core import Conversation, EpisodeView, Message, Policy
from agentgym.episode import Episode
from agentgym.errors import VerifierFault
from agentgym.evaluation.probes import played
from agentgym.evaluation.regrade import Environments
from agentgym.evaluation.verifiers import view_of
from agentgym.rewards.settler import Source
from agentgym_verifiers.judges.show import shown


class Duel(Struct, frozen=True):
    """How one round went. ``made``: the episode with the mistake, None where it was none. ``found``: the turn the critic named, None for no mistake."""

    turn: int
    made: Episode | None
    found: int | None
    payoff_sneaky: float
    payoff_critic: float


ROLE = (
    "You test a critic. Below is an episode in which an agent did its task. Write another action for turn {turn} that looks as sound as the one there, and"
    " makes the task fail. Answer with the action alone, in the same form."
)


async def duel(episode: Episode, turn: int, sneaky: Policy, critic: Source, environments: Environments | None = None, seed: int = 0) -> Duel:
    """One round: the sneaky side rewrites the action of ``turn``, the world says whether that is a mistake, the critic looks for the first wrong turn.

    A change that is no mistake is discarded, and so is one on which the critic has no verdict: nobody is paid.
    Source: "SPC: Evolving Self-Play Critic via Adversarial Games for LLM Reasoning".
    """
    asked: list[Message] = [{"role": "user", "content": f"{ROLE.format(turn=turn)}\n\n{shown(episode)}"}]
    said = await sneaky.act(Conversation(f"sneak-{episode.id}-{turn}", asked, seed=seed))
    actions = [t.action for t in episode.turns]
    changed = [*actions[:turn], said.action, *actions[turn + 1 :]]
    made = played(episode, changed, environments or Environments()) if said.action != actions[turn] else None
    if made is None or made.success or len(made.turns) <= turn:
        return Duel(turn, None, None, 0.0, 0.0)
    try:
        found = await first_wrong(critic, view_of(made), sneaky)
    except VerifierFault:
        return Duel(turn, None, None, 0.0, 0.0)
    won = 1.0 if found == turn else -1.0
    return Duel(turn, made, found, -won, won)


async def first_wrong(critic: Source, view: EpisodeView, policy: Policy, bar: float = 0.5) -> int | None:
    """The first turn that a critic of turns values below ``bar``; None where there is none.

    Raises:
        VerifierFault: before it found one, the critic had no verdict on a turn.
    """
    (verdicts,) = await critic.judge([view], policy)
    for t, v in enumerate(verdicts):
        if v.value is None:
            raise VerifierFault(f"the critic has no verdict on turn {t}: {v.critique or 'no reason given'}")
        if v.value < bar:
            return t
    return None


async def rounds(episodes: Sequence[Episode], sneaky: Policy, critic: Source, n: int = 1, seed: int = 0) -> list[dict[str, float]]:
    """``n`` rounds over episodes, each at another turn: by round the share of changes that were mistakes, and the critic's accuracy on those."""
    environments, out = Environments(), []
    for k in range(n):
        duels = [await duel(e, (k + seed) % len(e.turns), sneaky, critic, environments, seed * 1009 + k) for e in episodes]
        kept = [d for d in duels if d.made is not None]
        accuracy = sum(d.payoff_critic > 0 for d in kept) / len(kept) if kept else float("nan")
        out.append({"round": float(k), "mistakes": len(kept) / len(duels), "accuracy": accuracy})
    return out
