"""How verifiers are measured: probes that change nothing or everything, accuracy, calibration, the best of n, distances of rewards."""

import json
import math
from pathlib import Path

import anyio
import msgspec
import numpy as np
import pytest
from agentgym_trainers.teach import Example, pairs_of, parted
from agentgym_verifiers.credit import branches
from agentgym_verifiers.judges.env import borne_out
from agentgym_verifiers.process import refinement
from agentgym_verifiers.process.sneak import duel, rounds
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted import Model, episode, score, view

import agentgym
from agentgym.cli.main import guarded as main
from agentgym.core import Task
from agentgym.episode import encode, read_episodes
from agentgym.errors import CapabilityError, UsageError
from agentgym.evaluation.probes import INJECTED, SAME, corrupted, probe_set, sneaky, under
from agentgym.evaluation.regrade import Environments
from agentgym.evaluation.verifiers import (
    Judged,
    best_of_n,
    calibration,
    first_error,
    kappa,
    one_against_many,
    over_optimisation,
    pair_accuracy,
    probes,
    rank_correlation,
    spec_of,
    starc,
    summed_up,
    view_of,
)
from agentgym.messages import call
from agentgym.policies import resolve
from agentgym.policies.search import Lookahead, Proposal, Refined, utility
from agentgym.verdict import Verdict


def oracle(task="close_by_title.dev.0", seed=1):
    env = agentgym.make("tools/desk", split="dev")
    env.reset(seed=seed, options={"task": task})
    for action in env.oracle():
        env.step(action)
    return env.episode


def rows(values, labels, task=None, **more):
    return [
        Judged(episode(["a"], id=str(i), task=task or f"t{i}"), v, more.get("turns", []), y, "plain", str(i))
        for i, (v, y) in enumerate(zip(values, labels, strict=True))
    ]


# Probes


@pytest.fixture(scope="module")
def probed():
    tasks = ["close_by_title.dev.0", "file_mail.dev.0", "set_status.dev.1", "room_by_title.dev.2"]
    made = [msgspec.structs.replace(oracle(t, i), id=f"{t}#{i}") for i, t in enumerate(tasks)]
    return list(probe_set([*made, episode(['<tool_call>{"name": "nothing", "arguments": {}}</tool_call>', "bye"], id="bad", success=False, task="bad")]))


def test_a_probe_set_holds_every_kind_with_the_label_of_the_rule(probed):
    names = {e.provenance["probe"]["name"] for e in probed}
    assert names == {"plain", "noise", "layout", "paraphrase", "length", "format", "injection", "mismatch", "mistake"}
    plain = {e.id: e for e in probed if e.provenance["probe"]["name"] == "plain"}
    for e in probed:
        about = e.provenance["probe"]
        same = about["name"] in SAME or about["name"] == "plain"
        assert about["label"] == (float(plain[about["of"]].success) if same else 0.0) and (e.id == about["of"]) == (about["name"] == "plain")
        assert about["name"] in ("plain", "mistake") or all(t.tokens is None for t in e.turns)  # ids that were sampled belong to other words


def test_what_must_not_change_a_verdict_changes_what_it_says_it_does_and_nothing_else(probed):
    by = {}
    for e in probed:
        by.setdefault(e.provenance["probe"]["of"], {})[e.provenance["probe"]["name"]] = e
    for group in by.values():
        plain = group["plain"]
        actions = [t.action for t in plain.turns]
        assert [t.action for t in group["noise"].turns] == actions == [t.action for t in group["paraphrase"].turns]
        assert group["paraphrase"].turns[0].observation != plain.turns[0].observation
        assert all(c.arguments == d.arguments for t, u in zip(plain.turns, group["length"].turns, strict=True) for c, d in zip(t.calls, u.calls, strict=True))
        assert sum(len(t.action) for t in group["length"].turns) > 2 * sum(map(len, actions))
        assert "## Step" in group["format"].turns[0].action or plain.id == "bad"
        if "injection" in group:
            assert INJECTED in group["injection"].turns[-1].action


