"""Chat endpoints in the dialects of OpenAI (``/v1/chat/completions``) and Anthropic (``/v1/messages``), over a recorded policy.

A session's key is the API key. Sampling is the server's: what a request says of temperature is not followed, because what is recorded must be what was
sampled from.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec
from starlette.responses import Response, StreamingResponse

from agentgym.core import Completion, Message
from agentgym.errors import ContextOverflow, ProtocolError, Unauthorised
from agentgym.messages import ToolSpec, parse_action
from agentgym.serving.recorder import Recorder
from agentgym.serving.sessions import Session

Json = dict[str, Any]


class Chat:
    """The endpoints; ``recorder`` asks and keeps."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder

    async def openai(self, asked: Json, session: Session) -> Response:
        """``POST /v1/chat/completions``."""
        if asked.get("n", 1) != 1:
            raise ProtocolError("one choice is sampled for each request; n is 1")
        with _shaped():
            tools = [ToolSpec(f["name"], f.get("description", ""), f.get("parameters", {})) for t in asked.get("tools") or [] for f in [t["function"]]]
            limit, messages = asked.get("max_completion_tokens") or asked.get("max_tokens"), [_plain(m) for m in asked["messages"]]
        completion = await self._asked(session, messages, tools, limit)
        action = parse_action(completion.action, max_chars=1 << 20, max_calls=64)
        message: Json = {"role": "assistant", "content": completion.action if action.problem else action.prose or None}
        if action.calls:
            message["tool_calls"] = [
                {"id": f"call_{_name()}", "type": "function", "function": {"name": c.name, "arguments": msgspec.json.encode(c.arguments).decode()}}
                for c in action.calls
            ]
        finish = "tool_calls" if action.calls else {"length": "length", "refused": "content_filter"}.get(completion.finish, "stop")
        head = {"id": f"chatcmpl-{_name()}", "created": int(time.time()), "model": self.recorder.policy.name}
        usage = _usage(completion)
        total = {"prompt_tokens": usage[0], "completion_tokens": usage[1], "total_tokens": sum(usage)}
        if asked.get("stream"):
            calls = [{**c, "index": i} for i, c in enumerate(message.get("tool_calls", []))]
            delta = {**message, **({"tool_calls": calls} if calls else {})}
            parts: list[Json] = [
                {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]},
                {"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]},
            ]
            if (asked.get("stream_options") or {}).get("include_usage"):
                parts.append({"choices": [], "usage": total})
            return _events([("", {**head, "object": "chat.completion.chunk", **p}) for p in parts], done=True)
        choice: Json = {"index": 0, "message": message, "finish_reason": finish, "logprobs": _logprobs(completion) if asked.get("logprobs") else None}
        return _json({**head, "object": "chat.completion", "choices": [choice], "usage": total})

    async def anthropic(self, asked: Json, session: Session) -> Response:
        """``POST /v1/messages``."""
        with _shaped():
            tools = [ToolSpec(t["name"], t.get("description", ""), t.get("input_schema", {})) for t in asked.get("tools") or []]
            system: list[Message] = [{"role": "system", "content": _text(asked["system"])}] if asked.get("system") else []
            messages = [*system, *(m for each in asked["messages"] for m in _from_blocks(each))]
        completion = await self._asked(session, messages, tools, asked.get("max_tokens"))
        action = parse_action(completion.action, max_chars=1 << 20, max_calls=64)
        prose = completion.action if action.problem else action.prose
        blocks: list[Json] = [{"type": "text", "text": prose}] if prose else []
        blocks += [{"type": "tool_use", "id": f"toolu_{_name()}", "name": c.name, "input": c.arguments} for c in action.calls]
        reason = "tool_use" if action.calls else {"length": "max_tokens", "refused": "refusal"}.get(completion.finish, "end_turn")
        usage = dict(zip(("input_tokens", "output_tokens"), _usage(completion), strict=True))
        head = {"id": f"msg_{_name()}", "type": "message", "role": "assistant", "model": self.recorder.policy.name}
        if not asked.get("stream"):
            return _json({**head, "content": blocks, "stop_reason": reason, "stop_sequence": None, "usage": usage})
        events: list[tuple[str, Json]] = [("message_start", {"message": {**head, "content": [], "stop_reason": None, "stop_sequence": None, "usage": usage}})]
        for i, block in enumerate(blocks):
            empty: Json = {**block, **({"text": ""} if block["type"] == "text" else {"input": {}})}
            delta = (
                {"type": "text_delta", "text": block["text"]}
                if block["type"] == "text"
                else {"type": "input_json_delta", "partial_json": msgspec.json.encode(block["input"]).decode()}
            )
            events += [("content_block_start", {"index": i, "content_block": empty}), ("content_block_delta", {"index": i, "delta": delta})]
            events.append(("content_block_stop", {"index": i}))
        events += [("message_delta", {"delta": {"stop_reason": reason, "stop_sequence": None}, "usage": usage}), ("message_stop", {})]
        return _events([(kind, {"type": kind, **data}) for kind, data in events])

    async def _asked(self, session: Session, messages: list[Message], tools: list[ToolSpec], limit: int | None) -> Completion:
        try:
            return await self.recorder.ask(session, messages, tools, limit)
        except ContextOverflow as error:
            raise ProtocolError(f"context length exceeded: {error}") from None


