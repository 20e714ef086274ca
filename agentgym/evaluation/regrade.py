"""From disk back to verdicts: ``verify`` grades a run again from record and artefacts, ``replay`` plays its actions again."""

from __future__ import annotations

from pathlib import Path

import msgspec
from msgspec import Struct

from agentgym.core import AgentEnv, EpisodeView, grade, judge
from agentgym.episode import ArtefactStore, Episode, read_episodes
from agentgym.errors import AgentGymError, Fault, RecordError
from agentgym.registry import make
from agentgym.rewards.spec import settle


class Verified(Struct):
    """What ``verify --json`` prints: ids of episodes that did not come out the same, and why."""

    episodes: int
    reproduced: int
    mismatched: list[dict[str, str]]
    unverifiable: list[dict[str, str]]


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


class _Environments:
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
    environments, artefacts = _Environments(), ArtefactStore(folder / "artefacts")
    result = Verified(0, 0, [], [])
    for episode in episodes_of(folder):
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
        elif why:
            result.mismatched.append({"episode": episode.id, "why": why})
        else:
            result.reproduced += 1
        if any(t.known_at is None for t in episode.terms):
            result.unverifiable.append({"episode": episode.id, "why": "has terms of a stateful source"})
    return result


def _why_different(env: AgentEnv, episode: Episode, artefacts: ArtefactStore) -> str:
    """Empty if the record's verdicts and terms come out again."""
    task = env.taskset.get(episode.task)
    if task.digest != episode.task_digest:
        return "the task has changed"
    data = {name: artefacts.get(digest) for name, digest in episode.artefacts.items()}
    if grade(env.verifiers, EpisodeView(task, episode, data)) != episode.verdicts:
        return "an outcome verdict comes out differently"
    again = Episode(**{**{f: getattr(episode, f) for f in episode.__struct_fields__}, "turns": [], "stop_reason": None})
    for number, turn in enumerate(episode.turns):
        again.turns.append(turn)
        view = EpisodeView(task, again)
        if {n: judge(v, view) for n, v in env.verifiers.items() if v.level == "step"} != turn.verdicts:
            return f"a verdict of turn {number} comes out differently"
    again.stop_reason = episode.stop_reason
    recorded = [t for t in episode.terms if t.known_at is not None]
    return "" if settle(env.reward, again) == recorded else "the terms come out differently"


def replay(folder: Path) -> Replayed:
    """Play every valid episode's actions again and compare state hashes turn by turn."""
    environments, result = _Environments(), Replayed(0, 0, [])
    for episode in episodes_of(folder):
        if episode.status != "valid":
            continue
        result.episodes += 1
        found = _first_divergence(environments.of(episode), episode)
        if found is None:
            result.identical += 1
        else:
            result.diverged.append(found)
    return result


def _first_divergence(env: AgentEnv, episode: Episode) -> Divergence | None:
    try:
        _, info = env.reset(seed=episode.seed, options={"task": episode.task})
        if info["state_hash"] != episode.start_hash:
            return Divergence(episode.id, -1, "the start differs")
        for number, turn in enumerate(episode.turns):
            cut = (turn.problem or "").startswith("not executed: ")
            assert episode.stop_reason is not None
            info = env.end(episode.stop_reason, turn.action)[4] if cut else env.step(turn.action)[4]
            if info["state_hash"] != turn.state_hash:
                return Divergence(episode.id, number, "the state differs")
    except (AgentGymError, Fault) as error:
        return Divergence(episode.id, len(env.episode.turns), str(error))
    return None
