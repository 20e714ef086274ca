"""``gui/ground-v0``: one step of grounding. A screen of a real program, an instruction, and a point or a box for an answer."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Literal

import msgspec
import numpy as np
from agentgym_verifiers.rules import Aimed, Boxes, WellFormed
from msgspec import Struct

from agentgym.core import Action, Capabilities, EpisodeView, Limits, Message, Scene, StopReason, Task, TaskSet, Verdict, Verifier
from agentgym.errors import EnvironmentFault, ToolError, UsageError
from agentgym.messages import Tool, answer, call, tool
from agentgym.rewards import Spec, gate, outcome, standard, step
from agentgym.verdict import Json
from agentgym_gui import GROUND, GROUND_PLACES
from agentgym_gui.desktop import PLACE, lease
from agentgym_gui.env import GuiEnv, Pixel

SCENES_FILE = Path(__file__).with_name("scenes.json")
"""Of each scene the widgets that can be asked for, as ``[role, name]``. Made by ``python -m agentgym_gui.ground``."""
PLACES = [(40, 30), (160, 60), (90, 130), (10, 10), (220, 100), (60, 180)]
"""Where the window is: the first four for training, one for ``dev``, one for ``test``."""
FORM = {
    "title": "Registration",
    "path": "r.json",
    "fields": [["Name", "entry", []], ["Street", "entry", []], ["Class", "choice", ["Gold", "Silver", "Bronze"]], ["Newsletter", "check", []]],
}
FILES = {
    "letter.txt": b"Dear all,\n\nthe meeting is at noon.\n", "Papers/plan.md": b"# Plan\n", "Music/list.m3u": b"1\n", "budget.csv": b"a,1\n",
    "notes.txt": b"n\n",    "old.tmp": b"", "report.html": b"<p>r</p>",
}  # fmt: skip
OPENS: dict[str, list[str]] = {
    "editor": ["mousepad", "letter.txt"], "files": ["thunar", "/home/agent"], "calculator": ["galculator"], "sheet": ["gnumeric", "--no-splash"],
    "terminal": ["lxterminal"], "pictures": ["ristretto"], "form": ["/usr/bin/python3", f"{PLACE}/form.py", json.dumps(FORM)],
}  # fmt: skip
SCENES: dict[str, tuple[str, tuple[str, ...]]] = {
    **{program: (program, ()) for program in OPENS},
    "editor-file-menu": ("editor", ("alt+f",)), "editor-edit-menu": ("editor", ("alt+e",)), "editor-view-menu": ("editor", ("alt+v",)),
    "editor-replace": ("editor", ("ctrl+r",)), "files-file-menu": ("files", ("alt+f",)), "files-view-menu": ("files", ("alt+v",)),
    "files-go-menu": ("files", ("alt+g",)), "calculator-view-menu": ("calculator", ("alt+v",)), "sheet-file-menu": ("sheet", ("alt+f",)),
    "sheet-insert-menu": ("sheet", ("alt+i",)), "sheet-data-menu": ("sheet", ("alt+d",)), "terminal-edit-menu": ("terminal", ("alt+e",)),
    "pictures-view-menu": ("pictures", ("alt+v",)),
}  # fmt: skip
"""By name: the program, and the keys that are pressed in it."""
HELD_OUT = ("files-go-menu", "sheet-data-menu", "pictures-view-menu", "editor-replace")
"""Scenes that only ``test`` has."""
KINDS = {
    "button": "button", "toggle": "button", "menu": "menu", "menuitem": "entry of the menu", "checkmenuitem": "entry of the menu",
    "radiomenuitem": "entry of the menu", "checkbox": "box to tick", "radio": "choice", "textbox": "field", "tab": "tab",
    "columnheader": "heading of the column",
    "cell": "entry of the list",
}  # fmt: skip
FAIR = 0.2
"""A box must have at least this share of the target's area, and the target this share of the box's."""
Numbers = list[float]


def pointed(view: EpisodeView) -> tuple[Numbers | None, Numbers | None]:
    """What was answered (``x, y`` or ``x1, y1, x2, y2``), and the target's box as two corners."""
    facts: Any = view.episode.turns[-1].facts if view.episode.turns else {}
    return facts.get("answer"), facts.get("target")


class Hit(Struct, frozen=True):
    """1 if the point, or the middle of the box, is in the target, and the box is neither far larger nor far smaller; else 0."""

    level: ClassVar[Literal["outcome"]] = "outcome"

    def __call__(self, view: EpisodeView) -> Verdict:
        said, target = pointed(view)
        if said is None or target is None:
            return Verdict.scored(0.0, answered=False)
        x, y = (said[0], said[1]) if len(said) == 2 else ((said[0] + said[2]) / 2, (said[1] + said[3]) / 2)
        inside = target[0] <= x < target[2] and target[1] <= y < target[3]
        fair = len(said) == 2 or Boxes(form="hit").similarity(said, target) >= FAIR
        return Verdict.scored(float(inside and fair), inside=inside, fair=fair)


