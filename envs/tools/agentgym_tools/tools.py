"""The desk's tools: typed functions of a ``Desk``. Schemas and argument checks are derived from the annotations.

An answer is one ``key value`` per line, rows apart by an empty line. What a tool refuses is a ``ToolError``: an observation.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Literal

from msgspec import Meta

from agentgym.errors import ToolError
from agentgym.messages import Tool, tool
from agentgym_tools.desk import Desk
from agentgym_tools.words import RULES
from agentgym_tools.world import Row

Id = Annotated[int, Meta(description="the id of a row, as a look-up gives it")]
Text = Annotated[str, Meta(max_length=400)]
Day = Literal["mon", "tue", "wed", "thu", "fri"]
Hour = Annotated[int, Meta(ge=9, le=16)]
Room = Literal["red", "blue", "green", "amber", "white"]
Folder = Literal["drafts", "reports", "plans", "archive"]
TicketStatus = Literal["open", "waiting", "closed"]
Priority = Literal["low", "normal", "high"]
Cell = Annotated[str, Meta(pattern="^[A-D][1-9]$", description="a column A to D and a row 1 to 9, such as B3")]
Column = Literal["A", "B", "C", "D"]

TOOLS: dict[str, Tool] = {}


def _tool(function: Callable[..., str]) -> Callable[..., str]:
    made = tool(function)
    TOOLS[made.spec.name] = made
    return function


def _print(rows: list[Row], *columns: str) -> str:
    if not rows:
        return "none"
    return "\n\n".join("\n".join(f"{k} {row[k]}" for k in columns or row) for row in rows[:20])


# Contacts


@_tool
def find_contact(desk: Desk, name: Text) -> str:
    """Look contacts up by full name, first name or last name."""
    rows = [r for r in desk.find("contacts") if name.lower() == r["name"].lower() or name.lower() in r["name"].lower().split()]
    return _print(rows, "id", "name", "team")


@_tool
def read_contact(desk: Desk, id: Id) -> str:
    """All that is known of a contact."""
    return _print([desk.get("contacts", id)])


@_tool
def list_team(desk: Desk, team: Literal["sales", "support", "finance", "legal", "design", "research"]) -> str:
    """The members of a team."""
    return _print(desk.find("contacts", team=team), "id", "name")


@_tool
def update_contact(desk: Desk, id: Id, phone: Text | None = None, city: Text | None = None, team: Text | None = None) -> str:
    """Change what is known of a contact; what is left out stays."""
    given = {k: v for k, v in {"phone": phone, "city": city, "team": team}.items() if v is not None}
    if not given:
        raise ToolError("update_contact: give phone, city or team", malformed=True)
    desk.update("contacts", id, **given)
    return "ok"


@_tool
def add_contact(desk: Desk, name: Text, team: Text, email: Text, phone: Text, city: Text) -> str:
    """Add a contact; names are unique."""
    if desk.find("contacts", name=name):
        raise ToolError(f"there is a contact {name} already")
    return f"id {desk.insert('contacts', name=name, team=team, email=email, phone=phone, city=city)}"


# Mail


@_tool
def list_mails(desk: Desk, folder: Literal["inbox", "archive", "sent", "trash"], sender: Text | None = None) -> str:
    """Mails of a folder, of one sender if given."""
    return _print(desk.find("mails", folder=folder, sender=sender), "id", "sender", "subject")


@_tool
def find_mail(desk: Desk, subject: Text) -> str:
    """Mails of exactly this subject, in any folder."""
    return _print(desk.find("mails", subject=subject), "id", "folder", "sender")


@_tool
def read_mail(desk: Desk, id: Id) -> str:
    """One mail with its text."""
    return _print([desk.get("mails", id)])


@_tool
def send_mail(desk: Desk, to: Text, subject: Text, body: Text) -> str:
    """Send a mail to an email address that a contact has."""
    if not desk.find("contacts", email=to):
        raise ToolError(f"no contact has the address {to}; look it up with find_contact and read_contact")
    desk.insert("mails", folder="sent", sender="me", recipient=to, subject=subject, body=body)
    return "ok"


@_tool
def move_mail(desk: Desk, id: Id, folder: Literal["inbox", "archive", "trash"]) -> str:
    """Move a mail to a folder; trash deletes it."""
    desk.update("mails", id, folder=folder)
    return "ok"


# Calendar


@_tool
def list_events(desk: Desk, day: Day) -> str:
    """The events of a day."""
    return _print(sorted(desk.find("events", day=day), key=lambda r: int(r["hour"])), "id", "title", "hour", "room")


@_tool
def find_event(desk: Desk, title: Text) -> str:
    """Events of exactly this title."""
    return _print(desk.find("events", title=title), "id", "day", "hour")


@_tool
def read_event(desk: Desk, id: Id) -> str:
    """One event with its room and owner."""
    return _print([desk.get("events", id)])


def _free(desk: Desk, day: str, hour: int, but: int | None = None) -> None:
    for taken in desk.find("events", day=day, hour=hour):
        if taken["id"] != but:
            raise ToolError(f"{day} {hour} is taken by event {taken['id']}")


@_tool
def add_event(desk: Desk, title: Text, day: Day, hour: Hour, room: Room, owner: Text) -> str:
    """Book an event; the hour must be free."""
    _free(desk, day, hour)
    return f"id {desk.insert('events', title=title, day=day, hour=hour, room=room, owner=owner)}"


@_tool
def move_event(desk: Desk, id: Id, day: Day, hour: Hour) -> str:
    """Move an event to another time; the hour must be free."""
    _free(desk, day, hour, but=id)
    desk.update("events", id, day=day, hour=hour)
    return "ok"


@_tool
def change_room(desk: Desk, id: Id, room: Room) -> str:
    """Put an event in another room."""
    desk.update("events", id, room=room)
    return "ok"


@_tool
def cancel_event(desk: Desk, id: Id) -> str:
    """Delete an event."""
    desk.delete("events", id)
    return "ok"


# Files


@_tool
def list_files(desk: Desk, folder: Folder) -> str:
    """The files of a folder."""
    return _print(desk.find("files", folder=folder), "id", "name", "owner")


@_tool
def find_file(desk: Desk, name: Text) -> str:
    """Files of exactly this name."""
    return _print(desk.find("files", name=name), "id", "folder")


@_tool
def read_file(desk: Desk, id: Id) -> str:
    """One file with its version and text."""
    return _print([desk.get("files", id)])


@_tool
def write_file(desk: Desk, id: Id, version: int, text: Text) -> str:
    """Replace a file's text. ``version`` must be the current one, as read_file gives it; it goes up by one."""
    current = desk.get("files", id)["version"]
    if version != current:
        raise ToolError(f"file {id} is not at version {version}; read it first")
    desk.update("files", id, text=text, version=current + 1)
    return "ok"


