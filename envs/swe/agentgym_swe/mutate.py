"""Procedural bugs: operators over the syntax tree that give small edits of the source text, so that comments and layout stay.

Each operator is a generator over one module that yields alternatives; ``candidates`` gathers them. Kinds follow "SWE-smith: Scaling Data
for Software Engineering Agents", section on procedural modification, and mutation testing before it.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property

from msgspec import Struct

Function = ast.FunctionDef | ast.AsyncFunctionDef


class Edit(Struct, frozen=True):
    """Replace ``data[start:end]`` of a file, by bytes, which now reads ``old``, with ``new``."""

    path: str
    start: int
    end: int
    old: str
    new: str


class Bug(Struct, frozen=True):
    """Edits that belong together, and the operators that made them."""

    operators: tuple[str, ...]
    edits: tuple[Edit, ...]
    where: str


class Module:
    """One source file: its text, its tree, and where nodes lie in bytes."""

    def __init__(self, path: str, data: bytes, others: Mapping[str, bytes] | None = None) -> None:
        self.path, self.data, self.others = path, data, others or {}
        self.tree = ast.parse(data)
        self.starts = [0]
        for line in data.splitlines(keepends=True):
            self.starts.append(self.starts[-1] + len(line))

    def span(self, node: ast.AST) -> tuple[int, int]:
        """First and last byte of a node."""
        return (
            self.starts[node.lineno - 1] + node.col_offset,  # type: ignore[attr-defined]  # expressions and statements have them
            self.starts[node.end_lineno - 1] + node.end_col_offset,  # type: ignore[attr-defined]
        )

    def text(self, node: ast.AST) -> str:
        """The source of a node."""
        start, end = self.span(node)
        return self.data[start:end].decode()

    def replace(self, node: ast.AST, new: str) -> Edit:
        """An edit that puts ``new`` in a node's place."""
        start, end = self.span(node)
        return Edit(self.path, start, end, self.data[start:end].decode(), new)

    def between(self, left: ast.AST, right: ast.AST, old: str, new: str) -> Edit | None:
        """An edit of the operator between two nodes; None if the text there is not just that."""
        start, end = self.span(left)[1], self.span(right)[0]
        gap = self.data[start:end].decode()
        if gap.count(old) != 1 or gap.replace(old, "").strip(" \\\n\t()"):
            return None
        at = start + len(gap[: gap.index(old)].encode())
        return Edit(self.path, at, at + len(old.encode()), old, new)

    @cached_property
    def functions(self) -> list[tuple[str, Function]]:
        """Functions and methods with their dotted names."""
        found: list[tuple[str, Function]] = []

        def visit(node: ast.AST, prefix: str) -> None:
            for child in ast.iter_child_nodes(node):
                if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
                    found.append((f"{prefix}{child.name}", child))
                    visit(child, f"{prefix}{child.name}.")
                elif isinstance(child, ast.ClassDef):
                    visit(child, f"{prefix}{child.name}.")
                else:
                    visit(child, prefix)

        visit(self.tree, "")
        return found


Found = Iterator[list[Edit]]
Operator = Callable[[Module, Function], Found]
_COMPARE = {
    ast.Eq: "==", ast.NotEq: "!=", ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.In: "in", ast.NotIn: "not in", ast.Is: "is",
    ast.IsNot: "is not",
}  # fmt: skip
_BOUNDARY = {"<": "<=", "<=": "<", ">": ">=", ">=": ">"}
_OPPOSITE = {"==": "!=", "!=": "==", "in": "not in", "not in": "in", "is": "is not", "is not": "is"}
_ARITHMETIC = {ast.Add: ("+", "-"), ast.Sub: ("-", "+"), ast.Mult: ("*", "+"), ast.FloorDiv: ("//", "*"), ast.Mod: ("%", "//"), ast.Pow: ("**", "*")}


