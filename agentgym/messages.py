"""Chat messages, tools and actions in the OpenAI shape: the one parser and the one printer of actions.

The canonical action is text: prose, then zero or more ``<tool_call>{"name": …, "arguments": …}</tool_call>``.
Nothing a model writes raises: what is wrong with it is in ``Action.problem``.
"""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NotRequired, TypedDict, get_type_hints

import msgspec
from msgspec import Struct

from agentgym.errors import ToolError
from agentgym.verdict import Json

OPEN, CLOSE = "<tool_call>", "</tool_call>"


class Message(TypedDict):
    """One chat message; ``tool_calls`` and ``tool_call_id`` as in the OpenAI chat format."""

    role: str
    content: str
    name: NotRequired[str]
    tool_calls: NotRequired[list[dict[str, Any]]]
    tool_call_id: NotRequired[str]


class ToolCall(Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """A call as the model wrote it; ``arguments`` are not yet checked against the tool's schema."""

    name: str
    arguments: dict[str, Json] = {}


class Action(Struct, frozen=True, gc=False):
    """A parsed action. ``problem`` says what is malformed; ``prose`` and ``calls`` are then empty."""

    prose: str
    calls: tuple[ToolCall, ...] = ()
    problem: str | None = None


_CALL = msgspec.json.Decoder(ToolCall)
_CALL_BLOCK = re.compile(re.escape(OPEN) + r"(.*?)" + re.escape(CLOSE), re.DOTALL)


def parse_action(text: str, *, max_chars: int = 32_768, max_calls: int = 16) -> Action:
    """Text to prose and calls, in time linear in ``len(text)``. Prose ends at the first call."""
    if len(text) > max_chars:
        return Action("", (), f"the action has {len(text):,} characters; at most {max_chars:,} are read")
    start = text.find(OPEN)
    if start < 0:
        return Action("", (), f"{CLOSE} without {OPEN}") if CLOSE in text else Action(text.strip())
    if text.count(OPEN, start) > max_calls:
        return Action("", (), f"{text.count(OPEN, start)} calls in one action; at most {max_calls} are allowed, none was run")
    calls, end = [], start
    for block in _CALL_BLOCK.finditer(text, start):
        if text[end : block.start()].strip():
            return Action("", (), "text after a tool call; write prose first, then the calls")
        try:
            calls.append(_CALL.decode(block[1].strip()))
        except (msgspec.MsgspecError, RecursionError) as error:
            return Action("", (), f"tool call {len(calls) + 1} is not a JSON object with name and arguments: {error}")
        end = block.end()
    if text[end:].strip():
        return Action("", (), f"a tool call is not closed with {CLOSE}" if OPEN in text[end:] else "text after the last tool call")
    return Action(text[:start].strip(), tuple(calls))


def print_action(prose: str = "", calls: Sequence[ToolCall] = ()) -> str:
    """The canonical text of an action; ``parse_action`` reads it back."""
    blocks = [f'{OPEN}{{"name": {_json(call.name)}, "arguments": {_json(call.arguments)}}}{CLOSE}' for call in calls]
    return "\n".join([prose, *blocks] if prose else blocks)


def call(tool: str, /, **arguments: Json) -> str:
    """The action text of one call: ``call("read_mail", id=3)``."""
    return print_action("", [ToolCall(tool, arguments)])


def _json(value: object) -> str:
    return msgspec.json.format(msgspec.json.encode(value), indent=0).decode()


def call_id(turn: int, index: int) -> str:
    """The id that ties a call to its answer: deterministic, unique in an episode."""
    return f"call_{turn}_{index}"


def assistant_message(text: str, calls: Sequence[ToolCall], turn: int) -> Message:
    """The chat message of action ``text`` taken at ``turn``; malformed text (no ``calls``) is kept as it was written."""
    if not calls:
        return {"role": "assistant", "content": text}
    shaped = [{"id": call_id(turn, i), "type": "function", "function": {"name": c.name, "arguments": _json(c.arguments)}} for i, c in enumerate(calls)]
    return {"role": "assistant", "content": text.partition(OPEN)[0].strip(), "tool_calls": shaped}


def tool_message(turn: int, index: int, name: str, content: str) -> Message:
    """The answer to call ``index`` of the action taken at ``turn``."""
    return {"role": "tool", "tool_call_id": call_id(turn, index), "name": name, "content": content}


def text_of(messages: Sequence[Message]) -> str:
    """The observation text of messages: their contents, one after the other."""
    return messages[0]["content"] if len(messages) == 1 else "\n\n".join(m["content"] for m in messages)


_CONTROL = {c: f"\\x{c:02x}" for c in (*range(9), *range(11, 32), *range(127, 160))}
_INVISIBLE = {c: f"\\u{c:04x}" for c in (*range(0x200B, 0x2010), *range(0x202A, 0x202F), *range(0x2060, 0x2070), 0xFEFF)}


def printable(text: str) -> str:
    """Text that cannot move a cursor or set a title: control characters but tab and newline are shown, as ``\\x1b``."""
    return text.replace("\r\n", "\n").translate(_CONTROL)


def inert(text: str) -> str:
    """``printable`` for people's eyes: characters that are invisible or turn the direction of reading are shown too."""
    return printable(text).translate(_INVISIBLE)


class ToolSpec(Struct, frozen=True):
    """A tool as a model sees it. ``parameters`` is a JSON schema of an object."""

    name: str
    description: str
    parameters: dict[str, Any]

    def openai(self) -> dict[str, Any]:
        """The tool in the OpenAI ``tools=`` shape."""
        return {"type": "function", "function": msgspec.to_builtins(self)}


class Tool(Struct, frozen=True):
    """A typed function as a tool: ``function(context, **arguments) -> str``. Made by ``tool``."""

    spec: ToolSpec
    arguments: type[Struct]
    function: Callable[..., str]
    names: tuple[str, ...]

    def run(self, context: object, arguments: Mapping[str, Json], strict: bool = True) -> str:
        """Check ``arguments`` against the schema (not ``strict``: a number may be written as text), run, and return the text of the answer.

        Raises:
            ToolError: the arguments do not fit (``malformed``), or the function refused them.
        """
        try:
            checked = msgspec.convert(arguments, self.arguments, strict=strict)
        except msgspec.ValidationError as error:
            raise ToolError(f"{self.spec.name}: {error}", malformed=True) from None
        return self.function(context, **{n: getattr(checked, n) for n in self.names})


def tool(function: Callable[..., str]) -> Tool:
    """Derive a tool from a function: schema from its annotations, description from its docstring's first paragraph.

    The first parameter is the context the environment passes; every other one is an argument of the tool.
    """
    hints = get_type_hints(function, include_extras=True)
    parameters = list(inspect.signature(function).parameters.values())[1:]
    fields: list[Any] = [(p.name, hints[p.name]) if p.default is p.empty else (p.name, hints[p.name], p.default) for p in parameters]
    struct = msgspec.defstruct(function.__name__, fields, forbid_unknown_fields=True, kw_only=True, frozen=True)
    (reference,), components = msgspec.json.schema_components([struct])
    schema = dict(components[reference["$ref"].rpartition("/")[2]])
    schema.pop("title", None)
    description = " ".join(inspect.cleandoc(function.__doc__ or "").split("\n\n")[0].split())
    spec = ToolSpec(function.__name__, description, schema)
    return Tool(spec, struct, function, tuple(p.name for p in parameters))


class Answers(Struct, frozen=True):
    """The answers to the calls of one action, and how each went: ``ok``, ``refused``, ``malformed`` or ``after the end``."""

    messages: list[Message]
    states: list[str] = []

    @property
    def malformed(self) -> bool:
        """Whether there was no call, or one that does not fit."""
        return not self.states or "malformed" in self.states


def answer(
    tools: Mapping[str, Tool], context: object, action: Action, turn: int, over: Callable[[], bool], *, hint: str = "call a tool", short: bool = False
) -> Answers:
    """Run the calls of a well-formed action in order, until the world is ``over``. ``hint`` is for whoever calls nothing.

    With ``short``, prose without a call is one: ``click 12`` is the tool's name, then its arguments in their order, the last one taking
    the rest of the line.
    """
    written = bool(action.calls) or not short
    calls = action.calls or ([short_call(tools, action.prose)] if short and action.prose else [])
    if not calls:
        return Answers([{"role": "user", "content": f"error: there is no tool call; {hint}"}])
    messages, states = list[Message](), list[str]()
    for i, each in enumerate(calls):
        text, state = "error: the episode has ended", "after the end"
        if not over():
            try:
                text, state = find_tool(tools, each.name).run(context, each.arguments, strict=written), "ok"
            except ToolError as error:
                text, state = f"error: {error}", "malformed" if error.malformed else "refused"
        messages.append(tool_message(turn, i, each.name[:80], text) if written else {"role": "user", "content": text})
        states.append(state)
    return Answers(messages, states)


def short_call(tools: Mapping[str, Tool], line: str) -> ToolCall:
    """The call of a short action, its arguments still text."""
    name, _, rest = line.strip().partition(" ")
    names = (tools[name].names if name in tools else ()) or ((rest,) if rest else ())
    return ToolCall(name, dict(zip(names, rest.split(None, len(names) - 1), strict=False)) if rest else {})


def find_tool(tools: Mapping[str, Tool], name: str) -> Tool:
    """The tool called ``name``.

    Raises:
        ToolError: there is none; the text names the nearest ones.
    """
    found = tools.get(name)
    if found is None:
        close = difflib.get_close_matches(name[:80], tools, n=3, cutoff=0.5) or list(tools)[:5]
        raise ToolError(f"there is no tool {name[:80]!r}; did you mean {', '.join(close)}?", malformed=True)
    return found
