"""``text/science-v0``: ScienceWorld, its simulator asked for no more than a turn needs. It wants a Java runtime."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, ClassVar

import msgspec
from agentgym_verifiers.rules import Noted

from agentgym.core import Capabilities, Limits, StopReason, Task, TaskSet, Verifier
from agentgym.errors import CapabilityError, EnvironmentFault, MissingExtra, UnknownName
from agentgym.rewards import Spec, delta, outcome, standard, step
from agentgym_text import SCIENCE_TASKS, SPLITS
from agentgym_text.base import End, LineEnv, Said
from agentgym_text.jvm import JAVA, Laboratory, laboratory, release

SIMPLER = ("teleportAction", "selfWateringFlowerPots", "openContainers", "openDoors", "noElectricalAction", "easy")
UNKNOWN = "No known action matches that input."


class ScienceEnv(LineEnv):
    """A laboratory. Options: ``kinds`` (one or several tasks of ScienceWorld), ``simpler`` (its simplifications, as ``easy``)."""

    id = "text/science-v0"
    capabilities = Capabilities(snapshot=True, blocking=True)
    system = (
        "You are in a simulated laboratory. Answer with one command, such as: look around, open cupboard, go to kitchen, pick up thermometer,"
        " focus on water, use thermometer on water, move pot to stove, activate stove, inventory, task."
    )
    verifiers: ClassVar[Mapping[str, Verifier]] = {"understood": Noted(fact="understood"), "progress": Noted(fact="progress", kept=True), "score": End()}
    rewards: ClassVar[Mapping[str, Spec]] = standard(outcome("score"), 0.01 * step("understood") + 0.2 * delta(step("progress")), step("progress"))

    def __init__(self, *, kinds: str | Iterable[str] = (), simpler: str | Iterable[str] = (), **base: Any) -> None:
        self._kinds = (kinds,) if isinstance(kinds, str) else tuple(kinds) or tuple(SCIENCE_TASKS)
        self._simpler = (simpler,) if isinstance(simpler, str) else tuple(simpler)
        for kind in self._kinds:
            if kind not in SCIENCE_TASKS:
                raise UnknownName("kind of task", kind, SCIENCE_TASKS)
        for each in self._simpler:
            if each not in SIMPLER:
                raise UnknownName("simplification", each, SIMPLER)
        self._lab: Laboratory | None = None
        super().__init__(**base)
        if shutil.which("java") is None:
            raise MissingExtra("a Java runtime", JAVA)

    def tasks(self, split: str) -> TaskSet:
        """ScienceWorld's own variations of the split, the kinds in turn."""
        return TaskSet(_ids(split, self._kinds), lambda name: _task(split, name, self._simpler))

    def _open(self, task: Task) -> Said:
        kind, variation, simpler = (task.data[k] for k in ("kind", "variation", "simpler"))
        self._asked(lambda lab: lab.load(kind, variation, simpler))
        self._score, self._moves = 0.0, 0
        told, look = self._asked(lambda lab: lab.call("freeActionTaskDesc")), self._asked(lambda lab: lab.call("freeActionLook"))
        return Said(f"{told.strip()}\n\n{look.strip()}", look.strip(), facts=self._noted(True))

    def _say(self, line: str) -> Said:
        if not line:
            return Said("error: write a command", malformed=True, facts=self._noted(False))

        def stepped(lab: Laboratory) -> tuple[str, float, bool]:
            return lab.call("step", line), lab.call("getScore"), lab.call("getCompleted")

        text, self._score, over = self._asked(stepped)
        self._moves += 1
        end = StopReason.DONE if over or self._score < 0 else None
        return Said(text.strip(), "", end, facts=self._noted(not text.startswith(UNKNOWN)))

    def _asked(self, question: Callable[[Laboratory], Any]) -> Any:
        """What the simulator answers. A Java process that has died is a fault; another is started for the next episode."""
        try:
            if self._lab is None:
                self._lab = laboratory()
            return question(self._lab)
        except MissingExtra:
            raise
        except Exception as error:
            self._lab = None
            raise EnvironmentFault(f"the simulator of ScienceWorld failed: {type(error).__name__}: {str(error)[:300]}") from error

    def _noted(self, understood: bool) -> dict[str, Any]:
        return {"understood": float(understood), "progress": max(0.0, self._score), "moves": self._moves}

    def goals(self) -> list[tuple[str, bool]]:
        """The sub-goals that the score is made of, and which of them are reached: hidden from the player."""
        rows = [line.split("\t") for line in self._asked(lambda lab: lab.call("getGoalProgressStr")).splitlines()]
        return [(r[3].strip() or r[2].strip(), r[1] == "true") for r in rows if len(r) >= 4]

    def choices(self) -> Sequence[str]:
        """Every action that is possible now: what the simulator takes longest for, so only when somebody asks."""
        return tuple(self._asked(Laboratory.possible))

    def _artefacts(self) -> Mapping[str, bytes]:
        goals = dict(self.goals()) if self._lab is not None else {}
        told = {"value": max(0.0, float(self._score)), "raw": float(self._score), "moves": self._moves, "goals": goals}
        return {"end.json": msgspec.json.encode(told)}

    def oracle(self) -> Iterator[str]:
        """The simulator's own solution from the start."""
        self._require_running()
        if self._lines:
            raise CapabilityError("the simulator's solution begins at the start")
        lines = gold(*(self.task.data[k] for k in ("kind", "variation", "simpler")))
        if not lines:
            raise CapabilityError(f"the simulator has no solution of {self.task.id}")
        return iter(lines)

    def close(self) -> None:
        """Let the simulator go; idempotent."""
        if self._lab is not None:
            release(self._lab)
            self._lab = None
        super().close()


@lru_cache(maxsize=1024)
def gold(kind: str, variation: int, simpler: str) -> tuple[str, ...]:
    """The simulator's solution of a task, played to see that it is one; nothing if it is none."""
    lab = laboratory()
    try:
        lab.load(kind, variation, simpler, solve=True)
        lines, made = lab.solution(), list[str]()
        lab.load(kind, variation, simpler)
        for line in lines:
            lab.call("step", line)
            made.append(line)
            if lab.call("getCompleted"):
                return tuple(made) if lab.call("getScore") >= 1 else ()
        return ()
    finally:
        release(lab)


@lru_cache(maxsize=64)
def _ids(split: str, kinds: tuple[str, ...]) -> tuple[str, ...]:
    """The variations of the kinds, in turn."""
    of = SPLITS.index(split)
    most = max(SCIENCE_TASKS[k][of] for k in kinds)
    return tuple(f"{split}/{kind}-{i:03d}" for i in range(most) for kind in kinds if i < SCIENCE_TASKS[kind][of])


def _task(split: str, name: str, simpler: Sequence[str]) -> Task:
    kind, _, number = name.partition("/")[2].rpartition("-")
    first = sum(SCIENCE_TASKS[kind][: SPLITS.index(split)])
    data = {"kind": kind, "variation": first + int(number), "simpler": ",".join(simpler)}
    said = f"Do the experiment that the laboratory asks for: {kind.replace('-', ' ')}."
    return Task(name, said, split, data, Limits(max_turns=150), kind=kind)
