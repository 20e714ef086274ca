"""Published methods that are algorithms: each row resolves, runs, and has the property that defines it. Ids of tests name the methods."""

import math
from dataclasses import replace
from pathlib import Path

import agentgym_trainers
import numpy as np
import pytest
import torch
from agentgym_trainers import advantages, policy_loss
from agentgym_trainers.advantage import ADVANTAGES, episode_advantages, streams, to_go
from agentgym_trainers.algorithm import Algorithm, known, methods, options_of, parts, resolve
from agentgym_trainers.config import TrainConfig
from agentgym_trainers.gae import bi_level, gae, progress
from agentgym_trainers.learner import Learner, Pace, moved_mix
from agentgym_trainers.lesson import lessons
from agentgym_trainers.objective import DIVERGENCES, OBJECTIVES, Scores, objective_loss
from agentgym_trainers.paid import Paid, paid
from agentgym_trainers.pairs import contrast, normalised_guide, score_text
from agentgym_trainers.regulariser import EntropyBand, Occupancy, Weights, corrected, entropy_by_turn, reweighted
from agentgym_trainers.roles import Critic, Process, Reference, RewardModel, skew_score
from agentgym_trainers.streams import make_batch, weigh
from agentgym_trainers.train import train
from agentgym_trainers.update import Part, backward, forward, make_optimizer, micro_batches, outside_band, score
from tiny import model, renderer, tokenizer

from agentgym import make
from agentgym.core import Tokens
from agentgym.episode import Episode, Turn
from agentgym.errors import UnknownName, UsageError
from agentgym.verdict import EPISODE, Place, Term, Verdict

OWED = [
    "critique-grpo",
    "group-reinforce-offpolicy",
    "ml-engineering-agents",
    "nsr",
    "topr",
    "amft",
    "copg",
    "nft",
    "pit",
    "rmt",
    "bnpo",
    "writing-zero",
    "correlated-proxies",
    "epo",
    "c3po",
    "cpl",
    "cream",
    "dno",
    "gpm",
    "inpo",
    "mm-rlhf",
    "pairwise-rl",
    "reward-augmented-data",
    "scir",
    "sft-dpo-bridge",
    "simpo",
    "sparsepo",
    "spo-degree",
    "t-reg",
    "tgdpo",
    "agent-r",
    "b-coder",
    "direct-advantage",
    "raft",
    "redi",
    "scalable-irl",
    "reinforce-ada",
    "expo",
    "pf-ppo",
    "rso",
    "qweb",
    "words-as-beacons",
    "train-long-think-short",
    "prime",
    "cooper",
    "coderl",
    "pav",
    "prm-lessons",
    "hrm",
    "helpsteer2-preference",
    "polar",
    "reward-topology",
    "secrets-rm",
    "crm",
    "skywork-reward-v2",
    "contrast-instructions",
]
ASKED = ["grpo", "dr_grpo", "rloo", "reinforce_pp", "ppo", "dapo", "gspo", "cispo", "bnpo", "topr", "gigpo"]
WARM = str(Path(agentgym_trainers.__file__).parent / "warm")


def record(rewards, id="e", group="g", success=None, seconds=None, anchors=None, sampled=2, spans=(), version="0", logp=-1.0, ids=None):
    """An episode: a term per turn, and the last of ``rewards`` for the whole."""
    *steps, whole = rewards
    turns = []
    for t in range(max(1, len(steps))):
        said = ids[t] if ids else [(3 + t + k) % 7 + 3 for k in range(sampled)]
        tokens = Tokens([1, *said], [0] + [1] * len(said), [0.0] + [logp] * len(said), {"temperature": 1.0}, [(version, len(said))])
        turns.append(Turn([], "a", tokens=tokens, duration_s=(seconds or [1.0] * 9)[t], anchor=(anchors or [""] * 9)[t]))
    terms = [Term("step", r, Place("turn", t), t) for t, r in enumerate(steps) if r] + [Term("task", whole, EPISODE, len(turns) - 1), *spans]
    ok = whole > 0.5 if success is None else success
    return Episode(
        id, "x", "t", "d", "train", group=group, turns=turns, terms=terms, status="valid", verdicts={"o": Verdict.scored(float(ok))}, start_anchor="s"
    )


def group(*rewards, **more):
    return [record(r if isinstance(r, list) else [r], f"e{i}", **more) for i, r in enumerate(rewards)]


def batch_of(episodes, advantage=None, aggregation="token", pairs=None):
    return make_batch(episodes, advantage or [1.0] * len(episodes), aggregation, pairs=pairs)


def scores(logp_N):
    return Scores(logp_N, *([torch.zeros_like(logp_N)] * 4))


def grad(name, batch, logp_N=None, **options):
    """The gradient of an objective in each token's log-probability."""
    logp_N = (batch.behaviour_logp_N if logp_N is None else logp_N).clone().requires_grad_()
    objective_loss(name, scores(logp_N), batch, **options).backward()
    return logp_N.grad


def grad_of(name, logp, old, advantage, mask=None, **options):
    logp = torch.as_tensor(logp, dtype=torch.float64).clone().requires_grad_()
    options.setdefault("aggregation", "token")
    policy_loss(
        name,
        logp,
        torch.as_tensor(old, dtype=torch.float64),
        torch.as_tensor(advantage, dtype=torch.float64),
        torch.ones_like(logp) if mask is None else mask,
        **options,
    ).backward()
    return logp.grad


# Every row


def test_the_methods_owed_are_all_there():
    assert set(OWED) == {row["id"] for row in methods()["method"]} and set(ASKED) <= set(known())


@pytest.mark.parametrize("name", known())
def test_a_row_resolves_and_says_its_paper(name):
    found = resolve(name)
    assert found.paper and found.name == name
    for part in parts(found).values():
        assert set(options_of(found, part)) <= set(found.options)


@pytest.mark.parametrize("row", methods()["method"], ids=lambda r: r["id"])
def test_a_method_is_whole(row):
    assert all(row[k] for k in ("paper", "kind", "recipe", "primitives", "formula", "summary")) and row["algo"] in {**known(), **lessons()}


