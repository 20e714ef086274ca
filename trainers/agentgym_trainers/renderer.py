"""Between messages and token ids, through a model's own chat template. Only ever appends.

``open`` renders the start of a conversation. ``bridge`` is the glue between a sampled turn and the next: the suffix that the
template adds to a dummy conversation, which is first proved to be a strict extension. Sampled ids are never rendered again.
"""

from __future__ import annotations

import json
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jinja2
import msgspec
from agentgym_verifiers.models.text import defuser
from transformers import PreTrainedTokenizerBase

from agentgym.core import Message, ToolSpec
from agentgym.errors import TemplateRefused
from agentgym.messages import CLOSE, OPEN, ToolCall, call_id, print_action

KEPT = 256
"""How many renderings are remembered."""
WINDOW = "agentgym_window"
"""The setting of a tokenizer, kept with its model, that says how many of the last turns the model sees; without it: all."""

_USER: Message = {"role": "user", "content": "question"}
_REASONED = "<think>\nquiet reasoning\n</think>\n\nspoken words"
_NAME = "look_up"


def _called(n: int = 1) -> Message:
    calls = [{"id": call_id(0, i), "type": "function", "function": {"name": _NAME, "arguments": {"key": "x"}}} for i in range(n)]
    return {"role": "assistant", "content": "", "tool_calls": calls}


class ChatRenderer:
    """A renderer over a Hugging Face tokenizer.

    ``on_rewrite`` says what to do with a template that rewrites history (drops earlier reasoning, changes earlier messages):
    ``refuse`` it by name, or open a new ``segment`` each turn. A model that sees a ``window`` of turns has one for each turn, too.

    Raises:
        TemplateRefused: there is no template, it has no end-of-turn token, or it rewrites history.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, on_rewrite: Literal["refuse", "segment"] = "refuse") -> None:
        self.tokenizer = tokenizer
        self.name = str(getattr(tokenizer, "name_or_path", "") or "tokenizer")
        if not tokenizer.chat_template:
            raise TemplateRefused(f"{self.name} has no chat template")
        self._defused = defuser(tokenizer)
        self.end_id = self._end_of_turn()
        self.stop_ids = frozenset(i for i in (self.end_id, tokenizer.eos_token_id) if isinstance(i, int))
        self.rewrites = self._why_rewritten()
        self.window = int(getattr(tokenizer, "init_kwargs", {}).get(WINDOW, 0))
        self.segment_each_turn = self.window > 0 or (bool(self.rewrites) and on_rewrite == "segment")
        if self.rewrites and not self.segment_each_turn:
            raise TemplateRefused(f"the chat template of {self.name} rewrites history: {self.rewrites}; use on_rewrite=segment to train each turn on its own")
        self._dummies: dict[int, tuple[list[Message], str]] = {}
        self._kept: OrderedDict[bytes, list[int]] = OrderedDict()

    # The three methods of a Renderer

    def open(self, tools: Sequence[ToolSpec], messages: Sequence[Message]) -> list[int]:
        """The ids of a conversation so far, or of its window, up to where the policy writes."""
        seen = windowed(messages, self.window) if self.window else messages
        return self._once(("open", tools, seen), lambda: self._encode(self._render(seen, tools=tools, ask=True)))

    def bridge(self, messages: Sequence[Message], closed: bool = True) -> list[int]:
        """The ids between a sampled turn and the next, for ``messages`` that are new. ``closed``: the turn ended itself.

        If it did not (it was cut), the end token comes first; it is not the policy's, so its mask is 0.
        """
        ids = self._once(("bridge", messages), lambda: self._encode(self._glue(messages)))
        return ids[1:] if closed else ids

    def parse(self, ids: Sequence[int]) -> Message:
        """The message in sampled ids. Its content is canonical action text, whatever syntax the model has."""
        kept = [i for i in ids if i not in self.stop_ids]
        return {"role": "assistant", "content": canonical(self.tokenizer.decode(kept, skip_special_tokens=False))}

    # How it works

    def _once(self, key: Any, make: Callable[[], list[int]]) -> list[int]:
        """What ``make`` gives, made once for all of a group that see the same. The last ``KEPT`` are remembered."""
        known = msgspec.msgpack.encode(key)
        if known not in self._kept:
            self._kept[known] = make()
            if len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return list(self._kept[known])

    def _render(self, messages: Sequence[Message], tools: Sequence[ToolSpec] = (), ask: bool = False) -> str:
        shaped = [_with_objects({**m, "content": self._defused(m["content"] or "")}) for m in messages]
        given = [t.openai() for t in tools] or None
        text: str = self.tokenizer.apply_chat_template(shaped, tools=given, add_generation_prompt=ask, tokenize=False)
        return text

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
        return ids

    def _end_of_turn(self) -> int:
        """The special token that closes an assistant's turn."""
        try:
            text = self._render([_USER, {"role": "assistant", "content": "spoken words"}])
        except (jinja2.TemplateError, TypeError, ValueError) as error:
            raise TemplateRefused(f"the chat template of {self.name} cannot render a turn: {error}") from None
        special = set(self.tokenizer.all_special_ids) | set(self.tokenizer.added_tokens_decoder)
        tail = [i for i in self._encode(text.rpartition("spoken words")[2]) if i in special]
        if not tail:
            raise TemplateRefused(f"the chat template of {self.name} does not end a turn with a token of its own")
        return tail[0]

    def _why_rewritten(self) -> str:
        """Empty if rendering more messages only ever appends and what was said stays as it was said."""
        reply: Message = {"role": "user", "content": "next question"}
        plain: Message = {"role": "assistant", "content": "spoken words"}
        reasoned: Message = {"role": "assistant", "content": _REASONED}
        for before, after in (([_USER, plain], [reply]), ([_USER, plain, reply, plain], [reply])):
            if self._extension(before, after) is None:
                return "earlier messages change when a turn is added"
        if "quiet reasoning" not in self._render([_USER, reasoned, reply], ask=True):
            return "the reasoning of earlier turns is dropped"
        called = [_USER, _called()]
        try:
            if self._extension(called, [_answer()]) is None:
                return "tool messages change what came before them"
            if self._extension([*called, _answer(), _called()], [_answer()]) is None:
                return "tool messages change what came before them"
        except (jinja2.TemplateError, TypeError, ValueError):
            return ""  # a template without tools: such answers are given as user messages
        return ""

    def _extension(self, before: Sequence[Message], after: Sequence[Message], base: str = "") -> str | None:
        """What the template adds for ``after``, with the glue that closes the turn before it; None if it rewrites. ``base`` is ``before``, rendered."""
        base, full = base or self._render(before), self._render([*before, *after], ask=True)
        end: str = self.tokenizer.convert_ids_to_tokens(self.end_id)
        cut = base.rfind(end)
        if cut < 0 or full[: cut + len(end)] != base[: cut + len(end)]:
            return None
        return full[cut:]

    def _glue(self, messages: Sequence[Message]) -> str:
        tools = sum(m["role"] == "tool" for m in messages)
        try:
            if tools not in self._dummies:
                before: list[Message] = [_USER, _called(tools) if tools else {"role": "assistant", "content": "spoken words"}]
                self._dummies[tools] = before, self._render(before)
            before, base = self._dummies[tools]
            glue = self._extension(before, [_renamed(m, i) for i, m in enumerate(messages)], base)
        except (jinja2.TemplateError, TypeError, ValueError):
            glue = self._extension([_USER, {"role": "assistant", "content": "spoken words"}], [{"role": "user", "content": m["content"]} for m in messages])
        if glue is None:
            raise TemplateRefused(f"the chat template of {self.name} rewrites history")
        return glue


