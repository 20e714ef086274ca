"""``arena/critic-v0``: a sneaky hand against a critic of steps. After "SPC: Evolving Self-Play Critic via Adversarial Games for LLM Reasoning".

The hand writes one line of a right solution anew, so that it is wrong; a line that is not really wrong is refused. The critic then names
the first wrong line. What the one wins, the other loses.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from typing import ClassVar

from agentgym_verifiers.rules import seat_verdicts

from agentgym.core import Capabilities, Limits, Task, TaskSet, Verifier
from agentgym.errors import ToolError
from agentgym.game import Game, Player
from agentgym_arena.base import ArenaEnv, numbered, split_of
from agentgym_arena.questions import Question, bent, is_line, question, right


class Duel(Game):
    """``sneak`` moves first: ``N: LINE`` writes line N anew, ``keep`` leaves all as it is. Then ``critic``: ``line N``, or ``none``."""

    seats = ("critic", "sneak")

    def __init__(self, asked: Question) -> None:
        super().__init__()
        self.asked, self.shown, self.bad = asked, tuple(asked.lines), 0
        self.current = "sneak"

    def rules(self, seat: str) -> str:
        """What a seat is to do."""
        if seat == "sneak":
            return "Here is a right solution. Make one of its lines wrong, so that nobody notices. Answer 'N: A + B = C' to write line N anew, or keep."
        return "Somebody may have made one line of a solution wrong. Answer with the first wrong line, as 'line N', or with none."

    def view(self, seat: str) -> str:
        """The question and the solution as it stands."""
        if seat == "critic" and self.current == "sneak":
            return f"{self.asked.text}\nthe solution is being written"
        lines = "\n".join(f"{i}: {line}" for i, line in enumerate(self.shown, 1))
        ending = f"\nit is over: {'you have won' if self.rewards[seat] > 0 else 'you have lost'}" if self.current is None else ""
        return f"{self.asked.text}\n{lines}{ending}"

    def legal(self) -> Sequence[str]:
        """What the critic can say; the hand may write anything, so some of it."""
        if self.current == "critic":
            return [*(f"line {i}" for i in range(1, len(self.shown) + 1)), "none"]
        if self.current == "sneak":
            return ["keep", *(f"{i + 1}: {bent(self.asked.lines, i, off)[i]}" for i in range(len(self.shown)) for off in (-10, -1, 1, 10))]
        return ()

    def play(self, action: str) -> None:
        """A line written anew, or the critic's verdict."""
        if self.current == "sneak":
            self._write(action)
            return
        found = re.fullmatch(r"line (\d{1,2})|none", action)
        if found is None:
            raise ToolError("answer 'line N' or none", malformed=True)
        caught = int(found[1] or 0) == self.bad
        self.rewards = {"critic": 1.0 if caught else -1.0, "sneak": -1.0 if caught else 1.0}
        self.current = None

    def _write(self, action: str) -> None:
        found = re.fullmatch(r"(\d{1,2}): (.+)", action)
        if action != "keep":
            if found is None or not 1 <= int(found[1]) <= len(self.shown) or not is_line(found[2]):
                raise ToolError("answer 'N: A + B = C' with the number of a line, or keep", malformed=True)
            at, line = int(found[1]) - 1, found[2].strip()
            if right(line) and line.partition(" = ")[0] == self.asked.lines[at].partition(" = ")[0]:
                raise ToolError("that line is not wrong, so it does not count; write a wrong one, or keep", malformed=True)
            before, after = (int(text.rpartition(" = ")[2]) for text in (self.asked.lines[at], line))
            rest = bent(self.asked.lines, at, after - before)[at + 1 :]
            self.shown, self.bad = (*self.asked.lines[:at], line, *rest), at + 1
        self.current = "critic"


def at_random(game: Game, seat: str, dice: random.Random) -> str:
    """The critic guesses; the hand makes any line wrong by a little."""
    return dice.choice(game.legal())


def careful(game: Game, seat: str, dice: random.Random) -> str:
    """The critic reads: it computes each line, and whether it goes on from the one before. The hand makes the last line wrong by one."""
    assert isinstance(game, Duel)
    if seat == "sneak":
        return f"{len(game.shown)}: {bent(game.asked.lines, len(game.shown) - 1, 1)[-1]}"
    bad = next((i for i, (line, should) in enumerate(zip(game.shown, game.asked.lines, strict=True), 1) if line != should), 0)
    return f"line {bad}" if bad else "none"


PLAYERS: Mapping[str, Player] = {"random": at_random, "careful": careful}


def play(task: Task) -> Game:
    """The game of a task."""
    return Duel(Question(task.data["text"], tuple(task.data["lines"]), task.data["answer"]))


class CriticEnv(ArenaEnv):
    """A seat of the duel, the critic's unless told otherwise. Opponents: ``random``, ``careful``, or a policy."""

    id = "arena/critic-v0"
    capabilities = Capabilities(snapshot=True, seats=("critic", "sneak"))
    verifiers: ClassVar[Mapping[str, Verifier]] = seat_verdicts(play)
    game = staticmethod(play)
    plays: ClassVar[Mapping[str, Player]] = PLAYERS
    honest: ClassVar[str] = "careful"

    def tasks(self, split: str) -> TaskSet:
        """Questions drawn by number."""
        return numbered(split, _task)


def drawn(kind: str, name: str) -> Question:
    """The question of a task's name, which its content puts into the split of that name."""
    dice = random.Random(f"{kind}/{name}")
    while True:
        asked = question(dice, dice.randint(4, 7))
        if split_of({"text": asked.text}) == name.partition("/")[0]:
            return asked


def _task(name: str) -> Task:
    asked = drawn("critic", name)
    data = {"text": asked.text, "lines": list(asked.lines), "answer": asked.answer}
    return Task(name, f"Find the wrong line, if there is one; answer 'line N' or none. {asked.text}", name.partition("/")[0], data, Limits(max_turns=8))
