"""One page under an agent's hands: the actions, and what is to be seen after each. Time on the page is moved by actions alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta
from playwright.async_api import Error, TimeoutError

from agentgym.errors import ToolError
from agentgym.messages import Tool, tool
from agentgym_web.browser import Leased

OUTLINE = Path(__file__).with_name("outline.js").read_text()
STEP_MS, WAIT_MS, PATIENCE_MS = 250, 1000, 8000
"""How far an action moves the clock of the page, and ``wait``; and for how long (of our time) one may take."""


SET_BY_VALUE = ("date", "time", "range", "color", "month", "week")
Element = Annotated[int, Meta(description="the number of an element, as shown in brackets", ge=1)]
Text = Annotated[str, Meta(max_length=2000)]
Pixel = Annotated[int, Meta(ge=0, le=2000)]


class Session:
    """The page of one episode. All methods run on the browser's loop."""

    def __init__(self, leased: Leased) -> None:
        self.leased, self.page = leased, leased.page
        self.page.set_default_timeout(PATIENCE_MS)

    async def point(self, element: int) -> tuple[float, float]:
        """Where an element is. Raises ``ToolError`` if it cannot be pointed at."""
        found = await self.page.evaluate("id => window.__agentgym.point(id)", element)
        if "why" in found:
            raise ToolError(f"element {element}: {found['why']}")
        return found["x"], found["y"]

    async def act(self, name: str, given: Mapping[str, Any]) -> str:
        """Do one action by its name, and let the page's clock run on.

        Raises:
            ToolError: it cannot be done on the page as it is.
        """
        try:
            said: str | None = await getattr(self, name)(**given)
            await self.page.clock.run_for(STEP_MS)
        except TimeoutError:
            raise ToolError(f"{name} did not end within {PATIENCE_MS / 1000:g} s") from None
        except Error as error:
            if self.leased.broken:
                raise
            raise ToolError(f"{name}: {str(error).splitlines()[0][:160]}") from None
        return said or "done"

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
        else:
            await self.page.keyboard.type(text)

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

    async def scroll(self, element: Element, down: Annotated[int, Meta(ge=-5000, le=5000)]) -> None:
        """Scroll an element by pixels; up with a negative number."""
        _refuse(element, await self.page.evaluate(SCROLL, [element, down]))

    async def highlight(self, element: Element) -> None:
        """Select the text of an element."""
        if not await self.page.evaluate(HIGHLIGHT, element):
            await self.point(element)

    async def wait(self) -> None:
        """Let a second pass on the page."""
        await self.page.clock.run_for(WAIT_MS - STEP_MS)

    async def _path(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        mouse = self.page.mouse
        await mouse.move(*start)
        await mouse.down()
        await mouse.move(*end, steps=6)
        await mouse.up()


def _refuse(element: int, problem: str) -> None:
    if problem:
        raise ToolError(f"element {element}: {problem}")


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
  let e = window.__agentgym.find(id);
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


NAMES = (
    "click", "double_click", "click_at", "fill", "select", "press", "type_text", "hover", "drag", "drag_at", "scroll", "highlight", "wait",
)  # fmt: skip
TOOLS: Mapping[str, Tool] = {name: _made(name) for name in NAMES}
"""The actions as tools of an environment with a method ``act(name, arguments)``."""
