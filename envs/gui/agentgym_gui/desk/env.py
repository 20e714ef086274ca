"""``gui/desk-v0``: office work on a real desktop, over several programs, decided by what was saved."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Annotated, Any, ClassVar

import msgspec
from agentgym_verifiers.process import Critiqued
from agentgym_verifiers.rules import Aimed, Idle, Progressed, WellFormed
from msgspec import Meta

from agentgym.core import Capabilities, Limits, Scene, StopReason, Task, TaskSet, Verifier
from agentgym.errors import EnvironmentFault, UnknownName
from agentgym.messages import Tool, call, parse_action, short_call, tool
from agentgym.rewards import Spec, delta, outcome, standard, step
from agentgym.verdict import Json
from agentgym_gui import DESK, PER_TEMPLATE
from agentgym_gui.desk import sheets
from agentgym_gui.desk.goal import Final, Live, Reached, Settled, as_text, collected, parts
from agentgym_gui.desk.tasks import TEMPLATES, Bench, changing, goal, horizon
from agentgym_gui.desktop import PLACE
from agentgym_gui.env import IN_PIXELS, ON_ELEMENTS, TYPE, GuiEnv
from agentgym_gui.picture import card

HORIZONS = {"short": 15, "medium": 30, "long": 70}
"""The most turns of each."""
DANGEROUS = ("delete", "discard", "don't save", "close without saving", "overwrite", "replace")
PROGRAMS = {"gnumeric": ["gnumeric", "--no-splash"], "form": ["/usr/bin/python3", f"{PLACE}/form.py"]}


@cache
def tasks_of(split: str, kinds: tuple[str, ...] = ()) -> TaskSet:
    """All templates, or those of some kinds, horizons or names, each with seeds of its own: number n of every template, then number n + 1."""
    known = [*TEMPLATES, *dict.fromkeys(kind for kind, _ in TEMPLATES.values()), *HORIZONS]
    for kind in kinds:
        if kind not in known:
            raise UnknownName("template, kind or horizon of gui/desk", kind, known)
    names = [name for name, (kind, _) in TEMPLATES.items() if not kinds or {name, kind, *([horizon_of(name)] if {*kinds} & {*HORIZONS} else [])} & {*kinds}]
    return TaskSet([f"{name}.{split}.{n}" for n in range(PER_TEMPLATE[split]) for name in names], task)


@cache
def horizon_of(name: str) -> str:
    """How long a template's way is."""
    return horizon(TEMPLATES[name][1](Bench(f"gui/desk/{name}.train.0")).way)


def task(task_id: str) -> Task:
    """The task of an id."""
    name, split, _ = task_id.rsplit(".", 2)
    draft = TEMPLATES[name][1](Bench(f"gui/desk/{task_id}"))
    data: dict[str, Json] = {
        "files": draft.files, "pictures": draft.pictures, "opens": draft.opens, "way": draft.way, "goal": goal(draft), "changing": changing(draft)
    }  # fmt: skip
    return Task(task_id, draft.asks, split, data, Limits(max_turns=HORIZONS[horizon(draft.way)], max_malformed=5), name)


