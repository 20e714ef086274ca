"""``bring/bfcl-v0``: the multi-turn rows of the Berkeley Function-Calling Leaderboard, over its own executable back-ends.

Rows, answers and back-ends come from the installed package ``bfcl-eval``; nothing of it is copied here. A user's turn is over when the agent says something
without a call; then the next is asked. After each the state of the back-ends must be what the reference calls lead to, and what those calls return
must have been returned: the same two checks as there, executed here on worlds of the verifier's own.
"""

from __future__ import annotations

import ast
import copy
import importlib
import inspect
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal

import msgspec
from agentgym_verifiers.rules import Noted
from msgspec import Struct

from agentgym.core import Action, AgentEnv, Capabilities, EpisodeView, Limits, Message, Scene, StopReason, Task, TaskSet, Verdict, Verifier
from agentgym.episode import digest
from agentgym.errors import RecordError, UnknownName
from agentgym.messages import Tool, ToolCall, ToolSpec, print_action, tool_message
from agentgym.rewards import Spec, delta, outcome, standard, step

KINDS = ("base", "miss_param", "long_context")
"""What is taken. ``miss_func`` changes its tools within an episode, which an environment here may not."""
SPLITS = ("train",) * 6 + ("dev",) + ("test",) * 3
SAID = 4000
"""Characters of a result that an agent is shown."""
HUGE = 10_000
"""The largest exponent, and the most digits, that are worked out."""
_TYPES = {"dict": "object", "float": "number", "tuple": "array", "any": "string"}


class World:
    """The back-ends of a row, as they are at its beginning."""

    def __init__(self, classes: Sequence[str], config: Mapping[str, Any], long: bool) -> None:
        from bfcl_eval.constants.executable_backend_config import CLASS_FILE_PATH_MAPPING, STATELESS_CLASSES

        self.instances: dict[str, Any] = {}
        self.methods: dict[str, Any] = {}
        for name in classes:
            made = getattr(importlib.import_module(CLASS_FILE_PATH_MAPPING[name]), name)()
            if name not in STATELESS_CLASSES:
                made._load_scenario(copy.deepcopy(config.get(name, {})), long_context=long)
            self.instances[name] = made
            self.methods |= {n: m for n, m in inspect.getmembers(made, inspect.ismethod) if not n.startswith("_")}

    def run(self, call: ToolCall) -> str:
        """What a call returns, as text; what it raises is an answer, too. Numbers that a calculator would work on for ever are refused."""
        if any(abs(call.arguments.get(name) or 0) > HUGE for name in ("exponent", "precision") if isinstance(call.arguments.get(name), (int, float))):
            return f"error: more than {HUGE}"
        try:
            found = self.methods[call.name](**call.arguments)
        except Exception as error:  # whatever a back-end makes of wrong arguments
            return f"error: {error}"[:SAID]
        return found if isinstance(found, str) else msgspec.json.encode(_plain(found)).decode()

    def state(self) -> dict[str, Any]:
        """All public attributes of all back-ends, as JSON."""
        return {name: {k: _plain(v) for k, v in vars(made).items() if not k.startswith("_")} for name, made in self.instances.items()}

    def call_of(self, text: str) -> ToolCall:
        """A reference call (``cd(folder='temp')``) as a call by names. Raises ``RecordError`` if it is none."""
        node = ast.parse(text.strip(), mode="eval").body
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name) or node.func.id not in self.methods:
            raise RecordError(f"{text!r:.80} is no call of these back-ends")
        given = inspect.signature(self.methods[node.func.id]).bind(
            *map(ast.literal_eval, node.args), **{str(k.arg): ast.literal_eval(k.value) for k in node.keywords}
        )
        return ToolCall(node.func.id, dict(given.arguments))


class Turns(Struct):
    """What was done in each of the user's turns so far: the state after it, and what the calls returned."""

    states: list[dict[str, Any]] = []
    returned: list[list[str]] = []


def reference(data: Mapping[str, Any]) -> Turns:
    """What the reference calls of a row lead to."""
    world, out = _world(data), Turns([], [])
    for calls in data["answers"]:
        out.returned.append([world.run(world.call_of(c)) for c in calls])
        out.states.append(world.state())
    return out


