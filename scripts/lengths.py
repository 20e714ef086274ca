"""Name the modules of more than 250 lines and the functions of more than 40: nothing is forbidden, each is a question. ``make lint`` prints it."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parent.parent
MODULE, FUNCTION = 250, 40


def main() -> None:
    found: list[tuple[int, str]] = []
    for path in sorted(p for room in ("agentgym", "envs", "verifiers", "trainers") for p in (ROOT / room).rglob("*.py")):
        text, name = path.read_text(), str(path.relative_to(ROOT))
        found.append((len(text.splitlines()), name))
        functions = (n for n in ast.walk(ast.parse(text)) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef)))
        found += [((n.end_lineno or n.lineno) - n.lineno + 1, f"{name}:{n.lineno} {n.name}") for n in functions]
    for lines, name in sorted(found, reverse=True):
        if lines > (FUNCTION if ":" in name else MODULE):
            print(f"{lines:>5}  {name}")


if __name__ == "__main__":
    main()
