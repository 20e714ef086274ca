"""Supervised warm start: oracle episodes as token streams with weight on what the oracle did."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from itertools import count, islice

import torch
from transformers import PreTrainedModel

from agentgym.core import AgentEnv, Message
from agentgym.episode import Episode, Tokens
from agentgym.errors import CapabilityError
from agentgym.game import GameEnv
from agentgym.messages import assistant_message
from agentgym_trainers.renderer import ChatRenderer
from agentgym_trainers.streams import OUTSIDE, make_batch
from agentgym_trainers.update import Part, update


def oracle_episode(env: AgentEnv, task: str, seed: int = 0, by: str = "oracle") -> Episode | None:
    """One episode of the oracle's, or of the environment's honest ``player``, without tokens; None where there is none for this task."""
    env.reset(seed=seed, options={"task": task})
    try:
        script = env.oracle() if by == "oracle" else env.player()
    except CapabilityError:
        return None
    for action in script:
        *_, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            break
    return env.episode


def tokenize(episode: Episode, renderer: ChatRenderer, env: AgentEnv) -> Episode:
    """Give a scripted episode the ids a model would have had to sample, stamped as from outside. Never used on an episode that has ids."""
    tools, messages = [t.spec for t in env.tools.values()], list[Message]()
    for i, turn in enumerate(episode.turns):
        messages += turn.observation
        whole = i == 0 or renderer.segment_each_turn
        before = renderer.open(tools, messages) if whole else renderer.bridge(turn.observation)
        messages.append(assistant_message(turn.action, turn.calls, i))
        said = [*renderer.tokenizer.encode(turn.action, add_special_tokens=False), renderer.end_id]
        mask, logprobs = [0] * len(before) + [1] * len(said), [0.0] * (len(before) + len(said))
        turn.tokens = Tokens(before + said, mask, logprobs, {"temperature": 1.0}, [(str(OUTSIDE), len(said))], i if renderer.segment_each_turn else 0)
    return episode


def text_of_episode(episode: Episode, renderer_template: Callable[[Sequence[object]], str]) -> str:
    """A whole episode as the template renders it: what the tiny tokenizer is trained on."""
    messages: list[object] = []
    for i, turn in enumerate(episode.turns):
        messages += [*turn.observation, assistant_message(turn.action, turn.calls, i)]
    return renderer_template([*messages, *episode.closing])


def demonstrations(envs: Sequence[AgentEnv], renderer: ChatRenderer, tasks: Sequence[str], seed: int, by: str = "oracle") -> Iterator[Episode]:
    """Episodes with tokens of the tasks that have an oracle, in each of the environments (the seats of a game), reshuffled each time they run out.

    A game is played anew each time, against other luck of its opponents. ``by`` the ``player`` they are those that paid something.

    Raises:
        CapabilityError: none of the tasks has one.
    """
    rng, left, made = random.Random(seed), [(i, t) for i in range(len(envs)) for t in tasks], dict[tuple[int, str], Episode]()
    games = isinstance(envs[0], GameEnv)
    for luck in count():
        if not left or (luck > 16 and not made):
            break
        for seat, task in rng.sample(left, len(left)):
            if games or (seat, task) not in made:
                played = oracle_episode(envs[seat], task, luck if games else 0, by)
                unpaid = played is not None and by == "player" and played.total <= 0
                if played is None or unpaid:
                    if not (games and unpaid):
                        left.remove((seat, task))
                    continue
                made[seat, task] = tokenize(played, renderer, envs[seat])
            yield made[seat, task]
    raise CapabilityError(
        f"no task of {envs[0].id} that was tried has {'a player who is paid' if by == 'player' else 'an oracle'}; --warm-steps 0 begins without one"
    )


def warm_start(
    model: PreTrainedModel,
    optimizer: torch.optim.Optimizer,
    renderer: ChatRenderer,
    envs: Sequence[AgentEnv],
    tasks: Sequence[str],
    *,
    steps: int,
    batch_size: int,
    lr: float,
    lr_final: float = 1.0,
    seed: int,
    by: str = "oracle",
    on_step: Callable[[int, dict[str, float]], bool] = lambda step, metrics: False,
) -> None:
    """``steps`` updates on oracle episodes of ``tasks``, reshuffled each time they run out; the rate rises over ten updates, and falls to ``lr_final`` of it.

    ``on_step`` gets each update's number and metrics; it stops the warm start by returning True.
    """
    shown = demonstrations(envs, renderer, tasks, seed, by)
    for step in range(steps):
        chosen = list(islice(shown, batch_size))
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1.0, (step + 1) / 10) * (1.0 - (1.0 - lr_final) * step / steps)
        batch = make_batch(chosen, [1.0] * batch_size, "token")
        if on_step(step, update(model, optimizer, [Part(batch, "reinforce")])):
            return
