"""Actions by name: what an agent says, as the keys that NetHack reads, and the answers to what NetHack then asks."""

from __future__ import annotations

import difflib
import re
from typing import Literal

from msgspec import Struct
from nle.nethack import Command

from agentgym.errors import ToolError

DIRECTIONS = {
    "north": "k", "south": "j", "east": "l", "west": "h", "northeast": "u", "northwest": "y", "southeast": "n", "southwest": "b",
    "up": "<", "down": ">", "self": ".", "here": ".",
}  # fmt: skip
Asks = Literal["", "direction", "prefix", "item", "item direction", "count", "item text", "items", "place"]


class Form(Struct, frozen=True):
    """A command: its key, and what comes after its name."""

    key: int
    takes: Asks = ""


def _k(key: str, takes: Asks = "") -> Form:
    return Form(ord(key), takes)


FORMS: dict[str, Form] = {
    "search": _k("s", "count"), "wait": _k(".", "count"), "up": _k("<"), "down": _k(">"), "pick up": _k(",", "items"), "look": _k(":"),
    "inventory": _k("i"), "eat": _k("e", "item"), "quaff": _k("q", "item"), "drink": _k("q", "item"), "read": _k("r", "item"), "wear": _k("W", "item"),
    "take off": _k("T", "item"), "put on": _k("P", "item"), "remove": _k("R", "item"), "wield": _k("w", "item"), "drop": _k("d", "item"),
    "drop several": _k("D", "items"), "apply": _k("a", "item direction"), "zap": _k("z", "item direction"), "throw": _k("t", "item direction"),
    "fire": _k("f", "direction"), "open": _k("o", "direction"), "close": _k("c", "direction"), "kick": Form(Command.KICK, "direction"),
    "fight": _k("F", "prefix"), "cast": _k("Z", "item direction"), "quiver": _k("Q", "item"), "swap weapons": _k("x"), "pay": _k("p"),
    "engrave": _k("E", "item text"), "travel": _k("_", "place"), "pray": Form(Command.PRAY), "loot": Form(Command.LOOT), "force": Form(Command.FORCE),
    "chat": Form(Command.CHAT, "direction"), "dip": Form(Command.DIP, "item"), "rub": Form(Command.RUB, "item"), "sit": Form(Command.SIT),
    "jump": Form(Command.JUMP), "offer": Form(Command.OFFER, "item"), "invoke": Form(Command.INVOKE, "item"), "untrap": Form(Command.UNTRAP, "direction"),
    "turn undead": Form(Command.TURN), "monster ability": Form(Command.MONSTER), "enhance": Form(Command.ENHANCE), "ride": Form(Command.RIDE, "direction"),
    "tip": Form(Command.TIP, "item"), "wipe": Form(Command.WIPE), "attributes": Form(Command.ATTRIBUTES), "discoveries": _k("\\"),
    "overview": Form(Command.OVERVIEW), "spells": _k("+"),
}  # fmt: skip
"""All but directions. Nothing here gives a name to anything: what is called or named by an agent would stand where the engine's words stand."""

PLACES = {"stairs down": ">", "down": ">", ">": ">", "stairs up": "<", "up": "<", "<": "<", "altar": "_", "_": "_"}


class Plan(Struct, frozen=True):
    """Keys to press at once, and the answers to give to questions in turn: a letter, a direction, or a line of text.

    ``answering``: it answers what NetHack asks now. ``items``: the letters to choose in a menu, ``*`` for all.
    """

    keys: tuple[int, ...] = ()
    item: str = ""
    direction: str = ""
    text: str = ""
    items: str = ""
    answering: bool = False
    name: str = ""


MOVES = {name: Plan((ord(key),), name=name) for name, key in DIRECTIONS.items() if key not in "<>."}
MOVES |= {f"far {name}": Plan((ord(key.upper()),), name=name) for name, key in DIRECTIONS.items() if key not in "<>."}
SINGLE = {name: Plan((form.key,), name=name) for name, form in FORMS.items()}
_SIMPLE = {**SINGLE, **MOVES}
_NAMES = sorted([*FORMS, *MOVES, "answer"], key=len, reverse=True)


