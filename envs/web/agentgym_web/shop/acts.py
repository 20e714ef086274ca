"""What can be done in the shop, as functions on its database. The site calls them for the agent, the tasks for what should come of it."""

from __future__ import annotations

import csv
import io
import sqlite3
from typing import Any

from agentgym_web.shop.catalogue import TODAY

Rows = dict[str, dict[int, dict[str, Any]]]
COMPARED = ("products", "customers", "addresses", "orders", "lines", "returns", "reviews", "wishes", "cart", "coupons", "threads", "posts", "votes")
DELIVERIES = {"standard": 0, "express": 990}


class Refused(ValueError):
    """Raised when the shop says no; the text is for the customer."""


def one(db: sqlite3.Connection, query: str, *values: Any) -> Any:
    """The first row of a query. Raises ``Refused`` if there is none."""
    row = db.execute(query, values).fetchone()
    if row is None:
        raise Refused("there is no such thing")
    return row


def insert(db: sqlite3.Connection, table: str, **values: Any) -> int:
    """Add a row; its id."""
    done = db.execute(f"INSERT INTO {table} ({', '.join(values)}) VALUES ({', '.join('?' * len(values))})", tuple(values.values()))
    return int(done.lastrowid or 0)


def cart_add(db: sqlite3.Connection, customer: int, product: int, quantity: int = 1) -> None:
    """Put pieces of a product into the cart."""
    found = one(db, "SELECT stock, active FROM products WHERE id = ?", product)
    there = db.execute("SELECT id, quantity FROM cart WHERE customer = ? AND product = ?", (customer, product)).fetchone()
    wanted = quantity + (there["quantity"] if there else 0)
    if quantity < 1 or wanted > found["stock"] or not found["active"]:
        raise Refused(f"only {found['stock']} in stock" if quantity > 0 else "the quantity must be at least 1")
    if there:
        db.execute("UPDATE cart SET quantity = ? WHERE id = ?", (wanted, there["id"]))
    else:
        insert(db, "cart", customer=customer, product=product, quantity=quantity)


def cart_remove(db: sqlite3.Connection, customer: int, product: int) -> None:
    """Take a product out of the cart."""
    db.execute("DELETE FROM cart WHERE customer = ? AND product = ?", (customer, product))


def pay(db: sqlite3.Connection, customer: int, address: int, delivery: str = "standard", coupon: str = "", note: str = "") -> int:
    """Order what is in the cart; the number of the order."""
    where = one(db, "SELECT * FROM addresses WHERE id = ? AND customer = ?", address, customer)
    lines = db.execute(
        "SELECT c.product, c.quantity, p.price, p.stock FROM cart c JOIN products p ON p.id = c.product WHERE c.customer = ?", (customer,)
    ).fetchall()
    if not lines:
        raise Refused("the cart is empty")
    if delivery not in DELIVERIES:
        raise Refused("there is no such delivery")
    if any(line["quantity"] > line["stock"] for line in lines):
        raise Refused("something in the cart is no longer in stock")
    percent = one(db, "SELECT percent FROM coupons WHERE code = ?", coupon)["percent"] if coupon else 0
    goods = sum(line["quantity"] * line["price"] for line in lines)
    total = goods - goods * percent // 100 + DELIVERIES[delivery]
    text = f"{where['street']}, {where['city']} {where['postcode']}"
    order = insert(
        db, "orders", customer=customer, placed=TODAY, status="placed", address=text, delivery=delivery, coupon=coupon, note=note, total=total, tracking=""
    )
    for line in lines:
        insert(db, "lines", orders=order, product=line["product"], quantity=line["quantity"], price=line["price"])
        db.execute("UPDATE products SET stock = stock - ? WHERE id = ?", (line["quantity"], line["product"]))
    db.execute("DELETE FROM cart WHERE customer = ?", (customer,))
    return order


def reorder(db: sqlite3.Connection, customer: int, order: int) -> None:
    """Put all of an earlier order into the cart."""
    one(db, "SELECT id FROM orders WHERE id = ? AND customer = ?", order, customer)
    for line in db.execute("SELECT product, quantity FROM lines WHERE orders = ?", (order,)).fetchall():
        cart_add(db, customer, line["product"], line["quantity"])


def cancel(db: sqlite3.Connection, order: int, customer: int | None = None) -> None:
    """Cancel an order that is not on its way, and put its goods back."""
    found = one(db, "SELECT * FROM orders WHERE id = ?", order)
    if customer is not None and found["customer"] != customer:
        raise Refused("that is not your order")
    if found["status"] != "placed":
        raise Refused(f"the order is {found['status']} and cannot be cancelled")
    db.execute("UPDATE orders SET status = 'cancelled' WHERE id = ?", (order,))
    for line in db.execute("SELECT product, quantity FROM lines WHERE orders = ?", (order,)).fetchall():
        db.execute("UPDATE products SET stock = stock + ? WHERE id = ?", (line["quantity"], line["product"]))


