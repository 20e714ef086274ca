"""The contracts of agentgym. Read this file first; everything else is an implementation of it.

A ``Task`` is a frozen row. An ``AgentEnv`` plays one task at a time as a conforming Gymnasium environment over text. A
``Verifier`` says what happened, as a ``Verdict``. A reward spec (``agentgym.rewards``) turns verdicts into terms. A ``Policy`` maps conversations to
completions; a ``Renderer`` maps messages to token ids and back.
"""

from __future__ import annotations

import hashlib
import time
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, Self

import gymnasium
import msgspec
import numpy as np
from gymnasium.spaces import Box, Dict
from msgspec import Struct

from agentgym import errors
from agentgym.episode import Episode, Tokens, Turn, digest
from agentgym.grading import grade, grade_turn, require_valid
from agentgym.messages import Action, Message, Tool, ToolSpec, parse_action, text_of
from agentgym.picture import Packed, packed, unpacked
from agentgym.spaces import Prose
from agentgym.verdict import Json, StopReason, Term, Verdict

if TYPE_CHECKING:
    from agentgym.rewards.spec import Spec

__all__ = [
    "Action", "AgentEnv", "AgentGame", "Capabilities", "Completion", "Conversation", "EpisodeView", "Limits", "Message", "Policy",
    "Renderer", "Scene", "Snapshot", "StopReason", "Task", "TaskSet", "Term", "Tokens", "ToolSpec", "Verdict", "Verifier",
]  # fmt: skip

Obs = str | dict[str, Any]
StepResult = tuple[Obs, float, bool, bool, dict[str, Any]]


class Limits(Struct, frozen=True):
    """What an episode may use. ``max_malformed`` malformed actions end it with ``parse_error``."""

    max_turns: int = 30
    max_malformed: int = 3
    max_action_chars: int = 32_768
    max_calls: int = 16
    max_tokens: int | None = None


class Task(Struct, frozen=True):
    """A frozen row. ``data`` is for the environment and its verifiers; a policy never sees it. ``kind`` is its type, for specs and tables."""

    id: str
    instruction: str
    split: str
    data: dict[str, Json] = {}
    limits: Limits = Limits()
    kind: str = ""

    @property
    def digest(self) -> str:
        """Content address of the whole row."""
        return digest(msgspec.json.encode(self, order="deterministic"))


class TaskSet(Sequence[Task]):
    """The tasks of one split, known by their ids; ``make`` builds one when it is asked for."""

    def __init__(self, ids: Iterable[str], make: Callable[[str], Task]) -> None:
        self._ids, self._make = tuple(ids), make
        self._known = frozenset(self._ids)

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, index: int) -> Task:  # type: ignore[override]  # no slices: tasks are made one at a time
        return self._make(self._ids[index])

    def ids(self) -> Sequence[str]:
        """All ids, in the order of the index."""
        return self._ids

    def get(self, task_id: str) -> Task:
        """The task of that id. Raises ``UnknownName``."""
        if task_id not in self._known:
            raise errors.UnknownName("task", task_id, self._ids)
        return self._make(task_id)


class Capabilities(Struct, frozen=True):
    """What an environment can do. ``blocking`` ones are stepped on threads, the others inline."""

    snapshot: bool = False
    pixels: bool = False
    seats: tuple[str, ...] = ()
    sandboxes: tuple[str, ...] = ()
    blocking: bool = False


class Scene(Struct, gc=False):
    """What an author's ``_begin`` or ``_advance`` returns.

    ``messages`` are new to the policy. ``state`` stands for everything the future depends on, random generators included.
    ``anchor`` is what the agent can see, without counters. ``facts`` are for verifiers, recorded, never shown.
    """

    messages: list[Message]
    state: str
    anchor: str
    end: StopReason | None = None
    malformed: bool = False
    facts: dict[str, Json] = {}
    screenshot: Any = None


class EpisodeView(Struct, frozen=True, gc=False):
    """All that a verifier may see: the task, the record so far, and (for an outcome) the artefacts."""

    task: Task
    episode: Episode
    artefacts: Mapping[str, bytes] = {}


class Verifier(Protocol):
    """Says what happened. A pure function of the view; a step verifier judges the view's last turn."""

    @property
    def level(self) -> Literal["step", "outcome", "group"]: ...

    def __call__(self, view: EpisodeView) -> Verdict: ...


class Snapshot(Struct, frozen=True):
    """A point of an episode that outlives its environment: the author's ``payload``, the record so far, and the picture (its shape and bytes)."""

    env: str
    task: Task
    payload: bytes
    episode: bytes
    scene: bytes
    malformed: int
    picture: Packed = None