class Quality(Struct, frozen=True):
    """A step verdict: how good a box is: its middle in the target, times the ratio of the smaller area to the larger. A point is worth 1 if it hits."""

    level: ClassVar[Literal["step"]] = "step"

    def __call__(self, view: EpisodeView) -> Verdict:
        said, target = pointed(view)
        if said is None or target is None:
            return Verdict.scored(0.0)
        if len(said) == 2:
            return Verdict.scored(float(Hit()(view).value or 0.0))
        return Verdict.scored(Boxes(form="hit").similarity(said, target), overlap=Boxes().similarity(said, target))


class Difficulty(Struct, frozen=True):
    """A step verdict on an answer: from 1/2 for a target of a fifth of the screen's width and height up to 1 for a tiny one.

    Source of the idea: "GUI-G1: Understanding R1-Zero-Like Training for Visual Grounding in GUI Agents"; the form is ours.
    """

    level: ClassVar[Literal["step"]] = "step"

    def __call__(self, view: EpisodeView) -> Verdict:
        said, target = pointed(view)
        if said is None or target is None:
            return Verdict.scored(0.0)
        width, height = view.task.data["size"]
        share = math.sqrt((target[2] - target[0]) * (target[3] - target[1]) / (width * height))
        return Verdict.scored(1.0 - 0.5 * min(1.0, share / 0.2))


@cache
def widgets() -> dict[str, list[tuple[str, str]]]:
    """The widgets of each scene."""
    return {scene: [(role, name) for role, name in rows] for scene, rows in json.loads(SCENES_FILE.read_text()).items()}


@cache
def tasks_of(split: str, size: tuple[int, int]) -> TaskSet:
    """Every widget of every scene of a split, in each place of the window."""
    ids = [
        f"{scene}.{n}.{place}.{split}"
        for place in GROUND_PLACES[split]
        for scene, rows in widgets().items()
        if split == "test" or scene not in HELD_OUT
        for n in range(len(rows))
    ]
    return TaskSet(ids, lambda task_id: _task(task_id, size))


def _task(task_id: str, size: tuple[int, int]) -> Task:
    scene, n, place, split = task_id.rsplit(".", 3)
    role, name = widgets()[scene][int(n)]
    data: dict[str, Json] = {"scene": scene, "place": int(place), "role": role, "name": name, "size": list(size)}
    return Task(task_id, f"Where is the {KINDS[role]} {name!r}?", split, data, Limits(max_turns=3, max_malformed=3, max_calls=1), SCENES[scene][0])


_drawn: dict[tuple[str, int, tuple[int, int]], tuple[np.ndarray, dict[tuple[str, str], list[int]]]] = {}


def drawn(scene: str, place: int, size: tuple[int, int], sandbox: str | None) -> tuple[np.ndarray, dict[tuple[str, str], list[int]]]:
    """The screen of a scene, and the boxes of its widgets that have a name of their own; drawn once, on a desktop, and kept."""
    key = scene, place, size
    if key not in _drawn:
        program, keys = SCENES[scene]
        desktop = lease(sandbox, size, 0)
        try:
            desktop.write(FILES)
            desktop.ask("open", argv=OPENS[program])
            desktop.ask("act", do=[["place", *PLACES[place]], *(["key", k] for k in keys), ["wait", 0.3]])
            seen = desktop.ask("look", tree=True)
            _drawn[key] = desktop.frame.copy(), boxes_of(seen, size)
        finally:
            desktop.close()
    return _drawn[key]


def boxes_of(seen: Mapping[str, Any], size: tuple[int, int]) -> dict[tuple[str, str], list[int]]:
    """The widgets in sight that can be told by their role and name, with their boxes. What an open menu covers is not in sight."""
    found: dict[tuple[str, str], list[list[int]]] = {}
    for row in seen["tree"]:
        x, y, w, h = row["box"]
        cx, cy = x + w // 2, y + h // 2
        covered = any(m[0] <= cx < m[0] + m[2] and m[1] <= cy < m[1] + m[3] for m in seen["menus"]) and not row["role"].endswith("menuitem")
        name = row["name"].strip().rstrip("….")
        if row["role"] in KINDS and 1 < len(name) <= 40 and not covered and 0 <= cx < size[0] and 0 <= cy < size[1] and h < 120:
            found.setdefault((row["role"], name), []).append(row["box"])
    return {key: boxes[0] for key, boxes in found.items() if len(boxes) == 1}


