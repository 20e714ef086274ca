"""Templates that ask: find something out, and compare several pages."""

from agentgym_web.shop import acts
from agentgym_web.shop.catalogue import BRANDS, DEPARTMENTS, ME
from agentgym_web.shop.drafts import Bench, Draft, buy, order, see, template
from agentgym_web.shop.world import care, reference, terms

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
    brand, noun, _ = b.shelf()
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
