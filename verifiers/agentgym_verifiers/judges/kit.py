"""The tools of a judge: a calculator, a search through what is judged, and code in a sandbox of its own. Their context is the matter's lines."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Sequence
from typing import Any

from agentgym.errors import SandboxFault, SandboxRefused, ToolError
from agentgym.messages import tool
from agentgym.sandbox import Image, Resources, start
from agentgym_verifiers.judges.show import MARK, quoted, squeezed

FOUND = 12
"""Lines that a search shows."""

_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv, ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod,
}  # fmt: skip


def value(expression: str) -> float:
    """The value of an arithmetic expression: numbers, + - * / // % ** and brackets.

    Raises:
        ToolError: it is anything else, or too large.
    """

    def of(node: ast.expr) -> float:
        match node:
            case ast.Constant(value=int() | float() as number):
                return number
            case ast.UnaryOp(op=ast.USub(), operand=inner):
                return -of(inner)
            case ast.BinOp(op=ast.Pow(), left=left, right=right):
                base, power = of(left), of(right)
                if abs(power) > 64 or abs(base) > 1e6:
                    raise ToolError("the power is too large")
                return float(base**power)
            case ast.BinOp(op=op, left=left, right=right) if type(op) in _BINARY:
                return float(_BINARY[type(op)](of(left), of(right)))
        raise ToolError("only numbers, + - * / // % ** and brackets")

    if len(expression) > 500:
        raise ToolError("the expression is too long")
    try:
        return of(ast.parse(expression.strip(), mode="eval").body)
    except (SyntaxError, ZeroDivisionError, OverflowError, RecursionError, TypeError) as error:
        raise ToolError(str(error)) from None


def calculate(lines: Sequence[str], expression: str) -> str:
    """The value of an arithmetic expression."""
    return f"{value(expression):.12g}"


def search(lines: Sequence[str], text: str) -> str:
    """The lines of what is judged that hold a text."""
    wanted = squeezed(text)
    found = [f"{MARK}{n}: {line}" for n, line in enumerate(lines, 1) if wanted and wanted in squeezed(line)]
    return "\n".join(found[:FOUND]) + (f"\n{len(found) - FOUND} more" if len(found) > FOUND else "") if found else "nothing"


def run_python(lines: Sequence[str], code: str) -> str:
    """What a Python program prints, run in an empty sandbox without a network."""
    try:
        with start(Image(), Resources(memory=512 << 20, seconds=10.0)) as sandbox:
            sandbox.write({"/work/program.py": code.encode("utf-8", "replace")})
            done = sandbox.exec(["python3", "-I", "program.py"], head=4096, tail=4096)
    except (SandboxFault, SandboxRefused) as fault:
        raise ToolError(f"no program can be run: {fault}") from None
    return quoted(done.output) + (f"\nexit code {done.code}" if done.code else "")


KIT = {t.spec.name: t for t in (tool(calculate), tool(search), tool(run_python))}
