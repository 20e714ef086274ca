"""Judging as environments: the action is a verdict with its evidence, the rule's verdict is the label. A judge that plays well is a judge that agrees.

Episodes come from a run or a probe set (``--option data=DIR``), or are made on the spot: scripted solutions of an environment, some with a
mistake put in that was confirmed by playing it.
"""

from __future__ import annotations

import hashlib
import random
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal

import msgspec

from agentgym.core import Action, AgentEnv, Capabilities, EpisodeView, Limits, Message, Scene, StopReason, Task, TaskSet, Verdict
from agentgym.episode import Episode, read_episodes
from agentgym.errors import UsageError
from agentgym.evaluation.probes import corrupted
from agentgym.evaluation.regrade import Environments
from agentgym.messages import CLOSE, OPEN, Tool, answer, call, tool
from agentgym.registry import make
from agentgym.rewards import delta, outcome, standard, step
from agentgym.rewards.spec import Spec
from agentgym.verdict import Json
from agentgym_verifiers.judges.kit import calculate, search
from agentgym_verifiers.judges.show import MARK, done_in, occurs, shown, squeezed

SIZES = {"train": (0, 400), "dev": (400, 500), "test": (500, 600)}
MADE_FROM = "tools/desk-v0"
"""Where episodes come from that are made on the spot."""


class Matter(list[str]):
    """The lines of what is judged, and what was said of it."""

    said: dict[str, Json] | None = None


@tool
def verdict(matter: Matter, success: bool, quote: str) -> str:
    """Say whether the agent did its task, with words of its actions or their results that bear you out. Ends the episode."""
    matter.said = {"answer": success, "quote": quote}
    return "noted"


@tool
def prefer(matter: Matter, better: Literal["A", "B"], quote: str) -> str:
    """Say which of two episodes did the task better, with words of its actions or their results that bear you out. Ends the episode."""
    matter.said = {"answer": better, "quote": quote}
    return "noted"


@tool
def blame(matter: Matter, action: int, quote: str) -> str:
    """Name the first wrong action by its number, or -1 if none was wrong, with words of it (of any, if none was) as evidence. Ends the episode."""
    matter.said = {"answer": action, "quote": quote}
    return "noted"


class Agrees:
    """1 if the answer is the rule's and its quote stands where it has to, else 0."""

    level: ClassVar[Literal["outcome"]] = "outcome"

    def __call__(self, view: EpisodeView) -> Verdict:
        said = msgspec.json.decode(view.artefacts["verdict.json"]) or {}
        right, grounded = said.get("answer") == view.task.data["label"], borne_out(view.task, said)
        return Verdict.scored(float(right and grounded), right=right, grounded=grounded)


class Grounded:
    """1 once the answer's quote stands where it has to."""

    level: ClassVar[Literal["step"]] = "step"

    def __call__(self, view: EpisodeView) -> Verdict:
        said: Any = view.episode.turns[-1].facts.get("said") or {}
        return Verdict.scored(float(borne_out(view.task, said)))


def borne_out(task: Task, said: Mapping[str, Json]) -> bool:
    """Whether a quote has two words or more and stands in what was done, not only in what was asked."""
    quote, where = str(said.get("quote", "")), task.data["evidence"]
    text = str(where.get(str(said.get("answer")), where[""]) if isinstance(where, dict) else where)
    return len(quote.split()) > 1 and occurs(quote, text)


