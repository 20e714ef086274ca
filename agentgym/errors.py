"""Every error agentgym raises, in one place.

To add one: subclass ``AgentGymError`` (or a child of it), also inherit the builtin it refines, start the docstring
with "Raised when", and pass every constructor argument to ``super().__init__`` so that it pickles.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class AgentGymError(Exception):
    """Base of every error that agentgym raises on purpose."""


class UsageError(AgentGymError, ValueError):
    """Raised when a flag, name, path or configuration value is wrong: the caller can mend it."""


class UnknownName(UsageError, LookupError):
    """Raised when a name is not among the known ones; the message names the nearest.

    Args: ``kind`` (what was looked up), ``name``, ``known`` (all valid names).
    """

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        self.known = sorted(known)
        super().__init__(kind, name, self.known)

    def __str__(self) -> str:
        kind, name, known = self.args
        return f"unknown {kind} {name!r}{nearest(name, known)}"


class SpecError(UsageError):
    """Raised when a reward spec makes no sense: ``path`` is the place in it, ``what`` is wrong there."""

    def __init__(self, path: str, what: str) -> None:
        self.path = path
        super().__init__(path, what)

    def __str__(self) -> str:
        return f"{self.args[0]}: {self.args[1]}"


class MissingExtra(AgentGymError, ImportError):
    """Raised when an optional part is not installed; ``install`` is the line that mends it."""

    def __init__(self, what: str, install: str) -> None:
        self.install = install
        super().__init__(what, install)

    def __str__(self) -> str:
        return f"{self.args[0]} is not installed; run: {self.args[1]}"


class CallOrderError(AgentGymError, RuntimeError):
    """Raised when an environment's methods are called in an order that has no meaning."""


class ResetNeeded(CallOrderError):
    """Raised when ``step`` (or ``end``, ``snapshot``, ``oracle``) comes before ``reset``."""


class EpisodeOver(CallOrderError):
    """Raised when ``step`` comes after the episode's end and before the next ``reset``."""


class EnvironmentClosed(CallOrderError):
    """Raised when an environment is used after ``close``."""


class ActionTypeError(AgentGymError, TypeError):
    """Raised when ``step`` is given something other than a ``str`` (a caller's bug, not a model's)."""


class CapabilityError(AgentGymError, NotImplementedError):
    """Raised when an environment or policy is asked for what its capabilities do not include."""


class Fault(AgentGymError, RuntimeError):
    """Raised when the world, not the policy, failed. Never a reward: the episode becomes ``invalid``."""

    culprit = "infra"


class EnvironmentFault(Fault):
    """Raised when the environment's world broke: a container died, a browser left, an outcome is invalid."""

    culprit = "env"


class SandboxFault(EnvironmentFault):
    """Raised when a sandbox could not be started, died or does not answer; the message says in what state it was."""

    culprit = "infra"


class SandboxClosed(CallOrderError):
    """Raised when a sandbox is used after ``close``."""


class SandboxRefused(MissingExtra):
    """Raised when no sandbox here enforces what is asked for: nothing weaker is used. Args: why, and the line that mends it."""

    def __str__(self) -> str:
        return f"{self.args[0]}; run: {self.args[1]}" if self.args[1] else str(self.args[0])


class VerifierFault(EnvironmentFault):
    """Raised when the outcome could not be decided because a verifier failed."""

    culprit = "verifier"


class PolicyFault(Fault):
    """Raised when the policy's endpoint or engine could not answer within its retry budget."""

    culprit = "infra"


class ContextOverflow(AgentGymError, OverflowError):
    """Raised when a conversation no longer fits the policy's context: a clean stop, not a fault."""


class ToolError(AgentGymError, ValueError):
    """Raised when a tool refuses a call; the text is the observation. ``malformed`` counts against the parse budget."""

    def __init__(self, text: str, malformed: bool = False) -> None:
        self.malformed = malformed
        super().__init__(text, malformed)

    def __str__(self) -> str:
        return str(self.args[0])


class RecordError(AgentGymError, ValueError):
    """Raised when an episode file or a run folder cannot be trusted or read."""


class BundleError(RecordError):
    """Raised when a bundle is not what it says: which bundle, which ``file`` of it, and why."""

    def __init__(self, bundle: str, file: str, why: str) -> None:
        self.file = file
        super().__init__(bundle, file, why)

    def __str__(self) -> str:
        return f"{self.args[0]}: {self.args[1]} {self.args[2]}"


class SessionGone(CallOrderError):
    """Raised when a session is used after its end: it was closed, stood idle for too long, or never was."""


class SessionBusy(CallOrderError):
    """Raised when a session is used while it answers somebody else."""


class Unauthorised(AgentGymError, PermissionError):
    """Raised when the token is wrong, or the origin foreign, or a key asks for what is not an agent's."""


class ServerFull(AgentGymError, RuntimeError):
    """Raised when the server holds as many sessions, or as many kept points, as it may."""


class ProtocolError(UsageError):
    """Raised when a message is not of this protocol, or of another version of it."""


class MessageTooLarge(ProtocolError):
    """Raised when a message is larger than the server reads."""


class TemplateRefused(AgentGymError, ValueError):
    """Raised when a chat template rewrites history, so that sampled ids could not stay as they were sampled."""


class CheckpointMismatch(AgentGymError, ValueError):
    """Raised when a checkpoint belongs to another model, version or configuration."""


class TrainingStopped(AgentGymError, ArithmeticError):
    """Raised when a training run cannot go on: its updates are not finite any more, or the memory does not suffice."""


def nearest(name: str, known: Iterable[str]) -> str:
    """`` (nearest: x)`` for the closest of ``known``, or the first few of them if none is close."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    if close:
        return f" (nearest: {close[0]})"
    return f" (known: {', '.join(known[:8])}{', …' if len(known) > 8 else ''})" if known else " (none is installed)"
