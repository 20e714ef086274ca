"""Command lines to typed configs: ``--flag value`` over ``@ file.toml`` over defaults."""

from __future__ import annotations

import argparse
import tomllib
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn, Union, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta, Struct

from agentgym.cli.command import Command
from agentgym.errors import UnknownName, UsageError, nearest


class Parsed(Struct):
    """A verb's config and the flags that every verb has."""

    config: Any
    json: bool
    plain: bool


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{self.prog}: {message}")


def parse(command: Command, argv: Sequence[str]) -> Parsed:
    """Read a verb's arguments.

    Raises:
        UsageError, UnknownName: a flag or a key is unknown (with the nearest), or a value does not fit.
    """
    argv, files = _take_files(list(argv))
    parser = make_parser(command)
    known, unknown = parser.parse_known_args(argv)
    given = {k: v for k, v in vars(known).items() if v is not None}
    flags = [f"--{f.replace('_', '-')}" for f in command.config.__struct_encode_fields__]
    for word in unknown:
        if word.startswith("-"):
            raise UnknownName("flag", word.partition("=")[0], [*flags, "--json", "--plain", "--help"])
        raise UsageError(f"{parser.prog}: {word!r} is one argument too many")
    json, plain = given.pop("json"), given.pop("plain")
    return Parsed(_convert(command, {**_read(command, files), **given}), json, plain)


def _take_files(argv: list[str]) -> tuple[list[str], list[str]]:
    """Split ``@ file`` and ``@file`` from the other words."""
    rest: list[str] = []
    files: list[str] = []
    while argv:
        word = argv.pop(0)
        if word == "@":
            if not argv:
                raise UsageError("@ needs a TOML file after it")
            files.append(argv.pop(0))
        elif word.startswith("@"):
            files.append(word[1:])
        else:
            rest.append(word)
    return rest, files


def _read(command: Command, files: Sequence[str]) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for name in files:
        try:
            table = tomllib.loads(Path(name).read_text())
        except OSError as error:
            raise UsageError(f"cannot read {name}: {error.strerror}") from None
        except tomllib.TOMLDecodeError as error:
            raise UsageError(f"{name}: {error}") from None
        known = command.config.__struct_encode_fields__
        for key in table:
            if key.replace("-", "_") not in known:
                raise UsageError(f"{name}: unknown key {key!r}{nearest(key, known)}")
        merged |= {k.replace("-", "_"): v for k, v in table.items()}
    return merged


def _convert(command: Command, values: dict[str, Any]) -> Any:
    for field in msgspec.structs.fields(command.config):
        value = values.get(field.encode_name)
        if isinstance(value, list) and "dict" in str(field.type):
            values[field.encode_name] = dict(_pair(v) for v in value)
    try:
        return msgspec.convert(values, command.config, strict=False)
    except msgspec.ValidationError as error:
        what, _, where = str(error).partition(" - at `$.")
        if "missing required field" in what:
            name = what.rpartition("`")[0].rpartition("`")[2]
            raise UsageError(
                f"agentgym {command.name} needs {name.upper() if name in command.positional else '--' + name.replace('_', '-')}; e.g. {command.example}"
            ) from None
        raise UsageError(f"--{where.rstrip('`').replace('_', '-')}: {what[0].lower()}{what[1:]}") from None


def _pair(text: str) -> tuple[str, Any]:
    """``key=value``; the value is JSON, or a list where it has commas, or text."""
    key, equals, value = text.partition("=")
    if not equals:
        raise UsageError(f"--option wants key=value, not {text!r}")
    try:
        decoded = msgspec.json.decode(value)
    except msgspec.DecodeError:
        decoded = [_pair(f"x={v}")[1] for v in value.split(",")] if "," in value else value
    return key, decoded


def make_parser(command: Command) -> argparse.ArgumentParser:
    """The argparse parser of a verb: also what prints its help."""
    parser = _Parser(prog=f"agentgym {command.name}", description=command.summary, epilog=f"example: {command.example}", allow_abbrev=False)
    hints = get_type_hints(command.config, include_extras=True)
    for field in msgspec.structs.fields(command.config):
        kind, says = _plain_type(hints[field.name])
        name = field.encode_name
        required = field.required
        default = "" if required or field.default in (msgspec.NODEFAULT, None, "", {}) else f" (default {field.default})"
        text = f"{says}{default}".replace("%", "%%")
        if name in command.positional:
            parser.add_argument(name, nargs="*" if get_origin(kind) is list else "?", default=argparse.SUPPRESS, metavar=name.upper(), help=text)
        flag = f"--{name.replace('_', '-')}"
        if name in command.positional:
            parser.add_argument(flag, dest=name, default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        elif kind is bool:
            parser.add_argument(flag, dest=name, action=argparse.BooleanOptionalAction, default=None, help=text)
        elif get_origin(kind) in (dict, list):
            parser.add_argument(flag, dest=name, action="append", help=text)
        else:
            parser.add_argument(flag, dest=name, help=text)
    parser.add_argument("--json", action="store_true", help="print one JSON document on stdout")
    parser.add_argument("--plain", action="store_true", help="plain lines instead of progress bars and colours")
    return parser


def _plain_type(hint: Any) -> tuple[Any, str]:
    """The type behind ``| None`` and ``Annotated``, and its description."""
    if get_origin(hint) in (Union, types.UnionType):
        hint = next(a for a in get_args(hint) if a is not type(None))
    if get_origin(hint) is not Annotated:
        return hint, ""
    kind, *extras = get_args(hint)
    return kind, next((e.description or "" for e in extras if isinstance(e, Meta)), "")