@_tool
def move_file(desk: Desk, id: Id, folder: Folder) -> str:
    """Move a file to a folder."""
    desk.update("files", id, folder=folder)
    return "ok"


@_tool
def delete_file(desk: Desk, id: Id) -> str:
    """Delete a file."""
    desk.delete("files", id)
    return "ok"


# Tickets


@_tool
def find_tickets(
    desk: Desk, status: TicketStatus | None = None, priority: Priority | None = None, owner: Text | None = None, customer: Text | None = None
) -> str:
    """Tickets that fit everything given."""
    return _print(desk.find("tickets", status=status, priority=priority, owner=owner, customer=customer), "id", "title", "status", "priority")


@_tool
def find_ticket(desk: Desk, title: Text) -> str:
    """Tickets of exactly this title."""
    return _print(desk.find("tickets", title=title), "id", "status")


@_tool
def read_ticket(desk: Desk, id: Id) -> str:
    """One ticket with everything."""
    return _print([desk.get("tickets", id)])


@_tool
def set_ticket(desk: Desk, id: Id, status: TicketStatus) -> str:
    """Set a ticket's status."""
    desk.update("tickets", id, status=status)
    return "ok"


@_tool
def set_priority(desk: Desk, id: Id, priority: Priority) -> str:
    """Set a ticket's priority."""
    desk.update("tickets", id, priority=priority)
    return "ok"


@_tool
def assign_ticket(desk: Desk, id: Id, owner: Text) -> str:
    """Give a ticket to a contact, by full name."""
    if not desk.find("contacts", name=owner):
        raise ToolError(f"there is no contact {owner}; give a full name")
    desk.update("tickets", id, owner=owner)
    return "ok"


@_tool
def note_ticket(desk: Desk, id: Id, note: Text) -> str:
    """Write a ticket's note."""
    desk.update("tickets", id, note=note)
    return "ok"


