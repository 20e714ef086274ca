"""Games of several seats: PettingZoo's own tests, matches with a record per seat, whoever leaves, and who beats whom."""

import functools
import random
import warnings

import anyio
import msgspec
import numpy as np
import pytest
from pettingzoo.classic import tictactoe_v3
from pettingzoo.test import api_test, parallel_api_test, parallel_seed_test, seed_test

import agentgym
from agentgym.checks import check
from agentgym.core import AgentGame, Completion, EpisodeView, StopReason
from agentgym.episode import ArtefactStore, EpisodeStore
from agentgym.errors import CapabilityError, EnvironmentFault, PolicyFault, ToolError, UnknownName, UsageError
from agentgym.evaluation.league import double_oracle, equilibrium, fictitious_play, fitted, league
from agentgym.evaluation.regrade import replay, verify
from agentgym.evaluation.run import Plan, summarise
from agentgym.game import Game, Match, Scripted
from agentgym.pettingzoo import aec, parallel
from agentgym.policies import resolve
from agentgym.registry import specs
from agentgym.rollout import Job, Keep, Rollout

GAMES = [s.id for s in specs() if s.capabilities.seats]
TTT = {"games": "tictactoe"}
BOARD = functools.partial(agentgym.make, "arena/board", **TTT)


def test_there_are_games():
    assert {"arena/board-v0", "arena/negotiate-v0", "arena/debate-v0", "arena/critic-v0", "arena/quiz-v0", "tools/desk-user-v0", "tools/desk-sim-v0"} <= set(
        GAMES
    )


@pytest.mark.parametrize("env", GAMES)
def test_a_game_passes_pettingzoos_own_tests(env):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        api_test(aec(env), num_cycles=60)
        parallel_api_test(parallel(env), num_cycles=60)
        seed_test(lambda: aec(env), num_cycles=40)
        parallel_seed_test(lambda: parallel(env), num_cycles=40)


@pytest.mark.parametrize("env", GAMES)
def test_a_game_passes_the_audit(env):
    report = check(env, tasks=9 if env == "arena/board-v0" else 6)
    assert report.passed, [c for c in report.checks if c.status == "fail"]


@pytest.mark.parametrize("env", GAMES)
def test_each_seat_is_an_environment_whose_snapshot_goes_on_alike(env):
    for seat in agentgym.registry.spec(env).capabilities.seats:
        one = agentgym.make(env, seat=seat, reward="stepwise")
        one.reset(seed=4)
        try:
            script = one.player()
        except CapabilityError:
            script = one.oracle()
        one.step(next(script))
        if one.episode.stop_reason is not None:
            continue
        two = one.fork(1)[0]
        action = next(script)
        first, second = one.step(action), two.step(action)
        assert first[:4] == second[:4] and first[4]["state_hash"] == second[4]["state_hash"]
        assert one.episode.seat == one.capabilities.seats.index(seat)


def test_other_luck_gives_other_opponents():
    env = BOARD()
    env.reset(seed=1, options={"task": "train/tictactoe-0000"})
    forks = env.fork(8, reseed=5)
    assert len({fork.step("5")[0] for fork in forks}) > 1
    assert env.fork(1, reseed=5)[0].step("5")[0] == env.fork(1, reseed=5)[0].step("5")[0]


def test_the_library_and_our_words_agree_about_the_moves():
    """The same moves in PettingZoo's own environment: the same legal ones at each ply, and the same winner."""
    from agentgym_arena.classic import SQUARES

    for seed in range(20):
        ours, theirs, dice = BOARD().game(BOARD().taskset.get("train/tictactoe-0000")), tictactoe_v3.env(), random.Random(seed)
        theirs.reset()
        while ours.current is not None:
            mask = theirs.last()[0]["action_mask"]
            assert sorted(SQUARES[int(m) - 1] for m in ours.legal()) == sorted(np.flatnonzero(mask))
            move = dice.choice(ours.legal())
            ours.step(move)
            theirs.step(SQUARES[int(move) - 1])
        assert list(ours.rewards.values()) == [theirs.rewards[a] for a in theirs.possible_agents]


# Bad input


def test_an_illegal_move_is_an_observation_and_too_many_lose_the_seat_alone():
    env = BOARD()
    env.reset(seed=1)
    said, reward, *_ = env.step("99")
    assert said.startswith("error: '99' is not a legal move") and reward == 0
    env.step("nothing")
    *_, terminated, truncated, info = env.step("")
    assert terminated and not truncated and info["stop_reason"] == "parse_error" and env.episode.verdicts["result"].value == 0
    assert env.episode.verdicts["result"].evidence["left"] == {"first": "parse_error"}


def test_a_move_out_of_turn_changes_nothing():
    match = Match(BOARD().game(BOARD().taskset.get("train/tictactoe-0000")))
    state = match.state
    with pytest.raises(ToolError, match="not your turn"):
        match.act("second", "5")
    assert match.state == state and match.game.current == "first"
    match.act("first", "5")
    assert match.state != state


