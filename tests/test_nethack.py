"""NetHack: honest seeds, text an agent can use, goals on the engine's state, an oracle that wins, games that are replaced when they die."""

import ctypes
import json
import os
import random
import re
import signal
import statistics
import subprocess
import sys
from types import SimpleNamespace

import anyio
import msgspec
import numpy as np
import pytest
from agentgym_nethack import DUNGEON, LEVELS, SPECS
from agentgym_nethack.bot import SOLVED
from agentgym_nethack.commands import read
from agentgym_nethack.engine import OPTIONS, Game, Setup
from agentgym_nethack.env import EXAMPLES, again, setup_of
from agentgym_nethack.goals import GOALS as REACHED
from agentgym_nethack.hands import act, question
from agentgym_nethack.levels import FAMILIES, GOALS, compiled, level
from agentgym_nethack.pinned import CONSTANT, library
from agentgym_nethack.vector import _HEAD, SLOT, Request, _answer
from agentgym_nethack.words import inventory
from agentgym_verifiers.intrinsic.curiosity import Curiosity
from agentgym_verifiers.intrinsic.features import hashed

import agentgym
from agentgym.checks import check
from agentgym.core import StopReason
from agentgym.episode import read_episodes
from agentgym.errors import CapabilityError, EnvironmentFault, UnknownName, UsageError
from agentgym.evaluation.run import Plan, evaluate
from agentgym.policies import resolve
from agentgym.vector import ProseVectorEnv

WALKS = ["north", "south", "east", "west", "northeast", "southwest", "far west", "far east", "far south", "search 2", "kick west", "inventory", "look"]


def walk(env, n, seed=0):
    draw, seen = random.Random(seed), []
    for _ in range(n):
        *_, terminated, truncated, info = env.step(draw.choice(WALKS))
        seen.append(info["state_hash"])
        if terminated or truncated:
            break
    return seen


def play(name, *actions, task="", **options):
    env = agentgym.make(f"nethack/{name}", **options)
    env.reset(seed=1, options={"task": task} if task else None)
    return env, [env.step(a) for a in actions]


# Seeds


CODE = """
import agentgym, hashlib, random
env, made = agentgym.make("nethack/score", limits={"max_turns": 10**6, "max_malformed": 10**6}), hashlib.sha256()
draw, number = random.Random(0), 0
env.reset(seed=11)
for _ in range(2000):
    *_, terminated, truncated, info = env.step(draw.choice(%r))
    made.update(info["state_hash"].encode())
    if terminated or truncated:
        number += 1
        env.reset(seed=11 + number)
print(made.hexdigest(), number)
"""


def test_one_seed_is_one_game_in_any_process_at_any_time_and_place():
    said = set()
    for zone, moment in (("UTC", "0"), ("Pacific/Kiritimati", "1"), ("America/New_York", "2")):
        done = subprocess.run([sys.executable, "-c", CODE % WALKS], capture_output=True, text=True, env={**os.environ, "TZ": zone, "PYTHONHASHSEED": moment})
        said.add(done.stdout)
    assert len(said) == 1 and len(said.pop().split()[0]) == 64


def test_other_seeds_are_other_games():
    hashes = {tuple(walk(play("score")[0], 1, n)) for n in range(3)}
    env = agentgym.make("nethack/score")
    assert len({env.reset(seed=n)[1]["state_hash"] for n in range(20)}) > 15 and hashes


def test_the_clock_is_pinned_in_the_library_that_is_played():
    pinned = ctypes.CDLL(library())
    assert {name: getattr(pinned, name)() for name in CONSTANT} == CONSTANT


def test_a_recorded_game_replays_to_the_same_end_and_a_changed_one_does_not():
    env, _ = play("score", "search 20")
    walk(env, 200)
    if env.episode.stop_reason is None:
        env.end(StopReason.MAX_TOKENS)
    kept = env.artefacts["game.json"]
    game = again(kept)
    assert game.digest == env.game.digest and game.text() == env.game.text()
    changed = json.loads(kept)
    changed["keys"][3] = ord("s")
    with pytest.raises(EnvironmentFault, match="came out differently"):
        again(json.dumps(changed).encode())


# What an agent sees and says


def test_the_screen_is_24_lines_and_the_compact_style_is_short():
    env, _ = play("score")
    assert env.game.text().count("\n") == 23 and max(map(len, env.game.text().split("\n"))) <= 80
    short, found = play("score", style="compact")[0], []
    draw = random.Random(2)
    while short.episode.stop_reason is None and len(found) < 300:
        text = short.step(draw.choice([w for w in WALKS if w != "inventory"]))[0]
        found.append(len(re.findall(r"\w+|[^\w\s]{1,3}", text)))
    assert statistics.mean(found) < 120 and max(found) <= 200
    assert re.search(r"health \d+/\d+, .*depth 1, turn \d+", text)


