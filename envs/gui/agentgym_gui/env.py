"""What the environments of this package share: a desktop, actions in pixels or on elements, scenes of text and picture, step verdicts."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, ClassVar

import msgspec
from msgspec import Meta

from agentgym.core import Action, AgentEnv, Message, Scene, StopReason
from agentgym.errors import ToolError, UsageError
from agentgym.messages import Tool, answer, tool
from agentgym.verdict import Json
from agentgym_gui.desktop import Desktop, lease
from agentgym_gui.picture import pointed

Pixel = Annotated[int, Meta(ge=0, le=4000)]
Element = Annotated[int, Meta(ge=1, description="the number of an element, as shown in brackets")]
Text = Annotated[str, Meta(max_length=2000)]
MOST_SHOWN, MOST_NAME = 220, 160


class GuiEnv(AgentEnv):
    """An environment on a desktop.

    Options: ``size`` of the screen as ``WIDTHxHEIGHT``; ``screenshot`` and ``tree`` say whether an observation has the picture, and the
    elements with their boxes; ``sandbox`` is the kind it runs in; ``ahead`` desktops are kept ready for the next episodes.
    """

    metadata = {"render_modes": ["ansi", "rgb_array"], "render_fps": 10}

    def __init__(self, *, size: str = "1024x768", screenshot: bool = True, tree: bool = True, sandbox: str | None = None, ahead: int = 1, **base: Any) -> None:
        width, _, height = size.partition("x")
        if not (width.isdigit() and height.isdigit() and 320 <= int(width) <= 2560 and 240 <= int(height) <= 1600):
            raise UsageError(f"size is WIDTHxHEIGHT from 320x240 to 2560x1600, such as 1024x768, not {size!r}")
        if not screenshot and not tree:
            raise UsageError("nothing would be seen: screenshot, tree, or both")
        self.size = int(width), int(height)
        self._with_tree, self._sandbox, self._ahead = tree, sandbox, ahead
        self._painted = screenshot or base.get("render_mode") == "rgb_array"
        if screenshot:
            self.screen = self.size[1], self.size[0]
        self._desktop: Desktop | None = None
        self._state, self._missed = b"", 0
        super().__init__(**base)

    @property
    def desktop(self) -> Desktop:
        """The one of this episode."""
        assert self._desktop is not None
        return self._desktop

    def _lease(self) -> Desktop:
        """A desktop that nobody has used; the one before goes."""
        self._release()
        self._desktop = lease(self._sandbox, self.size, self._ahead)
        return self._desktop

    def _release(self) -> None:
        if self._desktop is not None:
            self._desktop.close()
            self._desktop = None

    def close(self) -> None:
        """Give the desktop back; idempotent."""
        self._release()
        super().close()

    # Actions

    def do(self, *steps: list[Any]) -> str:
        """Do some things on the desktop, one after the other, and look. What was said of it.

        Raises:
            ToolError: there is no such key.
        """
        seen = self.desktop.ask("act", do=list(steps), tree=self._with_tree)
        if "refused" in seen:
            raise ToolError(seen["refused"])
        return f"done; {seen['problem']}" if seen["problem"] else "done"

    def at(self, x: int, y: int) -> tuple[int, int]:
        """A place on the screen, noted as missed where there is no window. Raises ``ToolError`` outside of the screen."""
        if x >= self.size[0] or y >= self.size[1]:
            raise ToolError(f"{x},{y} is outside of the screen, which is {self.size[0]}x{self.size[1]}")
        under = [r for r in self._rows() if _inside(r["box"], x, y)]
        smallest = min(under, key=lambda r: r["box"][2] * r["box"][3], default=None)
        menus = any(_inside(box, x, y) for box in self.desktop.seen["menus"])
        self._missed += (self._window_at(x, y) is None and not menus) or (smallest is not None and "disabled" in smallest["states"])
        return x, y

    def centre(self, element: int) -> tuple[int, int]:
        """The middle of an element. Raises ``ToolError`` if it is gone, off the screen, or under another window."""
        row = next((r for r in self._rows() if r["id"] == element), None)
        if row is None:
            raise ToolError(f"element {element}: there is no such element")
        x, y = row["box"][0] + row["box"][2] // 2, row["box"][1] + row["box"][3] // 2
        if not (0 <= x < self.size[0] and 0 <= y < self.size[1]):
            raise ToolError(f"element {element}: it is off the screen")
        above = self._window_at(x, y)
        if above is not None and row["window"] not in (0, above["id"]) and not any(_inside(box, x, y) for box in self.desktop.seen["menus"]):
            raise ToolError(f"element {element}: it is under the window {above['title'][:60]!r}")
        self._missed += "disabled" in row["states"]
        return x, y

    def _rows(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self.desktop.seen.get("tree", [])
        return rows

    def _window_at(self, x: int, y: int) -> dict[str, Any] | None:
        windows: list[dict[str, Any]] = self.desktop.seen["windows"]
        return next((w for w in reversed(windows) if w["shown"] and _inside(framed(w["box"]), x, y)), None)

    # Scenes

    def _advance(self, action: Action) -> Scene:
        self._missed, turn = 0, len(self.episode.turns) - 1
        done = answer(self.tools, self, action, turn, lambda: self._ended() is not None, hint="say one, such as click 3 or key ctrl+s", short=True)
        return self._scene(done.messages, malformed=done.malformed, states=done.states)

    def _scene(self, messages: list[Message], *, first: bool = False, malformed: bool = False, states: Iterable[str] = ()) -> Scene:
        seen, end, frame = self.desktop.seen, self._ended(), self.desktop.frame
        screen = self.desktop.digest
        said = [str(m["content"]) for m in messages if m["content"] != "done"]
        shown = self._described(seen) if end is None else "The task has ended."
        text = "\n".join(filter(None, [*([self.task.instruction, ""] if first else []), *said, shown]))
        told: list[Message] = [{"role": "user", "content": text}]
        if first:
            told = [{"role": "system", "content": self.guide}, *told]
        elif messages and messages[0]["role"] == "tool":
            told = [*messages[:-1], {**messages[-1], "content": text}]
        state = msgspec.json.encode([screen, self._world()], order="deterministic")
        waited = any(c.name == "wait" for c in self.episode.turns[-1].calls) if self.episode.turns else False
        facts: dict[str, Json] = {
            "moved": not first and (waited or state != self._state), "calls": list(states), "screen": screen, "missed": self._missed, **self._facts()
        }  # fmt: skip
        self._state = state
        anchor = "\n".join(line.partition("] ")[2] or line for line in shown.split("\n")) if self._with_tree else screen
        picture = pointed(frame, *seen["pointer"]) if self._painted else None
        return Scene(told, hashlib.blake2b(state, digest_size=12).hexdigest(), anchor, end, malformed, facts, picture)

    def _described(self, seen: Mapping[str, Any]) -> str:
        """The windows, the one in front first, each with its elements."""
        windows, rows, lines = [w for w in reversed(seen["windows"]) if w["shown"]], self._rows(), list[str]()
        left = MOST_SHOWN
        for n, w in enumerate(windows):
            focus = " (focused)" if w["id"] == seen["active"] else ""
            x, y, width, height = w["box"]
            lines.append(f"Window {w['title'][:MOST_NAME]!r}{focus}, {width}x{height} at {x},{y}")
            own = [r for r in rows if r["window"] == w["id"] or (n == 0 and not r["window"])]
            lines += ["  " + described(r) for r in own[:left]]
            if len(own) > left:
                lines.append(f"  (and {len(own) - left} more elements)")
            left = max(0, left - len(own))
        return "\n".join(lines) if lines else "No window is open."

    # What an author of such an environment writes

    guide: ClassVar[str]

    def _ended(self) -> StopReason | None:
        """Why the episode is over."""
        return None

    def _world(self) -> Json:
        """The state of the world behind the screen."""
        return None

    def _facts(self) -> dict[str, Json]:
        """More facts about the turn."""
        return {}


def _inside(box: Iterable[int], x: int, y: int) -> bool:
    left, top, width, height = box
    return left <= x < left + width and top <= y < top + height


def framed(box: Iterable[int]) -> tuple[int, int, int, int]:
    """A window's box with the frame that the window manager draws."""
    x, y, width, height = box
    return x - 1, y - 20, width + 2, height + 25