def windowed(messages: Sequence[Message], turns: int) -> list[Message]:
    """What is left of a conversation: the system's messages (without any, all that came before the first answer), and the last ``turns`` turns."""
    said = [i for i, m in enumerate(messages) if m["role"] == "assistant"]
    if len(said) < turns:
        return list(messages)
    system = [m for m in messages[: said[0]] if m["role"] == "system"]
    return [*(system or messages[: said[0]]), *messages[said[-turns] + 1 :]]


def _answer() -> Message:
    return {"role": "tool", "tool_call_id": call_id(0, 0), "name": _NAME, "content": "found"}


def _renamed(message: Message, index: int) -> Message:
    """A tool message that answers call ``index`` of the dummy turn; others as they are."""
    return {**message, "tool_call_id": call_id(0, index)} if message["role"] == "tool" else message


def _with_objects(message: Mapping[str, Any]) -> dict[str, Any]:
    """Templates want the arguments of calls as objects, where the OpenAI shape has them as text."""
    calls = message.get("tool_calls")
    if not calls:
        return dict(message)
    parsed = [{**c, "function": {**c["function"], "arguments": _object(c["function"]["arguments"])}} for c in calls]
    return {**message, "tool_calls": parsed}


def _object(arguments: str | dict[str, Any]) -> Any:
    return json.loads(arguments) if isinstance(arguments, str) else arguments


class _Bare(msgspec.Struct):
    """A call in the syntaxes of other families: Llama says ``parameters``."""

    name: str
    arguments: dict[str, Any] | None = None
    parameters: dict[str, Any] | None = None


_MISTRAL = re.compile(r"\[TOOL_CALLS\]\s*(\[.*\])\s*$", re.DOTALL)


def canonical(text: str) -> str:
    """A model's own call syntax as canonical action text: tagged JSON stays, Mistral's list and Llama's bare JSON are turned."""
    if OPEN in text or CLOSE in text:
        return text
    prose, found = text, _MISTRAL.search(text)
    body = found[1] if found else text.strip().removeprefix("<|python_tag|>").strip()
    if found:
        prose = text[: found.start()]
    elif not (body.startswith("{") and body.endswith("}")):
        return text
    try:
        calls = msgspec.json.decode(body, type=list[_Bare] | _Bare)
    except msgspec.MsgspecError:
        return text
    made = [ToolCall(c.name, c.arguments or c.parameters or {}) for c in (calls if isinstance(calls, list) else [calls])]
    return print_action(prose.strip() if found else "", made)
