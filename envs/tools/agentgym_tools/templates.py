"""The task templates: each draws one task from a world.

Level 1 is one call, 2 is two or three, 3 is four to six, 4 is seven to twelve; the ending is not counted.
"""

from __future__ import annotations

from agentgym_tools import words
from agentgym_tools.plan import Plan, add, do, drop, put, template
from agentgym_tools.world import Row, World

# Level 1: one call


@template(1)
def set_status(w: World) -> Plan:
    t = w.pick("tickets", status=w.choice(("open", "waiting")))
    status = w.choice(words.TICKET_STATUS, but=t["status"])
    return Plan(f"Set ticket {t['id']} to {status}.", [do("set_ticket", id=t["id"], status=status)], [put("tickets", t["id"], status=status)])


@template(1)
def set_urgency(w: World) -> Plan:
    t = w.pick("tickets")
    p = w.choice(words.PRIORITIES, but=t["priority"])
    return Plan(f"Give ticket {t['id']} the priority {p}.", [do("set_priority", id=t["id"], priority=p)], [put("tickets", t["id"], priority=p)])


@template(1)
def hand_over(w: World) -> Plan:
    t, name = w.pick("tickets"), w.pick("contacts")["name"]
    if t["owner"] == name:
        raise LookupError("already the owner")
    return Plan(f"Assign ticket {t['id']} to {name}.", [do("assign_ticket", id=t["id"], owner=name)], [put("tickets", t["id"], owner=name)])


@template(1)
def other_room(w: World) -> Plan:
    e = w.pick("events")
    room = w.choice(words.ROOMS, but=e["room"])
    return Plan(f"Move event {e['id']} to the {room} room.", [do("change_room", id=e["id"], room=room)], [put("events", e["id"], room=room)])


@template(1)
def file_mail(w: World) -> Plan:
    m = w.pick("mails")
    folder = w.choice(("inbox", "archive", "trash"), but=m["folder"])
    return Plan(f"Put mail {m['id']} in {folder}.", [do("move_mail", id=m["id"], folder=folder)], [put("mails", m["id"], folder=folder)])


@template(1)
def new_city(w: World) -> Plan:
    o = w.pick("orders", status="open")
    city = w.choice(words.CITIES, but=o["city"])
    return Plan(f"Send order {o['id']} to {city}.", [do("redirect_order", id=o["id"], city=city)], [put("orders", o["id"], city=city)])


@template(1)
def note_down(w: World) -> Plan:
    t, word = w.pick("tickets"), w.choice(words.NOUNS)
    return Plan(f"Write the note '{word}' on ticket {t['id']}.", [do("note_ticket", id=t["id"], note=word)], [put("tickets", t["id"], note=word)])


@template(1)
def value_of_cell(w: World) -> Plan:
    c = w.choice([r for r in w.rows("cells") if r["id"][0] != "A"])
    return Plan(f"What is in cell {c['id']}?", [do("read_cell", cell=c["id"])], ending=("answer", c["value"]))


@template(1, unseen=True)
def call_off(w: World) -> Plan:
    e = w.pick("events")
    return Plan(f"Cancel event {e['id']}.", [do("cancel_event", id=e["id"])], [drop("events", e["id"])])


# Level 2: two or three calls, the look-up decides


@template(2)
def close_by_title(w: World) -> Plan:
    t = w.pick("tickets", status=w.choice(("open", "waiting")))
    calls = [do("find_ticket", title=t["title"]), do("set_ticket", id=t["id"], status="closed")]
    return Plan(f"Close the ticket '{t['title']}'.", calls, [put("tickets", t["id"], status="closed")])


@template(2)
def room_by_title(w: World) -> Plan:
    e = w.pick("events")
    room = w.choice(words.ROOMS, but=e["room"])
    calls = [do("find_event", title=e["title"]), do("change_room", id=e["id"], room=room)]
    return Plan(f"Move the event '{e['title']}' to the {room} room.", calls, [put("events", e["id"], room=room)])


@template(2)
def archive_by_subject(w: World) -> Plan:
    m = w.pick("mails", folder="inbox")
    calls = [do("find_mail", subject=m["subject"]), do("move_mail", id=m["id"], folder="archive")]
    return Plan(f"Archive the mail '{m['subject']}'.", calls, [put("mails", m["id"], folder="archive")])


