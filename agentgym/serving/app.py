"""The server: sessions over WebSocket (``/ws``) and plain HTTP, behind a bearer token."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from agentgym.errors import AgentGymError, MessageTooLarge, ProtocolError, Unauthorised
from agentgym.registry import EnvSpec, spec
from agentgym.serving import protocol as p
from agentgym.serving.chat import Chat, decoded, whose
from agentgym.serving.mcp import Tools
from agentgym.serving.openapi import document
from agentgym.serving.recorder import Recorder
from agentgym.serving.sessions import Session, Sessions

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")


class Server:
    """Serves ``sessions`` to whoever has ``token``, and one of them to whoever has its key.

    With a ``recorder`` its model is served too, to sessions alone. ``origins`` are web pages that may use the server; ``hosts`` the names that it may
    be called by (none: any, for a server that is not on the loopback).
    """

    def __init__(
        self, sessions: Sessions, token: str = "", *, origins: tuple[str, ...] = (), hosts: tuple[str, ...] = LOOPBACK, recorder: Recorder | None = None
    ) -> None:
        self.recorder = sessions.recorder = recorder
        self.sessions, self.token = sessions, token or secrets.token_urlsafe(24)
        self.origins, self.hosts = origins, hosts

    def app(self) -> Starlette:
        """What a server serves, for one event loop."""
        tools = Tools(self.sessions, self.admit, refuse)
        routes = [
            Route("/health", self.health), Route("/openapi.json", self.openapi), Route("/environments", self._guarded(self.environments)),
            Route("/sessions", self._guarded(self.begin), methods=["POST"]), Route("/sessions/{session}", self._guarded(self.close), methods=["DELETE"]),
            Route("/sessions/{session}/{op}", self._guarded(self.act), methods=["POST"]), WebSocketRoute("/ws", _Asgi(self.socket)),
            Route("/mcp/{session}", tools), *self._models(),
        ]  # fmt: skip
        return Starlette(routes=routes, lifespan=lambda app: self._lifespan(tools.running))

    @contextlib.asynccontextmanager
    async def _lifespan(self, running: contextlib.AbstractAsyncContextManager[None]) -> AsyncIterator[None]:
        reaping = asyncio.create_task(self._reap())
        async with running:
            yield
        reaping.cancel()
        await self.sessions.aclose()

    async def _reap(self) -> None:
        while True:
            await asyncio.sleep(min(5.0, self.sessions.bounds.idle_s / 4))
            self.sessions.reap()

    # Who asks

    def admit(self, headers: Mapping[str, str]) -> str | None:
        """None for who has the token, the key for an agent. Raises ``Unauthorised`` for a foreign host or origin, and without either."""
        host, origin = headers.get("host", ""), headers.get("origin")
        if self.hosts and host.rpartition(":")[0] not in self.hosts and host not in self.hosts:
            raise Unauthorised(f"this server is not called {host[:60]!r}")
        if origin is not None and origin not in (f"http://{host}", f"https://{host}", *self.origins):
            raise Unauthorised(f"pages of {origin[:60]!r} may not use this server")
        given = headers.get("authorization", "")
        kind, _, told = given.partition(" ")
        told = told if kind.lower() == "bearer" else headers.get("x-api-key", "")
        if secrets.compare_digest(told.encode(), self.token.encode()):
            return None
        if self.sessions.of_key(told) is None:
            raise Unauthorised("the bearer token is wrong, or there is none")
        return told

    def _guarded(self, handle: Callable[[Request, str | None], Any]) -> Callable[[Request], Any]:
        async def guarded(request: Request) -> Response:
            try:
                return _json(await handle(request, self.admit(request.headers)))
            except Exception as error:
                if not isinstance(error, AgentGymError):
                    raise
                return refuse(error)

        return guarded

    # HTTP

    async def health(self, request: Request) -> Response:
        """Whether it is there, and how many sessions are open."""
        return _json({"version": p.VERSION, "sessions": len(self.sessions.open)})

    async def openapi(self, request: Request) -> Response:
        """This server, described."""
        return _json(document(p))

    async def environments(self, request: Request, key: str | None) -> Any:
        """What is served."""
        token_alone(key)
        return self.offered()

    def offered(self) -> list[EnvSpec]:
        """The environments that sessions can be opened of."""
        return [spec(e) for e in self.sessions.envs]

    async def begin(self, request: Request, key: str | None) -> Any:
        """Open a session."""
        token_alone(key)
        return self.sessions.begin(_as(p.Open, await body(request, self.sessions.bounds.message_bytes)))

    async def act(self, request: Request, key: str | None) -> Any:
        """One op of a session."""
        kind = OPS.get(request.path_params["op"])
        if kind is None:
            raise ProtocolError(f"no op {request.path_params['op'][:40]!r}; there are {', '.join(OPS)}")
        asked = _as(kind, await body(request, self.sessions.bounds.message_bytes))
        asked.session = request.path_params["session"]
        return await self.sessions.serve(asked, key)

    async def close(self, request: Request, key: str | None) -> Any:
        """Close a session."""
        return await self.sessions.serve(p.Close(request.path_params["session"]), key)

    # Models, where one is served

    def _models(self) -> list[Route]:
        if self.recorder is None:
            return []
        chat, name = Chat(self.recorder), self.recorder.policy.name

        def spoken(dialect: Callable[[dict[str, Any], Session], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
            async def answered(request: Request) -> Response:
                try:
                    key = self.admit(request.headers)
                    asked = decoded(await body(request, self.sessions.bounds.message_bytes))
                    return await dialect(asked, whose(self.sessions.of_key(key) if key is not None else None))
                except AgentGymError as error:
                    told = {"type": "error", "error": {"type": type(error).__name__, "message": str(error)[:4000]}}
                    return Response(p.encode(told), p.status(error), media_type="application/json")

            return answered

        async def models(request: Request, key: str | None) -> Any:
            return {"object": "list", "data": [{"id": name, "object": "model", "created": 0, "owned_by": "agentgym"}]}

        return [
            Route("/v1/chat/completions", spoken(chat.openai), methods=["POST"]), Route("/v1/messages", spoken(chat.anthropic), methods=["POST"]),
            Route("/v1/models", self._guarded(models)),
        ]  # fmt: skip

    # WebSocket

    async def socket(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection; the sessions that it opens end with it."""
        await receive()
        try:
            key = self.admit({k.decode("latin-1"): v.decode("latin-1") for k, v in scope["headers"]})
        except Unauthorised:
            await send({"type": "websocket.close", "code": 1008})
            return
        await send({"type": "websocket.accept"})
        opened: list[Session] = []
        try:
            while (message := await receive())["type"] == "websocket.receive":
                answer = await self._answered(message.get("text") or message.get("bytes") or b"", key, opened)
                await send({"type": "websocket.send", "text": answer.decode()})
        finally:
            for session in opened:
                self.sessions.close(session, "its client has gone")

    async def _answered(self, data: bytes | str, key: str | None, opened: list[Session]) -> bytes:
        try:
            if len(data) > self.sessions.bounds.message_bytes:
                raise MessageTooLarge(f"a message of {len(data):,} characters; at most {self.sessions.bounds.message_bytes:,} are read")
            request = p.read(data)
            if isinstance(request, p.Offer):
                token_alone(key)
                return p.encode(self.offered())
            if isinstance(request, p.Open):
                token_alone(key)
                answer = self.sessions.begin(request)
                opened.append(self.sessions.open[answer.session])
                return p.encode(answer)
            if not request.session and opened:
                request.session = opened[-1].id
            return p.encode(await self.sessions.serve(request, key))
        except Exception as error:  # whatever happens to one request, the connection and its other sessions go on
            return p.encode(p.refusal(error))


