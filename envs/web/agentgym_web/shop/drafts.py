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
from agentgym_web.shop.catalogue import ADMIN, BRANDS, DEPARTMENTS, ME, OPINIONS, REPLIES
from agentgym_web.shop.world import World, care, reference, terms

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


# Find something out


@template("find")
def price(b: Bench) -> Draft:
    p = b.product()
    return Draft(f"What does the {p['name']} cost? Answer with the amount.", [["goto", f"/search?q={p['name']}"], ["click", p["name"]]], p["price"] / 100)


@template("find")
def stock(b: Bench) -> Draft:
    p = b.product()
    return Draft(f"How many pieces of the {p['name']} are in stock? Answer with the number.", [see(p["id"])], float(p["stock"]))


@template("find")
def warranty(b: Bench) -> Draft:
    p = b.product()
    return Draft(f"How many years of warranty has the {p['name']}? Answer with the number.", [see(p["id"])], float(p["warranty"]))


@template("find")
def how_many(b: Bench) -> Draft:
    brand, department = b.rng.choice(BRANDS), b.rng.choice(list(DEPARTMENTS))
    n = len(b.rows("SELECT id FROM products WHERE active AND brand = ? AND department = ?", brand, department))
    way = [["goto", f"/search?department={department}"], ["choose", "Brand", brand], ["click", "Apply filters"]]
    return Draft(f"How many products by {brand} does the department {department} have? Answer with the number.", way, float(n))


@template("find")
def cheapest(b: Bench) -> Draft:
    brand, noun, found = b.shelf()
    best = b.rows("SELECT * FROM products WHERE active AND name LIKE ? ORDER BY price", f"{brand} {noun} %")[0]
    way = [["goto", f"/search?q={brand} {noun}"], ["choose", "Sort by", "price, lowest first"], ["click", "Apply filters"]]
    return Draft(f"What is the full name of the cheapest {noun} by {brand}? Answer with the name only.", way, best["name"])


@template("find")
def top_reviews(b: Bench) -> Draft:
    p = b.product("id IN (SELECT product FROM reviews WHERE stars = 5)")
    n = len(b.rows("SELECT id FROM reviews WHERE product = ? AND stars = 5", p["id"]))
    return Draft(f"How many reviews with 5 stars has the {p['name']}? Answer with the number.", [see(p["id"])], float(n))


@template("find")
def order_total(b: Bench) -> Draft:
    o = b.order("delivered")
    return Draft(f"What was the total of your order {o['id']}? Answer with the amount.", [["goto", "/orders"], ["click", f"Order {o['id']}"]], o["total"] / 100)


@template("find")
def tracking(b: Bench) -> Draft:
    o = b.order("shipped")
    return Draft(f"What is the tracking number of your order {o['id']}? Answer with it.", [["goto", "/orders"], ["click", f"Order {o['id']}"]], o["tracking"])


@template("find")
def return_days(b: Bench) -> Draft:
    p = b.product()
    asks = f"Within how many days can the {p['name']} be sent back? It is said on its page. Answer with the number."
    return Draft(asks, [see(p["id"])], float(terms(b.seed, p["department"])[0]))


@template("find")
def invoice(b: Bench) -> Draft:
    o = b.order("delivered")
    asks = f"What is the invoice number on the invoice of your order {o['id']}? It is in the file. Answer with it."
    return Draft(asks, [["goto", f"/orders/{o['id']}"], ["click", "Download invoice"]], reference(b.seed, o["id"]))


@template("find")
def care_of(b: Bench) -> Draft:
    p = b.product()
    asks = f"At how many degrees at most may the {p['name']} be cleaned? Its care instructions say it. Answer with the number."
    return Draft(asks, [see(p["id"]), ["click", "Care instructions"], ["tab", 2]], float(care(b.seed, p["id"])))


@template("find")
def who_began(b: Bench) -> Draft:
    th = b.rng.choice(b.rows("SELECT t.*, c.name FROM threads t JOIN customers c ON c.id = t.customer"))
    return Draft(f'Who began the thread "{th["title"]}" in the forum? Answer with the full name.', [["goto", "/forum"], ["click", th["title"]]], th["name"])


# Buy under constraints


