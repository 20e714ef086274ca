"""``arena/quiz-v0``: one reads a document and asks, four answer, one judges. All seats may be one model, or be trained apart.

After "SPELL: Self-Play Reinforcement Learning for evolving Long-Context Language Models" (roles that rotate, documents that lengthen, a
questioner who is paid most where half of the answers are right; the form, 4p(1 − p), is ours) and "URPO: A Unified Reward & Policy
Optimization Framework for Large Language Models" (one model is player and referee; the referee is paid by labels alone).
"""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

from agentgym_verifiers.rules import seat_verdicts

from agentgym.core import Capabilities, Limits, Task, TaskSet, Verifier
from agentgym.errors import ToolError, UsageError
from agentgym.game import Game, Player
from agentgym.game.match import by_chance
from agentgym.verdict import Json
from agentgym_arena.base import ArenaEnv, numbered, split_of

NAMES = ("Ada", "Boris", "Clara", "Dmitri", "Edith", "Farid", "Greta", "Hugo", "Irene", "Jonas", "Karin", "Leo", "Mira", "Nils", "Olga", "Piet")
RELATIONS = {
    "trade": ("{s} is a {v} by trade.", "What is the trade of {s}?", ("baker", "clockmaker", "gardener", "nurse", "painter", "pilot", "tailor", "weaver")),
    "home": ("{s} lives in {v}.", "Where does {s} live?", ("Balia", "Corvin", "Drane", "Elmond", "Fenna", "Goric", "Halwyn", "Isten")),
    "animal": ("At home {s} keeps a {v}.", "Which animal does {s} keep?", ("badger", "crane", "goat", "heron", "otter", "owl", "parrot", "tortoise")),
    "year": ("{s} was born in {v}.", "When was {s} born?", tuple(map(str, range(1950, 1990)))),
}
"""How each fact is told, and asked for, and what it can be."""
ANSWERERS = ("first", "second", "third", "fourth")
SIZES = (2, 4, 8, 16)
"""People in a document; four facts each."""
MOST = 160
"""Characters of an answer."""
Fact = tuple[str, str, str]


class Quiz(Game):
    """``asker`` writes ``QUESTION? = REFERENCE``; the four answer in turn, each for itself; ``judge`` says ``right: 1 3`` or ``right: none``.

    Where a rule knows the answer (a question of a known form about the document) answers are right by that rule and by nothing else, and so is the
    judge; a reference that is wrong pays its author nothing. Any other question is open: the judge's word decides it, and the judge is not paid.
    """

    seats = (*ANSWERERS, "asker", "judge")

    def __init__(self, facts: Sequence[Fact]) -> None:
        super().__init__()
        self.facts = {RELATIONS[relation][1].format(s=subject): value for subject, relation, value in facts}
        self.document = told_of(facts)
        self.question, self.reference, self.answers = "", "", list[str]()
        self.values: dict[str, float] = dict.fromkeys(self.seats, 0.5)
        self.found: dict[str, Json] = {}
        self.current = "asker"

    @property
    def known(self) -> str | None:
        """The answer by rule; None where the question is open."""
        return self.facts.get(self.question)

    def rules(self, seat: str) -> str:
        """What a seat is to do, and the document; the judge does not get it."""
        if seat == "judge":
            return "Several answer a question. Say which answers mean the same as the reference: 'right: 1 3', or 'right: none'."
        if seat == "asker":
            how = "'QUESTION? = REFERENCE', the reference being words of it"
            return f"{self.document}\nAsk a question about this that half of the others will answer rightly: {how}."
        return f"{self.document}\nSomebody will ask about this. Answer in a few words."

    def view(self, seat: str) -> str:
        """The question, and of the others' answers what a seat may see."""
        if self.current is None:
            return f"right: {' '.join(self._told(self._right())) or 'none'}"
        if self.current == "asker":
            return "ask" if seat == "asker" else "the question is being written"
        if seat != "judge" or self.current != "judge":
            return f"question: {self.question}"
        quoted = "\n".join(f"{i} | {answer}" for i, answer in enumerate(self.answers, 1))
        return f"question: {self.question}\nreference: {self.reference}\n{quoted}"

    def legal(self) -> Sequence[str]:
        """The judge's moves, and of the others' some: the questions that a rule can answer, the values that the document tells."""
        if self.current == "asker":
            return [f"{q} = {v}" for q, v in self.facts.items()]
        if self.current == "judge":
            chosen = itertools.chain.from_iterable(itertools.combinations(self._told([True] * len(self.answers)), n) for n in range(1, len(self.answers) + 1))
            return ["right: none", *(f"right: {' '.join(numbers)}" for numbers in chosen)]
        return sorted(set(self.facts.values())) if self.current else ()

    def play(self, action: str) -> None:
        """A question, an answer or the verdict."""
        if self.current == "asker":
            self._ask(action)
        elif self.current == "judge":
            self._judge(action)
        else:
            if not action or len(action) > MOST:
                raise ToolError(f"an answer is a line of at most {MOST} characters", malformed=True)
            self.answers.append(action)
            self.current = (*ANSWERERS, "judge")[len(self.answers)]

    def _ask(self, action: str) -> None:
        question, _, reference = (part.strip() for part in action.partition("? = "))
        if not question or not plain(reference) or len(action) > 3 * MOST:
            raise ToolError("write 'QUESTION? = REFERENCE'", malformed=True)
        if f" {plain(reference)} " not in f" {plain(self.document)} " or plain(reference) in plain(question):
            raise ToolError("the reference must be words of the document, and not stand in the question", malformed=True)
        self.question, self.reference, self.current = f"{question}?", reference, ANSWERERS[0]

    def _judge(self, action: str) -> None:
        said = re.fullmatch(r"right: (none|[1-4](?: [1-4]){0,3})", action)
        if said is None:
            raise ToolError("answer 'right: 1 3' with the numbers of the right answers, or 'right: none'", malformed=True)
        verdicts = [str(i) in said[1].split() for i in range(1, len(self.answers) + 1)]
        labels = self._right()
        passed = verdicts if self.known is None else labels
        rate = sum(passed) / len(passed)
        agreed = sum(a == b for a, b in zip(verdicts, labels, strict=True)) / len(labels)
        honest = self.known is None or plain(self.known) == plain(self.reference)
        self.values = {
            **{seat: float(ok) for seat, ok in zip(ANSWERERS, passed, strict=True)},
            "asker": 4 * rate * (1 - rate) if honest else 0.0,
            "judge": 0.5 if self.known is None else agreed,
        }
        self.found = {"pass_rate": rate, "judge_agrees": agreed, "by_rule": float(self.known is not None)}
        self._over()

    def _right(self) -> list[bool]:
        """Which answers are the same words as the rule's answer, or as the reference where it has none."""
        return [plain(answer) == plain(self.known or self.reference) for answer in self.answers]

    def _told(self, which: Sequence[bool]) -> list[str]:
        return [str(i) for i, ok in enumerate(which, 1) if ok]

    def _over(self) -> None:
        self.rewards, self.current = {seat: 2 * v - 1 for seat, v in self.values.items()}, None

    def value(self, seat: str) -> float:
        """What a seat is paid: right or not; the judge's share of right verdicts; the asker's 4p(1 − p)."""
        return self.values[seat]

    def measures(self, seat: str) -> Mapping[str, Json]:
        """The share of right answers, and whether the judge and a rule agree."""
        return self.found

    def leave(self, seat: str) -> None:
        """Who leaves gets nothing, and nobody else wins by it."""
        self.values = {s: 0.0 if s == seat else 0.5 for s in self.seats}
        self._over()