class GroundEnv(GuiEnv):
    """Point at a widget on the screen of a real program: ``point 300 200``, or ``box 280 190 340 210``."""

    id = "gui/ground-v0"
    capabilities: ClassVar[Capabilities] = GROUND.capabilities
    verifiers: ClassVar[Mapping[str, Verifier]] = {
        "form": WellFormed(), "aimed": Aimed(), "quality": Quality(), "difficulty": Difficulty(), "task": Hit()
    }  # fmt: skip
    rewards: ClassVar[Mapping[str, Spec]] = {
        **standard(outcome("task"), 0.02 * step("form") + 0.02 * step("aimed"), step("aimed")),
        "quality": step("quality"), "scaled": gate(step("difficulty"), by=outcome("task")),
    }  # fmt: skip
    guide = "You see a screen. Answer with the place that is asked for: point X Y, or box LEFT TOP RIGHT BOTTOM, in pixels from the upper left corner."

    def __init__(self, *, size: str = "1024x768", sandbox: str | None = None, **base: Any) -> None:
        super().__init__(size=size, sandbox=sandbox, tree=False, **base)
        if self.size[0] < 1000 or self.size[1] < 750:
            raise UsageError(f"the scenes need a screen of at least 1000x750, not {size}")
        self._answer: Numbers | None = None
        self._target: list[int] = []

    def tasks(self, split: str) -> TaskSet:
        """The tasks of a split."""
        return tasks_of(split, self.size)

    def point(self, x: Pixel, y: Pixel) -> str:
        """Answer with a point, in pixels."""
        return self._answered([x, y])

    def box(self, left: Pixel, top: Pixel, right: Pixel, bottom: Pixel) -> str:
        """Answer with a box, by its edges in pixels."""
        if left > right or top > bottom:
            raise ToolError("a box has its left and top edge first")
        return self._answered([left, top, right, bottom])

    def _answered(self, numbers: Sequence[int]) -> str:
        if any(n > self.size[i % 2] for i, n in enumerate(numbers)):
            raise ToolError(f"that is outside of the screen, which is {self.size[0]}x{self.size[1]}")
        self._answer = [float(n) for n in numbers]
        return "done"

    tools: Mapping[str, Tool] = {"point": tool(point), "box": tool(box)}

    def _begin(self, task: Task) -> Scene:
        data = task.data
        self._frame, found = drawn(data["scene"], data["place"], self.size, self._sandbox)
        box = found.get((data["role"], data["name"]))
        if box is None:
            raise EnvironmentFault(f"the screen {data['scene']} has no {data['role']} {data['name']!r} here: python -m agentgym_gui.ground")
        x, y, width, height = box
        self._target, self._answer = [x, y, x + width, y + height], None
        return self._shot([{"role": "system", "content": self.guide}, {"role": "user", "content": task.instruction}], [])

    def _advance(self, action: Action) -> Scene:
        done = answer(self.tools, self, action, len(self.episode.turns) - 1, lambda: self._answer is not None, hint="say point X Y", short=True)
        return self._shot(done.messages, done.states, done.malformed)

    def _shot(self, messages: list[Message], states: list[str], malformed: bool = False) -> Scene:
        end = StopReason.SUBMITTED if self._answer is not None else None
        facts: dict[str, Json] = {"calls": list(states), "answer": self._answer, "target": self._target, "moved": end is not None}
        state = json.dumps([self.task.id, self._answer])
        return Scene(messages, state, self.task.instruction, end, malformed, facts, self._frame if self._painted else None)

    def oracle(self) -> Iterator[str]:
        """The middle of the target."""
        self._require_running()
        x1, y1, x2, y2 = self._target
        return iter([call("point", x=(x1 + x2) // 2, y=(y1 + y2) // 2)])

    def _save(self) -> bytes:
        return msgspec.json.encode(self._answer)

    def _load(self, payload: bytes) -> None:
        self._begin(self.task)
        self._answer = msgspec.json.decode(payload)


def survey(sandbox: str) -> dict[str, list[list[str]]]:
    """The widgets of every scene that are in sight in every place of the window."""
    told = {}
    for scene in SCENES:
        everywhere = [set(drawn(scene, place, (1024, 768), sandbox)[1]) for place in range(len(PLACES))]
        told[scene] = [list(key) for key in sorted(set.intersection(*everywhere))]
        print(f"{scene}: {len(told[scene])}", flush=True)
    return told


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Look at every scene, and write which widgets can be asked for.")
    parser.add_argument("--sandbox", default="bwrap")
    SCENES_FILE.write_text(json.dumps(survey(parser.parse_args().sandbox), indent=1, ensure_ascii=False) + "\n")
