"""verl 0.9 itself, in an environment of its own (``make test-trainers``): its agent loop plays, its trainer's functions take our advantages and losses.

How far a CPU goes: the exported configuration is composed and validated by verl; its agent loop worker samples whole episodes (a model of ours stands where
vLLM does); its advantage and loss functions run, and a step is taken. verl's trainer as a whole needs GPUs for its servers and its workers.
"""

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

verl = pytest.importorskip("verl")
import agentgym_trainers  # noqa: E402
import torch  # noqa: E402
from agentgym_trainers.adapters import verl as ours  # noqa: E402
from agentgym_trainers.adapters.verl_config import verl_config  # noqa: E402
from agentgym_trainers.model import load_model  # noqa: E402
from hydra import compose, initialize_config_dir  # noqa: E402
from tensordict import TensorDict  # noqa: E402
from verl import DataProto  # noqa: E402
from verl.experimental.agent_loop.agent_loop import AgentLoopWorker  # noqa: E402
from verl.trainer.ppo.core_algos import get_policy_loss_fn  # noqa: E402
from verl.trainer.ppo.ray_trainer import compute_advantage  # noqa: E402
from verl.trainer.ppo.utils import need_critic, need_reference_policy  # noqa: E402
from verl.utils.config import validate_config  # noqa: E402
from verl.workers.config import FSDPActorConfig, PolicyLossConfig  # noqa: E402
from verl.workers.rollout.replica import TokenOutput  # noqa: E402

