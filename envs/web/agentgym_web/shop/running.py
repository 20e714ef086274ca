"""Templates for those who run the shop."""

from agentgym_web.shop import acts
from agentgym_web.shop.catalogue import ADMIN
from agentgym_web.shop.drafts import Bench, Draft, money, template

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