@template("buy")
def buy_one(b: Bench) -> Draft:
    p, n = b.product(), b.rng.randrange(1, 4)
    order(b, [(p["id"], n)])
    return Draft(f"Buy {n} of the {p['name']}, with everything else as it is.", buy([(p["id"], n)]))


@template("buy")
def buy_two(b: Bench) -> Draft:
    p, q = b.products(2)
    order(b, [(p["id"], 1), (q["id"], 2)])
    return Draft(f"Buy one {p['name']} and two of the {q['name']} in a single order.", buy([(p["id"], 1), (q["id"], 2)]))


@template("buy")
def buy_cheapest(b: Bench) -> Draft:
    brand, noun, found = b.shelf()
    order(b, [(found[0]["id"], 1)])
    way = [["goto", f"/search?q={brand} {noun}&sort=price, lowest first&stocked=1"], *buy([(found[0]["id"], 1)])]
    return Draft(f"Buy the cheapest {noun} by {brand} of which more than three are in stock.", way)


@template("buy")
def buy_dearest(b: Bench) -> Draft:
    brand, noun, found = b.shelf()
    limit = found[-1]["price"] + 1 if b.rng.random() < 0.5 else found[-1]["price"] - 1
    best = [p for p in found if p["price"] <= limit][-1]
    order(b, [(best["id"], 1)])
    asks = f"Buy the most expensive {noun} by {brand} that costs at most {money(limit)} and of which more than three are in stock."
    return Draft(asks, [["goto", f"/search?q={brand} {noun}&sort=price, highest first"], *buy([(best["id"], 1)])])


@template("buy")
def buy_to(b: Bench) -> Draft:
    p, a = b.product(), b.rng.choice(b.rows("SELECT * FROM addresses WHERE customer = ? AND NOT main", ME))
    order(b, [(p["id"], 1)], a["id"])
    choose = ["choose", "Address", f"{a['label']}: {a['street']}"]
    return Draft(f'Buy one {p["name"]} and have it sent to your address "{a["label"]}".', buy([(p["id"], 1)], choose))


@template("buy")
def buy_express(b: Bench) -> Draft:
    p = b.product()
    order(b, [(p["id"], 1)], delivery="express")
    return Draft(f"Buy one {p['name']} with express delivery.", buy([(p["id"], 1)], ["choose", "Delivery", "express, $9.90"]))


@template("buy")
def buy_coupon(b: Bench) -> Draft:
    p, code = b.product(), b.rng.choice(("WELCOME10", "SPRING15"))
    order(b, [(p["id"], 1)], coupon=code)
    return Draft(f"Buy one {p['name']} with the coupon {code}.", buy([(p["id"], 1)], ["fill", "Coupon", code]))


@template("buy")
def buy_gift(b: Bench) -> Draft:
    p, note = b.product(), b.rng.choice(("Happy birthday", "Many thanks", "Welcome home", "Get well soon"))
    order(b, [(p["id"], 1)], note=note)
    return Draft(f'Buy one {p["name"]} with the gift note "{note}".', buy([(p["id"], 1)], ["fill", "Gift note", note]))


@template("buy")
def buy_again(b: Bench) -> Draft:
    for o in b.rows("SELECT * FROM orders WHERE customer = ? ORDER BY id DESC", ME):
        lines = b.rows("SELECT l.*, p.stock FROM lines l JOIN products p ON p.id = l.product WHERE l.orders = ?", o["id"])
        if all(line["stock"] >= line["quantity"] for line in lines):
            acts.reorder(b.db, ME, o["id"])
            order(b, [])
            return Draft(f"Order again what you ordered with order {o['id']}.", [["goto", f"/orders/{o['id']}"], ["click", "Order again"], *buy([])])
    return buy_one(b)


@template("buy")
def fill_cart(b: Bench) -> Draft:
    found = b.products(3)
    for p in found:
        acts.cart_add(b.db, ME, p["id"])
    way = [step for p in found for step in (see(p["id"]), ["click", "Add to cart"])]
    return Draft(f"Put one {found[0]['name']}, one {found[1]['name']} and one {found[2]['name']} into the cart, and do not pay.", way)


# Change the state of the account


@template("account")
def phone(b: Bench) -> Draft:
    new = f"555 {b.rng.randrange(1000, 9999)}"
    acts.profile(b.db, ME, phone=new)
    return Draft(f"Change your phone number to {new}.", [["goto", "/account"], ["fill", "Phone", new], ["click", "Update profile"]])


