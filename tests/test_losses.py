"""Advantages and objectives against plain formulas; invalid episodes move nobody."""

import pytest
import torch
from agentgym_trainers import advantages, policy_loss
from agentgym_trainers.advantage import ADVANTAGES
from hypothesis import given
from hypothesis import strategies as st

from agentgym.errors import UnknownName

torch.manual_seed(0)
LOGP, OLD = torch.randn(4, 6, dtype=torch.float64) - 2, torch.randn(4, 6, dtype=torch.float64) - 2
MASK = torch.tensor([[1, 1, 0, 1, 0, 0], [1] * 6, [0] * 6, [0, 1, 1, 0, 0, 0]], dtype=torch.float64)
A = torch.tensor([[1.0], [-0.5], [2.0], [0.3]], dtype=torch.float64)


def clipped(low=0.2, high=0.2):
    ratio = (LOGP - OLD).exp()
    return -torch.minimum(ratio * A, ratio.clamp(1 - low, 1 + high) * A) * MASK


@pytest.mark.parametrize(
    ("aggregation", "expected"),
    [
        ("token", lambda x: x.sum() / MASK.sum()),
        ("sequence", lambda x: (x.sum(1) / MASK.sum(1).clamp(min=1)).mean()),
        ("constant", lambda x: x.sum() / (4 * 6)),
        ("turn", lambda x: (x.sum(1) / MASK.sum(1).clamp(min=1)).mean()),
    ],
)
def test_clipped_loss_is_the_formula_under_each_aggregation(aggregation, expected):
    assert policy_loss("clipped", LOGP, OLD, A, MASK, aggregation=aggregation).item() == pytest.approx(expected(clipped()).item(), abs=1e-12)


def test_the_two_clip_sides_are_apart():
    loss = policy_loss("clipped", LOGP, OLD, A, MASK, aggregation="token", clip_low=0.1, clip_high=0.5)
    assert loss.item() == pytest.approx((clipped(0.1, 0.5).sum() / MASK.sum()).item(), abs=1e-12)


def test_reinforce_has_the_gradient_of_the_advantage():
    logp = LOGP.clone().requires_grad_()
    policy_loss("reinforce", logp, OLD, A, MASK, aggregation="token").backward()
    assert torch.allclose(logp.grad, -A * MASK / MASK.sum())


def test_nothing_outside_the_mask_has_a_gradient():
    for name in ("clipped", "reinforce"):
        logp = LOGP.clone().requires_grad_()
        policy_loss(name, logp, OLD, A, MASK, aggregation="sequence").backward()
        assert (logp.grad[MASK == 0] == 0).all()


def test_group_advantages_are_the_papers():
    rewards, group = torch.tensor([1.0, 0, 0, 1, 5, 7]), torch.tensor([0, 0, 0, 0, 1, 1])
    first = rewards[:4]
    assert torch.allclose(advantages("grpo", rewards, group)[:4], (first - 0.5) / (first.std() + 1e-6))
    assert torch.allclose(advantages("dr_grpo", rewards, group)[4:], torch.tensor([-1.0, 1.0]))
    assert torch.allclose(advantages("rloo", rewards, group)[4:], torch.tensor([-2.0, 2.0]))
    assert advantages("rloo", rewards, group)[0].item() == pytest.approx(1 - 1 / 3)


@pytest.mark.parametrize("name", [n for n, a in ADVANTAGES.items() if not a.values])
@given(st.lists(st.floats(-3, 3), min_size=1, max_size=6), st.lists(st.integers(0, 6), max_size=4))
def test_invalid_episodes_move_nobody(name, rewards, places):
    values, marks = list(rewards), [False] * len(rewards)
    for at in places:
        values.insert(at, float("nan"))
        marks.insert(at, True)
    got = advantages(name, torch.tensor(values, dtype=torch.float64), torch.zeros(len(values)))
    alone = advantages(name, torch.tensor(rewards, dtype=torch.float64), torch.zeros(len(rewards)))
    assert torch.allclose(got[[not m for m in marks]], alone) and (got[marks] == 0).all()


def test_a_group_of_one_and_a_group_of_equals_carry_no_advantage():
    assert advantages("grpo", torch.tensor([3.0]), torch.tensor([0])).tolist() == [0.0]
    assert advantages("grpo", torch.tensor([3.0, float("nan")]), torch.tensor([0, 0])).tolist() == [0.0, 0.0]
    assert advantages("grpo", torch.tensor([1.0, 1.0]), torch.tensor([0, 0])).abs().max() == 0


def test_unknown_names_are_refused_with_the_nearest():
    with pytest.raises(UnknownName, match="clipped"):
        policy_loss("cliped", LOGP, OLD, A, MASK, aggregation="token")
    with pytest.raises(UnknownName, match="sequence"):
        policy_loss("clipped", LOGP, OLD, A, MASK, aggregation="sequences")
    with pytest.raises(UnknownName, match="grpo"):
        advantages("grp", torch.ones(2), torch.zeros(2))
