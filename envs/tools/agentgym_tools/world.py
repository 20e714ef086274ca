"""The office as data: tables, words, and rows drawn from a seed, one table at a time and only when asked for."""

from __future__ import annotations

import random
from typing import Any

from agentgym_tools import words

Row = dict[str, Any]
Rows = dict[str, dict[Any, tuple[Any, ...]]]
"""All rows of all tables, by table and id."""

COLUMNS: dict[str, tuple[str, ...]] = {
    "contacts": ("id", "name", "team", "email", "phone", "city"),
    "mails": ("id", "folder", "sender", "recipient", "subject", "body"),
    "events": ("id", "title", "day", "hour", "room", "owner"),
    "files": ("id", "name", "folder", "owner", "version", "text"),
    "tickets": ("id", "title", "status", "priority", "owner", "customer", "note"),
    "orders": ("id", "customer", "item", "quantity", "price", "status", "city"),
    "payments": ("id", "order_id", "amount", "status"),
    "cells": ("id", "value"),
}


class World:
    """The rows that a seed gives, made table by table. Also a template's source of choices (``pick``, ``choice``)."""

    def __init__(self, seed: str) -> None:
        self.seed = seed
        self.rng = random.Random(f"{seed}/choices")
        self._tables: dict[str, list[Row]] = {}

    def rows(self, table: str) -> list[Row]:
        """All rows of a table, in the order of their ids."""
        if table not in self._tables:
            self._tables[table] = _MAKERS[table](self, random.Random(f"{self.seed}/{table}"))
        return self._tables[table]

    def tuples(self) -> Rows:
        """All rows of all tables."""
        return {t: {r["id"]: tuple(r.values()) for r in self.rows(t)} for t in COLUMNS}

    def pick(self, table: str, **where: Any) -> Row:
        """One row that fits; LookupError if none does (the task's seed is then passed over)."""
        fitting = self.all(table, **where)
        if not fitting:
            raise LookupError(f"no {table} with {where}")
        return self.rng.choice(fitting)

    def all(self, table: str, **where: Any) -> list[Row]:
        """All rows that fit."""
        return [r for r in self.rows(table) if all(r[k] == v for k, v in where.items())]

    def single(self, table: str, column: str) -> Row:
        """A row whose value in ``column`` no other row of the table has."""
        rows = self.rows(table)
        return self.rng.choice([r for r in rows if sum(o[column] == r[column] for o in rows) == 1])

    def choice(self, options: Any, *, but: Any = None) -> Any:
        """One of ``options``, never ``but``."""
        return self.rng.choice([o for o in options if o != but])


def _ids(rng: random.Random, n: int) -> list[int]:
    return sorted(rng.sample(range(10, 100), n))


def _contacts(world: World, rng: random.Random) -> list[Row]:
    """Names of which some share a first or last name: near-duplicates."""
    first, last = rng.sample(words.FIRST, 9), rng.sample(words.LAST, 9)
    names = [f"{f} {k}" for f, k in zip(first, last, strict=True)]
    names += [f"{first[i]} {last[(i + 1) % 9]}" for i in range(3)]
    return [
        {
            "id": i, "name": name, "team": rng.choice(words.TEAMS), "email": f"{name.lower().replace(' ', '.')}@desk.example",
            "phone": f"{rng.randint(200, 999)}-{rng.randint(1000, 9999)}", "city": rng.choice(words.CITIES),
        }
        for i, name in zip(_ids(rng, len(names)), names, strict=True)
    ]  # fmt: skip


def _people(world: World) -> list[str]:
    return [r["name"] for r in world.rows("contacts")]


def _titles(rng: random.Random, n: int) -> list[str]:
    """Distinct two-word titles."""
    return [
        f"{words.ADJECTIVES[i % len(words.ADJECTIVES)]} {words.NOUNS[i // len(words.ADJECTIVES)]}"
        for i in rng.sample(range(len(words.ADJECTIVES) * len(words.NOUNS)), n)
    ]


def _mails(world: World, rng: random.Random) -> list[Row]:
    people = _people(world)
    return [
        {
            "id": i,
            "folder": rng.choice(("inbox", "inbox", "archive")),
            "sender": rng.choice(people),
            "recipient": "me",
            "subject": title,
            "body": f"{rng.choice(words.NOUNS)} {rng.randint(10, 99)}",
        }
        for i, title in zip(_ids(rng, 12), _titles(rng, 12), strict=True)
    ]


def _events(world: World, rng: random.Random) -> list[Row]:
    people, slots = _people(world), rng.sample([(d, h) for d in words.DAYS for h in range(9, 17)], 12)
    return [
        {"id": i, "title": title, "day": day, "hour": hour, "room": rng.choice(words.ROOMS), "owner": rng.choice(people)}
        for i, title, (day, hour) in zip(_ids(rng, 12), _titles(rng, 12), slots, strict=True)
    ]


def _files(world: World, rng: random.Random) -> list[Row]:
    people = _people(world)
    return [
        {
            "id": i,
            "name": f"{title.replace(' ', '-')}.txt",
            "folder": rng.choice(words.FOLDERS),
            "owner": rng.choice(people),
            "version": rng.randint(2, 9),
            "text": f"{rng.choice(words.NOUNS)} {rng.randint(10, 99)}",
        }
        for i, title in zip(_ids(rng, 12), _titles(rng, 12), strict=True)
    ]


def _tickets(world: World, rng: random.Random) -> list[Row]:
    people = _people(world)
    return [
        {
            "id": i,
            "title": title,
            "status": rng.choice(words.TICKET_STATUS),
            "priority": rng.choice(words.PRIORITIES),
            "owner": rng.choice(people),
            "customer": rng.choice(people),
            "note": "",
        }
        for i, title in zip(_ids(rng, 14), _titles(rng, 14), strict=True)
    ]


def _orders(world: World, rng: random.Random) -> list[Row]:
    """Orders of which some customers have several."""
    people = _people(world)
    return [
        {
            "id": i,
            "customer": rng.choice(people),
            "item": rng.choice(words.ITEMS),
            "quantity": rng.randint(1, 9),
            "price": rng.randint(2, 60),
            "status": rng.choice(words.ORDER_STATUS),
            "city": rng.choice(words.CITIES),
        }
        for i in _ids(rng, 16)
    ]


def _payments(world: World, rng: random.Random) -> list[Row]:
    """One payment per order, of its price times its quantity."""
    orders = world.rows("orders")
    return [
        {"id": i, "order_id": o["id"], "amount": o["price"] * o["quantity"], "status": rng.choice(words.PAYMENT_STATUS)}
        for i, o in zip(_ids(rng, len(orders)), rng.sample(orders, len(orders)), strict=True)
    ]


def _cells(world: World, rng: random.Random) -> list[Row]:
    """A sheet of eight rows: A a label, B and C numbers."""
    labels = rng.sample(words.NOUNS, 8)
    columns = {"A": labels, "B": [str(rng.randint(10, 99)) for _ in labels], "C": [str(rng.randint(10, 99)) for _ in labels]}
    return [{"id": f"{c}{i}", "value": values[i - 1]} for c, values in columns.items() for i in range(1, 9)]


_MAKERS = {
    "contacts": _contacts, "mails": _mails, "events": _events, "files": _files,
    "tickets": _tickets, "orders": _orders, "payments": _payments, "cells": _cells,
}  # fmt: skip