@template("account")
def email(b: Bench) -> Draft:
    new = f"{b.rng.choice(('post', 'mail', 'me', 'shop'))}{b.rng.randrange(100, 999)}@mail.test"
    acts.profile(b.db, ME, email=new)
    return Draft(f"Change your email to {new}.", [["goto", "/account"], ["fill", "Email", new], ["click", "Update profile"]])


@template("account")
def newsletter(b: Bench) -> Draft:
    acts.profile(b.db, ME, newsletter="0")
    return Draft("Unsubscribe from the newsletter.", [["goto", "/account"], ["click", "Newsletter"], ["click", "Update profile"]])


@template("account")
def new_password(b: Bench) -> Draft:
    old, new = b.rows("SELECT password FROM customers WHERE id = ?", ME)[0][0], f"pebble-{b.rng.randrange(1000, 9999)}"
    acts.password(b.db, ME, old, new)
    way = [["goto", "/account"], ["fill", "Current password", old], ["fill", "New password", new], ["click", "Change password"]]
    return Draft(f"Change your password from {old} to {new}.", way)


@template("account")
def logged_out(b: Bench) -> Draft:
    me, new = b.rows("SELECT * FROM customers WHERE id = ?", ME)[0], f"555 {b.rng.randrange(1000, 9999)}"
    acts.profile(b.db, ME, phone=new)
    way = [["goto", "/login"], ["fill", "Email", me["email"]], ["fill", "Password", me["password"]], ["click", "Continue"]]
    asks = f"Log in as {me['email']} with the password {me['password']}, and change the phone number to {new}."
    return Draft(asks, [*way, ["goto", "/account"], ["fill", "Phone", new], ["click", "Update profile"]], who=0)


@template("account")
def new_address(b: Bench) -> Draft:
    given = {"Label": b.rng.choice(("Holiday", "Studio", "Boat")), "Street": f"{b.rng.randrange(1, 99)} Quay Road", "City": "Marlow", "Postcode": str(b.rng.randrange(10_000, 99_999))}
    acts.address_add(b.db, ME, *given.values())
    asks = f'Add an address labelled "{given["Label"]}": {given["Street"]}, {given["City"]}, postcode {given["Postcode"]}.'
    return Draft(asks, [["goto", "/account/addresses"], *(["fill", k, v] for k, v in given.items()), ["click", "Save"]])


@template("account")
def drop_address(b: Bench) -> Draft:
    a = b.rng.choice(b.rows("SELECT * FROM addresses WHERE customer = ? AND NOT main", ME))
    acts.address_delete(b.db, ME, a["id"])
    return Draft(f'Delete your address "{a["label"]}".', [["goto", "/account/addresses"], ["click", "Delete", a["label"]], ["ok"]])


@template("account")
def main_address(b: Bench) -> Draft:
    a = b.rng.choice(b.rows("SELECT * FROM addresses WHERE customer = ? AND NOT main", ME))
    acts.address_main(b.db, ME, a["id"])
    return Draft(f'Make "{a["label"]}" your main address.', [["goto", "/account/addresses"], ["click", "Make main", a["label"]]])


@template("account")
def wish(b: Bench) -> Draft:
    p = b.product("id NOT IN (SELECT product FROM wishes)")
    acts.wish(b.db, ME, p["id"])
    return Draft(f"Put the {p['name']} on your wish list.", [see(p["id"]), ["click", "Add to wish list"]])


@template("account")
def unwish(b: Bench) -> Draft:
    p = b.product("id IN (SELECT product FROM wishes)")
    acts.unwish(b.db, ME, p["id"])
    return Draft(f"Take the {p['name']} off your wish list.", [["goto", "/wishes"], ["click", "Remove", p["name"]]])


@template("account")
def cancel_order(b: Bench) -> Draft:
    o = b.order("placed")
    acts.cancel(b.db, o["id"], ME)
    return Draft(f"Cancel your order {o['id']}.", [["goto", f"/orders/{o['id']}"], ["click", "Cancel order"], ["ok"]])


