"""The pages of one episode under an agent's hands: tabs, dialogs and files, the actions, and what is to be seen after each."""

from __future__ import annotations

import asyncio
import contextlib
import mimetypes
from collections.abc import Coroutine, Mapping
from pathlib import PurePath
from typing import Annotated, Any
from urllib.parse import urljoin, urlsplit

import msgspec
from msgspec import Meta
from playwright.async_api import Dialog, Download, Error, Frame, Page
from playwright.async_api import TimeoutError as Slow

from agentgym.errors import EnvironmentFault, ToolError
from agentgym.messages import Tool, tool
from agentgym_web.browser import Lease

STEP_MS, WAIT_MS = 250, 1000
"""How far an action moves the clock of a page that has one, and ``wait``."""
PATIENCE, LAST = 6.0, 2.0
"""For how long (seconds of ours) an action may take, or a page may go on loading; and for how long a page may then take to answer at all."""
MOST_TABS, MOST_BACK, MOST_DIALOGS, MOST_BYTES, SHOWN = 6, 12, 20, 5_000_000, 2_000
SET_BY_VALUE = ("date", "time", "range", "color", "month", "week")

Element = Annotated[int, Meta(description="the number of an element, as shown in brackets", ge=1)]
Text = Annotated[str, Meta(max_length=2000)]
Pixel = Annotated[int, Meta(ge=0, le=4000)]
Seen = dict[str, Any]


