"""Players against each other: who beats whom, ratings with their intervals, and the mixtures of players that nobody beats.

Ratings are Elo numbers fitted at once to all results (the Bradley-Terry model, a draw being half a win each; "The Method of Paired
Comparisons"). A mixture over a pool is what an opponent is drawn from: uniform (fictitious play) or an equilibrium (double oracle).
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray
from scipy.optimize import linprog

from agentgym.core import Completion, Conversation, Policy
from agentgym.episode import Episode
from agentgym.errors import UsageError
from agentgym.evaluation.run import Plan, provenance, settler_of, stores, write_provenance, write_reward
from agentgym.evaluation.stats import Interval, bootstrap
from agentgym.game import GameEnv
from agentgym.policies import attach
from agentgym.rollout import Job, Rollout

SCALE, MIDDLE, DRAWS = 400 / math.log(10), 1000.0, 300
Floats = NDArray[np.float64]


class Rating(Struct, frozen=True):
    """A player's rating with its 95% interval over matches, and the mean of what its seats were worth (1: every match won)."""

    name: str
    rating: float
    low: float
    high: float
    games: int
    score: Interval
    held_out: bool = False


class Cell(Struct, frozen=True):
    """What ``row`` scored against ``column``, over both orders of seats: the mean value of its seat, and its wins, draws and losses."""

    row: str
    column: str
    score: Interval
    wins: int
    draws: int
    losses: int


class Standings(Struct, kw_only=True):
    """What ``league --json`` prints. ``equilibrium`` is the mixture of the players (those that are not held out) that none of them beats."""

    env: str
    split: str
    matches: int
    void: int
    ratings: list[Rating]
    cross_play: list[Cell]
    equilibrium: dict[str, float]
    out: str | None = None
    notes: list[str] = []


class Seated:
    """The policy of a rollout whose matches have different players: ``seats`` of a match by its name; others are ``absent``'s."""

    def __init__(self, seats: Mapping[str, Mapping[str, Policy]], absent: Policy | None = None) -> None:
        self.seats, self.absent, self.name = seats, absent, absent.name if absent is not None else "seated"

    def attach(self, env: GameEnv) -> Policy:
        """Who sits at the seat of ``env``."""
        found = self.seats.get((env.episode.match or "").partition(".r")[0], {}).get(env.seat, self.absent)
        if found is None:
            raise UsageError(f"nobody plays {env.seat} in match {env.episode.match}")
        return attach(found, env)

    async def act(self, conversation: Conversation) -> Completion:
        """Never asked: whoever sits there is."""
        raise UsageError("a seated policy plays through its members")