@template(2)
def phone_of(w: World) -> Plan:
    c = w.pick("contacts")
    if c["team"] == "legal":
        raise LookupError("R5 forbids it")
    calls = [do("find_contact", name=c["name"]), do("read_contact", id=c["id"])]
    return Plan(f"What is the phone number of {c['name']}?", calls, ending=("answer", c["phone"]))


@template(2)
def phone_of_legal(w: World) -> Plan:
    c = w.pick("contacts", team="legal")
    calls = [do("find_contact", name=c["name"]), do("read_rules")]
    return Plan(f"What is the phone number of {c['name']}?", calls, ending=("refuse", "R5"))


@template(2)
def pay_order(w: World) -> Plan:
    p = w.pick("payments", status="due")
    calls = [do("find_payments", order_id=p["order_id"]), do("read_payment", id=p["id"]), do("pay", id=p["id"], amount=p["amount"])]
    return Plan(f"Pay for order {p['order_id']}.", calls, [put("payments", p["id"], status="paid")])


@template(2)
def replace_text(w: World) -> Plan:
    f = w.choice([r for r in w.rows("files") if r["folder"] != "archive"])
    text = f"{w.choice(words.ADJECTIVES)} {w.choice(words.NOUNS)}"
    calls = [do("find_file", name=f["name"]), do("read_file", id=f["id"]), do("write_file", id=f["id"], version=f["version"], text=text)]
    return Plan(f"Replace the text of {f['name']} by '{text}'.", calls, [put("files", f["id"], text=text, version=f["version"] + 1)])


@template(2)
def reopen(w: World) -> Plan:
    t = w.pick("tickets", status="closed")
    calls = [do("find_ticket", title=t["title"]), do("read_rules")]
    return Plan(f"Reopen the ticket '{t['title']}'.", calls, ending=("refuse", "R1"))


@template(2)
def cost_of_order(w: World) -> Plan:
    o = w.pick("orders")
    if len(w.all("orders", customer=o["customer"], item=o["item"])) > 1:
        raise LookupError("two orders fit")
    calls = [do("find_orders", customer=o["customer"], item=o["item"]), do("read_order", id=o["id"])]
    say = f"What does the whole order of {o['item']} by {o['customer']} cost?"
    return Plan(say, calls, ending=("answer", o["price"] * o["quantity"]))


@template(2)
def city_when_told(w: World) -> Plan:
    o, city = w.pick("orders", status="open"), w.choice(words.CITIES)
    if o["city"] == city:
        raise LookupError("no change")
    calls = [do("ask_user", question="which city?"), do("redirect_order", id=o["id"], city=city)]
    return Plan(f"Send order {o['id']} to another city; ask me for the city.", calls, [put("orders", o["id"], city=city)], user={"city": city})


@template(2, unseen=True)
def delete_old_file(w: World) -> Plan:
    f = w.choice([r for r in w.rows("files") if r["folder"] != "archive"])
    calls = [do("find_file", name=f["name"]), do("delete_file", id=f["id"])]
    return Plan(f"Delete the file {f['name']}.", calls, [drop("files", f["id"])])


# Level 3: four to six calls


@template(3)
def mail_the_owner(w: World) -> Plan:
    t = w.pick("tickets")
    c = w.pick("contacts", name=t["owner"])
    subject, body = t["title"], w.choice(words.ADJECTIVES)
    calls = [
        do("find_ticket", title=t["title"]), do("read_ticket", id=t["id"]), do("find_contact", name=c["name"]),
        do("read_contact", id=c["id"]), do("send_mail", to=c["email"], subject=subject, body=body),
    ]  # fmt: skip
    say = f"Mail the owner of the ticket '{t['title']}': subject '{subject}', text '{body}'."
    return Plan(say, calls, [add("mails", folder="sent", sender="me", recipient=c["email"], subject=subject, body=body)])


@template(3)
def refund_customer(w: World) -> Plan:
    p = w.pick("payments", status="paid")
    o = w.pick("orders", id=p["order_id"])
    return _refund(w, o, p, [do("read_payment", id=p["id"]), do("refund", id=p["id"], amount=p["amount"])], ("finish", None))


