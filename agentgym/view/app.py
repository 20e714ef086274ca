"""The viewer's server: one page, and what it asks for. Reads a run's folder and changes nothing."""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import msgspec
from starlette.applications import Starlette
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from agentgym.episode import Episode, decode
from agentgym.errors import AgentGymError, Fault
from agentgym.picture import png, smaller
from agentgym.registry import make, spec
from agentgym.view.index import ROWS, Index

PAGE = Path(__file__).with_name("page.html")
FIRST, WIDE, KEPT = 200, 640, 4
"""Episodes read before the first answer; width of a picture; episodes whose pictures are kept."""

POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src blob:; connect-src 'self'; base-uri 'none'; form-action 'none'"


class Viewer:
    """One run's folder, its index, and pictures that were asked for."""

    def __init__(self, folder: Path, token: str = "") -> None:
        self.folder, self.index, self.token = folder, Index(folder), token or secrets.token_urlsafe(16)
        self._pictures: OrderedDict[int, list[bytes]] = OrderedDict()
        self._playing = anyio.Lock()

    def app(self) -> Starlette:
        """What a server serves."""
        routes = [
            Route("/", self.page), Route("/api/run", self.run), Route("/api/episodes", self.episodes), Route("/api/episode/{n:int}", self.episode),
            Route("/api/picture/{n:int}/{turn:int}", self.picture),
        ]  # fmt: skip
        app = Starlette(routes=routes)
        app.add_middleware(BaseHTTPMiddleware, dispatch=self.guard)
        return app

    async def guard(self, request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        """Refuse what is not from the page itself: another host, a foreign origin, a wrong token."""
        host, origin = request.headers.get("host", "").rpartition(":")[0], request.headers.get("origin")
        token = request.headers.get("x-token") or request.query_params.get("token", "")
        known = host in ("127.0.0.1", "localhost") and origin in (None, f"http://{request.headers.get('host')}")
        if not known or not secrets.compare_digest(token.encode(), self.token.encode()):
            return PlainTextResponse("forbidden", 403)
        response = await call_next(request)
        response.headers.update(
            {"Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Cache-Control": "no-store"}
        )
        return response

    async def page(self, request: Request) -> Response:
        """The page."""
        return Response(PAGE.read_bytes(), media_type="text/html")

    async def run(self, request: Request) -> Response:
        """What is known of the run as a whole. It may be running, cut, or half deleted."""
        self.index.refresh(1 if not self.index.rows else 0)
        about: dict[str, Any] = {"name": self.folder.resolve().name, **self.index.summary(), "env": "", "pixels": False, "reward": "", "result": None}
        for name, key in (("reward.toml", "reward"), ("result.json", "result")):
            with suppress(OSError, msgspec.MsgspecError):
                data = (self.folder / name).read_bytes()
                about[key] = msgspec.json.decode(data) if name.endswith("json") else msgspec.toml.decode(data).get("expression", "")
        with suppress(AgentGymError, IndexError):
            about["env"] = decode(self.index.line(0)).env
            about["pixels"] = spec(about["env"]).capabilities.pixels
        return _json(about)

    async def episodes(self, request: Request) -> Response:
        """Rows from ``after`` on, and whether that is all there is for now."""
        asked = request.query_params.get("after", "0")
        if not asked.isdecimal():
            return PlainTextResponse("after is the number of a row", 400)
        after = int(asked)
        whole = await anyio.to_thread.run_sync(self.index.refresh, ROWS if after else FIRST)
        rows = self.index.rows[after : after + ROWS]
        return _json({"rows": rows, "total": len(self.index.rows), "whole": whole and after + len(rows) >= len(self.index.rows)})

    async def episode(self, request: Request) -> Response:
        """One record, as it stands on disk."""
        try:
            return Response(await self._line(request.path_params["n"]), media_type="application/json")
        except IndexError:
            return PlainTextResponse("there is no such episode", 404)

    async def _line(self, n: int) -> bytes:
        """A record, read on as far as it takes. Raises ``IndexError`` if there is none."""
        while n >= len(self.index.rows) and not await anyio.to_thread.run_sync(self.index.refresh, ROWS):
            pass
        return self.index.line(n)

    async def picture(self, request: Request) -> Response:
        """The screen before a turn, from playing the episode again."""
        n, turn = request.path_params["n"], request.path_params["turn"]
        try:
            async with self._playing:
                if n not in self._pictures:
                    self._pictures[n] = await anyio.to_thread.run_sync(_played, decode(await self._line(n)))
                    while len(self._pictures) > KEPT:
                        self._pictures.popitem(last=False)
            return Response(self._pictures[n][turn], media_type="image/png")
        except IndexError:
            return PlainTextResponse("there is no such picture", 404)
        except (AgentGymError, Fault) as error:
            return PlainTextResponse(str(error), 409)


def _played(episode: Episode) -> list[bytes]:
    env = make(episode.env, split=episode.split, reward=episode.reward, render_mode="rgb_array", **episode.options)
    try:
        env.reset(seed=episode.seed, options={"task": episode.task})
        seen = [png(smaller(env.render(), WIDE))]
        for turn in episode.turns:
            if env.episode.stop_reason is not None or (turn.problem or "").startswith("not executed"):
                break
            env.step(turn.action)
            seen.append(png(smaller(env.render(), WIDE)))
        return seen
    finally:
        env.close()


def _json(data: Any) -> Response:
    return Response(msgspec.json.encode(data), media_type="application/json")
