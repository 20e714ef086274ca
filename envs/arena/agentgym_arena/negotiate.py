"""``arena/negotiate-v0``: two divide goods that each values otherwise. Offers, and talk that binds nobody."""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import ClassVar

from agentgym_verifiers.rules import seat_verdicts

from agentgym.core import Capabilities, Limits, Task, TaskSet, Verifier
from agentgym.errors import ToolError
from agentgym.game import Game, Player
from agentgym_arena.base import ArenaEnv, numbered, split_of

GOODS = ("books", "hats", "balls", "pens", "cups", "maps")
ROUNDS, POINTS = 6, 10
Share = tuple[int, ...]


class Negotiation(Game):
    """Goods by number, and what each seat thinks they are worth, ten points in all. A deal pays each its points; none pays nobody.

    Moves: ``offer 2 0 1`` (what I would keep of each good), ``accept``, ``walk``. Lines before the move are said to the other.
    """

    seats = ("first", "second")

    def __init__(self, goods: Sequence[str], numbers: Share, worth: Mapping[str, Share]) -> None:
        super().__init__()
        self.goods, self.numbers, self.worth = goods, numbers, worth
        self.offered: tuple[str, Share] | None = None
        self.deal: dict[str, Share] | None = None
        self.made = 0

    def rules(self, seat: str) -> str:
        """The goods, and what they are worth to this seat."""
        held = ", ".join(f"{n} {g}" for n, g in zip(self.numbers, self.goods, strict=True))
        worth = ", ".join(f"{g} {w}" for g, w in zip(self.goods, self.worth[seat], strict=True))
        return (
            f"Divide {held} with the other, who values them otherwise than you and does not know your values. One of each is worth to you: {worth}."
            f" You may talk; your last line must be your move: offer {' '.join('N' * len(self.goods))} (how many of {', '.join(self.goods)} you keep),"
            f" accept, or walk. Without a deal after {ROUNDS} moves each, nobody gets anything."
        )

    def view(self, seat: str) -> str:
        """The offer that stands, and how many moves are left."""
        if self.current is None:
            return f"the talks are over: {'no deal' if self.deal is None else f'you get {self.points(seat, self.deal[seat])} points'}"
        standing = "there is no offer yet"
        if self.offered is not None:
            by, keeps = self.offered
            mine = keeps if by == seat else self.rest(keeps)
            standing = f"{'your' if by == seat else 'the other’s'} offer stands: you would get {' '.join(map(str, mine))}"
        return f"{standing}; moves left: {2 * ROUNDS - self.made}"

    def legal(self) -> Sequence[str]:
        """Every offer, and what else can be done."""
        if self.current is None:
            return ()
        offers = [f"offer {' '.join(map(str, s))}" for s in self.shares]
        return [*offers, *(["accept"] if self.offered is not None and self.offered[0] != self.current else []), "walk"]

    @cached_property
    def shares(self) -> list[Share]:
        """Everything that one may keep."""
        return list(itertools.product(*(range(n + 1) for n in self.numbers)))

    @cached_property
    def deals(self) -> dict[Share, tuple[int, int]]:
        """Every deal by what the first seat keeps, with what it is worth to both."""
        return {s: (self.points("first", s), self.points("second", self.rest(s))) for s in self.shares}

    def rest(self, share: Share) -> Share:
        """What is left for the other."""
        return tuple(n - s for n, s in zip(self.numbers, share, strict=True))

    def points(self, seat: str, share: Share) -> int:
        """What a share is worth to a seat."""
        return sum(w * s for w, s in zip(self.worth[seat], share, strict=True))

    def play(self, action: str) -> None:
        """Talk, and a move in the last line."""
        talk, _, move = action.rpartition("\n")
        mover = str(self.current)
        other = next(s for s in self.seats if s != mover)
        if talk.strip():
            talk = talk.strip()[:2000]
        if (found := re.fullmatch(r"offer((?: \d{1,3})+)", move.strip())) is not None:
            share = tuple(map(int, found[1].split()))
            if len(share) != len(self.numbers) or any(s > n for s, n in zip(share, self.numbers, strict=False)):
                raise ToolError(f"an offer names how many of each of {', '.join(self.goods)} you keep, at most {self.numbers}", malformed=True)
            self.offered = mover, share
            said = f"the other offers you {' '.join(map(str, self.rest(share)))}"
        elif move.strip() == "accept":
            if self.offered is None or self.offered[0] == mover:
                raise ToolError("there is no offer of the other to accept", malformed=True)
            self.deal = {other: self.offered[1], mover: self.rest(self.offered[1])}
            said = "the other accepts"
        elif move.strip() == "walk":
            said = "the other walks away"
        else:
            raise ToolError("the last line must be: offer N N N, accept, or walk", malformed=True)
        self.made += 1
        self.tell("\n".join([*(f"the other | {line}" for line in talk.splitlines()), said]), but=mover)
        if self.deal is not None or move.strip() == "walk" or self.made >= 2 * ROUNDS:
            self.current = None
            self.rewards = {s: (self.points(s, self.deal[s]) / POINTS if self.deal else 0.0) for s in self.seats}
        else:
            self.current = other

    def value(self, seat: str) -> float:
        """Own points, as a share of those of the fairest efficient deal; 1 from there on."""
        return min(1.0, self.rewards[seat] * POINTS / max(1, self.fairest[self.seats.index(seat)]))

    @cached_property
    def fairest(self) -> tuple[int, int]:
        """What the deal with the largest product of points is worth to both (Nash's bargaining solution; ties: the most equal, then the first)."""
        return max(self.deals.values(), key=lambda p: (p[0] * p[1], -abs(p[0] - p[1])))

    def efficient(self) -> bool:
        """Whether no other deal is better for one and no worse for the other."""
        if self.deal is None:
            return False
        got = self.deals[self.deal["first"]]
        return not any(p[0] >= got[0] and p[1] >= got[1] and p != got for p in self.deals.values())

    def measures(self, seat: str) -> Mapping[str, float]:
        """``pareto``: 1 if the deal is efficient; ``fair``: the smaller of both's points over the larger; ``deal``: 1 if there is one."""
        got = sorted(self.points(s, self.deal[s]) for s in self.seats) if self.deal else [0, 0]
        return {"deal": float(self.deal is not None), "pareto": float(self.efficient()), "fair": got[0] / max(1, got[1])}

    def leave(self, seat: str) -> None:
        """Without one of the two there is no deal, and nobody is paid."""
        self.current = None


