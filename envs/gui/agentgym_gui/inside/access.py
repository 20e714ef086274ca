"""What the windows say of their widgets: roles, names, states and boxes, over the accessibility bus. Runs in the sandbox.

A program with GTK answers on the bus; one of ours, with Tk, puts the same rows into a property of its window.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from jeepney import DBusAddress, Message, MessageType, Properties, new_method_call
from jeepney.io.blocking import DBusConnection, open_dbus_connection

A11Y = "org.a11y.atspi."
ROOT = "/org/a11y/atspi/accessible/root"
NULL = "/org/a11y/atspi/null"
SHOWING, CHECKED, FOCUSED, SELECTED, PRESSED, SENSITIVE, MANAGES = 25, 4, 12, 23, 20, 24, 31
ROLES = {
    2: "alert", 7: "checkbox", 8: "checkmenuitem", 11: "combobox", 16: "dialog", 23: "frame", 26: "icon", 27: "image", 29: "label", 32: "listitem",
    33: "menu", 35: "menuitem", 37: "tab", 40: "password", 42: "progressbar", 43: "button", 44: "radio", 45: "radiomenuitem", 51: "slider",
    52: "spinbutton", 55: "table", 56: "cell", 57: "columnheader", 60: "terminal", 61: "text", 62: "toggle", 66: "table", 73: "paragraph",
    79: "textbox", 83: "heading", 88: "link", 91: "treeitem", 116: "static",
}  # fmt: skip
"""Those roles of AT-SPI that are told, by their numbers, in the words of the web environments where they have one."""
MOST_CELLS = 240
TEXTS = {"text", "textbox", "terminal", "spinbutton", "password", "paragraph"}
VALUES = {"slider", "spinbutton", "progressbar"}
SILENT = {"static", "image", "label", "icon", "cell", "menuitem", "table", "frame", "dialog"}
"""What says nothing without a name."""
BUS = DBusAddress("/org/freedesktop/DBus", bus_name="org.freedesktop.DBus", interface="org.freedesktop.DBus")
MOST, MOST_TEXT = 400, 2000
SECONDS, EDGE = 3.0, 16


class Node:
    """One widget."""

    def __init__(self, key: tuple[str, str], role: str, name: str, states: int, interfaces: Iterable[str]) -> None:
        self.key, self.role, self.name, self.states, self.interfaces = key, role, name, states, set(interfaces)
        self.children: list[tuple[str, str]] = []
        self.parent: tuple[str, str] = ("", "")
        self.box: list[int] = [0, 0, 0, 0]
        self.text = ""
        self.value: float | None = None
        self.window = 0


def _window_of(nodes: dict[tuple[str, str], Node], node: Node, windows: list[tuple[list[int], int, bytes]]) -> int:
    """The window whose box, frame included, is that of the outermost widget around this one; 0 if there is none."""
    top = node
    while top.parent in nodes and top.parent[1] != ROOT:
        top = nodes[top.parent]
    x, y, width, height = top.box
    for (left, above, w, h), number, _ in windows:
        sides = abs(left - x) <= EDGE and abs(w - width) <= 2 * EDGE
        if sides and -EDGE <= above - y <= 2 * EDGE and abs(above + h - y - height) <= EDGE:
            return number
    return 0


class Access:
    """The accessibility bus of one desktop. Numbers of widgets stay theirs while they live."""

    def __init__(self, address: str) -> None:
        self._bus: DBusConnection = open_dbus_connection(address)
        self._numbers: dict[tuple[str, str], int] = {}

    # The bus

    def _many(self, calls: list[Message]) -> list[Any]:
        """Answers in the order of the calls, all sent before the first is awaited; None for an error, or what came too late."""
        wanted: dict[int, int] = {}
        for i, each in enumerate(calls):
            serial = next(self._bus.outgoing_serial)
            self._bus.send(each, serial=serial)
            wanted[serial] = i
        answers: list[Any] = [None] * len(calls)
        while wanted:
            try:
                said = self._bus.receive(timeout=SECONDS)
            except TimeoutError:
                break
            serial = said.header.fields.get(5, -1)  # the serial that it answers
            if serial in wanted:
                i = wanted.pop(serial)
                answers[i] = said.body if said.header.message_type is MessageType.method_return else None
        return answers

    @staticmethod
    def _at(key: tuple[str, str], interface: str) -> DBusAddress:
        return DBusAddress(key[1], bus_name=key[0], interface=A11Y + interface)

    def _call(self, key: tuple[str, str], interface: str, method: str, signature: str | None = None, *body: Any) -> Message:
        return new_method_call(self._at(key, interface), method, signature, tuple(body))

    def listen(self) -> None:
        """Register for an event that hardly ever comes: without a listener, programs keep no list of their widgets."""
        at = DBusAddress("/org/a11y/atspi/registry", bus_name=A11Y + "Registry", interface=A11Y + "Registry")
        self._many([new_method_call(at, "RegisterEvent", "sass", ("window:minimize", [], "")), new_method_call(at, "RegisterEvent", "s", ("window:minimize",))])

    # The tree

    def programs(self) -> list[str]:
        """The bus names of programs that are on the bus."""
        (found,) = self._many([self._call((A11Y + "Registry", ROOT), "Accessible", "GetChildren")])
        return [name for name, _ in found[0]] if found else []

    def _nodes(self, program: str) -> dict[tuple[str, str], Node]:
        """All widgets that a program has told of, by bus name and path."""
        (found,) = self._many([self._call((program, "/org/a11y/atspi/cache"), "Cache", "GetItems")])
        nodes: dict[tuple[str, str], Node] = {}
        for key, _, parent, _, _, interfaces, name, role, _, states in found[0] if found else []:
            bits = states[0] | (states[1] << 32 if len(states) > 1 else 0)
            node = Node(tuple(key), ROLES.get(role, ""), name, bits, [i.removeprefix(A11Y) for i in interfaces])
            node.parent = tuple(parent)
            nodes[node.key] = node
        return nodes

    def read(self, windows: list[tuple[list[int], int, bytes]], number: bool = True) -> list[dict[str, Any]]:
        """Every widget that can be seen, from top to bottom: ``{id, role, name, box, states, text, value, pid, window}``.

        ``windows`` are box, number and what programs of ours put into a property; a widget's ``window`` is the number of its own, 0 in a menu.
        Without ``number``, what has no number yet is given none (0): looking by itself changes nothing for those who look later.
        """
        found: list[tuple[Any, dict[str, Any]]] = []
        for program in self.programs():
            nodes = self._nodes(program)
            shown = [n for n in nodes.values() if n.states >> SHOWING & 1 and n.role and "Component" in n.interfaces][:MOST]
            shown += [cell for n in shown if n.states >> MANAGES & 1 for cell in self._cells(n)]
            pid = self._fill(program, [*shown, *(n for n in nodes.values() if n.parent[1] == ROOT)])
            for n in shown:
                n.window = _window_of(nodes, n, windows)
            found += [(n.key, self._row(n, pid)) for n in shown if n.box[2] > 0 and n.box[3] > 0 and (n.name or n.text or n.role not in SILENT)]
        for box, window, data in windows:
            found += self._ours(box, window, data)
        found.sort(key=lambda each: (each[1]["pid"], each[1]["box"][1], each[1]["box"][0], each[1]["role"], each[1]["name"]))
        for key, _ in found if number else ():
            self._numbers.setdefault(key, len(self._numbers) + 1)
        return [{"id": self._numbers.get(key, 0), **row} for key, row in found]

    def _cells(self, table: Node) -> list[Node]:
        """The cells of a list or table that tells of them only when asked."""
        (found,) = self._many([self._call(table.key, "Accessible", "GetChildren")])
        keys = [(str(k[0]), str(k[1])) for k in (found[0] if found else [])[:MOST_CELLS] if k[1] != NULL]
        nodes = [n for n in self._asked(keys) if n.states >> SHOWING & 1]
        for n in nodes:
            n.parent = table.key
        for nameless in [n for n in nodes if not n.name]:  # an icon and a text side by side, say
            (parts,) = self._many([self._call(nameless.key, "Accessible", "GetChildren")])
            names = [part.name for part in self._asked([(str(k[0]), str(k[1])) for k in (parts[0] if parts else [])]) if part.name]
            nameless.name = names[0] if names else ""
        return nodes

    def _asked(self, keys: list[tuple[str, str]]) -> list[Node]:
        """Widgets by their keys, asked one by one (but all at once)."""
        n, calls = len(keys), [Properties(self._at(key, "Accessible")).get("Name") for key in keys]
        calls += [self._call(key, "Accessible", "GetRole") for key in keys] + [self._call(key, "Accessible", "GetState") for key in keys]
        answers = self._many(calls)
        found = zip(keys, answers[:n], answers[n : 2 * n], answers[2 * n :], strict=True)
        return [Node(k, ROLES.get(r[0], "cell"), name[0][1], s[0][0] | s[0][1] << 32, ()) for k, name, r, s in found if name and r and s]

    def _fill(self, program: str, nodes: list[Node]) -> int:
        """Boxes, texts and values; the process."""
        calls: list[Message] = [new_method_call(BUS, "GetConnectionUnixProcessID", "s", (program,))]
        calls += [self._call(n.key, "Component", "GetExtents", "u", 0) for n in nodes]
        texts = [n for n in nodes if n.role in TEXTS and "Text" in n.interfaces]
        calls += [self._call(n.key, "Text", "GetText", "ii", 0, -1) for n in texts]
        values = [n for n in nodes if n.role in VALUES and "Value" in n.interfaces]
        calls += [Properties(self._at(n.key, "Value")).get("CurrentValue") for n in values]
        pid, *answers = self._many(calls)
        for node, found in zip(nodes, answers, strict=False):
            node.box = list(found[0]) if found else node.box
        for node, found in zip(texts, answers[len(nodes) :], strict=False):
            node.text = found[0][:MOST_TEXT] if found else ""
        for node, found in zip(values, answers[len(nodes) + len(texts) :], strict=False):
            node.value = found[0][1] if found else None
        return int(pid[0]) if pid else 0

    @staticmethod
    def _row(n: Node, pid: int) -> dict[str, Any]:
        words = {"focused": FOCUSED, "checked": CHECKED, "selected": SELECTED, "pressed": PRESSED}
        states = [w for w, bit in words.items() if n.states >> bit & 1] + ([] if n.states >> SENSITIVE & 1 else ["disabled"])
        return {"role": n.role, "name": n.name, "box": n.box, "states": states, "text": n.text, "value": n.value, "pid": pid, "window": n.window}

    @staticmethod
    def _ours(window: list[int], number: int, data: bytes) -> list[tuple[Any, dict[str, Any]]]:
        """The rows that a program of ours tells, with boxes on the screen."""
        try:
            told = json.loads(data) if data else []
        except ValueError:
            return []
        rows = []
        for each in told[:MOST]:
            x, y, w, h = each["box"]
            row = {"role": each["role"], "name": each["name"], "box": [window[0] + x, window[1] + y, w, h], "states": each["states"], "text": each["text"]}
            rows.append(((str(number), each["path"]), {**row, "value": None, "pid": each["pid"], "window": number}))
        return rows
