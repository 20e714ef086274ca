"""One Chromium for this process, on an event loop of its own: pages are leased, kept, and made anew after a fault."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import shutil
import threading
from collections.abc import Coroutine
from concurrent.futures import TimeoutError as Late
from functools import cache, partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeVar

from playwright.async_api import Browser, BrowserContext, Error, Page, Playwright, Route, async_playwright

from agentgym.errors import EnvironmentFault, MissingExtra

T = TypeVar("T")
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-extensions", "--force-color-profile=srgb", "--hide-scrollbars",
]  # fmt: skip
KEPT = 24
"""So many pages wait for their next episode; more are closed."""


def chromium() -> str | None:
    """The browser on this machine: ``AGENTGYM_BROWSER``, or one on the path; None leaves it to Playwright's own."""
    given = os.environ.get("AGENTGYM_BROWSER")
    if given and not Path(given).is_file():
        raise MissingExtra(f"the browser {given}", "unset AGENTGYM_BROWSER, or name a Chromium")
    return given or next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Leased:
    """A page, and what happened to it. ``log`` holds requests that were refused, dialogs, and windows that were closed."""

    def __init__(self, page: Page, key: str) -> None:
        self.page, self.key, self.log, self.broken = page, key, list[str](), False
        page.on("crash", lambda _: setattr(self, "broken", True))
        page.on("close", lambda _: setattr(self, "broken", True))
        page.on("dialog", lambda d: asyncio.ensure_future(self._dismiss(d)))
        page.on("popup", lambda p: asyncio.ensure_future(self._shut(p)))

    async def _dismiss(self, dialog: Any) -> None:
        self.log.append(f"the page said: {dialog.message[:200]}")
        await dialog.dismiss()

    async def _shut(self, page: Page) -> None:
        self.log.append("a window that the page opened was closed")
        await page.close()


class Host:
    """The event loop and the browser. Use ``host()``."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, name="agentgym-browser", daemon=True).start()
        self._playwright: Playwright | None = None
        self._browser: Browser | None = None
        self._idle: dict[str, list[Leased]] = {}
        self._starting = asyncio.Lock()
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

    async def lease(self, key: str, origin: str, size: tuple[int, int]) -> Leased:
        """A page for ``key``: one that was kept for it, or a new one, whose requests reach ``origin`` alone."""
        for found in self._idle.get(key, []):
            self._idle[key].remove(found)
            if not found.broken:
                return found
        context = await (await self._running()).new_context(viewport={"width": size[0], "height": size[1]}, accept_downloads=False)
        leased = Leased(await context.new_page(), key)
        await context.route(lambda url: not url.startswith(origin), partial(_refuse, leased))
        return leased

    async def give_back(self, leased: Leased) -> None:
        """Keep a page for its next episode, or close it."""
        waiting = self._idle.setdefault(leased.key, [])
        if leased.broken or sum(map(len, self._idle.values())) >= KEPT:
            leased.broken = True
            await _close(leased.page.context)
        else:
            leased.log.clear()
            waiting.append(leased)

    async def _running(self) -> Browser:
        async with self._starting:
            if self._browser is None or not self._browser.is_connected():
                self._playwright = self._playwright or await async_playwright().start()
                try:
                    self._browser = await self._playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
                except Error as error:
                    raise MissingExtra(f"a Chromium ({str(error).splitlines()[0][:120]})", "apt-get install chromium") from None
            return self._browser

    def close(self) -> None:
        """End the browser; idempotent."""
        if self._browser is not None:
            browser, self._browser = self._browser, None
            with contextlib.suppress(EnvironmentFault):
                self.run(browser.close(), 10)


async def _close(context: BrowserContext) -> None:
    with contextlib.suppress(Error):
        await context.close()


async def _refuse(leased: Leased, route: Route) -> None:
    leased.log.append(f"refused: {route.request.url[:200]}")
    await route.abort()


@cache
def host() -> Host:
    """The one of this process."""
    return Host()


@cache
def served(folder: str) -> str:
    """The origin under which a folder is served, on the loopback, until this process ends."""

    class Handler(SimpleHTTPRequestHandler):
        extensions_map = {**SimpleHTTPRequestHandler.extensions_map, ".html": "text/html; charset=utf-8", ".js": "text/javascript"}

        def log_message(self, *args: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=folder))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, name="agentgym-pages", daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}"
