"""The sites of this process, behind one port of the loopback. A host name chooses the site, a token the episode; all else is refused."""

from __future__ import annotations

import asyncio
import secrets
import socket
from typing import Any

import uvicorn
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

TOKEN = "x-agentgym-episode"


class Visit:
    """Who may see which site, whose world it is there, and what was refused."""

    def __init__(self) -> None:
        self.token, self.host, self.log = secrets.token_urlsafe(18), "", list[str]()
        self.world: Any = None

    def at(self, host: str, world: Any) -> None:
        """From now on this visit is to ``host``, and to the state ``world`` there."""
        self.host, self.world = host, world
        self.log.clear()


class Sites:
    """An ASGI application that hands a request on to the site of its host, with ``scope["state"]["world"]`` set."""

    def __init__(self) -> None:
        self.apps: dict[str, ASGIApp] = {}
        self.visits: dict[str, Visit] = {}
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # inherited: an answer in two parts would wait 40 ms for an acknowledgement
        self.port: int = self.socket.getsockname()[1]

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Serve on ``loop`` until this process ends."""
        config = uvicorn.Config(self, log_level="error", lifespan="off", ws="none", timeout_graceful_shutdown=1)
        asyncio.run_coroutine_threadsafe(uvicorn.Server(config).serve(sockets=[self.socket]), loop)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        host = headers.get(b"host", b"").decode("latin-1").partition(":")[0]
        visit = self.visits.get(headers.get(TOKEN.encode(), b"").decode("latin-1"))
        if visit is None or visit.host != host or host not in self.apps:
            if visit is not None:
                visit.log.append(f"refused: http://{host}{scope['path'][:150]}")
            await PlainTextResponse("not here", 403)(scope, receive, send)
            return
        scope["state"] = {"world": visit.world}
        await self.apps[host](scope, receive, send)
