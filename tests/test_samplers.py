"""Curricula, samplers and choices: bounded, exact about what they keep, and nothing of a hint or an answer reaches training."""

import math
import random
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import agentgym_trainers
import anyio
import msgspec
import numpy as np
import pytest
from agentgym_trainers.algorithm import resolve
from agentgym_trainers.collect import Collector, Stored, make_curriculum
from agentgym_trainers.config import TrainConfig
from agentgym_trainers.learner import _summary
from agentgym_trainers.paid import paid as read_paid
from agentgym_trainers.rewrite import answer_of, critique_of, parting, scripted, spliced
from agentgym_trainers.run import open_run
from agentgym_trainers.sampler import CHOICES, Eliminate, Growing, Prioritised, Refill, Select, Shuffle, pairs_of, reliability, task_of
from agentgym_trainers.streams import OUTSIDE, outside, valid
from agentgym_trainers.supervised import oracle_episode
from agentgym_trainers.train import train
from hypothesis import given
from hypothesis import strategies as st

from agentgym import make
from agentgym.core import Tokens
from agentgym.episode import Episode, EpisodeStore, Turn, read_episodes
from agentgym.errors import UsageError
from agentgym.rollout import Keep
from agentgym.verdict import EPISODE, Term, Verdict

WARM = str(Path(agentgym_trainers.__file__).parent / "warm")
SMALL = {
    "env": "tools/desk", "option": {"templates": ["set_status", "other_room", "file_mail"], "limits": {"max_turns": 4}}, "model": WARM, "warm_steps": 0,
    "eval_tasks": 2, "groups": 2, "group_size": 4, "max_tokens": 24, "threads": 1, "context": 512, "steps": 1, "seed": 1, "temperature": 0.7,
}  # fmt: skip


def paid(total, id="e", task="t", status="valid"):
    tokens = Tokens([1, 2], [0, 1], [0.0, -1.0], {"temperature": 1.0}, [("0", 1)])
    return Episode(
        id, "x", task, "d", "train", group=task, turns=[Turn([], "a", tokens=tokens)], terms=[Term("o", total, EPISODE, 0)], status=status,
        verdicts={"o": Verdict.scored(float(total > 0.5))},
    )  # fmt: skip


def play(sampler, chance, rounds=64, seed=0):
    """Drive a sampler against tasks that succeed with a probability; what it kept, its note, and how many were sampled of each."""
    rng, have, fresh = random.Random(seed), {}, iter(range(10_000))
    asked = []
    for k in range(rounds):
        wanted = sampler.more(have, lambda n: [f"t{next(fresh)}" for _ in range(n)], k)
        if not wanted:
            break
        asked.append(wanted)
        for task, n in wanted:
            for _ in range(n):
                group = have.setdefault(task, [])
                group.append(paid(float(rng.random() < chance(task)), f"{task}#{len(group)}", task))
    return *sampler.kept(have), have, asked


# Samplers


@given(st.floats(0.2, 0.8), st.integers(0, 50), st.booleans())
def test_reinforce_ada_a_decided_task_is_never_sampled_again_and_no_kept_group_is_flat(chance, seed, balanced):
    sampler = Eliminate(4, 8, rounds=12, balanced=balanced)
    kept, note, have, asked = play(sampler, lambda t: chance, seed=seed)
    for group in have.values():
        before = [group[:n] for n in range(8, len(group), 8)]
        assert not any(sampler.decided(g) for g in before)
        assert len(group) <= 12 * 8
    if not note:
        for task in have:
            returns = [e.total for e in kept if e.task == task]
            assert len(returns) == 8 and (not balanced or sum(r > 0.7 for r in returns) == 4)
    assert all(len([e for e in kept if e.task == t]) <= 8 for t in have)


def test_samplers_that_refill_end_on_a_model_that_never_succeeds_and_say_so():
    for sampler in (Refill(4, 8, rounds=3), Eliminate(4, 8, rounds=3)):
        kept, note, have, asked = play(sampler, lambda t: 0.0)
        assert len(asked) == 3 and note and sum(map(len, have.values())) <= 4 * 8 * 3
    assert play(Refill(4, 8, rounds=3), lambda t: 0.0)[0] == []


def test_dapo_every_trained_group_differs():
    kept, note, _, _ = play(Refill(4, 8, rounds=20), lambda t: 0.5 if int(t[1:]) % 3 else 1.0)
    groups = {t: [e.total for e in kept if e.task == t] for t in {e.task for e in kept}}
    assert len(groups) == 4 and not note and all(len(set(r)) == 2 for r in groups.values())