def test_names_are_checked():
    for wrong in ({"seat": "third"}, {"opponents": "nobody"}, {"opponents": {"third": "random"}}, {"games": "ludo"}):
        with pytest.raises(UnknownName):
            agentgym.make("arena/board", **wrong)
    with pytest.raises(UsageError, match="one seat"):
        aec("tools/desk")


class Stuck(Game):
    """A game that waits for whoever has left, or for nobody."""

    seats = ("a", "b")

    def view(self, seat):
        return "wait"

    def play(self, action):
        self.current = action

    def leave(self, seat):
        self.current = "a"


def test_a_game_that_deadlocks_is_a_fault():
    with pytest.raises(EnvironmentFault, match="'c', who has no seat"):
        Match(Stuck()).act("a", "c")
    with pytest.raises(EnvironmentFault, match="who has left: a deadlock"):
        Match(Stuck()).leave("a", StopReason.TIMEOUT)


class Failing:
    """Plays as ``random`` does, until its endpoint is gone, or it takes too long."""

    name = "failing"

    def __init__(self, after=2, sleeps=0.0):
        self.after, self.sleeps, self.asked = after, sleeps, 0

    async def act(self, conversation):
        self.asked += 1
        if self.asked > self.after:
            if self.sleeps:
                await anyio.sleep(self.sleeps)
            else:
                raise PolicyFault("the endpoint is gone")
        moves = conversation.messages[-1]["content"].rpartition("moves:\n")[2].split(",")
        return Completion(random.Random(self.asked).choice(moves))


def matches(n, **more):
    jobs = [Job(f"train/tictactoe-{i:04d}", 0, i, f"t{i}@{s}", f"m{i}", s) for i in range(n) for s in ("first", "second")]
    return anyio.run(Rollout(make=BOARD, policy=resolve("random"), **more).run, jobs)


def test_a_match_has_a_record_for_each_seat(tmp_path):
    with EpisodeStore(tmp_path / "episodes.jsonl") as store:
        played = matches(6, keep=Keep(store, ArtefactStore(tmp_path / "artefacts")))
    for one, other in zip(played[::2], played[1::2], strict=True):
        assert one.match == other.match and (one.seat, other.seat) == (0, 1) and one.task == other.task
        assert one.verdicts["result"].value + other.verdicts["result"].value == 1.0
        assert one.group != other.group
    assert verify(tmp_path).reproduced == 12 and replay(tmp_path).identical == 12


def test_a_fault_is_its_seats_alone_and_the_match_is_played_again():
    jobs = 1
    played = matches(jobs, seats={"second": Failing(after=1)}, retries=0)
    one, other = played
    assert other.status == "invalid" and other.culprit == "infra" and not other.terms
    assert one.status == "valid" and one.stop_reason == StopReason.OPPONENT and one.verdicts == {} and "second left" in one.fault
    result = summarise(Plan(env="arena/board", options=TTT), "random", [one], 0)
    assert result.valid == 0 and result.invalid == 1 and not one.decided and not one.success
    again = matches(1, seats={"second": Failing(after=1)}, retries=1)
    assert again[0].retry == 1 and again[0].id.endswith("@first.r1")


def test_a_player_that_takes_too_long_loses_its_seat_and_the_other_wins():
    from agentgym.budget import Bounds

    one, other = matches(1, seats={"second": Failing(after=1, sleeps=30)}, bounds=Bounds(seconds=0.5), retries=0)
    assert other.stop_reason == StopReason.TIMEOUT and other.verdicts["result"].value == 0
    assert one.stop_reason == StopReason.OPPONENT and one.status == "valid" and one.verdicts["result"].value == 1


def test_a_policy_may_sit_inside_the_environment():
    env = agentgym.make("arena/board", **TTT, opponents="noop")
    env.reset(seed=1, options={"task": "train/tictactoe-0000"})
    *_, terminated, _, info = env.step("5")
    assert terminated and info["stop_reason"] == "opponent" and env.episode.verdicts["result"].value == 1.0
    assert env.episode.verdicts["result"].evidence["left"] == {"second": "parse_error"}


class Gone:
    """A policy whose endpoint is gone."""

    name = "gone"

    async def act(self, conversation):
        raise PolicyFault("the endpoint is gone")


def test_an_opponent_inside_that_breaks_is_nobodys_win_and_the_episode_is_played_again(monkeypatch):
    from agentgym.game import seat

    monkeypatch.setattr(seat, "_policy", lambda text: Gone())
    make = functools.partial(agentgym.make, "arena/board", **TTT, opponents="noop")
    (found,) = anyio.run(Rollout(make=make, policy=resolve("random"), retries=2).run, [Job("train/tictactoe-0000")])
    assert found.retry == 2 and not found.decided and not found.success and found.verdicts == {}