def send_back(db: sqlite3.Connection, customer: int, order: int, product: int, quantity: int, reason: str) -> None:
    """Announce the return of a delivered product."""
    found = one(db, "SELECT * FROM orders WHERE id = ? AND customer = ?", order, customer)
    line = one(db, "SELECT * FROM lines WHERE orders = ? AND product = ?", order, product)
    before = db.execute("SELECT COALESCE(SUM(quantity), 0) FROM returns WHERE orders = ? AND product = ?", (order, product)).fetchone()[0]
    if found["status"] != "delivered" or not 1 <= quantity <= line["quantity"] - before:
        raise Refused("that cannot be returned")
    insert(db, "returns", orders=order, product=product, quantity=quantity, reason=reason)


def profile(db: sqlite3.Connection, customer: int, **changed: str) -> None:
    """Change name, email, phone or newsletter of a customer."""
    for key, value in changed.items():
        if key not in ("name", "email", "phone", "newsletter") or (key == "email" and "@" not in value) or value == "":
            raise Refused(f"that is no {key}")
        db.execute(f"UPDATE customers SET {key} = ? WHERE id = ?", (int(value) if key == "newsletter" else value, customer))


def password(db: sqlite3.Connection, customer: int, old: str, new: str) -> None:
    """Change a password."""
    if one(db, "SELECT password FROM customers WHERE id = ?", customer)["password"] != old:
        raise Refused("the current password is another")
    if len(new) < 8:
        raise Refused("a password has at least 8 characters")
    db.execute("UPDATE customers SET password = ? WHERE id = ?", (new, customer))


def address_add(db: sqlite3.Connection, customer: int, label: str, street: str, city: str, postcode: str) -> None:
    """Add an address."""
    if not all((label, street, city, postcode)):
        raise Refused("every field of an address is needed")
    insert(db, "addresses", customer=customer, label=label, street=street, city=city, postcode=postcode, main=0)


def address_main(db: sqlite3.Connection, customer: int, address: int) -> None:
    """Make an address the main one."""
    one(db, "SELECT id FROM addresses WHERE id = ? AND customer = ?", address, customer)
    db.execute("UPDATE addresses SET main = (id = ?) WHERE customer = ?", (address, customer))


def address_delete(db: sqlite3.Connection, customer: int, address: int) -> None:
    """Delete an address that is not the main one."""
    if one(db, "SELECT main FROM addresses WHERE id = ? AND customer = ?", address, customer)["main"]:
        raise Refused("the main address cannot be deleted")
    db.execute("DELETE FROM addresses WHERE id = ?", (address,))


def wish(db: sqlite3.Connection, customer: int, product: int) -> None:
    """Put a product on the wish list."""
    one(db, "SELECT id FROM products WHERE id = ?", product)
    if not db.execute("SELECT id FROM wishes WHERE customer = ? AND product = ?", (customer, product)).fetchone():
        insert(db, "wishes", customer=customer, product=product)


def unwish(db: sqlite3.Connection, customer: int, product: int) -> None:
    """Take a product off the wish list."""
    db.execute("DELETE FROM wishes WHERE customer = ? AND product = ?", (customer, product))


def review(db: sqlite3.Connection, customer: int, product: int, stars: int, title: str, body: str) -> None:
    """Write the customer's review of a product, or write it anew."""
    one(db, "SELECT id FROM products WHERE id = ?", product)
    if not 1 <= stars <= 5 or not title:
        raise Refused("a review needs 1 to 5 stars and a title")
    there = db.execute("SELECT id FROM reviews WHERE customer = ? AND product = ?", (customer, product)).fetchone()
    if there:
        db.execute("UPDATE reviews SET stars = ?, title = ?, body = ? WHERE id = ?", (stars, title, body, there["id"]))
    else:
        insert(db, "reviews", product=product, customer=customer, stars=stars, title=title, body=body, hidden=0)


def review_delete(db: sqlite3.Connection, customer: int, review: int) -> None:
    """Delete one's own review."""
    one(db, "SELECT id FROM reviews WHERE id = ? AND customer = ?", review, customer)
    db.execute("DELETE FROM reviews WHERE id = ?", (review,))


def thread(db: sqlite3.Connection, customer: int, board: str, title: str, body: str) -> int:
    """Begin a thread; its number."""
    if not title or not body:
        raise Refused("a thread needs a title and a text")
    number = insert(db, "threads", board=board, customer=customer, title=title, pinned=0, locked=0)
    insert(db, "posts", threads=number, customer=customer, body=body)
    return number


