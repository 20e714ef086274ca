"""The shop as a web site: pages from templates, forms that call ``acts``. One application serves every episode; the world comes with the request."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jinja2
from starlette.applications import Starlette
from starlette.datastructures import FormData, UploadFile
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from agentgym_web.shop import acts
from agentgym_web.shop.acts import Refused, one
from agentgym_web.shop.catalogue import BOARDS, BRANDS, DEPARTMENTS
from agentgym_web.shop.world import World, care, reference, terms

HERE = Path(__file__).parent
PAGES = jinja2.Environment(loader=jinja2.FileSystemLoader(HERE / "templates"), autoescape=True, trim_blocks=True, lstrip_blocks=True)
PAGES.filters["money"] = lambda cents: f"${cents // 100}.{cents % 100:02}"
PAGES.filters["together"] = lambda lines: sum(line["quantity"] * line["price"] for line in lines)
PAGES.filters["pair"] = lambda text: (text, text)
PAGES.filters["place"] = lambda a: (a["id"], f"{a['label']}: {a['street']}")
PER_PAGE = 20
SORTS = {
    "relevance": "p.id", "price, lowest first": "p.price", "price, highest first": "p.price DESC", "rating": "stars DESC, p.id", "weight": "p.weight",
}  # fmt: skip
STARS = "(SELECT ROUND(AVG(r.stars), 1) FROM reviews r WHERE r.product = p.id AND NOT r.hidden) AS stars"
LISTED = f"SELECT p.*, {STARS} FROM products p"
Handler = Callable[[Request], Awaitable[Response]]


class Visitor:
    """A request as the pages see it: the world, and who asks."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.world: World = request.state.world
        self.db = self.world.db
        self.customer = self.world.customer(request.cookies.get("session"))

    @property
    def me(self) -> int:
        """The customer. Raises ``Refused`` if nobody is logged in."""
        if self.customer is None:
            raise Refused("please log in")
        return int(self.customer["id"])

    def rows(self, query: str, *values: Any) -> list[Any]:
        """The rows of a query."""
        found: list[Any] = self.db.execute(query, values).fetchall()
        return found

    def page(self, name: str, status: int = 200, **given: Any) -> Response:
        """A page from its template."""
        world = self.world
        said, world.said = world.said, ""
        count = self.db.execute("SELECT COALESCE(SUM(quantity), 0) FROM cart WHERE customer = ?", (self.customer["id"],)).fetchone()[0] if self.customer else 0
        html = PAGES.get_template(f"{name}.html").render(
            t=world.t, world=world, customer=self.customer, said=said, count=count, departments=DEPARTMENTS, path=self.request.url.path,
            order=lambda items: list(items)[::-1] if world.moved else list(items), **given,
        )  # fmt: skip
        return HTMLResponse(html, status)


def shown(handler: Callable[[Visitor], Response]) -> Handler:
    """A page for a function of the visitor; what the shop refuses is a page that says so."""

    async def respond(request: Request) -> Response:
        visitor = Visitor(request)
        try:
            if request.url.path.startswith("/admin") and not (visitor.customer and visitor.customer["admin"]):
                raise Refused("this part of the shop is for its own people")
            return handler(visitor)
        except (Refused, ValueError) as error:
            return visitor.page("sorry", 200 if isinstance(error, Refused) else 404, why=str(error))

    return respond


def done(handler: Callable[[Visitor, FormData], str], then: str, says: str = "") -> Handler:
    """A form's end: do it, then go to ``then`` (with what the handler returns, if it returns an address); or back, with the reason why not."""

    async def respond(request: Request) -> Response:
        visitor = Visitor(request)
        form = await request.form(max_part_size=200_000)
        target = then
        try:
            if request.url.path.startswith("/admin") and not (visitor.customer and visitor.customer["admin"]):
                raise Refused("this part of the shop is for its own people")
            visitor.me  # noqa: B018  # only for who is logged in
            visitor.db.execute("BEGIN")
            target = handler(visitor, form) or then
            visitor.db.execute("COMMIT")
            visitor.world.said = says
        except (Refused, ValueError, KeyError) as error:
            if visitor.db.in_transaction:
                visitor.db.execute("ROLLBACK")
            visitor.world.said = f"Sorry: {error if isinstance(error, Refused) else 'something in the form does not fit'}"
            target = urlsplit(request.headers.get("referer", "/")).path
        return RedirectResponse(target, 303)

    return respond