def right(done: Turns, wanted: Turns) -> list[bool]:
    """Of each turn, whether it was as the reference: a turn in which the reference calls nothing is right whatever is said."""
    out, seen = list[bool](), list[str]()
    for i, (state, returned) in enumerate(zip(wanted.states, wanted.returned, strict=True)):
        if i >= len(done.states):
            out.append(False)
            continue
        seen += done.returned[i]
        found = not Counter(returned) - Counter(seen)
        out.append(not returned or (bool(done.returned[i]) and found and done.states[i] == state))
    return out


class Followed(Struct, frozen=True):
    """1 if every turn of the user's was answered as the reference would have been, else 0."""

    level: ClassVar[Literal["outcome"]] = "outcome"

    def __call__(self, view: EpisodeView) -> Verdict:
        done = msgspec.json.decode(view.artefacts["turns.json"], type=Turns)
        each = right(done, reference(view.task.data))
        return Verdict.scored(float(all(each)), turns=len(each), right=sum(each), first_wrong=each.index(False) + 1 if False in each else 0)


class BfclEnv(AgentEnv):
    """``kinds``: one or several of ``base``, ``miss_param``, ``long_context``."""

    id = "bring/bfcl-v0"
    capabilities = Capabilities(snapshot=True)
    verifiers: ClassVar[Mapping[str, Verifier]] = {"followed": Noted(fact="followed", kept=True), "task": Followed()}
    rewards: ClassVar[Mapping[str, Spec]] = standard(outcome("task"), delta(step("followed")), step("followed"))

    def __init__(self, *, kinds: str | Sequence[str] = KINDS, **base: Any) -> None:
        self._kinds = tuple(kinds.split(",")) if isinstance(kinds, str) else tuple(kinds)
        for kind in self._kinds:
            if kind not in KINDS:
                raise UnknownName("kind", kind, KINDS)
        super().__init__(**base)

    def tasks(self, split: str) -> TaskSet:
        """The rows of a split, by their content."""
        return TaskSet([n for n, r in rows().items() if r["kind"] in self._kinds and r["split"] == split], lambda name: _task(name, split))

    def _begin(self, task: Task) -> Scene:
        self._calls: list[ToolCall | None] = []
        self._wanted = reference(task.data)
        self._world, self._done, self._now = _world(task.data), Turns([], []), list[str]()
        self.tools = _tools(tuple(task.data["classes"]), tuple(task.data["excluded"]))
        return self._scene(self._asked())

    def _asked(self) -> list[Message]:
        """What the user says at the turn that begins."""
        return [{"role": m["role"], "content": m["content"]} for m in self.task.data["asked"][len(self._done.states)]]

    def _advance(self, action: Action) -> Scene:
        if not action.calls:
            return self._next()
        messages, wrong = list[Message](), False
        for i, call in enumerate(action.calls):
            known = call.name in self.tools
            wrong |= not known
            messages.append(
                tool_message(len(self.episode.turns) - 1, i, call.name, self._run(call)[:SAID] if known else f"error: there is no tool {call.name!r}")
            )
        return self._scene(messages, malformed=wrong)

    def _run(self, call: ToolCall) -> str:
        found = self._world.run(call)
        self._calls.append(call)
        self._now.append(found)
        return found

    def _next(self) -> Scene:
        """The user's turn is over."""
        self._calls.append(None)
        self._done.states.append(self._world.state())
        self._done.returned.append(self._now)
        self._now = []
        over = len(self._done.states) == len(self.task.data["asked"])
        return self._scene([] if over else self._asked(), end=StopReason.DONE if over else None)

    def _scene(self, messages: list[Message], **more: Any) -> Scene:
        seen = msgspec.json.encode((self._world.state(), len(self._done.states)), order="sorted").decode()
        state = digest(msgspec.json.encode((self._calls, seen)))
        share = sum(right(self._done, self._wanted)) / len(self._wanted.states)
        return Scene(messages, state, digest(seen.encode()), facts={"followed": share}, **more)

    def _artefacts(self) -> Mapping[str, bytes]:
        return {"turns.json": msgspec.json.encode(self._done)}

    def _save(self) -> bytes:
        return msgspec.msgpack.encode(self._calls)

    def _load(self, payload: bytes) -> None:
        calls = msgspec.msgpack.decode(payload, type=list[ToolCall | None])
        self._begin(self.task)
        for call in calls:
            self._run(call) if call is not None else self._next()

    def oracle(self) -> Iterator[str]:
        """The reference calls, turn by turn."""
        self._require_running()
        world, script = _world(self.task.data), list[str]()
        for calls in self.task.data["answers"][len(self._done.states) :]:
            script += [print_action("", [world.call_of(c)]) for c in calls]
            script.append("That is done.")
        return iter(script)


