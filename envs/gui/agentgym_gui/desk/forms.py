"""Templates about the form, the image viewer, and work across two programs."""

import json
from typing import Any

from agentgym_gui.desk.counting import cells, go, grid, stock
from agentgym_gui.desk.drafts import Bench, Draft, Way, done, sheet, template
from agentgym_gui.desk.filing import notes

CLASSES = ["Gold", "Silver", "Bronze"]
SAVE, SWITCH = ["key", "ctrl+s"], ["key", "alt+Tab"]


def form(path: str, fields: list[list[Any]]) -> list[str]:
    """The form program over a record."""
    return ["form", json.dumps({"title": f"Record {path.rpartition('/')[2].partition('.')[0]}", "path": path, "fields": fields})]


SHORT: list[list[Any]] = [["Name", "entry", []], ["Town", "entry", []], ["Class", "choice", CLASSES], ["Newsletter", "check", []]]
LONG: list[list[Any]] = [
    ["Name", "entry", []], ["Street", "entry", []], ["Town", "entry", []], ["Phone", "entry", []], ["Room", "entry", []], ["Class", "choice", CLASSES],
    ["Newsletter", "check", []],
]  # fmt: skip


def person(b: Bench, fields: list[list[Any]] = SHORT) -> dict[str, Any]:
    """A record of somebody."""
    drawn = {
        "Name": b.name(), "Street": f"{b.things(1)[0].title()} Street {b.randrange(1, 99)}", "Town": b.city(), "Phone": f"555 {b.randrange(1000, 9999)}",
        "Room": str(b.randrange(100, 400)), "Class": b.choice(CLASSES), "Newsletter": b.random() < 0.5,
    }  # fmt: skip
    return {name: drawn[name] for name, *_ in fields}


def filled(record: dict[str, Any], fields: list[list[Any]]) -> Way:
    """The steps that fill an empty form, and save it."""
    way: Way = []
    for name, kind, _ in fields:
        if kind == "entry":
            way += [["click", "textbox", name], ["type", record[name]]]
        elif kind == "choice":
            way += [["click", "radio", record[name]]]
        elif record[name]:
            way += [["click", "checkbox", name]]
    return [*way, ["click", "button", "Save"]]


def told(record: dict[str, Any]) -> list[str]:
    """A record in words, a line each."""
    return [f"{name}: {value if isinstance(value, str) else 'yes' if value else 'no'}" for name, value in record.items()]


@template("form")
def fill_form(b: Bench) -> Draft:
    record = person(b)
    after = {"Records/12.json": {"record": record}}
    return Draft(f"Fill in the form and save it. {'; '.join(told(record))}.", done(filled(record, SHORT)), notes(b, 2), [form("Records/12.json", SHORT)], after)


@template("form")
def fill_long_form(b: Bench) -> Draft:
    record = person(b, LONG)
    after = {"Records/7.json": {"record": record}}
    return Draft(f"Fill in the form and save it. {'; '.join(told(record))}.", done(filled(record, LONG)), {}, [form("Records/7.json", LONG)], after)


@template("form")
def correct_field(b: Bench) -> Draft:
    record, field = person(b), b.choice(("Name", "Town"))
    new = b.name() if field == "Name" else f"New {b.city()}"
    way = done([["click", "textbox", field], ["key", "ctrl+a"], ["type", new], ["click", "button", "Save"]])
    path = "Records/3.json"
    return Draft(
        f"In the record that is open, the {field} should be {new}. Correct it, and save.",
        way,
        {path: {"record": record}},
        [form(path, SHORT)],
        {path: {"record": {**record, field: new}}},
    )


@template("form")
def change_class(b: Bench) -> Draft:
    record = person(b)
    new = b.choice([c for c in CLASSES if c != record["Class"]])
    path = "Records/5.json"
    way = done([["click", "radio", new], ["click", "button", "Save"]])
    return Draft(
        f"Set the class of the record to {new}, and save it.",
        way,
        {path: {"record": record}},
        [form(path, SHORT)],
        {path: {"record": {**record, "Class": new}}},
    )


