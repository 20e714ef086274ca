"""Scripted solutions of MiniWoB pages. They read what an agent reads: what the page asks, and the outline."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from typing import TYPE_CHECKING

import msgspec

from agentgym.errors import CapabilityError
from agentgym.messages import OPEN, Tool, call, short_call
from agentgym_web.miniwob.reading import Page

if TYPE_CHECKING:
    from agentgym_web.miniwob.env import MiniwobEnv

COLOURS = {
    "red": (255, 0, 0), "green": (0, 128, 0), "blue": (0, 0, 255), "yellow": (255, 255, 0), "black": (0, 0, 0), "white": (255, 255, 255),
    "grey": (128, 128, 128),     "gray": (128, 128, 128), "olive": (128, 128, 0), "lime": (0, 255, 0),
    "cyan": (0, 255, 255), "aqua": (0, 255, 255), "magenta": (255, 0, 255),
    "pink": (255, 192, 203), "orange": (255, 165, 0), "purple": (128, 0, 128), "brown": (165, 42, 42), "maroon": (128, 0, 0), "navy": (0, 0, 128),
    "teal": (0, 128, 128), "silver": (192, 192, 192), "fuchsia": (255, 0, 255), "violet": (238, 130, 238),
}  # fmt: skip


Script = Callable[[Page], Iterator[str]]
NTH = r"(\d+)(?:st|nd|rd|th)"


def _named(role: str, pattern: str = r'"([^"]*)"') -> Script:
    """Click the one thing that is named."""

    def play(page: Page) -> Iterator[str]:
        yield page.click(role, page.asked(pattern)[0])

    return play


def _buttons(page: Page) -> Iterator[str]:
    for name in re.findall(r"button ([A-Z]+)", page.asks) or re.findall(r'"([^"]+)"', page.asks):
        yield page.click("button", name)


def _any_button(page: Page) -> Iterator[str]:
    yield page.click("button")


def _delayed(page: Page) -> Iterator[str]:
    yield page.click("button", "ONE")
    for _ in range(int(page.asked(r"wait (\d+)")[0]) * 4 - 1):
        yield "hover " + str(page.one("button", "TWO"))
    yield page.click("button", "TWO")


def _close(page: Page) -> Iterator[str]:
    yield page.click("button", "Close")


def _dialog(page: Page) -> Iterator[str]:
    (name,) = page.asked(r'"([^"]*)"')
    yield page.click("button", "Close" if name == "x" else name)


def _checkboxes(page: Page) -> Iterator[str]:
    (names,) = page.asked(r"Select (.*) and click")
    for name in names.split(", ") if names != "nothing" else ():
        yield page.click("checkbox", name)
    yield page.click("button", "Submit")


def _radio(page: Page) -> Iterator[str]:
    yield page.click("radio", page.asked(r"Select (.*) and click")[0])
    yield page.click("button", "Submit")


def _list(page: Page) -> Iterator[str]:
    yield f"select {page.one('combobox')} {page.asked(r'Select (.*) from the list')[0]}"
    yield page.click("button", "Submit")


def _scroll_list(page: Page) -> Iterator[str]:
    for name in page.asked(r"Select (.*) from the scroll list")[0].split(", "):
        yield f"select {page.one('combobox')} {name}"
    yield page.click("button", "Submit")


def _colour(page: Page) -> Iterator[str]:
    rgb = "rgb({}, {}, {})".format(*COLOURS[page.asked(r"on the (\w+) colored")[0]])
    yield f"click {next(e.id for e in page.all('box') if rgb in e.rest)}"


def _shape_area(page: Page) -> Iterator[str]:
    yield page.click("rectangle")


def _fill(pattern: str = r'"([^"]*)"', change: Callable[[str], str] = lambda text: text, submit: str = "Submit") -> Script:
    """Put what is asked into the first field, and submit."""

    def play(page: Page) -> Iterator[str]:
        yield f"fill {page.one('textbox')} {change(page.asked(pattern)[0])}"
        yield page.click("button", submit)

    return play


def _cased(page: Page) -> Iterator[str]:
    text, case = page.asked(r'Type "([^"]*)" in all (upper|lower) case')
    yield f"fill {page.one('textbox')} {text.upper() if case == 'upper' else text.lower()}"
    yield page.click("button", "Submit")


def _twice(page: Page) -> Iterator[str]:
    (word,) = page.asked(r'"([^"]*)"')
    for n in (0, 1):
        yield f"fill {page.one('textbox', nth=n)} {word}"
    yield page.click("button", "Submit")


def _login(page: Page) -> Iterator[str]:
    for n, word in enumerate(page.asked(r'username "([^"]*)" and the password "([^"]*)"')):
        yield f"fill {page.one('textbox', nth=n)} {word}"
        page.look()
    yield page.click("button", "Login")


def _date(page: Page) -> Iterator[str]:
    month, day, year = page.asked(r"(\d\d)/(\d\d)/(\d{4})")
    yield f"fill {page.one('textbox')} {year}-{month}-{day}"
    yield page.click("button", "Submit")


def _time(page: Page) -> Iterator[str]:
    hour, minute, half = page.asked(r"(\d+):(\d\d) (AM|PM)")
    yield f"fill {page.one('textbox')} {int(hour) % 12 + (12 if half == 'PM' else 0):02}:{minute}"
    yield page.click("button", "Submit")


def _calendar(page: Page) -> Iterator[str]:
    month, day, _ = page.asked(r"(\d\d)/(\d\d)/(\d{4})")
    yield page.click("textbox")
    names = ["January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December"]
    for _ in range(12):
        page.look()
        shown = next((names.index(e.name.split()[0]) + 1 for e in page.elements if e.name.split()[:1] and e.name.split()[0] in names), 0)
        if shown == int(month):
            break
        yield page.click("link", "Prev" if shown > int(month) else "Next")
    yield page.look().click("link", str(int(day)))
    yield page.look().click("button", "Submit")


def _focus(page: Page) -> Iterator[str]:
    found = re.search(NTH, page.asks)
    yield page.click("textbox", nth=int(found[1]) - 1 if found else 0)


def _tab(page: Page) -> Iterator[str]:
    yield page.click("", page.asked(r"Click on (Tab #\d+)")[0])


def _through(openers: Callable[[Page], list[int]]) -> Script:
    """Open one thing after another until the link that is asked for is to be seen."""

    def play(page: Page) -> Iterator[str]:
        (name,) = page.asked(r'"([^"]*)"')
        for n in range(12):
            found = [e.id for e in page.look().elements if e.name == name and e.role in ("clickable", "link", "text")]
            if found:
                yield f"click {found[0]}"
                return
            doors = openers(page)
            yield f"click {doors[n % len(doors)]}"

    return play


def _tabs(page: Page) -> list[int]:
    return [e.id for e in page.elements if e.role == "tab" or e.name.startswith("Section #")]


def _expand(page: Page) -> Iterator[str]:
    yield f"click {_tabs(page)[0]}"
    yield page.look().click("button", "Submit")


def _widget(page: Page) -> Iterator[str]:
    (kind,) = page.asked(r'on a "([^"]*)" widget')
    fields = [e for e in page.all("textbox") if ("multiline" in e.rest) == (kind == "textarea")]
    yield f"click {next(e.id for e in (page.all(kind) or fields))}"


def _arithmetic(page: Page) -> Iterator[str]:
    a, sign, b = re.search(r"(-?\d+) ([-+x]) (-?\d+)", page.all("text")[0].name).groups()  # type: ignore[union-attr]  # the page always shows one
    value = {"+": int(a) + int(b), "-": int(a) - int(b), "x": int(a) * int(b)}[sign]
    yield f"fill {page.one('textbox')} {value}"
    yield page.click("button", "Submit")


def _algebra(page: Page) -> Iterator[str]:
    left, right = page.all("text")[0].name.split(" = ")
    a, sign, b = left.split()
    result = int(right)
    if a == "x":
        value = result - int(b) if sign == "+" else result + int(b)
    else:
        value = result - int(a) if sign == "+" else int(a) - result
    yield f"fill {page.one('textbox')} {value}"
    yield page.click("button", "Submit")


def _copy(nth: Callable[[Page], int], reads: Callable[[Page], list[str]]) -> Script:
    def play(page: Page) -> Iterator[str]:
        text = reads(page)[nth(page)]
        field = next(e.id for e in page.all("textbox") if 'value ""' in e.rest)
        yield call("fill", element=field, text=text)  # as a call: a short action has no blanks at its end
        yield page.click("button", "Submit")

    return play


def _values(page: Page) -> list[str]:
    found = (re.search(r'value "((?:[^"\\]|\\.)*)"', e.rest) for e in page.all("textbox"))
    return [m[1] for m in found if m and m[1]]


def _word(page: Page) -> Iterator[str]:
    words = re.findall(r"[A-Za-z]+", page.all("text")[0].name)
    yield f"fill {page.one('textbox')} {words[int(page.asked(NTH)[0]) - 1]}"
    yield page.click("button", "Submit")


def _transform(page: Page) -> Iterator[str]:
    yield f"fill {page.one('textbox')} {''.join(e.name for e in page.all('text'))}"
    yield page.click("button", "Submit")


def _identify(page: Page) -> Iterator[str]:
    shape = next(e for e in page.elements if " at " in e.rest)
    kind = {"circle": "Circle", "rectangle": "Rectangle", "polygon": "Triangle"}.get(shape.role) or ("Number" if shape.name.isdigit() else "Letter")
    yield page.click("button", kind)


def _odd_even(page: Page) -> Iterator[str]:
    numbers = [int(e.name) for e in page.all("text") if re.fullmatch(r"-?\d+", e.name)]
    for n, number in enumerate(numbers):
        yield page.click("button", "Odd" if number % 2 else "Even", n)
    yield page.click("button", "Submit")


def _ascending(page: Page) -> Iterator[str]:
    numbers = sorted((e for e in page.all("text") if e.name.isdigit()), key=lambda e: int(e.name))
    for element in numbers:  # their places: the numbers are hidden after the first
        yield "click_at {} {}".format(*re.findall(r"\d+", element.rest)[-2:])


def _guess(page: Page) -> Iterator[str]:
    low, high = 0, 9
    for _ in range(5):
        middle = (low + high) // 2
        yield f"fill {page.one('spinbutton')} {middle}"
        yield page.click("button", "Submit")
        said = " ".join(e.name for e in page.look().all("text"))
        if "higher" in said:
            low = middle + 1
        elif "lower" in said:
            high = middle - 1


def _tree(page: Page) -> Iterator[str]:
    (name,) = page.asked(r'named "([^"]*)"')
    tried: set[str] = set()
    for _ in range(30):
        shown = page.look().elements
        goal = next((e for e in shown if e.role == "clickable" and e.name == name), None)
        folders = [e for before, e in pairwise(shown) if e.role == before.role == "clickable" and e.name and not before.name and e.name not in tried]
        if goal is None and not folders:
            return
        tried.add(folders[0].name if goal is None else name)
        yield f"click {(goal or folders[0]).id}"
        if goal is not None:
            return


def _link_after(label: Callable[[Page], str]) -> Script:
    def play(page: Page) -> Iterator[str]:
        names = [e.name for e in page.elements]
        at = names.index(label(page))
        yield f"click {next(e.id for e in page.elements[at:] if e.role == 'link')}"

    return play


def _table(page: Page) -> Iterator[str]:
    (label,) = page.asked(r"value of (.*) into the text")
    names = [e.name for e in page.elements]
    yield f"fill {page.one('textbox')} {names[names.index(label) + 1]}"
    yield page.click("button", "Submit")


def _table_two(page: Page) -> Iterator[str]:
    cells = [e.name for e in page.all("cell")]
    known = dict(zip(cells[::2], cells[1::2], strict=False))
    fields = page.all("textbox")
    labels = [e.name.rstrip(":") for e in page.elements if e.role in ("label", "text", "cell") and e.name.rstrip(":") in known and e.name.endswith(":")]
    for field, label in zip(fields, labels, strict=False):
        yield f"fill {field.id} {known[label]}"
    yield page.click("button", "Submit")


def _ticket(page: Page) -> Iterator[str]:
    (wanted,) = page.asked(r"the (cheapest|most expensive|shortest|longest)")
    buttons = page.all("button")
    times = [e.name for e in page.all("text") if re.fullmatch(r"\d+h \d+m", e.name)]
    costs = [int(re.sub(r"\D", "", b.name)) for b in buttons]
    minutes = [int(t.split("h")[0]) * 60 + int(t.split("h")[1].strip(" m")) for t in times]
    by = costs if wanted in ("cheapest", "most expensive") else minutes
    chosen = min(by) if wanted in ("cheapest", "shortest") else max(by)
    yield f"click {buttons[by.index(chosen)].id}"


def _form(page: Page) -> Iterator[str]:
    nth, number, box = page.asked(rf"Check the {NTH} radio button and enter the number \"(-?\d+)\" into the {NTH} textbox")
    yield page.click("radio", nth=int(nth) - 1)
    yield f"fill {page.one('textbox', nth=int(box) - 1)} {number}"
    yield page.click("button", "Submit")


def _highlight(page: Page) -> Iterator[str]:
    found = re.search(NTH, page.asks)
    texts = page.all("text")
    yield f"highlight {texts[int(found[1]) - 1 if found else 0].id}"
    yield page.click("button", "Submit")


def _drag_shape(page: Page) -> Iterator[str]:
    shape = next(e for e in page.elements if " at " in e.rest)
    x, y = map(int, re.search(r"at (\d+),(\d+)", shape.rest).groups())  # type: ignore[union-attr]  # shapes say where they are
    dx, dy = {"up": (0, -30), "down": (0, 30), "left": (-30, 0), "right": (30, 0)}[page.asked(r"(up|down|left|right) then press")[0]]
    yield f"drag_at {x} {y} {x + dx} {y + dy}"
    yield page.click("button", "Submit")


def _drag_box(page: Page) -> Iterator[str]:
    yield f"drag {page.one('text', 's')} {page.one('text', 'L')}"
    yield page.click("button", "Submit")


def _spinner(page: Page) -> Iterator[str]:
    wanted = int(page.asked(r"Select (-?[0-9]+)")[0])
    yield page.click("spinbutton")
    for _ in range(abs(wanted)):
        yield f"press {'ArrowUp' if wanted > 0 else 'ArrowDown'}"
    yield page.click("button", "Submit")


def _search(page: Page) -> Iterator[str]:
    name, nth = page.asked(rf'enter "([^"]*)" and press "Search", then find and click the {NTH}')
    yield f"fill {page.one('textbox')} {name}"
    yield page.click("button", "Search")
    seen = 0
    for _ in range(9):
        results = [e for e in page.look().all("link") if e.name and not re.fullmatch(r"[<>0-9]+", e.name)]
        if seen + len(results) >= int(nth):
            yield f"click {results[int(nth) - seen - 1].id}"
            return
        seen += len(results)
        yield page.click("link", ">")


def _complete(page: Page) -> Iterator[str]:
    (start,) = page.asked(r'starts with "([^"]*)"')
    ends = re.search(r'ends with "([^"]*)"', page.asks)
    yield f"fill {page.one('textbox')} {start}"
    yield "wait"
    for element in page.look().elements:
        if element.name.startswith(start) and element.name.endswith(ends[1] if ends else "") and element.role not in ("textbox", "label"):
            yield f"click {element.id}"
            break
    yield page.look().click("button", "Submit")


def _menu(page: Page) -> Iterator[str]:
    path = page.asked(r"Select (.*)")[0].split(">")
    for name in path[:-1]:
        yield f"hover {page.look().one('', name)}"
        yield "wait"
    yield f"click {page.look().one('', path[-1])}"


def _generate(page: Page) -> Iterator[str]:
    limit = re.search(r"(less|greater) than (-?\d+)", page.asks)
    for _ in range(18):
        yield page.click("button", "Generate")
        shown = next(e.name for e in page.look().all("text"))
        if not re.fullmatch(r"-?\d+", shown):
            continue
        n = int(shown)
        if limit:
            good = n < int(limit[2]) if limit[1] == "less" else n > int(limit[2])
        else:
            good = n % 2 == (1 if "odd" in page.asks else 0)
        if good:
            break
    yield page.click("button", "Submit")


def _coordinate(page: Page) -> Iterator[str]:
    x, y = map(int, page.asked(r"\((-?\d+),(-?\d+)\)"))
    dots = [tuple(map(int, re.search(r"at (\d+),(\d+)", e.rest).groups())) for e in page.all("circle")]  # type: ignore[union-attr]
    across, down = sorted({d[0] for d in dots}), sorted({d[1] for d in dots})
    yield f"click_at {across[x + len(across) // 2]} {down[len(down) // 2 - y]}"


SCRIPTS: dict[str, Script] = {
    "ascending-numbers": _ascending, "button-delay": _delayed, "buy-ticket": _ticket, "choose-date": _calendar, "choose-date-easy": _calendar,
    "choose-date-medium": _calendar, "choose-date-nodelay": _calendar, "choose-list": _list, "click-button": _named("button"),
    "click-button-sequence": _buttons, "click-checkboxes": _checkboxes, "click-checkboxes-large": _checkboxes, "click-checkboxes-transfer": _checkboxes,
    "click-collapsible": _expand, "click-collapsible-nodelay": _expand, "click-collapsible-2": _through(_tabs), "click-collapsible-2-nodelay": _through(_tabs),
    "click-color": _colour, "click-dialog": _close, "click-dialog-2": _dialog, "click-link": _named("clickable"), "click-menu": _menu, "click-option": _radio,
    "click-scroll-list": _scroll_list, "click-tab": _tab, "click-tab-2": _through(_tabs), "click-tab-2-easy": _through(_tabs),
    "click-tab-2-medium": _through(_tabs), "click-tab-2-hard": _through(_tabs), "click-test": _any_button, "click-test-2": _buttons,
    "click-test-transfer": _buttons, "click-widget": _widget, "copy-paste": _copy(lambda p: 0, _values),
    "copy-paste-2": _copy(lambda p: int(p.asked(NTH)[0]) - 1, _values), "drag-box": _drag_box, "drag-circle": _drag_shape,
    "drag-single-shape": _drag_shape, "enter-date": _date, "enter-password": _twice, "enter-text": _fill(), "enter-text-2": _cased,
    "enter-text-dynamic": _fill(), "enter-time": _time, "find-word": _word, "focus-text": _focus, "focus-text-2": _focus, "form-sequence-2": _form,
    "generate-number": _generate, "grid-coordinate": _coordinate, "guess-number": _guess, "highlight-text": _highlight, "highlight-text-2": _highlight,
    "identify-shape": _identify, "login-user": _login, "navigate-tree": _tree, "odd-or-even": _odd_even, "read-table": _table, "read-table-2": _table_two,
    "search-engine": _search, "simple-algebra": _algebra, "simple-arithmetic": _arithmetic, "text-transform": _transform, "unicode-test": _named("button"),
    "use-autocomplete": _complete, "use-autocomplete-nodelay": _complete, "use-spinner": _spinner,
}  # fmt: skip


def script(env: MiniwobEnv) -> Iterator[str]:
    """The solution of the page that ``env`` shows.

    Raises:
        CapabilityError: there is none.
    """
    name = str(env.task.data["page"])
    if name not in SCRIPTS:
        raise CapabilityError(f"{name} has no oracle")
    return (as_call(env.tools, action) for action in SCRIPTS[name](Page(env)))


def as_call(tools: Mapping[str, Tool], action: str) -> str:
    """A short action as the call that it is."""
    if action.startswith(OPEN):
        return action
    short = short_call(tools, action)
    return call(short.name, **msgspec.to_builtins(msgspec.convert(short.arguments, tools[short.name].arguments, strict=False)))