def described(row: Mapping[str, Any]) -> str:
    """The line of an element."""
    x, y, width, height = row["box"]
    parts = [f"[{row['id']}]", row["role"]]
    if row["name"]:
        parts.append(repr(row["name"][:MOST_NAME]))
    if row["text"]:
        text = row["text"].rstrip("\n")
        parts.append(f"text {text[:600]!r}" + (" …" if len(text) > 600 else ""))
    if row["value"] is not None:
        parts.append(f"value {row['value']:g}")
    return " ".join([*parts, *row["states"], f"at {x + width // 2},{y + height // 2}"])


# Actions as tools


def click(env: GuiEnv, element: Element) -> str:
    """Click an element."""
    return env.do(["click", *env.centre(element), 1, 1])


def double_click(env: GuiEnv, element: Element) -> str:
    """Click an element twice."""
    return env.do(["click", *env.centre(element), 1, 2])


def right_click(env: GuiEnv, element: Element) -> str:
    """Click an element with the right button."""
    return env.do(["click", *env.centre(element), 3, 1])


def drag(env: GuiEnv, element: Element, onto: Element) -> str:
    """Drag an element onto another."""
    return env.do(["drag", *env.centre(element), *env.centre(onto)])


def scroll(env: GuiEnv, element: Element, down: Annotated[int, Meta(ge=-30, le=30)]) -> str:
    """Turn the wheel over an element, by clicks of it; up with a negative number."""
    return env.do(["scroll", *env.centre(element), down, 0])


