"""What the desk should look like at the end, as data, and whether it does: a pure function of what was collected."""

from __future__ import annotations

import base64
import configparser
import csv
import hashlib
import io
import json
import re
import zlib
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import msgspec
from agentgym_verifiers.rules.match import same
from msgspec import Struct

from agentgym.core import EpisodeView, Verdict
from agentgym.episode import Episode
from agentgym.sandbox import Entry
from agentgym.verdict import Json

MOST_SHEET = 4 << 20
MARKS = ("b64:", "as:", "sheet:")
"""What stands for bytes; a text that begins like one is no text here, so that nobody can write what stands for a file."""
KEYFILE = ".config/glib-2.0/settings/keyfile"


class Final(Struct, frozen=True):
    """What is there: visible files as text (or base64 behind ``b64:``), settings, the cells of sheets, the widgets on the screen."""

    files: dict[str, str] = {}
    settings: dict[str, str] = {}
    cells: dict[str, list[list[str]]] = {}
    tree: list[dict[str, Json]] = []


def collected(found: Mapping[str, Entry]) -> Final:
    """Files and settings of a home folder. Hidden files are the programs' own."""
    files = {p: as_text(e.data) for p, e in found.items() if e.type == "f" and not any(part.startswith(".") for part in p.split("/"))}
    folders = {p + "/": "" for p, e in found.items() if e.type == "d" and not any(part.startswith(".") for part in p.split("/"))}
    kept = {p: t for p, t in folders.items() if not any(f != p and f.startswith(p) for f in (*files, *folders))}  # folders with nothing in them
    return Final({**files, **kept}, settings_of(found[KEYFILE].data) if KEYFILE in found else {})


def as_text(data: bytes) -> str:
    """Bytes as text, where they are; a spreadsheet as its cells, since its file also says when it was written."""
    if data[:2] == b"\x1f\x8b":
        try:
            inside = zlib.decompressobj(31).decompress(data, MOST_SHEET)
        except zlib.error:
            inside = b""
        if cells := re.findall(rb"<gnm:Cell [^>]*>[^<]*</gnm:Cell>", inside):
            return "sheet:" + hashlib.blake2b(b"".join(sorted(cells)), digest_size=12).hexdigest()
    try:
        text = data.decode()
    except UnicodeDecodeError:
        text = MARKS[0]
    return "b64:" + base64.b64encode(data).decode() if text.startswith(MARKS) else text


def settings_of(data: bytes) -> dict[str, str]:
    """The settings that programs keep in one file, as ``group/key``."""
    parser = configparser.RawConfigParser(strict=False)
    try:
        parser.read_string(data.decode("utf-8", "replace"))
    except configparser.Error:
        return {}
    return {f"{group}/{key}": value for group in parser.sections() for key, value in parser.items(group)}


def parts(goal: Mapping[str, Json], final: Final, said: str | None, refused: str | None) -> dict[str, bool]:
    """Each part of a goal, and whether it is so. ``files`` names every file that should be there; one more is a part that is not so."""
    told: dict[str, bool] = {}
    for path, wanted in goal.get("files", {}).items():
        told[path] = path in final.files and fits(wanted, final.files[path], final.cells.get(path))
    told["nothing else"] = set(final.files) <= set(goal.get("files", {}))
    for name, value in goal.get("settings", {}).items():
        told[name] = final.settings.get(name) == value
    for shown in goal.get("shows", []):
        told[f"shows {shown['text']}"] = any(
            r["program"] == shown["program"] and r["role"] == shown["role"] and shown["text"] in (r["name"], str(r["text"]).strip()) for r in final.tree
        )
    if "answer" in goal:
        told["answer"] = said is not None and same(goal["answer"], said)
    told["refusal"] = refused is not None and goal["refusal"].casefold() in refused.casefold() if "refusal" in goal else refused is None
    return told


def fits(wanted: Mapping[str, Json], text: str, cells: Sequence[Sequence[str]] | None) -> bool:
    """Whether a file is what it should be: ``text`` to the letter (ends of lines aside), ``cells`` of a sheet, a ``record`` of a form, or, to
    the byte, ``as`` a picture or sheet was at the start."""
    if "as" in wanted:
        return text == f"as:{wanted['as']}"
    if "text" in wanted:
        return tidy(text) == tidy(wanted["text"])
    if "record" in wanted:
        try:
            return bool(json.loads(text) == wanted["record"])
        except ValueError:
            return False
    return cells is not None and all(_cell(cells, at) is not None and same(value, str(_cell(cells, at))) for at, value in wanted["cells"].items())


def tidy(text: str) -> str:
    """Text without what editors do at its end."""
    return text.replace("\r\n", "\n").rstrip("\n")


def _cell(cells: Sequence[Sequence[str]], at: str) -> str | None:
    column, row = ord(at[0]) - ord("A"), int(at[1:]) - 1
    return cells[row][column] if row < len(cells) and column < len(cells[row]) else None


def rows_of(text: str) -> list[list[str]]:
    """Comma-separated values as rows."""
    return list(csv.reader(io.StringIO(text)))


def said(episode: Episode, name: str) -> str | None:
    """The argument of the last call of ``answer`` or ``fail``, written as a call or short."""
    for turn in reversed(episode.turns):
        for call in reversed(turn.calls):
            if call.name == name:
                return str(next(iter(call.arguments.values()), ""))
        if not turn.calls and turn.action.split(" ")[0] == name:
            return turn.action.partition(" ")[2]
    return None


class Settled(Struct, frozen=True):
    """Files, settings and the programs' own state are as they should be, with nothing else changed, and what was asked for was answered."""

    level: ClassVar[Literal["outcome"]] = "outcome"

    def __call__(self, view: EpisodeView) -> Verdict:
        final = msgspec.json.decode(view.artefacts["final.json"], type=Final)
        told = parts(view.task.data["goal"], final, said(view.episode, "answer"), said(view.episode, "fail"))
        return Verdict.scored(float(all(told.values())), wrong=[name for name, so in told.items() if not so])


class Reached(Struct, frozen=True):
    """A step verdict: the share of the goal's parts that are so by now (fact ``reached``)."""

    level: ClassVar[Literal["step"]] = "step"

    def __call__(self, view: EpisodeView) -> Verdict:
        return Verdict.scored(float(view.episode.turns[-1].facts.get("reached") or 0.0))


class Live(Struct, frozen=True):
    """A step verdict: 1 unless something was pointed at where nothing takes it: the bare screen, or an element that is disabled."""

    level: ClassVar[Literal["step"]] = "step"

    def __call__(self, view: EpisodeView) -> Verdict:
        return Verdict.scored(float(not view.episode.turns[-1].facts.get("missed")))