@template("account")
def return_item(b: Bench) -> Draft:
    o, reason = b.order("delivered"), b.rng.choice(("damaged", "wrong item", "too late"))
    line = b.rng.choice(b.rows("SELECT l.*, p.name FROM lines l JOIN products p ON p.id = l.product WHERE l.orders = ?", o["id"]))
    acts.send_back(b.db, ME, o["id"], line["product"], 1, reason)
    way = [["goto", f"/orders/{o['id']}/return/{line['product']}"], ["choose", "Reason", reason], ["click", "Return item"]]
    return Draft(f'Return one {line["name"]} of your order {o["id"]}, for the reason "{reason}".', way)


@template("account")
def write_review(b: Bench) -> Draft:
    p, stars, (title, body) = b.product("id NOT IN (SELECT product FROM reviews WHERE customer = 1)"), b.rng.randrange(2, 6), b.rng.choice(OPINIONS)
    acts.review(b.db, ME, p["id"], stars, title, body)
    way = [["goto", f"/product/{p['id']}/review"], ["click", f"{stars} stars"], ["fill", "Title", title], ["fill", "Text", body], ["click", "Post review"]]
    return Draft(f'Review the {p["name"]}: {stars} stars, title "{title}", text "{body}"', way)


@template("account")
def edit_review(b: Bench) -> Draft:
    r = b.rng.choice(b.rows("SELECT r.*, p.name FROM reviews r JOIN products p ON p.id = r.product WHERE r.customer = ?", ME))
    stars = b.rng.choice([n for n in (2, 3, 4, 5) if n != r["stars"]])
    acts.review(b.db, ME, r["product"], stars, r["title"], r["body"])
    way = [["goto", "/reviews"], ["click", "Edit", r["name"]], ["click", f"{stars} stars"], ["click", "Post review"]]
    return Draft(f"Change your review of the {r['name']} to {stars} stars and leave its text as it is.", way)


@template("account")
def drop_review(b: Bench) -> Draft:
    r = b.rng.choice(b.rows("SELECT r.*, p.name FROM reviews r JOIN products p ON p.id = r.product WHERE r.customer = ?", ME))
    acts.review_delete(b.db, ME, r["id"])
    return Draft(f"Delete your review of the {r['name']}.", [["goto", "/reviews"], ["click", "Delete", r["name"]], ["ok"]])


@template("account")
def reply(b: Bench) -> Draft:
    th, text = b.rng.choice(b.rows("SELECT * FROM threads WHERE NOT locked")), b.rng.choice(REPLIES)
    acts.reply(b.db, ME, th["id"], text)
    way = [["goto", f"/forum/{th['id']}"], ["fill", "Text", text], ["click", "Post reply"]]
    return Draft(f'Reply to the thread "{th["title"]}" in the forum with: {text}', way)


@template("account")
def new_thread(b: Bench) -> Draft:
    board, title, text = b.rng.choice(("Help", "Ideas", "Swap")), f"Question {b.rng.randrange(100, 999)}", b.rng.choice(REPLIES)
    acts.thread(b.db, ME, board, title, text)
    way = [["goto", "/forum"], ["choose", "Board", board], ["fill", "Title", title], ["fill", "Text", text], ["click", "Post thread"]]
    return Draft(f'Begin a thread on the board {board} of the forum, with the title "{title}" and the text: {text}', way)


@template("account")
def drop_post(b: Bench) -> Draft:
    p = b.rng.choice(b.rows("SELECT p.*, t.title FROM posts p JOIN threads t ON t.id = p.threads WHERE p.customer = ?", ME))
    acts.post_delete(b.db, ME, p["id"])
    return Draft(f'Delete your post in the thread "{p["title"]}" of the forum.', [["goto", f"/forum/{p['threads']}"], ["click", "Delete"], ["ok"]])


@template("account")
def helpful(b: Bench) -> Draft:
    p = b.rng.choice(b.rows("SELECT p.*, t.title, c.name FROM posts p JOIN threads t ON t.id = p.threads JOIN customers c ON c.id = p.customer WHERE p.customer != ?", ME))
    nth = [r["id"] for r in b.rows("SELECT id FROM posts WHERE threads = ? ORDER BY id", p["threads"])].index(p["id"]) + 1
    acts.vote(b.db, ME, p["id"])
    way = [["goto", f"/forum/{p['threads']}"], ["click", "Helpful", f"Post {nth} by"]]
    return Draft(f'Mark post {nth} of the thread "{p["title"]}" in the forum as helpful.', way)


# Compare several pages