@template(3)
def refund_unpaid(w: World) -> Plan:
    p = w.choice([r for r in w.rows("payments") if r["status"] != "paid"])
    o = w.pick("orders", id=p["order_id"])
    return _refund(w, o, p, [do("read_payment", id=p["id"]), do("read_rules")], ("refuse", "R3"))


def _refund(w: World, o: Row, p: Row, rest: list, ending: tuple) -> Plan:  # type: ignore[type-arg]  # as in Plan
    if len(w.all("orders", customer=o["customer"], item=o["item"])) > 1:
        raise LookupError("two orders fit")
    calls = [do("find_orders", customer=o["customer"], item=o["item"]), do("find_payments", order_id=o["id"]), *rest]
    changes = [put("payments", p["id"], status="refunded")] if ending[0] == "finish" else []
    return Plan(f"Refund the payment for the {o['item']} of {o['customer']}.", calls, changes, ending)


@template(3)
def sum_of_column(w: World) -> Plan:
    column, target = w.choice("BC"), f"{w.choice('BC')}{w.choice(range(1, 9))}"
    other = w.choice("BC")
    total = (
        sum(int(r["value"]) for r in w.rows("cells") if r["id"][0] in (column, other))
        if column != other
        else sum(int(r["value"]) for r in w.rows("cells") if r["id"][0] == column)
    )
    reads = [do("read_column", column=c) for c in sorted({column, other})]
    calls = [do("read_cell", cell=target), *reads, do("write_cell", cell=target, value=str(total)), do("read_cell", cell=target)]
    of = f"column {column}" if column == other else "columns B and C"
    return Plan(f"Add up {of} as they are now, write the sum into cell {target}, and check it.", calls[-5:], [put("cells", target, value=str(total))])


@template(3)
def reschedule(w: World) -> Plan:
    e = w.pick("events")
    day = w.choice(words.DAYS[:4], but=e["day"])
    taken = {r["hour"] for r in w.all("events", day=day)}
    hour = min(h for h in range(9, 17) if h not in taken)
    calls = [do("find_event", title=e["title"]), do("list_events", day=day), do("move_event", id=e["id"], day=day, hour=hour), do("read_event", id=e["id"])]
    return Plan(f"Move '{e['title']}' to the first free hour of {day}, then check it.", calls, [put("events", e["id"], day=day, hour=hour)])


@template(3)
def book_friday(w: World) -> Plan:
    title, owner = f"{w.choice(words.ADJECTIVES)} {w.choice(words.NOUNS)}", w.pick("contacts")
    calls = [do("find_contact", name=owner["name"]), do("list_events", day="fri"), do("read_rules"), do("ask_user", question="is there another day?")]
    return Plan(f"Book '{title}' on fri for {owner['name']} in the red room.", calls, ending=("refuse", "R6"))


@template(3)
def cancel_newest(w: World) -> Plan:
    o = w.pick("orders", status="open")
    mine = w.all("orders", customer=o["customer"])
    if len(mine) < 2 or len(mine) > 4:
        raise LookupError("needs two to four orders")
    most = max(mine, key=lambda r: r["price"] * r["quantity"])
    if most["status"] != "open" or sum(r["price"] * r["quantity"] == most["price"] * most["quantity"] for r in mine) > 1:
        raise LookupError("the dearest order must be open")
    calls = [
        do("find_contact", name=o["customer"]),
        do("find_orders", customer=o["customer"]),
        *(do("read_order", id=r["id"]) for r in mine),
        do("cancel_order", id=most["id"]),
    ]
    return Plan(f"Cancel the dearest order of {o['customer']}, price times quantity.", calls[-6:], [put("orders", most["id"], status="cancelled")])


@template(3)
def cancel_shipped(w: World) -> Plan:
    o = w.pick("orders", status="shipped")
    if len(w.all("orders", customer=o["customer"], item=o["item"])) > 1:
        raise LookupError("two orders fit")
    calls = [do("find_orders", customer=o["customer"], item=o["item"]), do("read_order", id=o["id"]), do("find_payments", order_id=o["id"]), do("read_rules")]
    return Plan(f"Cancel the {o['item']} that {o['customer']} ordered.", calls, ending=("refuse", "R2"))


