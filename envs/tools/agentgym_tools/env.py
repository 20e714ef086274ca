"""``tools/desk-v0``: an office desk over SQLite, one database per episode, in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar

import msgspec

from agentgym.core import Action, AgentEnv, Capabilities, Message, Reward, Scene, StopReason, Task, Verifier
from agentgym.errors import ToolError
from agentgym.messages import Tool, find_tool, print_action, tool_message
from agentgym.rewards import delta, gate, late, outcome, potential, step
from agentgym_tools.desk import Desk
from agentgym_tools.tasks import DeskTasks, plan_of, world_of
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
        "form": Call("form"),
        "tool": Call("tool"),
        "names": Call("names"),
        "values": Call("values"),
        "progress": Progress(),
        "task": TaskDone(),
    }
    rewards: ClassVar[Mapping[str, Reward]] = {
        "outcome": outcome("task"),
        "stepwise": outcome("task") + _steps,
        "gated": outcome("task") + gate(_steps, by=outcome("task")),
        "potential": outcome("task") + potential(step("progress")),
        "intrinsic": outcome("task") + 0.05 * late("novelty"),
    }

    def __init__(self, *, templates: str | Iterable[str] = (), levels: int | Iterable[int] = (), **base: Any) -> None:
        self._templates = (templates,) if isinstance(templates, str) else tuple(templates)
        self._levels = (levels,) if isinstance(levels, int) else tuple(levels)
        self._desk: Desk | None = None
        super().__init__(**base)

    def tasks(self, split: str) -> DeskTasks:
        """The tasks of a split, of the chosen templates and levels."""
        return DeskTasks(split, self._templates, self._levels)

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
        if not action.calls:
            said = "error: there is no tool call; end with finish, answer or refuse"
            return self._scene_of([{"role": "user", "content": said}], malformed=True)
        self.desk.writes = []
        turn, messages, states = len(self.episode.turns) - 1, list[Message](), []
        for i, call in enumerate(action.calls):
            text, state = "error: the episode has ended", "after the end"
            if self.desk.ending is None:
                text, state = self._call(call.name, call.arguments)
            messages.append(tool_message(turn, i, call.name[:80], text))
            states.append(state)
        facts = {"calls": states, "writes": self.desk.writes}
        end = ENDS[self.desk.ending[0]] if self.desk.ending else None
        return self._scene_of(messages, end=end, malformed="malformed" in states, facts=facts)

    def _call(self, name: str, arguments: dict[str, Any]) -> tuple[str, str]:
        try:
            return find_tool(self.tools, name).run(self.desk, arguments), "ok"
        except ToolError as error:
            return f"error: {error}", "malformed" if error.malformed else "refused"

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