def test_pictures_stand_beside_the_text():
    env = agentgym.make("nethack/room", style="pixels", render_mode="rgb_array")
    observation, _ = env.reset(seed=1)
    assert env.observation_space.contains(observation) and observation["screenshot"].max() > 50
    moved = env.step("east")[0]["screenshot"]
    assert (moved != observation["screenshot"]).any() and (env.render() == moved).all()


def test_an_unknown_action_names_the_nearest_and_spends_no_turn():
    env, _ = play("score")
    before = env.game.digest
    observation, _, terminated, truncated, _ = env.step("noth")
    assert "nearest: north" in observation and env.game.digest == before and not terminated and not truncated
    for line in ("eat", "zap", "far", "search 900", "throw a sideways", "north 3"):
        text = env.step(line)[0]
        assert env.game.stats[20] == 1 and ("error" in text or "?" in text or "have" in text), line
    for _ in range(12):
        if env.episode.stop_reason is None:
            env.step("xyzzy")
    assert env.episode.stop_reason == "parse_error"


def valkyrie():
    game = Game()
    game.start(Setup((1, 1, 1), character="val-dwa-law-fem"))
    return game


def test_questions_are_answered_by_the_action_or_asked_back():
    game = valkyrie()
    assert act(game, read("eat")) == [] and question(game).startswith("What do you want to eat?")
    act(game, read("answer a"))
    assert "cannot eat that" in game.message() and question(game) == ""
    act(game, read("eat d"))
    assert game.inside[7] > 1500  # a whole food ration in one action, its pages read
    act(game, read("pray"))
    assert "sure you want to pray" in question(game)
    turn = game.stats[20]
    act(game, read("search"))  # another command lets the question go
    assert question(game) == "" and game.stats[20] == turn + 1
    pages = act(game, read("inventory"))
    assert any("long sword" in line for line in pages) and not game.asks[2]
    with pytest.raises(Exception, match="asks nothing"):
        act(game, read("answer y"))


def test_menus_are_chosen_from_by_the_action_or_by_an_answer():
    game, found = Game(), level("Room-5x5")
    game.start(Setup((2, 2, 2), found.character, (*OPTIONS, "pettype:none"), False, "Room-5x5"))
    for line in ("drop b", "drop d", "drop e", "pick up"):
        act(game, read(line))
    assert "a - 14 +0 daggers" in question(game)
    act(game, read("answer a b"))
    assert {line[4:] for line in inventory(game)} >= {"14 +0 daggers", "an uncursed potion of sickness"} and question(game) == ""
    act(game, read("pick up all"))
    assert any("lock pick" in line for line in inventory(game))
    act(game, read("apply f"))
    assert "put something in" in question(game)
    for line in ("answer i", "answer a", "answer d"):
        assert "answer esc" in question(game)
        act(game, read(line))
    assert question(game) == "" and not any("potion" in line for line in inventory(game))  # it is in the sack


def test_nothing_can_be_given_a_name():
    env, results = play("skill", "#name<enter>", task="Wield-Fixed.train.0", actions="keys")
    for keys in ("<esc><esc>", "#name<enter>", "i", "a", "dagger (weapon in hand)<enter>", "<esc><esc>", "C", "i", "a", "robe<enter>", "<esc><esc>"):
        if env.episode.stop_reason is None:
            env.step(keys)
    assert not any("named" in line or "called" in line for line in inventory(env.game)) and not env.episode.success
    with pytest.raises(Exception, match="no action"):
        read("name a dagger")


def test_raw_keys_are_raw():
    env, results = play("score", "i", "<esc>", "20s", actions="keys")
    assert "(end)" in results[0][0] and env.game.stats[20] > 1
    with pytest.raises(UnknownName):
        agentgym.make("nethack/score", actions="mouse")


# Tasks


def test_every_level_compiles_begins_and_has_a_goal_that_is_not_reached_yet():
    assert len(DUNGEON) == 7 and len(LEVELS) == 10 and sum(map(len, FAMILIES.values())) >= 30
    games = Game()
    for names in FAMILIES.values():
        for name in names:
            found = level(name)
            assert GOALS.get(name, "stairs") in REACHED
            games.start(Setup((5, 5, 5), found.character, (*OPTIONS, "pettype:none"), False, name))
            assert games.stats[10] > 0 and not games.inside[4]