def test_a_mistake_was_played_and_fails_and_its_turn_is_known(probed):
    mistakes = [e for e in probed if e.provenance["probe"]["name"] == "mistake"]
    plain = {e.id: e for e in probed}
    assert len(mistakes) >= 3
    for e in mistakes:
        at, right = e.provenance["probe"]["first_wrong"], plain[e.provenance["probe"]["of"]]
        assert not e.success and right.success
        assert [t.action for t in e.turns[:at]] == [t.action for t in right.turns[:at]] and e.turns[at].action != right.turns[at].action
        assert [t.state_hash for t in e.turns[:at]] == [t.state_hash for t in right.turns[:at]]


def test_a_change_that_is_no_mistake_is_thrown_away():
    import random

    right = oracle()
    harmless = msgspec.structs.replace(right, turns=[msgspec.structs.replace(t, calls=[]) for t in right.turns[:1]])
    assert sneaky(harmless, 0, random.Random(0)) is None and corrupted(harmless, Environments(), random.Random(0)) is None
    assert under(right, episode(["x"], instruction="Other.")).turns[0].observation[0]["content"] == "Other."


# Numbers of a verifier


def test_the_rule_scores_1_a_random_verifier_chance_and_ties_are_not_right():
    rng = np.random.default_rng(0)
    labels = (rng.random(2000) < 0.5).astype(float)
    task = "one"
    assert pair_accuracy(rows(labels[:200], labels[:200], task)).mean == 1.0
    random = rows(rng.random(200), labels[:200], task)
    assert 0.4 < pair_accuracy(random).mean < 0.6 and pair_accuracy(rows([0.5] * 200, labels[:200], task)).mean == 0.0
    found = summed_up("v", "s", rows(rng.random(2000), labels), {}, 0.0)
    assert 0.45 < found.accuracy.mean < 0.55 and abs(found.kappa) < 0.1
    perfect = summed_up("v", "s", rows(labels, labels), {}, 0.0)
    assert perfect.accuracy.mean == perfect.kappa == 1.0 and perfect.calibration == perfect.brier == 0.0
    assert summed_up("v", "s", rows([0.5] * 4, [1, 1, 0, 0]), {}, 0.0).accuracy.mean == 0.0


def test_a_length_biased_verifier_looks_good_in_pairs_and_bad_against_many():
    def made(task):
        good = Judged(episode(["a" * 30], task=task), 30.0, [], 1.0, "plain", "g")
        bad = [Judged(episode(["a" * n], task=task), float(n), [], 0.0, "plain", "b") for n in (5, 10, 20, 50)]
        return [good, *bad]

    found = [j for k in range(5) for j in made(f"t{k}")]
    assert pair_accuracy(found).mean == 0.75 and one_against_many(found).mean == 0.0
    assert summed_up("v", "s", found, {}, 0.0).bias["length"] == pytest.approx(1.0)


def test_calibration_is_the_distance_of_chances_and_shares():
    assert calibration(rows([0.9] * 10, [1] * 9 + [0])) == pytest.approx(0.0) and calibration(rows([0.9] * 10, [0] * 10)) == pytest.approx(0.9)
    assert calibration(rows([3.0], [1])) is None and kappa([]) is None


def test_the_first_error_counts_on_wrong_and_on_right_episodes_and_a_critic_that_always_finds_one_fails():
    def one(turns, wrong, id):
        e = episode(["a"] * len(turns), id=id)
        e.provenance = {"probe": {"label": float(wrong is None), **({} if wrong is None else {"first_wrong": wrong})}}
        return Judged(e, min(turns), turns, float(wrong is None), "plain", id)

    good = [one([0.9, 0.2, 0.1], 1, "a"), one([0.9, 0.9], None, "b")]
    assert first_error(good) == {"wrong": 1.0, "right": 1.0, "f1": 1.0, "episodes": 2.0}
    always = [one([0.2, 0.2], 0, "a"), one([0.2, 0.2], None, "b")]
    assert first_error(always)["f1"] == 0.0 and first_error([good[0]]) == {}


