"""The X display, from beside it: pixels through shared memory, input through XTEST, windows, and when all has been drawn. Runs in the sandbox."""

from __future__ import annotations

import ctypes
import os
import select
import time
from typing import Any

from Xlib import XK, X, display
from Xlib.ext import damage, xtest
from Xlib.protocol import event, rq

SPECIAL = {
    "ctrl": "Control_L", "control": "Control_L", "alt": "Alt_L", "shift": "Shift_L", "super": "Super_L", "meta": "Super_L", "enter": "Return",
    "return": "Return", "esc": "Escape", "escape": "Escape", "tab": "Tab", "backspace": "BackSpace", "delete": "Delete", "del": "Delete",
    "space": "space", "up": "Up", "down": "Down", "left": "Left", "right": "Right", "home": "Home", "end": "End", "pageup": "Page_Up",
    "pagedown": "Page_Down", "insert": "Insert", "menu": "Menu", "plus": "plus", "minus": "minus",
}  # fmt: skip
"""Names of keys as people write them, beside those of X."""
QUIET, QUIET_NEW, ANSWER, PRESSED, LIMIT = 0.009, 0.2, 2.5, 0.6, 5.0
"""Seconds without drawing after which a screen is taken for done; the same while windows come or go; within which a window must answer; for
which a key may hold a button of a dialog before it is pressed (GTK waits for a quarter, and choosers of files for two); and in all."""
BUSY = 200_000
"""Nanoseconds of work in that moment that are no work."""
DOUBLE = 0.08
"""Seconds after which two clicks are no double click, a little more than what programs are told (``gtk-double-click-time``)."""
LATE = {"Gnumeric": 0.25, "Thunar": 0.15, "Galculator": 0.3, "Lxterminal": 0.1}
"""Programs that draw part of their window by a timer, and how long it takes at the most."""
BUTTONS = ("Galculator",)
"""Programs in which a key presses a button, which takes no second press before it is let go."""
REMOVE = 0
BACKGROUND = 0x3A5A70


class Attach(rq.Request):  # type: ignore[misc]  # a class of an untyped library
    """MIT-SHM: make a segment known to the server."""

    _request = rq.Struct(rq.Card8("opcode"), rq.Opcode(1), rq.RequestLength(), rq.Card32("segment"), rq.Card32("identifier"), rq.Bool("read_only"), rq.Pad(3))


class GetImage(rq.ReplyRequest):  # type: ignore[misc]
    """MIT-SHM: pixels into a segment."""

    _request = rq.Struct(
        rq.Card8("opcode"), rq.Opcode(4), rq.RequestLength(), rq.Drawable("drawable"), rq.Int16("x"), rq.Int16("y"), rq.Card16("width"),
        rq.Card16("height"), rq.Card32("plane_mask"), rq.Card8("format"), rq.Pad(3), rq.Card32("segment"), rq.Card32("offset"),
    )  # fmt: skip
    _reply = rq.Struct(rq.ReplyCode(), rq.Card8("depth"), rq.Card16("sequence_number"), rq.ReplyLength(), rq.Card32("visual"), rq.Card32("size"), rq.Pad(16))


class Unknown(Exception):
    """There is no such key, or no such window."""


