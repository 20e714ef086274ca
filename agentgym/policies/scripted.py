"""Policies without a model: ``oracle``, ``noop``, ``random``, ``replay`` and ``human``."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import anyio

from agentgym.core import AgentEnv, Completion, Conversation, Policy
from agentgym.episode import read_episodes
from agentgym.errors import UsageError
from agentgym.messages import ToolCall, print_action, text_of
from agentgym.policies import attach, no_argument


class Oracle:
    """Plays the environment's own scripted solution. It reads the environment; only scripted policies may."""

    name = "oracle"

    def __init__(self, argument: str = "", **settings: Any) -> None:
        no_argument(self.name, argument)
        self._actions: Iterator[str] = iter(())

    def attach(self, env: AgentEnv) -> Oracle:
        """An oracle for the episode that ``env`` has just begun."""
        bound = Oracle()
        bound._actions = env.oracle()
        return bound

    async def act(self, conversation: Conversation) -> Completion:
        """The next action of the script; empty when it has run out."""
        return Completion(next(self._actions, ""))


class Player(Oracle):
    """Plays the environment's honest scripted player, where it has one: what a good player without insight reaches."""

    name = "player"

    def attach(self, env: AgentEnv) -> Player:
        """A player for the episode that ``env`` has just begun."""
        bound = Player()
        bound._actions = env.player()
        return bound


class Noop:
    """Says nothing, every turn."""

    name = "noop"

    def __init__(self, argument: str = "", **settings: Any) -> None:
        no_argument(self.name, argument)

    async def act(self, conversation: Conversation) -> Completion:
        """An empty action."""
        return Completion("")


class Random:
    """A random tool with arguments drawn from its schema and from the words seen so far, or one of the actions that are possible, where the
    environment can list them; seeded by the conversation.
    """

    name = "random"

    def __init__(self, argument: str = "", **settings: Any) -> None:
        no_argument(self.name, argument)
        self._choices: Callable[[], Sequence[str]] = tuple

    def attach(self, env: AgentEnv) -> Random:
        """One that knows what is possible in ``env``."""
        bound = Random()
        bound._choices = env.choices
        return bound

    async def act(self, conversation: Conversation) -> Completion:
        """One possible action, one well-formed call, or one seen word where there are no tools."""
        rng = random.Random(f"{conversation.seed}:{len(conversation.messages)}")
        if possible := self._choices():
            return Completion(rng.choice(possible))
        words = conversation.messages[-1]["content"].split() or [""]
        if not conversation.tools:
            return Completion(rng.choice(words))
        chosen = rng.choice(conversation.tools)
        arguments = {k: _draw(rng, v, words) for k, v in chosen.parameters.get("properties", {}).items()}
        return Completion(print_action("", [ToolCall(chosen.name, arguments)]))


def _draw(rng: random.Random, schema: dict[str, Any], words: list[str]) -> Any:
    if known := schema.get("enum") or schema.get("examples"):
        return rng.choice(known)
    if "anyOf" in schema:
        return _draw(rng, rng.choice(schema["anyOf"]), words)
    makers: dict[str, Callable[[], Any]] = {
        "integer": lambda: rng.randint(1, 40),
        "number": lambda: round(rng.uniform(0, 100), 2),
        "boolean": lambda: rng.random() < 0.5,
        "array": lambda: [_draw(rng, schema.get("items", {}), words)],
        "null": lambda: None,
    }
    return makers.get(schema.get("type", ""), lambda: rng.choice(words))()


class Trembling:
    """``policy``, but for a ``share`` of its actions, which are drawn from what is possible: an opponent that errs leads where a good one never would.

    Where an environment cannot list its actions, nothing is drawn.
    """

    def __init__(self, policy: Policy, share: float) -> None:
        self.policy, self.share, self.name = policy, share, f"trembling:{share:g}/{policy.name}"
        self._choices: Callable[[], Sequence[str]] = tuple

    def attach(self, env: AgentEnv) -> Trembling:
        """One for the episode that ``env`` has just begun."""
        bound = Trembling(attach(self.policy, env), self.share)
        bound._choices = env.choices
        return bound

    async def act(self, conversation: Conversation) -> Completion:
        """The policy's action, or one of the possible ones; which of the two follows from the conversation."""
        dice = random.Random(f"tremble/{conversation.seed}/{conversation.id}/{len(conversation.messages)}")
        drawn = dice.random() < self.share and self._choices()
        return Completion(dice.choice(drawn)) if drawn else await self.policy.act(conversation)


class Replay:
    """Plays the actions recorded in a run folder, by task and attempt."""

    name = "replay"

    def __init__(self, argument: str = "", **settings: Any) -> None:
        path = Path(argument) / "episodes.jsonl"
        if not argument or not path.is_file():
            raise UsageError(f"replay:DIR needs a run folder with episodes.jsonl, not {argument!r}")
        self._recorded = {(e.task, e.attempt): [t.action for t in e.turns] for e in read_episodes(path) if e.status == "valid"}
        self._actions: Iterator[str] = iter(())

    def attach(self, env: AgentEnv) -> Replay:
        """A replay of the recorded attempt at the task that ``env`` has just begun."""
        key = (env.task.id, env.episode.attempt)
        if key not in self._recorded:
            raise UsageError(f"the run to replay has no valid attempt {key[1]} at {key[0]}")
        bound = object.__new__(Replay)
        bound._recorded, bound._actions = self._recorded, iter(self._recorded[key])
        return bound

    async def act(self, conversation: Conversation) -> Completion:
        """The next recorded action; empty when there is none."""
        return Completion(next(self._actions, ""))


class Human:
    """Asks the person at the terminal. Lines up to an empty one (or one tool call) are the action."""

    name = "human"

    def __init__(self, argument: str = "", **settings: Any) -> None:
        no_argument(self.name, argument)
        self._seen = 0

    def attach(self, env: AgentEnv) -> Human:
        """A fresh reader: nothing of this conversation has been shown yet."""
        return Human()

    async def act(self, conversation: Conversation) -> Completion:
        """Print what is new, read an action. End of input ends the episode (finish ``abort``)."""
        new = [m for m in conversation.messages[self._seen :] if m["role"] != "assistant"]
        self._seen = len(conversation.messages)
        print(text_of(new), file=sys.stderr)
        print("> ", end="", file=sys.stderr, flush=True)
        line = await anyio.to_thread.run_sync(sys.stdin.readline)
        return Completion(line.strip(), finish="stop" if line else "abort")