async def play_pairs(
    plan: Plan,
    players: Mapping[str, Policy],
    pairs: Sequence[tuple[str, str]],
    matches: int,
    out: Path | None = None,
    on_match: Callable[[int, int], None] | None = None,
) -> list[tuple[str, str, Episode, Episode]]:
    """``matches`` of each pair in each order of the first two seats; further seats are played by the environment's opponents.

    Returns who sat where, with the records of both seats; a void match is among them, its records without verdicts.
    """  # fmt: skip
    env = plan.environment()
    if not isinstance(env, GameEnv):
        raise UsageError(f"{env.id} has one seat; a league needs a game")
    one, other = env.capabilities.seats[:2]
    ids, jobs, seats = env.taskset.ids(), list[Job](), dict[str, dict[str, Policy]]()
    for a, b in pairs:
        for i in range(matches):
            for n, (x, y) in enumerate(((a, b), (b, a)) if a != b else ((a, b),)):
                name = f"{a}~{b}~{i}~{n}"
                seats[name] = {one: players[x], other: players[y]}
                attempt = len(seats) - 1
                jobs += [Job(ids[i % len(ids)], attempt, plan.seed + i, name, name, seat) for seat in (one, other)]
    done = 0

    def tell(episode: Episode) -> None:
        nonlocal done
        done += 1
        if on_match is not None:
            on_match(done // 2, len(seats))

    with stores(out) as keep:
        if out is not None:
            write_reward(env, out)
            write_provenance(out, "league")
        rollout = Rollout(
            make=plan.environment, policy=Seated(seats), concurrency=plan.concurrency, retries=plan.retries, max_tokens=plan.max_tokens,
            late=settler_of(env), keep=keep, provenance=provenance(), on_episode=tell,
        )  # fmt: skip
        played = await rollout.run(jobs)
    who = {name: (a, b) if n == "0" else (b, a) for name in seats for a, b, _, n in [name.split("~")]}
    return [(*who[str(played[i].group)], played[i], played[i + 1]) for i in range(0, len(played), 2)]


def value_of(episode: Episode) -> float | None:
    """What a match was worth to a seat, in [0, 1]; None if it is void."""
    worth = [v.value or 0.0 for v in episode.verdicts.values() if v.status != "invalid"]
    return min(worth) if episode.decided and worth else None


async def league(
    plan: Plan,
    players: Mapping[str, Policy],
    matches: int,
    held_out: Sequence[str] = (),
    out: Path | None = None,
    on_match: Callable[[int, int], None] | None = None,
) -> Standings:
    """Everybody against everybody. Those of ``held_out`` meet the others and are rated, but take no part in the equilibrium.

    Raises:
        UsageError: the environment has one seat, or there are fewer than two players.
    """  # fmt: skip
    names = list(players)
    if len(names) < 2:
        raise UsageError("a league needs two players at least: --policy NAME, repeatable")
    if any("~" in n for n in names):
        raise UsageError("the name of a player cannot hold ~")
    pairs = list(itertools.combinations(names, 2))
    results = await play_pairs(plan, players, pairs, matches, out, on_match)
    return standings(plan, names, results, held_out, out)


def standings(
    plan: Plan, names: Sequence[str], results: Sequence[tuple[str, str, Episode, Episode]], held_out: Sequence[str] = (), out: Path | None = None
) -> Standings:
    """Ratings, cross-play and equilibrium of results."""
    scored = [(a, b, x, y) for a, b, first, second in results for x, y in [(value_of(first), value_of(second))] if x is not None and y is not None]
    told: dict[tuple[str, str], list[float]] = defaultdict(list)
    outcomes: dict[tuple[str, str], list[float]] = defaultdict(list)
    for a, b, x, y in scored:
        for me, it, own, its in ((a, b, x, y), (b, a, y, x)):
            told[me, it].append(own)
            outcomes[me, it].append(0.5 + 0.5 * float(np.sign(own - its)))
    cells = [
        Cell(a, b, _interval(told[a, b]), *(sum(o == w for o in outcomes[a, b]) for w in (1.0, 0.5, 0.0)))
        for a in names for b in names if a != b and told[a, b]
    ]  # fmt: skip
    found = fitted(names, [(a, b, 0.5 + 0.5 * float(np.sign(x - y))) for a, b, x, y in scored])
    mine = {n: [v for (me, _), vs in told.items() if me == n for v in vs] for n in names}
    ratings = [Rating(n, *found[n], len(mine[n]), _interval(mine[n]), n in held_out) for n in names]
    pool = [n for n in names if n not in held_out]
    payoff = np.array([[0.0 if a == b else float(np.mean(outcomes[a, b] or [0.5])) * 2 - 1 for b in pool] for a in pool])
    result = Standings(
        env=plan.env, split=plan.split, matches=len(results), void=len(results) - len(scored),
        ratings=sorted(ratings, key=lambda r: -r.rating), cross_play=cells,
        equilibrium=dict(zip(pool, map(float, equilibrium(payoff)[0]), strict=True)), out=str(out) if out else None,
    )  # fmt: skip
    if result.void:
        result.notes.append(f"{result.void} of {result.matches} matches are void: a player's endpoint or engine failed; they count for nobody")
    if out is not None:
        (out / "league.json").write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=1))
    return result


def _interval(values: Sequence[float]) -> Interval:
    return bootstrap(list(values), [str(i) for i in range(len(values))])


