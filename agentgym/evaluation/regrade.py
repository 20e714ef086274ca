"""From disk back to verdicts: ``verify`` grades a run again from record and artefacts, ``replay`` plays its actions again."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from agentgym.core import AgentEnv, EpisodeView, Term
from agentgym.episode import ArtefactStore, Episode, read_episodes
from agentgym.errors import AgentGymError, Fault, RecordError, UnknownName, UsageError
from agentgym.game import GameEnv
from agentgym.grading import grade, grade_turn
from agentgym.registry import make
from agentgym.rewards.explain import Node, explain


class Verified(Struct):
    """What ``verify --json`` prints: ids of episodes that did not come out the same, and why; ``broken`` says what the seal does not fit."""

    episodes: int
    reproduced: int
    mismatched: list[dict[str, str]]
    unverifiable: list[dict[str, str]]
    broken: list[str] = []


class Divergence(Struct):
    """Where a replay left its record."""

    episode: str
    turn: int
    why: str


class Replayed(Struct):
    """What ``replay --json`` prints."""

    episodes: int
    identical: int
    diverged: list[Divergence]
    broken: list[str] = []


class Environments:
    """The environments that episodes name, made once each."""

    def __init__(self) -> None:
        self._made: dict[tuple[str, str, str, bytes], AgentEnv] = {}

    def of(self, episode: Episode) -> AgentEnv:
        key = (episode.env, episode.split, episode.reward, msgspec.json.encode(episode.options))
        if key not in self._made:
            self._made[key] = make(episode.env, split=episode.split, reward=episode.reward, **episode.options)
        return self._made[key]


def episodes_of(folder: Path) -> list[Episode]:
    """The episodes of a run folder. Raises ``RecordError`` if it is none."""
    path = folder / "episodes.jsonl"
    if not path.is_file():
        raise RecordError(f"{folder} is not a run folder: it has no episodes.jsonl")
    return list(read_episodes(path))


def verify(folder: Path) -> Verified:
    """Derive every verdict and term again from the record and the artefacts alone."""
    environments, artefacts = Environments(), ArtefactStore(folder / "artefacts")
    result = Verified(0, 0, [], [])
    episodes = episodes_of(folder)
    terms = _terms_again(environments, [e for e in episodes if e.status == "valid"])
    for episode in episodes:
        result.episodes += 1
        if episode.status != "valid":
            result.unverifiable.append({"episode": episode.id, "why": f"invalid: {episode.fault}"})
            continue
        try:
            why = _why_different(environments.of(episode), episode, artefacts)
        except AgentGymError as error:
            why = str(error)
        if why and not episode.artefacts:
            result.unverifiable.append({"episode": episode.id, "why": f"its artefacts were not kept ({why})"})
        elif why := why or ("" if _alike(terms[id(episode)], episode.terms) else "the terms come out differently"):
            result.mismatched.append({"episode": episode.id, "why": why})
        elif late := _late_names(episode):
            result.unverifiable.append({"episode": episode.id, "why": f"all but the verdicts of {', '.join(late)}, which come from a source with a state"})
        else:
            result.reproduced += 1
    return result


def explained(folder: Path, episode_id: str) -> Node:
    """How the reward of one episode of a run came about. Raises ``UnknownName`` if there is no such episode, ``UsageError`` if it has no reward."""
    episodes = episodes_of(folder)
    chosen = [e for e in episodes if e.id == episode_id]
    if not chosen:
        raise UnknownName("episode", episode_id, [e.id for e in episodes])
    episode = chosen[-1]
    if episode.status != "valid":
        raise UsageError(f"{episode_id} is invalid and has no reward: {episode.fault}")
    reward = Environments().of(episode).reward
    return explain(reward, episode, [e for e in episodes if e.status == "valid" and (e.group or e.id) == (episode.group or episode.id)])


def _terms_again(environments: Environments, episodes: Sequence[Episode]) -> dict[int, list[Term]]:
    """The terms of all episodes, settled again with their groups."""
    again: dict[int, list[Term]] = {}
    by_reward: dict[str, list[Episode]] = defaultdict(list)
    for episode in episodes:
        by_reward[f"{episode.env}|{episode.reward}|{episode.split}"].append(episode)
    for each in by_reward.values():
        try:
            reward = environments.of(each[0]).reward
        except AgentGymError:
            continue
        again |= {id(e): terms for e, terms in zip(each, reward.settle(each), strict=True)}
    return again


def _alike(these: Sequence[Term], those: Sequence[Term]) -> bool:
    """Equal but for the rounding of sums."""
    return len(these) == len(those) and all(
        (a.source, a.place, a.known_at) == (b.source, b.place, b.known_at) and math.isclose(a.value, b.value, rel_tol=1e-9, abs_tol=1e-12)
        for a, b in zip(these, those, strict=True)
    )


def _late_names(episode: Episode) -> list[str]:
    """Names of the verdicts in a record that come from sources with a state."""
    return sorted({*episode.late, *(name for turn in episode.turns for name in turn.late)})


def _why_different(env: AgentEnv, episode: Episode, artefacts: ArtefactStore) -> str:
    """Empty if the record's verdicts come out again."""
    task = env.taskset.get(episode.task)
    if task.digest != episode.task_digest:
        return "the task has changed"
    data = {name: artefacts.get(digest) for name, digest in episode.artefacts.items()}
    bare = msgspec.structs.replace(episode, turns=[msgspec.structs.replace(t, late={}) for t in episode.turns], late={})
    if grade(env.verifiers, EpisodeView(task, bare, data)) != episode.verdicts:
        return "an outcome verdict comes out differently"
    again = msgspec.structs.replace(episode, turns=[], stop_reason=None, verdicts={})
    for number, turn in enumerate(bare.turns):
        again.turns.append(turn)
        turn.verdicts = grade_turn(env.verifiers, EpisodeView(task, again))
        if turn.verdicts != episode.turns[number].verdicts:
            return f"a verdict of turn {number} comes out differently"
    return ""


