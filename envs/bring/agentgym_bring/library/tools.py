"""The tools of a small library's desk. Each gets the database first."""

from typing import Any

Database = dict[str, Any]
FINE_A_DAY = 20


def _member(db: Database, card: str) -> Any:
    if card not in db["members"]:
        raise ValueError(f"there is no card {card}")
    return db["members"][card]


def _loan(db: Database, card: str, book: str) -> Any:
    for loan in db["loans"]:
        if loan["card"] == card and loan["book"] == book:
            return loan
    raise ValueError(f"card {card} has not borrowed {book}")


def find_member(db: Database, name: str) -> str:
    """The cards of members of this name, or of a part of it."""
    found = [f"{card}: {m['name']}, owes {m['owes']} cents" for card, m in db["members"].items() if name.lower() in m["name"].lower()]
    return "\n".join(found) or "nobody"


def find_book(db: Database, words: str) -> str:
    """Books whose title or author holds these words."""
    found = [
        f"{key}: {b['title']} by {b['author']}, {b['copies']} copies"
        for key, b in db["books"].items()
        if words.lower() in f"{b['title']} {b['author']}".lower()
    ]
    return "\n".join(found) or "none"


def show_loans(db: Database, card: str) -> str:
    """What a member has borrowed, until when, and how often it was renewed."""
    _member(db, card)
    return "\n".join(f"{x['book']} until day {x['due']}, renewed {x['renewed']} times" for x in db["loans"] if x["card"] == card) or "nothing"


def lend(db: Database, card: str, book: str) -> str:
    """Lend a book for 28 days."""
    member = _member(db, card)
    if book not in db["books"]:
        raise ValueError(f"there is no book {book}")
    if member["owes"]:
        raise ValueError(f"a fine of {member['owes']} cents is to be paid first")
    if sum(x["card"] == card for x in db["loans"]) >= 3:
        raise ValueError("three loans are the most")
    if sum(x["book"] == book for x in db["loans"]) >= db["books"][book]["copies"]:
        raise ValueError("all copies are out")
    db["loans"].append({"card": card, "book": book, "due": db["today"]["day"] + 28, "renewed": 0})
    return f"until day {db['today']['day'] + 28}"


def take_back(db: Database, card: str, book: str) -> str:
    """Take a book back; being late costs a fine."""
    loan = _loan(db, card, book)
    late = max(0, db["today"]["day"] - loan["due"])
    db["loans"].remove(loan)
    _member(db, card)["owes"] += late * FINE_A_DAY
    return f"{late} days late: {late * FINE_A_DAY} cents" if late else "in time"


def renew(db: Database, card: str, book: str) -> str:
    """Renew a loan by 28 days from today."""
    loan = _loan(db, card, book)
    if loan["renewed"] >= 2:
        raise ValueError("it was renewed twice")
    if any(r["book"] == book and r["card"] != card for r in db["reservations"]):
        raise ValueError("somebody has reserved it")
    loan["renewed"] += 1
    loan["due"] = db["today"]["day"] + 28
    return f"until day {loan['due']}"


def reserve(db: Database, card: str, book: str) -> str:
    """Reserve a book."""
    _member(db, card)
    if book not in db["books"]:
        raise ValueError(f"there is no book {book}")
    db["reservations"].append({"card": card, "book": book})
    return "reserved"


def pay(db: Database, card: str, cents: int) -> str:
    """Take money for a fine."""
    member = _member(db, card)
    if not 0 < cents <= member["owes"]:
        raise ValueError(f"{member['owes']} cents are owed")
    member["owes"] -= cents
    return f"{member['owes']} cents are still owed"