@pytest.mark.parametrize("name", known())
def test_it_trains_the_tiny_model(name, tmp_path):
    """Two updates of the shipped model on three kinds of task, at a seed where episodes differ in their success."""
    rows = []
    config = TrainConfig(
        env="tools/desk", option={"templates": ["set_status", "other_room", "file_mail"], "limits": {"max_turns": 4}}, model=WARM, warm_steps=0, eval_tasks=2,
        groups=2, group_size=4, max_tokens=24, threads=1, context=512, steps=2, seed=1, temperature=0.7, algo=name, out=str(tmp_path / "r"),
    )  # fmt: skip
    result = train(config, lambda phase, row: rows.append(row) if phase == "train" else None)
    assert result.algorithm == name and result.steps == 2 and result.tokens_trained > 0
    assert all(math.isfinite(v) for row in rows for v in row.values()) and not any(row.get("skipped") for row in rows)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"advantag": 1}, "nearest: advantage"), ({"advantage": "grp"}, "nearest: grpo"), ({"objective": "cliped"}, "clipped"), ({"sampler": "refil"}, "refill"),
        ({"clip_hihg": 1}, "clip_high"), ({"weights.positiv": 1}, "positive"), ({"correction": "ti"}, "tis"), ({"divergence": "k4"}, "k"), ({"kl": "much"}, "kl"),
        ({"objective": "preference"}, "needs pairs"), ({"auxiliary.imitate": 1}, "imitation"), ({"aggregation": "mean"}, "aggregation"),
    ],
)  # fmt: skip
def test_a_wrong_setting_is_one_clear_error(given, said):
    with pytest.raises(UsageError, match=said):
        resolve("grpo", given)


# Advantages


@pytest.mark.parametrize("name", [n for n, a in ADVANTAGES.items() if not a.values])
def test_no_estimator_favours_length_alone(name):
    """A bandit with two arms that pay the same and differ in length: as many turns more as you like move nothing."""
    for long in (2, 5):
        episodes = group([0.0, 1.0], [0.0] * long + [1.0], [0.0, 1.0], [0.0] * long + [1.0])
        found = episode_advantages(name, paid(episodes))
        found = found if found.ndim == 2 else found[:, None]
        assert np.ptp(found[:, 0]) < 1e-9, name
        if name not in ("sign", "raw"):
            assert np.abs(found).max() < 1e-6
        spread_evenly = group([1.0, 0.0], [1.0 / long] * long + [0.0], [1.0, 0.0], [1.0 / long] * long + [0.0])
        first = episode_advantages(name, paid(spread_evenly))
        first = first if first.ndim == 1 else first[:, 0]
        assert abs(first[1] - first[0]) < 1e-6


def test_critics_favour_no_length_either():
    for name in ("critic", "progress"):
        episodes = group([0.0, 1.0], [0.0] * 5 + [1.0])
        batch = batch_of(episodes)
        batch = batch.having(value=batch.mask_N.clone())
        advantage_N, _ = streams(name, batch, paid(episodes), **({"white": False} if name == "critic" else {}))
        assert advantage_N.abs().max() < 1e-6


def test_the_longer_arm_is_learned_where_it_pays_more_and_not_where_it_pays_less():
    for name in ("grpo", "dr_grpo", "rloo", "reinforce_pp", "turn", "gigpo", "bnpo", "maxrl"):
        better = episode_advantages(name, paid(group([0.0, 0.2], [0.0] * 4 + [0.8], [0.0, 0.2], [0.0] * 4 + [0.8])))
        worse = episode_advantages(name, paid(group([0.0, 0.8], [0.0] * 4 + [0.2], [0.0, 0.8], [0.0] * 4 + [0.2])))
        first = [x if x.ndim == 1 else x[:, 0] for x in (better, worse)]
        assert first[0][1] > first[0][0] and first[1][1] < first[1][0], name


def test_bnpo_reproduces_reinforce_and_grpo_and_takes_components_apart():
    rewards, groups = torch.tensor([1.0, 0, 0, 0, 1, 1, 1, 0], dtype=torch.float64), torch.tensor([0] * 4 + [1] * 4)
    assert torch.allclose(advantages("bnpo", rewards, groups, alpha=1.0, beta=1.0), advantages("dr_grpo", rewards, groups))
    ratio = advantages("bnpo", rewards, groups, alpha=1.5, beta=1.5) / advantages("grpo", rewards, groups)
    assert torch.allclose(ratio, ratio[0].expand_as(ratio), rtol=1e-4)
    both = Paid(
        np.array([1.0, 0, 1, 0]),
        np.zeros((4, 1)),
        np.zeros(4, int),
        np.arange(4)[:, None],
        np.ones((4, 1)),
        {"a": np.array([1.0, 0, 0, 0]), "b": np.array([0.0, 0, 1, 1])},
    )
    parts_ = [replace(both, source_B={k: v}) for k, v in both.source_B.items()]
    options = {"alpha": 2.0, "beta": 2.0}
    assert np.allclose(episode_advantages("bnpo", both, **options), sum(episode_advantages("bnpo", p, **options) for p in parts_))


def test_gigpo_compares_actions_from_the_same_state():
    episodes = [
        record([0.0, 0.0, 1.0], "a", anchors=["m", "x"]), record([0.0, 0.0, 0.0], "b", anchors=["m", "y"]), record([0.0, 0.0, 0.0], "c", anchors=["z", "w"]),
    ]  # fmt: skip
    found = episode_advantages("gigpo", paid(episodes), gamma=1.0)
    whole = episode_advantages("dr_grpo", paid(episodes))
    step = found - whole[:, None]
    assert step[0, 1] > 0 > step[1, 1] and step[2, 1] == pytest.approx(0.0)  # the second turn: "m" was met twice, "z" once
    assert np.allclose(step[:, 0], [2 / 3, -1 / 3, -1 / 3])  # all three began in the same state