def test_a_scripted_player_without_a_legal_move_is_a_fault_of_the_world(monkeypatch):
    env = agentgym.make("arena/board", **TTT, opponents="greedy")
    monkeypatch.setattr(type(env), "plays", {"greedy": lambda game, seat, dice: "nonsense"})
    env.reset(seed=1, options={"task": "train/tictactoe-0000"})
    with pytest.raises(EnvironmentFault, match="no legal move"):
        env.step("5")


def test_a_record_of_another_match_or_another_seat_is_not_graded():
    """A loser's record with other moves, or the winner's seat, in its artefact."""
    env, played = BOARD(), matches(8)
    lost = next(e for e in played if e.verdicts["result"].value == 0)
    won = next(e for e in played if e.match == lost.match and e.seat != lost.seat)
    moves = [m for t in lost.turns for m in t.facts["moves"]]
    result, task, names = env.verifiers["result"], env.taskset.get(lost.task), env.capabilities.seats

    def judged(episode, seat, made):
        return result(EpisodeView(task, episode, {"match.json": msgspec.json.encode((seat, made))}))

    assert judged(lost, names[lost.seat], moves).value == 0 and judged(won, names[won.seat], moves).value == 1
    assert judged(lost, names[won.seat], moves).status == "invalid"
    assert judged(lost, names[lost.seat], moves[:-1]).status == "invalid"


@pytest.mark.parametrize("env", ["tools/desk-user", "tools/desk-sim"])
def test_stepped_at_once_or_waited_for_it_says_the_same(env):
    """With the ids that tie calls to their answers."""
    one, other = agentgym.make(env), agentgym.make(env)
    task = one.taskset.ids()[1]

    async def waited():
        told = [await other.areset(seed=1, options={"task": task})]
        for turn in one.episode.turns:
            told.append(await other.astep(turn.action))
        return told

    told = [one.reset(seed=1, options={"task": task}), *(one.step(action) for action in one.oracle())]
    assert anyio.run(waited) == told and len(told) >= 3


def test_a_speech_of_several_lines_is_whole_in_pettingzoos_view_too():
    env = aec("arena/debate")
    env.reset(seed=1)
    env.step("one\ntwo")
    assert "pro | one\npro | two" in env.observe("con")["text"]


# Who beats whom


def test_a_league_ranks_its_players_and_held_out_ones_are_no_part_of_the_equilibrium():
    plan = Plan(env="arena/board", split="test", options=TTT)
    found = anyio.run(league, plan, {n: Scripted(n) for n in ("random", "greedy", "perfect")}, 12, ["perfect"])
    assert [r.name for r in found.ratings][-1] == "random" and found.matches == 72 and found.void == 0
    perfect = next(r for r in found.ratings if r.name == "perfect")
    assert perfect.low < perfect.rating < perfect.high and perfect.held_out
    lost = {r.name: sum(c.losses for c in found.cross_play if c.row == r.name) for r in found.ratings}
    assert lost["perfect"] < lost["greedy"] < lost["random"]
    assert found.equilibrium["greedy"] == pytest.approx(1.0) and "perfect" not in found.equilibrium
    with pytest.raises(UsageError, match="two players"):
        anyio.run(league, plan, {"random": Scripted("random")}, 2)


def test_ratings_follow_the_results_and_equal_players_overlap():
    even = fitted(["a", "b"], [("a", "b", float(i % 2)) for i in range(40)])
    assert abs(even["a"][0] - even["b"][0]) < 1 and even["a"][1] < 1000 < even["a"][2]
    better = fitted(["a", "b", "c"], [("a", "b", 1.0)] * 30 + [("b", "c", 1.0)] * 30)
    assert better["a"][0] > better["b"][0] > better["c"][0] and better["a"][1] > better["c"][2]


ROCK = np.array([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]])


def test_on_rock_paper_scissors_every_way_reaches_the_mixed_equilibrium():
    mixture, worth = equilibrium(ROCK)
    assert np.allclose(mixture, 1 / 3, atol=1e-6) and abs(worth) < 1e-9
    assert np.allclose(fictitious_play(ROCK, 3000), 1 / 3, atol=0.05)
    asked = []

    def best_response(against):
        asked.append(dict(against))
        return int(np.argmax([sum(p * ROCK[i, j] for j, p in against.items()) for i in range(3)]))

    found = double_oracle(best_response, lambda a, b: float(ROCK[a, b]), 0)
    assert set(found) == {0, 1, 2} and all(abs(p - 1 / 3) < 1e-6 for p in found.values()) and len(asked) == 3


def test_a_game_keeps_the_protocol_of_the_core():
    game = BOARD().game(BOARD().taskset.get("train/tictactoe-0000"))
    for name in (*AgentGame.__annotations__, "observe", "step"):
        assert hasattr(game, name)