@template("form")
def toggle_newsletter(b: Bench) -> Draft:
    record = person(b)
    path = "Records/8.json"
    way = done([["click", "checkbox", "Newsletter"], ["click", "button", "Save"]])
    asks = f"{record['Name']} wants {'no newsletter any more' if record['Newsletter'] else 'the newsletter'}. Set it in the record, and save."
    return Draft(asks, way, {path: {"record": record}}, [form(path, SHORT)], {path: {"record": {**record, "Newsletter": not record["Newsletter"]}}})


@template("form")
def missing_field(b: Bench) -> Draft:
    record, field = person(b), b.choice(("Fax", "Birthday", "Country"))
    path = "Records/4.json"
    way = [["click", "textbox", "Name"], ["fail", f"the form has no field {field}"]]
    return Draft(
        f"Set the field {field} of the record to 12. If there is no such field, say which is missing.",
        way,
        {path: {"record": record}},
        [form(path, SHORT)],
        refusal=field,
    )


# Pictures


@template("pictures")
def read_picture(b: Bench) -> Draft:
    number = b.randrange(1000, 9999)
    pictures = {"Pictures/slip.png": ["Delivery slip", f"Order number: {number}", f"To: {b.name()}", b.city()]}
    way = [["key", "plus"], ["answer", str(number)]]
    return Draft("Which order number is in the picture?", way, {}, [["ristretto", "Pictures/slip.png"]], pictures=pictures, answer=float(number))


@template("pictures")
def which_picture(b: Bench) -> Draft:
    names = b.names(4)
    pictures = {f"Pictures/{n}.png": ["Badge", name, b.city()] for n, name in enumerate(names, 1)}
    n = b.randrange(1, 4)
    way = [*([["key", "Page_Down"]] * n), ["answer", f"{n + 1}.png"]]
    asks = f"Which picture of the folder shows the badge of {names[n]}? Answer with its file name."
    return Draft(asks, way, {}, [["ristretto", "Pictures/1.png"]], pictures=pictures, answer=f"{n + 1}.png")


@template("pictures")
def add_up_pictures(b: Bench) -> Draft:
    sums = [b.randrange(100, 900) for _ in range(3)]
    pictures = {f"Pictures/{n}.png": ["Receipt", b.city(), f"Total: {s}"] for n, s in enumerate(sums, 1)}
    way = [["key", "Page_Down"], ["key", "Page_Down"], ["answer", str(sum(sums))]]
    asks = "The folder has three pictures of receipts. What is the sum of their totals?"
    return Draft(asks, way, {}, [["ristretto", "Pictures/1.png"]], pictures=pictures, answer=float(sum(sums)))


@template("pictures")
def delete_picture(b: Bench) -> Draft:
    names = b.names(3)
    pictures = {f"Pictures/{n}.png": ["Badge", name, b.city()] for n, name in enumerate(names, 1)}
    n = b.randrange(1, 3)
    way = done([*([["key", "Page_Down"]] * n), ["click", "button", "Delete"], ["click", "button", "OK"]])
    asks = f"Delete the picture that shows the badge of {names[n]}, with the image viewer."
    return Draft(asks, way, {}, [["ristretto", "Pictures/1.png"]], {f"Pictures/{n + 1}.png": None}, pictures)


# Across two programs


@template("across")
def form_from_picture(b: Bench) -> Draft:
    record = person(b, LONG)
    pictures = {"Pictures/card.png": ["Registration", *told(record)]}
    opens = [["ristretto", "Pictures/card.png"], form("Records/21.json", LONG)]
    return Draft(
        "Fill in the form with what the picture says, and save it.", done(filled(record, LONG)), {}, opens, {"Records/21.json": {"record": record}}, pictures
    )