def restore(folder: Path) -> None:
    """Make the artefacts of a run that came without them, by playing its episodes again; what does not come out as its digest says stays missing."""
    environments, artefacts = Environments(), ArtefactStore(folder / "artefacts")
    for episode in episodes_of(folder):
        if episode.status != "valid" or not episode.artefacts:
            continue
        env = environments.of(episode)
        if _first_divergence(env, episode, states=False) is None:
            for data in env.artefacts.values():
                artefacts.put(data)


def replay(folder: Path) -> Replayed:
    """Play every valid episode of a run again, see ``played``."""
    return played([e for e in episodes_of(folder) if e.status == "valid"])


def played(episodes: Sequence[Episode], states: bool = True) -> Replayed:
    """Play the actions of valid episodes again; compare state hashes turn by turn, and at the end the verdicts. Without ``states``, the verdicts alone."""
    environments, result = Environments(), Replayed(0, 0, [])
    for episode in episodes:
        result.episodes += 1
        found = _first_divergence(environments.of(episode), episode, states)
        if found is None:
            result.identical += 1
        else:
            result.diverged.append(found)
    return result


def _first_divergence(env: AgentEnv, episode: Episode, states: bool) -> Divergence | None:
    try:
        if isinstance(env, GameEnv):
            env.follow(episode)
        _, info = env.reset(seed=episode.seed, options={"task": episode.task})
        if states and info["state_hash"] != episode.start_hash:
            return Divergence(episode.id, -1, "the start differs")
        for number, turn in enumerate(episode.turns):
            cut = (turn.problem or "").startswith("not executed: ")
            assert episode.stop_reason is not None
            info = env.end(episode.stop_reason, turn.action)[4] if cut else env.step(turn.action)[4]
            if states and info["state_hash"] != turn.state_hash:
                return Divergence(episode.id, number, "the state differs")
        assert episode.stop_reason is not None
        if env.episode.stop_reason is None:
            env.end(episode.stop_reason)
        for name, verdict in env.episode.verdicts.items():
            told = episode.verdicts.get(name)
            if told is None or (told.status, told.value) != (verdict.status, verdict.value):
                return Divergence(episode.id, len(episode.turns), f"the verdict {name!r} differs")
    except (AgentGymError, Fault) as error:
        return Divergence(episode.id, len(env.episode.turns), str(error))
    return None
