"""One Chromium for this process, on an event loop of its own: contexts are made ahead, leased, kept for their like, and made anew after a fault."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import shutil
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import TimeoutError as Late
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from playwright.async_api import Browser, Error, Page, Playwright, Request, ViewportSize, async_playwright
from starlette.types import ASGIApp

from agentgym.errors import EnvironmentFault, MissingExtra
from agentgym.sandbox.owner import me
from agentgym_web.leftovers import OWNER
from agentgym_web.server import TOKEN, Sites, Visit

T = TypeVar("T")
PAGE = Path(__file__).with_name("page.js").read_text()

FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-frame-rate-limit", "--disable-gpu-vsync", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-extensions", "--force-color-profile=srgb", "--hide-scrollbars", "--disable-quic",
    "--no-pings", "--disable-client-side-phishing-detection", "--webrtc-ip-handling-policy=disable_non_proxied_udp", f"{OWNER}{me()}",
]  # fmt: skip
KEPT, AHEAD, WORN, AT_ONCE, ACTING = 24, 1, 200, 3, 4 * (os.cpu_count() or 1)
"""So many contexts wait for their next episode, and so many are made before they are asked for; after so many episodes one is closed; so many are
made, or load their first page, at once; and so many actions are under way: what waits for its turn is not waited for by the page."""


def prefer(path: str) -> None:
    """Use this browser from its next start on. Raises ``MissingExtra`` if there is none."""
    if not Path(path).is_file():
        raise MissingExtra(f"the browser {path}", "name a Chromium, such as /usr/bin/chromium")
    os.environ["AGENTGYM_BROWSER"] = path


def chromium() -> str | None:
    """The browser on this machine: ``AGENTGYM_BROWSER``, or one on the path; None leaves it to Playwright's own."""
    given = os.environ.get("AGENTGYM_BROWSER")
    if given and not Path(given).is_file():
        raise MissingExtra(f"the browser {given}", "unset AGENTGYM_BROWSER, or name a Chromium")
    return given or next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Lease:
    """A context of the browser with its first page. ``log`` is for what the agent should know: requests that were refused, and the like."""

    def __init__(self, page: Page, size: tuple[int, int], visit: Visit) -> None:
        self.page, self.context, self.size, self.visit = page, page.context, size, visit
        self.log, self.broken, self.key, self.uses = visit.log, False, "", 0
        self.opened: Callable[[Page], None] | None = None
        self.context.on("requestfailed", self._failed)
        self.context.on("close", lambda _: setattr(self, "broken", True))
        self.context.on("page", lambda p: self.opened(p) if self.opened else None)
        self.watch(page)

    def watch(self, page: Page) -> None:
        """A crash of this page breaks the lease."""
        page.on("crash", lambda _: setattr(self, "broken", True))

    def _failed(self, request: Request) -> None:
        if urlsplit(request.url).netloc != self.visit.host and (line := f"refused: {request.url[:200]}") not in self.log:
            self.log.append(line)


class Host:
    """The event loop, the sites and the browser. Use ``host()``."""

    def __init__(self) -> None:
        self.pid, self.loop = os.getpid(), asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, name="agentgym-browser", daemon=True).start()
        self.sites = Sites()
        self.sites.start(self.loop)
        self._playwright: Playwright | None = None
        self._browser: Browser | None = None
        self._kept: dict[str, list[Lease]] = {}
        self._ahead: dict[tuple[int, int], list[asyncio.Task[Lease]]] = {}
        self._starting = asyncio.Lock()
        self.loading, self.acting = asyncio.Semaphore(AT_ONCE), asyncio.Semaphore(ACTING)
        atexit.register(self.close)

    def run(self, work: Coroutine[Any, Any, T], seconds: float) -> T:
        """Do something on the loop, from any thread.

        Raises:
            EnvironmentFault: it took too long, or the browser broke.
        """
        future = asyncio.run_coroutine_threadsafe(work, self.loop)
        try:
            return future.result(seconds)
        except Late:
            future.cancel()
            raise EnvironmentFault(f"the browser took longer than {seconds:g} s") from None
        except Error as error:
            raise EnvironmentFault(f"the browser broke: {str(error)[:300]}") from None

    def serve(self, name: str, app: Callable[[], ASGIApp]) -> None:
        """Serve a site whose ``name`` ends in ``.test`` from now on, if it is not served yet. No other name leads anywhere."""
        if name not in self.sites.apps:
            self.sites.apps[name] = app()

    async def lease(self, key: str, size: tuple[int, int], *, ahead: bool = False) -> Lease:
        """A context with a page: one that was kept for ``key``, or one made ahead, or a new one. ``ahead`` has the next one made now."""
        waiting = self._kept.get(key, [])
        while waiting:
            found = waiting.pop()
            if not found.broken:
                return found
        made = self._ahead.setdefault(size, [])
        lease = await (made.pop(0) if made else self._fresh(size))
        if lease.broken:
            lease = await self._fresh(size)
        while ahead and len(made) < AHEAD:
            made.append(self.loop.create_task(self._fresh(size)))
        lease.key = key
        return lease

    async def _fresh(self, size: tuple[int, int]) -> Lease:
        visit, view = Visit(), ViewportSize(width=size[0], height=size[1])
        self.sites.visits[visit.token] = visit
        async with self.loading:
            context = await (await self._running()).new_context(
                viewport=view, extra_http_headers={TOKEN: visit.token}, accept_downloads=True, locale="en-US", timezone_id="UTC"
            )
            await context.add_init_script(PAGE)
            return Lease(await context.new_page(), size, visit)

    async def give_back(self, lease: Lease) -> None:
        """Keep a context for its next episode, or close it."""
        lease.opened, lease.uses = None, lease.uses + 1
        if lease.broken or lease.uses >= WORN or sum(map(len, self._kept.values())) >= KEPT:
            lease.broken = True
            self.sites.visits.pop(lease.visit.token, None)
            with contextlib.suppress(Error):
                await lease.context.close()
        else:
            self._kept.setdefault(lease.key, []).append(lease)

    async def _running(self) -> Browser:
        async with self._starting:
            if self._browser is None or not self._browser.is_connected():
                self._ahead.clear()
                self._playwright = self._playwright or await async_playwright().start()
                flags = [*FLAGS, f"--host-resolver-rules=MAP *.test 127.0.0.1:{self.sites.port}, MAP * ~NOTFOUND"]
                try:
                    self._browser = await self._playwright.chromium.launch(executable_path=chromium(), args=flags)
                except Error as error:
                    raise MissingExtra(f"a Chromium ({str(error).splitlines()[0][:120]})", "apt-get install chromium") from None
            return self._browser

    def close(self) -> None:
        """End the browser; idempotent."""
        if self._browser is not None and self.pid == os.getpid():
            browser, self._browser = self._browser, None
            with contextlib.suppress(EnvironmentFault):
                self.run(browser.close(), 10)


_host: list[Host] = []
_first = threading.Lock()


def host() -> Host:
    """The one of this process, whichever thread asks first; a forked child has its own."""
    with _first:
        if not _host or _host[0].pid != os.getpid():
            _host[:] = [Host()]
        return _host[0]
