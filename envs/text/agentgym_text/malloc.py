"""``text/malloc-v0``: memory mapping as a game of one player. After "Optimizing Memory Mapping Using Deep Reinforcement Learning".

The buffers of a program come one after another; each is put at an offset of a small fast memory for its whole life, or left in the slow one. What
a mapping saves is a sum, so the cost model is exact, and a mapping in which two buffers share memory at one time is worth nothing.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal

import msgspec
from agentgym_verifiers.rules import Noted
from msgspec import Struct

from agentgym.core import Capabilities, EpisodeView, Limits, StopReason, Task, TaskSet, Verdict, Verifier
from agentgym.errors import UsageError
from agentgym.rewards import Spec, delta, outcome, standard, step
from agentgym_text.base import LineEnv, Said

COUNT = {"train": 2000, "dev": 200, "test": 200}
KINDS = (8, 16, 32, 64)
"""Buffers that fill the fast memory; as many again, or half as many, do not fit beside them."""
MEMORY, TIME = 16, 32
BEST, WORST = 4, (1, 2, 3)
"""What a unit of memory saves in a unit of time, of the buffers that fill the memory and of the others."""


class Buffer(Struct, frozen=True, array_like=True):
    """``size`` units of memory from time ``start`` up to ``end``; what it ``saves`` in the fast memory; where it lies in the best mapping, or -1."""

    size: int
    start: int
    end: int
    saves: int
    place: int = -1


def clash(buffers: Sequence[Buffer], places: Sequence[int]) -> str:
    """Why a mapping is infeasible; empty if it is not. A place of -1 is the slow memory."""
    put = [(b, at) for b, at in zip(buffers, places, strict=False) if at >= 0]
    for i, (b, at) in enumerate(put):
        if at + b.size > MEMORY:
            return f"{b.size} units at {at} end beyond {MEMORY}"
        for c, other in put[:i]:
            if b.start < c.end and c.start < b.end and at < other + c.size and other < at + b.size:
                return f"{at} to {at + b.size} overlaps {other} to {other + c.size}, which is in use at the same time"
    return ""


class Mapped(Struct, frozen=True):
    """The cost model: what the mapping saves, of what the best saves; 0 if it is infeasible or was not finished."""

    level: ClassVar[Literal["outcome"]] = "outcome"

    def __call__(self, view: EpisodeView) -> Verdict:
        buffers = msgspec.convert(view.task.data["buffers"], list[Buffer])
        places = msgspec.json.decode(view.artefacts["mapping.json"], type=list[int])
        wrong, saved = clash(buffers, places), sum(b.saves for b, at in zip(buffers, places, strict=False) if at >= 0)
        ended = len(places) == len(buffers) and not wrong
        return Verdict.scored(saved / _best(buffers) if ended else 0.0, saved=saved, mapped=len(places), of=len(buffers), wrong=wrong)


class MallocEnv(LineEnv):
    """Commands: ``at N``, or ``slow``. ``buffers``: how many fill the fast memory (default: 8 to 64, by the task).

    The best mapping fills the fast memory at all times with what saves most, so that nothing can save more.
    """

    id = "text/malloc-v0"
    capabilities = Capabilities(snapshot=True)
    verifiers: ClassVar[Mapping[str, Verifier]] = {"saved": Noted(fact="saved", kept=True), "result": Mapped()}
    rewards: ClassVar[Mapping[str, Spec]] = standard(outcome("result"), delta(step("saved")), step("saved"))

    def __init__(self, *, buffers: int = 0, **base: Any) -> None:
        if buffers and not 2 <= buffers <= 128:
            raise UsageError(f"2 to 128 buffers can fill the memory, not {buffers}")
        self._n = buffers
        super().__init__(**base)

    def tasks(self, split: str) -> TaskSet:
        """Programs drawn by number; they grow in turn."""
        return TaskSet([f"{split}/{i:04d}" for i in range(COUNT[split])], lambda name: _task(name, split, self._n))

    def _open(self, task: Task) -> Said:
        self._buffers = msgspec.convert(task.data["buffers"], list[Buffer])
        self._places: list[int] = []
        return Said(f"{task.instruction}\n{self._next()}", self._next())

    def _say(self, line: str) -> Said:
        word, _, number = line.partition(" ")
        known = line == "slow" or (word == "at" and number.isdecimal() and len(number) < 4)
        if not known:
            return Said(f"error: answer 'at N' or 'slow'\n{self._next()}", self._next(), malformed=True)
        self._places.append(-1 if line == "slow" else int(number))
        if wrong := clash(self._buffers, self._places):
            return Said(f"infeasible: {wrong}", end=StopReason.DONE, facts={"saved": 0.0})
        saved = sum(b.saves for b, at in zip(self._buffers, self._places, strict=False) if at >= 0)
        ended = len(self._places) == len(self._buffers)
        text = f"all are mapped; {saved} saved" if ended else self._next()
        return Said(text, text, StopReason.DONE if ended else None, facts={"saved": saved / _best(self._buffers)})

    def _next(self) -> str:
        """The buffer to map, and where it can lie."""
        free = ",".join(map(str, self._free())) or "none"
        return f"buffer {_told(len(self._places), self._buffers[len(self._places)])}; free: {free}"

    def _free(self) -> list[int]:
        b = self._buffers[len(self._places)]
        taken = 0
        for c, at in zip(self._buffers, self._places, strict=False):
            if at >= 0 and b.start < c.end and c.start < b.end:
                taken |= ((1 << c.size) - 1) << at
        mine = (1 << b.size) - 1
        return [at for at in range(MEMORY - b.size + 1) if not taken & (mine << at)]

    def _artefacts(self) -> Mapping[str, bytes]:
        return {"mapping.json": msgspec.json.encode(self._places)}

    def choices(self) -> Sequence[str]:
        """Every free offset, and the slow memory."""
        return ["slow", *(f"at {at}" for at in self._free())] if self._status == "running" else ()

    def oracle(self) -> Iterator[str]:
        """The best mapping, by which the program was made; what another mapping so far has no room for goes to the slow memory."""
        self._require_running()
        places = list(self._places)
        for b in self._buffers[len(places) :]:
            places.append(b.place)
            if clash(self._buffers, places):
                places[-1] = -1
        return iter([f"at {at}" if at >= 0 else "slow" for at in places[len(self._places) :]])

    def player(self) -> Iterator[str]:
        """The lowest free offset, whatever it saves."""
        self._require_running()
        while self._status == "running":
            free = self._free()
            yield f"at {free[0]}" if free else "slow"


def _told(i: int, b: Buffer) -> str:
    return f"{i + 1}: {b.size} units, {b.start} to {b.end}, saves {b.saves}"


def _best(buffers: Sequence[Buffer]) -> int:
    return sum(b.saves for b in buffers if b.place >= 0)


def _task(name: str, split: str, n: int) -> Task:
    size = n or KINDS[int(name.rpartition("/")[2]) % len(KINDS)]
    dice = random.Random(f"malloc/{name}/{size}")
    filling = _cut(dice, size)
    others = [_drawn(dice) for _ in range(size // 2)]
    buffers = sorted([*filling, *others], key=lambda b: (b.start, dice.random()))
    said = (
        f"A program has {len(buffers)} buffers. The fast memory has {MEMORY} units, at offsets 0 to {MEMORY - 1}. Map each buffer for its whole life: answer"
        " 'at N' to put it at offset N, or 'slow'. No two may share a unit at one time: a mapping in which two do is worth nothing. Save as much as you can.\n"
    ) + "\n".join(_told(i, b) for i, b in enumerate(buffers))
    return Task(name, said, split, {"buffers": msgspec.to_builtins(buffers)}, Limits(max_turns=len(buffers) + 5, max_malformed=5), kind=f"{size}-buffers")


def _cut(dice: random.Random, n: int) -> list[Buffer]:
    """The whole of memory and time, cut into ``n`` rectangles."""
    parts = [(0, MEMORY, 0, TIME)]
    while len(parts) < n:
        low, high, start, end = parts.pop(max(range(len(parts)), key=lambda i: _area(parts[i]) * dice.uniform(0.5, 1)))
        if (high - low, dice.random()) > ((end - start) / 2, 0.5):
            at = dice.randrange(low + 1, high)
            parts += [(low, at, start, end), (at, high, start, end)]
        else:
            at = dice.randrange(start + 1, end)
            parts += [(low, high, start, at), (low, high, at, end)]
    return [Buffer(high - low, start, end, BEST * _area((low, high, start, end)), low) for low, high, start, end in parts]


def _area(part: tuple[int, int, int, int]) -> int:
    low, high, start, end = part
    return (high - low) * (end - start)


def _drawn(dice: random.Random) -> Buffer:
    size, start, life = dice.randint(1, MEMORY // 2), dice.randrange(TIME - 4), dice.randint(2, 10)
    end = min(TIME, start + life)
    return Buffer(size, start, end, dice.choice(WORST) * size * (end - start))
