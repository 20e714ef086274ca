"""From a plan to keys: questions answered by the action itself or asked back, pages read to their end, so that no game turn is lost in ``--More--``."""

from __future__ import annotations

import re

from agentgym.errors import ToolError
from agentgym_nethack.commands import DIRECTIONS, Plan
from agentgym_nethack.engine import ENTER, ESCAPE, SPACE, Game

MOST = 80
"""So many keys may one action need to come to rest."""
_MENU = re.compile(r"\((end|\d+ of \d+)\)")
_ENTRY = re.compile(r"[a-zA-Z$] [-+] ")
TOLD = ("inventory", "attributes", "discoveries", "overview", "look", "eat", "wield", "wear", "put on", "quaff", "drink", "read", "zap", "throw", "")
"""Actions whose menus only tell something."""
_NAMING = re.compile(r"\b(call|name)\b.*\?", re.IGNORECASE)
_FLOOR = re.compile(r"\b(here|there)[;,].*\? \[ynq")


def question(game: Game) -> str:
    """What NetHack waits to be told; empty where it waits for the next command."""
    if game.over():
        return ""
    if game.asks[2]:
        return "\n".join(["choose by answer and letters, or answer esc", *_page(game)])
    if not (game.asks[0] or game.asks[1]):
        return ""
    return game.message().strip() or "NetHack waits for a line of text."


def act(game: Game, plan: Plan) -> list[str]:
    """Do what a plan says; the pages that passed on the way.

    Raises:
        ToolError: it answers, and nothing was asked; or it would give a name. Nothing is changed by either.
    """
    if plan.answering:
        _answer(game, plan.text)
    else:
        for _ in range(8):
            if not (game.asks[0] or game.asks[1] or game.asks[2]):
                break
            game.press(ESCAPE)
        for key in plan.keys:
            game.press(key)
        if len(plan.keys) > 1 and plan.name == "travel":
            game.press(ESCAPE if game.message().startswith("Can") else ord("."))
    asks = game.asks
    if asks[0] or asks[1] or asks[2]:
        return _settled(game, plan)
    return []


def opened(game: Game) -> list[str]:
    """Read the pages that a new game begins with."""
    return _settled(game, Plan())


def raw(game: Game, plan: Plan) -> list[str]:
    """Press keys and nothing else, but that nothing is given a name."""
    for key in plan.keys:
        game.press(key)
        _forbid_names(game)
    return []


def _answer(game: Game, text: str) -> None:
    if game.asks[2]:
        chosen = "" if text.lower() == "esc" else "," if text.lower() == "all" else "".join(text.split())[:40]
        if chosen:
            _select(game, chosen)
        else:
            game.press(ESCAPE)
    elif game.asks[1]:
        for key in text[:70].encode("ascii", "ignore"):
            game.press(key)
        game.press(ENTER)
    elif game.asks[0]:
        said = DIRECTIONS.get(text.lower(), text)
        game.press(ord(said) if len(said) == 1 and ord(said) < 128 else ESCAPE)
    else:
        raise ToolError("NetHack asks nothing now", malformed=True)


def _forbid_names(game: Game) -> None:
    if game.asks[1] and _NAMING.search(game.message()):
        game.press(ESCAPE)
        raise ToolError("nothing is given a name here")


def _settled(game: Game, plan: Plan) -> list[str]:
    """Read pages and answer questions from the plan, until NetHack waits for a command or asks what the plan does not say."""
    pages: list[str] = []
    item, direction, text, items = plan.item, plan.direction, plan.text, plan.items
    for _ in range(MOST):
        asks = game.asks
        if game.over():
            break
        if asks[2]:
            page = _page(game)
            if not items and plan.name not in TOLD and _offers(game, page):
                break
            pages += page
            items = _choose(game, items)
        elif asks[1]:
            _forbid_names(game)
            if not text:
                break
            for key in text.encode("ascii", "ignore"):
                game.press(key)
            game.press(ENTER)
            text = ""
        elif asks[0]:
            asked = game.message()
            if "direction" in asked and direction:
                game.press(ord(direction))
                direction = ""
            elif _FLOOR.search(asked) and item:
                game.press(ord("y" if item == "," else "n"))
                item = "" if item == "," else item
            elif "What do you want to" in asked and item:
                game.press(ord(item))
                item = ""
            elif "add to the current engraving" in asked and text:
                game.press(ord("n"))
            elif pages and pages[-1].startswith("You don't have that"):
                game.press(ESCAPE)
            else:
                break
        else:
            break
    return pages


def _select(game: Game, letters: str) -> None:
    """Choose entries of a menu; one that takes a single choice is closed by it."""
    title = _page(game)[:1]
    for key in letters.encode("ascii", "ignore"):
        game.press(key)
    if game.asks[2] and _page(game)[:1] == title:
        game.press(ENTER)


def _offers(game: Game, page: list[str]) -> bool:
    """Whether a page is a menu to choose from."""
    return any(_ENTRY.match(line) for line in page) and _MENU.search(bytes(game.screen).decode("latin-1")) is not None


def _choose(game: Game, items: str) -> str:
    """Go on to the next page; in a menu that offers a choice, choose ``items``. What is left to be chosen."""
    if items and _MENU.search(bytes(game.screen).decode("latin-1")):
        _select(game, "," if items == "*" else items)
        return ""
    game.press(SPACE)
    return items


def _page(game: Game) -> list[str]:
    """The lines of the page that waits for a key."""
    rows = game.text().split("\n")
    for n, row in enumerate(rows):
        if found := _MENU.search(row):
            return [line for line in (r[found.start() :].strip() for r in rows[:n]) if line]
        if (at := row.find("--More--")) >= 0:
            if n <= 1:
                return [game.message()] if game.message() else []
            return [line for line in (*(r.rstrip() for r in rows[:n]), row[:at].rstrip()) if line.strip()]
    return []