@_tool
def open_ticket(desk: Desk, title: Text, priority: Priority, owner: Text, customer: Text) -> str:
    """Open a new ticket."""
    return f"id {desk.insert('tickets', title=title, status='open', priority=priority, owner=owner, customer=customer, note='')}"


# Orders and payments


@_tool
def find_orders(desk: Desk, customer: Text | None = None, item: Text | None = None, status: Text | None = None) -> str:
    """Orders that fit everything given."""
    return _print(desk.find("orders", customer=customer, item=item, status=status), "id", "customer", "item", "status")


@_tool
def read_order(desk: Desk, id: Id) -> str:
    """One order with quantity, price of one, status and city."""
    return _print([desk.get("orders", id)])


@_tool
def cancel_order(desk: Desk, id: Id) -> str:
    """Cancel an order."""
    desk.update("orders", id, status="cancelled")
    return "ok"


@_tool
def set_quantity(desk: Desk, id: Id, quantity: Annotated[int, Meta(ge=1, le=99)]) -> str:
    """Change how many of an item are ordered."""
    desk.update("orders", id, quantity=quantity)
    return "ok"


@_tool
def redirect_order(desk: Desk, id: Id, city: Text) -> str:
    """Send an order to another city."""
    desk.update("orders", id, city=city)
    return "ok"


@_tool
def find_payments(desk: Desk, order_id: Id | None = None, status: Literal["paid", "due", "refunded"] | None = None) -> str:
    """Payments of an order, or of a status."""
    return _print(desk.find("payments", order_id=order_id, status=status), "id", "order_id", "status")


@_tool
def read_payment(desk: Desk, id: Id) -> str:
    """One payment with its amount."""
    return _print([desk.get("payments", id)])


@_tool
def pay(desk: Desk, id: Id, amount: int) -> str:
    """Pay what is due. The amount must be exact: read the payment first."""
    return _settle(desk, id, amount, "due", "paid")


@_tool
def refund(desk: Desk, id: Id, amount: int) -> str:
    """Pay a payment back. The amount must be exact: read the payment first."""
    if desk.approved is not None and id not in desk.approved:
        raise ToolError(f"payment {id} has not been approved by the customer, who does that in their app")
    return _settle(desk, id, amount, "paid", "refunded")


def _settle(desk: Desk, id: int, amount: int, before: str, after: str) -> str:
    payment = desk.get("payments", id)
    if payment["status"] != before:
        raise ToolError(f"payment {id} is {payment['status']}, not {before}")
    if payment["amount"] != amount:
        raise ToolError(f"payment {id} is not of {amount}; read it first")
    desk.update("payments", id, status=after)
    return "ok"


# Sheet


@_tool
def read_column(desk: Desk, column: Column) -> str:
    """The cells of a column."""
    return "\n".join(f"{r['id']} {r['value']}" for r in desk.find("cells") if r["id"][0] == column) or "none"


@_tool
def read_cell(desk: Desk, cell: Cell) -> str:
    """One cell."""
    found = desk.find("cells", id=cell)
    return f"value {found[0]['value']}" if found else "empty"


@_tool
def write_cell(desk: Desk, cell: Cell, value: Text) -> str:
    """Write one cell of column B or C that is there already."""
    desk.update("cells", cell, value=value)
    return "ok"


# The person, the rules, the end


@_tool
def ask_user(desk: Desk, question: Text) -> str:
    """Ask the person who gave the task for one thing that is missing."""
    asked = set(re.findall(r"[a-z]+", question.lower()))
    known = [f"{key} {value}" for key, value in desk.user.items() if key in asked]
    return known[0] if len(known) == 1 else "Please ask for one thing, by its name." if known else "I have nothing to say about that."


@_tool
def read_rules(desk: Desk) -> str:
    """The rules of the office. A request that breaks one must be refused."""
    return "\n".join(f"{k} {v}" for k, v in RULES.items())


@_tool
def finish(desk: Desk) -> str:
    """Say that the task is done, and that nothing was changed but what was asked for. Ends the episode."""
    desk.ending = ("finish", None)
    return "finished"


@_tool
def answer(desk: Desk, value: Text | int | float | list[Text]) -> str:
    """Give the answer asked for: a word, a number, or a list. Ends the episode."""
    desk.ending = ("answer", value)
    return "answered"


@_tool
def refuse(desk: Desk, rule: Text) -> str:
    """Refuse the task, naming the one rule of the office (read_rules) that forbids it. Ends the episode."""
    desk.ending = ("refuse", rule)
    return "refused"
