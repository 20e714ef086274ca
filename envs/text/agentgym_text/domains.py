"""Small databases of invented firms, schools and harbours, and questions about them with the query that answers each."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable
from typing import Any, NamedTuple

from msgspec import Struct

Dice = random.Random
NAMES = (
    "Ada", "Ben", "Cleo", "Dov", "Edda", "Finn", "Gwen", "Hugo", "Ines", "Jona", "Kaya", "Leo", "Mira", "Nils", "Olga", "Paul", "Rhea", "Sven", "Tara", "Udo",
)  # fmt: skip
COURSES = ("algebra", "music", "history", "physics", "latin", "drawing")
SHIPS = ("ferry", "tanker", "trawler")
TOWNS = ("Arden", "Brill", "Corby", "Dalby", "Elston", "Farrow", "Garth", "Holm")


class Domain(NamedTuple):
    """A kind of database: its schema, how its rows are drawn, and the questions it is asked."""

    schema: str
    rows: Callable[[Dice], dict[str, list[tuple[Any, ...]]]]
    questions: tuple[tuple[str, str], ...]
    """What is asked, and the query; ``{town}``, ``{n}`` and the like are drawn."""


def _shop(dice: Dice) -> dict[str, list[tuple[Any, ...]]]:
    customers = [(i, f"{dice.choice(NAMES)} {i}", dice.choice(TOWNS), dice.randint(2015, 2024)) for i in range(1, 31)]
    products = [(i, f"{dice.choice(('oak', 'iron', 'glass', 'silk', 'clay'))} {n}", dice.choice(("home", "garden", "office")), dice.randint(3, 90))
                for i, n in enumerate(("lamp", "chair", "vase", "rug", "clock", "bench", "tray", "desk", "bowl", "fork"), 1)]  # fmt: skip
    orders = [(i, dice.randint(1, 30), dice.randint(1, 10), dice.randint(1, 9), dice.choice(("paid", "open", "sent"))) for i in range(1, 101)]
    return {"customers": customers, "products": products, "orders": orders}


def _school(dice: Dice) -> dict[str, list[tuple[Any, ...]]]:
    students = [(i, f"{dice.choice(NAMES)} {i}", dice.choice(TOWNS), dice.randint(10, 18)) for i in range(1, 41)]
    courses = [(i, n, f"{dice.choice(NAMES)} Teacher", dice.randint(1, 6)) for i, n in enumerate(COURSES, 1)]
    pairs = dice.sample([(s, c) for s in range(1, 41) for c in range(1, 7)], 110)
    return {"students": students, "courses": courses, "grades": [(s, c, dice.randint(1, 100)) for s, c in pairs]}


def _harbour(dice: Dice) -> dict[str, list[tuple[Any, ...]]]:
    ships = [(i, f"{dice.choice(('Star', 'Wave', 'Wind', 'Gull'))} {i}", dice.choice(SHIPS), dice.randint(5, 400)) for i in range(1, 26)]
    docks = [(i, f"dock {i}", dice.choice(TOWNS), dice.randint(20, 400)) for i in range(1, 13)]
    visits = [(i, dice.randint(1, 25), dice.randint(1, 12), dice.randint(1, 365), dice.randint(1, 14)) for i in range(1, 121)]
    return {"ships": ships, "docks": docks, "visits": visits}


DOMAINS: dict[str, Domain] = {
    "shop": Domain(
        "CREATE TABLE customers (id INTEGER PRIMARY KEY, name TEXT, town TEXT, since INTEGER);"
        "CREATE TABLE products (id INTEGER PRIMARY KEY, name TEXT, category TEXT, price INTEGER);"
        "CREATE TABLE orders (id INTEGER PRIMARY KEY, customer_id INTEGER, product_id INTEGER, quantity INTEGER, status TEXT);",
        _shop,
        (
            ("How many customers live in {town}?", "SELECT COUNT(*) FROM customers WHERE town = '{town}'"),
            ("Which products cost more than {n}? Give their names.", "SELECT name FROM products WHERE price > {n}"),
            ("What is the total value of all orders with status {status}?",
             "SELECT SUM(o.quantity * p.price) FROM orders o JOIN products p ON p.id = o.product_id WHERE o.status = '{status}'"),
            ("For each town, how many orders did its customers place? Give town and number.",
             "SELECT c.town, COUNT(*) FROM orders o JOIN customers c ON c.id = o.customer_id GROUP BY c.town"),
            ("Which customers from {town} ordered nothing? Give their names.",
             "SELECT name FROM customers WHERE town = '{town}' AND id NOT IN (SELECT customer_id FROM orders)"),
            ("Give the names of customers with at least {k} orders.",
             "SELECT c.name FROM customers c JOIN orders o ON o.customer_id = c.id GROUP BY c.id HAVING COUNT(*) >= {k}"),
            ("What is the average price of products in the category {category}?", "SELECT AVG(price) FROM products WHERE category = '{category}'"),
            ("Give each category with the largest quantity of a single order in it.",
             "SELECT p.category, MAX(o.quantity) FROM orders o JOIN products p ON p.id = o.product_id GROUP BY p.category"),
        ),
    ),
    "school": Domain(
        "CREATE TABLE students (id INTEGER PRIMARY KEY, name TEXT, town TEXT, age INTEGER);"
        "CREATE TABLE courses (id INTEGER PRIMARY KEY, title TEXT, teacher TEXT, hours INTEGER);"
        "CREATE TABLE grades (student_id INTEGER, course_id INTEGER, points INTEGER);",
        _school,
        (
            ("How many students are older than {age}?", "SELECT COUNT(*) FROM students WHERE age > {age}"),
            ("What is the average number of points in {course}?",
             "SELECT AVG(g.points) FROM grades g JOIN courses c ON c.id = g.course_id WHERE c.title = '{course}'"),
            ("Give the names of students with more than {points} points in {course}.",
             "SELECT s.name FROM students s JOIN grades g ON g.student_id = s.id JOIN courses c ON c.id = g.course_id"
             " WHERE c.title = '{course}' AND g.points > {points}"),
            ("For each course, give its title and how many students it has.",
             "SELECT c.title, COUNT(*) FROM courses c JOIN grades g ON g.course_id = c.id GROUP BY c.id"),
            ("Which students from {town} take {course}? Give their names.",
             "SELECT s.name FROM students s JOIN grades g ON g.student_id = s.id JOIN courses c ON c.id = g.course_id"
             " WHERE s.town = '{town}' AND c.title = '{course}'"),
            ("Give the names of students who take at least {k} courses.",
             "SELECT s.name FROM students s JOIN grades g ON g.student_id = s.id GROUP BY s.id HAVING COUNT(*) >= {k}"),
            ("Give the highest points in each course, with its title.",
             "SELECT c.title, MAX(g.points) FROM courses c JOIN grades g ON g.course_id = c.id GROUP BY c.id"),
        ),
    ),
    "harbour": Domain(
        "CREATE TABLE ships (id INTEGER PRIMARY KEY, name TEXT, kind TEXT, length INTEGER);"
        "CREATE TABLE docks (id INTEGER PRIMARY KEY, name TEXT, town TEXT, depth INTEGER);"
        "CREATE TABLE visits (id INTEGER PRIMARY KEY, ship_id INTEGER, dock_id INTEGER, day INTEGER, nights INTEGER);",
        _harbour,
        (
            ("How many ships are of the kind {kind}?", "SELECT COUNT(*) FROM ships WHERE kind = '{kind}'"),
            ("How many nights did ships spend in {town} in all?",
             "SELECT SUM(v.nights) FROM visits v JOIN docks d ON d.id = v.dock_id WHERE d.town = '{town}'"),
            ("Give the names of ships longer than {n} that visited after day {day}, each once.",
             "SELECT DISTINCT s.name FROM ships s JOIN visits v ON v.ship_id = s.id WHERE s.length > {n} AND v.day > {day}"),
            ("For each kind of ship, give the kind and its average length.", "SELECT kind, AVG(length) FROM ships GROUP BY kind"),
            ("Which docks in {town} were never visited by a ship of the kind {kind}? Give their names.",
             "SELECT d.name FROM docks d WHERE d.town = '{town}' AND d.id NOT IN"
             " (SELECT v.dock_id FROM visits v JOIN ships s ON s.id = v.ship_id WHERE s.kind = '{kind}')"),
            ("Give the names of docks with at least {k} visits.",
             "SELECT d.name FROM docks d JOIN visits v ON v.dock_id = d.id GROUP BY d.id HAVING COUNT(*) >= {k}"),
            ("Give each town with the number of visits to its docks.",
             "SELECT d.town, COUNT(*) FROM visits v JOIN docks d ON d.id = v.dock_id GROUP BY d.town"),
        ),
    ),
}  # fmt: skip
_DRAWN: dict[str, Callable[[Dice], Any]] = {
    "town": lambda d: d.choice(TOWNS), "n": lambda d: d.randint(15, 60), "k": lambda d: d.randint(3, 5), "status": lambda d: d.choice(("paid", "open", "sent")),
    "category": lambda d: d.choice(("home", "garden", "office")), "age": lambda d: d.randint(11, 16), "points": lambda d: d.randint(30, 80),
    "course": lambda d: d.choice(COURSES), "kind": lambda d: d.choice(SHIPS),
    "day": lambda d: d.randint(100, 300),
}  # fmt: skip


class Asked(Struct, frozen=True):
    """A question, the query that answers it, and the tables that the query reads."""

    text: str
    query: str
    tables: tuple[str, ...]


def database(domain: str, seed: str) -> bytes:
    """A database of a domain, as a SQLite file."""
    connection = sqlite3.connect(":memory:")
    try:
        connection.executescript("PRAGMA page_size = 1024;" + DOMAINS[domain].schema)
        for table, rows in DOMAINS[domain].rows(random.Random(f"{domain}/{seed}")).items():
            connection.executemany(f"INSERT INTO {table} VALUES ({','.join('?' * len(rows[0]))})", rows)
        connection.commit()
        return connection.serialize()
    finally:
        connection.close()


def rows_of(data: bytes, query: str) -> list[Any]:
    """What a query of ours gives."""
    connection = sqlite3.connect(":memory:")
    connection.deserialize(data)
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()


def question(domain: str, seed: str) -> Asked:
    """Draw a question that has an answer, and not the same one, in the two databases of a seed."""
    dice = random.Random(f"question/{domain}/{seed}")
    shown, other = database(domain, seed), database(domain, f"{seed}/other")
    while True:
        text, query = dice.choice(DOMAINS[domain].questions)
        drawn = {name: draw(dice) for name, draw in _DRAWN.items()}
        text, query = text.format(**drawn), query.format(**drawn)
        one, two = rows_of(shown, query), rows_of(other, query)
        if one and two and one != two and one[0][0] is not None and two[0][0] is not None:
            return Asked(text, query, tuple(t for t in tables_of(domain) if f" {t}" in query))


def tables_of(domain: str) -> list[str]:
    """The tables of a domain."""
    return [part.split()[2] for part in DOMAINS[domain].schema.split(";") if part]