@template("across")
def form_from_note(b: Bench) -> Draft:
    record = person(b)
    opens = [["mousepad", "note.txt"], form("Records/22.json", SHORT)]
    files = {"note.txt": "\n".join(told(record)) + "\n"}
    return Draft("Fill in the form with what note.txt says, and save it.", done(filled(record, SHORT)), files, opens, {"Records/22.json": {"record": record}})


@template("across")
def form_from_sheet(b: Bench) -> Draft:
    record = person(b)
    rows: list[list[object]] = [["field", "value"]]
    rows += ([n, v if isinstance(v, str) else "yes" if v else "no"] for n, v in record.items())
    opens = [["gnumeric", "person.gnumeric"], form("Records/23.json", SHORT)]
    return Draft(
        "Fill in the form with what the spreadsheet says, and save it.",
        done(filled(record, SHORT)),
        {"person.gnumeric": sheet(rows)},
        opens,
        {"Records/23.json": {"record": record}},
    )


@template("across")
def total_into_note(b: Bench) -> Draft:
    numbers = [b.randrange(100, 999) for _ in range(4)]
    text = "".join(f"{thing}: {n}\n" for thing, n in zip(b.things(4), numbers, strict=True))
    way = done([["type", "+".join(map(str, numbers))], ["key", "Return"], SWITCH, ["key", "ctrl+End"], ["type", f"total: {sum(numbers)}"], SAVE])
    asks = 'Add the four numbers of costs.txt with the calculator, and add the line "total: " with their sum at the end of costs.txt. Save it.'
    return Draft(asks, way, {"costs.txt": text}, [["mousepad", "costs.txt"], ["galculator"]], {"costs.txt": text + f"total: {sum(numbers)}"})


@template("across")
def sheet_into_note(b: Bench) -> Draft:
    rows = stock(b)
    n = b.randrange(1, 7)
    line = f"{rows[n][0]}: {rows[n][1]}"
    way = done([SWITCH, ["key", "ctrl+End"], ["type", line], SAVE])
    asks = f'Look up the number of {rows[n][0]} in the spreadsheet, add the line "{rows[n][0]}: " with the number at the end of note.txt, and save it.'
    files = {"stock.gnumeric": sheet(rows), "note.txt": "To order:\n"}
    return Draft(asks, way, files, [["mousepad", "note.txt"], ["gnumeric", "stock.gnumeric"]], {"note.txt": f"To order:\n{line}"})


@template("across")
def note_into_sheet(b: Bench) -> Draft:
    rows = stock(b, 5)
    new: list[list[object]] = [[b.name(), b.randrange(2, 60), b.randrange(3, 90)] for _ in range(3)]
    text = "".join(f"{a}: {n} pieces at {p}\n" for a, n, p in new)
    way = [*go("A7"), *(["type", f"{v}{end}"] for row in new for v, end in zip(row, "\t\t\n", strict=True)), SAVE, ["done"]]
    files = {"stock.gnumeric": sheet(rows), "new.txt": text}
    asks = "Add the three items of new.txt to the spreadsheet, each as a row below the others (item, number, price), and save it."
    return Draft(asks, way, files, [["mousepad", "new.txt"], ["gnumeric", "stock.gnumeric"]], cells(**grid([*rows, *new])))


@template("across")
def copy_list(b: Bench) -> Draft:
    first, second = ("\n".join(b.lines(4)) + "\n" for _ in range(2))
    way = done([["key", "ctrl+a"], ["key", "ctrl+c"], SWITCH, ["key", "ctrl+End"], ["key", "ctrl+v"], SAVE])
    opens = [["mousepad", "--disable-server", "one.txt"], ["mousepad", "--disable-server", "two.txt"]]
    return Draft("Add all of two.txt at the end of one.txt, and save one.txt.", way, {"one.txt": first, "two.txt": second}, opens, {"one.txt": first + second})