def test_splits_share_no_game():
    for spec in (SPECS["room"], SPECS["score"]):
        sets = {s: agentgym.make(spec.id, split=s).taskset for s in spec.splits}
        assert {s: len(t) for s, t in sets.items()} == spec.splits
        seeds = [setup_of(t.get(i)).seeds for t in sets.values() for i in list(t.ids())[:40]]
        assert len(set(seeds)) == len(seeds)


def test_a_broken_level_is_a_fault():
    with pytest.raises(EnvironmentFault, match="cannot be compiled"):
        compiled("MAZE: this is none")


@pytest.mark.parametrize("name", ["room", "skill", "score"])
def test_check_passes(name):
    report = check(f"nethack/{name}-v0", tasks=2 if name == "score" else 6)
    assert report.passed, [c for c in report.checks if c.status == "fail"]
    if name == "score":
        assert "honest player is paid" in next(c.detail for c in report.checks if c.name == "oracle")


def test_the_oracle_wins_most_levels_of_its_families_and_says_so_where_it_does_not():
    won = asked = 0
    for family in SOLVED:
        env = agentgym.make(f"nethack/{family}", split="test")
        for task in env.taskset.ids()[: len(FAMILIES[family])]:
            env.reset(options={"task": task})
            asked += 1
            try:
                for action in env.oracle():
                    env.step(action)
            except CapabilityError:
                continue
            assert env.episode.success, task
            won += 1
    assert won >= 0.9 * asked
    env = agentgym.make("nethack/sokoban")
    env.reset(seed=1)
    with pytest.raises(CapabilityError, match="nethack/room"):
        env.oracle()


def test_the_honest_player_goes_deeper_than_chance():
    env, values = agentgym.make("nethack/score", split="test"), {"bot": [], "chance": []}
    for n in range(6):
        for who in values:
            env.reset(options={"task": f"score.test.{n}"})
            for action in env.player() if who == "bot" else random.Random(n).choices(EXAMPLES, k=5000):
                *_, terminated, truncated, _ = env.step(action)
                if terminated or truncated:
                    break
            values[who].append(env.episode.verdicts["task"].value)
    assert statistics.mean(values["bot"]) > statistics.mean(values["chance"]) + 0.03


def test_evaluation_with_an_intrinsic_reward(tmp_path):
    plan = Plan(env="nethack/room-v0", split="test", tasks=6, options={"style": "compact"}, reward="intrinsic")
    result = anyio.run(evaluate, plan, resolve("oracle"), tmp_path / "run")
    assert result.success.mean == 1.0 and result.reward.mean > 1.0


# Snapshots


def test_a_game_goes_on_from_a_snapshot_and_forks_are_its_own():
    env, _ = play("score")
    walk(env, 60)
    point, forks = env.snapshot(), env.fork(2)
    future = walk(env, 40, 9)
    for other in forks:
        assert walk(other, 40, 9) == future
    fresh = agentgym.make("nethack/score")
    fresh.restore(point)
    assert walk(fresh, 40, 9) == future and fresh._measure.state() == env._measure.state()


def test_monte_carlo_credit_of_each_step_comes_from_forks_of_the_game(tmp_path):
    options = {"style": "compact", "kinds": ["Room-Random-5x5"], "limits": {"max_turns": 8}}
    plan = Plan(env="nethack/room-v0", tasks=2, options=options, reward="outcome('task') + delta(late('onward'))")
    result = anyio.run(evaluate, plan, resolve("random"), tmp_path / "run")
    assert result.valid == 2
    episodes = list(read_episodes(tmp_path / "run" / "episodes.jsonl"))
    assert all(t.late["onward"].status == "scored" for e in episodes for t in e.turns)


# Several games


def test_games_in_workers_equal_games_alone():
    n, draw = 5, random.Random(1)
    vector, alone = agentgym.make_vec("nethack/room", n, style="compact"), ProseVectorEnv([agentgym.make("nethack/room", style="compact") for _ in range(n)])
    try:
        assert vector.reset(seed=5)[0] == alone.reset(seed=5)[0]
        for _ in range(150):
            actions = [draw.choice(WALKS) for _ in range(n)]
            one, two = vector.step(actions), alone.step(actions)
            assert one[0] == two[0] and all((a == b).all() for a, b in zip(one[1:4], two[1:4], strict=True))
            assert set(one[4]) == set(two[4]) and list(one[4]["state_hash"]) == list(two[4]["state_hash"])
            assert (one[4]["turn"] == two[4]["turn"]).all() and list(one[4]["verdicts"]["progress"]["value"]) == list(two[4]["verdicts"]["progress"]["value"])
        assert vector.observation_space.contains(one[0])
        with pytest.raises(UsageError, match="3 actions for 5"):
            vector.step(["north"] * 3)
    finally:
        vector.close()


