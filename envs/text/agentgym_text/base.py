"""What worlds of one line a turn share: their state is what was said in them, and so a snapshot is those lines, said again."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from typing import Any, ClassVar, Literal

import msgspec
from msgspec import Struct

from agentgym.core import Action, AgentEnv, EpisodeView, Scene, StopReason, Task, Verdict
from agentgym.errors import EnvironmentFault
from agentgym.verdict import Json


class Said(Struct, gc=False):
    """What a world answers: its text, what can be seen (``anchor``, the text if empty), its end, whether it understood, and hidden facts."""

    text: str
    anchor: str = ""
    end: StopReason | None = None
    malformed: bool = False
    facts: dict[str, Json] = {}


class LineEnv(AgentEnv):
    """A world that takes one line a turn: the last of the prose. The author writes ``_open`` and ``_say``.

    The world must answer the same lines in the same way: the state hash is the chain of lines and answers, and a snapshot is checked by it.
    """

    system: ClassVar[str] = ""
    _lines: list[str]
    _chain: bytes

    @abstractmethod
    def _open(self, task: Task) -> Said:
        """Begin; the first text holds the instruction."""

    @abstractmethod
    def _say(self, line: str) -> Said:
        """What the world answers to a line."""

    def _begin(self, task: Task) -> Scene:
        self._lines, self._chain = [], b""
        scene = self._scene("", self._open(task))
        if self.system:
            scene.messages.insert(0, {"role": "system", "content": self.system})
        return scene

    def _advance(self, action: Action) -> Scene:
        if action.calls:
            return self._objection("there are no tools here: write your command as plain text")
        line = " ".join(action.prose.rpartition("\n")[2].split())
        self._lines.append(line)
        return self._scene(line, self._say(line))

    def _scene(self, line: str, said: Said) -> Scene:
        told = f"{line}\x00{said.text}\x00{said.end}".encode("utf-8", "surrogatepass")
        self._chain = hashlib.blake2b(self._chain + told, digest_size=12).digest()
        return Scene([{"role": "user", "content": said.text}], self._chain.hex() + self._luck(), said.anchor or said.text, said.end, said.malformed, said.facts)

    def _luck(self) -> str:
        """What else the future depends on."""
        return ""

    def _save(self) -> bytes:
        return msgspec.msgpack.encode((self._lines, self._chain, self._kept()))

    def _kept(self) -> Any:
        """What ``_open`` needs beside the task to begin in the same way."""
        return None

    def _keep(self, kept: Any) -> None:
        """Take what ``_kept`` gave."""

    def _load(self, payload: bytes) -> None:
        lines, chain, kept = msgspec.msgpack.decode(payload, type=tuple[list[str], bytes, Any])
        self._keep(kept)
        self._begin(self.task)
        for line in lines:
            self._lines.append(line)
            self._scene(line, self._say(line))
        if self._chain != chain:
            raise EnvironmentFault(f"{self.task.id}: the lines of the snapshot, said again, lead to another state")


class End(Struct, frozen=True):
    """The outcome that the world wrote down at its end: ``value`` of the artefact ``end.json``, whose other numbers are the evidence."""

    level: ClassVar[Literal["outcome"]] = "outcome"

    def __call__(self, view: EpisodeView) -> Verdict:
        told = msgspec.json.decode(view.artefacts["end.json"])
        value = told.pop("value")
        return Verdict.scored(max(0.0, min(1.0, value)) if type(value) is float else value, **told)