@template("across")
def picture_into_note(b: Bench) -> Draft:
    number = b.randrange(1000, 9999)
    pictures = {"Pictures/slip.png": ["Delivery slip", f"Order number: {number}", f"To: {b.name()}", b.city()]}
    way = done([["key", "ctrl+End"], ["type", f"order {number}"], SAVE])
    asks = 'Add the line "order " with the order number in the picture at the end of orders.txt, and save it.'
    opens = [["ristretto", "Pictures/slip.png"], ["mousepad", "orders.txt"]]
    return Draft(asks, way, {"orders.txt": "Orders\n"}, opens, {"orders.txt": f"Orders\norder {number}"}, pictures)


@template("across")
def rename_by_picture(b: Bench) -> Draft:
    name = b.name()
    pictures = {"Pictures/scan.png": ["Badge", name, b.city()]}
    new = f"{name.split()[1].lower()}.png"
    way = done([["click", "cell", "scan.png"], ["key", "F2"], ["key", "ctrl+a"], ["type", new], ["key", "Return"]])
    asks = "Rename scan.png to the last name on the badge that it shows, in small letters, with .png behind it."
    opens = [["ristretto", "Pictures/scan.png"], ["thunar", "/home/agent/Pictures"]]
    return Draft(asks, way, {}, opens, {"Pictures/scan.png": None, f"Pictures/{new}": {"as": "Pictures/scan.png"}}, pictures)


@template("across")
def list_files(b: Bench) -> Draft:
    inside = sorted(notes(b, 4))
    files = {f"Papers/{p}": "x\n" for p in inside} | {"index.txt": "Papers:\n"}
    way: Way = [
        ["key", "ctrl+End"],
        *(["type", p + "\n"] for p in inside),
        SAVE,
        SWITCH,
        ["key", "alt+Up"],
        *[["key", "ctrl+shift+n"], ["key", "ctrl+a"], ["type", "Done"], ["key", "Return"]],
    ]
    after = {"index.txt": "Papers:\n" + "\n".join(inside), "Done/": ""}
    asks = (
        "Write the names of the files in the folder Papers into index.txt, one a line, in the order of the alphabet, below what is there. "
        "Save it. Then make a folder Done in /home/agent."
    )
    return Draft(asks, done(way), files, [["thunar", "/home/agent/Papers"], ["mousepad", "index.txt"]], after)


@template("across")
def check_then_delete(b: Bench) -> Draft:
    files = notes(b, 5)
    gone = sorted(b.sample([*files], 2))
    way: Way = [step for name in gone for step in (["click", "cell", name], ["key", "shift+Delete"], ["key", "Return"])]
    asks = "Delete the files that delete-these.txt names, for good, and nothing else."
    return Draft(
        asks,
        done(way),
        {**files, "delete-these.txt": "\n".join(gone) + "\n"},
        [["mousepad", "delete-these.txt"], ["thunar", "/home/agent"]],
        dict.fromkeys(gone),
    )


@template("across")
def order_sheet(b: Bench) -> Draft:
    rows = stock(b, 6)
    total = sum(int(str(r[1])) for r in rows[1:])
    way = done(
        [*go("B8"), ["type", "=sum(B2:B7)\n"], SAVE, SWITCH, ["key", "ctrl+End"], ["type", f"pieces: {total}\n"], ["type", f"items: {len(rows) - 1}"], SAVE]
    )
    files = {"stock.gnumeric": sheet(rows), "report.txt": "Report\n"}
    asks = (
        "Put the total of the column number into cell B8 of the spreadsheet and save it; then add two lines to report.txt: "
        '"pieces: " with that total, and "items: " with how many items there are. Save it too.'
    )
    after = {**cells(**grid(rows), B8=total), "report.txt": f"Report\npieces: {total}\nitems: {len(rows) - 1}"}
    return Draft(asks, way, files, [["mousepad", "report.txt"], ["gnumeric", "stock.gnumeric"]], after)