def fitted(names: Sequence[str], results: Sequence[tuple[str, str, float]], seed: int = 0) -> dict[str, tuple[float, float, float]]:
    """Rating, low and high by name, from results ``(one, other, score of one)``; their mean is 1000.

    Each player has one draw against an average one beside its results, so that who won everything has a number too.
    """
    index = {n: i for i, n in enumerate(names)}
    pairs = np.array([(index[a], index[b]) for a, b, _ in results], dtype=int).reshape(-1, 2)
    scores = np.array([s for *_, s in results])
    best, draws = _bradley_terry(len(names), pairs, scores), list[Floats]()
    dice = np.random.default_rng(seed)
    for _ in range(DRAWS if len(results) else 0):
        chosen = dice.integers(len(results), size=len(results))
        draws.append(_bradley_terry(len(names), pairs[chosen], scores[chosen]))
    low, high = np.percentile(draws, [2.5, 97.5], axis=0) if draws else (best, best)
    return {n: (float(best[i]), float(low[i]), float(high[i])) for n, i in index.items()}


def _bradley_terry(n: int, pairs: NDArray[np.int64], scores: Floats) -> Floats:
    """Elo numbers of greatest likelihood, by the minorise-maximise iteration of Hunter (2004)."""
    wins, met = np.zeros((n + 1, n + 1)), np.zeros((n + 1, n + 1))
    np.add.at(wins, (pairs[:, 0], pairs[:, 1]), scores)
    np.add.at(wins, (pairs[:, 1], pairs[:, 0]), 1 - scores)
    wins[:n, n] += 0.5
    wins[n, :n] += 0.5
    met = wins + wins.T
    strength, total = np.ones(n + 1), wins.sum(1)
    for _ in range(500):
        new = total / (met / (strength[:, None] + strength[None, :])).sum(1)
        new /= np.exp(np.log(new).mean())
        if np.abs(np.log(new / strength)).max() < 1e-7:
            break
        strength = new
    log = np.log(strength[:n])
    ratings: Floats = MIDDLE + SCALE * (log - log.mean())
    return ratings


def equilibrium(payoff: Floats) -> tuple[Floats, float]:
    """The row player's mixture that is best whatever the column player does, and what it is worth: a matrix game by linear programming."""
    rows, columns = payoff.shape
    found = linprog(
        np.append(np.zeros(rows), -1.0), A_ub=np.hstack([-payoff.T, np.ones((columns, 1))]), b_ub=np.zeros(columns),
        A_eq=np.append(np.ones(rows), 0.0)[None], b_eq=[1.0], bounds=[(0, None)] * rows + [(None, None)],
    )  # fmt: skip
    mixture = np.clip(found.x[:rows], 0, None)
    odds: Floats = mixture / mixture.sum()
    return odds, float(found.x[rows])


def fictitious_play(payoff: Floats, rounds: int) -> Floats:
    """How often each row was played when both sides always answer the other's average so far; it approaches an equilibrium."""
    rows, columns = np.zeros(payoff.shape[0]), np.zeros(payoff.shape[1])
    rows[0] = columns[0] = 1.0
    for _ in range(rounds):
        answer, reply = int(np.argmax(payoff @ columns)), int(np.argmin(rows @ payoff))
        rows[answer] += 1
        columns[reply] += 1
    odds: Floats = rows / rows.sum()
    return odds


def double_oracle(best_response: Callable[[Mapping[int, float]], int], payoff: Callable[[int, int], float], first: int, rounds: int = 100) -> dict[int, float]:
    """Grow a pool of strategies by best responses to the equilibrium of the pool, until none is new; the last equilibrium, by strategy.

    Of a symmetric zero-sum game. Source: "Planning in the Presence of Cost Functions Controlled by an Adversary".
    """
    pool = [first]
    for _ in range(rounds):
        mixture = dict(zip(pool, equilibrium(np.array([[payoff(a, b) for b in pool] for a in pool]))[0], strict=True))
        answer = best_response(mixture)
        if answer in pool:
            break
        pool.append(answer)
    return {strategy: float(p) for strategy, p in mixture.items()}