def test_turn_returns_sum_discount_and_take_the_least():
    p = paid([record([0.5, 0.2, 0.9, 1.0])])
    assert to_go(p).tolist() == [pytest.approx([2.6, 2.1, 1.9])]
    assert to_go(p, gamma=0.5)[0, 0] == pytest.approx(0.5 + 0.5 * (0.2 + 0.5 * 1.9))
    assert to_go(p, form="min").tolist() == [pytest.approx([1.2, 1.2, 1.9])]


def test_a_term_on_a_span_moves_its_tokens_and_no_other():
    span = Term("quote", 0.5, Place("token", 0, (1, 2)), 0)
    episodes = [record([1.0], "a", spans=[span], sampled=3), record([0.0], "b", sampled=3)]
    batch = batch_of(episodes)
    with_span, _ = streams("dr_grpo", batch, paid(episodes))
    without, _ = streams("dr_grpo", batch, paid([record([1.0], "a", sampled=3), episodes[1]]))
    moved = torch.nonzero(with_span != without)[:, 0].tolist()
    assert moved == [2] and (with_span - without)[2] == pytest.approx(0.25)


def test_a_span_of_characters_is_found_in_tokens():
    text = "find the old door"
    ids = tokenizer().encode(text, add_special_tokens=False)
    turn = Turn([], text, tokens=Tokens(ids, [1] * len(ids), [0.0] * len(ids), {"temperature": 1.0}, [("0", len(ids))]))
    terms = [Term("quote", 1.0, Place("span", 0, (9, 12)), 0)]
    (span,) = paid([Episode("e", "x", "t", "d", "train", turns=[turn], terms=terms, status="valid")], None, tokenizer().decode).spans
    assert tokenizer().decode(ids[span.start : span.end]).strip() == "old"


