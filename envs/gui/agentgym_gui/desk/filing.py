"""Templates about files and folders, in the file manager and in the terminal."""

from agentgym_gui.desk.drafts import Bench, Draft, Way, done, template

FILES = [["thunar", "/home/agent"]]
TERMINAL = [["lxterminal"]]


def notes(b: Bench, n: int, suffix: str = ".txt") -> dict[str, str]:
    """Some files."""
    return {f"{thing}{suffix}": f"{b.name()}\n" for thing in sorted(b.things(n))}


def named(name: str) -> Way:
    """The steps that type a name into a window that asks for one."""
    return [["key", "ctrl+a"], ["type", name], ["key", "Return"]]


def folder(name: str) -> Way:
    """The steps that make a folder."""
    return [["key", "ctrl+shift+n"], *named(name)]


def chosen(pattern: str) -> Way:
    """The steps that choose files by a pattern."""
    return [["key", "ctrl+s"], ["type", pattern], ["key", "Return"]]


@template("files")
def rename_file(b: Bench) -> Draft:
    files = notes(b, 5)
    old, new = b.choice([*files]), f"{b.city().lower()}.txt"
    way = done([["click", "cell", old], ["key", "F2"], *named(new)])
    return Draft(f"Rename {old} to {new}.", way, files, FILES, {old: None, new: files[old]})


@template("files")
def make_folder(b: Bench) -> Draft:
    name = b.city()
    return Draft(f"Make a folder called {name} in /home/agent.", done(folder(name)), notes(b, 4), FILES, {f"{name}/": ""})


@template("files")
def delete_file(b: Bench) -> Draft:
    files = notes(b, 5)
    gone = b.choice([*files])
    way = done([["click", "cell", gone], ["key", "shift+Delete"], ["key", "Return"]])
    return Draft(f"Delete {gone} for good.", way, files, FILES, {gone: None})


@template("files")
def move_into(b: Bench) -> Draft:
    files, where = notes(b, 4), b.city()
    moved = b.choice([*files])
    way = done([["click", "cell", moved], ["key", "ctrl+x"], ["double", "cell", where], ["key", "ctrl+v"]])
    return Draft(f"Move {moved} into the folder {where}.", way, {**files, f"{where}/old.txt": "old\n"}, FILES, {moved: None, f"{where}/{moved}": files[moved]})


@template("files")
def copy_into(b: Bench) -> Draft:
    files, where = notes(b, 4), b.city()
    copied = b.choice([*files])
    way = done([["click", "cell", copied], ["key", "ctrl+c"], ["double", "cell", where], ["key", "ctrl+v"]])
    return Draft(f"Copy {copied} into the folder {where}.", way, {**files, f"{where}/old.txt": "old\n"}, FILES, {f"{where}/{copied}": files[copied]})


@template("files")
def move_by_kind(b: Bench) -> Draft:
    texts, tables, where = notes(b, 4), notes(b, 3, ".csv"), b.city()
    way = done([*chosen("*.csv"), ["key", "ctrl+x"], ["double", "cell", where], ["key", "ctrl+v"]])
    after = {p: None for p in tables} | {f"{where}/{p}": t for p, t in tables.items()}
    return Draft(f"Move all files that end in .csv into the folder {where}.", way, {**texts, **tables, f"{where}/old.txt": "old\n"}, FILES, after)


@template("files")
def delete_by_kind(b: Bench) -> Draft:
    texts, scraps = notes(b, 4), notes(b, 3, ".tmp")
    way = done([*chosen("*.tmp"), ["key", "shift+Delete"], ["key", "Return"]])
    return Draft("Delete all files that end in .tmp for good, and nothing else.", way, {**texts, **scraps}, FILES, dict.fromkeys(scraps))


