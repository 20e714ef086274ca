"""Spreadsheets as files: written for the start of a task, and read by the spreadsheet's own converter where the agent never was."""

from __future__ import annotations

import gzip
from collections.abc import Mapping, Sequence
from typing import Any
from xml.sax.saxutils import escape

from agentgym.errors import SandboxFault
from agentgym.sandbox import WORK, start
from agentgym_gui.desk.goal import rows_of
from agentgym_gui.desktop import RESOURCES, image

NUMBER, TEXT = 40, 60
"""Gnumeric's types of values."""


def gnumeric(rows: Sequence[Sequence[Any]]) -> bytes:
    """Rows of cells as a file of Gnumeric's own kind."""
    cells = "".join(
        f'<gnm:Cell Row="{r}" Col="{c}" ValueType="{NUMBER if isinstance(v, (int, float)) else TEXT}">{escape(str(v))}</gnm:Cell>'
        for r, row in enumerate(rows)
        for c, v in enumerate(row)
        if v != ""
    )
    text = (
        '<?xml version="1.0" encoding="UTF-8"?><gnm:Workbook xmlns:gnm="http://www.gnumeric.org/v10.dtd"><gnm:SheetNameIndex>'
        f"<gnm:SheetName>Sheet1</gnm:SheetName></gnm:SheetNameIndex><gnm:Sheets><gnm:Sheet><gnm:Name>Sheet1</gnm:Name><gnm:Cells>{cells}"
        "</gnm:Cells></gnm:Sheet></gnm:Sheets></gnm:Workbook>"
    )
    return gzip.compress(text.encode(), mtime=0)


def converted(files: Mapping[str, bytes], kind: str) -> dict[str, list[list[str]]]:
    """The cells of spreadsheets, by path, as a fresh sandbox of a kind works them out; those that are no spreadsheets are left out.

    Raises:
        SandboxFault: the sandbox broke.
    """
    found: dict[str, list[list[str]]] = {}
    if not files:
        return found
    with start(image(), RESOURCES, kind) as sandbox:
        for n, (path, data) in enumerate(files.items()):
            sandbox.write({f"{WORK}/{n}.gnumeric": data})
            done = sandbox.exec(["ssconvert", f"{n}.gnumeric", f"{n}.csv"], timeout=20, env={"HOME": "/tmp"})
            if done.timed_out or done.oom:
                raise SandboxFault(f"reading {path} took too long")
            if done.code == 0:
                found[path] = rows_of(sandbox.read(f"{WORK}/{n}.csv", 1 << 22).decode("utf-8", "replace"))
    return found
