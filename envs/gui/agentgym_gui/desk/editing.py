"""Templates about the text editor."""

from agentgym_gui.desk.drafts import Bench, Draft, Way, done, menu, template

VIEW = "org/xfce/mousepad/preferences/view/"
LIST = [["mousepad", "list.txt"]]
SAVE = ["key", "ctrl+s"]


def listed(b: Bench, n: int = 6) -> tuple[list[str], dict[str, str]]:
    """A list of things, and the file of it."""
    lines = b.lines(n)
    return lines, {"list.txt": "\n".join(lines) + "\n"}


@template("editor")
def append_line(b: Bench) -> Draft:
    _, files = listed(b)
    new = f"{b.name()} {b.randrange(10, 99)}"
    way = done([["key", "ctrl+End"], ["type", new], SAVE])
    return Draft(f'Add the line "{new}" at the end of list.txt, and save it.', way, files, LIST, {"list.txt": files["list.txt"] + new})


@template("editor")
def prepend_line(b: Bench) -> Draft:
    _, files = listed(b)
    new = f"{b.name()} {b.randrange(10, 99)}"
    way = done([["key", "ctrl+Home"], ["type", new + "\n"], SAVE])
    return Draft(f'Put the line "{new}" at the top of list.txt, and save it.', way, files, LIST, {"list.txt": new + "\n" + files["list.txt"]})


@template("editor")
def line_numbers(b: Bench) -> Draft:
    way = done(menu("View", "Line Numbers"))
    return Draft("Make the text editor show line numbers.", way, listed(b)[1], LIST, settings={VIEW + "show-line-numbers": "true"})


@template("editor")
def word_wrap(b: Bench) -> Draft:
    way = done(menu("Document", "Word Wrap"))
    return Draft("Make the text editor wrap long lines.", way, listed(b)[1], LIST, settings={VIEW + "word-wrap": "true"})


@template("editor")
def auto_indent(b: Bench) -> Draft:
    way = done(menu("Document", "Auto Indent"))
    return Draft("Make the text editor indent new lines by itself.", way, listed(b)[1], LIST, settings={VIEW + "auto-indent": "true"})


@template("editor")
def tab_size(b: Bench) -> Draft:
    size = b.choice((2, 3, 4))
    way = done(menu("Document", "Tab Size", str(size)))
    return Draft(f"Set the size of tabs in the text editor to {size}.", way, listed(b)[1], LIST, settings={VIEW + "tab-width": str(size)})


@template("editor")
def save_as(b: Bench) -> Draft:
    _, files = listed(b)
    name = f"{b.things(1)[0]}.txt"
    way = done([["key", "ctrl+shift+s"], ["wait", 1], ["key", "Home"], ["key", "shift+End"], ["type", name], ["key", "Return"]])
    return Draft(f"Save a copy of list.txt as {name} in the same folder.", way, files, LIST, {name: files["list.txt"]})


@template("editor")
def new_note(b: Bench) -> Draft:
    text, name = f"Call {b.name()} about the {b.things(1)[0]}", f"{b.things(1)[0]}.txt"
    way = done([["type", text], SAVE, ["wait", 1], ["key", "Home"], ["key", "shift+End"], ["type", f"/home/agent/{name}"], ["key", "Return"]])
    return Draft(f'Write a note that says "{text}" and save it as {name} in /home/agent.', way, {}, [["mousepad"]], {name: text})


@template("editor")
def upper_case(b: Bench) -> Draft:
    _, files = listed(b)
    way = done([["key", "ctrl+a"], *menu("Edit", "Convert", "To Uppercase"), SAVE])
    return Draft("Turn all of list.txt into capital letters, and save it.", way, files, LIST, {"list.txt": files["list.txt"].upper()})


