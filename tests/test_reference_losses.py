"""Losses and advantages equal the values that two well-known public trainers compute on one fixed batch, kept beside the tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from agentgym_trainers import advantages, policy_loss
from agentgym_trainers.gae import discounted, gae, whiten
from agentgym_trainers.objective import kl_penalty
from agentgym_trainers.roles import value_loss

KNOWN = {k: torch.from_numpy(v) if v.ndim else torch.tensor(v) for k, v in np.load(Path(__file__).with_name("reference_losses.npz")).items()}
LOGP, OLD, REF, MASK = (KNOWN[f"in_{k}"] for k in ("logp", "old_logp", "ref_logp", "mask"))
EMPTY, A = KNOWN["in_mask_emptyrow"], KNOWN["in_advantages"][:, None]

CASES = {
    "trl_grpo": ("clipped", "sequence", {}),
    "trl_bnpo": ("clipped", "token", {}),
    "trl_dapo": ("clipped", "token", {}),
    "trl_dr_grpo": ("clipped", "constant", {}),
    "trl_cispo": ("cispo", "token", {"clip_low": 1.0, "clip_high": 4.0}),
    "trl_gspo": ("sequence_clipped", "sequence", {}),
    "trl_gspo_3e4": ("sequence_clipped", "sequence", {"clip_low": 3e-4, "clip_high": 4e-4}),
    "trl_dapo_cliphigher": ("clipped", "token", {"clip_high": 0.28}),
    "trl_grpo_delta": ("clipped", "sequence", {"largest": 1.5}),
    "verl_vanilla": ("clipped", "token", {"dual": 3.0}),
    "verl_vanilla_cliphigher": ("clipped", "token", {"clip_high": 0.28, "dual": 3.0}),
    "verl_vanilla_dual": ("clipped", "token", {"dual": 1.5}),
    "verl_vanilla_seqmean": ("clipped", "sequence", {"dual": 3.0}),
    "verl_vanilla_seqsumnorm": ("clipped", "constant", {"dual": 3.0}),
    "verl_gspo": ("sequence_clipped", "sequence", {}),
    "verl_gspo_3e4": ("sequence_clipped", "sequence", {"clip_low": 3e-4, "clip_high": 4e-4}),
    "verl_cispo": ("cispo", "token", {}),
    "verl_cispo_hi": ("cispo", "token", {"clip_low": 1.0, "clip_high": 4.0}),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_losses_and_their_gradients(name):
    objective, aggregation, options = CASES[name]
    logp = LOGP.clone().requires_grad_()
    loss = policy_loss(objective, logp, OLD, A, MASK, aggregation=aggregation, **options)
    loss.backward()
    assert loss.item() == pytest.approx(KNOWN[name].item(), abs=1e-6)
    assert torch.allclose(logp.grad, KNOWN[f"{name}_dlogp"], atol=1e-6)


@pytest.mark.parametrize("name", [n for n in CASES if n.startswith("trl") or CASES[n][1] != "sequence"])
def test_losses_with_a_row_that_sampled_nothing(name):
    """An empty row counts as 0 in a mean over episodes, as in TRL; verl divides by the number of rows that are not empty."""
    objective, aggregation, options = CASES[name]
    loss = policy_loss(objective, LOGP, OLD, A, EMPTY, aggregation=aggregation, **options)
    if name in ("verl_vanilla_seqsumnorm",):
        loss = loss * 8 / 7
    assert loss.item() == pytest.approx(KNOWN[f"{name}__emptyrow"].item(), abs=1e-6)


def test_the_divergence_in_the_loss():
    """The reference weights it by the ratio to the policy that sampled."""
    logp = LOGP.clone().requires_grad_()
    weight = MASK / MASK.sum(1, keepdim=True).clamp(min=1) / len(MASK)
    loss = policy_loss("clipped", logp, OLD, A, MASK, aggregation="sequence") + 0.04 * (kl_penalty(logp, REF, behaviour_N=OLD) * weight).sum()
    loss.backward()
    assert loss.item() == pytest.approx(KNOWN["trl_grpo_kl"].item(), abs=1e-6)
    assert torch.allclose(logp.grad, KNOWN["trl_grpo_kl_dlogp"], atol=1e-6)


@pytest.mark.parametrize("estimate", ["k1", "k2", "k3"])
def test_estimates_of_the_divergence(estimate):
    assert torch.allclose(kl_penalty(LOGP, REF, estimate), KNOWN[f"verl_kl_{estimate}"], atol=1e-6)


@pytest.mark.parametrize(
    ("known", "name", "options"),
    [("trl_adv_group", "grpo", {"epsilon": 1e-4}), ("trl_adv_none", "dr_grpo", {}), ("trl_adv_batch", "grpo", {"epsilon": 1e-4, "scale": "batch"}),
     ("verl_adv_grpo", "grpo", {}), ("verl_adv_grpo_nostd", "dr_grpo", {}), ("verl_adv_rloo", "rloo", {})],
)  # fmt: skip
def test_advantages_of_groups(known, name, options):
    found, wanted = advantages(name, KNOWN["in_rewards"], KNOWN["in_group"], **options), KNOWN[known]
    assert torch.allclose(found if wanted.ndim == 1 else found[:, None] * MASK, wanted, atol=1e-6)


def test_advantages_of_tokens():
    rewards, values = KNOWN["in_token_rewards"], KNOWN["in_values"]
    returns = discounted(rewards, MASK, 0.99)
    assert torch.allclose(whiten(returns, MASK) * MASK, KNOWN["verl_adv_rfpp"], atol=1e-6)
    centred = advantages("dr_grpo", KNOWN["in_rewards"], KNOWN["in_group"])[:, None] * MASK
    assert torch.allclose(whiten(centred, MASK) * MASK, KNOWN["verl_adv_rfpp_baseline"], atol=1e-6)
    advantage, target = gae(rewards, values, MASK, 0.99, 0.95)
    assert torch.allclose(target, KNOWN["verl_ret_gae"], atol=1e-6)
    assert torch.allclose(whiten(advantage, MASK), KNOWN["verl_adv_gae"], atol=1e-6)
    loss = (value_loss(KNOWN["in_vpreds"], values, KNOWN["verl_ret_gae"]) * MASK).sum() / MASK.sum()
    assert loss.item() == pytest.approx(KNOWN["verl_value_loss"].item(), abs=1e-6)


def test_observation_tokens_change_nothing_that_is_sampled():
    """Advantages with a critic are those of the sequence without its observation tokens."""
    rewards, values, mask = torch.randn(1, 6, dtype=torch.float64), torch.randn(1, 6, dtype=torch.float64), torch.tensor([[1, 0, 1, 1, 0, 1.0]])
    kept = mask[0] > 0
    whole, _ = gae(rewards, values, mask, 0.9, 0.8)
    alone, _ = gae(rewards[:, kept], values[:, kept], mask[:, kept], 0.9, 0.8)
    assert torch.allclose(whole[:, kept], alone)


def test_tapered_off_policy_never_pushes_a_bad_token_harder_than_it_is_likely():
    logp = torch.log(torch.tensor([[0.9, 0.1, 0.9, 0.1]], dtype=torch.float64)).requires_grad_()
    old = torch.log(torch.full((1, 4), 0.5, dtype=torch.float64))
    sign = torch.tensor([[1.0, 1.0, -1.0, -1.0]])
    policy_loss("topr", logp, old, sign, torch.ones(1, 4), aggregation="constant", constant=1, ratio="token").backward()
    assert torch.allclose(logp.grad, torch.tensor([[-1.0, -1.0, 1.0, 0.2]], dtype=torch.float64))