def test_selection_keeps_what_varies_most_or_is_of_the_right_difficulty():
    chance = {"t0": 0.0, "t1": 0.5, "t2": 1.0, "t3": 0.5}
    assert {e.task for e in play(Select(2, 16), lambda t: chance[t])[0]} == {"t1", "t3"}
    assert {e.task for e in play(Select(2, 16, by="difficulty", aim=0.5), lambda t: chance[t])[0]} == {"t1", "t3"}


# Choices


def test_raft_keeps_the_best_by_verdict_and_never_an_invalid_one():
    group = [paid(x, f"e{x}") for x in (0.2, 0.9, 0.5)] + [paid(5.0, "bad", status="invalid")]
    assert [e.id for e in CHOICES["top"](group, keep=2)] == ["e0.9", "e0.5"]


def test_pf_ppo_the_strategy_is_chosen_by_r_squared_and_keeping_all_is_plain():
    rng = np.random.default_rng(0)
    proxy = rng.uniform(-1, 1, 400)
    true = np.where(np.abs(proxy) > 0.6, proxy, 0) + 0.3 * rng.normal(size=400)  # a reward that is reliable at its ends
    rows = list(zip(proxy, true, strict=True))
    groups = [rows[i : i + 8] for i in range(0, 400, 8)]
    kept = {
        "best": [max(g) for g in groups], "random": [g[int(rng.integers(8))] for g in groups],
        "best_worst": [x for g in groups for x in (max(g), min(g))],
    }  # fmt: skip
    assert max(kept, key=lambda k: reliability(kept[k])) == "best_worst"
    group = [paid(x, f"e{x}") for x in (0.1, 0.4, 0.6, 0.9)]
    assert [e.total for e in CHOICES["best_worst"](group, keep=2)] == [0.9, 0.1] and CHOICES["all"](group) == group
    assert [e.total for e in CHOICES["best_worst"](group, keep=9)] == sorted((e.total for e in group), reverse=True)


def test_rso_accepted_samples_follow_the_tilted_policy():
    rewards, prior, beta = np.array([0.0, 0.5, 1.0]), np.array([0.6, 0.3, 0.1]), 0.5
    rng = np.random.default_rng(0)
    drawn = rng.choice(3, 6000, p=prior)
    group = [paid(float(rewards[k]), f"e{i}") for i, k in enumerate(drawn)]
    kept = np.array([e.total for e in CHOICES["accepted"](group, beta=beta)])
    found = np.array([(kept == r).mean() for r in rewards])
    target = prior * np.exp(rewards / beta)
    assert np.allclose(found, target / target.sum(), atol=0.03)
    assert len(CHOICES["accepted"](group, beta=1000.0)) > 0.99 * len(group)


def test_pairs_are_of_one_group_and_differ():
    group = [paid(x, f"e{i}") for i, x in enumerate((0.0, 1.0, 1.0, 0.5))]
    assert [(a.total, b.total) for a, b in pairs_of(group)] == [(1.0, 0.0)] and len(pairs_of(group, "all")) == 5
    assert pairs_of(group[1:3]) == [] and pairs_of(group[:1], "all") == []


# Curricula


def test_the_shuffle_is_a_function_of_how_many_were_drawn():
    ids = [f"t{i}" for i in range(7)]
    a, b = Shuffle(ids, 3), Shuffle(ids, 3)
    first = a.draw(10)
    b.load_state(a.state())
    assert a.draw(5) == b.draw(5) == [task_of(ids, 3, n) for n in range(10, 15)] and sorted(first[:7]) == ids