def read(line: str) -> Plan:
    """The plan of one action: ``north``, ``far east``, ``search 10``, ``eat a``, ``throw b west``, ``pick up all``, ``engrave - Elbereth``, ``answer y``.

    Raises:
        ToolError: there is no such action; it names the nearest.
    """
    plan = _SIMPLE.get(line)
    if plan is not None:
        return plan
    words = " ".join(line.split())
    lowered = words.lower()
    if lowered in _SIMPLE:
        return _SIMPLE[lowered]
    name = next((n for n in _NAMES if lowered == n or lowered.startswith(f"{n} ")), None)
    if name is None:
        close = difflib.get_close_matches(lowered[:40], _NAMES, n=4, cutoff=0.4) or ["north", "far east", "search 10", "eat a"]
        raise ToolError(f"there is no action {line[:60]!r}; nearest: {', '.join(close)}", malformed=True)
    rest = words[len(name) :].strip()
    if name == "answer":
        return Plan(text=rest, answering=True, name=name)
    if name in MOVES:
        raise ToolError(f"{name} takes nothing after it", malformed=True)
    return _filled(name, FORMS[name], rest)


def _filled(name: str, form: Form, rest: str) -> Plan:
    words = rest.lower().split()
    match form.takes:
        case "count" if len(words) == 1 and words[0].isdecimal() and 1 <= int(words[0]) <= 200:
            return Plan((*map(ord, str(int(words[0]))), form.key), name=name)
        case "direction" if len(words) == 1 and words[0] in DIRECTIONS:
            return Plan((form.key,), direction=DIRECTIONS[words[0]], name=name)
        case "prefix" if len(words) == 1 and words[0] in DIRECTIONS:
            return Plan((form.key, ord(DIRECTIONS[words[0]])), name=name)
        case "item" if len(words) == 1 and _is_item(rest):
            return Plan((form.key,), item=_item(rest), name=name)
        case "item direction" if _is_item(rest[:1]) and len(words) in (1, 2) and len(words[0]) == 1 and (len(words) == 1 or words[1] in DIRECTIONS):
            return Plan((form.key,), item=_item(rest[:1]), direction=DIRECTIONS[words[1]] if len(words) == 2 else "", name=name)
        case "items" if words == ["all"]:
            return Plan((form.key,), items="*", name=name)
        case "items" if words and all(re.fullmatch(r"[a-zA-Z$]", w) for w in rest.split()):
            return Plan((form.key,), items="".join(rest.split()), name=name)
        case "item text" if rest[1:2] in ("", " ") and _is_item(rest[:1]) and len(rest) < 80 and rest.isascii() and rest.isprintable():
            return Plan((form.key,), item=_item(rest[:1]), text=rest[2:], name=name)
        case "place" if rest.lower() in PLACES:
            return Plan((form.key, ord(PLACES[rest.lower()])), name=name)
    wanted = {
        "count": "a number from 1 to 200", "direction": "a direction, such as west", "prefix": "a direction, such as west",
        "item": "the letter of an item", "items": "letters of items, or all", "place": f"one of {', '.join(p for p in PLACES if len(p) > 1)}", "": "nothing",
        "item direction": "the letter of an item, and a direction where one is needed", "item text": "the letter of an item (- for fingers), and a text",
    }  # fmt: skip
    raise ToolError(f"{name} takes {wanted[form.takes]}, not {rest[:40]!r}", malformed=True)


def _is_item(word: str) -> bool:
    return bool(re.fullmatch(r"[a-zA-Z$*?,.#-]|floor", word))


def _item(word: str) -> str:
    return "," if word == "floor" else word


def keys_of(line: str) -> Plan:
    """The plan of raw keys: single characters, ``\\x1b`` and ``^X`` forms, or names in angle brackets (``<esc> <space> <enter>``)."""
    names = {"<esc>": 27, "<space>": 32, "<enter>": 13}
    found: list[int] = []
    for part in re.findall(r"<esc>|<space>|<enter>|\^[@-_]|M-.|.", line, re.DOTALL):
        if part in names:
            found.append(names[part])
        elif len(part) == 2 and part[0] == "^":
            found.append(ord(part[1]) - 64)
        elif part.startswith("M-") and len(part) == 3:
            found.append(ord(part[2]) | 128)
        elif ord(part) < 256:
            found.append(ord(part))
    if not found or len(found) > 60:
        raise ToolError("give 1 to 60 keys, such as j, 20s, <esc>, M-p", malformed=True)
    return Plan(tuple(found), name="keys")
