"""Worlds of text: each passes the audit, is what its library is, goes on from a snapshot, and says what is wrong in one line."""

import os
import random
import shutil
import subprocess
import sys
import threading

import msgspec
import pytest
from agentgym_text.bandit import ARMS
from agentgym_text.corpus import corpus
from agentgym_text.domains import DOMAINS, question

import agentgym
from agentgym.checks import check
from agentgym.errors import EnvironmentFault, MissingExtra, UnknownName, UsageError
from agentgym.messages import call

WORLDS = {"text/world-v0": 3, "text/science-v0": 1, "text/bandit-v0": 12, "text/search-v0": 12, "text/sql-v0": 12, "text/malloc-v0": 12, "text/rooms-v0": 12}


def play(env, task, actions=None, seed=0):
    env.reset(seed=seed, options={"task": task})
    for action in env.oracle() if actions is None else actions:
        *_, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            break
    return env.episode


@pytest.mark.parametrize("env", WORLDS)
def test_a_world_passes_the_audit(env):
    report = check(env, tasks=WORLDS[env])
    assert report.passed, [c for c in report.checks if c.status == "fail"]


@pytest.mark.parametrize("env", WORLDS)
def test_a_long_episode_goes_on_from_a_snapshot_in_its_middle(env):
    options = {"text/world-v0": {"levels": 6}, "text/bandit-v0": {"horizon": 40}, "text/rooms-v0": {"rooms": 20}}.get(env, {})
    one = agentgym.make(env, **options)
    task = one.taskset.ids()[0]
    whole = len(play(one, task).turns)
    one.reset(seed=0, options={"task": task})
    script = list(islice_of(one, whole))
    for action in script[: whole // 2]:
        one.step(action)
    two = one.fork(1)[0]
    for action in script[whole // 2 :]:
        a, b = one.step(action), two.step(action)
        assert a[:4] == b[:4] and a[4]["state_hash"] == b[4]["state_hash"]
    assert one.episode.success and two.episode.success


def islice_of(env, n):
    fresh = type(env)(**env._options)
    for action, _ in zip(play(fresh, env.task.id).turns, range(n), strict=False):
        yield action.action


@pytest.mark.parametrize("env", ["text/world", "text/science", "text/bandit"])
def test_thirty_turns_and_more(env):
    made = agentgym.make(env, **{"text/bandit": {"horizon": 60}, "text/world": {"levels": 7}}.get(env, {}))
    made.reset(seed=1)
    for i in range(32):
        assert made.episode.stop_reason is None, i
        made.step(made.choices()[0] if env == "text/bandit" else "look" if env == "text/world" else "look around")


# TextWorld


def test_the_goal_is_told_and_the_way_is_not():
    env = agentgym.make("text/world", levels=5, facts=True)
    said, _ = env.reset(seed=0, options={"task": env.taskset.ids()[0]})
    assert "TextWorld" in said or "objective" in said or "goal" in said
    way = play(agentgym.make("text/world", levels=5), env.task.id).turns
    assert len(way) >= 4 and way[-1].action not in said and way[-2].action not in said.partition("\n\n")[2]
    env.step("look")
    assert env.episode.turns[0].facts["world"] and not any(f in said for f in env.episode.turns[0].facts["world"])


def test_a_game_is_what_textworld_itself_plays():
    from agentgym_text.world import _clean, start

    env = agentgym.make("text/world", levels=3)
    task = env.taskset.ids()[0]
    theirs = start(env.taskset.get(task))
    theirs.reset()
    env.reset(seed=0, options={"task": task})
    for action in list(env.choices())[:6]:
        ours, *_ = env.step(action)
        state, _, done = theirs.step(action)
        assert ours == _clean(state.feedback)
        if done:
            break


def test_progress_falls_when_one_walks_away_and_a_level_is_a_kind():
    env = agentgym.make("text/world", levels=[4, 5])
    assert {env.taskset[i].kind for i in range(4)} == {"level-4", "level-5"}
    env.reset(seed=0, options={"task": env.taskset.ids()[0]})
    levels = [env.step(a)[4]["verdicts"]["progress"]["value"] for a in islice_of(env, 3)]
    assert levels == sorted(levels) and levels[0] > 0
    with pytest.raises(UnknownName):
        agentgym.make("text/world", levels=99)


def test_a_damaged_game_is_a_typed_fault_and_is_made_anew(tmp_path, monkeypatch):
    from agentgym_text import world

    monkeypatch.setattr(world, "folder", lambda: tmp_path)
    env = agentgym.make("text/world", levels=1)
    task = env.taskset.ids()[0]
    assert play(env, task).success
    path = next(tmp_path.glob("*/game.z8"))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(EnvironmentFault, match="damaged"):
        env.reset(seed=0, options={"task": task})
    assert play(agentgym.make("text/world", levels=1), task).success


# ScienceWorld


def test_without_java_one_line_says_what_to_install(tmp_path):
    (tmp_path / "bin").mkdir()
    path = f"{tmp_path / 'bin'}"
    done = subprocess.run(
        [sys.executable, "-m", "agentgym", "eval", "--env", "text/science", "--policy", "noop", "--tasks", "1"],
        capture_output=True,
        text=True,
        env={**os.environ, "PATH": path},
    )
    assert done.returncode == 3 and done.stderr.strip() == (
        "agentgym: a Java runtime is not installed; run: apt-get install -y --no-install-recommends default-jre-headless"
    )


def test_laboratories_do_not_disturb_each_other():
    """Eight experiments at once, on threads, go as each goes alone."""
    kinds = ("boil", "melt", "find-animal", "use-thermometer")

    def said(kind):
        env = agentgym.make("text/science", kinds=kind)
        return [t.state_hash for t in play(env, env.taskset.ids()[0]).turns]

    alone, found = {k: said(k) for k in kinds}, {}
    threads = [threading.Thread(target=lambda k=k, i=i: found.__setitem__((k, i), said(k))) for k in kinds for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(found[k, i] == alone[k] for k in kinds for i in range(2))


def test_the_score_of_sub_goals_gives_the_step_terms_and_a_dead_simulator_is_a_fault():
    env = agentgym.make("text/science", kinds="boil", reward="stepwise")
    episode = play(env, env.taskset.ids()[0])
    gains = [t.value for t in episode.terms if t.source.startswith("delta") or "progress" in t.source]
    assert episode.success and sum(g > 0 for g in gains) >= 3 and any(done for _, done in env.goals())
    env.reset(seed=0, options={"task": env.taskset.ids()[0]})
    env._lab.process.process.kill()
    env._lab.process.process.wait()
    with pytest.raises(EnvironmentFault, match="simulator"):
        env.step("look around")
    env = agentgym.make("text/science", kinds="boil")
    assert play(env, env.taskset.ids()[0]).success


def test_java_is_missing_is_told_where_it_is_made(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(MissingExtra, match="Java"):
        agentgym.make("text/science")


# Bandits


def bandit(policy, seed, **options):
    env = agentgym.make("text/bandit", **options)
    env.reset(seed=seed, options={"task": env.taskset.ids()[seed]})
    script = policy(env)
    while env.episode.stop_reason is None:
        env.step(next(script))
    return env.episode.verdicts["result"]


def greedy(env):
    yield from env.choices()
    while True:
        yield env._best_so_far()[0]


def at_random(env):
    dice = random.Random(1)
    while True:
        yield dice.choice(env.choices())


def test_trained_at_a_horizon_evaluated_at_six_times_it_with_early_failures_and_greedy_choices():
    """Greedy fails early more often than UCB1, which its mean regret alone would not show; a longer horizon has less regret a pull."""
    ucb = [bandit(lambda e: e.player(), s, arms=5, horizon=180) for s in range(16)]
    greed = [bandit(greedy, s, arms=5, horizon=180) for s in range(16)]
    short = [bandit(lambda e: e.player(), s, arms=5, horizon=30) for s in range(16)]

    def mean(verdicts, name):
        return sum(v.evidence[name] for v in verdicts) / len(verdicts)

    assert mean(greed, "early_failure") > mean(ucb, "early_failure") == 0 and mean(greed, "greedy_rate") > 0.9 > mean(ucb, "greedy_rate")
    assert mean(ucb, "regret_per_pull") < mean(short, "regret_per_pull")
    assert sum(bandit(at_random, s).value for s in range(10)) / 10 < 0.3 < sum(v.value for v in ucb) / 16


def test_the_shaped_rewards_rank_arms_as_the_raw_one():
    env = agentgym.make("text/bandit", arms=4, horizon=400)
    env.reset(seed=3, options={"task": env.taskset.ids()[0]})
    means = dict(zip(env.task.data["arms"], env.task.data["means"], strict=True))
    paid, near = {a: 0.0 for a in means}, {}
    for _ in range(100):
        for arm in means:
            verdicts = env.step(arm)[4]["verdicts"]
            paid[arm] += verdicts["pay"]["value"]
            near[arm] = verdicts["nearness"]["value"]
    rank = sorted(means, key=means.__getitem__)
    assert sorted(near, key=near.__getitem__) == rank and max(paid, key=paid.__getitem__) == rank[-1]
    assert {"raw", "regret", "imitation"} <= set(env.rewards)


def test_other_luck_is_another_bandit():
    env = agentgym.make("text/bandit", arms=3)
    env.reset(seed=0)
    arm = env.choices()[0]
    paid = [tuple(fork.step(arm)[4]["verdicts"]["pay"]["value"] for _ in range(12)) for fork in env.fork(6, reseed=3)]
    assert len(set(paid)) > 1 and env.fork(1, reseed=3)[0].step(arm)[0] == env.fork(1, reseed=3)[0].step(arm)[0]


def test_imitation_pays_who_does_as_ucb_would():
    env = agentgym.make("text/bandit", reward="imitation", horizon=30)
    env.reset(seed=0)
    script, total = env.player(), 0.0
    while env.episode.stop_reason is None:
        total += env.step(next(script))[1]
    assert total == pytest.approx(3.0)
    with pytest.raises(UsageError, match="pulls"):
        agentgym.make("text/bandit", horizon=1)


def test_an_arm_that_is_none_is_no_pull():
    env = agentgym.make("text/bandit")
    env.reset(seed=0)
    said, reward, *_ = env.step("grey")
    assert said.startswith("error: 'grey' is none of the arms") and reward == 0 and "grey" not in ARMS


# Search


def test_the_index_finds_by_bm25_and_the_answer_needs_every_hop():
    library = corpus("library/train")
    title = next(iter(library.documents))
    assert library.search(title)[0][0] == title and library.search("") == [] and library.search('"; DROP TABLE documents') is not None
    env = agentgym.make("text/search", hops=3)
    for i in range(20):
        task = env.taskset[i]
        first, answer = library.documents[task.data["titles"][0]], task.data["answer"]
        assert len(task.data["titles"]) == 3 and answer in library.documents[task.data["titles"][-1]] and answer not in first


def test_a_wrong_answer_pays_nothing_and_what_is_not_there_is_refused():
    env = agentgym.make("text/search")
    episode = play(env, env.taskset.ids()[0], [call("read", title="No Such Thing"), call("answer", value="nobody")])
    assert "no document" in episode.turns[1].observation[0]["content"] and episode.verdicts["answer"].value == 0


# SQL


def test_every_question_has_an_answer_that_other_rows_would_not_give():
    for domain in DOMAINS:
        for i in range(20):
            asked = question(domain, f"train/{domain}-{i:04d}")
            assert asked.tables and "{" not in asked.text + asked.query


def test_a_query_with_the_rows_copied_into_it_does_not_pass():
    env = agentgym.make("text/sql", domains="shop")
    task = env.taskset.ids()[0]
    found = play(env, task).verdicts["answer"]
    assert found.value == 1.0
    from agentgym_text.domains import database, rows_of

    rows = rows_of(database("shop", task), env.task.data["query"])
    copied = " UNION ALL ".join("SELECT " + ", ".join(repr(v) for v in row) for row in rows)
    verdict = play(env, task, [call("answer", query=copied)]).verdicts["answer"]
    assert verdict.value == 0.0 and verdict.evidence["shown"] == 1.0 and verdict.evidence["other"] == 0.0


@pytest.mark.parametrize("line", ["\x00\ud7ff", "x" * 5000, "ὅδος", "<|im_end|>", "", "restart", "save", "quit", "transcript"])
def test_what_would_hang_or_reach_out_of_the_interpreter_never_gets_to_it(line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    env = agentgym.make("text/world", levels=1)
    env.reset(seed=0, options={"task": env.taskset.ids()[0]})
    said = env.step(line)[0]
    assert said.startswith(("error: a command is", "That is not possible")) and not list(tmp_path.iterdir())


@pytest.mark.parametrize("sql", ["DROP TABLE customers", "SELECT load_extension('x')", "ATTACH 'x' AS y", "PRAGMA query_only = off", "SELEC"])
def test_nothing_but_reading_is_allowed(sql):
    env = agentgym.make("text/sql", domains="shop")
    episode = play(env, env.taskset.ids()[0], [call("query", sql=sql), call("query", sql="SELECT COUNT(*) FROM customers")])
    assert episode.turns[1].observation[0]["content"].startswith("error: ") and env._shown.messages[0]["content"].endswith("30")


def test_a_query_that_does_not_end_is_stopped():
    env = agentgym.make("text/sql")
    endless = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT COUNT(*) FROM n"
    episode = play(env, env.taskset.ids()[0], [call("query", sql=endless), call("answer", query=endless)])
    assert "interrupted" in episode.turns[1].observation[0]["content"] and episode.verdicts["answer"].value == 0


# Horizons, and crowds


@pytest.mark.parametrize("env", ["text/world", "text/search", "arena/board"])
def test_a_curriculum_that_grows_begins_with_short_tasks(env):
    from agentgym_trainers.algorithm import resolve
    from agentgym_trainers.collect import make_curriculum
    from agentgym_trainers.config import TrainConfig

    option = {"text/world": {"levels": [1, 2, 4]}, "arena/board": {"games": ["tictactoe", "connect_four"]}}.get(env, {})
    config = TrainConfig(env=env, option=option, algo="grpo", set={"curriculum": "growing"})
    curriculum = make_curriculum(resolve("grpo", {"curriculum": "growing"}), config, agentgym.make(env, **option))
    kinds = {agentgym.make(env, **option).taskset.get(t).kind for t in curriculum.draw(4)}
    assert len(kinds) == 1 or kinds <= {"2-hop", "3-hop"}


def test_a_thousand_episodes_fit_into_one_process():
    code = (
        "import agentgym, pathlib, re\n"
        "for env in ('text/bandit', 'text/search', 'text/sql', 'arena/negotiate'):\n"
        "    envs = [agentgym.make(env) for _ in range(250)]\n"
        "    [e.reset(seed=i, options={'task': e.taskset.ids()[i % 50]}) for i, e in enumerate(envs)]\n"
        "    globals()[env] = envs\n"
        "print(int(re.search(r'VmHWM:\\s*(\\d+)', pathlib.Path('/proc/self/status').read_text())[1]) / 1024)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 2048


def test_what_a_record_holds_is_json():
    env = agentgym.make("text/world", levels=2)
    msgspec.json.encode(play(env, env.taskset.ids()[0]))


# Memory mapping


def test_a_better_mapping_scores_higher_and_an_infeasible_one_nothing():
    def worth(policy):
        env = agentgym.make("text/malloc", buffers=12)
        env.reset(seed=0, options={"task": "train/0003"})
        for action in policy(env):
            if env.step(action)[2]:
                break
        return env.episode.verdicts["result"].value

    def without(n):
        def policy(env):
            for i, action in enumerate(list(zip(range(len(env._buffers)), env.oracle(), strict=False))):
                yield "slow" if i < n else action[1]

        return policy

    ladder = [worth(without(n)) for n in (0, 2, 5, 18)]
    assert ladder[0] == 1.0 and ladder == sorted(ladder, reverse=True) and ladder[-1] == 0.0
    assert 0 < worth(lambda env: env.player()) < 1 and worth(lambda env: iter(["at 0"] * 40)) == 0.0 and worth(lambda env: iter(["at 99"])) == 0.0


def test_nothing_can_save_more_than_the_best_mapping():
    """It fills all of memory at all times with what saves most: the bound of the fractional problem."""
    from agentgym_text.malloc import BEST, MEMORY, TIME, Buffer, clash

    env = agentgym.make("text/malloc")
    for i in range(40):
        buffers = [Buffer(*b) for b in env.taskset[i].data["buffers"]]
        best = [b for b in buffers if b.place >= 0]
        assert not clash(buffers, [b.place for b in buffers])
        assert sum(b.saves for b in best) == BEST * MEMORY * TIME == sum(BEST * b.size * (b.end - b.start) for b in best)
        assert all(b.saves < BEST * b.size * (b.end - b.start) for b in buffers if b.place < 0)


def test_the_radio_never_says_the_same_twice_and_no_room_tells_which_is_the_way_back():
    env = agentgym.make("text/rooms", rooms=12, maps=1)
    seen = {}
    for task in ("train/0000", "train/0001"):
        env.reset(options={"task": task})
        said = [env.step("listen")[0] for _ in range(20)]
        assert len(set(said)) > 18 and env.episode.turns[-1].facts["listened"] == 1.0
        seen[task] = said
    assert seen["train/0000"] != seen["train/0001"], "the world is the same, the noise is not"
    env.step(next(env.oracle()))
    assert "listen" not in env.choices() and env.step("listen")[0].startswith("error")
    other = agentgym.make("text/rooms", rooms=20)
    order = ("north", "south", "east", "west", "listen")
    for i in range(20):
        env.reset(options={"task": f"train/{i:04d}"})
        other.reset(options={"task": f"train/{i:04d}"})
        assert list(other.choices()) == sorted(other.choices(), key=order.index)
        assert len(play(other, f"train/{i:04d}", other.player()).turns) <= 2 * 20 + 1 and other.episode.success
    with pytest.raises(UsageError, match="3 to 30 rooms"):
        agentgym.make("text/rooms", rooms=2)
    assert "listen" not in agentgym.make("text/rooms", radio=False).reset(seed=1)[0]


def test_libraries_share_no_question_and_the_first_is_the_only_one_by_default():
    one, many = (agentgym.make("text/search", hops=2, hits=2, libraries=n) for n in (1, 3))
    assert len(many.taskset) == 3 * len(one.taskset) and set(one.taskset.ids()) < set(many.taskset.ids())
    asked = [many.taskset.get(f"{place}/0000-2") for place in ("train", "train.1", "train.2")]
    assert len({t.instruction for t in asked}) == 3 and asked[0].digest == one.taskset.get("train/0000-2").digest
    many.reset(options={"task": "train.2/0000-2"})
    assert many.step(next(many.oracle()))[0].count("…") == 2
    assert play(many, "train.2/0000-2").success
    with pytest.raises(UsageError, match="1 to 20"):
        agentgym.make("text/search", hits=0)


def test_a_shared_library_has_the_same_documents_in_every_split_and_no_question_twice():
    splits = {s: agentgym.make("text/search", hops=2, shared=True, split=s) for s in ("train", "dev", "test")}
    asked = {s: [env.taskset.get(i) for i in env.taskset.ids()] for s, env in splits.items()}
    assert len({t.data["corpus"] for tasks in asked.values() for t in tasks}) == 1
    said = {s: {t.instruction for t in tasks} for s, tasks in asked.items()}
    assert not said["train"] & said["test"] and not said["train"] & said["dev"] and not said["dev"] & said["test"]
    assert play(splits["test"], "test.all/0000-2").success