class Session:
    """The tabs of one episode. All methods run on the browser's loop.

    ``origin`` is where pages may be; ``read`` is a script for what the environment wants to know beside the outline. With ``ticking`` the clock of
    the page moves by actions alone. With ``holds`` a question of the page (confirm, prompt) waits for the agent; else it is dismissed.
    """

    def __init__(self, lease: Lease, origin: str, *, kind: str = "tree", read: str = "() => null", ticking: bool = False, holds: bool = False) -> None:
        self.lease, self.origin, self.kind, self.ticking, self.holds = lease, origin, kind, ticking, holds
        all_ = f"...window.__agentgym.read('{kind}'), opened: window.__agentgym.opened(), more: ({read})()"
        self._reads = f"async (ms) => {{ {BARE} {RUN_ON} await window.__agentgym.settled({str(ticking).lower()}); return {{ {all_} }}; }}"
        self._reads_now = f"() => {{ {BARE} return {{ ...window.__agentgym.read('{kind}'), more: null }}; }}"
        self.files: dict[str, bytes] = {}
        self.tabs: list[Page] = []
        self.ways: dict[Page, list[str]] = {}
        self._returning, self._due = False, 0
        self.asked: Dialog | None = None
        self._question, self._left, self._dialogs = asyncio.Event(), list[asyncio.Task[Any]](), 0
        self._transfers: set[asyncio.Task[None]] = set()
        self._new_tab = asyncio.Event()
        self._add(lease.page)
        self.page, self._tabs_before = lease.page, 1
        lease.opened = self._add

    def _add(self, page: Page) -> None:
        if len(self.tabs) >= MOST_TABS:
            self.lease.log.append(f"a window was closed: {MOST_TABS} tabs are open")
            self._keep(asyncio.ensure_future(page.close()))
            return
        self.tabs.append(page)
        self._new_tab.set()
        page.set_default_timeout(PATIENCE * 1000)
        if page is not self.lease.page:
            self.lease.watch(page)
            self.lease.log.append(f"tab {len(self.tabs)} was opened")
        page.on("dialog", self._on_dialog)
        page.on("download", self._on_download)
        page.on("close", self._on_close)
        page.on("framenavigated", self._on_arrival)

    def detach(self) -> None:
        """Hear nothing of these pages any more."""
        for page in self.tabs:
            page.remove_listener("dialog", self._on_dialog)
            page.remove_listener("download", self._on_download)
            page.remove_listener("close", self._on_close)
            page.remove_listener("framenavigated", self._on_arrival)

    def _on_arrival(self, frame: Frame) -> None:
        """Keep the way of a tab: going back is leaving the last place."""
        page = frame.page
        if frame is not page.main_frame or not frame.url.startswith(self.origin):
            return
        way = self.ways.setdefault(page, [])
        if len(way) > 1 and way[-2] == frame.url and self._returning:
            way.pop()
        elif not way or way[-1] != frame.url:
            way.append(frame.url)
        del way[:-MOST_BACK]

    def _on_close(self, page: Page) -> None:
        if page in self.tabs and len(self.tabs) > 1:
            self.tabs.remove(page)
            self.page = self.tabs[-1] if self.page is page else self.page

    def _keep(self, task: asyncio.Task[Any]) -> None:
        self._transfers.add(task)
        task.add_done_callback(self._transfers.discard)

    def _on_dialog(self, dialog: Dialog) -> None:
        self._dialogs += 1
        if self._dialogs > MOST_DIALOGS:
            self.lease.broken = True
            self._question.set()
        elif dialog.type in ("confirm", "prompt") and self.holds:
            self.asked = dialog
            self._question.set()
        else:
            self.lease.log.append(f"the page said: {dialog.message[:300]}")
            self._keep(asyncio.ensure_future(dialog.accept() if dialog.type == "beforeunload" else dialog.dismiss()))

    def _on_download(self, download: Download) -> None:
        self._keep(asyncio.ensure_future(self._take(download)))

    async def _take(self, download: Download) -> None:
        """A file that the page sends: kept, and shown if it is text; given up if it is too large or too slow."""
        name = PurePath(download.suggested_filename).name[:80] or "download"
        try:
            progress = await self.lease.context.new_cdp_session(download.page)
            progress.on("Page.downloadProgress", lambda e: self._keep(asyncio.ensure_future(download.cancel())) if e["receivedBytes"] > MOST_BYTES else None)
            await progress.send("Page.enable")
            path = await asyncio.wait_for(download.path(), PATIENCE)
            data = path.read_bytes() if path.stat().st_size <= MOST_BYTES else None
        except (TimeoutError, OSError, Error):
            data = None
            await download.cancel()
        if data is None:
            self.lease.log.append(f"the download of {name} was given up: it is larger than {MOST_BYTES:,} bytes, or it broke, or took over {PATIENCE:g} s")
        else:
            self.files[name] = data
            text = data.decode("utf-8", "replace")
            self.lease.log.append(f"downloaded {name} ({len(data)} bytes)" + (f":\n{text[:SHOWN]}" if "\0" not in text else ""))
        await download.delete()

    async def do(self, name: str, given: Mapping[str, Any]) -> str:
        """Do one action by its name, and let the page's clock run on. What was said of it.

        Raises:
            ToolError: it cannot be done on the page as it is.
        """
        self._dialogs = 0
        if self.asked is not None and name != "dialog":
            await self.dialog(accept=False)
            self.lease.log.append("the question of the page was dismissed")
        try:
            said = await self._unless_asked(getattr(self, name)(**given))
            self.run_on(STEP_MS if self.ticking else 0)
        except (TimeoutError, Slow):
            raise ToolError(f"{name} did not end within {PATIENCE:g} s") from None
        except Error as error:
            if self.lease.broken:
                raise
            raise ToolError(f"{name}: {str(error).splitlines()[0][:160]}") from None
        return said or "done"

    async def _unless_asked(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Await something that a dialog of the page may hold up; None if one does. It goes on once the dialog is answered."""
        self._question.clear()
        task, question = asyncio.ensure_future(work), asyncio.ensure_future(self._question.wait())
        done, _ = await asyncio.wait({task, question}, timeout=PATIENCE, return_when=asyncio.FIRST_COMPLETED)
        question.cancel()
        if task in done:
            return task.result()
        if self.lease.broken:
            task.cancel()
            raise EnvironmentFault("the page opens one dialog after another")
        if question not in done:
            task.cancel()
            raise TimeoutError("it took too long")
        task.add_done_callback(lambda t: t.cancelled() or t.exception())
        return None

    async def look(self) -> Seen:
        """What is to be seen, once the page has settled; a page that does not settle is read as it is.

        Raises:
            EnvironmentFault: the page does not answer.
        """
        for _ in range(5):
            if self.asked is not None:
                return {"seen": "", "url": self.page.url, "title": "", "scrolled": [], "values": [], "more": None}
            try:
                due, self._due = self._due, 0
                seen = await self._unless_asked(self.page.evaluate(self._reads, due))
            except TimeoutError:
                return await self._look_now()
            except Error as error:
                if self.lease.broken or self.page.is_closed():
                    raise EnvironmentFault(f"the page broke: {str(error).splitlines()[0][:200]}") from None
                await self._arrived()
                continue
            if seen is not None and not self._transfers:
                found: Seen = seen
                await self._opened(found.pop("opened", 0))
                return found
            if self._transfers:
                await asyncio.wait(set(self._transfers), timeout=PATIENCE + LAST)
        return await self._look_now()

    async def _opened(self, windows: int) -> None:
        """Wait for the tab of a window that the page has asked for; it may not come."""
        if windows and len(self.tabs) == self._tabs_before:
            self._new_tab.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._new_tab.wait(), LAST)
        self._tabs_before = len(self.tabs)

    async def _arrived(self) -> None:
        """A page was left while it was read; wait for the next one."""
        try:
            await self.page.wait_for_load_state("domcontentloaded", timeout=PATIENCE * 1000)
        except Slow:
            self.lease.log.append("the page is still loading")

    async def _look_now(self) -> Seen:
        self.lease.log.append("the page is still loading")
        try:
            found: Seen = await asyncio.wait_for(self.page.evaluate(self._reads_now), LAST)
        except (TimeoutError, Error):
            self.lease.broken = True
            raise EnvironmentFault("the page does not answer") from None
        return found

    async def point(self, element: int) -> tuple[float, float]:
        """Where an element is. Raises ``ToolError`` if it cannot be pointed at."""
        found = await self.page.evaluate("id => window.__agentgym.point(id)", element)
        if "why" in found:
            raise ToolError(f"element {element}: {found['why']}")
        return found["x"], found["y"]

    async def click(self, element: Element) -> None:
        """Click an element."""
        await self.page.mouse.click(*await self.point(element))

    async def double_click(self, element: Element) -> None:
        """Click an element twice."""
        await self.page.mouse.dblclick(*await self.point(element))

    async def click_at(self, x: Pixel, y: Pixel) -> None:
        """Click a place of the page, in pixels."""
        await self.page.mouse.click(x, y)

    async def hover(self, element: Element) -> None:
        """Move the mouse over an element."""
        await self.page.mouse.move(*await self.point(element))

    async def fill(self, element: Element, text: Text) -> None:
        """Replace the text of a field."""
        kind = await self.page.evaluate(FOCUS, element)
        if kind is None:
            await self.point(element)
            raise ToolError(f"element {element} takes no text")
        if kind in SET_BY_VALUE:
            await self.page.evaluate(SET, [element, text])
        elif text:
            await self.page.keyboard.insert_text(text)
        else:
            await self.page.keyboard.press("Delete")

    async def select(self, element: Element, option: Text) -> None:
        """Choose an option of a list by its text."""
        _refuse(element, await self.page.evaluate(SELECT, [element, option]))

    async def press(self, key: Annotated[str, Meta(max_length=40)]) -> None:
        """Press a key, such as Enter, Tab, ArrowDown or Control+C."""
        await self.page.keyboard.press(key)

    async def type_text(self, text: Text) -> None:
        """Type where the cursor is."""
        await self.page.keyboard.type(text)

    async def drag(self, element: Element, onto: Element) -> None:
        """Drag an element onto another."""
        await self._path(await self.point(element), await self.point(onto))

    async def drag_at(self, x: Pixel, y: Pixel, to_x: Pixel, to_y: Pixel) -> None:
        """Drag from one place to another, in pixels."""
        await self._path((x, y), (to_x, to_y))

    async def scroll(self, down: Annotated[int, Meta(ge=-5000, le=5000)], element: Element | None = None) -> None:
        """Scroll the page, or an element of it, by pixels; up with a negative number."""
        _refuse(element or "page", await self.page.evaluate(SCROLL, [element, down]))

    async def highlight(self, element: Element) -> None:
        """Select the text of an element."""
        if not await self.page.evaluate(HIGHLIGHT, element):
            await self.point(element)

    async def goto(self, address: Text) -> None:
        """Open an address of this site, such as /cart."""
        target = urlsplit(urljoin(self.page.url if self.page.url.startswith(self.origin) else self.origin + "/", address))
        if f"{target.scheme}://{target.netloc}" != self.origin:
            self.lease.log.append(f"refused: {address[:200]}")
            raise ToolError(f"only addresses of {self.origin} can be opened")
        try:
            await self.page.goto(target.geturl(), wait_until="commit")
        except Error as error:
            if "ERR_ABORTED" not in str(error) and "Download is starting" not in str(error):
                raise

    async def back(self) -> None:
        """Go back to the page before."""
        if len(self.ways.get(self.page, [])) < 2:
            raise ToolError("there is no page before this one")
        self._returning = True
        try:
            await self.page.go_back(wait_until="commit")
        finally:
            self._returning = False

    async def tab_new(self, address: Text = "/") -> None:
        """Open an address of this site in a new tab, and look at it."""
        if len(self.tabs) >= MOST_TABS:
            raise ToolError(f"{MOST_TABS} tabs are open")
        self.page = await self.lease.context.new_page()
        await self.goto(address)

    async def tab_switch(self, tab: Annotated[int, Meta(ge=1, description="the number of a tab")]) -> None:
        """Look at another tab."""
        if tab > len(self.tabs):
            raise ToolError(f"there is no tab {tab}; {len(self.tabs)} are open")
        self.page = self.tabs[tab - 1]
        await self.page.bring_to_front()

    async def upload(self, element: Element, file: Annotated[str, Meta(max_length=80, description="the name of a file that was given or downloaded")]) -> None:
        """Put a file into a file field."""
        if file not in self.files:
            raise ToolError(f"there is no file {file!r}; there {'are ' + ', '.join(self.files) if self.files else 'is none'}")
        handle = await self.page.evaluate_handle("id => window.__agentgym.find(id)", element)
        field = handle.as_element()
        if field is None or await field.evaluate("e => e.tagName !== 'INPUT' || e.type !== 'file'"):
            raise ToolError(f"element {element} takes no file")
        kind = mimetypes.guess_type(file)[0] or "application/octet-stream"
        await field.set_input_files({"name": file, "mimeType": kind, "buffer": self.files[file]})

    async def dialog(self, accept: bool, text: Text = "") -> None:
        """Answer a question of the page: accept it (with a text, where it asks for one) or dismiss it."""
        if self.asked is None:
            raise ToolError("the page asks nothing")
        dialog, self.asked = self.asked, None
        await (dialog.accept(text) if accept and dialog.type == "prompt" else dialog.accept() if accept else dialog.dismiss())

    async def wait(self) -> None:
        """Let a second pass on the page."""
        if self.ticking:
            await self.tick(WAIT_MS - STEP_MS)
        else:
            await asyncio.sleep(WAIT_MS / 1000)

    def run_on(self, milliseconds: int) -> None:
        """Move the clock of the page with the next look."""
        self._due += milliseconds

    async def tick(self, milliseconds: int) -> None:
        """Move the clock of the page. What its own timers throw is its own."""
        await self.page.evaluate(f"async (ms) => {{ {RUN_ON} }}", milliseconds)

    async def marked(self, given: Mapping[str, Any]) -> str:
        """What the site says of the thing that an action with these arguments would touch, such as ``pay``; else nothing."""
        if self.asked is not None:
            return ""
        return str(await self.page.evaluate("([id, x, y]) => window.__agentgym.marked(id, x, y)", [given.get("element"), given.get("x"), given.get("y")]))

    async def _path(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        mouse = self.page.mouse
        await mouse.move(*start)
        await mouse.down()
        await mouse.move(*end, steps=6)
        await mouse.up()


def _refuse(element: int | str, problem: str) -> None:
    if problem:
        raise ToolError(f"{'element ' if isinstance(element, int) else ''}{element}: {problem}")


BARE = """if (!window.__agentgym) return {
  seen: document.body ? document.body.innerText.slice(0, 500) : '', url: location.href, title: document.title, scrolled: [], values: [], more: null
};"""
"""For a page of the browser's own, such as an error."""
RUN_ON = "try { if (ms) await window.__pwClock.controller.runFor(ms); } catch (e) { /* what the page's own timers throw is its own */ }"
"""What ``page.clock.run_for`` does, without the script that it leaves behind for later pages, and within another evaluation."""
FOCUS = """id => {
  const e = window.__agentgym.find(id);
  const field = e && (e.tagName === 'TEXTAREA' || e.isContentEditable
    || e.tagName === 'INPUT' && !['checkbox', 'radio', 'button', 'submit', 'reset', 'image', 'file'].includes(e.type));
  if (!field || e.disabled) return null;
  e.scrollIntoView({ block: 'nearest' }); e.focus();
  if (e.select) e.select();
  return e.type || 'text';
}"""
SET = """([id, text]) => {
  const e = window.__agentgym.find(id); e.value = text;
  e.dispatchEvent(new Event('input', { bubbles: true })); e.dispatchEvent(new Event('change', { bubbles: true }));
}"""
SELECT = """([id, wanted]) => {
  const e = window.__agentgym.find(id);
  if (!e) return 'it is gone';
  if (!e.options) return 'it has no options';
  const found = [...e.options].find((o) => o.textContent.trim() === wanted.trim() || o.value === wanted);
  if (!found) return 'it has no option ' + JSON.stringify(wanted) + ', but ' + JSON.stringify([...e.options].map((o) => o.textContent.trim()));
  if (e.multiple) found.selected = !found.selected; else e.value = found.value;
  e.dispatchEvent(new Event('input', { bubbles: true })); e.dispatchEvent(new Event('change', { bubbles: true }));
  return '';
}"""
SCROLL = """([id, down]) => {
  const e = id ? window.__agentgym.find(id) : document.scrollingElement;
  if (!e) return 'it is gone';
  const before = e.scrollTop; e.scrollTop += down;
  return e.scrollTop === before ? 'it does not scroll further' : '';
}"""
HIGHLIGHT = """id => {
  const e = window.__agentgym.find(id);
  if (!e) return false;
  const range = document.createRange(), selection = getSelection();
  range.selectNodeContents(e); selection.removeAllRanges(); selection.addRange(range);
  return true;
}"""


def _made(name: str) -> Tool:
    """The tool of a method: called with an environment, it does it there."""
    return msgspec.structs.replace(tool(getattr(Session, name)), function=lambda env, **given: env.act(name, given))


def tools(*names: str) -> dict[str, Tool]:
    """Actions as tools of an environment with a method ``act(name, arguments)``."""
    return {name: _made(name) for name in names}


POINTING = ("click", "double_click", "click_at", "fill", "select", "press", "type_text", "hover", "drag", "drag_at", "scroll", "highlight", "wait")
BROWSING = ("goto", "back", "tab_new", "tab_switch", "upload", "dialog")
