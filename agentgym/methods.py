"""Published methods as recipes of primitives: rows of data files, gathered from every installed package."""

from __future__ import annotations

from typing import Any

from agentgym.registry import installed, load


def known_methods() -> list[dict[str, Any]]:
    """All rows, by id, each with ``partial``: True while one of its primitives is not installed.

    An entry point of ``agentgym.methods`` gives a document of two keys: ``primitives`` (a published name of each primitive that the
    package has, and where it is) and ``method`` (the rows).
    """
    documents = [load("methods", name)() for name in sorted(installed("methods"))]
    here = {name for document in documents for name in document.get("primitives", {})}
    rows = [row for document in documents for row in document.get("method", [])]
    return [{**row, "partial": not here >= set(row["primitives"])} for row in sorted(rows, key=lambda r: str(r["id"]))]