def home(v: Visitor) -> Response:
    return v.page("home", offers=v.rows(f"{LISTED} WHERE active ORDER BY p.id LIMIT 6"))


def search(v: Visitor) -> Response:
    asked = v.request.query_params
    where, values = ["p.active"], list[Any]()
    for word in asked.get("q", "").split()[:10]:
        where.append("(p.name LIKE ? OR p.about LIKE ?)")
        values += [f"%{word}%"] * 2
    for key in ("department", "brand"):
        if asked.get(key):
            where.append(f"p.{key} = ?")
            values.append(asked[key])
    if asked.get("most"):
        where.append("p.price <= ?")
        values.append(cents(asked["most"]))
    if asked.get("stocked"):
        where.append("p.stock > 0")
    page, sort = max(1, int(asked.get("page", "1"))), SORTS.get(asked.get("sort", ""), "p.id")
    condition = " AND ".join(where)
    total = v.db.execute(f"SELECT COUNT(*) FROM products p WHERE {condition}", values).fetchone()[0]
    found = v.rows(f"{LISTED} WHERE {condition} ORDER BY {sort} LIMIT {PER_PAGE} OFFSET {(page - 1) * PER_PAGE}", *values)
    link = v.request.url.remove_query_params("page").query
    return v.page("search", found=found, total=total, asked=asked, page=page, pages=-(-total // PER_PAGE), link=link, brands=BRANDS, sorts=SORTS)


def suggest(v: Visitor) -> Response:
    start = v.request.query_params.get("q", "")
    found = v.rows("SELECT id, name FROM products WHERE active AND name LIKE ? ORDER BY id LIMIT 5", f"%{start}%") if len(start) > 2 else []
    return JSONResponse([dict(r) for r in found])


def product(v: Visitor) -> Response:
    found = one(v.db, f"{LISTED} WHERE p.id = ?", int(v.request.path_params["id"]))
    reviews = v.rows("SELECT r.*, c.name FROM reviews r JOIN customers c ON c.id = r.customer WHERE product = ? AND NOT hidden ORDER BY r.id", found["id"])
    return v.page("product", p=found, reviews=reviews)


def delivery(v: Visitor) -> Response:
    department = v.request.path_params["department"]
    days, arrives = terms(v.world.seed, department)
    return v.page("terms", department=department, days=days, arrives=arrives)


def cleaning(v: Visitor) -> Response:
    number = int(v.request.path_params["id"])
    return v.page("care", p=one(v.db, "SELECT * FROM products WHERE id = ?", number), degrees=care(v.world.seed, number))


def cart(v: Visitor) -> Response:
    return v.page("cart", lines=_cart(v))


def checkout(v: Visitor) -> Response:
    return v.page("checkout", lines=_cart(v), addresses=_addresses(v), deliveries=acts.DELIVERIES)


def _cart(v: Visitor) -> list[Any]:
    return v.rows("SELECT c.quantity, p.* FROM cart c JOIN products p ON p.id = c.product WHERE c.customer = ? ORDER BY c.id", v.me)


def _addresses(v: Visitor) -> list[Any]:
    return v.rows("SELECT * FROM addresses WHERE customer = ? ORDER BY id", v.me)


def orders(v: Visitor) -> Response:
    return v.page("orders", orders=v.rows("SELECT * FROM orders WHERE customer = ? ORDER BY id DESC", v.me))


def _order(v: Visitor) -> Any:
    number = int(v.request.path_params["id"])
    return one(v.db, "SELECT * FROM orders WHERE id = ? AND customer = ?", number, v.me)


def order(v: Visitor) -> Response:
    found = _order(v)
    lines = v.rows("SELECT l.*, p.name FROM lines l JOIN products p ON p.id = l.product WHERE l.orders = ?", found["id"])
    returned = v.rows("SELECT r.*, p.name FROM returns r JOIN products p ON p.id = r.product WHERE r.orders = ?", found["id"])
    return v.page("order", o=found, lines=lines, returned=returned)


def send_back(v: Visitor) -> Response:
    found = _order(v)
    return v.page("return", o=found, p=one(v.db, "SELECT * FROM products WHERE id = ?", int(v.request.path_params["product"])))


def invoice(v: Visitor) -> Response:
    found = _order(v)
    lines = v.rows("SELECT l.*, p.name FROM lines l JOIN products p ON p.id = l.product WHERE l.orders = ?", found["id"])
    text = f"invoice,{reference(v.world.seed, found['id'])}\norder,{found['id']}\n"
    text += "".join(f"{line['name']},{line['quantity']},{line['price'] / 100:.2f}\n" for line in lines)
    return Response(text, media_type="text/csv", headers={"content-disposition": f"attachment; filename=invoice-{found['id']}.csv"})


def account(v: Visitor) -> Response:
    v.me  # noqa: B018
    return v.page("account")


def addresses(v: Visitor) -> Response:
    return v.page("addresses", addresses=_addresses(v))


def wishes(v: Visitor) -> Response:
    return v.page("wishes", found=v.rows(f"SELECT p.*, {STARS} FROM wishes w JOIN products p ON p.id = w.product WHERE w.customer = ? ORDER BY w.id", v.me))


def my_reviews(v: Visitor) -> Response:
    mine = v.rows("SELECT r.*, p.name FROM reviews r JOIN products p ON p.id = r.product WHERE r.customer = ? ORDER BY r.id", v.me)
    return v.page("reviews", reviews=mine)


def write_review(v: Visitor) -> Response:
    found = one(v.db, "SELECT * FROM products WHERE id = ?", int(v.request.path_params["id"]))
    mine = v.db.execute("SELECT * FROM reviews WHERE product = ? AND customer = ?", (found["id"], v.me)).fetchone()
    return v.page("review", p=found, mine=mine)


def forum(v: Visitor) -> Response:
    threads = v.rows("SELECT t.*, c.name FROM threads t JOIN customers c ON c.id = t.customer ORDER BY pinned DESC, t.id DESC")
    return v.page("forum", threads=threads, boards=BOARDS)


def thread(v: Visitor) -> Response:
    found = one(v.db, "SELECT t.*, c.name FROM threads t JOIN customers c ON c.id = t.customer WHERE t.id = ?", int(v.request.path_params["id"]))
    counted = "(SELECT COUNT(*) FROM votes x WHERE x.posts = p.id) AS helped"
    posts = v.rows(f"SELECT p.*, c.name, {counted} FROM posts p JOIN customers c ON c.id = p.customer WHERE p.threads = ? ORDER BY p.id", found["id"])
    return v.page("thread", th=found, posts=posts)


def login(v: Visitor) -> Response:
    return v.page("login")


async def log_in(request: Request) -> Response:
    v, form = Visitor(request), await request.form()
    found = v.rows("SELECT id FROM customers WHERE email = ? AND password = ?", str(form.get("email", "")), str(form.get("password", "")))
    if not found:
        v.world.said = "Sorry: the email or the password is wrong"
        return RedirectResponse("/login", 303)
    answer = RedirectResponse("/account", 303)
    answer.set_cookie("session", v.world.log_in(found[0]["id"]), httponly=True)
    return answer


def admin(v: Visitor) -> Response:
    figures = {s: v.db.execute("SELECT COUNT(*) FROM orders WHERE status = ?", (s,)).fetchone()[0] for s in ("placed", "shipped", "delivered", "cancelled")}
    return v.page("admin", figures=figures, coupons=v.rows("SELECT * FROM coupons ORDER BY id"))


def admin_products(v: Visitor) -> Response:
    asked = v.request.query_params.get("q", "")
    return v.page("admin_products", found=v.rows("SELECT * FROM products WHERE name LIKE ? ORDER BY id LIMIT 20", f"%{asked}%"), asked=asked)


def admin_product(v: Visitor) -> Response:
    return v.page("admin_product", p=one(v.db, "SELECT * FROM products WHERE id = ?", int(v.request.path_params["id"])))


def admin_orders(v: Visitor) -> Response:
    status = v.request.query_params.get("status", "")
    found = v.rows("SELECT o.*, c.name FROM orders o JOIN customers c ON c.id = o.customer WHERE ? IN ('', o.status) ORDER BY o.id", status)
    return v.page("admin_orders", orders=found, chosen=status)


def admin_order(v: Visitor) -> Response:
    found = one(v.db, "SELECT o.*, c.name FROM orders o JOIN customers c ON c.id = o.customer WHERE o.id = ?", int(v.request.path_params["id"]))
    lines = v.rows("SELECT l.*, p.name FROM lines l JOIN products p ON p.id = l.product WHERE l.orders = ?", found["id"])
    return v.page("admin_order", o=found, lines=lines)


def admin_reviews(v: Visitor) -> Response:
    asked = v.request.query_params.get("q", "")
    query = "SELECT r.*, p.name AS product_name, c.name FROM reviews r JOIN products p ON p.id = r.product JOIN customers c ON c.id = r.customer"
    return v.page("admin_reviews", reviews=v.rows(f"{query} WHERE p.name LIKE ? ORDER BY r.id LIMIT 20", f"%{asked}%"), asked=asked)


def cents(text: Any) -> int:
    """An amount as it is typed, such as ``12.50``, in cents."""
    return round(float(str(text).strip().removeprefix("$")) * 100)


def _path(v: Visitor, name: str = "id") -> int:
    return int(v.request.path_params[name])


def _do(call: Callable[[Visitor, FormData], Any]) -> Callable[[Visitor, FormData], str]:
    def handler(v: Visitor, form: FormData) -> str:
        call(v, form)
        return ""

    return handler


def _thread_after(v: Visitor, call: Callable[..., Any], *given: Any) -> str:
    number = v.db.execute("SELECT threads FROM posts WHERE id = ?", (given[-1],)).fetchone()
    call(v.db, *given)
    return f"/forum/{number[0] if number else ''}"


async def _imported(request: Request) -> Response:
    form = await request.form(max_part_size=200_000)
    file = form.get("file")
    text = (await file.read()).decode("utf-8", "replace") if isinstance(file, UploadFile) else ""
    return await done(_do(lambda v, f: acts.import_stock(v.db, text)), "/admin/products", "The stocks were set")(request)


def _replied(v: Visitor, f: FormData) -> str:
    acts.reply(v.db, v.me, _path(v), str(f["body"]))
    return f"/forum/{_path(v)}"


def _profile(v: Visitor, f: FormData) -> str:
    acts.profile(v.db, v.me, name=str(f["name"]), email=str(f["email"]), phone=str(f["phone"]), newsletter=str(int("newsletter" in f)))
    return ""


def _edit(v: Visitor, f: FormData) -> str:
    acts.edit(v.db, _path(v), price=cents(f["price"]), stock=int(str(f["stock"])), active=int("active" in f))
    return ""


def _number(form: FormData, key: str) -> int:
    return int(str(form[key]))


GETS: dict[str, Callable[[Visitor], Response]] = {
    "/": home, "/search": search, "/suggest": suggest, "/product/{id:int}": product, "/delivery/{department}": delivery, "/care/{id:int}": cleaning,
    "/cart": cart, "/checkout": checkout, "/orders": orders, "/orders/{id:int}": order, "/orders/{id:int}/return/{product:int}": send_back,
    "/orders/{id:int}/invoice": invoice, "/account": account, "/account/addresses": addresses, "/wishes": wishes, "/reviews": my_reviews,
    "/product/{id:int}/review": write_review, "/forum": forum, "/forum/{id:int}": thread, "/login": login, "/admin": admin,
    "/admin/products": admin_products, "/admin/products/{id:int}": admin_product, "/admin/orders": admin_orders, "/admin/orders/{id:int}": admin_order,
    "/admin/reviews": admin_reviews,
}  # fmt: skip
POSTS: dict[str, Handler] = {
    "/cart/add": done(_do(lambda v, f: acts.cart_add(v.db, v.me, _number(f, "product"), _number(f, "quantity"))), "/cart", "Added"),
    "/cart/remove": done(_do(lambda v, f: acts.cart_remove(v.db, v.me, _number(f, "product"))), "/cart"),
    "/pay": done(
        lambda v, f: f"/orders/{acts.pay(v.db, v.me, _number(f, 'address'), str(f['delivery']), str(f['coupon']), str(f['note']))}", "/orders", "Thank you"
    ),
    "/orders/{id:int}/again": done(_do(lambda v, f: acts.reorder(v.db, v.me, _path(v))), "/cart"),
    "/orders/{id:int}/cancel": done(_do(lambda v, f: acts.cancel(v.db, _path(v), v.me)), "/orders", "The order was cancelled"),
    "/orders/{id:int}/return/{product:int}": done(
        _do(lambda v, f: acts.send_back(v.db, v.me, _path(v), _path(v, "product"), _number(f, "quantity"), str(f["reason"]))),
        "/orders",
        "The return is announced",
    ),
    "/account": done(_profile, "/account", "Saved"),
    "/account/password": done(_do(lambda v, f: acts.password(v.db, v.me, str(f["old"]), str(f["new"]))), "/account", "The password was changed"),
    "/account/addresses": done(
        _do(lambda v, f: acts.address_add(v.db, v.me, *(str(f[k]).strip() for k in ("label", "street", "city", "postcode")))), "/account/addresses", "Saved"
    ),
    "/account/addresses/{id:int}/main": done(_do(lambda v, f: acts.address_main(v.db, v.me, _path(v))), "/account/addresses"),
    "/account/addresses/{id:int}/delete": done(_do(lambda v, f: acts.address_delete(v.db, v.me, _path(v))), "/account/addresses"),
    "/wishes/add": done(_do(lambda v, f: acts.wish(v.db, v.me, _number(f, "product"))), "/wishes"),
    "/wishes/remove": done(_do(lambda v, f: acts.unwish(v.db, v.me, _number(f, "product"))), "/wishes"),
    "/product/{id:int}/review": done(
        _do(lambda v, f: acts.review(v.db, v.me, _path(v), _number(f, "stars"), str(f["title"]), str(f["body"]))), "/reviews", "Thank you"
    ),
    "/reviews/{id:int}/delete": done(_do(lambda v, f: acts.review_delete(v.db, v.me, _path(v))), "/reviews"),
    "/forum": done(lambda v, f: f"/forum/{acts.thread(v.db, v.me, str(f['board']), str(f['title']), str(f['body']))}", "/forum"),
    "/forum/{id:int}": done(_replied, "/forum"),
    "/posts/{id:int}/vote": done(lambda v, f: _thread_after(v, acts.vote, v.me, _path(v)), "/forum"),
    "/posts/{id:int}/delete": done(lambda v, f: _thread_after(v, acts.post_delete, v.me, _path(v)), "/forum"),
    "/login": log_in,
    "/admin/products/{id:int}": done(_edit, "/admin/products", "Saved"),
    "/admin/orders/{id:int}/ship": done(_do(lambda v, f: acts.ship(v.db, _path(v), str(f["tracking"]).strip())), "/admin/orders", "Shipped"),
    "/admin/orders/{id:int}/cancel": done(_do(lambda v, f: acts.cancel(v.db, _path(v))), "/admin/orders", "Cancelled"),
    "/admin/reviews/{id:int}/hide": done(_do(lambda v, f: acts.hide(v.db, _path(v), _number(f, "hidden"))), "/admin/reviews"),
    "/admin/threads/{id:int}": done(_do(lambda v, f: acts.moderate(v.db, _path(v), str(f["what"]), _number(f, "value"))), "/forum"),
    "/admin/coupons": done(_do(lambda v, f: acts.coupon(v.db, str(f["code"]).strip(), _number(f, "percent"))), "/admin", "The coupon can be used"),
    "/admin/stock": _imported,
}


class Cached(StaticFiles):
    """Files that a browser need not ask for twice."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        answer = super().file_response(*args, **kwargs)
        answer.headers["cache-control"] = "max-age=86400"
        return answer


async def missing(request: Request, error: Exception) -> Response:
    return Visitor(request).page("sorry", 404, why="there is no such page")


def app() -> Starlette:
    """The site."""
    gets = [Route(path, shown(handler)) for path, handler in GETS.items()]
    posts = [Route(path, handler, methods=["POST"]) for path, handler in POSTS.items()]
    return Starlette(routes=[*posts, *gets, Mount("/static", Cached(directory=HERE / "static"))], exception_handlers={404: missing})