def test_bi_level_gae_is_plain_gae_where_its_discounts_are_the_same():
    torch.manual_seed(0)
    rewards, values, mask = torch.randn(3, 12), torch.randn(3, 12), (torch.rand(3, 12) > 0.3).float()
    turn = (torch.arange(12) // 4).expand(3, 12)
    assert torch.allclose(bi_level(rewards, values, mask, turn, 1.0, 1.0, 1.0, 1.0)[0] * mask, gae(rewards, values, mask, 1.0, 1.0)[0] * mask, atol=1e-5)
    far = bi_level(rewards, values, mask, turn, 1.0, 1.0, 0.0, 1.0)[0]
    alone = torch.cat([gae(rewards[:, k : k + 4], values[:, k : k + 4], mask[:, k : k + 4], 1.0, 1.0)[0] for k in (0, 4, 8)], 1)
    assert torch.allclose(far * mask, alone * mask, atol=1e-5)


def test_writing_zero_and_pairwise_rl_the_anchor_gets_nothing_and_swapping_swaps():
    p = paid(group(0.1, 0.5, 0.9))
    for seed in range(5):
        found = episode_advantages("anchor_win", p, seed=seed)
        anchor = int(np.flatnonzero(found == 0)[0])
        assert found.tolist() == np.sign(np.array([0.1, 0.5, 0.9]) - [0.1, 0.5, 0.9][anchor]).tolist()  # the order of a transitive group stays
    flipped = episode_advantages("anchor_win", paid(group(0.9, 0.5, 0.1)), seed=0)
    assert (flipped == -episode_advantages("anchor_win", p, seed=0)).all()


def test_pit_copying_the_reference_earns_nothing_and_swapping_changes_the_sign():
    from agentgym.rewards import load

    spec = load("late('quality', level='outcome') - late('reference', level='outcome')")

    def gap(quality, reference):
        e = record([0.0])
        e.late = {"quality": Verdict.scored(quality), "reference": Verdict.scored(reference)}
        e.stop_reason = "done"
        return sum(t.value for t in spec.settle([e])[0])

    assert gap(0.7, 0.7) == 0 and gap(0.9, 0.2) == -gap(0.2, 0.9) == pytest.approx(0.7)


# Objectives


def test_topr_on_policy_is_reinforce_and_a_bad_tokens_gradient_stays_bounded():
    logp = torch.randn(4, 5, dtype=torch.float64)
    sign = torch.tensor([[1.0], [-1], [1], [-1]])
    assert torch.allclose(grad_of("topr", logp, logp, sign), grad_of("reinforce", logp, logp, sign))
    rare = grad_of("topr", [[-30.0, -30.0]], [[-1.0, -1.0]], [[-1.0]])
    assert rare.abs().max() < 1e-9


def test_group_reinforce_reduces_to_reinforce_and_stale_weight_zero_changes_nothing():
    logp, old = torch.randn(2, 4, dtype=torch.float64), torch.randn(2, 4, dtype=torch.float64)
    a = torch.tensor([[1.0], [-1.0]])
    assert torch.equal(grad_of("reinforce", logp, old, a, pull=0.0), grad_of("reinforce", logp, old, a))
    assert torch.allclose(advantages("dr_grpo", torch.tensor([1.0, 0]), torch.tensor([0, 0]), shift=0.0), torch.tensor([0.5, -0.5]))
    assert (grad_of("reinforce", logp, old, 0 * a, pull=1.0) * (logp - old) > 0).all()  # it pulls back to the policy that sampled
    episodes = [record([1.0], "a", version="9"), record([0.0], "b", version="2")]
    batch = reweighted(batch_of(episodes, [1.0, -1.0]), Weights(oldest=3), paid(episodes), 9)
    assert (grad("reinforce", batch)[batch.episode_N == 1] == 0).all() and grad("reinforce", batch)[batch.episode_N == 0].abs().max() > 0


def test_critique_grpo_refinements_count_from_outside_and_learn_what_is_rare():
    episodes = [record([0.0], "a"), record([1.0], "b", version="-1", logp=-6.0)]
    batch = batch_of(episodes, advantages("grpo", torch.tensor([0.0, 1.0]), torch.tensor([0, 0])).tolist())
    found = grad("refined", batch)
    inside = batch.version_N >= 0
    assert torch.allclose(found[inside], grad("clipped", batch)[inside]) and (found[~inside & (batch.mask_N > 0)] < 0).all()
    p = torch.tensor(0.01)
    gain = float(0.1 * p / (p + 0.1) ** 2)
    assert gain > 5 * float(p)  # d/d log π of π / (π + s) at a rare token, against π itself


def test_duration_a_slow_better_arm_weighs_as_its_time():
    episodes = [record([0.6], "fast", seconds=[1.0]), record([1.0], "slow", seconds=[9.0])]
    batch = batch_of(episodes, [0.6, 1.0])
    plain, by_time = grad("reinforce", batch), grad("reinforce", reweighted(batch, Weights(duration=1.0), paid(episodes), 0))
    share = [float(g[batch.episode_N == 1].sum() / g[batch.episode_N == 0].sum()) for g in (plain, by_time)]
    assert share[1] == pytest.approx(9 * share[0])
    # in equal wall time the fast arm is sampled nine times as often: without the weight it gets more gradient, with it less
    assert share[0] / 9 < 1 < share[1] / 9


def test_nsr_positive_weight_zero_gives_no_gradient_on_correct_samples():
    episodes = group(1.0, 0.0)
    batch = batch_of(episodes, episode_advantages("sign", paid(episodes)).tolist())
    one = reweighted(batch, Weights(positive=0.0), paid(episodes), 0)
    assert (grad("reinforce", one)[batch.episode_N == 0] == 0).all() and (grad("reinforce", one)[(batch.episode_N == 1) & (batch.mask_N > 0)] > 0).all()
    assert torch.equal(grad("reinforce", reweighted(batch, Weights(), paid(episodes), 0)), grad("reinforce", batch))
    from agentgym.evaluation.stats import pass_at

    exact = 1 - math.comb(6, 3) / math.comb(10, 3)
    assert pass_at(3, 10, 4) == pytest.approx(exact)


def test_nft_on_policy_has_the_gradient_of_grpo_and_without_negatives_is_supervised():
    episodes = group(1.0, 0.0, 0.0, 1.0)
    q = 0.5
    rate = torch.full((len(batch_of(episodes)),), q)
    batch = batch_of(episodes, episode_advantages("sign", paid(episodes)).tolist()).having(rate=rate)
    deviation = math.sqrt(q * (1 - q))
    relative = batch_of(episodes, [(float(e.success) - q) / deviation for e in episodes])
    assert torch.allclose(grad("negative_aware", batch), grad("clipped", relative), atol=1e-5)
    passed = batch_of(episodes[:1], [1.0])
    found = grad("negative_aware", passed.having(rate=torch.full((len(passed),), 0.5)))
    assert torch.allclose(found, grad("weighted", passed, by="one"))


def test_nft_with_an_uneven_rate_is_still_grpos_direction():
    episodes = group(1.0, 0.0, 0.0, 0.0)
    q, n = 0.25, len(batch_of(group(1.0, 0.0, 0.0, 0.0)))
    batch = batch_of(episodes, [1.0, -1, -1, -1]).having(rate=torch.full((n,), q))
    relative = batch_of(episodes, [(float(e.success) - q) / math.sqrt(q * (1 - q)) for e in episodes])
    assert torch.allclose(grad("negative_aware", batch), grad("clipped", relative), atol=1e-5)


def test_amft_the_share_of_imitation_falls_where_demonstrations_are_wrong_and_stays_in_bounds():
    ahead, explore = torch.tensor([1.0, 0.0]), torch.tensor([1.0, 0.2])
    assert moved_mix(0.5, 0.1, ahead, explore, -ahead) < 0.5 < moved_mix(0.5, 0.1, ahead, -explore, ahead)
    assert moved_mix(0.01, 1.0, ahead, explore, -ahead) == 0.0 and moved_mix(0.99, 1.0, ahead, -explore, ahead) == 1.0
    assert moved_mix(0.5, 0.1, 0 * ahead, explore, ahead) == pytest.approx(0.5)


def test_rmt_weight_zero_is_plain_reinforcement_learning_and_its_budget_shrinks():
    network, main = model(), Part(batch_of(group(1.0, 0.0), [1.0, -1.0]), "clipped")
    other = Part(weigh(replace(main.batch, mask_N=torch.ones_like(main.batch.mask_N)), "token"), "reinforce", scale=0.0)

    def gradient(summands):
        network.zero_grad()
        backward(network, summands)
        return torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])

    assert torch.equal(gradient([main]), gradient([main, other])) and not torch.equal(gradient([main]), gradient([main, replace(other, scale=0.1)]))
    a, b, over = resolve("rmt").budget["max_tokens"]
    assert a > b and over > 0


@pytest.mark.parametrize("name", ["scalable_irl", "b_coder"])
def test_conservative_alone_is_maximum_likelihood(name):
    network, batch = model(), batch_of(group(1.0, 0.0), [1.0, 1.0]).having(reward=torch.zeros(6))
    now = forward(network, batch, values=True)
    assert torch.allclose(objective_loss("bellman", now, batch, error=0.0, conservative=1.0), objective_loss("weighted", now, batch, by="one"), atol=1e-6)
    assert resolve(name).options["conservative"] == 1.0


def test_scalable_irl_the_recovered_reward_ranks_demonstrations_above_random_episodes():
    torch.manual_seed(0)
    network = model()
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    shown, other = record([1.0], "d", ids=[[5, 6, 7, 8]]), record([0.0], "r", ids=[[9, 4, 3, 9]])
    demo, both = batch_of([shown]), batch_of([shown, other])
    for _ in range(30):
        optimizer.zero_grad()
        objective_loss("bellman", forward(network, demo, values=True), demo, error=0.01, conservative=1.0, paid=False, residual=True).backward()
        optimizer.step()
    from agentgym_trainers.objective import following

    now, (next_N, ends_N) = forward(network, both, values=True), following(both)
    reward_N = (now.q_N - torch.where(ends_N, 0.0, now.v_N[next_N])) * both.mask_N
    assert reward_N[both.episode_N == 0].sum() > reward_N[both.episode_N == 1].sum()