@template("compare")
def cheaper(b: Bench) -> Draft:
    p, q = sorted(b.products(2), key=lambda r: r["id"])
    best = min(p, q, key=lambda r: r["price"])
    return Draft(f"Which is cheaper, the {p['name']} or the {q['name']}? Answer with its name.", [see(p["id"]), see(q["id"])], best["name"])


@template("compare")
def lightest(b: Bench) -> Draft:
    found = b.products(3)
    best = min(found, key=lambda r: r["weight"])
    names = ", ".join(p["name"] for p in found)
    return Draft(f"Which of these is the lightest: {names}? Answer with its name.", [see(p["id"]) for p in found], best["name"])


@template("compare")
def price_gap(b: Bench) -> Draft:
    p, q = b.products(2)
    asks = f"By how much do the prices of the {p['name']} and the {q['name']} differ? Answer with the amount."
    return Draft(asks, [see(p["id"]), see(q["id"])], abs(p["price"] - q["price"]) / 100)


@template("compare")
def basket_cost(b: Bench) -> Draft:
    p, q, r = b.products(3)
    asks = f"What would one {p['name']}, two of the {q['name']} and one {r['name']} cost together? Answer with the amount, and buy nothing."
    return Draft(asks, [see(x["id"]) for x in (p, q, r)], (p["price"] + 2 * q["price"] + r["price"]) / 100)


@template("compare")
def wish_cheaper(b: Bench) -> Draft:
    p, q = b.products(2, "stock > 5 AND id NOT IN (SELECT product FROM wishes)")
    best = min(p, q, key=lambda r: r["price"])
    acts.wish(b.db, ME, best["id"])
    way = [see(p["id"]), see(q["id"]), see(best["id"]), ["click", "Add to wish list"]]
    return Draft(f"Put the cheaper one of the {p['name']} and the {q['name']} on your wish list.", way)


@template("compare")
def buy_lighter(b: Bench) -> Draft:
    p, q = b.products(2)
    best = min(p, q, key=lambda r: r["weight"])
    order(b, [(best["id"], 1)])
    return Draft(f"Buy the lighter one of the {p['name']} and the {q['name']}.", [see(p["id"]), see(q["id"]), *buy([(best["id"], 1)])])


@template("compare")
def bigger_order(b: Bench) -> Draft:
    p, q = b.rng.sample(b.rows("SELECT * FROM orders WHERE customer = ? ORDER BY id", ME), 2)
    best, way = max(p, q, key=lambda o: o["total"]), [["goto", f"/orders/{p['id']}"], ["goto", f"/orders/{q['id']}"]]
    return Draft(f"Which of your orders {p['id']} and {q['id']} had the higher total? Answer with its number.", way, float(best["id"]))


# Run the shop


@template("admin")
def set_price(b: Bench) -> Draft:
    p, new = b.product(), b.rng.randrange(500, 9999)
    acts.edit(b.db, p["id"], price=new)
    way = [["goto", f"/admin/products?q={p['name']}"], ["click", p["name"]], ["fill", "Price", f"{new / 100:.2f}"], ["click", "Save"]]
    return Draft(f"As the shop's administrator, set the price of the {p['name']} to {money(new)}.", way, who=ADMIN)


@template("admin")
def set_stock(b: Bench) -> Draft:
    p, new = b.product(), b.rng.randrange(100, 400)
    acts.edit(b.db, p["id"], stock=new)
    way = [["goto", f"/admin/products/{p['id']}"], ["fill", "Stock", str(new)], ["click", "Save"]]
    return Draft(f"As the shop's administrator, set the stock of the {p['name']} to {new}.", way, who=ADMIN)


@template("admin")
def take_off_sale(b: Bench) -> Draft:
    p = b.product()
    acts.edit(b.db, p["id"], active=0)
    way = [["goto", f"/admin/products/{p['id']}"], ["click", "On sale"], ["click", "Save"]]
    return Draft(f"As the shop's administrator, take the {p['name']} off sale.", way, who=ADMIN)


@template("admin")
def ship_order(b: Bench) -> Draft:
    o, code = b.rng.choice(b.rows("SELECT * FROM orders WHERE status = 'placed' ORDER BY id")), f"TR{b.rng.randrange(100_000, 999_999)}"
    acts.ship(b.db, o["id"], code)
    way = [["goto", f"/admin/orders/{o['id']}"], ["fill", "Tracking number", code], ["click", "Ship"]]
    return Draft(f"As the shop's administrator, ship order {o['id']} with the tracking number {code}.", way, who=ADMIN)