class Screen:
    """One display. Not for several threads."""

    def __init__(self, name: str) -> None:
        self.display = display.Display(name)
        self.display.set_error_handler(lambda *_: None)  # a window that is gone is nobody's fault
        self.root = self.display.screen().root
        self.width, self.height = self.display.screen().width_in_pixels, self.display.screen().height_in_pixels
        self._atom = {
            n: self.display.intern_atom(n)
            for n in ("_NET_CLIENT_LIST", "_NET_ACTIVE_WINDOW", "_NET_WM_NAME", "_NET_WM_PID", "_NET_WM_PING", "WM_PROTOCOLS", "UTF8_STRING",
                      "_NET_CLIENT_LIST_STACKING", "_AGENTGYM_TREE")
        }  # fmt: skip
        self._share()
        self.root.change_attributes(background_pixel=BACKGROUND)
        self.root.clear_area(0, 0, self.width, self.height)
        self.root.change_attributes(event_mask=X.SubstructureNotifyMask | X.PropertyChangeMask)
        self.display.damage_query_version()
        self._damage = self.root.damage_create(damage.DamageReportNonEmpty)
        self.drawn = self._changed = 0.0
        self._pongs: set[int] = set()
        self.pointer = (self.width // 2, self.height // 2)
        self._pressed, self._turns, self._clicked = 0.0, 0, (0.0, -1, -1)
        self._typed: dict[str, float] = {}
        self._programs: dict[int, str] = {}
        self._floating: dict[int, Any] = {}
        self.idle = {"1", str(os.getpid())}
        self._keyboard()
        self.park()

    def _share(self) -> None:
        """A segment of shared memory as large as the screen."""
        libc = ctypes.CDLL(None, use_errno=True)
        libc.shmat.restype = ctypes.c_void_p
        size = self.width * self.height * 4
        identifier = libc.shmget(0, size, 0o1600)
        address = libc.shmat(identifier, None, 0)
        if identifier < 0 or address in (None, 2**64 - 1):
            raise OSError(ctypes.get_errno(), "no shared memory for the screen")
        about = self.display.query_extension("MIT-SHM")
        self._segment, self._opcode = self.display.display.allocate_resource_id(), about.major_opcode
        Attach(display=self.display.display, opcode=self._opcode, segment=self._segment, identifier=identifier, read_only=0)
        self.display.sync()
        libc.shmctl(identifier, REMOVE, None)  # it goes with its last user
        self._memory = (ctypes.c_char * size).from_address(address)

    def pixels(self) -> bytes:
        """The screen as it is: rows of four bytes a pixel, blue, green, red, unused."""
        GetImage(
            display=self.display.display, opcode=self._opcode, drawable=self.root, x=0, y=0, width=self.width, height=self.height, plane_mask=0xFFFFFFFF,
            format=X.ZPixmap, segment=self._segment, offset=0,
        )  # fmt: skip
        return bytes(self._memory.raw)

    # Input

    def _keyboard(self) -> None:
        """Which key, and whether with shift, writes which symbol."""
        first, last = self.display.display.info.min_keycode, self.display.display.info.max_keycode
        self._keys: dict[int, tuple[int, bool]] = {}
        self._unused: list[int] = []
        for code, symbols in enumerate(self.display.get_keyboard_mapping(first, last - first + 1), first):
            if not any(symbols):
                self._unused.append(code)
            for level, symbol in enumerate(symbols[:2]):
                if symbol:
                    self._keys.setdefault(symbol, (code, bool(level)))

    def key_of(self, symbol: int) -> tuple[int, bool]:
        """The key that writes a symbol; one that none does is given to an unused key."""
        if symbol not in self._keys:
            if not self._unused:
                raise Unknown("no key is left for another symbol")
            code = self._unused.pop()
            self.display.change_keyboard_mapping(code, [[symbol, symbol]])
            self.display.sync()
            time.sleep(0.02)
            self._keys[symbol] = code, False
        return self._keys[symbol]

    @staticmethod
    def symbol(name: str) -> int:
        """The symbol of a key's name. Raises ``Unknown``."""
        found = XK.string_to_keysym(SPECIAL.get(name.lower(), name)) or (len(name) == 1 and character(name))
        if not found:
            raise Unknown(f"there is no key {name[:40]!r}; keys are named as in ctrl+s, alt+F4, Return, Tab, Page_Down")
        return int(found)

    def fake(self, kind: int, detail: int = 0, **where: int) -> None:
        """One event, as if from a hand."""
        xtest.fake_input(self.display, kind, detail, **where)

    def move(self, x: int, y: int) -> None:
        """The pointer to a place."""
        self.pointer, self._parked = (x, y), False
        self.fake(X.MotionNotify, x=x, y=y)

    def park(self) -> None:
        """The pointer out of the way: a hint that comes when it rests long enough would make the screen a matter of time. ``pointer`` stays."""
        self.fake(X.MotionNotify, x=self.width - 1, y=self.height - 1)
        self.display.sync()
        self._parked = True

    def button(self, number: int, times: int = 1) -> None:
        """Press and let go. Clicks of another action never count as one with these."""
        if number == 1 and (times > 1 or self._clicked[1:] == self.pointer):
            time.sleep(max(0.0, self._clicked[0] + (PRESSED if self._slow() else DOUBLE) - time.monotonic()))
        self._clicked = time.monotonic(), *self.pointer
        for _ in range(times):
            self.fake(X.ButtonPress, number)
            self.fake(X.ButtonRelease, number)

    def drag(self, x: int, y: int) -> None:
        """From where the pointer is to a place with the first button held, in a few moves."""
        (from_x, from_y), steps = self.pointer, 8
        self.fake(X.ButtonPress, 1)
        for n in range(1, steps + 1):
            self.move(from_x + (x - from_x) * n // steps, from_y + (y - from_y) * n // steps)
            self.display.sync()
            time.sleep(0.01)
        self.settle(park=False)
        self.fake(X.ButtonRelease, 1)

    def key(self, chord: str) -> None:
        """Keys held together, such as ``ctrl+shift+s``. Raises ``Unknown`` before anything is pressed."""
        names = [n for n in chord.split("+") if n] or [chord]
        if chord.endswith("++") or chord == "+":
            names.append("plus")
        keys = [self.key_of(self.symbol(n)) for n in names]
        shift = self.key_of(self.symbol("shift"))[0]
        codes = [c for code, shifted in keys for c in ((shift, code) if shifted and code != shift else (code,))]
        self._pressed = time.monotonic() if names[-1].lower() in ("return", "enter", "space", "kp_enter") and self._dialog() else 0.0
        for code in codes:
            self.fake(X.KeyPress, code)
        for code in reversed(codes):
            self.fake(X.KeyRelease, code)

    def type(self, text: str) -> None:
        """Write characters."""
        shift, self._pressed = self.key_of(self.symbol("shift"))[0], time.monotonic() if text.endswith("\n") and self._dialog() else 0.0
        slow = self._slow()
        for each in text:
            if slow:
                time.sleep(max(0.0, self._typed.get(each, 0.0) + PRESSED - time.monotonic()))
                self._typed[each] = time.monotonic()
            code, shifted = self.key_of(XK.XK_Return if each == "\n" else XK.XK_Tab if each == "\t" else character(each))
            if shifted:
                self.fake(X.KeyPress, shift)
            self.fake(X.KeyPress, code)
            self.fake(X.KeyRelease, code)
            if shifted:
                self.fake(X.KeyRelease, shift)
            if slow:
                self.display.sync()

    def _slow(self) -> bool:
        """Whether the program with the focus is one of ``BUTTONS``."""
        return self._program(self.active()) in BUTTONS

    def _program(self, number: int) -> str:
        """The class of a window, asked once."""
        if number not in self._programs:
            about = self.window(number) if number else None
            self._programs[number] = about["program"] if about else ""
        return self._programs[number]

    # Windows

    def _property(self, window: Any, name: str, kind: int = X.AnyPropertyType) -> Any:
        try:
            found = window.get_full_property(self._atom[name], kind)
        except Exception:  # the window went meanwhile: python-xlib raises classes of its own for each
            return None
        return found.value if found else None

    def clients(self) -> list[int]:
        """The windows, from the lowest to the topmost."""
        return [int(w) for w in (self._property(self.root, "_NET_CLIENT_LIST_STACKING") or [])]

    def active(self) -> int:
        """The window with the focus; 0 if there is none."""
        return int((self._property(self.root, "_NET_ACTIVE_WINDOW") or [0])[0])

    def window(self, number: int) -> dict[str, Any] | None:
        """Title, program, process and box of a window."""
        w = self.display.create_resource_object("window", number)
        try:
            shape, place = w.get_geometry(), w.translate_coords(self.root, 0, 0)
            title, kind, visible = self._property(w, "_NET_WM_NAME"), w.get_wm_class(), w.get_attributes().map_state == X.IsViewable
        except Exception:
            return None
        text = title.decode("utf-8", "replace") if isinstance(title, bytes) else str(title or w.get_wm_name() or "")
        pid = self._property(w, "_NET_WM_PID")
        box = [-place.x, -place.y, shape.width, shape.height]
        return {"id": number, "title": text, "program": kind[1] if kind else "", "pid": int(pid[0]) if pid else 0, "box": box, "shown": visible}

    def _dialog(self) -> bool:
        """Whether the window with the focus belongs to another one."""
        try:
            return bool(self.display.create_resource_object("window", self.active()).get_wm_transient_for())
        except Exception:
            return False

    def _ask_manager(self, number: int, message: str, *data: int) -> None:
        w = self.display.create_resource_object("window", number)
        said = event.ClientMessage(window=w, client_type=self.display.intern_atom(message), data=(32, [*data, *[0] * (5 - len(data))]))
        self.root.send_event(said, event_mask=X.SubstructureRedirectMask | X.SubstructureNotifyMask)

    def bring(self, number: int) -> None:
        """A window to the front, with the focus."""
        self._ask_manager(number, "_NET_ACTIVE_WINDOW", 2, X.CurrentTime)

    def reach(self, x: int, y: int) -> None:
        """Before a click on a window that is not in front: bring it there.

        The window manager could do so at the click itself, but would hold the click back meanwhile, and what comes after it would come before.
        """
        inside = [n for n in reversed(self.clients()) if self._inside(n, x, y)]
        if inside and inside[0] != self.active() and not any(left <= x < left + w and top <= y < top + h for left, top, w, h in self.menus()):
            self.bring(inside[0])
            self.settle()

    def _inside(self, number: int, x: int, y: int) -> bool:
        about = self.window(number)
        if about is None or not about["shown"]:
            return False
        left, top, width, height = about["box"]
        return bool(left <= x < left + width and top <= y < top + height)

    def place(self, number: int, x: int, y: int) -> None:
        """A window, with its frame, to a place on the screen."""
        self._ask_manager(number, "_NET_MOVERESIZE_WINDOW", 0x301, x, y)

    def menus(self) -> list[list[int]]:
        """The boxes of what has no frame: open menus, lists and hints. Known by what the display tells when windows come and go."""
        self._hear(0)
        boxes = []
        for window in list(self._floating.values()):
            try:
                shape = window.get_geometry()
            except Exception:
                continue
            if shape.width > 20 and shape.height > 10:
                boxes.append([shape.x, shape.y, shape.width, shape.height])
        return boxes

    def told(self, number: int) -> bytes:
        """What a window says of its own widgets, for programs without an accessibility interface."""
        value = self._property(self.display.create_resource_object("window", number), "_AGENTGYM_TREE")
        return bytes(value) if isinstance(value, bytes) else b""

    # Settling

    def _ping(self, number: int) -> bool:
        """Ask a window whether it has seen to everything before; whether it is one that answers."""
        w = self.display.create_resource_object("window", number)
        try:
            if self._atom["_NET_WM_PING"] not in (w.get_wm_protocols() or []):
                return False
        except Exception:
            return False
        said = event.ClientMessage(window=w, client_type=self._atom["WM_PROTOCOLS"], data=(32, [self._atom["_NET_WM_PING"], X.CurrentTime, number, 0, 0]))
        w.send_event(said, event_mask=X.NoEventMask)
        return True

    def _hear(self, timeout: float) -> None:
        """Wait for events, and note what they say."""
        if not self.display.pending_events():
            select.select([self.display.fileno()], [], [], max(0.0, timeout))
        for _ in range(self.display.pending_events()):
            e, now = self.display.next_event(), time.monotonic()
            if e.type == self.display.extension_event.DamageNotify:
                self.drawn = now
                self.display.damage_subtract(self._damage, X.NONE, X.NONE)
            elif e.type in (X.MapNotify, X.UnmapNotify, X.DestroyNotify):
                self._changed = now
                self._floating.pop(e.window.id, None)
                if e.type == X.MapNotify and e.override:
                    self._floating[e.window.id] = e.window
            elif e.type == X.PropertyNotify and e.atom in (self._atom["_NET_CLIENT_LIST"], self._atom["_NET_ACTIVE_WINDOW"]):
                self._changed = now
            elif e.type == X.ClientMessage and e.client_type == self._atom["WM_PROTOCOLS"] and e.data[1][0] == self._atom["_NET_WM_PING"]:
                self._pongs.add(int(e.data[1][2]))

    def settle(self, limit: float = LIMIT, park: bool = True) -> str:
        """Wait until what was done has been seen to and drawn. What was not, in words; empty if all is well.

        The window with the focus is asked to answer what comes after the input in its queue; then, for a moment, nothing may be drawn and no
        program may work. The pointer is parked once the input has been seen to.
        """
        self.display.sync()
        began = since = time.monotonic()
        self._hear(0)
        asked, answered, mark, used = 0, True, began, self._work()
        while time.monotonic() - began < limit:
            active = self.active()
            if active and active != asked:
                self._pongs.discard(active)
                asked, answered, since = active, not self._ping(active), time.monotonic()
            while not answered and time.monotonic() - since < ANSWER:
                self._hear(0.02)
                answered = active in self._pongs or active not in self.clients()
                mark, used = time.monotonic(), self._work()
                self._pressed = self._pressed and mark
            if park and not self._parked:
                self.park()
                mark, used = time.monotonic(), self._work()
            coming, quiet = self._changed > began - 0.05, LATE.get(self._program(active), QUIET)
            due = max(max(self.drawn, mark) + (QUIET_NEW if coming else quiet), self._changed + QUIET_NEW if coming else 0.0, self._pressed + PRESSED)
            now, drawn = time.monotonic(), self.drawn
            if now < due:
                self._hear(due - now)
                if self.drawn > drawn:
                    mark, used = time.monotonic(), self._work()
                continue
            spent = self._work()
            if spent - used > BUSY:
                mark, used = time.monotonic(), spent
                continue
            return "" if answered or self.active() != asked else "the window does not answer"
        return "the screen is still changing"

    def _work(self) -> int:
        """Nanoseconds that the programs of this sandbox have worked, all their threads together, more for each that is about to work; the display
        and this one left out."""
        total = 0
        for number in os.listdir("/proc"):
            if number.isdigit() and number not in self.idle:
                try:
                    for task in os.listdir(f"/proc/{number}/task"):
                        with open(f"/proc/{number}/task/{task}/schedstat", "rb", buffering=0) as file:
                            total += int(file.read(64).split()[0])
                        with open(f"/proc/{number}/task/{task}/stat", "rb", buffering=0) as file:
                            if file.read(200).rpartition(b") ")[2][:1] in (b"R", b"D"):
                                total += self._waiting()
                except (OSError, ValueError, IndexError):
                    continue
        return total

    def _waiting(self) -> int:
        """More than before: what is about to work is never idle, however long it waits for its turn."""
        self._turns += 2 * BUSY
        return self._turns


def character(each: str) -> int:
    """The symbol of a character."""
    number = ord(each)
    return number if 0x20 <= number < 0x7F or 0xA0 <= number < 0x100 else 0x01000000 | number
