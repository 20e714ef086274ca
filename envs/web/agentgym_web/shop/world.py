"""One shop of one episode: its database, who looks at it, and how it is laid out."""

from __future__ import annotations

import hashlib
import random
import sqlite3
from functools import lru_cache
from typing import Any

import msgspec

from agentgym_web.shop import acts
from agentgym_web.shop.catalogue import image, opened

LAYOUTS = ("plain", "renamed", "moved", "themed", "perturbed")
"""``renamed``: other words on the same things; ``moved``: other places and orders; ``themed``: another look; ``perturbed``: all three."""
OTHER = {
    "Cart": "Basket", "Add to cart": "Put in basket", "Checkout": "Proceed to order", "Pay": "Place the order", "Search": "Find", "Search products": "Find products",
    "Account": "My profile", "Orders": "Purchases", "Wish list": "Favourites", "Add to wish list": "Remember this", "Forum": "Community", "Save": "Apply",
    "Delete": "Remove for good", "Cancel order": "Withdraw purchase", "Return item": "Send this back", "Reply": "Answer", "Post reply": "Send answer",
    "Quantity": "How many", "Delivery": "Shipping", "Address": "Send to", "Coupon": "Promo code", "Gift note": "Card text", "Title": "Headline",
    "Review": "Opinion", "Write a review": "Share your opinion", "Post review": "Publish opinion", "Log in": "Sign in", "Email": "E-mail", "Phone": "Telephone",
    "Sort by": "Order by", "Department": "Category", "Brand": "Maker", "Highest price": "Price up to", "Next page": "More", "Reason": "Why",
    "Street": "Street and number", "City": "Town", "Postcode": "ZIP", "Label": "Name of address", "Password": "Passphrase", "Price": "Costs", "Stock": "Pieces in stock",
    "Ship": "Dispatch", "Tracking number": "Parcel number", "Hide": "Take down", "Lock": "Close", "Pin": "Keep on top", "Create coupon": "New promo code",
    "Code": "Promo word", "Percent": "Discount in percent", "Text": "Message", "New thread": "Start a topic", "Helpful": "Thumbs up", "Newsletter": "Mail about offers",
    "Make main": "Use by default", "Import": "Load", "Stock file": "CSV of stocks", "On sale": "Offered", "Update profile": "Store profile",
}  # fmt: skip


@lru_cache(maxsize=8)
def base_rows(seed: int) -> acts.Rows:
    """Everything that counts of a shop before anyone came."""
    return acts.rows(opened(image(seed)))


def terms(seed: int, department: str) -> tuple[int, int]:
    """Days within which goods of a department can be returned, and days until they arrive."""
    rng = random.Random(f"terms/{seed}/{department}")
    return rng.randrange(14, 60), rng.randrange(2, 12)


def care(seed: int, product: int) -> int:
    """At how many degrees a product may be cleaned."""
    return random.Random(f"care/{seed}/{product}").randrange(20, 95)


def reference(seed: int, order: int) -> str:
    """What is on the invoice of an order and nowhere else."""
    return f"REF-{random.Random(f'invoice/{seed}/{order}').randrange(100_000, 999_999)}"


class World:
    """The shop of one episode. ``said`` is what the next page tells the customer."""

    def __init__(self, seed: int, layout: str, database: bytes | None = None) -> None:
        self.seed, self.layout = seed, layout
        self.db: sqlite3.Connection = opened(database or image(seed))
        self.said = ""
        self._known: tuple[int, dict[str, Any]] | None = None if database else (self.db.total_changes, {})

    def t(self, text: str) -> str:
        """A label as this layout words it."""
        return OTHER.get(text, text) if self.layout in ("renamed", "perturbed") else text

    @property
    def moved(self) -> bool:
        """Whether things are elsewhere."""
        return self.layout in ("moved", "perturbed")

    @property
    def themed(self) -> bool:
        """Whether it looks different."""
        return self.layout in ("themed", "perturbed")

    def log_in(self, customer: int) -> str:
        """A session of a customer; its token."""
        count = self.db.execute("SELECT COUNT(*) FROM sessions").fetchone()[0]
        token = hashlib.blake2b(f"{self.seed}/{count}/{customer}".encode(), digest_size=12).hexdigest()
        known = self.changes()
        self.db.execute("INSERT INTO sessions VALUES (?, ?)", (token, customer))
        self._known = self.db.total_changes, known  # sessions do not count
        return token

    def customer(self, token: str | None) -> sqlite3.Row | None:
        """Whose session a token is."""
        found: sqlite3.Row | None = self.db.execute(
            "SELECT c.* FROM sessions s JOIN customers c ON c.id = s.customer WHERE s.token = ?", (token or "",)
        ).fetchone()
        return found

    def changes(self) -> dict[str, Any]:
        """What has become of the shop."""
        if self._known is None or self._known[0] != self.db.total_changes:
            self._known = self.db.total_changes, acts.changes(base_rows(self.seed), acts.rows(self.db))
        return self._known[1]

    def artefact(self) -> bytes:
        """The same, as it is kept and graded."""
        return msgspec.json.encode(self.changes(), order="deterministic")
