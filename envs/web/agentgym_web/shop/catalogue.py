"""The shop's world before anyone came: 1,000 products, customers, orders, reviews and a forum, all from one seed."""

from __future__ import annotations

import random
import sqlite3
from functools import lru_cache
from pathlib import Path

SCHEMA = Path(__file__).with_name("schema.sql").read_text()
TODAY = "2026-01-15"
ME, ADMIN, PRODUCTS = 1, 2, 1000
"""The customer whose browser it is, the one who runs the shop, and how many products there are."""

DEPARTMENTS = {
    "Kitchen": ("kettle", "toaster", "frying pan", "bread knife", "teapot", "mixing bowl", "coffee grinder", "cutting board"),
    "Office": ("desk lamp", "stapler", "notebook", "fountain pen", "desk organiser", "paper shredder", "whiteboard", "desk chair"),
    "Garden": ("watering can", "garden hose", "pruning shears", "planter", "garden rake", "bird feeder", "wheelbarrow", "garden lantern"),
    "Sports": ("yoga mat", "skipping rope", "water bottle", "tennis racket", "running belt", "dumbbell", "bicycle helmet", "climbing rope"),
    "Electronics": ("headphones", "keyboard", "power bank", "webcam", "speaker", "desk fan", "alarm clock", "card reader"),
    "Toys": ("wooden train", "puzzle", "board game", "kite", "toy crane", "doll house", "juggling set", "marble run"),
}
BRANDS = ("Alder", "Birke", "Corvo", "Dalen", "Elmsworth", "Fjord", "Gantry", "Halden", "Ibex", "Juniper")
COLOURS = ("black", "white", "red", "green", "blue", "grey", "yellow", "brown")
FORENAMES = ("Ada", "Boris", "Clara", "Dmitri", "Elena", "Farid", "Greta", "Hugo", "Ines", "Jonas", "Kira", "Liam", "Mona", "Nils", "Olga", "Pavel")
SURNAMES = ("Arend", "Bauer", "Castel", "Duran", "Eklund", "Fabry", "Garner", "Holt", "Ivers", "Jansen", "Keller", "Lorenz", "Marin", "Novak")
STREETS = ("Mill Lane", "Station Road", "High Street", "Harbour Walk", "Orchard Way", "Castle Street", "Bridge Street", "Meadow Close")
CITIES = ("Northam", "Eastbrook", "Westfield", "Southport", "Lindholm", "Marlow")
OPINIONS = (
    ("Does what it should", "Used it for a month and have nothing to complain about."), ("Very pleased", "Better made than I expected for the price."),
    ("Not for me", "It arrived late and one corner was scratched."), ("Solid", "Heavy, but it feels as if it will last."),
    ("Disappointed", "It stopped working after two weeks."), ("A fine present", "My sister uses it every day."),
    ("Good value", "I would buy it again."), ("Colour is off", "The picture shows another shade."),
)  # fmt: skip
BOARDS = ("Help", "Ideas", "Swap", "Announcements")
TOPICS = (
    "How do I descale it", "Which size should I take", "Spare parts wanted", "Gift wrapping ideas", "Late deliveries this week", "Best offers so far",
    "Care of wooden handles", "Looking for the old model", "Thoughts on the new catalogue", "Batteries that last",
)  # fmt: skip
REPLIES = ("I had the same question.", "Try the help pages first.", "Mine works well.", "Thank you, that helped.", "Ask the shop, they answer within a day.")


@lru_cache(maxsize=32)
def image(seed: int) -> bytes:
    """The database of a seed, as SQLite serializes it."""
    rng, db = random.Random(f"shop/{seed}"), sqlite3.connect(":memory:")
    db.executescript(SCHEMA)
    _products(rng, db)
    _customers(rng, db)
    _orders(rng, db)
    _reviews(rng, db)
    _forum(rng, db)
    db.executemany("INSERT INTO coupons (code, percent) VALUES (?, ?)", [("WELCOME10", 10), ("SPRING15", 15)])
    db.commit()
    return db.serialize()


def opened(data: bytes) -> sqlite3.Connection:
    """A copy of a database in memory, usable from every thread in turn."""
    db = sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None)
    db.deserialize(data)
    db.row_factory = sqlite3.Row
    return db