@given(st.lists(st.tuples(st.integers(0, 39), st.floats(0, 1)), max_size=300))
def test_qweb_the_level_rises_with_success_and_never_skips(seen):
    ids = [f"t{i}" for i in range(40)]
    growing = Growing(ids, 0, lambda t: int(t[1:]) // 10, levels=4, threshold=0.7, window=8)
    levels = [growing.level]
    for at, reward in seen:
        task = growing.draw(1)[0]
        assert growing.level_of[task] <= growing.level
        growing.learn(task, [reward, float(at % 2)])
        assert growing.level - levels[-1] in (0, 1)
        levels.append(growing.level)
    for _ in range(40):
        growing.learn(next(t for t in growing.level_of if growing.level_of[t] == growing.level), [1.0] * 8)
    assert growing.level == 3
    before = growing.state()
    again = Growing(ids, 0, lambda t: int(t[1:]) // 10, levels=4, threshold=0.7, window=8)
    again.load_state(before)
    assert again.draw(6) == growing.draw(6)


def test_qweb_levels_of_a_real_environment_are_by_the_length_of_scripted_solutions_that_pass():
    config = TrainConfig(env="tools/desk", algo="qweb", option={"templates": ["set_status", "close_by_title", "other_room"]})
    env = make("tools/desk", **config.option)
    growing = make_curriculum(resolve("qweb"), config, env)
    length = {level: set() for level in set(growing.level_of.values())}
    for task, level in list(growing.level_of.items())[:: max(1, len(growing.level_of) // 12)]:
        e = oracle_episode(env, task)
        assert e.success
        length[level].add(len(e.turns))
    shown = [v for _, v in sorted(length.items()) if v]
    assert len(shown) >= 2 and all(max(a) < min(b) for a, b in pairwise(shown))


def test_priorities_follow_difficulty_and_regret():
    ids = ["easy", "middling", "hard"]
    for by, most in (("difficulty", "middling"), ("regret", "hard")):
        p = Prioritised(ids, 0, by, fresh=0.0)
        for task, rewards in (("easy", [1.0] * 4), ("middling", [0.5] * 4), ("hard", [0.0] * 4)):
            p.learn(task, rewards)
        drawn = [p.draw(1)[0] for _ in range(300)]
        assert max(ids, key=drawn.count) == most and drawn.count("easy") < 10


def test_words_as_beacons_subgoals_pay_once_and_evaluation_is_by_outcome(tmp_path):
    found = resolve("words_as_beacons")
    assert found.reward == "stepwise"
    result = train(TrainConfig(**SMALL, algo="words_as_beacons", out=str(tmp_path / "r")), lambda *a: None)
    assert result.reward == "stepwise"
    for e in read_episodes(tmp_path / "r" / "episodes.jsonl"):
        milestones = [t for t in e.terms if t.place.turn is not None]
        assert sum(t.value for t in milestones) <= 1.0 + 1e-9
    plan = (tmp_path / "r" / "config.toml").read_text()
    assert "eval_split" in plan and result.before.success.mean <= 1.0


def test_train_long_think_short_the_budget_follows_its_schedule(tmp_path):
    config = TrainConfig(
        **{**SMALL, "max_tokens": 64}, algo="tightening", set={"budget.max_tokens": [40, 10, 3], "budget.max_turns": [6, 2, 3]}, out=str(tmp_path / "r")
    )
    algorithm = resolve("tightening", config.set)
    run = open_run(config, algorithm)
    collector = Collector(run, config, algorithm, Keep())
    assert [collector._budget(k) for k in range(5)] == [({"max_turns": a}, b) for a, b in ((6, 40), (5, 30), (3, 20), (2, 10), (2, 10))]
    run.curriculum = make_curriculum(algorithm, config, run.env)
    late = anyio.run(collector.step, 4)
    assert max(sum(t.tokens.mask) for e in late for t in e.turns) <= 10 and max(len(e.turns) for e in late) <= 2
    from agentgym.rewards import load

    spec = load("outcome('task') + gate(0.2 * budget(400, buffer=200), by=outcome('task'))")
    pays = {(n, ok): reward_of(spec, n, ok) for n in (50, 300, 500) for ok in (0.0, 1.0)}
    assert pays[50, 1.0] >= pays[300, 1.0] > pays[500, 1.0] and pays[50, 0.0] <= pays[500, 1.0]  # stopping early with a wrong answer pays nothing


def reward_of(spec, tokens, outcome):

    e = paid(0.0)
    e.turns[0].tokens = Tokens([1] * tokens, [1] * tokens, [0.0] * tokens, {"temperature": 1.0}, [("0", tokens)])
    e.verdicts, e.stop_reason = {"task": Verdict.scored(outcome)}, "done"
    return sum(t.value for t in spec.settle([e])[0])


# Hints and splices


@pytest.mark.parametrize("name", ["critique_grpo", "expo"])
def test_nothing_of_a_hint_reaches_the_training_input(name, tmp_path):
    """A model that fails most tasks is told how they are done; the prompt it is trained on is the environment's own."""
    config = TrainConfig(
        **{**SMALL, "option": {"templates": ["close_by_title"], "limits": {"max_turns": 2}}, "temperature": 1.0}, algo=name, out=str(tmp_path / "r")
    )
    algorithm = resolve(name)
    run = open_run(config, algorithm)
    run.curriculum = make_curriculum(algorithm, config, run.env)
    with EpisodeStore(tmp_path / "kept.jsonl") as store:
        collector = Collector(run, config, algorithm, Keep(store))
        episodes = anyio.run(collector.step, 0)
    told = [e for e in episodes if any(v == str(OUTSIDE) for t in e.turns for v, _ in t.tokens.weight_versions)]
    assert told and len({e.task for e in told}) == len({e.task for e in episodes if e.task in {t.task for t in told}})
    decode = run.renderer.tokenizer.decode
    hints = {e.task: answer_of(collector.demonstrator, e.task) for e in told}
    tools = [t.spec for t in run.env.tools.values()]
    for e in told:
        first = e.turns[0]
        prompt = [i for i, m in zip(first.tokens.ids, first.tokens.mask, strict=True) if not m]
        assert prompt == run.renderer.open(tools, first.observation)
        text = decode(prompt)
        assert "earlier attempt" not in text and "This works" not in text and not any(line in text for line in hints[e.task].splitlines()[1:])
        assert valid(e) and e.verdicts  # its own verdict, by the verifier, again
    assert not any(e.success for e in episodes if e.task in {t.task for t in told} and e not in told)  # only groups without a pass
    kept = {e.id: e.provenance.get("hint", "") for e in read_episodes(tmp_path / "kept.jsonl")}  # as played, so with the hint: they say so
    assert {i for i, hint in kept.items() if hint} == {e.id for e in told} and set(kept.values()) == {"", algorithm.hint}
    (tmp_path / "kept.jsonl").rename(tmp_path / "episodes.jsonl")
    assert not {e.id for group in Stored(str(tmp_path), collector).groups.values() for e in group} & {e.id for e in told}
    row = _summary(episodes, read_paid(episodes))
    assert row["success"] == sum(e.success for e in episodes if e not in told) / sum(e not in told for e in episodes)


def test_a_critique_says_what_was_seen():
    e = paid(0.0)
    e.verdicts = {"o": Verdict("scored", 0.0, critique="The room is wrong.")}
    e.closing = [{"role": "user", "content": "room 4 booked"}]
    assert "The room is wrong." in critique_of(e) and "room 4 booked" in critique_of(e)


def test_agent_r_a_splice_is_executable_both_halves_share_a_state_and_the_recovery_is_learned(tmp_path):
    env = make("tools/desk")
    task = "close_by_title.train.0"
    good = oracle_episode(env, task)
    good = msgspec.structs.replace(good)
    actions = [t.action for t in good.turns]
    bad = scripted([actions[0], "I do not know.", "I do not know.", "I do not know."], make("tools/desk", limits={"max_turns": 4}), task, 0)
    tokens = Tokens([1, 2], [0, 1], [0.0, -1.0], {"temperature": 1.0}, [("0", 1)])
    for e in (good, bad):
        for t in e.turns:
            t.tokens = tokens
    assert not bad.success and good.success and parting(bad, good) == 1
    made, wrong = spliced(bad, good, env)
    assert [t.action for t in made.turns] == [actions[0], "I do not know.", *actions[1:]] and made.success and wrong == 2
    assert spliced(good, good, env) is None and spliced(bad, bad, env) is None
    config = TrainConfig(**{**SMALL, "option": {"templates": ["close_by_title"]}}, algo="agent_r", out=str(tmp_path / "r"))
    collector = Collector(open_run(config, resolve("agent_r")), config, resolve("agent_r"), Keep())
    for e in (good, bad):
        e.group = "g"
    (taught,) = [e for e in collector.picked([good, bad]) if e.id not in (good.id, bad.id)]
    assert [any(t.tokens.mask) for t in taught.turns] == [False, False, *[True] * len(actions[1:])] and valid(taught) and outside(taught)
    assert taught.total == good.total == 1.0 and taught.group == "g"


def test_stored_episodes_alone_train(tmp_path):
    train(TrainConfig(**{**SMALL, "steps": 2}, algo="grpo", out=str(tmp_path / "live")), lambda *a: None)
    for name in ("topr", "raft", "dpo"):
        result = train(TrainConfig(**{**SMALL, "steps": 2}, algo=name, data=str(tmp_path / "live"), out=str(tmp_path / name)), lambda *a: None)
        assert result.tokens_generated == 0 and result.tokens_trained > 0 and not list(read_episodes(tmp_path / name / "episodes.jsonl"))
    paid_again = Collector(open_run(config := TrainConfig(**SMALL, reward="stepwise", out=str(tmp_path / "s")), grpo := resolve("grpo")), config, grpo, Keep())
    stored = Stored(str(tmp_path / "live"), paid_again).groups
    plain = {e.id: e for e in read_episodes(tmp_path / "live" / "episodes.jsonl")}
    assert any(e.terms != plain[e.id].terms for group in stored.values() for e in group)
    with pytest.raises(UsageError, match="not of tools/other-v0"):
        paid_again.run.env = SimpleNamespace(id="tools/other-v0")
        Stored(str(tmp_path / "live"), paid_again)
    with pytest.raises(UsageError, match=r"episodes\.jsonl"):
        train(TrainConfig(**SMALL, algo="topr", data=str(tmp_path), out=str(tmp_path / "no")), lambda *a: None)
    assert math.isfinite(result.after.success.mean)