def _world(data: Mapping[str, Any]) -> World:
    return World(data["classes"], data["config"], data["long"])


def _plain(value: Any) -> Any:
    """A value as JSON: objects by their public attributes, without the way up to their parents."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [_plain(v) for v in (sorted(value, key=str) if isinstance(value, set) else value)]
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    if hasattr(value, "__dict__"):
        return {type(value).__name__: {k: _plain(v) for k, v in vars(value).items() if k != "parent" and not k.startswith("_")}}
    return str(value)


@lru_cache(maxsize=64)
def _tools(classes: tuple[str, ...], excluded: tuple[str, ...]) -> dict[str, Tool]:
    """The tools of these back-ends, as the package describes them."""
    from bfcl_eval.constants.executable_backend_config import MULTI_TURN_FUNC_DOC_FILE_MAPPING

    out = {}
    for name in classes:
        for line in (_data() / "multi_turn_func_doc" / MULTI_TURN_FUNC_DOC_FILE_MAPPING[name]).read_bytes().splitlines():
            told = msgspec.json.decode(line)
            if told["name"] not in excluded:
                spec = ToolSpec(told["name"], told["description"].rpartition("Tool description: ")[2], _schema(told["parameters"]))
                out[spec.name] = Tool(spec, Struct, lambda *_: "", ())
    return out


def _schema(told: Any) -> Any:
    """A schema of the package's in the words of JSON Schema."""
    if isinstance(told, dict):
        return {k: _TYPES.get(v, v) if k == "type" and isinstance(v, str) else _schema(v) for k, v in told.items()}
    return [_schema(v) for v in told] if isinstance(told, list) else told


def _data() -> Path:
    import bfcl_eval

    return Path(bfcl_eval.__file__).parent / "data"


@lru_cache(maxsize=1)
def rows() -> dict[str, dict[str, Any]]:
    """All rows by name, with their answers; a row is in a split by its content."""
    out: dict[str, dict[str, Any]] = {}
    for kind in KINDS:
        (name,) = sorted(p.name for p in _data().glob(f"BFCL_v*_multi_turn_{kind}.json"))
        answers = {r["id"]: r["ground_truth"] for r in map(msgspec.json.decode, (_data() / "possible_answer" / name).read_bytes().splitlines())}
        for row in map(msgspec.json.decode, (_data() / name).read_bytes().splitlines()):
            content = digest(msgspec.json.encode((row["question"], row["initial_config"]), order="sorted"))
            about = {"kind": kind, "split": SPLITS[int(content[:8], 16) % 10], "row": row, "answers": answers[row["id"]]}
            out[f"{about['split']}/{row['id']}"] = about
    return out


def _task(name: str, split: str) -> Task:
    about = rows()[name]
    row = about["row"]
    data = {
        "asked": row["question"], "classes": row["involved_classes"], "config": row["initial_config"], "excluded": row.get("excluded_function", []),
        "answers": about["answers"], "long": about["kind"] == "long_context",
    }  # fmt: skip
    turns, calls = len(row["question"]), sum(map(len, about["answers"]))
    return Task(name, row["question"][0][0]["content"], split, data, Limits(max_turns=20 * turns + calls, max_malformed=10), kind=about["kind"])