def test_b_coder_the_conservative_fixed_point_is_not_above_the_optimal_value():
    """One state, three actions, rewards known: minimise the objective over Q and compare with the best return."""
    rewards = torch.tensor([1.0, 0.3, 0.0])
    q = torch.zeros(3, requires_grad=True)
    optimizer = torch.optim.Adam([q], lr=0.05)
    for _ in range(600):
        optimizer.zero_grad()
        v = torch.logsumexp(q, 0).expand(3)
        episodes = [record([float(r)], f"e{i}", ids=[[4]]) for i, r in enumerate(rewards)]
        batch = batch_of(episodes).having(reward=torch.tensor([0, 1.0, 0, 0.3, 0, 0.0]))
        at = (torch.tensor([1, 3, 5]),)
        now = Scores(*(torch.zeros(6).index_put(at, x) for x in (q - v, 0 * q, q, v, v)))
        objective_loss("bellman", now, batch, error=1.0, conservative=0.3).backward()
        optimizer.step()
    assert q.max().item() <= rewards.max().item() + 1e-3 and int(q.argmax()) == 0


def test_direct_advantage_is_the_change_in_value_and_the_critic_is_left_alone():
    episodes = [record([0.0, 0.0, 1.0])]
    batch = batch_of(episodes)
    value = batch.mask_N * torch.where(batch.turn_N == 0, 0.4, 0.9)
    found, _ = progress(batch.having(value=value), paid(episodes))
    assert found[batch.mask_N > 0].tolist() == pytest.approx([0.5, 0.5, 0.1, 0.1])
    level, _ = progress(batch.having(value=batch.mask_N * 1.0), paid(episodes))
    assert level.abs().max() < 1e-6  # equal values: no weight
    network = model()
    critic = Critic(network)
    before = [p.clone() for p in critic.head.parameters()]
    part = Part(replace(batch.having(value=critic.score(batch)), advantage_N=found), "weighted", {"by": "signed"})
    backward(network, [part])
    assert all(torch.equal(a, b) and b.grad is None for a, b in zip(before, critic.head.parameters(), strict=True))


def test_redi_needs_no_reference_and_without_negatives_is_supervised():
    episodes = group(1.0, 0.0)
    batch = batch_of(episodes, [1.0, -1.0], "sequence")
    only = grad("reinforce", reweighted(batch, Weights(negative=0.0), paid(episodes), 0))
    alike = grad("weighted", batch, by="positive")
    assert torch.allclose(only, alike)
    assert "reference" not in Learner(model(), make_optimizer(model(), 1e-3), renderer(), make("tools/desk"), resolve("redi")).roles


def test_sft_dpo_bridge_every_divergence_is_zero_at_equality_and_none_is_plain_supervised():
    zero = torch.zeros(3)
    for name, of in DIVERGENCES.items():
        assert torch.equal(of(zero).abs(), zero), name
        if name != "k1":
            assert (of(torch.tensor([-0.5, 0.7])) > 0).all()
    assert resolve("sft_dpo_bridge", {"kl": 0.0}).kl == 0.0 and OBJECTIVES["weighted"]


# Regularisers


def test_epo_no_penalty_inside_the_band_some_outside_with_a_gradient_and_only_in_its_phase():
    h = torch.tensor([0.5, 0.9, 1.1, 2.0], requires_grad=True)
    penalty = outside_band(h, (0.8, 1.2, 0.1))
    assert penalty[1:3].tolist() == [0.0, 0.0] and (penalty[[0, 3]] > 0).all()
    penalty.sum().backward()
    assert h.grad[0] < 0 < h.grad[3]
    band = EntropyBand(0.8, 1.2, 0.1, begins=0.5, phase="linear")
    assert band.now(0.9) is None
    for x in (1.0, 2.0):
        band.learn(x)
    assert band.now(0.4) is None and band.now(1.0) == pytest.approx((1.2, 1.8, 0.1)) and band.now(0.75)[2] == pytest.approx(0.05)
    long, short = record([0.0] * 4 + [0.0], "a"), record([0.0, 0.0], "b")
    batch = batch_of([long, short])
    entropy = batch.mask_N * torch.where(batch.episode_N == 0, 1.0, 3.0)
    assert entropy_by_turn(batch, entropy) == pytest.approx(2.0)  # episodes weigh alike, however many turns they have


def test_entropy_is_of_episodes_that_an_advantage_moves_unless_all_are_asked_for():
    episodes = [record([r], f"e{i}", "apart" if i < 2 else "alike") for i, r in enumerate([1.0, 0.0, 1.0, 1.0])]

    def learned(**settings):
        network = model()
        learner = Learner(network, make_optimizer(network, 1e-3), renderer(), make("tools/desk"), resolve("grpo", settings))
        return learner.batch(episodes, paid(episodes), Pace())[0].episode_N.unique().tolist()

    assert learned() == learned(entropy=0.01) == [0, 1] and learned(entropy=0.01, entropy_of="all") == [0, 1, 2, 3]
    assert resolve("epo").entropy_of == "all"  # as published


def test_correlated_proxies_on_a_grid_with_a_planted_hack():
    """Two policies earn the same proxy: one by a state the base never visits. Chi-squared of states charges that one more; actions' KL does not."""
    base = [["start", "path", "goal"]] * 40 + [["start", "path", "hack"]] * 2
    found = Occupancy()
    found.learn(base)
    honest, hacker = [["start", "path", "goal"]] * 20, [["start", "path", "hack"]] * 20
    assert found.divergence(base) == pytest.approx(0.0, abs=1e-9)
    assert found.divergence(hacker) > 5 * max(found.divergence(honest), 1e-3)
    proxy = {"honest": 1.0, "hacker": 1.0}
    true = {"honest": 1.0, "hacker": 0.0}
    charged = {k: found.cost(v, 3, 0.05).sum() / len(v) for k, v in (("honest", honest), ("hacker", hacker))}
    assert proxy["honest"] == proxy["hacker"] and true["honest"] > true["hacker"] and charged["hacker"] > charged["honest"] + 0.05
    kl = -math.log(2 / 42)  # of the one action that differs: the same whichever way it goes rare
    assert kl > 0


