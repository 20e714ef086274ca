"""Specs from text and tables, and back."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import msgspec

from agentgym.errors import SpecError, nearest
from agentgym.rewards.spec import OPS, Spec, World


def load(source: str | Mapping[str, Any] | Spec, world: World | None = None) -> Spec:
    """A spec from a Python expression, a TOML table ``{op = "gate", …}``, or a file of one; checked against ``world`` if there is one.

    Raises:
        SpecError: unknown primitive, wrong argument, unknown verdict, mixed levels, a gate on itself; with the path in the spec.
    """
    if isinstance(source, str) and source.endswith(".toml"):
        source = _from_file(source)
    spec = source if isinstance(source, Spec) else _parse(source) if isinstance(source, str) else _build(source, "reward")
    if world is not None:
        spec.check(world, "reward")
    return spec


def _from_file(path: str) -> Mapping[str, Any]:
    """The table of a TOML file: a run's ``reward.toml`` (its key ``table``), or a spec by itself."""
    try:
        found = tomllib.loads(Path(path).read_text())
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise SpecError("reward", f"cannot read {path}: {error}") from None
    return found.get("table", found)  # type: ignore[no-any-return]  # checked by _build


def to_table(spec: Spec) -> dict[str, Any]:
    """The spec as a TOML table; ``load`` reads it back."""
    fields = {f.name: (getattr(spec, f.name), f) for f in msgspec.structs.fields(spec)}
    given = {k: v for k, (v, f) in fields.items() if f.required or v != f.default}
    return {"op": spec.op, **{k: _plain(v) for k, v in given.items()}}


def _plain(value: Any) -> Any:
    if isinstance(value, Spec):
        return to_table(value)
    if isinstance(value, tuple):
        return [_plain(v) for v in value]
    return {k: _plain(v) for k, v in value.items()} if isinstance(value, dict) else value


def _build(table: Mapping[str, Any], path: str) -> Spec:
    """A node from a table, its parts first."""
    op = table.get("op")
    if op not in OPS:
        raise SpecError(path, f"unknown primitive {op!r}{nearest(str(op), OPS)}")
    cls = OPS[str(op)]
    hints = get_type_hints(cls)
    values = {}
    for key, value in table.items():
        if key == "op":
            continue
        if key not in cls.__struct_fields__:
            raise SpecError(path, f"{op}() has no {key!r}{nearest(key, cls.__struct_fields__)}")
        values[key] = _value(value, hints[key], f"{path}.{key}")
    for field in msgspec.structs.fields(cls):
        if field.required and values.get(field.name) in ((), {}):
            raise SpecError(f"{path}.{field.name}", f"{op}() wants at least one")
    try:
        return cls(**values)
    except TypeError as error:
        raise SpecError(path, f"{op}(): {str(error).lower()}") from None


def _value(value: Any, hint: Any, path: str) -> Any:
    """An argument of the type a field wants."""
    if hint in (Spec, Spec | None):
        if isinstance(value, Spec):
            return value
        if not isinstance(value, Mapping):
            raise SpecError(path, f"wants a spec such as outcome('task'), not {value!r:.60}")
        return _build(value, path)
    if get_origin(hint) is tuple and get_args(hint)[0] is Spec and isinstance(value, (list, tuple)):
        return tuple(_value(v, Spec, f"{path}[{i}]") for i, v in enumerate(value))
    if get_origin(hint) is dict and isinstance(value, Mapping):
        return {k: _value(v, Spec, f"{path}.{k}") for k, v in value.items()}
    try:
        return msgspec.convert(value, hint)
    except msgspec.ValidationError as error:
        raise SpecError(path, str(error)[0].lower() + str(error)[1:]) from None


def _parse(text: str) -> Spec:
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise SpecError("reward", f"not an expression: {getattr(error, 'msg', error)}") from None
    found = _read(tree, "reward")
    if not isinstance(found, Spec):
        raise SpecError("reward", f"not a spec but {found!r:.60}; write for example outcome('task') + 0.1 * step('progress')")
    return found


def _read(node: ast.expr, path: str) -> Any:
    """The value of a syntax tree: names of primitives called, ``+ - *``, literals; nothing else."""
    match node:
        case ast.Constant(value):
            return value
        case ast.UnaryOp(op=ast.USub(), operand=inner):
            return -_read(inner, path)
        case ast.Tuple(elts) | ast.List(elts):
            return tuple(_read(e, f"{path}[{i}]") for i, e in enumerate(elts))
        case ast.Dict(keys, values) if all(isinstance(k, ast.Constant) for k in keys):
            return {k.value: _read(v, f"{path}.{k.value!s}") for k, v in zip(keys, values, strict=True) if isinstance(k, ast.Constant)}
        case ast.BinOp(left, ast.Add() | ast.Sub() | ast.Mult() as sign, right):
            return _combine(_read(left, path), sign, _read(right, path), path)
        case ast.Call(ast.Name(op), args, keywords) if op in OPS:
            names = OPS[op].__struct_fields__
            if len(args) > len(names):
                raise SpecError(path, f"{op}() takes at most {len(names)} arguments")
            given = dict(zip(names, (_read(a, f"{path}.{n}") for a, n in zip(args, names, strict=False)), strict=False))
            return _build({"op": op, **given, **{str(k.arg): _read(k.value, f"{path}.{k.arg}") for k in keywords}}, path)
        case ast.Call(ast.Name(op)):
            raise SpecError(path, f"unknown primitive {op!r}{nearest(op, OPS)}")
    raise SpecError(path, f"{ast.unparse(node)[:60]!r} is no part of a spec")


def _combine(left: Any, sign: ast.operator, right: Any, path: str) -> Any:
    try:
        if isinstance(sign, ast.Mult):
            return left * right
        return left + right if isinstance(sign, ast.Add) else left - right
    except TypeError:
        raise SpecError(path, f"{left!s:.40} and {right!s:.40} cannot be joined") from None