def _offer(share: Share) -> str:
    return f"offer {' '.join(map(str, share))}"


def at_random(game: Game, seat: str, dice: random.Random) -> str:
    """Any offer, and every third time what is on the table."""
    assert isinstance(game, Negotiation)
    return "accept" if "accept" in game.legal() and dice.random() < 1 / 3 else _offer(dice.choice(game.shares))


def conceder(game: Game, seat: str, dice: random.Random) -> str:
    """Asks for much and comes down, move by move; takes what is as good as what it would ask for."""
    assert isinstance(game, Negotiation)
    wanted = POINTS * (1 - 0.6 * game.made / (2 * ROUNDS))
    if game.offered and game.offered[0] != seat and game.points(seat, game.rest(game.offered[1])) >= wanted - 1:
        return "accept"
    fitting = [s for s in game.shares if game.points(seat, s) >= wanted]
    return f"I cannot go lower than this yet.\n{_offer(min(fitting, key=lambda s: (sum(s), game.points(seat, s), s)))}"


def stubborn(game: Game, seat: str, dice: random.Random) -> str:
    """Asks for nearly everything, always; takes eight points of ten."""
    assert isinstance(game, Negotiation)
    if game.offered and game.offered[0] != seat and game.points(seat, game.rest(game.offered[1])) >= 8:
        return "accept"
    return _offer(min((s for s in game.shares if game.points(seat, s) >= 8), key=lambda s: (sum(s), s)))


def generous(game: Game, seat: str, dice: random.Random) -> str:
    """Takes whatever pays it anything; else asks for half of its points."""
    assert isinstance(game, Negotiation)
    if game.offered and game.offered[0] != seat and game.points(seat, game.rest(game.offered[1])) > 0:
        return "accept"
    return _offer(min((s for s in game.shares if game.points(seat, s) >= POINTS / 2), key=lambda s: (sum(s), s)))


PLAYERS: Mapping[str, Player] = {"random": at_random, "conceder": conceder, "stubborn": stubborn, "generous": generous}


def play(task: Task) -> Game:
    """The game of a task."""
    data = task.data
    return Negotiation(data["goods"], tuple(data["numbers"]), {s: tuple(w) for s, w in data["worth"].items()})


class NegotiateEnv(ArenaEnv):
    """A seat at the table. Opponents: ``random``, ``conceder``, ``stubborn``, ``generous``, or a policy."""

    id = "arena/negotiate-v0"
    capabilities = Capabilities(snapshot=True, seats=("first", "second"))
    verifiers: ClassVar[Mapping[str, Verifier]] = seat_verdicts(play)
    game = staticmethod(play)
    plays: ClassVar[Mapping[str, Player]] = PLAYERS
    honest: ClassVar[str] = "generous"

    def tasks(self, split: str) -> TaskSet:
        """Goods and values drawn by number."""
        return numbered(split, _task)

    def move(self, prose: str) -> str:
        """All of it: what is said, and the move in the last line."""
        return prose.strip()


def _task(name: str) -> Task:
    dice, split = random.Random(f"negotiate/{name}"), name.partition("/")[0]
    while True:
        goods = dice.sample(GOODS, 3)
        numbers = [dice.randint(1, 3) for _ in goods]
        values = [ws for ws in itertools.product(range(7), repeat=3) if sum(w * n for w, n in zip(ws, numbers, strict=True)) == POINTS]
        if len(values) < 2:
            continue
        data = {"goods": goods, "numbers": numbers, "worth": dict(zip(Negotiation.seats, map(list, dice.sample(values, 2)), strict=True))}
        if split_of(data) == split:
            break
    said = f"Divide {', '.join(f'{n} {g}' for n, g in zip(numbers, goods, strict=True))}. Your last line is your move: offer N N N, accept, or walk."
    return Task(name, said, split, data, Limits(max_turns=ROUNDS + 6))