@template("editor")
def delete_line(b: Bench) -> Draft:
    lines, files = listed(b)
    n = b.randrange(1, 5)
    way = done([["key", "ctrl+Home"], *([["key", "Down"]] * n), *menu("Edit", "Delete Line"), SAVE])
    left = "\n".join(lines[:n] + lines[n + 1 :]) + "\n"
    return Draft(f'Delete the line "{lines[n]}" from list.txt, and save it.', way, files, LIST, {"list.txt": left})


@template("editor")
def change_number(b: Bench) -> Draft:
    lines, files = listed(b)
    n, new = b.randrange(1, 5), b.randrange(100, 999)
    thing = lines[n].split()[0]
    way = done([["key", "ctrl+Home"], *([["key", "Down"]] * n), ["key", "End"], ["key", "ctrl+shift+Left"], ["type", str(new)], SAVE])
    changed = "\n".join([*lines[:n], f"{thing} {new}", *lines[n + 1 :]]) + "\n"
    return Draft(f"In list.txt, set the number of {thing} to {new}, and save it.", way, files, LIST, {"list.txt": changed})


@template("editor")
def find_and_answer(b: Bench) -> Draft:
    names = b.names(24)
    lines = [f"{name}: {b.city()}, room {b.randrange(100, 400)}" for name in names]
    n = b.randrange(12, 24)
    files = {"rooms.txt": "\n".join(lines * 1) + "\n"}
    way = [["key", "ctrl+f"], ["type", names[n]], ["answer", lines[n].rpartition(" ")[2]]]
    return Draft(
        f"Which room has {names[n]}, by rooms.txt? Answer with its number.", way, files, [["mousepad", "rooms.txt"]], answer=float(lines[n].rpartition(" ")[2])
    )


@template("editor")
def change_three(b: Bench) -> Draft:
    lines, files = listed(b, 9)
    rows, way = sorted(b.sample(range(9), 3)), [["key", "ctrl+Home"]]
    new, asked, at = list(lines), [], 0
    for n in rows:
        thing, number = lines[n].split()[0], b.randrange(100, 999)
        new[n] = f"{thing} {number}"
        asked.append(f"{thing} to {number}")
        way += [["key", "Down"]] * (n - at) + [["key", "End"], ["key", "ctrl+shift+Left"], ["type", str(number)]]
        at = n
    asks = f"In list.txt, set the numbers of {asked[0]}, of {asked[1]} and of {asked[2]}, and save it."
    return Draft(asks, done([*way, SAVE]), files, LIST, {"list.txt": "\n".join(new) + "\n"})


@template("editor")
def letter(b: Bench) -> Draft:
    name, city, amount = b.name(), b.city(), b.randrange(100, 900)
    text = "Dear NAME,\n\nyour order goes to TOWN.\nPlease pay AMOUNT euros.\n\nKind regards\n"
    way: Way = []
    for word, value in (("NAME", name), ("TOWN", city), ("AMOUNT", str(amount))):
        way += [["key", "ctrl+Home"], ["key", "ctrl+f"], ["type", word], ["key", "Return"], ["key", "Escape"], ["type", value]]
    way += [["key", "ctrl+shift+s"], ["wait", 1], ["key", "Home"], ["key", "shift+End"], ["type", "letter.txt"], ["key", "Return"]]
    after = {"letter.txt": text.replace("NAME", name).replace("TOWN", city).replace("AMOUNT", str(amount))}
    asks = f"Fill in form.txt: NAME is {name}, TOWN is {city}, AMOUNT is {amount}. Save the result as letter.txt, and leave form.txt as it is."
    return Draft(asks, done(way), {"form.txt": text}, [["mousepad", "form.txt"]], after)


@template("editor")
def missing_file(b: Bench) -> Draft:
    _, files = listed(b)
    name = f"{b.things(1)[0]}-{b.randrange(100, 999)}.txt"
    way = [["key", "ctrl+o"], ["key", "Escape"], ["fail", f"there is no file {name}"]]
    asks = f"Add a line to the file {name} of /home/agent. If there is none, say which file is missing."
    return Draft(asks, way, files, LIST, refusal=name)