def test_truncated_weights_bound_what_another_policy_sampled():
    episodes = group(1.0, 1.0)
    batch = batch_of(episodes).having(proximal=torch.tensor([0, 1.0, -9, 0, 0, 0.0]))
    on = batch_of(episodes)

    def ratio(name, most):
        return (corrected(batch, name, most).weight_N / on.weight_N.clamp(min=1e-9))[batch.mask_N > 0]

    assert ratio("tis", 2.0).tolist() == pytest.approx([2.0, math.exp(-8), 2.0, 2.0])
    assert ratio("band", 2.0).tolist() == pytest.approx([0.0, 0.0, 0.0, 0.0])
    assert ratio("tis_sequence", 2.0)[:2].tolist() == pytest.approx([math.exp(2 - 8)] * 2, rel=1e-4)


# Preferences

LONG = {"reference": torch.tensor([[-1.0, -2.0, -1.5], [-0.5, -1.0, -2.0]], dtype=torch.float64)}
LOGP = torch.tensor([[-0.9, -1.5, -1.0], [-0.7, -1.2, -2.5]], dtype=torch.float64)
SIGN, ONES = torch.tensor([[1.0], [-1.0]]), torch.ones(2, 3, dtype=torch.float64)


def preferred(logp=LOGP, scored=None, mask=ONES, **options):
    return policy_loss("preference", logp, logp.detach(), SIGN, mask, aggregation="pair", scored=LONG if scored is None else scored, **options)


def logistic(x):
    return math.log1p(math.exp(-x))


def test_dpo_is_its_closed_form():
    d = float((LOGP - LONG["reference"])[0].sum() - (LOGP - LONG["reference"])[1].sum())
    assert preferred(beta=0.3).item() == pytest.approx(logistic(0.3 * d))
    assert preferred(beta=0.3, link="squared").item() == pytest.approx((d - 1 / 0.6) ** 2)
    assert preferred(beta=0.3, link="hinge").item() == pytest.approx(max(0, 1 - 0.3 * d))
    assert preferred(beta=0.3, smoothing=0.1).item() == pytest.approx(0.9 * logistic(0.3 * d) + 0.1 * logistic(-0.3 * d))


def test_simpo_is_its_closed_form_loads_no_reference_and_is_blind_to_length():
    d = float(LOGP[0].mean() - LOGP[1].mean())
    options = {"against": "nothing", "length": "mean", "beta": 2.0, "margin": 1.0}
    assert preferred(scored={}, **options).item() == pytest.approx(logistic(2 * d - 1))
    doubled = policy_loss("preference", LOGP.repeat(1, 2), LOGP.repeat(1, 2), SIGN, torch.ones(2, 6), aggregation="pair", **options)
    assert doubled.item() == pytest.approx(preferred(scored={}, **options).item())
    assert "reference" not in Learner(model(), make_optimizer(model(), 1e-3), renderer(), make("tools/desk"), resolve("simpo")).roles


def test_cpl_equal_segments_give_log_two_and_no_net_gradient():
    logp = LOGP[:1].repeat(2, 1).requires_grad_()
    loss = preferred(logp, scored={}, against="nothing", discount=0.95)
    loss.backward()
    assert loss.item() == pytest.approx(math.log(2)) and torch.allclose(logp.grad.sum(0), torch.zeros(3, dtype=torch.float64))
    turns = [record([0.0, 0.0, 1.0], "a"), record([0.0, 0.0, 0.0], "b")]
    batch = batch_of(turns, [1.0, -1.0], "pair", pairs=[0, 0])
    found = grad("preference", batch, against="nothing", discount=0.5, beta=1.0)
    early, late = found[(batch.turn_N == 0) & (batch.mask_N > 0)], found[(batch.turn_N == 1) & (batch.mask_N > 0)]
    assert torch.allclose(late, early / 2)  # it works over turns, and later ones weigh less


def test_copg_on_policy_has_the_policy_gradient_and_finds_the_regularised_optimum():
    returns = torch.tensor([[1.0], [0.0]], dtype=torch.float64)
    logp = LOGP.clone().requires_grad_()
    policy_loss(
        "preference", logp, logp.detach(), SIGN, ONES, aggregation="pair", scored={"reference": LOGP, "return": returns}, link="regression", beta=0.5
    ).backward()
    plain = -0.5 * SIGN * (returns[0] - returns[1])
    assert torch.allclose(logp.grad, plain.expand_as(LOGP).to(logp.grad))
    theta, rewards, reference, beta = (
        torch.zeros(3, dtype=torch.float64, requires_grad=True),
        torch.tensor([1.0, 0.5, 0.0]).double(),
        torch.tensor([0.2, 0.5, 0.3]).double().log(),
        0.7,
    )
    optimizer = torch.optim.Adam([theta], lr=0.05)
    for _ in range(500):
        optimizer.zero_grad()
        logp = torch.log_softmax(theta, 0)
        loss = sum(
            policy_loss(
                "preference", logp[[i, j], None], logp[[i, j], None].detach(), SIGN, torch.ones(2, 1).double(), aggregation="pair", link="regression", beta=beta,
                scored={"reference": reference[[i, j], None], "return": rewards[[i, j], None]},
            )
            for i in range(3) for j in range(i + 1, 3)
        )  # fmt: skip
        loss.backward()
        optimizer.step()
    assert torch.allclose(torch.softmax(theta, 0), torch.softmax(reference + rewards / beta, 0), atol=1e-2)