@template("files")
def empty_folder(b: Bench) -> Draft:
    where, inside = b.city(), notes(b, 3)
    files = {**notes(b, 2), **{f"{where}/{p}": t for p, t in inside.items()}}
    way = done([["double", "cell", where], ["key", "ctrl+a"], ["key", "shift+Delete"], ["key", "Return"]])
    return Draft(
        f"Delete everything in the folder {where}, but keep the folder.", way, files, FILES, {f"{where}/{p}": None for p in inside} | {f"{where}/": ""}
    )


@template("files")
def largest(b: Bench) -> Draft:
    files = {p: "x" * b.randrange(50, 500) for p in notes(b, 7)}
    most = b.choice([*files])
    files[most] = "x" * b.randrange(600, 900)
    way = [["click", "columnheader", "Size"], ["answer", most]]
    return Draft("Which file of /home/agent is the largest? Answer with its name.", way, files, FILES, answer=most)


@template("files")
def count_in_folder(b: Bench) -> Draft:
    where, inside = b.city(), notes(b, b.randrange(4, 12))
    files = {**notes(b, 2), **{f"{where}/{p}": t for p, t in inside.items()}}
    way = [["double", "cell", where], ["answer", str(len(inside))]]
    return Draft(f"How many files are in the folder {where}? Answer with the number.", way, files, FILES, answer=float(len(inside)))


@template("files")
def nested_folders(b: Bench) -> Draft:
    names, way = [c for c in dict.fromkeys(b.city() for _ in range(9))][:3], []
    for name in names:
        way += [*folder(name), ["double", "cell", name]]
    asks = f"Make a folder {names[0]} in /home/agent, in it a folder {names[1]}, and in that a folder {names[2]}."
    return Draft(asks, done(way), notes(b, 2), FILES, {"/".join(names) + "/": ""})


@template("files")
def sort_by_year(b: Bench) -> Draft:
    things = sorted(b.things(6))
    files = {f"{t}-{2024 + n % 2}.txt": f"{b.name()}\n" for n, t in enumerate(things)}
    way, after = [], dict[str, str | None]()
    for year in ("2024", "2025"):
        way += [*chosen(f"*{year}*.txt"), ["key", "ctrl+x"], ["double", "cell", year], ["key", "ctrl+v"], *([["key", "alt+Up"]] if year == "2024" else [])]
    for path, text in files.items():
        after |= {path: None, f"{path[-8:-4]}/{path}": text}
    asks = "Move each file of /home/agent into the folder of the year in its name."
    return Draft(asks, done(way), {**files, "2024/about.md": "2024\n", "2025/about.md": "2025\n"}, FILES, after)


@template("files")
def rename_three(b: Bench) -> Draft:
    files = notes(b, 6)
    chosen_ = sorted(b.sample([*files], 3))
    new = {old: f"{old[:-4]}-{b.randrange(10, 99)}.txt" for old in chosen_}
    way = [step for old, name in new.items() for step in (["click", "cell", old], ["key", "F2"], *named(name))]
    after = {old: None for old in new} | {name: files[old] for old, name in new.items()}
    asks = "Rename " + ", ".join(f"{old} to {name}" for old, name in new.items()) + "."
    return Draft(asks, done(way), files, FILES, after)


@template("files")
def collect(b: Bench) -> Draft:
    texts, tables, where = notes(b, 3), notes(b, 3, ".csv"), b.city()
    way = done([*folder(where), *chosen("*.csv"), ["key", "ctrl+c"], ["double", "cell", where], ["key", "ctrl+v"], ["key", "alt+Up"], *chosen("*.txt"),
                ["key", "shift+Delete"], ["key", "Return"]])  # fmt: skip
    after = dict.fromkeys(texts) | {f"{where}/{p}": t for p, t in tables.items()}
    asks = f"Make a folder {where}, copy all files that end in .csv into it, and delete all that end in .txt for good."
    return Draft(asks, way, {**texts, **tables}, FILES, after)


# In the terminal


def typed(*commands: str) -> Way:
    """The steps that type commands."""
    return [step for each in commands for step in (["type", each], ["key", "Return"])]


