"""An episode as a conversation: as messages, and as text that people read."""

from __future__ import annotations

from agentgym.episode import Episode
from agentgym.messages import Message, assistant_message, inert


def messages_of(episode: Episode) -> list[Message]:
    """The whole conversation, the policy's messages between the environment's, as the policy was shown it."""
    messages: list[Message] = []
    for number, turn in enumerate(episode.turns):
        messages += [*turn.observation, assistant_message(turn.action, turn.calls, number)]
    return [*messages, *episode.closing]


def transcript(episode: Episode) -> str:
    """An episode as text that a terminal may show."""
    lines = [f"task {episode.task}"]
    for number, turn in enumerate(episode.turns):
        lines += [f"\n{m['role']}: {m['content']}" for m in turn.observation]
        lines.append(f"\n[{number}] {turn.action}" + (f"   ({turn.problem})" if turn.problem else ""))
    lines += [f"\n{m['role']}: {m['content']}" for m in episode.closing]
    verdicts = ", ".join(f"{n} {v.status}{'' if v.value is None else f' {v.value:g}'}" for n, v in episode.verdicts.items())
    lines.append(f"\nended: {episode.stop_reason}; verdict: {verdicts or episode.fault}; reward {episode.total:g}")
    return inert("\n".join(lines))