def test_cream_and_scir_confidence_weighs_pairs_from_nothing_to_the_plain_loss():
    one, none = ({**LONG, "confidence": ONES * c} for c in (1.0, 0.0))
    assert preferred(scored=one).item() == pytest.approx(preferred().item()) and preferred(scored=none).item() == 0.0
    learner = Learner(model(), make_optimizer(model(), 1e-3), renderer(), make("tools/desk"), resolve("cream"))
    episodes = group(1.0, 0.0, 0.5)
    batch, _ = learner.batch(episodes, paid(episodes), Pace())
    assert (batch.scored["confidence"] == 1).all()  # the policy is its reference yet: ties agree
    learner.model.load_state_dict(model(5).state_dict())
    for name in ("cream", "scir"):
        learner.algorithm = resolve(name)
        sure = learner.batch(episodes, paid(episodes), Pace())[0].scored["confidence"]
        assert sure.min() >= 0 and sure.max() <= 1
    assert resolve("scir").confidence == "agreement" and set(sure.tolist()) <= {0.0, 1.0}


def test_dno_its_reference_moves_along_and_an_intransitive_oracle_is_no_trouble():
    network = model()
    reference = Reference(network, resolve("dno").refresh)
    network.load_state_dict(model(4).state_dict())
    batch = batch_of(group(1.0))
    assert not torch.allclose(reference.score(batch), score(network, batch))
    reference.update(batch)
    assert torch.allclose(reference.score(batch), score(network, batch))
    theta = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    for i, j in ((0, 1), (1, 2), (2, 0)):  # a circle: the losses pull evenly
        logp = torch.log_softmax(theta, 0)[[i, j], None]
        policy_loss("preference", logp, logp.detach(), SIGN, torch.ones(2, 1).double(), aggregation="pair", against="nothing").backward()
    assert theta.grad.abs().max() < 1e-12


def test_gpm_fits_rock_paper_scissors_which_no_single_number_can():
    torch.manual_seed(0)
    first, second = torch.tensor([0, 1, 2]), torch.tensor([2, 0, 1])  # each beats the next
    vectors = torch.randn(3, 2, requires_grad=True)
    numbers = torch.randn(3, requires_grad=True)
    optimizer = torch.optim.Adam([vectors, numbers], lr=0.05)
    for _ in range(300):
        optimizer.zero_grad()
        s = torch.nn.functional.softplus
        (s(-skew_score(vectors[first], vectors[second])).sum() + s(-(numbers[first] - numbers[second])).sum()).backward()
        optimizer.step()
    assert (skew_score(vectors[first], vectors[second]) > 0).all() and not (numbers[first] - numbers[second] > 0).all()
    assert torch.allclose(skew_score(vectors[first], vectors[second]), -skew_score(vectors[second], vectors[first]))


def test_inpo_is_pulled_between_reference_and_last_policy():
    behaviour = LOGP - 0.3 * SIGN
    for mix in (0.0, 0.4, 1.0):
        base = (1 - mix) * LONG["reference"] + mix * behaviour
        told = (LOGP - base).sum(1)
        loss = policy_loss("preference", LOGP, behaviour, SIGN, ONES, aggregation="pair", scored=LONG, link="squared", mix=mix, beta=0.2)
        assert loss.item() == pytest.approx(float((told[0] - told[1] - 2.5) ** 2))


def test_mm_rlhf_weight_grows_with_the_margin_and_equal_margins_are_plain():
    wide, narrow = record([1.0], "a", "g"), record([0.0], "b", "g")
    close, under = record([0.6], "c", "h"), record([0.5], "d", "h")
    flat = [wide, narrow, close, under]
    batch = replace(batch_of(flat, [1.0, -1.0] * 2, "pair", pairs=[0, 0, 1, 1]))
    batch = replace(batch, return_N=torch.tensor([1.0, 0.0, 0.6, 0.5])[batch.episode_N])
    found = reweighted(batch, Weights(margin=1.0), Paid.of(np.zeros(4), np.arange(4)), 0).weight_N
    assert found[batch.pair_N == 0].sum() > found[batch.pair_N == 1].sum() and found.sum() == pytest.approx(batch.weight_N.sum().item())
    same = replace(batch, return_N=torch.tensor([1.0, 0.0, 0.9, -0.1])[batch.episode_N])
    assert torch.allclose(reweighted(same, Weights(margin=1.0), Paid.of(np.zeros(4), np.arange(4)), 0).weight_N, batch.weight_N)


def desk_episodes(successes):
    """Real desk episodes with tokens: the oracle's where it is to succeed, one refused action else; all of one task."""
    from agentgym_trainers.rewrite import scripted
    from agentgym_trainers.supervised import oracle_episode, tokenize

    env, out = make("tools/desk"), []
    task = "set_status.train.0"
    for i, good in enumerate(successes):
        e = oracle_episode(env, task) if good else scripted(["I give up."] * 8, env, task, 0)
        out.append(tokenize(replace_id(e, f"{task}#{i}"), renderer(), env))
    return env, out


def replace_id(episode, id):
    import msgspec

    return msgspec.structs.replace(episode, id=id, group="g")


def test_reward_augmented_data_each_pair_gives_two_and_the_rejected_one_wins_under_its_own_score():
    env, episodes = desk_episodes([True, False])
    learner = Learner(model(), make_optimizer(model(), 1e-3), renderer(), env, resolve("reward_conditioned"))
    batch, _ = learner.batch(episodes, paid(episodes), Pace())
    assert len(torch.unique(batch.pair_N)) == 2 and len(torch.unique(batch.episode_N)) == 4
    texts = [tokenizer().decode(batch.ids_N[batch.episode_N == k]) for k in range(4)]
    best, worst = score_text(1.0).split()[1], score_text(0.0).split()[1]
    assert all(f"Quality: {best} of 10" in t for t in texts[:2]) and all(f"Quality: {worst} of 10" in t for t in texts[2:])
    assert "give up" in texts[2] and batch.advantage_N[batch.episode_N == 2][0] > 0  # rejected, and preferred under its own score