class DeskEnv(Critiqued, GuiEnv):
    """Office work: a text editor, a file manager, a calculator, a spreadsheet, a terminal, an image viewer and a form.

    Option ``kinds`` plays some kinds (editor files calculator sheet form terminal pictures across), horizons (short medium long) or templates
    only.
    """

    id = "gui/desk-v0"
    capabilities: ClassVar[Capabilities] = DESK.capabilities
    verifiers: ClassVar[Mapping[str, Verifier]] = {
        "form": WellFormed(), "aimed": Aimed(), "live": Live(), "progressed": Progressed(), "idle": Idle(), "reached": Reached(), "task": Settled()
    }  # fmt: skip
    rewards: ClassVar[Mapping[str, Spec]] = standard(
        outcome("task"),
        0.01 * step("form") + 0.01 * step("aimed") + 0.01 * step("live") + 0.01 * step("progressed") - 0.01 * step("idle") + 0.2 * delta(step("reached")),
        step("reached"),
    )
    guide = (
        "You use a desktop through short actions, one a turn: click_at 300 200, double_click_at 300 200, right_click_at 300 200, drag_at 10 10 200 200, "
        "scroll_at 300 200 5, type some text, key ctrl+s, wait 1; where elements are listed, their numbers work too: click 12, double_click 12, "
        "right_click 12, drag 12 15, scroll 12 5. A click on the bare background opens a menu of programs. Files are in /home/agent. When all is "
        "done: done, or answer followed by what was asked for; if it cannot be done: fail followed by why."
    )

    def __init__(self, *, kinds: str | Iterable[str] = (), **base: Any) -> None:
        self._kinds = (kinds,) if isinstance(kinds, str) else tuple(kinds)
        self._over: StopReason | None = None
        super().__init__(**base)

    def tasks(self, split: str) -> TaskSet:
        """The tasks of a split."""
        return tasks_of(split, self._kinds)

    # Ends

    def done(self) -> str:
        """End the task: all is done."""
        self._over = StopReason.SUBMITTED
        return "done"

    def answer(self, text: Annotated[str, Meta(max_length=500)]) -> str:
        """End the task with what was asked for."""
        return self.done()

    def fail(self, why: Annotated[str, Meta(max_length=500)]) -> str:
        """End the task: it cannot be done, and why."""
        self._over = StopReason.REFUSED
        return "done"

    tools: Mapping[str, Tool] = {**ON_ELEMENTS, **IN_PIXELS, **TYPE, "done": tool(done), "answer": tool(answer), "fail": tool(fail)}

    # The template's own

    def _begin(self, task: Task) -> Scene:
        self._over, self._missed = None, 0
        desktop, data = self._lease(), task.data
        self._binary = {p: card(lines) for p, lines in data["pictures"].items()}
        self._binary |= {p: sheets.gnumeric(f["sheet"]) for p, f in data["files"].items() if "sheet" in f}
        desktop.write({**self._binary, **{p: self._bytes(f) for p, f in data["files"].items() if "sheet" not in f}})
        for program, *arguments in data["opens"]:
            seen = desktop.ask("open", argv=[*PROGRAMS.get(program, [program]), *arguments])
            if seen["problem"]:
                raise EnvironmentFault(seen["problem"])
        desktop.ask("look", tree=self._with_tree)
        return self._scene([], first=True)

    @staticmethod
    def _bytes(given: Any) -> bytes:
        return (json.dumps(given["record"], indent=1) if isinstance(given, dict) else str(given)).encode()

    def _ended(self) -> StopReason | None:
        return self._over

    def _world(self) -> Json:
        self._found = self._desk()
        return [self._found.files, self._found.settings, self._over]

    def _desk(self) -> Final:
        """The visible files, and the settings that the task is about: programs write others whenever they like."""
        final = collected(self.desktop.files())
        as_before = {as_text(data): f"as:{path}" for path, data in self._binary.items()}
        asked = {name: value for name, value in final.settings.items() if name in self.task.data["goal"]["settings"]}
        return msgspec.structs.replace(final, files={p: as_before.get(text, text) for p, text in final.files.items()}, settings=asked)

    def _facts(self) -> dict[str, Json]:
        changing, told = self.task.data["changing"], parts(self.task.data["goal"], self._found, None, None)
        return {"reached": sum(told.get(name, False) for name in changing) / len(changing) if changing else 0.0}

    def _artefacts(self) -> Mapping[str, bytes]:
        wanted = self.task.data["goal"]["files"]
        binary = {p: e.data for p, e in self.desktop.files().items() if e.type == "f" and "cells" in wanted.get(p, {})}
        programs = {w["pid"]: w["program"] for w in self.desktop.seen["windows"]}
        tree = [{**r, "program": programs.get(r["pid"], "")} for r in self.desktop.peek()] if self.task.data["goal"]["shows"] else []
        try:
            cells = sheets.converted(binary, self.desktop.sandbox.kind)
        except Exception as error:
            raise EnvironmentFault(f"the spreadsheets could not be read: {error}") from None
        final = msgspec.structs.replace(self._desk(), cells=cells, tree=tree)
        return {"final.json": msgspec.json.encode(final, order="deterministic")}

    def consequences(self, action: str) -> Mapping[str, Json]:
        """``{"irreversible": "delete"}`` where something would be lost for good, by the keys or by the name of what would be clicked."""
        parsed = parse_action(action)
        for each in parsed.calls or ([short_call(self.tools, parsed.prose)] if parsed.prose else []):
            keys = str(each.arguments.get("keys", "")).casefold().replace(" ", "")
            if keys in ("shift+delete", "shift+del"):
                return {"irreversible": "delete"}
            name = self._aimed_at(each.name, each.arguments).casefold().replace("_", "")
            if any(word in name for word in DANGEROUS):
                return {"irreversible": "delete"}
        return {}

    def _aimed_at(self, name: str, given: Mapping[str, Any]) -> str:
        try:
            if name == "click" and self._with_tree:
                return next((str(r["name"]) for r in self._rows() if r["id"] == int(given["element"])), "")
            if name != "click_at":
                return ""
            x, y = int(given["x"]), int(given["y"])
        except (KeyError, ValueError, TypeError):
            return ""
        rows = self._rows() or self.desktop.peek()
        under = [r for r in rows if r["box"][0] <= x < r["box"][0] + r["box"][2] and r["box"][1] <= y < r["box"][1] + r["box"][3]]
        return str(min(under, key=lambda r: r["box"][2] * r["box"][3])["name"]) if under else ""

    # Snapshots: what was done is done again, every screen is compared, and files are put back where they differ

    def _save(self) -> bytes:
        return msgspec.msgpack.encode([(p, e.data) for p, e in self.desktop.files().items() if e.type == "f" and not p.startswith(".")])

    def _load(self, payload: bytes) -> None:
        turns, self.episode.turns = self.episode.turns, []
        self._begin(self.task)
        for turn in turns:
            self.episode.turns.append(turn)
            parsed = parse_action(turn.action)
            scene = self._advance(parsed) if turn.problem is None else self._objection(turn.problem)
            if turn.problem is None and scene.facts.get("screen") != turn.facts.get("screen"):
                raise EnvironmentFault(f"the replay of {self.task.id} diverged at turn {len(self.episode.turns)}: the screen is another one")
        here = {p: e.data for p, e in self.desktop.files().items() if e.type == "f"}
        if differs := {p: data for p, data in msgspec.msgpack.decode(payload) if here.get(p) != data}:
            self.desktop.write(differs)

    # The oracle

    def oracle(self) -> Iterator[str]:
        """The way of the template, from as many actions on as were done."""
        self._require_running()
        return self._way(len(self.episode.turns))

    def _way(self, begun: int) -> Iterator[str]:
        way: Any = self.task.data["way"]
        for verb, *given in way[begun:]:
            if verb in ("click", "double", "right"):
                x, y = self._find(*given)
                yield call({"click": "click_at", "double": "double_click_at", "right": "right_click_at"}[verb], x=x, y=y)
            elif verb == "drag":
                (x, y), (to_x, to_y) = self._find(*given[:2]), self._find(*given[2:])
                yield call("drag_at", x=x, y=y, to_x=to_x, to_y=to_y)
            else:
                names = self.tools[verb].names
                yield call(verb, **dict(zip(names, given, strict=False)))

    def _find(self, role: str, name: str, nth: int = 0) -> tuple[int, int]:
        """The middle of the widget of a role and a name that nothing covers."""
        rows, kept = [r for r in self.desktop.peek() if _called(r, role, name)], self.desktop.seen
        front = next((w["pid"] for w in kept["windows"] if w["id"] == kept["active"]), 0)
        for row in sorted(rows, key=lambda r: r["pid"] != front)[nth:]:
            x, y = row["box"][0] + row["box"][2] // 2, row["box"][1] + row["box"][3] // 2
            above = self._window_at(x, y)
            inside = any(b[0] <= x < b[0] + b[2] and b[1] <= y < b[1] + b[3] for b in kept["menus"])
            if inside or (above is not None and row["window"] in (0, above["id"])):
                return x, y
        raise EnvironmentFault(f"the oracle finds no {role} {name!r}")


def _called(row: Mapping[str, Any], role: str, name: str) -> bool:
    """Whether a widget has a role and a name, whatever is at the end of the name and whatever can be ticked."""
    if name == "=cell":  # the box of a spreadsheet that says which cell is chosen
        return str(row["role"]) == role and re.fullmatch(r"[A-Z]+\d+(:[A-Z]+\d+)?|\d+R x \d+C", str(row["text"])) is not None
    return (str(row["role"]) == role or (role == "menuitem" and str(row["role"]).endswith("menuitem"))) and str(row["name"]).strip().rstrip("….") == name
