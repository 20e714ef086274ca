"""``tools/desk-v0``: an office desk over SQLite, one database per episode, in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar

import msgspec
from agentgym_verifiers.rules import WellFormed

from agentgym.core import Action, AgentEnv, Capabilities, Message, Scene, StopReason, Task, TaskSet, Verifier
from agentgym.messages import Tool, answer, print_action
from agentgym.rewards import Spec, delta, outcome, standard, step
from agentgym_tools.desk import Desk
from agentgym_tools.tasks import SPLITS, plan_of, tasks_of, world_of
from agentgym_tools.tools import TOOLS
from agentgym_tools.verify import Call, Progress, TaskDone, still_to_do

SYSTEM = "You work at an office desk through tools."
ENDS = {"finish": StopReason.DONE, "answer": StopReason.SUBMITTED, "refuse": StopReason.REFUSED}

_call_terms = 0.02 * (step("form") + step("tool") + step("names") + step("values"))
_steps = _call_terms + 0.2 * delta(step("progress"))


class DeskEnv(AgentEnv):
    """The desk. Options: ``templates`` and ``levels`` (one or several) restrict the tasks."""

    id = "tools/desk-v0"
    capabilities = Capabilities(snapshot=True)
    tools: Mapping[str, Tool] = TOOLS
    verifiers: ClassVar[Mapping[str, Verifier]] = {
        "form": WellFormed(),
        "tool": Call("tool"),
        "names": Call("names"),
        "values": Call("values"),
        "progress": Progress(),
        "task": TaskDone(),
    }
    rewards: ClassVar[Mapping[str, Spec]] = standard(outcome("task"), _steps, step("progress"))
    splits = SPLITS

    def __init__(self, *, templates: str | Iterable[str] = (), levels: int | Iterable[int] = (), **base: Any) -> None:
        self._templates = (templates,) if isinstance(templates, str) else tuple(templates)
        self._levels = (levels,) if isinstance(levels, int) else tuple(levels)
        self._desk: Desk | None = None
        super().__init__(**base)

    def tasks(self, split: str) -> TaskSet:
        """The tasks of a split, of the chosen templates and levels."""
        return tasks_of(split, self._templates, self._levels)

    @property
    def desk(self) -> Desk:
        """The open database."""
        assert self._desk is not None
        return self._desk

    def _open(self, desk: Desk) -> None:
        self._shut()
        desk.user = plan_of(self.task).user
        self._desk = desk

    def _shut(self) -> None:
        if self._desk is not None:
            self._desk.connection.close()
            self._desk = None

    def _begin(self, task: Task) -> Scene:
        self._open(Desk.of(world_of(task)))
        return self._scene_of([{"role": "system", "content": SYSTEM}, {"role": "user", "content": task.instruction}])

    def _advance(self, action: Action) -> Scene:
        self.desk.writes = []
        done = answer(
            self.tools, self.desk, action, len(self.episode.turns) - 1, lambda: self.desk.ending is not None, hint="end with finish, answer or refuse"
        )
        end = ENDS[self.desk.ending[0]] if self.desk.ending else None
        return self._scene_of(done.messages, end=end, malformed=done.malformed, facts={"calls": done.states, "writes": self.desk.writes})

    def _scene_of(self, messages: list[Message], **more: Any) -> Scene:
        desk = self.desk
        state = f"{desk.hash:032x}|{desk.ending}"
        seen = "|".join(m["content"] for m in messages)
        return Scene(messages, state, seen, **more)

    def _artefacts(self) -> Mapping[str, bytes]:
        return {"desk.sqlite": self.desk.dump(), "ending.json": msgspec.json.encode(self.desk.ending)}

    def oracle(self) -> Iterator[str]:
        """The plan's calls that have not been made yet, one a turn."""
        self._require_running()
        for call in still_to_do(self.task, [c for t in self.episode.turns for c in t.calls]):
            yield print_action("", [call])

    def _save(self) -> bytes:
        return msgspec.msgpack.encode((self.desk.dump(), self.desk.ending))

    def _load(self, payload: bytes) -> None:
        database, ending = msgspec.msgpack.decode(payload, type=tuple[bytes, tuple[str, Any] | None])
        self._open(Desk(database))
        self.desk.ending = ending

    def close(self) -> None:
        """Close the database; idempotent."""
        self._shut()
        super().close()