def test_sparsepo_tgdpo_and_t_reg_weights_of_tokens():
    env, episodes = desk_episodes([True, False])
    for name in ("sparsepo", "tgdpo", "t_reg"):
        learner = Learner(model(), make_optimizer(model(), 1e-3), renderer(), env, resolve(name))
        batch, _ = learner.batch(episodes, paid(episodes), Pace())
        guide = batch.scored["guide"]
        assert (guide[batch.mask_N == 0] == 0).all() and guide[batch.mask_N > 0].mean() == pytest.approx(1.0, abs=1e-4)
        if name == "tgdpo":  # the policy is its reference yet: constant guidance is DPO exactly
            assert torch.allclose(guide, batch.mask_N, atol=1e-4)
    constant = normalised_guide(torch.full((len(batch),), 3.0), batch)
    assert torch.allclose(constant, batch.mask_N)
    masked = preferred(scored={**LONG, "guide": ONES}, mask=torch.tensor([[1.0, 1, 0], [1, 1, 0]]))
    moved = preferred(scored={**LONG, "guide": torch.tensor([[1.0, 1, 9], [1, 1, 7]])}, mask=torch.tensor([[1.0, 1, 0], [1, 1, 0]]))
    assert masked.item() == pytest.approx(moved.item())  # guidance on masked tokens has no effect
    assert preferred(scored={**LONG, "guide": ONES}).item() == pytest.approx(preferred().item())


def test_t_reg_equal_prompts_give_no_token_reward(monkeypatch):
    from agentgym_trainers import pairs

    env, episodes = desk_episodes([True, False])
    learner = Learner(model(), make_optimizer(model(), 1e-3), renderer(), env, resolve("t_reg"))
    assert contrast(episodes, learner.model, learner.tell).abs().max() > 0
    monkeypatch.setattr(pairs, "score_text", lambda value: "the same")
    assert contrast(episodes, learner.model, learner.tell).abs().max() == 0


def test_spo_degree_weight_zero_is_the_base_loss_and_it_fits_dpo_and_simpo():
    scored = {**LONG, "return": torch.tensor([[1.0], [0.2]], dtype=torch.float64)}
    for options in ({}, {"against": "nothing", "length": "mean", "margin": 1.0}):
        base = preferred(scored=scored, **options).item()
        assert preferred(scored=scored, degree=0.0, **options).item() == base < preferred(scored=scored, degree=1.0, **options).item()


def test_c3po_the_out_of_scope_part_holds_the_policy_where_it_was():
    env, episodes = desk_episodes([True, False])
    network, shown = model(), desk_episodes([True])[1]
    learner = Learner(network, make_optimizer(network, 1e-3), renderer(), env, resolve("c3po"), lambda n: shown)
    parts_ = learner._auxiliary(8)
    assert len(parts_) == 1 and parts_[0].kl > 0
    network.load_state_dict(model(5).state_dict())
    network.zero_grad()
    backward(network, parts_)
    step = torch.cat([(p.grad * (q - p)).flatten() for p, q in zip(network.parameters(), learner.roles["reference"].model.parameters(), strict=True)])
    assert step.sum() < 0  # down-hill is towards the reference
    network.load_state_dict(learner.roles["reference"].model.state_dict())
    network.zero_grad()
    backward(network, parts_)
    assert max(p.grad.abs().max() for p in network.parameters()) < 1e-6  # and at the reference nothing pulls


# Roles


def test_a_critic_learns_returns_and_skips_observations():
    torch.manual_seed(0)
    critic = Critic(model(), lr=1e-2)
    episodes = group(1.0, 0.0, ids=None)
    episodes[1].turns[0].tokens.ids = [1, 9, 9]
    batch = batch_of(episodes, aggregation="sequence")
    batch = replace(batch, return_N=torch.tensor([1.0, 0.0])[batch.episode_N])
    for _ in range(60):
        critic.update(batch.having(value=critic.score(batch)))
    value = critic.score(batch)
    assert value[batch.mask_N == 0].abs().max() == 0 and value[2] > 0.7 and value[5] < 0.3


def test_an_implicit_process_reward_and_a_reward_model_learn_outcomes():
    for role in (Process(model(), lr=1e-2, beta=0.3), RewardModel(model(), lr=1e-2)):
        episodes = group(1.0, 0.0)
        episodes[1].turns[0].tokens.ids = [1, 9, 9]
        batch = batch_of(episodes)
        batch = batch.having(outcome=torch.tensor([1.0, 0.0])[batch.episode_N], share=torch.full((6,), 0.5))
        losses = [next(v for k, v in role.update(batch).items() if k.endswith("_loss")) for _ in range(40)]
        assert losses[-1] < losses[0] / 2
        told = role.score(batch)
        assert told[batch.episode_N == 0].sum() > told[batch.episode_N == 1].sum() and told[batch.mask_N == 0].abs().max() == 0


def test_weights_carry_the_whole_batchs_denominators_through_micro_batches():
    torch.manual_seed(0)
    network, episodes = model(), group([0.0, 1.0], [0.0, 0.0, 0.0, 0.0], [0.0, 0.5])
    for name, aggregation in (("clipped", "token"), ("sequence_clipped", "sequence"), ("topr", "turn"), ("bellman", "token")):
        batch = batch_of(episodes, [1.0, -0.5, 0.2], aggregation).having(reward=torch.zeros(len(batch_of(episodes))))

        def gradient(tokens, name=name, batch=batch):
            before = micro_batches.__defaults__
            micro_batches.__defaults__ = (before[0], tokens)
            try:
                network.zero_grad()
                backward(network, [Part(batch, name)])
            finally:
                micro_batches.__defaults__ = before
            return torch.cat([p.grad.flatten() for p in network.parameters()])

        assert torch.allclose(gradient(10_000), gradient(1), atol=1e-6), name


def test_algorithm_is_plain_data():
    import msgspec

    again = msgspec.convert(msgspec.to_builtins(resolve("dapo")), Algorithm)
    assert again == resolve("dapo")
    with pytest.raises(UnknownName, match="nearest: dapo"):
        resolve("dappo")
