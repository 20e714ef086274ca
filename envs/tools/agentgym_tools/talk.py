"""Tasks that need the person: what only they know, and what only they can do. Templates of their own, beside the desk's."""

from __future__ import annotations

from agentgym_tools import words
from agentgym_tools.plan import Plan, add, do, put, template
from agentgym_tools.world import World

SETTINGS = ("forward_to", "language", "ringtone", "signature")


@template(1, talk=True)
def status_they_want(w: World) -> Plan:
    t = w.pick("tickets", status="open")
    status = w.choice(("waiting", "closed"))
    calls = [do("ask_user", question="Which status should it have?"), do("set_ticket", id=t["id"], status=status)]
    say = f"Please change the status of ticket {t['id']} for me."
    return Plan(say, calls, [put("tickets", t["id"], status=status)], user={"status": status})


@template(2, talk=True)
def order_to_where(w: World) -> Plan:
    o, city = w.pick("orders", status="open"), w.choice(words.CITIES)
    if o["city"] == city or len(w.all("orders", customer=o["customer"], item=o["item"])) > 1:
        raise LookupError("no change, or two orders fit")
    calls = [
        do("find_orders", customer=o["customer"], item=o["item"]),
        do("ask_user", question="To which city should it go?"),
        do("redirect_order", id=o["id"], city=city),
    ]
    return Plan(f"I am {o['customer']}. My {o['item']} should go elsewhere.", calls, [put("orders", o["id"], city=city)], user={"city": city})


@template(3, talk=True)
def meeting_they_like(w: World) -> Plan:
    owner, title = w.pick("contacts"), f"{w.choice(words.ADJECTIVES)} {w.choice(words.NOUNS)}"
    day, room = w.choice(words.DAYS[:4]), w.choice(words.ROOMS)
    taken = {r["hour"] for r in w.all("events", day=day)}
    hour = min(h for h in range(9, 17) if h not in taken)
    calls = [
        do("ask_user", question="On which day?"),
        do("ask_user", question="In which room?"),
        do("list_events", day=day),
        do("add_event", title=title, day=day, hour=hour, room=room, owner=owner["name"]),
    ]
    say = f"I am {owner['name']}. Book '{title}' for me, at the first free hour of the day that I like, in the room that I like."
    return Plan(say, calls, [add("events", title=title, day=day, hour=hour, room=room, owner=owner["name"])], user={"day": day, "room": room})


@template(2, talk=True)
def refund_they_approve(w: World) -> Plan:
    o = w.choice([r for r in w.rows("orders") if r["status"] == "cancelled"])
    p = next((r for r in w.rows("payments") if r["order_id"] == o["id"] and r["status"] == "paid"), None)
    if p is None or p["amount"] > 200:
        raise LookupError("no payment to give back without more ado")
    calls = [
        do("find_payments", order_id=o["id"]),
        do("ask_user", question=f"Please approve payment {p['id']} in your app."),
        do("refund", id=p["id"], amount=p["amount"]),
    ]
    say = f"I am {o['customer']}. I cancelled order {o['id']}; I want my money back."
    return Plan(say, calls, [put("payments", p["id"], status="refunded")], approve=[p["id"]])


@template(2, talk=True)
def calls_forwarded(w: World) -> Plan:
    c = w.choice([r for r in w.rows("contacts") if r["team"] != "legal"])
    calls = [
        do("find_contact", name=c["name"]),
        do("read_contact", id=c["id"]),
        do("ask_user", question=f"Please set forward_to to {c['phone']} on your phone."),
    ]
    return Plan(f"My calls should go to {c['name']} while I am away; I cannot find the number.", calls, phone={"forward_to": c["phone"]})


@template(3, talk=True)
def signature_and_ticket(w: World) -> Plan:
    t, c = w.pick("tickets", status="open"), w.pick("contacts")
    signature = f"{c['name']}, {c['team']}"
    calls = [
        do("find_contact", name=c["name"]),
        do("read_contact", id=c["id"]),
        do("ask_user", question=f"Please set signature to {signature} on your phone."),
        do("set_ticket", id=t["id"], status="closed"),
    ]
    say = f"I am {c['name']}. My mails should be signed with my name and my team, with a comma between; then close ticket {t['id']}, which asks for it."
    return Plan(say, calls, [put("tickets", t["id"], status="closed")], phone={"signature": signature})