class JudgeEnv(AgentEnv):
    """What the three environments share."""

    capabilities = Capabilities(snapshot=True)
    verifiers: ClassVar[Mapping[str, Any]] = {"grounded": Grounded(), "task": Agrees()}
    rewards: ClassVar[Mapping[str, Spec]] = standard(outcome("task"), delta(step("grounded")), step("grounded"))
    verdict_tool: ClassVar[Tool]
    limits_of: ClassVar[Limits] = Limits(max_turns=6)

    def __init__(self, *, data: str = "", made_from: str = MADE_FROM, **base: Any) -> None:
        self._data, self._from = data, made_from
        kit = (tool(calculate), tool(search), self.verdict_tool)
        self.tools: Mapping[str, Tool] = {t.spec.name: t for t in kit}
        super().__init__(**base)

    def tasks(self, split: str) -> TaskSet:
        """The tasks of a split: of stored episodes those whose task's name falls into it, 8 of 10 into train."""
        if self._data:
            ids = {name: i for i, name in enumerate(self._stored)}
            chosen = [name for name in ids if split_of(self._stored[name].task) == split]
            return TaskSet(chosen, lambda name: self._task(name, split, self._stored[name], self._other(name)))
        return TaskSet([f"{split}.{n}" for n in range(*SIZES[split])], self._on_the_spot)

    @cached_property
    def _stored(self) -> dict[str, Episode]:
        path = Path(self._data) / "episodes.jsonl"
        if not path.is_file():
            raise UsageError(f"{self._data} holds no episodes.jsonl; give a run's folder, or what agentgym export --format probes wrote")
        found = {e.id: e for e in read_episodes(path) if e.status == "valid" and e.turns}
        return {name: e for name, e in found.items() if self._usable(e, found)}

    def _usable(self, episode: Episode, found: Mapping[str, Episode]) -> bool:
        return True

    def _other(self, name: str) -> Episode | None:
        """Another episode of the same task with the other label, for pairs."""
        mine = self._stored[name]
        return next((e for e in self._stored.values() if e.task == mine.task and label_of(e) != label_of(mine)), None)

    def _on_the_spot(self, name: str) -> Task:
        right, wrong = made(self._from, name)
        coin = hashlib.blake2b(name.encode(), digest_size=4).digest()[0] % 2
        one, other = (wrong, right) if coin and wrong is not None else (right, wrong)
        return self._task(name, name.partition(".")[0], one, other)

    @abstractmethod
    def _task(self, name: str, split: str, episode: Episode, other: Episode | None) -> Task:
        """The task of judging an episode."""

    def _begin(self, task: Task) -> Scene:
        self._matter = Matter(line.removeprefix(MARK) for line in task.instruction.splitlines())
        return self._scene([{"role": "user", "content": task.instruction}])

    def _advance(self, action: Action) -> Scene:
        turn = len(self.episode.turns) - 1
        done = answer(self.tools, self._matter, action, turn, lambda: self._matter.said is not None, hint=f"end with {self.verdict_tool.spec.name}")
        return self._scene(done.messages, end=StopReason.SUBMITTED if self._matter.said is not None else None, malformed=done.malformed, calls=done.states)

    def _scene(self, messages: list[Message], calls: Any = None, **more: Any) -> Scene:
        state = msgspec.json.encode(self._matter.said).decode()
        return Scene(messages, state, state, facts={"said": self._matter.said, **({"calls": calls} if calls is not None else {})}, **more)

    def _artefacts(self) -> Mapping[str, bytes]:
        return {"verdict.json": msgspec.json.encode(self._matter.said)}

    def oracle(self) -> Iterator[str]:
        """The rule's own verdict, with the first words of an action that bear it out."""
        self._require_running()
        return iter([self._solution(self.task.data["label"], self.task.data["shows"])])

    @abstractmethod
    def _solution(self, label: Json, quote: str) -> str:
        """The verdict as an action."""

    def _save(self) -> bytes:
        return msgspec.json.encode(self._matter.said)

    def _load(self, payload: bytes) -> None:
        self._matter = Matter(line.removeprefix(MARK) for line in self.task.instruction.splitlines())
        self._matter.said = msgspec.json.decode(payload)


class JudgeOutcome(JudgeEnv):
    """Did the agent do its task?"""

    id = "judge/outcome-v0"
    verdict_tool = verdict

    def _task(self, name: str, split: str, episode: Episode, other: Episode | None) -> Task:
        data: dict[str, Json] = {"label": label_of(episode), "evidence": done_in(episode), "shows": words_of(episode)}
        return Task(name, f"Did the agent do its task? Judge from what it did.\n{shown(episode)}", split, data, self.limits_of, kind=episode.kind)

    def _solution(self, label: Json, quote: str) -> str:
        return call("verdict", success=label, quote=quote)


