"""Templates that do: buy under constraints, and change the state of the account."""

from agentgym_web.shop import acts
from agentgym_web.shop.catalogue import ME, OPINIONS, REPLIES
from agentgym_web.shop.drafts import Bench, Draft, buy, money, order, see, template

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
    given = {
        "Label": b.rng.choice(("Holiday", "Studio", "Boat")),
        "Street": f"{b.rng.randrange(1, 99)} Quay Road",
        "City": "Marlow",
        "Postcode": str(b.rng.randrange(10_000, 99_999)),
    }
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
    p = b.rng.choice(
        b.rows("SELECT p.*, t.title, c.name FROM posts p JOIN threads t ON t.id = p.threads JOIN customers c ON c.id = p.customer WHERE p.customer != ?", ME)
    )
    nth = [r["id"] for r in b.rows("SELECT id FROM posts WHERE threads = ? ORDER BY id", p["threads"])].index(p["id"]) + 1
    acts.vote(b.db, ME, p["id"])
    way = [["goto", f"/forum/{p['threads']}"], ["click", "Helpful", f"Post {nth} by"]]
    return Draft(f'Mark post {nth} of the thread "{p["title"]}" in the forum as helpful.', way)