@template("admin")
def refuse_order(b: Bench) -> Draft:
    o = b.rng.choice(b.rows("SELECT * FROM orders WHERE status = 'placed' ORDER BY id"))
    acts.cancel(b.db, o["id"])
    way = [["goto", f"/admin/orders/{o['id']}"], ["click", "Cancel order"], ["ok"]]
    return Draft(f"As the shop's administrator, cancel order {o['id']}.", way, who=ADMIN)


@template("admin")
def hide_review(b: Bench) -> Draft:
    r = b.rng.choice(b.rows(
        "SELECT r.*, p.name AS product_name, c.name FROM reviews r JOIN products p ON p.id = r.product JOIN customers c ON c.id = r.customer "
        "WHERE (SELECT COUNT(*) FROM reviews x WHERE x.product = r.product AND x.customer = r.customer) = 1 ORDER BY r.id"))  # fmt: skip
    acts.hide(b.db, r["id"])
    way = [["goto", f"/admin/reviews?q={r['product_name']}"], ["click", "Hide", f"by {r['name']}"]]
    return Draft(f"As the shop's administrator, hide the review of the {r['product_name']} by {r['name']}.", way, who=ADMIN)


@template("admin")
def make_coupon(b: Bench) -> Draft:
    code, percent = f"CODE{b.rng.randrange(100, 999)}", b.rng.randrange(5, 40)
    acts.coupon(b.db, code, percent)
    way = [["goto", "/admin"], ["fill", "Code", code], ["fill", "Percent", str(percent)], ["click", "Create coupon"]]
    return Draft(f"As the shop's administrator, create the coupon {code} of {percent} percent.", way, who=ADMIN)


@template("admin")
def lock_thread(b: Bench) -> Draft:
    th = b.rng.choice(b.rows("SELECT * FROM threads ORDER BY id"))
    acts.moderate(b.db, th["id"], "locked", 1)
    return Draft(f'As the shop\'s administrator, lock the thread "{th["title"]}" of the forum.', [["goto", f"/forum/{th['id']}"], ["click", "Lock"]], who=ADMIN)


@template("admin")
def pin_thread(b: Bench) -> Draft:
    th = b.rng.choice(b.rows("SELECT * FROM threads ORDER BY id"))
    acts.moderate(b.db, th["id"], "pinned", 1)
    return Draft(f'As the shop\'s administrator, pin the thread "{th["title"]}" of the forum.', [["goto", f"/forum/{th['id']}"], ["click", "Pin"]], who=ADMIN)


@template("admin")
def count_orders(b: Bench) -> Draft:
    status = b.rng.choice(("placed", "shipped", "delivered", "cancelled"))
    n = len(b.rows("SELECT id FROM orders WHERE status = ?", status))
    asks = f"As the shop's administrator: how many orders of the shop are {status}? Answer with the number."
    return Draft(asks, [["goto", "/admin"]], float(n), who=ADMIN)


@template("admin")
def import_stock(b: Bench) -> Draft:
    text = "id,stock\n" + "".join(f"{p['id']},{b.rng.randrange(100, 300)}\n" for p in b.products(4))
    acts.import_stock(b.db, text)
    way = [["goto", "/admin/products"], ["upload", "Stock file", "stock.csv"], ["click", "Import"]]
    return Draft("As the shop's administrator, import the file stock.csv of stocks.", way, who=ADMIN, files={"stock.csv": text})


PARTS = ("phone", "wish", "new-address", "drop-address", "write-review", "reply", "cancel-order", "helpful")
"""What can be asked for in one breath: none of these touches what another one changes."""


@template("account")
def errands(b: Bench) -> Draft:
    return several(b, 4)


def several(b: Bench, parts: int) -> Draft:
    """The first ``parts`` of four things to do, as one instruction."""
    chosen = [TEMPLATES[name][1] for name in b.rng.sample(PARTS, 4)][:parts]
    drafts = [make(b) for make in chosen]
    asks = "\n".join(f"{n}. {d.asks}" for n, d in enumerate(drafts, 1))
    return Draft(f"Do all of this:\n{asks}" if len(drafts) > 1 else drafts[0].asks, [step for d in drafts for step in d.way])