def click_at(env: GuiEnv, x: Pixel, y: Pixel) -> str:
    """Click a place, in pixels."""
    return env.do(["click", *env.at(x, y), 1, 1])


def double_click_at(env: GuiEnv, x: Pixel, y: Pixel) -> str:
    """Click a place twice."""
    return env.do(["click", *env.at(x, y), 1, 2])


def right_click_at(env: GuiEnv, x: Pixel, y: Pixel) -> str:
    """Click a place with the right button."""
    return env.do(["click", *env.at(x, y), 3, 1])


def drag_at(env: GuiEnv, x: Pixel, y: Pixel, to_x: Pixel, to_y: Pixel) -> str:
    """Drag from one place to another, in pixels."""
    return env.do(["drag", *env.at(x, y), *env.at(to_x, to_y)])


def scroll_at(env: GuiEnv, x: Pixel, y: Pixel, down: Annotated[int, Meta(ge=-30, le=30)], right: Annotated[int, Meta(ge=-30, le=30)] = 0) -> str:
    """Turn the wheel over a place, by clicks of it; up, or left, with a negative number."""
    return env.do(["scroll", *env.at(x, y), down, right])


def type_text(env: GuiEnv, text: Text) -> str:
    """Type into what has the focus."""
    return env.do(["type", text])


def key(env: GuiEnv, keys: Annotated[str, Meta(max_length=60, examples=["Return", "Tab", "Escape", "ctrl+s", "ctrl+a", "alt+F4"])]) -> str:
    """Press a key, or several together, such as ctrl+shift+s, alt+F4, Return, Page_Down."""
    return env.do(["key", keys.strip()])


def wait(env: GuiEnv, seconds: Annotated[int, Meta(ge=1, le=5)] = 1) -> str:
    """Let seconds pass."""
    return env.do(["wait", seconds])


ON_ELEMENTS: Mapping[str, Tool] = {f.__name__: tool(f) for f in (click, double_click, right_click, drag, scroll)}
IN_PIXELS: Mapping[str, Tool] = {f.__name__: tool(f) for f in (click_at, double_click_at, right_click_at, drag_at, scroll_at, key, wait)}
_typed = tool(type_text)
TYPE: Mapping[str, Tool] = {"type": msgspec.structs.replace(_typed, spec=msgspec.structs.replace(_typed.spec, name="type"))}
"""A function may not be called ``type``, a tool may."""