def told_of(facts: Iterable[Sequence[str]]) -> str:
    """The document of these facts: a sentence each."""
    return " ".join(RELATIONS[relation][0].format(s=subject, v=value) for subject, relation, value in facts)


def plain(text: str) -> str:
    """Words alone, without case and articles: what two answers are compared by."""
    return " ".join(w for w in re.findall(r"\w+", text.casefold()) if w not in ("a", "an", "the"))


def careful(game: Game, seat: str, dice: random.Random) -> str:
    """Answers by the document, judges by the words, and asks about any of its facts."""
    assert isinstance(game, Quiz)
    if seat == "judge":
        same = [str(i) for i, answer in enumerate(game.answers, 1) if plain(answer) == plain(game.reference)]
        return f"right: {' '.join(same) or 'none'}"
    return by_chance(game, seat, dice) if seat == "asker" else game.known or game.reference


def hasty(game: Game, seat: str, dice: random.Random) -> str:
    """Answers by the document every other time, and else with any value in it; asks and judges as ``careful``."""
    assert isinstance(game, Quiz)
    return careful(game, seat, dice) if seat in ("asker", "judge") or dice.random() < 0.5 else by_chance(game, seat, dice)


PLAYERS: Mapping[str, Player] = {"careful": careful, "hasty": hasty}


def play(task: Task) -> Game:
    """The game of a task."""
    return Quiz([(s, r, v) for s, r, v in task.data["facts"]])


class QuizEnv(ArenaEnv):
    """A seat of the quiz, the first answerer's unless told otherwise. Opponents: ``random``, ``careful``, ``hasty``, or a policy.

    ``people`` fixes how many a document tells of (2 to 16); else it grows with the kind of task.
    """

    id = "arena/quiz-v0"
    capabilities = Capabilities(snapshot=True, seats=Quiz.seats)
    verifiers: ClassVar[Mapping[str, Verifier]] = seat_verdicts(play)
    game = staticmethod(play)
    plays: ClassVar[Mapping[str, Player]] = PLAYERS
    honest: ClassVar[str] = "careful"
    usual: ClassVar[str] = "careful"

    def __init__(self, *, people: int = 0, **base: Any) -> None:
        if people and not 2 <= people <= len(NAMES):
            raise UsageError(f"a document tells of 2 to {len(NAMES)} people, not {people}")
        self._people = people
        super().__init__(**base)

    def tasks(self, split: str) -> TaskSet:
        """Documents drawn by number; their size grows in turn."""
        return numbered(split, lambda name: _task(name, self._people))

    def solvable(self) -> bool:
        """Whoever answers or judges can be right; what the others will answer is nobody's to choose."""
        return self.seat != "asker"


def _task(name: str, people: int) -> Task:
    size = people or SIZES[int(name.rpartition("/")[2]) % len(SIZES)]
    dice = random.Random(f"quiz/{name}/{size}")
    while True:
        told = dice.sample(NAMES, size)
        facts = [[s, relation, dice.choice(values)] for s in told for relation, (_, _, values) in RELATIONS.items()]
        dice.shuffle(facts)
        if split_of({"facts": facts}) == name.partition("/")[0]:
            break
    said = f"One asks about a document, four answer, one judges. {told_of(facts)}"
    return Task(name, said, name.partition("/")[0], {"facts": facts}, Limits(max_turns=6), kind=f"{size}-people")
