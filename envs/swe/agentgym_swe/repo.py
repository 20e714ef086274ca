"""What ``swe/mend`` and ``swe/bench`` share: an agent in a sandbox with a repository, and a patch that hidden tests judge."""

from __future__ import annotations

import difflib
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import msgspec
from agentgym_verifiers.rules import WellFormed
from agentgym_verifiers.rules.patch import PATCH, patch_of
from agentgym_verifiers.rules.unit_tests import Bench, UnitTests

from agentgym.core import Action, AgentEnv, Message, Scene, StopReason, Task, Verifier
from agentgym.messages import Tool, answer, call
from agentgym.rewards import Spec, delta, outcome, standard, step
from agentgym.sandbox import IGNORED, Resources, Snapshot, choose, restore, start
from agentgym_swe.verify import Broken, Completion, Modification, Progress, Share, VisibleTests
from agentgym_swe.workspace import TOOLS, Workspace

SYSTEM = "You are a programmer. You work in a sandbox through tools; the repository is in /work. Hand in with submit."
STEPS = 0.02 * step("form") + 0.1 * delta(step("located")) + 0.1 * delta(step("edited")) + -0.1 * delta(step("broken")) + 0.2 * delta(step("tests"))


def verifiers(bench: str) -> dict[str, Verifier]:
    """The verifiers of a repository environment, given the function (``module:name``) that makes a task's bench."""
    return {
        "form": WellFormed(), "located": Share("seen"), "edited": Share("changed"), "broken": Broken(), "tests": VisibleTests(), "progress": Progress(),
        "completion": Completion(), "modification": Modification(bench), "resolved": UnitTests(bench=bench),
    }  # fmt: skip


class RepoEnv(AgentEnv):
    """A repository in a sandbox. ``sandbox`` chooses its kind; by default the first that enforces the limits.

    A child gives the tasks, the bench of a task, and the files that the agent starts from.
    """

    tools: Mapping[str, Tool] = TOOLS
    rewards: ClassVar[Mapping[str, Spec]] = standard(outcome("resolved"), STEPS, step("progress"))
    workspace_class: ClassVar[type[Workspace]] = Workspace
    test_tool: ClassVar[str] = "run_tests"

    def __init__(self, *, sandbox: str | None = None, **base: Any) -> None:
        self._workspace: Workspace | None = None
        self.kind = choose(self.resources(), (sandbox,) if sandbox else ("bwrap", "docker"))
        super().__init__(**base)

    def resources(self) -> Resources:
        """What a sandbox of these tasks must enforce."""
        return Resources()

    @abstractmethod
    def bench(self, task: Task) -> Bench:
        """What the tests of a task need."""

    @abstractmethod
    def visible(self, task: Task) -> tuple[Mapping[str, bytes], Sequence[str]]:
        """The tree that the agent starts from, and the test files in it."""

    @abstractmethod
    def solved(self, task: Task) -> Mapping[str, bytes]:
        """The files that solve a task, as they must become; for the oracle."""

    @property
    def workspace(self) -> Workspace:
        """The open workspace."""
        assert self._workspace is not None
        return self._workspace

    def _open(self, task: Task, snapshot: Snapshot | None = None) -> Workspace:
        self._shut()
        bench = self.bench(task)
        given, tests = self.visible(task)
        sandbox = start(bench.image, bench.resources, self.kind) if snapshot is None else restore(snapshot, bench.image, bench.resources)
        self._workspace = self.workspace_class(sandbox, given, tests, bench.python, bench.path, bench.seconds)
        return self._workspace

    def _shut(self) -> None:
        if self._workspace is not None:
            self._workspace.sandbox.close()
            self._workspace = None

    def _begin(self, task: Task) -> Scene:
        self._open(task).fill()
        self.episode.provenance = self.workspace.sandbox.about()
        return self._scene([{"role": "system", "content": SYSTEM}, {"role": "user", "content": task.instruction}])

    def _advance(self, action: Action) -> Scene:
        done = answer(self.tools, self.workspace, action, len(self.episode.turns) - 1, lambda: self.workspace.submitted, hint="hand in with submit")
        return self._scene(done.messages, done.states, end=StopReason.SUBMITTED if self.workspace.submitted else None, malformed=done.malformed)

    def _scene(self, messages: list[Message], states: Sequence[str] = (), **more: Any) -> Scene:
        workspace = self.workspace
        problem = ""
        try:
            workspace.look()
        except FileNotFoundError as error:
            problem = f"unreadable: {str(error)[:200]}"
        facts = workspace.facts()
        state = f"{workspace.digest}|{problem}|{workspace.submitted}|{facts}"
        return Scene(messages, state, "|".join(m["content"] for m in messages), facts={"calls": list(states), **facts}, **more)

    def _artefacts(self) -> Mapping[str, bytes]:
        """The patch, taken once every process has ended; then the sandbox goes, before another is asked to grade."""
        workspace = self.workspace
        workspace.sandbox.freeze()
        try:
            workspace.look()
            patch = patch_of(workspace.given, workspace.entries, IGNORED)
        except FileNotFoundError:  # more than may be copied out: the agent's doing, and no patch
            patch = {}
        self._shut()
        text = "".join(_diff(p, workspace.given.get(p, b"").decode("utf-8", "replace"), c.data) for p, c in patch.items() if c.kind in ("file", "deleted"))
        return {PATCH: msgspec.json.encode(patch), "patch.diff": text.encode("utf-8", "replace")}

    def oracle(self) -> Iterator[str]:
        """Look at each file that must change, change it block by block, run the tests, hand in."""
        self._require_running()
        for path, data in self.solved(self.task).items():
            now = self.workspace.entries.get(path)
            if now is None or now.data != data:
                yield call("view", path=path, lines=20)
                for old, new in replacements(now.data.decode() if now else "", data.decode()):
                    yield call("edit_file", path=path, old=old, new=new)
        yield call(self.test_tool)
        yield call("submit")

    def _save(self) -> bytes:
        workspace = self.workspace
        return msgspec.msgpack.encode((workspace.sandbox.snapshot(), workspace.memory()))

    def _load(self, payload: bytes) -> None:
        snapshot, memory = msgspec.msgpack.decode(payload, type=tuple[Snapshot, dict[str, Any]])
        workspace = self._open(self.task, snapshot)
        vars(workspace).update(memory)
        workspace.look()

    def close(self) -> None:
        """Close the sandbox; idempotent."""
        self._shut()
        super().close()


def _diff(path: str, before: str, after: str) -> str:
    return "".join(difflib.unified_diff(before.splitlines(True), after.splitlines(True), f"a/{path}", f"b/{path}"))


def replacements(before: str, after: str) -> Iterator[tuple[str, str]]:
    """Edits, each of a text that stands only once when its turn comes, that turn one text into another."""
    if not before:
        yield "", after
        return
    old, new = before.splitlines(True), after.splitlines(True)
    shift = 0
    for kind, i1, i2, j1, j2 in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if kind == "equal":
            continue
        now = new[:j1] + old[i1:]
        text, at, length, grow = "".join(now), j1, i2 - i1, 0
        while length == 0 or text.count("".join(now[max(0, at - grow) : at + length + grow])) != 1 or not "".join(now[max(0, at - grow) : at + length + grow]):
            grow += 1
            if length == 0 and text.count("".join(now[max(0, at - grow) : at + grow])) == 1:
                break
        first, last = max(0, at - grow), at + length + grow
        yield "".join(now[first:last]), "".join(now[first:at] + new[j1:j2] + now[at + length : last])
        shift += 1