def decoded(data: bytes) -> Json:
    """The body of a chat request. Raises ``ProtocolError``."""
    try:
        asked: Json = msgspec.json.decode(data, type=Json)
        if not isinstance(asked.get("messages"), list) or not asked["messages"]:
            raise ProtocolError("a chat has messages")
        return asked
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise ProtocolError(f"not a chat request: {error}") from None


@contextmanager
def _shaped() -> Iterator[None]:
    """Whatever is not where its dialect has it makes the request a wrong one."""
    try:
        yield
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise ProtocolError(f"not a chat request: {type(error).__name__} at {error}") from None


def whose(session: Session | None) -> Session:
    """The session of a call. Raises ``Unauthorised`` where the key is the server's token: a call belongs to an episode."""
    if session is None:
        raise Unauthorised("a model is asked with the key of a session, so that what it says belongs to an episode")
    return session


def _plain(message: Mapping[str, Any]) -> Message:
    """A message of OpenAI's dialect, with its content as text."""
    kept: Any = {k: v for k, v in message.items() if k in ("role", "name", "tool_calls", "tool_call_id") and v is not None}
    kept["role"], kept["content"] = {"developer": "system"}.get(kept["role"], kept["role"]), _text(message.get("content") or "")
    plain: Message = kept
    return plain


def _text(content: str | Sequence[Any]) -> str:
    """Content as text. Raises ``ProtocolError`` for what is not text."""
    if isinstance(content, str):
        return content
    for part in content:
        if not isinstance(part, dict) or "text" not in part:
            raise ProtocolError(f"content of type {part.get('type') if isinstance(part, dict) else part!r} is not read here; only text is")
    return "\n".join(str(part["text"]) for part in content if isinstance(part, dict))


def _from_blocks(message: Mapping[str, Any]) -> list[Message]:
    """A message of Anthropic's dialect as ours: answers of tools are messages of their own."""
    content = message["content"]
    blocks: list[Json] = [{"type": "text", "text": content}] if isinstance(content, str) else content
    texts = [b for b in blocks if b.get("type") not in ("tool_use", "tool_result", "thinking", "redacted_thinking")]
    answers: list[Message] = [
        {"role": "tool", "tool_call_id": b["tool_use_id"], "content": _text(b.get("content") or "")} for b in blocks if b.get("type") == "tool_result"
    ]
    calls = [
        {"id": b["id"], "type": "function", "function": {"name": b["name"], "arguments": msgspec.json.encode(b["input"]).decode()}}
        for b in blocks
        if b.get("type") == "tool_use"
    ]
    said: Message = {"role": message["role"], "content": _text(texts)}
    if calls:
        said["tool_calls"] = calls
    return [*answers, *([said] if texts or calls else [])]


def _usage(completion: Completion) -> tuple[int, int]:
    """Tokens read and written. What was read is known only where ids are: of an engine, those that were new."""
    read = completion.usage.get("prompt_tokens", len(completion.tokens.mask) - sum(completion.tokens.mask) if completion.tokens else 0)
    return read, completion.usage.get("completion_tokens", sum(completion.tokens.mask) if completion.tokens else 0)


def _logprobs(completion: Completion) -> Json | None:
    if completion.tokens is None:
        return None
    t = completion.tokens
    return {"content": [{"token": f"token_id:{i}", "logprob": p, "bytes": None, "top_logprobs": []} for i, m, p in zip(t.ids, t.mask, t.logprobs, strict=True)
                        if m]}  # fmt: skip


def _name() -> str:
    return secrets.token_hex(12)


def _json(content: Any) -> Response:
    return Response(msgspec.json.encode(content), media_type="application/json")


def _events(events: Sequence[tuple[str, Json]], done: bool = False) -> Response:
    """Server-sent events. The text comes whole: it was sampled before its first word was sent."""

    async def told() -> AsyncIterator[bytes]:
        for kind, data in events:
            yield (f"event: {kind}\n" if kind else "").encode() + b"data: " + msgspec.json.encode(data) + b"\n\n"
        if done:
            yield b"data: [DONE]\n\n"

    return StreamingResponse(told(), media_type="text/event-stream")