def _products(rng: random.Random, db: sqlite3.Connection) -> None:
    kinds, rows = [(d, noun) for d, nouns in DEPARTMENTS.items() for noun in nouns], []
    numbers = rng.sample(range(100, 9999), PRODUCTS)
    for n in range(PRODUCTS):
        department, noun = kinds[n % len(kinds)]
        brand, colour = rng.choice(BRANDS), rng.choice(COLOURS)
        weight, warranty = rng.randrange(80, 6000, 10), rng.choice((1, 2, 2, 3, 5))
        about = f"A {colour} {noun} by {brand}. Weighs {weight} g, with {warranty} year{'s' * (warranty > 1)} of warranty."
        stock = 0 if rng.random() < 0.08 else rng.randrange(3, 90)
        rows.append((f"{brand} {noun} {numbers[n]}", department, brand, rng.randrange(450, 19_900), stock, weight, warranty, colour, about, 1))
    columns = "name, department, brand, price, stock, weight, warranty, colour, about, active"
    db.executemany(f"INSERT INTO products ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)


def _customers(rng: random.Random, db: sqlite3.Connection) -> None:
    names = rng.sample([f"{a} {b}" for a in FORENAMES for b in SURNAMES], 14)
    for n, name in enumerate(names, 1):
        mail = f"{name.replace(' ', '.').lower()}@mail.test"
        phone, password = f"555 {rng.randrange(1000, 9999)}", f"{rng.choice(COLOURS)}-{rng.choice(CITIES).lower()}-{rng.randrange(10, 99)}"
        db.execute("INSERT INTO customers VALUES (?, ?, ?, ?, ?, 1, ?)", (n, name, mail, phone, password, int(n == ADMIN)))
        for i, label in enumerate(("Home", "Work", "Parents")[: 3 if n == ME else 1]):
            where = (f"{rng.randrange(1, 120)} {rng.choice(STREETS)}", rng.choice(CITIES), str(rng.randrange(10_000, 99_999)))
            db.execute("INSERT INTO addresses (customer, label, street, city, postcode, main) VALUES (?, ?, ?, ?, ?, ?)", (n, label, *where, int(i == 0)))
    for product in rng.sample(range(1, PRODUCTS + 1), 5):
        db.execute("INSERT INTO wishes (customer, product) VALUES (?, ?)", (ME, product))


def _orders(rng: random.Random, db: sqlite3.Connection) -> None:
    owners = [ME] * 6 + [rng.randrange(3, 15) for _ in range(24)]
    rng.shuffle(owners)
    mine = iter(("placed", "placed", "shipped", "delivered", "delivered", "delivered"))
    for n, owner in enumerate(owners, 1001):
        status = next(mine) if owner == ME else rng.choice(("placed", "placed", "shipped", "delivered", "cancelled"))
        street, city, postcode = db.execute("SELECT street, city, postcode FROM addresses WHERE customer = ? AND main", (owner,)).fetchone()
        total = 0
        for product in rng.sample(range(1, PRODUCTS + 1), rng.randrange(1, 4)):
            (price,), quantity = db.execute("SELECT price FROM products WHERE id = ?", (product,)).fetchone(), rng.choice((1, 1, 1, 2, 3))
            total += price * quantity
            db.execute("INSERT INTO lines (orders, product, quantity, price) VALUES (?, ?, ?, ?)", (n, product, quantity, price))
        tracking = f"TR{rng.randrange(100_000, 999_999)}" if status in ("shipped", "delivered") else ""
        placed = f"2025-{rng.randrange(9, 13):02}-{rng.randrange(1, 29):02}"
        row = (n, owner, placed, status, f"{street}, {city} {postcode}", "standard", "", "", total, tracking)
        db.execute("INSERT INTO orders VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)


def _reviews(rng: random.Random, db: sqlite3.Connection) -> None:
    rows = []
    for product in range(1, PRODUCTS + 1):
        for customer in rng.sample(range(3, 15), rng.choice((0, 1, 2, 2, 3, 4, 5))):
            rows.append((product, customer, rng.choice((1, 2, 3, 4, 4, 5, 5)), *rng.choice(OPINIONS)))
    for product in rng.sample(range(1, PRODUCTS + 1), 3):
        rows.append((product, ME, rng.choice((2, 3, 4)), *rng.choice(OPINIONS)))
    db.executemany("INSERT INTO reviews (product, customer, stars, title, body, hidden) VALUES (?, ?, ?, ?, ?, 0)", rows)


def _forum(rng: random.Random, db: sqlite3.Connection) -> None:
    for n in range(1, 25):
        title = f"{TOPICS[n % len(TOPICS)]} ({rng.choice(list(DEPARTMENTS))} {n})"
        db.execute("INSERT INTO threads VALUES (?, ?, ?, ?, 0, 0)", (n, BOARDS[n % 3], rng.randrange(3, 15), title))
        for _ in range(rng.randrange(1, 6)):
            db.execute("INSERT INTO posts (threads, customer, body) VALUES (?, ?, ?)", (n, rng.randrange(3, 15), rng.choice(REPLIES)))
    for thread in rng.sample(range(1, 25), 2):
        db.execute("INSERT INTO posts (threads, customer, body) VALUES (?, ?, ?)", (thread, ME, rng.choice(REPLIES)))