MODEL = str(Path(agentgym_trainers.__file__).with_name("warm"))
TABLE = f"""
env = "tools/desk"
model = "{MODEL}"
context = 512
groups = 2
group_size = 3
max_tokens = 40
eval_tasks = 4
algo = "grpo"
reward = "stepwise"
set = {{advantage = "turn", kl = 0.01, clip_high = 0.28}}
[option]
levels = 1
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    where = tmp_path_factory.mktemp("verl")
    (where / "run.toml").write_text(TABLE)
    assert verl_config(where / "run.toml", where / "out") > 4
    return where / "out"


@pytest.fixture(scope="module")
def config(folder):
    with initialize_config_dir(str(folder), version_base=None):
        return compose("verl", overrides=["hydra.searchpath=[pkg://verl.trainer.config]", "trainer.n_gpus_per_node=1"])


class Server:
    """Where vLLM would be: a model of ours, sampled with logprobs."""

    def __init__(self):
        self.model, _ = load_model(MODEL)
        self.model.eval()
        self.asked = []

    async def generate(self, request_id, *, prompt_ids, sampling_params, **_):
        self.asked.append((request_id, list(prompt_ids), sampling_params))
        ids, logprobs = list(prompt_ids), []
        with torch.no_grad():
            for _ in range(sampling_params["max_tokens"]):
                found = torch.log_softmax(self.model(torch.tensor([ids])).logits[0, -1] / sampling_params["temperature"], -1)
                ids.append(int(torch.multinomial(found.exp(), 1)))
                logprobs.append(float(found[ids[-1]]))
                if ids[-1] in sampling_params["stop_token_ids"]:
                    break
        return TokenOutput(token_ids=ids[len(prompt_ids) :], log_probs=logprobs, extra_fields={"global_steps": 7})


@pytest.fixture(scope="module")
def played(config, folder):
    """Two groups of three episodes by verl's own worker."""
    import pyarrow.parquet as pq

    rows = pq.read_table(folder / "train.parquet").to_pylist()[:2]
    torch.manual_seed(3)
    server, many = Server(), [r for r in rows for _ in range(3)]

    async def go():
        worker = AgentLoopWorker(config, server)
        fields = {k: np.array([None] * 6, dtype=object) for k in ("raw_prompt", "agent_name", "extra_info", "uid", "index", "session_id")}
        for i, row in enumerate(many):
            told = (row["prompt"], row["agent_name"], row["extra_info"], f"uid{i // 3}", i // 3, i % 3)
            for name, value in zip(fields, told, strict=True):
                fields[name][i] = value
        batch = DataProto(TensorDict({"x": torch.zeros(6)}, batch_size=6), fields, {"global_steps": 7})
        outputs = []
        kept = ours.AgentLoop.run

        async def keeping(self, *args, **kwargs):
            outputs.append((kwargs["uid"], kwargs["session_id"], out := await kept(self, *args, **kwargs)))
            return out

        ours.AgentLoop.run = keeping
        try:
            return await worker.generate_sequences(batch), {(u, s): o for u, s, o in outputs}
        finally:
            ours.AgentLoop.run = kept

    made, outputs = asyncio.run(go())
    return SimpleNamespace(made=made, outputs=[outputs[f"uid{i // 3}", i % 3] for i in range(6)], server=server)


def test_verl_composes_and_validates_what_was_exported(config, folder):
    validate_config(config, need_reference_policy(config), need_critic(config))
    assert config.algorithm.adv_estimator == "agentgym_turn" and config.actor_rollout_ref.actor.policy_loss.loss_mode == "agentgym_clipped"
    assert config.actor_rollout_ref.actor.clip_ratio_high == 0.28 and config.actor_rollout_ref.actor.use_kl_loss
    assert config.actor_rollout_ref.rollout.n == 3 and config.data.max_response_length == 512
    done = subprocess.run(["sh", str(folder / "run.sh"), "--cfg", "job"], capture_output=True, text=True, env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"})  # fmt: skip
    assert done.returncode == 0 and "adv_estimator: agentgym_turn" in done.stdout, done.stderr[-2000:]


def test_verls_worker_plays_episodes_whose_ids_are_those_that_were_sampled(played):
    made = played.made.batch
    assert made["responses"].shape == (6, 512) and made["response_mask"].sum() > 20
    assert played.server.asked[0][2]["logprobs"] is True and played.server.asked[0][2]["temperature"] == 1.0
    for i, output in enumerate(played.outputs):
        n = len(output.response_ids)
        assert made["responses"][i, :n].tolist() == output.response_ids
        assert made["response_mask"][i].sum() == sum(output.response_mask)
        whole = output.prompt_ids + output.response_ids
        with torch.no_grad():
            logp = torch.log_softmax(played.server.model(torch.tensor([whole])).logits[0], -1)
        for k, m in enumerate(output.response_mask):
            if m:
                at = len(output.prompt_ids) + k
                assert output.response_logprobs[k] == pytest.approx(float(logp[at - 1, whole[at]]), abs=2e-4)
    assert max(o.num_turns for o in played.outputs) >= 6
    assert all(o.extra_fields["min_global_steps"] == o.extra_fields["max_global_steps"] == 7 for o in played.outputs)


def test_turn_rewards_lie_at_the_last_id_of_their_turns_and_sum_to_the_episodes(played):
    some = 0
    for output in played.outputs:
        fields = output.as_dict()
        scores, mask = fields["rm_scores"].tolist(), output.response_mask
        assert sum(scores) == pytest.approx(output.reward_score) and len(scores) == len(mask)
        ends = [k for k, m in enumerate(mask) if m and (k + 1 == len(mask) or not mask[k + 1])]
        assert all(s == 0 for k, s in enumerate(scores) if k not in ends)
        assert [scores[k] for k in ends][:-1] == pytest.approx(output.extra_fields["turn_scores"][: len(ends) - 1])
        some += sum(s != 0 for s in scores)
    assert some > len(played.outputs), "steps were paid, not only ends"


def batched(played):
    data = played.made
    length = data.batch["responses"].shape[1]
    rewards = torch.zeros(6, length)
    for i, output in enumerate(played.outputs):
        rewards[i, : len(output.token_rewards)] = torch.tensor(output.token_rewards)
    data.batch["token_level_rewards"] = rewards
    data.non_tensor_batch["uid"] = np.array([f"uid{i // 3}" for i in range(6)], dtype=object)
    return data


def test_verls_trainer_takes_our_advantages(played):
    data = batched(played)
    mask, rewards = data.batch["response_mask"].float(), data.batch["token_level_rewards"]
    grpo = compute_advantage(data, "agentgym_dr_grpo").batch["advantages"].clone()
    totals = rewards.sum(1)
    for i in range(6):
        group = totals[3 * (i // 3) : 3 * (i // 3) + 3]
        assert torch.allclose(grpo[i][mask[i] > 0], (totals[i] - group.mean()).expand(int(mask[i].sum())), atol=1e-5)
    assert (grpo[mask == 0] == 0).all()
    turned = compute_advantage(data, "agentgym_turn").batch["advantages"]
    assert len({round(float(x), 6) for x in turned[0][mask[0] > 0]}) > 1, "turns have advantages of their own"
    theirs = compute_advantage(data, "grpo").batch["advantages"]
    assert torch.allclose(compute_advantage(data, "agentgym_grpo").batch["advantages"], theirs, atol=1e-4), "and grpo is verl's own"


def test_verls_trainer_takes_our_losses_and_a_step_is_taken(played):
    data = batched(played)
    data = compute_advantage(data, "agentgym_turn")
    actor = FSDPActorConfig(
        strategy="fsdp", rollout_n=3, ppo_micro_batch_size_per_gpu=6, ppo_mini_batch_size=6, clip_ratio_low=0.2, clip_ratio_high=0.28, optim={"lr": 1e-3},
        policy_loss=PolicyLossConfig(loss_mode="agentgym_clipped"),
    )  # fmt: skip
    mask, old, adv = data.batch["response_mask"], data.batch["rollout_log_probs"], data.batch["advantages"]
    moved = (old + 0.3 * torch.randn_like(old)) * mask
    for name, same in (("clipped", "vanilla"), ("sequence_clipped", "gspo")):
        mode = "token-mean" if name == "clipped" else "seq-mean-token-mean"
        mine, _ = get_policy_loss_fn(f"agentgym_{name}")(old, moved, adv, mask, mode, actor, None)
        theirs, _ = get_policy_loss_fn(same)(old, moved, adv, mask, mode, actor, None)
        assert float(mine) == pytest.approx(float(theirs), rel=1e-4, abs=1e-6)
    model = played.server.model
    step = torch.optim.SGD(model.parameters(), 1e-3)

    def logp():
        ids, attention = data.batch["input_ids"], data.batch["attention_mask"]
        logits = model(ids, attention_mask=attention, position_ids=data.batch["position_ids"]).logits
        found = torch.log_softmax(logits[:, :-1], -1).gather(-1, ids[:, 1:, None])[..., 0]
        return found[:, -data.batch["responses"].shape[1] :] * mask

    loss_fn = get_policy_loss_fn(actor.policy_loss.loss_mode)
    loss, metrics = loss_fn(old, logp(), adv, mask, "token-mean", actor, None)
    assert metrics["actor/ppo_kl"] == pytest.approx(0.0, abs=1e-4), "the first update's ratio is 1"
    loss.backward()
    step.step()
    after, _ = loss_fn(old, logp(), adv, mask, "token-mean", actor, None)
    assert float(after) < float(loss)
