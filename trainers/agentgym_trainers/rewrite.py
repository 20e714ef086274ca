"""Episodes told otherwise: a hint taken out of the prompt, a score put into it, two siblings spliced into one.

Sampled ids stay as they are; only what the policy read before them changes, so such tokens count as from outside.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
from agentgym_verifiers.process.refine import told

from agentgym.core import AgentEnv, Completion, Conversation, Policy, Tokens, ToolSpec
from agentgym.episode import Episode, Turn
from agentgym_trainers.renderer import ChatRenderer
from agentgym_trainers.streams import OUTSIDE, valid


class Hinted:
    """A policy that is told something more about its task, in the first message. Only for training; what it makes must be ``retold``."""

    def __init__(self, policy: Policy, hints: Mapping[str, str]) -> None:
        self.policy, self.hints, self.name = policy, hints, policy.name
        self._task = ""

    def attach(self, env: AgentEnv) -> Hinted:
        """The same for the task that an environment plays."""
        bound = Hinted(self.policy, self.hints)
        bound._task = env.task.id
        return bound

    async def act(self, conversation: Conversation) -> Completion:
        hint = self.hints.get(self._task, "")
        return await self.policy.act(msgspec.structs.replace(conversation, messages=told(conversation.messages, hint)))


def retold(episode: Episode, renderer: ChatRenderer, tools: Sequence[ToolSpec], text: str = "") -> Episode:
    """The episode as if its first prompt had been the environment's own, with ``text`` added. Its tokens are then from outside."""
    turns = [msgspec.structs.replace(t) for t in episode.turns]
    for number, turn in enumerate(turns):
        if turn.tokens is None:
            continue
        said = [(i, p) for i, p, m in zip(turn.tokens.ids, turn.tokens.logprobs, turn.tokens.mask, strict=True) if m]
        if number == 0:
            before = renderer.open(tools, told(turn.observation, text))
        else:
            before = [i for i, m in zip(turn.tokens.ids, turn.tokens.mask, strict=True) if not m]
        n = len(said)
        turn.tokens = Tokens(
            before + [i for i, _ in said], [0] * len(before) + [1] * n, [0.0] * len(before) + [p for _, p in said],
            turn.tokens.sampling, [(str(OUTSIDE), n)], turn.tokens.segment,
        )  # fmt: skip
    return msgspec.structs.replace(episode, turns=turns)


def critique_of(episode: Episode) -> str:
    """What its verdicts say went wrong, judges' among them, as a hint."""
    late = [v for t in episode.turns for v in t.late.values()]
    said = [v.critique for v in (*episode.verdicts.values(), *episode.late.values(), *late) if v.critique]
    seen = episode.closing[-1]["content"] if episode.closing else ""
    why = " ".join(said) or "It did not reach what the task asks for."
    return f"An earlier attempt failed. {why} The last thing it saw was: {str(seen)[:300]}" if seen else f"An earlier attempt failed. {why}"


def answer_of(env: AgentEnv, task: str) -> str:
    """The oracle's actions on a task, as a hint. It never reaches the training input: ``retold`` takes it out."""
    env.reset(seed=0, options={"task": task})
    lines = []
    for action in env.oracle():
        lines.append(action)
        *_, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            break
    return "This works: " + "\n".join(lines)


def parting(bad: Episode, good: Episode) -> int | None:
    """The last turn of ``bad`` before which it is in a state that ``good`` was in too; None if they share none."""
    met = {good.start_hash, *(t.state_hash for t in good.turns[:-1])}
    states = [bad.start_hash, *(t.state_hash for t in bad.turns[:-1])]
    shared = [k for k, s in enumerate(states) if s and s in met]
    return shared[-1] if shared else None


def spliced(bad: Episode, good: Episode, env: AgentEnv) -> tuple[Episode, int] | None:
    """A failed episode up to and with its first wrong action, then the way of a successful one from the state they share; and the first's turns.

    It is played, and has no tokens. None where it does not succeed (the wrong action could not be taken back), or where no state is shared.
    Source: "Agent-R: Training Language Model Agents to Reflect via Iterative Self-Training".
    """
    at = parting(bad, good)
    if at is None or not (valid(bad) and valid(good)) or bad.success or not good.success:
        return None
    state = [bad.start_hash, *(t.state_hash for t in bad.turns[:-1])][at]
    since = [good.start_hash, *(t.state_hash for t in good.turns[:-1])].index(state)
    actions = [t.action for t in [*bad.turns[: at + 1], *good.turns[since:]]]
    made = scripted(actions, env, bad.task, bad.seed)
    return (made, at + 1) if made.success else None


def scripted(actions: Sequence[str], env: AgentEnv, task: str, seed: int | None) -> Episode:
    """The record of these actions on a task, without tokens."""
    env.reset(seed=seed, options={"task": task})
    for action in actions:
        *_, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            break
    return env.episode


def learned_from(episode: Episode, after: int) -> Episode:
    """The episode with nothing of its first ``after`` turns learned: they are only read."""
    turns: list[Turn] = []
    for number, turn in enumerate(episode.turns):
        tokens = turn.tokens
        if tokens is not None and number < after:
            tokens = msgspec.structs.replace(tokens, mask=[0] * len(tokens.mask), weight_versions=[])
        turns.append(msgspec.structs.replace(turn, tokens=tokens))
    return msgspec.structs.replace(episode, turns=turns)