def test_probes_say_how_many_verdicts_were_turned_round():
    plain = rows([0.9, 0.8], [1, 1])
    moved = [Judged(j.episode, v, [], 1.0, "length", j.of) for j, v in zip(plain, [0.95, 0.1], strict=True)]
    found = probes([*plain, *moved])["length"]
    assert found == {"episodes": 2.0, "accuracy": 0.5, "flipped": 0.5, "moved": pytest.approx(0.375), "above": 0.5}


def test_a_verifier_blind_to_the_instruction_scores_chance_on_contrast_sets():
    blind = [j for v in (0.2, 0.9) for j in rows([v], [1.0])] + [Judged(episode(["a"]), v, [], 0.0, "mismatch", "x") for v in (0.2, 0.9)]
    found = summed_up("v", "s", blind, {}, 0.0)
    assert found.accuracy.mean == 0.5 == found.probes["mismatch"]["accuracy"]


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 1)), min_size=2, max_size=7), st.integers(1, 7))
@settings(max_examples=60, deadline=None)
def test_best_of_n_is_the_mean_over_all_draws(pool, n):
    from itertools import combinations

    n = min(n, len(pool))
    value, worth = (np.array([p[k] for p in pool], dtype=float) for k in (0, 1))

    def of(draw):
        top = max(value[i] for i in draw)
        return value == top

    exact = []
    for draw in combinations(range(len(pool)), n):
        top = max(value[i] for i in draw)
        exact.append(np.mean([worth[value == top].mean()]))  # equal values count as their mean worth
    assert best_of_n(value, worth, n) == pytest.approx(np.mean(exact))
    assert best_of_n(value, worth, 1) == pytest.approx(worth.mean())


def test_over_optimisation_starts_at_no_divergence_and_a_proxy_that_is_gold_never_falls():
    rng = np.random.default_rng(0)
    gold = [rng.random(64) for _ in range(20)]
    curve = over_optimisation(gold, gold)
    assert curve[0]["n"] == 1 and curve[0]["kl"] == 0.0 and [r["kl"] for r in curve] == sorted(r["kl"] for r in curve)
    assert all(r["proxy"].mean == r["gold"].mean for r in curve) and [r["gold"].mean for r in curve] == sorted(r["gold"].mean for r in curve)
    hacked = over_optimisation([np.where(g > 0.9, g, g) + 5 * (np.arange(64) == 0) for g in gold], [np.where(np.arange(64) == 0, 0.0, g) for g in gold])
    assert hacked[-1]["gold"].mean == 0.0 < hacked[2]["gold"].mean and hacked[-1]["proxy"].mean > hacked[0]["proxy"].mean


def test_rank_correlation_is_spearmans():
    from scipy.stats import spearmanr

    x, y = [1.0, 2, 2, 3, 9], [2.0, 1, 4, 4, 5]
    assert rank_correlation(list(zip(x, y, strict=True))) == pytest.approx(spearmanr(x, y).statistic)
    assert rank_correlation([(1, 1), (1, 2), (1, 3)]) is None


def test_the_distance_of_rewards_forgets_shaping_and_scale_and_is_a_distance():
    rng = np.random.default_rng(0)
    chance = rng.dirichlet(np.ones(5), size=(5, 3))
    r, other, third = rng.standard_normal((3, 5, 3, 5))
    phi, gamma = rng.standard_normal(5), 0.9
    shaped = 3.0 * (r + gamma * phi[None, None, :] - phi[:, None, None])

    def distance(a, b):
        return starc(a, b, chance, gamma)

    assert distance(r, shaped) == pytest.approx(0, abs=1e-9) and distance(r, -r) == pytest.approx(1.0)
    assert distance(r, other) == pytest.approx(distance(other, r)) and distance(r, third) <= distance(r, other) + distance(other, third) + 1e-12
    assert 0 < distance(r, other) < 1