def _inside(function: Function) -> Iterator[ast.AST]:
    """The nodes of a function's body, those of functions inside it left to them; docstrings left out."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    waiting: list[ast.AST] = list(body)
    while waiting:
        node = waiting.pop(0)
        yield node
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.JoinedStr)):
            waiting += list(ast.iter_child_nodes(node))


def _compare(module: Module, function: Function, table: Mapping[str, str]) -> Found:
    for node in _inside(function):
        if isinstance(node, ast.Compare) and len(node.ops) == 1:
            old = _COMPARE[type(node.ops[0])]
            if old in table and (edit := module.between(node.left, node.comparators[0], old, table[old])):
                yield [edit]


def boundary(module: Module, function: Function) -> Found:
    """``<`` for ``<=`` and the like."""
    return _compare(module, function, _BOUNDARY)


def comparison(module: Module, function: Function) -> Found:
    """A test turned into its opposite."""
    return _compare(module, function, _OPPOSITE)


def arithmetic(module: Module, function: Function) -> Found:
    """Another operator between two values."""
    for node in _inside(function):
        if isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC:
            old, new = _ARITHMETIC[type(node.op)]
            if not (isinstance(node.left, ast.Constant) and isinstance(node.left.value, str)) and (edit := module.between(node.left, node.right, old, new)):
                yield [edit]


def logic(module: Module, function: Function) -> Found:
    """``and`` for ``or``."""
    for node in _inside(function):
        if isinstance(node, ast.BoolOp) and len(node.values) == 2:
            old, new = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
            if edit := module.between(node.values[0], node.values[1], old, new):
                yield [edit]


def dropped_condition(module: Module, function: Function) -> Found:
    """One of two conditions forgotten."""
    for node in _inside(function):
        if isinstance(node, ast.BoolOp) and len(node.values) == 2:
            for keep in node.values:
                yield [module.replace(node, f"({module.text(keep)})" if "\n" in module.text(keep) else module.text(keep))]


def negated(module: Module, function: Function) -> Found:
    """A condition the wrong way round."""
    for node in _inside(function):
        if isinstance(node, (ast.If, ast.While)) and "\n" not in module.text(node.test):
            test = node.test
            if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
                yield [module.replace(test, module.text(test.operand))]
            elif isinstance(test, (ast.Name, ast.Call, ast.Attribute)):
                yield [module.replace(test, f"not {module.text(test)}")]


def wrong_variable(module: Module, function: Function) -> Found:
    """Another variable of the same function."""
    arguments = [a.arg for a in (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs) if a.arg not in ("self", "cls")]
    stored = [n.id for n in _inside(function) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]
    names = list(dict.fromkeys([*arguments, *stored]))
    for node in _inside(function):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in names and len(names) > 1:
            yield [module.replace(node, names[(names.index(node.id) + 1) % len(names)])]


def dropped_branch(module: Module, function: Function) -> Found:
    """A guard without its body, or an ``else`` that does nothing."""
    for node in _inside(function):
        if not isinstance(node, ast.If):
            continue
        if not node.orelse and isinstance(node.body[-1], (ast.Return, ast.Raise, ast.Continue)):
            yield [_emptied(module, node.body)]
        elif node.orelse and not (len(node.orelse) == 1 and isinstance(node.orelse[0], ast.If)):
            yield [_emptied(module, node.orelse)]


def _emptied(module: Module, body: list[ast.stmt]) -> Edit:
    start, end = module.span(body[0])[0], module.span(body[-1])[1]
    return Edit(module.path, start, end, module.data[start:end].decode(), "pass")


def dropped_call(module: Module, function: Function) -> Found:
    """A call for its effect that is not made."""
    for node in _inside(function):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            yield [module.replace(node, "pass")]


def swapped_arguments(module: Module, function: Function) -> Found:
    """Two arguments of a call in the wrong order."""
    for node in _inside(function):
        if isinstance(node, ast.Call) and len(node.args) >= 2 and not any(isinstance(a, ast.Starred) for a in node.args[:2]):
            one, two = node.args[:2]
            if module.text(one) != module.text(two):
                yield [module.replace(one, module.text(two)), module.replace(two, module.text(one))]


def wrong_default(module: Module, function: Function) -> Found:
    """Another default of a parameter."""
    for value in (*function.args.defaults, *(d for d in function.args.kw_defaults if d is not None)):
        if isinstance(value, ast.Constant) and (new := _other(value.value)) is not None:
            yield [module.replace(value, new)]


def constant(module: Module, function: Function) -> Found:
    """Another number or flag."""
    for node in _inside(function):
        if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)) and (new := _other(node.value)) is not None:
            yield [module.replace(node, new)]


def _other(value: object) -> str | None:
    if isinstance(value, bool):
        return str(not value)
    if isinstance(value, int):
        return str(value + 1)
    if isinstance(value, str):
        return repr(value[:-1]) if value else "' '"
    return "0" if value is None else None


def exception_swallowed(module: Module, function: Function) -> Found:
    """An error that is not raised, or a handler that passes over everything."""
    for node in _inside(function):
        if isinstance(node, ast.Raise) and node.exc is not None:
            yield [module.replace(node, "return None")]
        elif isinstance(node, ast.ExceptHandler) and not all(isinstance(s, ast.Pass) for s in node.body):
            yield [_emptied(module, node.body)]


def off_by_one(module: Module, function: Function) -> Found:
    """A slice or an index one too far."""
    for node in _inside(function):
        if not isinstance(node, ast.Subscript):
            continue
        parts = [node.slice.lower, node.slice.upper] if isinstance(node.slice, ast.Slice) else [node.slice]
        for part in parts:
            if part is None:
                continue
            if isinstance(part, ast.Constant) and type(part.value) is int:
                yield [module.replace(part, str(part.value + 1))]
            elif isinstance(part, ast.UnaryOp) and isinstance(part.operand, ast.Constant) and type(part.operand.value) is int:
                yield [module.replace(part, f"-{part.operand.value + 1}")]
            elif isinstance(node.slice, ast.Slice) and isinstance(part, ast.Name):
                yield [
                    module.replace(part, f"{part.id} - 1"),
                ]


def missing_return(module: Module, function: Function) -> Found:
    """A result that is computed and not given back."""
    for node in _inside(function):
        if isinstance(node, ast.Return) and node.value is not None and not (isinstance(node.value, ast.Constant) and node.value.value is None):
            yield (
                [module.replace(node, module.text(node.value))]
                if isinstance(node.value, (ast.Call, ast.Name, ast.Attribute))
                else [module.replace(node, "return None")]
            )


def state_not_reset(module: Module, function: Function) -> Found:
    """An attribute, or a variable in a loop, that keeps its old value."""
    for node in _inside(function):
        if isinstance(node, ast.Assign) and len(node.targets) == 1:
            target, value = node.targets[0], node.value
            plain = isinstance(value, ast.Constant) or (isinstance(value, (ast.List, ast.Dict, ast.Tuple)) and "Name(" not in ast.dump(value))
            attribute, starting = isinstance(target, ast.Attribute), function.name == "__init__"
            if isinstance(target, ast.Subscript) or (attribute and plain != starting):
                yield [module.replace(node, "pass")]


def loop_control(module: Module, function: Function) -> Found:
    """``break`` for ``continue``, or the other way."""
    for node in _inside(function):
        if isinstance(node, ast.Break):
            yield [module.replace(node, "continue")]
        elif isinstance(node, ast.Continue):
            yield [module.replace(node, "break")]


def signature(module: Module, function: Function) -> Found:
    """Two parameters in another order, while callers in other files pass them as before."""
    arguments = [*function.args.posonlyargs, *function.args.args]
    own = [a for a in arguments if a.arg not in ("self", "cls")]
    free = len(arguments) - len(function.args.defaults)
    if len(own) < 2 or arguments.index(own[1]) >= free:
        return
    if any(f"{function.name}(".encode() in data for path, data in module.others.items() if path != module.path):
        yield [module.replace(own[0], module.text(own[1])), module.replace(own[1], module.text(own[0]))]


OPERATORS: dict[str, Operator] = {
    f.__name__: f
    for f in (
        boundary, comparison, arithmetic, logic, dropped_condition, negated, wrong_variable, dropped_branch, dropped_call, swapped_arguments, wrong_default,
        constant, exception_swallowed, off_by_one, missing_return, state_not_reset, loop_control, signature,
    )
}  # fmt: skip


def candidates(sources: Mapping[str, bytes]) -> list[Bug]:
    """Every single bug that the operators can make in these files, in a fixed order; not all of them still parse."""
    found = []
    for path in sorted(sources):
        module = Module(path, sources[path], sources)
        for name, function in module.functions:
            for operator, make in OPERATORS.items():
                found += [Bug((operator,), tuple(edits), f"{path}:{name}") for edits in make(module, function)]
    return found


def compiles(data: bytes) -> bool:
    """Whether a source compiles. Not by ``ast.parse``: in Python 3.11 its trees cannot be made on two threads at once."""
    try:
        compile(data, "source", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def combined(one: Bug, two: Bug) -> Bug:
    """Two bugs at once; they must not touch each other."""
    return Bug(one.operators + two.operators, one.edits + two.edits, f"{one.where} {two.where}")


def apply(sources: Mapping[str, bytes], bug: Bug) -> dict[str, bytes]:
    """The files that a bug changes, changed.

    Raises:
        ValueError: a file is not what the edits were made for.
    """
    changed: dict[str, bytes] = {}
    for edit in sorted(bug.edits, key=lambda e: (e.path, -e.start)):
        data = changed.get(edit.path, sources[edit.path])
        if data[edit.start : edit.end] != edit.old.encode():
            raise ValueError(f"{edit.path}: the source is not the one this bug was made for")
        changed[edit.path] = data[: edit.start] + edit.new.encode() + data[edit.end :]
    return changed