class Conversation(Struct, frozen=True):
    """What a policy is asked. ``prefix``: this segment's turns so far; ``images`` belong to the last message; ``schema``: what JSON to answer."""

    id: str
    messages: Sequence[Message]
    tools: Sequence[ToolSpec] = ()
    prefix: Sequence[Tokens] | None = None
    max_tokens: int | None = None
    deadline: float | None = None
    seed: int = 0
    images: Sequence[Any] = ()
    schema: Mapping[str, Any] | None = None


class Completion(Struct, frozen=True, gc=False):
    """What a policy answers. ``action`` is canonical action text; ``tokens`` is what this turn appended, where known.

    ``waited_s`` was spent waiting to ask again: it is not the agent's working time.
    """

    action: str
    tokens: Tokens | None = None
    finish: Literal["stop", "length", "abort", "refused"] = "stop"
    usage: dict[str, int] = {}
    waited_s: float = 0.0


class Policy(Protocol):
    """Maps conversations to completions. Engines batch inside. Raises ``ContextOverflow`` or a ``Fault``."""

    name: str

    async def act(self, conversation: Conversation, /) -> Completion: ...


class Renderer(Protocol):
    """Between messages and token ids. Only ever appends: ids once sampled stay as they are."""

    def open(self, tools: Sequence[ToolSpec], messages: Sequence[Message]) -> list[int]: ...
    def bridge(self, messages: Sequence[Message]) -> list[int]: ...
    def parse(self, ids: Sequence[int]) -> Message: ...


class AgentGame(Protocol):
    """A game of several seats, played through one ``AgentEnv`` per seat."""

    seats: Sequence[str]
    current: str | None
    rewards: Mapping[str, float]

    def observe(self, seat: str) -> str: ...
    def step(self, action: str) -> None: ...