class JudgePair(JudgeEnv):
    """Which of two attempts at a task is better?"""

    id = "judge/pair-v0"
    verdict_tool = prefer

    def _usable(self, episode: Episode, found: Mapping[str, Episode]) -> bool:
        return any(e.task == episode.task and label_of(e) != label_of(episode) for e in found.values())

    def _task(self, name: str, split: str, episode: Episode, other: Episode | None) -> Task:
        second = other or msgspec.structs.replace(episode, turns=episode.turns[:1], verdicts={"task": Verdict.scored(0.0)})
        label = "A" if label_of(episode) else "B"
        text = f"Which did the task better, A or B?\n[episode A]\n{shown(episode)}\n[episode B]\n{shown(second)}"
        both = f"{done_in(episode)} {done_in(second)}"
        return Task(name, text, split, {"label": label, "evidence": both, "shows": words_of(episode)}, self.limits_of, kind=episode.kind)

    def _solution(self, label: Json, quote: str) -> str:
        return call("prefer", better=label, quote=quote)


class JudgeStep(JudgeEnv):
    """Which action was the first wrong one?"""

    id = "judge/step-v0"
    verdict_tool = blame

    def _usable(self, episode: Episode, found: Mapping[str, Episode]) -> bool:
        return first_wrong_of(episode) is not None

    def _task(self, name: str, split: str, episode: Episode, other: Episode | None) -> Task:
        wrong = first_wrong_of(episode)
        where = {str(n): squeezed(t.action) for n, t in enumerate(episode.turns)} | {"": done_in(episode)}
        quote = words_of(episode) if wrong in (None, -1) else _few(episode.turns[int(wrong)].action)
        text = f"Which action was the first wrong one, if any?\n{shown(episode)}"
        return Task(name, text, split, {"label": wrong, "evidence": where, "shows": quote}, self.limits_of, kind=episode.kind)

    def _solution(self, label: Json, quote: str) -> str:
        return call("blame", action=label, quote=quote)


def label_of(episode: Episode) -> bool:
    """The rule's verdict, or what a probe knows."""
    probe: Any = episode.provenance.get("probe", {})
    return bool(probe.get("label", episode.success))


def first_wrong_of(episode: Episode) -> int | None:
    """The first wrong action where it is known, −1 where nothing was wrong."""
    probe: Any = episode.provenance.get("probe", {})
    found: int | None = probe.get("first_wrong", -1 if label_of(episode) else None)
    return found


def words_of(episode: Episode) -> str:
    """The first words of the last action that has two."""
    return next((_few(t.action) for t in reversed(episode.turns) if len(_few(t.action).split()) > 1), "no words")


def _few(action: str) -> str:
    """Some words of an action that stand together in it: of its prose, else of its first call."""
    prose, _, call = action.partition(OPEN)
    chosen = prose if len(prose.split()) > 1 else call.partition(CLOSE)[0]
    return " ".join(chosen.split()[:8])


def split_of(task: str) -> str:
    """The split into which a task's name falls."""
    place = hashlib.blake2b(task.encode(), digest_size=4).digest()[1] % 10
    return "train" if place < 8 else "dev" if place == 8 else "test"


@lru_cache(maxsize=2048)
def made(env_id: str, name: str) -> tuple[Episode, Episode | None]:
    """A scripted solution of one of an environment's tasks, and the same with a mistake in it where one can be put in; by name always the same."""
    rng = random.Random(f"{env_id}:{name}")
    split, _, number = name.partition(".")
    environments = _environments()
    env = _scripted(env_id, split)
    ids = env.taskset.ids()
    task = ids[int(number) * 7919 % len(ids)]
    env.reset(seed=int(number), options={"task": task})
    for action in env.oracle():
        *_, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            break
    right = env.episode
    found = corrupted(right, environments, rng)
    if found is None:
        return right, None
    wrong, at = found
    about: dict[str, Any] = {"name": "mistake", "of": right.id, "label": 0.0, "first_wrong": at}
    return right, msgspec.structs.replace(wrong, provenance={"probe": about})


@lru_cache(maxsize=1)
def _environments() -> Environments:
    return Environments()


@lru_cache(maxsize=16)
def _scripted(env_id: str, split: str) -> AgentEnv:
    return make(env_id, split=split)
