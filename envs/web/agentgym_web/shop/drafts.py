"""The tasks of the shop, as templates: each draws what it needs from a fresh shop, does there itself what should come of it, and says the way.

A template is a function of a ``Bench``: it returns what is asked, the answer if there is one, and the way as steps in the words of the plain
layout. What it has done to the bench's database is what the agent's must look like at the end, and nothing else.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

from msgspec import Struct

from agentgym_web.shop import acts
from agentgym_web.shop.catalogue import BRANDS, DEPARTMENTS, ME
from agentgym_web.shop.world import World

Steps = list[list[Any]]


class Draft(Struct):
    """A task in the making: ``way`` are the oracle's steps, ``who`` is logged in (nobody: 0), ``files`` the agent may upload."""

    asks: str
    way: Steps
    answer: float | str | None = None
    who: int = ME
    files: dict[str, str] = {}


class Bench:
    """A fresh shop to draft a task on, and a generator of its own."""

    def __init__(self, seed: int, rng: random.Random) -> None:
        self.world, self.rng, self.seed = World(seed, "plain"), rng, seed
        self.db = self.world.db

    def rows(self, query: str, *values: Any) -> list[Any]:
        """The rows of a query."""
        return self.db.execute(query, values).fetchall()

    def product(self, where: str = "stock > 5", *values: Any) -> Any:
        """Some product that is sold."""
        return self.rng.choice(self.rows(f"SELECT * FROM products WHERE active AND {where} ORDER BY id", *values))

    def products(self, n: int, where: str = "stock > 5") -> list[Any]:
        """Several."""
        return self.rng.sample(self.rows(f"SELECT * FROM products WHERE active AND {where} ORDER BY id"), n)

    def order(self, status: str, customer: int = ME) -> Any:
        """Some order of a customer."""
        return self.rng.choice(self.rows("SELECT * FROM orders WHERE customer = ? AND status = ? ORDER BY id", customer, status))

    def shelf(self) -> tuple[str, str, list[Any]]:
        """A brand and a sort of thing of which there are several: ``(brand, noun, products by price)``, no two at one price."""
        for _ in range(200):
            noun, brand = self.rng.choice([n for d in DEPARTMENTS.values() for n in d]), self.rng.choice(BRANDS)
            found = self.rows("SELECT * FROM products WHERE active AND stock > 3 AND name LIKE ? ORDER BY price", f"{brand} {noun} %")
            if 2 <= len(found) <= 12 and len({p["price"] for p in found}) == len(found):
                return brand, noun, found
        raise RuntimeError("no such shelf in this shop")


TEMPLATES: dict[str, tuple[str, Callable[[Bench], Draft]]] = {}
"""By name: the kind, and the function."""


def template(kind: str) -> Callable[[Callable[[Bench], Draft]], Callable[[Bench], Draft]]:
    """Register a template."""

    def register(function: Callable[[Bench], Draft]) -> Callable[[Bench], Draft]:
        TEMPLATES[function.__name__.replace("_", "-")] = kind, function
        return function

    return register


def money(cents: int) -> str:
    """An amount as the shop writes it."""
    return f"${cents // 100}.{cents % 100:02}"


def see(number: int) -> list[Any]:
    """The step to a product's page."""
    return ["goto", f"/product/{number}"]


def buy(products: Sequence[tuple[int, int]], *choices: list[Any]) -> Steps:
    """The steps that order ``(product, quantity)``."""
    way: Steps = []
    for number, quantity in products:
        way += [see(number), *([["fill", "Quantity", str(quantity)]] if quantity > 1 else []), ["click", "Add to cart"]]
    return [*way, ["goto", "/checkout"], *choices, ["click", "Pay"]]


def order(b: Bench, products: Sequence[tuple[int, int]], address: int | None = None, **choices: str) -> None:
    """Do it."""
    for number, quantity in products:
        acts.cart_add(b.db, ME, number, quantity)
    acts.pay(b.db, ME, address or b.rows("SELECT id FROM addresses WHERE customer = ? AND main", ME)[0]["id"], **choices)