class _Asgi:
    """An ASGI application, of a method: as a plain function Starlette would wrap it, which costs time at every message."""

    def __init__(self, handle: ASGIApp) -> None:
        self.handle = handle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.handle(scope, receive, send)


OPS: dict[str, type[p.Request]] = {str(c.__struct_config__.tag): c for c in p.AnyRequest.__args__ if c not in (p.Offer, p.Open)}
"""What can be done in a session, by name."""


def token_alone(key: str | None) -> None:
    """Refuse an agent what only the token allows."""
    if key is not None:
        raise Unauthorised("a session's key plays that session and does nothing else")


async def body(request: Request, most: int) -> bytes:
    """The body of a request. Raises ``MessageTooLarge`` if there is more than ``most`` of it, of which no more is read."""
    told, data = request.headers.get("content-length", "0"), bytearray()
    if told.isdecimal() and int(told) <= most:
        async for part in request.stream():
            data += part
            if len(data) > most:
                break
        else:
            return bytes(data)
    raise MessageTooLarge(f"a body of more than {most:,} bytes")


def _as(kind: type[Any], data: bytes) -> Any:
    try:
        fields = msgspec.json.decode(data or b"{}", type=dict[str, Any])
        return msgspec.convert({**fields, "op": kind.__struct_config__.tag}, kind)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise ProtocolError(f"not a request: {error}") from None


def refuse(error: AgentGymError) -> Response:
    """An error as a response."""
    return Response(p.encode(p.refusal(error)), p.status(error), media_type="application/json")


def _json(content: Any) -> Response:
    return content if isinstance(content, Response) else Response(p.encode(content), media_type="application/json")


def alive(listening: socket.socket) -> None:
    """Options that its connections inherit: no waiting for acknowledgements, and a client that vanished is found out within a minute."""
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, name):
            listening.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def settings(message_bytes: int) -> dict[str, Any]:
    """How the server is run. A client that only thinks is not asked whether it is there: the kernel finds out who has gone."""
    return {
        "log_level": "warning", "access_log": False, "ws": "websockets-sansio", "ws_per_message_deflate": False, "ws_ping_interval": None,
        "ws_max_size": 2 * message_bytes, "timeout_keep_alive": 120, "backlog": 4096,
    }  # fmt: skip
