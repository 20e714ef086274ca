"""A policy over any OpenAI-compatible chat endpoint: ``openai:MODEL@URL``."""

from __future__ import annotations

import asyncio
import os
import time
import weakref
from collections.abc import AsyncGenerator
from typing import Any, Literal, NamedTuple

import aiohttp
import anyio
import msgspec
from msgspec import Struct

from agentgym.core import Completion, Conversation
from agentgym.errors import ContextOverflow, PolicyFault, UsageError
from agentgym.messages import ToolCall, print_action
from agentgym.picture import data_url

TRANSIENT = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})


class _Function(Struct):
    name: str
    arguments: str | dict[str, Any] = "{}"


class _Call(Struct):
    function: _Function


class _Reply(Struct):
    content: str | None = None
    tool_calls: list[_Call] | None = None
    refusal: str | None = None


class _Choice(Struct):
    message: _Reply
    finish_reason: str | None = None


class _Response(Struct):
    choices: list[_Choice]
    usage: dict[str, Any] | None = None


class OpenAI:
    """Chat completions over HTTP. The key is read from ``OPENAI_API_KEY`` when a request is sent, and never recorded.

    Transient failures are retried with back-off within ``budget_s`` in all (a Retry-After is obeyed if it fits); after
    that a ``PolicyFault``. A completion says how long was waited, which is not the agent's working time.
    """

    def __init__(self, argument: str, *, temperature: float = 0.0, max_tokens: int | None = None, budget_s: float = 120.0, timeout_s: float = 60.0) -> None:
        model, at, url = argument.rpartition("@")
        if not at or not model or not url.startswith(("http://", "https://")):
            raise UsageError(f"openai:MODEL@URL needs a model and an http(s) URL, not {argument!r}")
        self.name = f"openai:{model}"
        self.model, self.temperature, self.max_tokens = model, temperature, max_tokens
        self.budget_s, self.timeout_s = budget_s, timeout_s
        self.url = url.rstrip("/") + "/chat/completions"
        self._held: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Held] = weakref.WeakKeyDictionary()

    async def _session(self) -> aiohttp.ClientSession:
        """The connections of the running loop: as many as are asked for at once, kept alive between requests, closed when the loop ends."""
        loop = asyncio.get_running_loop()
        if loop not in self._held:
            opened = _opened()
            self._held[loop] = _Held(opened, await anext(opened))
        return self._held[loop].session

    async def act(self, conversation: Conversation) -> Completion:
        """Ask for one completion.

        Raises:
            ContextOverflow: the endpoint says that the prompt is too long.
            PolicyFault: no valid answer within the budget.
        """
        body: dict[str, Any] = {"model": self.model, "messages": _seen(conversation), "temperature": self.temperature, "seed": conversation.seed}
        if conversation.tools:
            body["tools"] = [t.openai() for t in conversation.tools]
        if conversation.schema is not None:
            body["response_format"] = {"type": "json_schema", "json_schema": {"name": "answer", "schema": conversation.schema}}
        if limit := conversation.max_tokens or self.max_tokens:
            body["max_tokens"] = limit
        response, waited = await self._ask(body)
        return _completion(response, waited)

    async def _ask(self, body: dict[str, Any]) -> tuple[_Response, float]:
        ends, pause, why, waited, session = time.monotonic() + self.budget_s, 0.25, "", 0.0, await self._session()
        while True:
            wait = pause
            try:
                with anyio.fail_after(max(0.01, min(self.timeout_s, ends - time.monotonic()))):
                    async with session.post(self.url, data=msgspec.json.encode(body), headers=_headers(), allow_redirects=False) as response:
                        content = await response.read()
                found = _answer_in(response.status, content)
                if isinstance(found, _Response):
                    return found, waited
                why, wait = found, _retry_after(response.headers.get("retry-after"), pause)
            except (aiohttp.ClientError, TimeoutError) as error:
                why = f"{type(error).__name__}: {error}"
            if time.monotonic() + wait >= ends:
                raise PolicyFault(f"{self.name} gave no answer in {self.budget_s:g} s; last: {why}")
            waited += wait
            await anyio.sleep(wait)
            pause = min(8.0, pause * 2)

    async def aclose(self) -> None:
        """Close the connections of this loop."""
        if (held := self._held.pop(asyncio.get_running_loop(), None)) is not None:
            await held.opened.aclose()


class _Held(NamedTuple):
    opened: AsyncGenerator[aiohttp.ClientSession, None]
    session: aiohttp.ClientSession


async def _opened() -> AsyncGenerator[aiohttp.ClientSession, None]:
    """A session; a loop that ends closes the generators it knows, and so this."""
    patience = aiohttp.ClientTimeout(total=None, sock_connect=10.0)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=patience, trust_env=True) as session:
        yield session


def _seen(conversation: Conversation) -> list[dict[str, Any]]:
    """The messages, with the pictures in the last one; behind it where it is a tool's, which cannot hold any."""
    messages: list[dict[str, Any]] = [*conversation.messages]  # type: ignore[list-item]  # parts of content are not what an environment says
    if not conversation.images:
        return messages
    parts: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": data_url(image)}} for image in conversation.images]
    last = messages[-1]
    if last["role"] == "user":
        return [*messages[:-1], {**last, "content": [{"type": "text", "text": last["content"]}, *parts]}]
    return [*messages, {"role": "user", "content": parts}]


def _headers() -> dict[str, str]:
    key = os.environ.get("OPENAI_API_KEY")
    return {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}


_RESPONSE = msgspec.json.Decoder(_Response)


def _answer_in(status: int, content: bytes) -> _Response | str:
    """A usable answer, or what is transiently wrong with it.

    Raises:
        ContextOverflow, PolicyFault: asking again would not help.
    """
    start = content[:300].decode(errors="replace")
    if status in TRANSIENT:
        return f"HTTP {status}: {start}"
    if status >= 400:
        if status in (400, 413) and "context" in start.lower():
            raise ContextOverflow(start)
        raise PolicyFault(f"HTTP {status}: {start}")
    try:
        decoded = _RESPONSE.decode(content)
    except msgspec.MsgspecError as error:
        return f"HTTP {status} with a body that is no chat completion ({error}): {start}"
    return decoded if decoded.choices else f"HTTP {status} with no choices"


def _retry_after(told: str | None, default: float) -> float:
    try:
        return max(0.0, float(default if told is None else told))
    except ValueError:
        return default


def _completion(response: _Response, waited_s: float) -> Completion:
    choice = response.choices[0]
    calls, broken = [], ""
    for each in choice.message.tool_calls or []:
        arguments = each.function.arguments
        try:
            parsed = msgspec.json.decode(arguments or "{}", type=dict[str, Any]) if isinstance(arguments, str) else arguments
            calls.append(ToolCall(each.function.name, parsed))
        except msgspec.MsgspecError:
            broken += f'\n<tool_call>{{"name": {msgspec.json.encode(each.function.name).decode()}, "arguments": {arguments}}}</tool_call>'
    finishes: dict[str | None, Literal["stop", "length", "abort", "refused"]] = {"length": "length", "content_filter": "refused"}
    finish = "refused" if choice.message.refusal else finishes.get(choice.finish_reason, "stop")
    usage = {k: v for k, v in (response.usage or {}).items() if isinstance(v, int)}
    return Completion(print_action(choice.message.content or "", calls) + broken, None, finish, usage, waited_s)