@template(3)
def book_when_told(w: World) -> Plan:
    owner, title = w.pick("contacts"), f"{w.choice(words.ADJECTIVES)} {w.choice(words.NOUNS)}"
    day, room = w.choice(words.DAYS[:4]), w.choice(words.ROOMS)
    taken = {r["hour"] for r in w.all("events", day=day)}
    hour = max(h for h in range(9, 17) if h not in taken)
    calls = [
        do("ask_user", question="which day?"),
        do("ask_user", question="which room?"),
        do("list_events", day=day),
        do("add_event", title=title, day=day, hour=hour, room=room, owner=owner["name"]),
    ]
    say = f"Book '{title}' for {owner['name']} at the last free hour of a day; ask me for the day and for the room."
    return Plan(say, calls, [add("events", title=title, day=day, hour=hour, room=room, owner=owner["name"])], user={"day": day, "room": room})


@template(3, unseen=True)
def team_city(w: World) -> Plan:
    city, team = w.choice(words.CITIES), w.choice(words.TEAMS)
    members = w.all("contacts", team=team)
    if not 2 <= len(members) <= 4:
        raise LookupError("needs two to four members")
    there = [c["name"] for c in members if c["city"] == city]
    if not there:
        raise LookupError("nobody lives there")
    calls = [do("list_team", team=team), *(do("read_contact", id=c["id"]) for c in members), do("find_contact", name=there[0])]
    return Plan(f"Who of the {team} team lives in {city}? Answer with a list of full names.", calls, ending=("answer", sorted(there)))


# Level 4: seven to twelve calls


@template(4)
def tidy_person(w: World) -> Plan:
    c, heir = w.pick("contacts"), w.pick("contacts")
    owned = w.all("tickets", owner=c["name"])
    if c is heir or not 2 <= len(owned) <= 4:
        raise LookupError("needs two to four tickets")
    calls = [
        do("find_contact", name=c["name"]), do("find_contact", name=heir["name"]), do("read_contact", id=heir["id"]), do("find_tickets", owner=c["name"]),
        *(do("assign_ticket", id=t["id"], owner=heir["name"]) for t in owned), do("send_mail", to=heir["email"], subject="tickets", body=str(len(owned))),
    ]  # fmt: skip
    mail = add("mails", folder="sent", sender="me", recipient=heir["email"], subject="tickets", body=str(len(owned)))
    say = f"Give all tickets that {c['name']} owns to {heir['name']}, and mail {heir['name']}: subject 'tickets', text how many there were."
    return Plan(say, calls, [*(put("tickets", t["id"], owner=heir["name"]) for t in owned), mail])


@template(4)
def settle_customer(w: World) -> Plan:
    name = w.pick("orders")["customer"]
    orders = w.all("orders", customer=name)
    due = [p for o in orders for p in w.all("payments", order_id=o["id"], status="due")]
    if not 2 <= len(orders) <= 3 or len(due) < 1:
        raise LookupError("needs two or three orders")
    reads = [do("find_payments", order_id=o["id"]) for o in orders]
    pays = [c for p in due for c in (do("read_payment", id=p["id"]), do("pay", id=p["id"], amount=p["amount"]))]
    calls = [do("find_contact", name=name), do("find_orders", customer=name), *reads, *pays, do("find_payments", status="due")]
    if not 7 <= len(calls) <= 12:
        raise LookupError("not of this level")
    return Plan(f"Pay everything that is due for the orders of {name}, check, and finish.", calls, [put("payments", p["id"], status="paid") for p in due])


