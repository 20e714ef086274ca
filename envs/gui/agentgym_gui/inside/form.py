"""A form over a record: fields, a Save button, a line that says what happened. ``form.py JSON``; runs in the sandbox.

The JSON has a ``title``, the ``path`` of the record in the home folder, and ``fields``: ``[name, kind, options]`` with kinds entry, choice and
check. The widgets are told in a property of the window, since Tk has no accessibility interface.
"""

from __future__ import annotations

import json
import os
import sys
import tkinter as tk
from pathlib import Path
from tkinter import ttk
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE / "packages")]

from Xlib import Xatom, display  # noqa: E402  # the path comes first


class Form:
    """One window."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self.path, self.fields = Path(os.environ["HOME"], spec["path"]), spec["fields"]
        self.root = tk.Tk()
        self.root.title(spec["title"])
        self.root.option_add("*Font", "{DejaVu Sans} 10")
        ttk.Style().configure(".", font="{DejaVu Sans} 10")
        self.values: dict[str, Any] = {}
        self.widgets: list[tuple[str, str, tk.Widget, str]] = []
        before = json.loads(self.path.read_text()) if self.path.exists() else {}
        body = ttk.Frame(self.root, padding=14)
        body.pack(fill="both", expand=True)
        for row, (name, kind, options) in enumerate(self.fields):
            ttk.Label(body, text=name).grid(row=row, column=0, sticky="w", padx=6, pady=5)
            getattr(self, f"_{kind}")(body, row, name, options, before.get(name))
        self.said = tk.StringVar(value="Not saved yet." if not before else "Saved before.")
        save = ttk.Button(body, text="Save", command=self.save)
        save.grid(row=len(self.fields), column=0, padx=6, pady=12, sticky="w")
        status = ttk.Label(body, textvariable=self.said)
        status.grid(row=len(self.fields), column=1, sticky="w")
        self.widgets += [("button", "Save", save, ""), ("label", "", status, "status")]
        self._display = display.Display()
        for event in ("<KeyRelease>", "<ButtonRelease>", "<Configure>", "<FocusIn>"):
            self.root.bind_all(event, lambda _: self.root.after_idle(self.tell))
        self.root.bind_class("Entry", "<Control-a>", lambda e: e.widget.event_generate("<<SelectAll>>"))
        self.root.after(20, self.tell)

    def _entry(self, body: ttk.Frame, row: int, name: str, options: list[str], value: Any) -> None:
        self.values[name] = tk.StringVar(value=value or "")
        field = tk.Entry(body, textvariable=self.values[name], width=34, insertofftime=0)
        field.grid(row=row, column=1, sticky="w")
        self.widgets.append(("textbox", name, field, name))

    def _choice(self, body: ttk.Frame, row: int, name: str, options: list[str], value: Any) -> None:
        self.values[name] = tk.StringVar(value=value or "")
        line = ttk.Frame(body)
        line.grid(row=row, column=1, sticky="w")
        for each in options:
            radio = ttk.Radiobutton(line, text=each, value=each, variable=self.values[name])
            radio.pack(side="left", padx=3)
            self.widgets.append(("radio", each, radio, name))

    def _check(self, body: ttk.Frame, row: int, name: str, options: list[str], value: Any) -> None:
        self.values[name] = tk.BooleanVar(value=bool(value))
        box = ttk.Checkbutton(body, variable=self.values[name])
        box.grid(row=row, column=1, sticky="w")
        self.widgets.append(("checkbox", name, box, name))

    def save(self) -> None:
        """Write the record, unless a field is empty."""
        record = {name: self.values[name].get() for name, _, _ in self.fields}
        empty = [name for name, kind, _ in self.fields if kind != "check" and not str(record[name]).strip()]
        if empty:
            self.said.set(f"{empty[0]} is empty; nothing was saved.")
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(record, indent=1))
        self.said.set(f"Saved as {self.path.name}.")

    def tell(self) -> None:
        """Put the widgets into a property of the window that the window manager knows."""
        self.root.update_idletasks()
        rows, left, top = [], self.root.winfo_rootx(), self.root.winfo_rooty()
        focused = self.root.focus_get()
        for role, name, widget, field in self.widgets:
            states = ["focused"] if widget is focused else []
            value = self.values[field].get() if field in self.values else ""
            if (role == "checkbox" and value) or (role == "radio" and value == name):
                states.append("checked")
            box = [widget.winfo_rootx() - left, widget.winfo_rooty() - top, widget.winfo_width(), widget.winfo_height()]
            text = self.said.get() if field == "status" else str(value) if role == "textbox" else ""
            rows.append({"role": role, "name": text if field == "status" else name, "path": str(widget), "box": box, "states": states, "pid": os.getpid(),
                         "text": "" if field == "status" else text})  # fmt: skip
        window = self._display.create_resource_object("window", self.root.winfo_id()).query_tree().parent
        window.change_property(self._display.intern_atom("_NET_WM_PID"), Xatom.CARDINAL, 32, [os.getpid()])
        window.change_property(self._display.intern_atom("_AGENTGYM_TREE"), Xatom.STRING, 8, json.dumps(rows).encode())
        self._display.flush()


if __name__ == "__main__":
    Form(json.loads(sys.argv[1])).root.mainloop()