def test_a_worker_that_dies_is_replaced_its_game_is_a_fault_and_no_other_is_touched():
    n = 4
    vector, alone = agentgym.make_vec("nethack/score", n, workers=2), ProseVectorEnv([agentgym.make("nethack/score") for _ in range(n)])
    try:
        vector.reset(seed=3)
        alone.reset(seed=3)
        for _ in range(20):
            vector.step(["search"] * n)
            alone.step(["search"] * n)
        os.kill(vector.workers[0].process.pid, signal.SIGSEGV)
        observations, rewards, terminated, truncated, infos = vector.step(["north"] * n)
        expected = alone.step(["north"] * n)
        (broken,) = np.flatnonzero(np.isnan(rewards))
        assert broken in vector.workers[0].games and truncated[broken] and not terminated.any() and "died" in infos["fault"][broken]
        others = [i for i in range(n) if i != broken]
        assert [observations[i] for i in others] == [expected[0][i] for i in others]
        assert [infos["state_hash"][i] for i in others] == [expected[4]["state_hash"][i] for i in others]
        observations, rewards, *_, infos = vector.step(["north"] * n)
        assert infos["turn"][broken] == 0 and not np.isnan(rewards).any() and all(infos["turn"][i] == 22 for i in others)
    finally:
        vector.close()


def test_an_answer_that_does_not_fit_its_slot_is_a_fault_and_no_reward():
    long = SimpleNamespace(step=lambda action: ("x" * SLOT, 1.0, True, False, {}))
    buffer = memoryview(bytearray(SLOT))
    _answer(long, Request("north"), buffer, 0)
    said, info, reward, end = _HEAD.unpack_from(buffer, 0)
    assert np.isnan(reward) and end == 2 and said == 0
    assert "too long" in msgspec.msgpack.decode(bytes(buffer[_HEAD.size : _HEAD.size + info]))["fault"]


# Intrinsic rewards


FOUNTAINS = """MAZE: "mylevel", ' '
FLAGS:hardfloor
INIT_MAP: solidfill,' '
GEOMETRY:center,center
MAP
.....
.....
.....
ENDMAP
REGION:(0,0,4,2),lit,"ordinary"
FOUNTAIN:(2,1)
BRANCH:(2,0,2,0),(4,2,4,2)
"""


def test_a_fountain_of_random_messages_pays_plain_prediction_error_for_ever_and_its_hindsight_form_not():
    game, folder, said = Game(), compiled(FOUNTAINS), []
    for n in range(250):
        game.start(Setup((n, n, n), "pri-elf-cha-fem", (*OPTIONS, "pettype:none"), False, folder))
        act(game, read("south"))
        for _ in range(6):
            if game.over() or act(game, read("drink")) or not game.asks[0] or "fountain" not in question(game):
                break
            said.append(" ".join([*act(game, read("answer y")), "" if game.over() else game.message()])[:200])
    assert len(said) > 400 and len(set(said)) > 30
    paid = {}
    for form in ("plain", "hindsight"):
        source, draw = Curiosity(form, unscaled=True), random.Random(0)
        errors = []
        for _ in range(300):
            drawn = hashed([draw.choice(said) for _ in range(32)])
            errors.append(float(source.observe(np.stack([hashed(["a fountain"] * 32), hashed(["drink"] * 32), drawn], axis=1)).mean()))
        paid[form] = errors
    assert np.mean(paid["plain"][-30:]) > 0.5 * np.mean(paid["plain"][60:90])
    assert np.mean(paid["hindsight"][-30:]) < 0.4 * np.mean(paid["plain"][-30:])


def test_a_tiny_model_trains_on_rooms_with_an_intrinsic_reward(tmp_path):
    from agentgym_trainers.config import TrainConfig
    from agentgym_trainers.train import train

    config = TrainConfig(
        env="nethack/room", option={"style": "compact", "kinds": ["Room-Random-5x5"], "limits": {"max_turns": 6}}, reward="intrinsic", out=str(tmp_path / "run"), steps=2, groups=2,
        group_size=4, warm_steps=12, warm_tasks=12, eval_tasks=4, max_tokens=12, context=2048, threads=1,
    )  # fmt: skip
    result = train(config, lambda phase, row: None)
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    trained = [r for r in rows if r["phase"] == "train"]
    assert result.steps == 2 and len(trained) == 2 and any(r.get("term:hindsight", 0) > 0 for r in trained)