class AgentEnv(gymnasium.Env[Obs, str]):
    """A Gymnasium environment that speaks text. The base owns turns, limits, verifiers, reward and ``info``.

    ``deferred`` is set by a rollout that grades finished episodes itself, beside stepping; ``graded_s`` of the last step was not the agent's.

    An author writes ``tasks``, ``_begin``, ``_advance`` and, where it has them, ``_artefacts``, ``oracle`` or ``player``,
    ``_save`` and ``_load``; and declares ``splits``, ``tools``, ``verifiers`` and ``rewards``; with a ``screen`` (height, width) observations have
    pixels too. Same seed and task: the same episode.
    """

    id: ClassVar[str]
    capabilities: ClassVar[Capabilities] = Capabilities()
    verifiers: ClassVar[Mapping[str, Verifier]] = {}
    rewards: ClassVar[Mapping[str, Spec]] = {}
    metadata: dict[str, Any] = {"render_modes": ["ansi"], "render_fps": 1}
    tools: Mapping[str, Tool] = {}
    splits: ClassVar[tuple[str, ...]] = ("train", "dev", "test")
    screen: tuple[int, int] | None = None

    task: Task
    episode: Episode
    deferred: bool = False
    graded_s: float = 0.0
    _options: dict[str, Any]
    _shown: Scene
    _hash: str
    _malformed: int

    def __new__(cls, *args: Any, **options: Any) -> Self:
        env = super().__new__(cls)
        env._options = options
        return env

    def __init__(
        self, *, split: str = "train", reward: str | Spec = "outcome", render_mode: str | None = None, limits: Mapping[str, int] | None = None
    ) -> None:
        """``limits`` overrides those of the tasks, such as ``{"max_turns": 5}``."""
        named = [*(("limit", name, Limits.__struct_fields__) for name in limits or {}), ("split", split, self.splits)]
        named += [("reward", reward, tuple(self.rewards))] if isinstance(reward, str) else []
        named += [("render mode", render_mode, self.metadata["render_modes"])] if render_mode is not None else []
        for kind, name, known in named:
            if name not in known:
                raise errors.UnknownName(kind, name, known)
        self._given_limits = dict(limits or {})
        self.split, self.reward_name, self.render_mode = split, str(reward), render_mode
        self.reward: Spec = self.rewards[reward] if isinstance(reward, str) else reward
        self.action_space = Prose()
        self.observation_space = Prose() if self.screen is None else Dict(text=Prose(), screenshot=Box(0, 255, (*self.screen, 3), np.uint8))
        self.taskset = self.tasks(split)
        self.artefacts: Mapping[str, bytes] = {}
        self._status: Literal["new", "running", "over", "closed"] = "new"

    # What an author writes

    @abstractmethod
    def tasks(self, split: str) -> TaskSet:
        """The tasks of a split, one of ``splits``."""

    @abstractmethod
    def _begin(self, task: Task) -> Scene:
        """Set the world up; the first messages hold the instruction."""

    @abstractmethod
    def _advance(self, action: Action) -> Scene:
        """Apply a well-formed action."""

    def _artefacts(self) -> Mapping[str, bytes]:
        """What decides the outcome, as bytes: the final database, a patch."""
        return {}

    def oracle(self) -> Iterator[str]:
        """A scripted solution from the current state; asked again only after its last action was stepped."""
        raise errors.CapabilityError(f"{self.id} has no oracle")

    def player(self) -> Iterator[str]:
        """An honest scripted player from the current state, for worlds that no oracle can solve."""
        raise errors.CapabilityError(f"{self.id} has no player")

    def consequences(self, action: str) -> Mapping[str, Json]:
        """What the world itself says of an action before it is done, such as ``{"irreversible": "pay"}``; for critics."""
        return {}

    def choices(self) -> Sequence[str]:
        """Actions that are possible now, for scripted policies; none where they cannot be listed."""
        return ()

    def _save(self) -> bytes:
        raise errors.CapabilityError(f"{self.id} cannot be snapshotted")

    def _load(self, payload: bytes) -> None:
        raise errors.CapabilityError(f"{self.id} cannot be restored")

    # What Gymnasium's users call

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Obs, dict[str, Any]]:
        """Begin an episode. ``options={"task": id}`` chooses the task; else ``np_random`` draws one of the split.

        Raises:
            EnvironmentClosed: after ``close``.
            UnknownName: no such task, or no such option.
        """
        if self._status == "closed":
            raise errors.EnvironmentClosed(f"{self.id} was closed; make a new one")
        if unknown := (options or {}).keys() - {"task"}:
            raise errors.UnknownName("reset option", min(unknown), ["task"])
        super().reset(seed=seed)
        chosen = (options or {}).get("task")
        self.task = self.taskset.get(chosen) if chosen else self.taskset[int(self.np_random.integers(len(self.taskset)))]
        self.episode = Episode(
            id=f"{self.task.id}#0", env=self.id, task=self.task.id, task_digest=self.task.digest, split=self.split, seed=seed,
            kind=self.task.kind, reward=self.reward_name, limits=msgspec.structs.asdict(self.limits), options=self._options_to_record(),
        )  # fmt: skip
        self._malformed, self.artefacts, self._status = 0, {}, "running"
        self._show(self._begin(self.task))
        self.episode.start_hash, self.episode.start_anchor = self._hash, self._shown.anchor
        return self._observation(), self._info([], {})

    def step(self, action: str) -> StepResult:
        """One turn. A malformed action is an observation within a budget; it never raises.

        Raises:
            ResetNeeded, EpisodeOver, EnvironmentClosed: called in the wrong order.
            ActionTypeError: ``action`` is not a ``str``.
            EnvironmentFault: the world broke, or the outcome is invalid. There is no reward then.
        """
        self._require_running()
        if not isinstance(action, str):
            raise errors.ActionTypeError(f"an action is a str, not {type(action).__name__}")
        limits, began = self.limits, time.perf_counter()
        parsed = parse_action(action, max_chars=limits.max_action_chars, max_calls=limits.max_calls)
        turn = Turn(self._shown.messages, action[: limits.max_action_chars], list(parsed.calls), parsed.problem)
        self.episode.turns.append(turn)
        scene = self._advance(parsed) if parsed.problem is None else self._objection(parsed.problem)
        self._malformed += scene.malformed
        self._show(scene)
        return self._settle(turn, self._why_ended(), began)

    def end(self, reason: StopReason, action: str = "") -> StepResult:
        """Close the episode from outside (context, tokens, cost): still graded, truncated.

        ``action`` is what the policy had written when it was cut; it is kept in the record and not executed.
        """
        self._require_running()
        turn = Turn(self._shown.messages, action[: self.limits.max_action_chars], problem=f"not executed: {reason}")
        self.episode.turns.append(turn)
        self._shown = Scene([], self._shown.state, self._shown.anchor, screenshot=self._shown.screenshot)
        return self._settle(turn, reason, time.perf_counter())

    def render(self) -> Any:
        """The last action and observation as text in mode ``ansi``, the screen as an array in mode ``rgb_array``; None before the first reset."""
        if self._status == "new" or self.render_mode is None:
            return None
        if self.render_mode == "rgb_array":
            return self._shown.screenshot
        last = self.episode.turns[-1].action if self.episode.turns else ""
        return f"{last}\n\n{text_of(self._shown.messages)}".strip() if self._shown.messages else last

    def close(self) -> None:
        """Release the world; idempotent."""
        self._status = "closed"

    @property
    def limits(self) -> Limits:
        """The limits of this episode, as enforced."""
        return msgspec.structs.replace(self.task.limits, **self._given_limits) if self._given_limits else self.task.limits

    # Snapshots

    def snapshot(self) -> Snapshot:
        """All that ``state_hash`` covers, and the record so far; outlives the environment."""
        self._require_running()
        encode, scene = msgspec.msgpack.encode, msgspec.structs.replace(self._shown, screenshot=None)
        return Snapshot(self.id, self.task, self._save(), encode(self.episode), encode(scene), self._malformed, packed(self._shown.screenshot))

    def restore(self, snapshot: Snapshot) -> None:
        """Continue from a snapshot: the same ``state_hash``, the same future."""
        if self._status == "closed":
            raise errors.EnvironmentClosed(f"{self.id} was closed; make a new one")
        if snapshot.env != self.id:
            raise errors.UsageError(f"a snapshot of {snapshot.env} cannot be restored into {self.id}")
        self.task, self._malformed, self._status = snapshot.task, snapshot.malformed, "running"
        self.episode = msgspec.msgpack.decode(snapshot.episode, type=Episode)
        self._load(snapshot.payload)
        scene = msgspec.msgpack.decode(snapshot.scene, type=Scene)
        self._show(msgspec.structs.replace(scene, screenshot=unpacked(snapshot.picture)))

    def fork(self, n: int, reseed: int | None = None) -> list[AgentEnv]:
        """``n`` independent environments at this point; with ``reseed``, fork ``i`` draws from ``reseed + i``."""
        here, forks = self.snapshot(), []
        for i in range(n):
            env = type(self)(**self._options)
            env.restore(here)
            env.episode.parent = (self.episode.id, len(self.episode.turns))
            if reseed is not None:
                env.np_random = np.random.default_rng(reseed + i)
            forks.append(env)
        return forks

    # The template's own parts

    def _require_running(self) -> None:
        if self._status == "running":
            return
        if self._status == "closed":
            raise errors.EnvironmentClosed(f"{self.id} was closed; make a new one")
        if self._status == "over":
            raise errors.EpisodeOver(f"the episode of {self.task.id} has ended; call reset()")
        raise errors.ResetNeeded("call reset() first")

    def _options_to_record(self) -> dict[str, Json]:
        """The options that make this environment again, beside those that have fields of their own."""
        return {k: v for k, v in self._options.items() if k not in ("split", "reward", "render_mode")}

    def _objection(self, problem: str) -> Scene:
        """The scene after a malformed action: the world stands still, and the policy is told why."""
        message: Message = {"role": "user", "content": f"error: {problem}"}
        return Scene([message], self._shown.state, self._shown.anchor, malformed=True, screenshot=self._shown.screenshot)

    def _show(self, scene: Scene) -> None:
        self._shown = scene
        stamp = f"{self.id}|{self.task.id}|{len(self.episode.turns)}|{self._malformed}|{scene.state}"
        self._hash = hashlib.blake2b(stamp.encode(), digest_size=12).hexdigest()

    def _why_ended(self) -> StopReason | None:
        limits = self.limits
        if self._shown.end is not None:
            return self._shown.end
        if self._malformed >= limits.max_malformed:
            return StopReason.PARSE_ERROR
        return StopReason.MAX_TURNS if len(self.episode.turns) >= limits.max_turns else None

    def _settle(self, turn: Turn, reason: StopReason | None, began: float) -> StepResult:
        """Verdicts, terms and the record of a turn that has been played; ``reason`` if it was the last."""
        turn.duration_s = time.perf_counter() - began
        turn.state_hash, turn.anchor, turn.facts = self._hash, self._shown.anchor, self._shown.facts
        episode = self.episode
        turn.verdicts = grade_turn(self.verifiers, EpisodeView(self.task, episode))
        if reason is not None:
            self._status = "over"
            episode.stop_reason, episode.closing = reason, self._shown.messages
            self.artefacts = self._artefacts()
            if not self.deferred:
                episode.verdicts = grade(self.verifiers, EpisodeView(self.task, episode, self.artefacts))
                require_valid(episode.verdicts)
                episode.status = "valid"
        self.graded_s = time.perf_counter() - began - turn.duration_s
        terms = self.reward.at(episode, len(episode.turns) - 1)
        episode.terms += terms
        verdicts = {**turn.verdicts, **episode.verdicts} if reason else turn.verdicts
        terminated = reason is not None and reason.terminated
        truncated = reason is not None and not terminated
        return self._observation(), float(sum(t.value for t in terms)), terminated, truncated, self._info(terms, verdicts)

    def _observation(self) -> Obs:
        text = text_of(self._shown.messages) if self._shown.messages else ""
        return text if self.screen is None else {"text": text, "screenshot": self._shown.screenshot}

    def _info(self, terms: list[Term], verdicts: Mapping[str, Verdict]) -> dict[str, Any]:
        return {
            "task_id": self.task.id,
            "turn": len(self.episode.turns),
            "state_hash": self._hash,
            "anchor": self._shown.anchor,
            "messages": self._shown.messages,
            "reward_terms": msgspec.to_builtins(terms) if terms else [],
            "verdicts": msgspec.to_builtins(verdicts) if verdicts else {},
            "stop_reason": self.episode.stop_reason and self.episode.stop_reason.value,
        }