@template("terminal")
def make_folder_by_command(b: Bench) -> Draft:
    name = b.city()
    return Draft(f"In the terminal, make a folder called {name}.", done(typed(f"mkdir {name}")), notes(b, 3), TERMINAL, {f"{name}/": ""})


@template("terminal")
def count_lines(b: Bench) -> Draft:
    n = b.randrange(30, 90)
    text = "".join(f"{b.randrange(1000, 9999)}\n" for _ in range(n))
    way = [*typed("wc -l data.txt"), ["answer", str(n)]]
    return Draft("How many lines does data.txt have? Answer with the number.", way, {"data.txt": text}, TERMINAL, answer=float(n))


@template("terminal")
def which_file(b: Bench) -> Draft:
    files = notes(b, 12)
    found = b.choice([*files])
    word = f"order {b.randrange(1000, 9999)}"
    files[found] += word + "\n"
    way = [*typed(f'grep -l "{word}" *'), ["answer", found]]
    return Draft(f'Which file of /home/agent says "{word}"? Answer with its name.', way, files, TERMINAL, answer=found)


@template("terminal")
def sort_lines(b: Bench) -> Draft:
    lines = b.lines(9)
    way = done(typed("sort list.txt > sorted.txt"))
    after = {"sorted.txt": "\n".join(sorted(lines)) + "\n"}
    return Draft("Write the lines of list.txt, sorted, into sorted.txt.", way, {"list.txt": "\n".join(lines) + "\n"}, TERMINAL, after)


@template("terminal")
def largest_number(b: Bench) -> Draft:
    numbers = b.sample(range(1000, 9999), 40)
    way = [*typed("sort -n data.txt | tail -n 1"), ["answer", str(max(numbers))]]
    return Draft("What is the largest number in data.txt?", way, {"data.txt": "".join(f"{n}\n" for n in numbers)}, TERMINAL, answer=float(max(numbers)))


@template("terminal")
def join_files(b: Bench) -> Draft:
    files = notes(b, 4)
    first, second = sorted(b.sample([*files], 2))
    way = done(typed(f"cat {first} {second} > both.txt", f"rm {first} {second}"))
    after = {first: None, second: None, "both.txt": files[first] + files[second]}
    return Draft(f"Join {first} and {second}, in this order, into both.txt, and remove the two.", way, files, TERMINAL, after)


@template("terminal")
def change_everywhere(b: Bench) -> Draft:
    old, new, names = b.city(), f"{b.city()}-{b.randrange(10, 99)}", sorted(b.things(4))
    files = {f"{n}.txt": f"{b.name()} lives in {old if i else 'nowhere'}.\n" for i, n in enumerate(names)}
    way = done(typed(f"sed -i s/{old}/{new}/g *.txt", "cat *.txt"))
    after = {p: t.replace(old, new) for p, t in files.items() if old in t}
    return Draft(f"Replace {old} by {new} in every text file of /home/agent.", way, files, TERMINAL, after)


@template("terminal")
def set_up_project(b: Bench) -> Draft:
    name, who, thing = b.city().lower(), b.name(), b.things(1)[0]
    commands = [
        f"mkdir {name}",
        f"cd {name}",
        "mkdir docs",
        f'echo "{who}" > OWNER',
        f'echo "# {thing}" > README.md',
        "mv ../list.txt docs/",
        "cp OWNER docs/OWNER",
    ]
    text = "\n".join(b.lines(3)) + "\n"
    after = {
        "list.txt": None,
        f"{name}/OWNER": who + "\n",
        f"{name}/README.md": f"# {thing}\n",
        f"{name}/docs/list.txt": text,
        f"{name}/docs/OWNER": who + "\n",
    }
    asks = (
        f'Make a folder {name} with a file OWNER that says "{who}", a file README.md that says "# {thing}", and a folder docs; '
        "move list.txt into docs, and copy OWNER there too."
    )
    return Draft(asks, done(typed(*commands)), {"list.txt": text}, TERMINAL, after)
