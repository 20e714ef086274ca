"""What a served environment and its client say to each other: JSON, over WebSocket or HTTP. The structs are the documentation.

A request names its ``op`` and, but for ``open`` and what a server tells of itself, its session. An answer is the op's own, or ``Refused``.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from msgspec import Struct

from agentgym import errors
from agentgym.budget import Bounds, Prices
from agentgym.core import Capabilities, Limits
from agentgym.episode import Episode, Turn
from agentgym.errors import AgentGymError, Fault, UsageError
from agentgym.messages import Message, ToolSpec
from agentgym.picture import Packed
from agentgym.rollout import Job
from agentgym.verdict import Culprit, Json, StopReason, Verdict

VERSION = 1
"""Changes when an old client would no longer be understood."""


class Request(Struct, tag_field="op", forbid_unknown_fields=True):
    """One thing to do. ``session`` is the one that ``open`` told, or empty for the last one opened on this connection."""

    session: str = ""


class Offer(Request, tag="offer"):
    """What is served."""


class Open(Request, tag="open"):
    """Make an environment. ``record`` asks for what an episode's record needs, beside what an agent needs."""

    env: str = ""
    split: str = "train"
    reward: str = "outcome"
    options: dict[str, Json] = {}
    record: bool = False
    version: int = 0


class Reset(Request, tag="reset"):
    """Begin an episode, of ``task`` if it is named."""

    seed: int | None = None
    task: str | None = None


class Step(Request, tag="step"):
    """One action."""

    action: str = ""


class End(Request, tag="end"):
    """Close the episode from outside; ``action`` is what was written when it was cut."""

    reason: StopReason = StopReason.MAX_TOKENS
    action: str = ""


class Look(Request, tag="look"):
    """The last observation again, and whether the episode is over: for who comes to a session that another began."""


class Choices(Request, tag="choices"):
    """The actions that are possible now, where they can be listed."""


class Consequences(Request, tag="consequences"):
    """What the world says of an action before it is done."""

    action: str = ""


class Script(Request, tag="script"):
    """The next action of a scripted solution (``oracle``, served only where the server was told to) or of an honest ``player``; none at its end.

    ``fresh`` begins one from where the episode stands.
    """

    who: str = "oracle"
    fresh: bool = True


class Save(Request, tag="save"):
    """Keep this point of the episode at the server; the answer is its name."""


class Restore(Request, tag="restore"):
    """Go on from a point that was kept."""

    point: str = ""


class Tasks(Request, tag="tasks"):
    """The ids of the split, or, with ``task``, that task."""

    task: str | None = None


class Grade(Request, tag="grade"):
    """What a verifier says of an episode of this environment, as its record and artefacts tell it."""

    verifier: str = ""
    episode: bytes = b""
    artefacts: dict[str, bytes] = {}


class Record(Request, tag="record"):
    """The record of the episode so far: where a model is served, as the model lived it, a turn for each of its calls."""


class Play(Request, tag="play"):
    """Play an attempt here, by a policy of that name, to its end."""

    job: Job = Job("")
    policy: str = ""
    retry: int = 0
    settings: dict[str, Json] = {}
    max_tokens: int | None = None
    bounds: Bounds = Bounds()
    prices: Prices = Prices()
    provenance: dict[str, Json] = {}


class Close(Request, tag="close"):
    """End the session."""


AnyRequest = (
    Offer | Open | Reset | Step | End | Look | Choices | Consequences | Script | Save | Restore | Tasks | Grade | Record | Play | Close
)  # fmt: skip


class Opened(Struct):
    """A session, the ``key`` that an agent may play it with and do nothing else, and what the environment is."""

    session: str
    key: str
    env: str
    tools: list[ToolSpec]
    capabilities: Capabilities
    screen: tuple[int, int] | None
    render_modes: list[str]
    splits: list[str]
    rewards: dict[str, str]
    verifiers: dict[str, Literal["step", "outcome", "group"]]
    player: bool


class Ending(Struct, omit_defaults=True):
    """How an episode ended, for its record."""

    stop_reason: StopReason
    status: Literal["running", "valid", "invalid"]
    verdicts: dict[str, Verdict]
    closing: list[Message] = []
    artefacts: dict[str, bytes] = {}
    fault: str | None = None
    culprit: Culprit | None = None


class Played(Struct):
    """What ``play`` answers: the record, and what decided it."""

    episode: Episode
    artefacts: dict[str, bytes] = {}


class Shown(Struct, omit_defaults=True):
    """What ``reset``, ``step``, ``end``, ``look`` and ``restore`` answer: Gymnasium's five, and for a record the turn, the task (with its tools, if they
    are its own) and the end. An agent is told the observation and whether the episode is over, and nothing else.
    """

    observation: str
    info: dict[str, Json] = {}
    reward: float = 0.0
    terminated: bool = False
    truncated: bool = False
    screenshot: Packed = None
    turn: Turn | None = None
    task: dict[str, Json] | None = None
    digest: str = ""
    seed: int | None = None
    malformed: int = 0
    limits: Limits | None = None
    tools: list[ToolSpec] | None = None
    ending: Ending | None = None


class Refused(Struct):
    """Why something was not done: the name of the error, what it says, and whose fault it was where it is one."""

    error: str
    message: str
    culprit: Culprit | None = None


STATUS: dict[type[BaseException], int] = {
    errors.SessionGone: 410, errors.SessionBusy: 409, errors.Unauthorised: 403, errors.ServerFull: 503, errors.MessageTooLarge: 413, errors.ProtocolError: 400,
    errors.UnknownName: 404, UsageError: 422,
    errors.CallOrderError: 409, errors.CapabilityError: 501, errors.MissingExtra: 501, Fault: 502, AgentGymError: 422,
}  # fmt: skip
"""The HTTP status of each error, the first of its classes that stands here."""

_REQUEST = msgspec.json.Decoder(AnyRequest)
encode = msgspec.json.Encoder().encode


def read(data: bytes | str) -> Any:
    """One request. Raises ``ProtocolError``."""
    try:
        return _REQUEST.decode(data)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise errors.ProtocolError(f"not a request: {error}") from None


def status(error: BaseException) -> int:
    """The HTTP status that stands for an error; 500 for what nobody raised on purpose."""
    return next((STATUS[c] for c in type(error).__mro__ if c in STATUS), 500)


def refusal(error: BaseException) -> Refused:
    """An error, to be sent. Of one that nobody raised on purpose its name alone is told."""
    known = isinstance(error, AgentGymError)
    return Refused(type(error).__name__, str(error)[:4000] if known else "", getattr(error, "culprit", None))


def raised(refused: Refused) -> BaseException:
    """The error that a server sent, to be raised here: of its own class where there is one, else a fault of the world."""
    cls = getattr(errors, refused.error, None)
    if not (isinstance(cls, type) and issubclass(cls, AgentGymError)):
        return errors.EnvironmentFault(f"{refused.error} at the server: {refused.message}")
    plain: type[BaseException] = type(cls.__name__, (cls,), {"__str__": Exception.__str__, "__init__": Exception.__init__, "__module__": cls.__module__})
    return plain(refused.message)