def test_a_verifier_that_is_measured_does_not_see_the_outcome(probed):
    from agentgym.evaluation.verifiers import judged

    seen = []

    class Peeking:
        level, scope = "outcome", "episode"

        async def judge(self, views, policy):
            seen.extend((v.episode.verdicts, v.episode.provenance, v.episode.terms) for v in views)
            return [[Verdict.scored(0.5)] for _ in views]

        def state(self):
            return b""

    import agentgym.evaluation.run as running

    real, running.verifier = running.verifier, lambda name: Peeking()
    try:
        from agentgym.rewards import late

        found, _ = anyio.run(judged, late("progress", level="outcome"), probed)
    finally:
        running.verifier = real
    assert not any(any(row) for row in seen) and [j.label for j in found] == [e.provenance["probe"]["label"] for e in probed]


# From the command line


def test_a_verifier_is_evaluated_by_name_or_as_a_spec_and_wrong_names_are_one_line(tmp_path, capsys, probed):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "episodes.jsonl").write_bytes(b"".join(map(encode, probed)))
    assert main(["eval", "--verifier", "progress", "--on", str(tmp_path / "set"), "--json", "--out", str(tmp_path / "v")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["valid"] == len(probed) and found["probes"]["noise"]["episodes"] == 5 and Path(found["out"], "verdicts.jsonl").exists()
    assert main(["eval", "--verifier", "combine([late('progress'), late('likeness')], form='min')", "--on", str(tmp_path / "set")]) == 0
    assert "combine([late" in capsys.readouterr().out
    for flags, why in (
        (["--verifier", "progres", "--on", "x"], "episodes.jsonl"), (["--verifier", "progres", "--on", str(tmp_path / "set")], "progress"),
        (["--verifier", "careful", "--on", str(tmp_path / "set")], "judges actions"), (["--verifier", "progress"], "--on"), (["--on", "x"], "--verifier"),
    ):  # fmt: skip
        assert main(["eval", *flags]) == 2
        assert why in capsys.readouterr().err
    (tmp_path / "judge.toml").write_text('model = "openai:m@http://127.0.0.1:9"\npatience = 1.5\n')
    assert main(["eval", "--verifier", f"judge:{tmp_path / 'judge.toml'}", "--on", str(tmp_path / "set"), "--episodes", "1"]) == 3  # nobody answered
    with pytest.raises(UsageError):
        spec_of("careful")


def test_export_writes_a_probe_set(tmp_path, capsys):
    assert main(["eval", "tools/desk", "--policy", "oracle", "--tasks", "4", "--split", "dev", "--out", str(tmp_path / "run"), "--json"]) == 0
    assert main(["export", str(tmp_path / "run"), "--format", "probes", "--to", str(tmp_path / "set"), "--json"]) == 0
    assert len(list(read_episodes(tmp_path / "set" / "episodes.jsonl"))) > 20


# Judging as environments


def test_a_stored_run_is_a_task_set_for_judges_and_the_label_never_shows(tmp_path, probed):
    (tmp_path / "episodes.jsonl").write_bytes(b"".join(map(encode, probed)))
    for name in ("outcome", "step", "pair"):
        envs = [agentgym.make(f"judge/{name}", split=s, data=str(tmp_path)) for s in ("train", "dev", "test")]
        assert sum(len(e.taskset) for e in envs) > 5
        env = max(envs, key=lambda e: len(e.taskset))
        for task in env.taskset.ids()[:6]:
            seen, _ = env.reset(options={"task": task})
            assert "first_wrong" not in seen and "label" not in seen
            *_, end, _, info = env.step(next(env.oracle()))
            assert end and info["verdicts"]["task"]["value"] == 1.0
    with pytest.raises(UsageError, match=r"episodes\.jsonl"):
        agentgym.make("judge/outcome", data="/nowhere")


@pytest.mark.parametrize("name", ["outcome", "pair", "step"])
def test_judging_passes_the_checks_of_any_environment(name, capsys):
    assert main(["check", f"judge/{name}", "--tasks", "8"]) == 0


def test_a_right_verdict_without_evidence_from_what_was_done_is_wrong():
    env = agentgym.make("judge/outcome", split="dev")
    task = env.taskset.ids()[0]
    for quote, paid in (("", 0.0), ("Did the agent", 0.0), ("id", 0.0), (env.taskset.get(task).data["shows"], 1.0)):
        env.reset(options={"task": task})
        assert env.step(call("verdict", success=env.task.data["label"], quote=quote))[1] == paid
    assert not borne_out(Task("t", "", "dev", {"evidence": "a b c"}), {"quote": "x y"})


# A sneaky hand, refinement, search


class Critic:
    level, scope = "step", "episode"

    def __init__(self, rule):
        self.rule = rule

    async def judge(self, views, policy):
        return [[Verdict.scored(self.rule(v, t)) for t in range(len(v.episode.turns))] for v in views]


def test_payoffs_of_a_duel_sum_to_zero_and_what_is_no_mistake_pays_nobody():
    right = oracle()
    wrong = Model(lambda t, c: call("close_ticket", ticket=999))
    same = Model(lambda t, c: right.turns[-1].action)
    at = len(right.turns) - 1
    sharp, blind = Critic(lambda v, t: float("999" not in v.episode.turns[t].action)), Critic(lambda v, t: 1.0)
    found, missed, none = (anyio.run(duel, right, at, s, c) for s, c in ((wrong, sharp), (wrong, blind), (same, sharp)))
    assert (found.payoff_critic, found.payoff_sneaky) == (1.0, -1.0) and found.found == at and (missed.payoff_critic, missed.payoff_sneaky) == (-1.0, 1.0)
    assert none.made is None and none.payoff_critic == none.payoff_sneaky == 0.0
    silent = anyio.run(duel, right, at, wrong, Critic(lambda v, t: float("nan")))
    assert silent.made is None and silent.payoff_critic == silent.payoff_sneaky == 0.0  # no verdict pays nobody
    table = anyio.run(rounds, [right], wrong, sharp, 2)
    assert [r["round"] for r in table] == [0.0, 1.0] and all(r["accuracy"] == 1.0 or r["mistakes"] == 0.0 for r in table)


def test_pairs_of_a_tree_share_their_beginning_and_differ_after_the_branch():
    env = agentgym.make("tools/desk", split="dev")
    right = oracle()
    seen = msgspec.structs.replace(view_of(right), task=env.taskset.get(right.task))
    at = len(right.turns) - 1
    policy = Model(lambda t, c: right.turns[at].action if c.seed % 2 else call("list_rooms"))
    made = anyio.run(branches, seen, policy, at, 4)
    assert len(made) == 4 and {e.parent for e in made} == {(right.id, at)} and len({e.id for e in made}) == 4
    assert {e.success for e in made} == {True, False} and all([t.action for t in e.turns[:at]] == [t.action for t in right.turns[:at]] for e in made)
    stranger = anyio.run(branches, seen, policy, 0, 2)  # from the beginning: nothing in common with anybody
    examples = [Example(e, None, [], float(e.success)) for e in [*made, *stranger]]
    pairs, gaps = pairs_of(examples, siblings=True)
    assert len(pairs) and (gaps == 1.0).all() and len(pairs) < len(pairs_of(examples)[0])
    for better, worse in pairs:
        a, b = examples[better].episode, examples[worse].episode
        assert parted(a, b) == at and a.success and not b.success and [t.state_hash for t in a.turns[:at]] == [t.state_hash for t in b.turns[:at]]


def test_a_critique_is_worth_what_the_rule_says_of_the_attempt_that_was_told_it():
    env = agentgym.make("tools/desk", split="dev")
    env.reset(seed=1, options={"task": "close_by_title.dev.0"})
    script = [a for a in oracle().turns]

    def follows(text, c):
        done = sum(m["role"] == "assistant" for m in c.messages)
        return script[done].action if "look it up first" in text and done < len(script) else "I give up"

    failed = episode(["x"], success=False, task="close_by_title.dev.0")
    failed = msgspec.structs.replace(failed, env="tools/desk-v0", split="dev", seed=1)
    seen = msgspec.structs.replace(view(["x"]), task=env.task, episode=failed)
    useful = anyio.run(refinement, seen, "look it up first", Model(follows), True)
    useless = anyio.run(refinement, seen, "do better", Model(follows), True)
    assert useful.value == 1.0 and useless.value == 0.5 and useful.evidence["refined"] is True


def test_a_refined_policy_stops_at_the_bar_or_at_its_rounds_and_what_it_was_told_is_not_trained_on():
    from agentgym.core import Conversation

    policy = Model(lambda text, c: f"try {text.count('Not done yet')}")
    asked = Conversation("a", [{"role": "user", "content": "go"}])

    class Judge:
        level = "action"

        def __call__(self, proposals):
            return [msgspec.structs.replace(Verdict.scored(min(1.0, int(p.action[-1]) / 2)), critique="again") for p in proposals]

    found = anyio.run(Refined(policy, Judge(), rounds=5, bar=0.9).act, asked)
    assert found.action == "try 2" and found.usage["queries"] == 3 and len(policy.asked) == 3 and found.tokens is None
    assert anyio.run(Refined(policy, Judge(), rounds=1, bar=0.9).act, asked).action == "try 1"
    assert anyio.run(Refined(policy, Judge(), rounds=5, bar=0.0).act, asked).usage["queries"] == 1

    class Silent(Judge):
        def __call__(self, proposals):
            return [
                v if i == 0 and p.action == "try 0" else Verdict.invalid("nobody answers")
                for i, (p, v) in enumerate(zip(proposals, super().__call__(proposals), strict=True))
            ]

    cut = anyio.run(Refined(policy, Silent(), rounds=5, bar=0.9).act, asked)
    assert cut.action == "try 0" and cut.usage["queries"] == 1  # nothing was told of the second try, which had no verdict
    assert Proposal([], "x").consequences == {} and utility(0.8, 1, 0.1) > utility(0.7, 1, 0.1) > utility(0.7, 2, 0.1)


def test_a_look_ahead_takes_the_best_of_what_comes_of_each_and_leaves_the_world_alone():
    env = agentgym.make("tools/desk", split="dev")
    _, info = env.reset(seed=1, options={"task": "close_by_title.dev.0"})
    good = next(env.oracle())
    policy = Model(lambda text, c: [good, "nothing", call("list_rooms")][c.seed % 3])
    seen = []

    def value(v, t):
        seen.append((v.episode.verdicts, [x.verdicts for x in v.episode.turns], v.episode.terms, v.task.data))
        return float(v.episode.turns[t].action == good)

    ahead = Lookahead(policy, Critic(value), 3).attach(env)
    from agentgym.core import Conversation

    chosen = anyio.run(ahead.act, Conversation("a", info["messages"], seed=1))
    assert chosen.action == good and not env.episode.turns and not any(any(x) for row in seen for x in row)
    with pytest.raises(UsageError, match="read the answer"):
        resolve("lookahead:2/onward/random")
    with pytest.raises(UsageError, match="verifier of turns"):
        Lookahead(policy, type("S", (), {"level": "outcome"})())
    from worlds import World

    with pytest.raises(CapabilityError):
        Lookahead(policy, Critic(value)).attach(type("Still", (World,), {"capabilities": agentgym.core.Capabilities()})())
    assert resolve("lookahead:2/(likeness)/random").k == 2 and resolve("refined:1/careful/random").rounds == 1
    with pytest.raises(UsageError, match="lookahead:N/WHAT/POLICY"):
        resolve("lookahead:likeness")
    assert math.isfinite(len(score(1)))
