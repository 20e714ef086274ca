"""Questions with worked solutions whose every line a rule can check: sums of a small business, step by step."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

from msgspec import Struct

THINGS = ("apples", "bricks", "candles", "lamps", "marbles", "pears", "ropes", "shirts", "stamps", "tiles")
_LINE = re.compile(r"(\d+) ([+*-]) (\d+) = (\d+)")


class Question(Struct, frozen=True):
    """A question, its worked solution, one calculation a line, and the answer, which is the last line's result."""

    text: str
    lines: tuple[str, ...]
    answer: int


def right(line: str) -> bool:
    """Whether a line is a calculation, and a right one."""
    found = _LINE.fullmatch(line.strip())
    return found is not None and result(int(found[1]), found[2], int(found[3])) == int(found[4])


def is_line(text: str) -> bool:
    """Whether a text is a calculation, right or wrong."""
    return _LINE.fullmatch(text.strip()) is not None


def result(a: int, sign: str, b: int) -> int:
    """``a sign b``."""
    return a + b if sign == "+" else a * b if sign == "*" else a - b


def question(dice: random.Random, steps: int) -> Question:
    """Draw one of so many steps."""
    thing, now = dice.choice(THINGS), dice.randint(12, 60)
    told, lines = [f"A shop has {now} {thing}."], list[str]()
    for _ in range(steps):
        sign = dice.choice("+-*" if now < 200 else "+-")
        by = dice.randint(2, 4) if sign == "*" else dice.randint(5, 40) if sign == "+" else dice.randint(2, max(3, now // 2))
        after = result(now, sign, by)
        told.append({"+": f"{by} more come in.", "-": f"{by} are sold.", "*": f"Then the stock is multiplied by {by}."}[sign])
        lines.append(f"{now} {sign} {by} = {after}")
        now = after
    return Question(" ".join([*told, f"How many {thing} are there now?"]), tuple(lines), now)


def bent(lines: Sequence[str], at: int, off: int) -> tuple[str, ...]:
    """The lines with an error of ``off`` in line ``at`` that is carried on to the end, so that every other line is right in itself."""
    out, shift = list(lines[:at]), None
    for i, line in enumerate(lines[at:], at):
        found = _LINE.fullmatch(line)
        assert found is not None
        a, sign, b = int(found[1]) if shift is None else shift, found[2], int(found[3])
        shift = result(a, sign, b) + (off if i == at else 0)
        out.append(f"{a} {sign} {b} = {shift}")
    return tuple(out)
