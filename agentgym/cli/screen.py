"""What people see of long work: a progress bar on a terminal, plain lines elsewhere; always on stderr."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class Screen:
    """Where a verb shows what it does. ``plain`` writes lines even on a terminal."""

    def __init__(self, plain: bool = False) -> None:
        self.err, self.out = Console(stderr=True), Console()
        if not self.out.is_terminal:
            self.out.width = 160
        self.plain = plain or not self.err.is_terminal
        self._bar: Progress | None = None
        self._last = 0.0
        self._task = ""
        self._began = 0.0, 0

    def say(self, text: RenderableType) -> None:
        """One line, above the bar if there is one."""
        (self._bar.console if self._bar else self.err).print(text, highlight=False, soft_wrap=self.plain)

    @contextmanager
    def working(self) -> Iterator[None]:
        """Show progress while the block runs."""
        if self.plain:
            yield
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        with Progress(*columns, console=self.err, transient=True) as self._bar:
            yield
        self._bar = None

    def progress(self, what: str, done: int, total: int, note: str = "") -> None:
        """Move the bar of ``what``; on plain output a line at the ends and every five seconds."""
        if self._bar is not None:
            found = [t for t in self._bar.tasks if t.description == what]
            task = found[0].id if found else self._bar.add_task(what, total=total, note=note)
            self._bar.update(task, completed=done, total=total, note=note)
            return
        now = time.monotonic()
        if what != self._task:
            self._began = now, done
        if self.plain and (done == total or what != self._task or now - self._last >= 5.0):
            self._last, self._task = now, what
            self.say(f"{what} {done}/{total} {note}{self._eta(now, done, total)}".rstrip())

    def _eta(self, now: float, done: int, total: int) -> str:
        """How long the rest will take at the pace so far."""
        began, first = self._began
        if done <= first or done >= total:
            return ""
        return f"  {(now - began) / (done - first) * (total - done):.0f} s left"
