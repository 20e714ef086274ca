"""A run's record as rows: one small summary per episode and where its line stands, so that any episode is one read away. Follows a growing file."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from agentgym.errors import UsageError
from agentgym.verdict import Verdict

ROWS = 2000
"""Rows of one answer."""


class _Known(Struct):
    """What a list shows as it stands in the record."""

    id: str
    task: str = ""
    kind: str = ""
    policy: str = ""
    attempt: int = 0
    status: str = "running"
    parent: tuple[str, int] | None = None


class Row(_Known, kw_only=True):
    """What a list shows of an episode. ``status`` is ``broken`` where its line could not be read."""

    n: int
    success: bool = False
    reward: float = 0.0
    turns: int = 0
    stop: str = ""
    why: str = ""


class _Nothing(Struct):
    """A turn, counted and not read."""


class _Worth(Struct):
    value: float = 0.0


class _Slim(_Known):
    """The few fields of an episode that a list needs; the rest is skipped by the decoder."""

    stop_reason: str | None = None
    fault: str | None = None
    verdicts: dict[str, Verdict] = {}
    terms: list[_Worth] = []
    turns: list[_Nothing] = []


_DECODER = msgspec.json.Decoder(_Slim)


class Index:
    """Rows of ``episodes.jsonl``, read as far as it was written when ``refresh`` was last asked.

    Raises:
        UsageError: the folder holds no record.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "episodes.jsonl"
        if not self.path.is_file():
            raise UsageError(f"{folder} is not a run folder: it has no episodes.jsonl")
        self.rows: list[Row] = []
        self._places: list[tuple[int, int]] = []
        self._end = 0
        self._lock = threading.Lock()

    def refresh(self, most: int | None = None) -> bool:
        """Read on, at most ``most`` further episodes; whether everything that is there has been read. A file that was cut is read again."""
        with self._lock:
            try:
                size = self.path.stat().st_size
            except FileNotFoundError:
                size = 0
            if size < self._end:
                self.rows, self._places, self._end = [], [], 0
            if size == self._end:
                return True
            done = 0
            with self.path.open("rb") as file:
                file.seek(self._end)
                while most is None or done < most:
                    line = file.readline()
                    if not line.endswith(b"\n"):
                        return True
                    self._places.append((self._end, len(line)))
                    self.rows.append(_row(len(self.rows), line))
                    self._end += len(line)
                    done += 1
            return self._end >= size

    def line(self, n: int) -> bytes:
        """The record of an episode, as it stands. Raises ``IndexError`` if there is no such row."""
        start, length = self._places[n]
        with self.path.open("rb") as file:
            file.seek(start)
            return file.read(length)

    def summary(self) -> dict[str, Any]:
        """Counts over the rows so far."""
        valid = [r for r in self.rows if r.status == "valid"]
        return {
            "episodes": len(self.rows), "valid": len(valid), "success": sum(r.success for r in valid) / len(valid) if valid else None,
            "policies": sorted({r.policy for r in self.rows if r.policy})[:20], "kinds": sorted({r.kind for r in self.rows if r.kind})[:200],
        }  # fmt: skip


def _row(n: int, line: bytes) -> Row:
    try:
        e = _DECODER.decode(line)
    except msgspec.MsgspecError as error:
        return Row(id=f"line {n + 1}", n=n, status="broken", why=str(error)[:200])
    won = e.status == "valid" and bool(e.verdicts) and all(v.status == "scored" and v.value == 1.0 for v in e.verdicts.values())
    total = sum(t.value for t in e.terms)
    return Row(
        e.id, e.task, e.kind, e.policy, e.attempt, e.status, e.parent, n=n, success=won, reward=total, turns=len(e.turns), stop=e.stop_reason or "",
        why=(e.fault or "")[:200],
    )  # fmt: skip
