"""Draw the house: every room with its lines of code, and who imports whom. Prints an SVG; ``make docs`` writes it to ``docs/rooms.svg``."""

from __future__ import annotations

import importlib.util
import tomllib
from collections import Counter
from pathlib import Path

import grimp

ROOT = Path(__file__).parent.parent
WIDTH, ROW, BOX = 980, 62, 34


def rows() -> list[list[str]]:
    """Rooms from the top down, as the import contracts order them."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    packages, rooms = (c["layers"] for c in contracts if c["type"] == "layers")
    return [[name.strip() for name in layer.replace(":", "|").split("|")] for layer in [*packages[:-1], *rooms]]


def room_of(module: str, rooms: set[str]) -> str | None:
    """The room that a module stands in; None for what only re-exports."""
    parts = module.split(".")
    return next((".".join(parts[:n]) for n in range(len(parts), 0, -1) if ".".join(parts[:n]) in rooms), None)


def lines_of(module: str) -> int:
    """How many lines a module has."""
    spec = importlib.util.find_spec(module)
    return len(Path(spec.origin).read_text().splitlines()) if spec and spec.origin else 0


def edges(graph: grimp.ImportGraph, rooms: set[str]) -> Counter[tuple[str, str]]:
    """How many imports lead from each room to each other."""
    found: Counter[tuple[str, str]] = Counter()
    for importer in graph.modules:
        for imported in graph.find_modules_directly_imported_by(importer):
            pair = room_of(importer, rooms), room_of(imported, rooms)
            if None not in pair and pair[0] != pair[1]:
                found[pair] += 1
    return found


def draw() -> str:
    """The picture."""
    layers = rows()
    rooms = {name for layer in layers for name in layer}
    graph = grimp.build_graph(*sorted({name.partition(".")[0] for name in rooms}), exclude_type_checking_imports=True)
    size: Counter[str] = Counter()
    for module in graph.modules:
        if (room := room_of(module, rooms)) is not None:
            size[room] += lines_of(module)
    place = {name: (_across(n, k, len(layer)), 30 + n * ROW) for n, layer in enumerate(layers) for k, name in enumerate(layer)}
    lines, boxes = [], []
    for (a, b), n in sorted(edges(graph, rooms).items()):
        (x, y), (u, v) = place[a], place[b]
        bend = (v - y) / 2
        lines.append(f'<path d="M{x:.0f} {y:.0f}C{x:.0f} {y + bend:.0f} {u:.0f} {v - bend:.0f} {u:.0f} {v:.0f}" stroke-width="{min(6, 0.6 + n / 6):.1f}"/>')
    for name, (x, y) in place.items():
        short = name.removeprefix("agentgym.")
        wide = 9 * len(short) + 70
        boxes.append(
            f'<rect x="{x - wide / 2:.0f}" y="{y - BOX / 2:.0f}" width="{wide}" height="{BOX}" rx="6"/>'
            f'<text x="{x:.0f}" y="{y + 5:.0f}">{short} <tspan fill="#777">{size[name]}</tspan></text>'
        )
    style = "path{fill:none;stroke:#4477aa;opacity:.35}rect{fill:#fff;stroke:#333}text{font:14px sans-serif;text-anchor:middle}"
    height = len(layers) * ROW + 10
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"><style>{style}</style>'
    return f'{head}<rect width="{WIDTH}" height="{height}" style="stroke:none"/>{"".join(lines)}{"".join(boxes)}</svg>\n'


def _across(layer: int, k: int, n: int) -> float:
    """Where a room stands in its layer; those alone in theirs stand left and right in turn, so that imports past them can be seen."""
    return WIDTH * (0.5 + (0.17 if layer % 2 else -0.17)) if n == 1 else (k + 0.5) * WIDTH / n


if __name__ == "__main__":
    print(draw(), end="")
