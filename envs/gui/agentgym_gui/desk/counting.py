"""Templates about the calculator and the spreadsheet."""

from agentgym_gui.desk.drafts import Bench, Draft, Way, done, sheet, template

CALCULATOR = [["galculator"]]
SHEET = [["gnumeric", "stock.gnumeric"]]
SAVE = ["key", "ctrl+s"]


@template("calculator")
def product(b: Bench) -> Draft:
    x, y = b.randrange(112, 989), b.randrange(112, 989)
    way = [["type", f"{x}*{y}"], ["key", "Return"], ["answer", str(x * y)]]
    return Draft(f"With the calculator: how much is {x} times {y}?", way, {}, CALCULATOR, answer=float(x * y))


@template("calculator")
def chain(b: Bench) -> Draft:
    numbers = [b.randrange(1000, 9999) for _ in range(5)]
    way = [["type", "+".join(map(str, numbers))], ["key", "Return"], ["answer", str(sum(numbers))]]
    return Draft(f"With the calculator: what is the sum of {', '.join(map(str, numbers))}?", way, {}, CALCULATOR, answer=float(sum(numbers)))


@template("calculator")
def leave_shown(b: Bench) -> Draft:
    x, y = b.randrange(112, 989), b.randrange(12, 98)
    way = done([["type", f"{x}-{y}"], ["key", "Return"]])
    return Draft(
        f"Leave the result of {x} minus {y} shown in the calculator.",
        way,
        {},
        CALCULATOR,
        shows=[{"program": "Galculator", "role": "text", "text": str(x - y)}],
    )


@template("calculator")
def by_buttons(b: Bench) -> Draft:
    x, y = b.randrange(112, 989), b.randrange(12, 98)
    way = done([["click", "toggle", c] for c in f"{x}+{y}="])
    shown = [{"program": "Galculator", "role": "text", "text": str(x + y)}]
    return Draft(f"By the buttons of the calculator, add {x} and {y}, and leave the result shown.", way, {}, CALCULATOR, shows=shown)


# The spreadsheet


def stock(b: Bench, n: int = 6) -> list[list[object]]:
    """A table of things with numbers and prices."""
    return [["item", "number", "price"], *([thing, b.randrange(2, 60), b.randrange(3, 90)] for thing in b.things(n))]


def go(cell: str) -> Way:
    """The steps to a cell."""
    return [["click", "text", "=cell"], ["key", "ctrl+a"], ["type", cell + "\n"]]


def cells(**values: object) -> dict[str, dict[str, object]]:
    """What cells of the sheet should hold."""
    return {"stock.gnumeric": {"cells": values}}


def grid(rows: list[list[object]]) -> dict[str, object]:
    """All cells of a table by their names."""
    return {f"{'ABCDEFG'[c]}{r + 1}": value for r, row in enumerate(rows) for c, value in enumerate(row)}


@template("sheet")
def set_cell(b: Bench) -> Draft:
    rows = stock(b)
    n, new = b.randrange(1, 7), b.randrange(100, 999)
    way = done([*go(f"B{n + 1}"), ["type", f"{new}\n"], SAVE])
    after = cells(**{**grid(rows), f"B{n + 1}": new})
    return Draft(f"In the spreadsheet, set the number of {rows[n][0]} to {new}, and save it.", way, {"stock.gnumeric": sheet(rows)}, SHEET, after)


@template("sheet")
def total(b: Bench) -> Draft:
    rows = stock(b)
    way = done([*go("B9"), ["type", "=sum(B2:B7)\n"], SAVE])
    after = cells(**grid(rows), B9=sum(int(str(r[1])) for r in rows[1:]))
    return Draft("Put the total of the column number into cell B9, and save the spreadsheet.", way, {"stock.gnumeric": sheet(rows)}, SHEET, after)


@template("sheet")
def mean_price(b: Bench) -> Draft:
    rows = stock(b, 5)
    way = done([*go("C8"), ["type", "=average(C2:C6)\n"], SAVE])
    after = cells(**grid(rows), C8=sum(int(str(r[2])) for r in rows[1:]) / 5)
    return Draft("Put the average of the column price into cell C8, and save the spreadsheet.", way, {"stock.gnumeric": sheet(rows)}, SHEET, after)


@template("sheet")
def sort_by_name(b: Bench) -> Draft:
    rows = stock(b)
    way = done([*go("A2:C7"), ["click", "button", "Sort Ascending"], SAVE])
    after = cells(**grid([rows[0], *sorted(rows[1:], key=lambda r: str(r[0]))]))
    return Draft(
        "Sort the rows of the spreadsheet by item, from A to Z, keep the first row at the top, and save it.", way, {"stock.gnumeric": sheet(rows)}, SHEET, after
    )


@template("sheet")
def add_row(b: Bench) -> Draft:
    rows = stock(b)
    new: list[object] = [b.name(), b.randrange(2, 60), b.randrange(3, 90)]
    way = done([*go("A8"), ["type", f"{new[0]}\t"], ["type", f"{new[1]}\t"], ["type", f"{new[2]}\n"], SAVE])
    after = cells(**grid([*rows, new]))
    asks = f"Add a row below the others: item {new[0]}, number {new[1]}, price {new[2]}. Save the spreadsheet."
    return Draft(asks, way, {"stock.gnumeric": sheet(rows)}, SHEET, after)


@template("sheet")
def values(b: Bench) -> Draft:
    rows = stock(b)
    way = [*go("D2"), *(["type", f"=B{n}*C{n}\n"] for n in range(2, 8)), *go("D9"), ["type", "=sum(D2:D7)\n"], SAVE, ["done"]]
    each = [int(str(r[1])) * int(str(r[2])) for r in rows[1:]]
    after = cells(**grid(rows), **{f"D{n + 2}": v for n, v in enumerate(each)}, D9=sum(each))
    asks = "In column D, put number times price for each of the six rows, and their total into D9. Save the spreadsheet."
    return Draft(asks, way, {"stock.gnumeric": sheet(rows)}, SHEET, after)


@template("sheet")
def correct_three(b: Bench) -> Draft:
    rows = stock(b)
    places = b.sample([(r, c) for r in range(1, 7) for c in (1, 2)], 3)
    new = {(r, c): b.randrange(100, 999) for r, c in places}
    way: Way = [step for (r, c), v in new.items() for step in (*go(f"{'ABC'[c]}{r + 1}"), ["type", f"{v}\n"])]
    after = cells(**{**grid(rows), **{f"{'ABC'[c]}{r + 1}": v for (r, c), v in new.items()}})
    asks = "Correct the spreadsheet: " + ", ".join(f"the {rows[0][c]} of {rows[r][0]} is {v}" for (r, c), v in new.items()) + ". Save it."
    return Draft(asks, done([*way, SAVE]), {"stock.gnumeric": sheet(rows)}, SHEET, after)


@template("sheet")
def dearest(b: Bench) -> Draft:
    rows = stock(b)
    best = max(rows[1:], key=lambda r: int(str(r[2])))
    for row in rows[1:]:
        if row is not best and row[2] == best[2]:
            row[2] = 1
    way = [*go("A2:C7"), ["answer", str(best[0])]]
    return Draft("Which item of the spreadsheet has the highest price? Answer with its name.", way, {"stock.gnumeric": sheet(rows)}, SHEET, answer=str(best[0]))