def reply(db: sqlite3.Connection, customer: int, thread: int, body: str) -> None:
    """Answer in a thread."""
    if one(db, "SELECT locked FROM threads WHERE id = ?", thread)["locked"]:
        raise Refused("the thread is locked")
    if not body:
        raise Refused("a reply needs a text")
    insert(db, "posts", threads=thread, customer=customer, body=body)


def vote(db: sqlite3.Connection, customer: int, post: int) -> None:
    """Say that a post helped."""
    one(db, "SELECT id FROM posts WHERE id = ?", post)
    if not db.execute("SELECT id FROM votes WHERE posts = ? AND customer = ?", (post, customer)).fetchone():
        insert(db, "votes", posts=post, customer=customer)


def post_delete(db: sqlite3.Connection, customer: int, post: int) -> None:
    """Delete one's own post."""
    one(db, "SELECT id FROM posts WHERE id = ? AND customer = ?", post, customer)
    db.execute("DELETE FROM posts WHERE id = ?", (post,))


# What only the shop's own people may do


def edit(db: sqlite3.Connection, product: int, **changed: int) -> None:
    """Change price (cents), stock or ``active`` of a product."""
    one(db, "SELECT id FROM products WHERE id = ?", product)
    for key, value in changed.items():
        if key not in ("price", "stock", "active") or value < 0:
            raise Refused(f"that is no {key}")
        db.execute(f"UPDATE products SET {key} = ? WHERE id = ?", (value, product))


def ship(db: sqlite3.Connection, order: int, tracking: str) -> None:
    """Send an order off."""
    if one(db, "SELECT status FROM orders WHERE id = ?", order)["status"] != "placed" or not tracking:
        raise Refused("only an order that is placed can be shipped, with a tracking number")
    db.execute("UPDATE orders SET status = 'shipped', tracking = ? WHERE id = ?", (tracking, order))


def hide(db: sqlite3.Connection, review: int, hidden: int = 1) -> None:
    """Hide a review, or show it again."""
    one(db, "SELECT id FROM reviews WHERE id = ?", review)
    db.execute("UPDATE reviews SET hidden = ? WHERE id = ?", (hidden, review))


def moderate(db: sqlite3.Connection, thread: int, what: str, value: int) -> None:
    """Pin or lock a thread, or undo it."""
    one(db, "SELECT id FROM threads WHERE id = ?", thread)
    if what not in ("pinned", "locked"):
        raise Refused("a thread can be pinned or locked")
    db.execute(f"UPDATE threads SET {what} = ? WHERE id = ?", (value, thread))


def coupon(db: sqlite3.Connection, code: str, percent: int) -> None:
    """Make a coupon."""
    if not code.isalnum() or not 1 <= percent <= 90 or db.execute("SELECT id FROM coupons WHERE code = ?", (code,)).fetchone():
        raise Refused("a coupon needs a new code of letters and digits, and 1 to 90 percent")
    insert(db, "coupons", code=code, percent=percent)


def import_stock(db: sqlite3.Connection, text: str) -> int:
    """Set stocks by a CSV of ``id,stock``; how many were set. All or none."""
    rows = list(csv.DictReader(io.StringIO(text)))
    try:
        wanted = [(int(r["stock"]), int(r["id"])) for r in rows]
    except (KeyError, ValueError, TypeError):
        raise Refused("the file needs the columns id and stock") from None
    for stock, product in wanted:
        one(db, "SELECT id FROM products WHERE id = ?", product)
        edit(db, product, stock=stock)
    return len(wanted)


def rows(db: sqlite3.Connection) -> Rows:
    """Everything that counts, by table and id."""
    return {table: {r["id"]: dict(r) for r in db.execute(f"SELECT * FROM {table}")} for table in COMPARED}


def changes(before: Rows, after: Rows) -> dict[str, Any]:
    """What became of the rows: ``added`` (without their ids: rows that belong to a new one say ``new``), ``removed`` and ``changed``, by table."""
    new = {table: after[table].keys() - before[table].keys() for table in COMPARED}
    found: dict[str, Any] = {}
    for table in COMPARED:
        was, now = before[table], after[table]
        added = [{k: "new" if k in new and v in new[k] else v for k, v in now[i].items() if k != "id"} for i in new[table]]
        changed = {str(i): {k: v for k, v in now[i].items() if v != was[i][k]} for i in was.keys() & now.keys() if was[i] != now[i]}
        entry = {"added": sorted(added, key=repr), "removed": sorted(was.keys() - now.keys()), "changed": dict(sorted(changed.items()))}
        if entry := {k: v for k, v in entry.items() if v}:
            found[table] = entry
    return found