@template(4)
def file_report(w: World) -> Plan:
    f = w.pick("files", folder="reports")
    c = w.pick("contacts", name=f["owner"])
    total = sum(int(r["value"]) for r in w.rows("cells") if r["id"][0] == "B")
    calls = [
        do("read_column", column="B"), do("find_file", name=f["name"]), do("read_file", id=f["id"]),
        do("write_file", id=f["id"], version=f["version"], text=f"total {total}"), do("move_file", id=f["id"], folder="plans"),
        do("find_contact", name=c["name"]), do("read_contact", id=c["id"]), do("send_mail", to=c["email"], subject=f["name"], body=str(total)),
    ]  # fmt: skip
    mail = add("mails", folder="sent", sender="me", recipient=c["email"], subject=f["name"], body=str(total))
    say = f"Write 'total N' into {f['name']}, N the sum of column B; move it to plans; mail its owner: subject '{f['name']}', text N."
    return Plan(say, calls, [put("files", f["id"], text=f"total {total}", version=f["version"] + 1, folder="plans"), mail])


@template(4)
def clear_day(w: World) -> Plan:
    day, other = w.choice(words.DAYS[:4]), w.choice(words.DAYS[:4])
    events = sorted(w.all("events", day=day), key=lambda r: int(r["hour"]))
    taken = {r["hour"] for r in w.all("events", day=other)}
    free = [h for h in range(9, 17) if h not in taken]
    if day == other or not 3 <= len(events) <= 4 or len(free) < len(events):
        raise LookupError("needs three or four events and room for them")
    moves = list(zip(events, free, strict=False))
    calls = [do("list_events", day=day), do("list_events", day=other)]
    calls += [do("move_event", id=e["id"], day=other, hour=h) for e, h in moves]
    calls += [do("list_events", day=day), do("list_events", day=other)]
    if len(calls) < 7:
        raise LookupError("not of this level")
    say = f"Move every event of {day} to {other}: in the order of their hours, each to the first hour then free. Check both days after."
    return Plan(say, calls, [put("events", e["id"], day=other, hour=h) for e, h in moves])


@template(4)
def triage(w: World) -> Plan:
    c = w.pick("contacts")
    mine = w.all("tickets", status="open", priority="high")
    if not 2 <= len(mine) <= 3:
        raise LookupError("needs two or three")
    calls = [do("find_contact", name=c["name"]), do("find_tickets", status="open", priority="high")]
    for t in mine:
        calls += [do("read_ticket", id=t["id"]), do("assign_ticket", id=t["id"], owner=c["name"]), do("note_ticket", id=t["id"], note="triage")]
    changes = [put("tickets", t["id"], owner=c["name"], note="triage") for t in mine]
    return Plan(f"Assign every open ticket of high priority to {c['name']} and write the note 'triage' on each.", calls, changes)


@template(4)
def order_total(w: World) -> Plan:
    item = w.choice(words.ITEMS)
    orders = w.all("orders", item=item)
    if not 3 <= len(orders) <= 5:
        raise LookupError("needs three to five orders")
    total = sum(o["price"] * o["quantity"] for o in orders if o["status"] != "cancelled")
    cell = f"C{w.choice(range(1, 9))}"
    calls = [
        do("find_orders", item=item),
        *(do("read_order", id=o["id"]) for o in orders),
        do("read_cell", cell=cell),
        do("write_cell", cell=cell, value=str(total)),
        do("read_cell", cell=cell),
    ]
    say = f"Add up price times quantity of all orders of {item} that are not cancelled; write the sum into cell {cell}, check it, and answer with it."
    return Plan(say, calls, [put("cells", cell, value=str(total))], ("answer", total))


@template(4, unseen=True)
def move_person(w: World) -> Plan:
    c, city = w.pick("contacts"), w.choice(words.CITIES)
    orders = w.all("orders", customer=c["name"], status="open")
    if c["city"] == city or len(orders) != 2 or any(o["city"] == city for o in orders):
        raise LookupError("needs two open orders that go elsewhere")
    calls = [
        do("find_contact", name=c["name"]),
        do("ask_user", question="which city?"),
        do("update_contact", id=c["id"], city=city),
        do("find_orders", customer=c["name"], status="open"),
    ]
    calls += [do("redirect_order", id=o["id"], city=city) for o in orders] + [do("read_contact", id=c["id"])]
    say = f"{c['name']} has moved; ask me for the city. Change the contact, and send the open orders of {c['name']} there."
    return Plan(say, calls, [put("contacts", c["id"], city=city), *(put("orders", o["id"], city=city) for o in orders)], user={"city": city})
