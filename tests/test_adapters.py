"""Our environments in other people's trainers: the real trainer, a tiny model, one step and what it learned from."""

from pathlib import Path

import agentgym_trainers
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from agentgym_trainers.adapters.trl import Played, told
from agentgym_trainers.engine import TransformersEngine
from agentgym_trainers.model import load_model
from agentgym_trainers.renderer import ChatRenderer
from agentgym_trainers.update import score

import agentgym
from agentgym.cli.main import guarded


def tiny():
    """The warm-started model of the demo, which sometimes succeeds."""
    return load_model(str(Path(agentgym_trainers.__file__).parent / "warm"))


def test_a_step_of_trl_learns_from_the_ids_that_were_sampled(tmp_path):
    from trl import GRPOConfig, GRPOTrainer

    model, tokenizer = tiny()
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    task = Played("tools/desk", levels=1, max_tokens=64)
    settings = GRPOConfig(
        output_dir=str(tmp_path), per_device_train_batch_size=8, num_generations=4, max_steps=2, learning_rate=1e-3, report_to=[], use_cpu=True,
        save_strategy="no", logging_steps=1, beta=0.0, max_completion_length=1024, bf16=False,
    )  # fmt: skip
    trainer = GRPOTrainer(model, task.reward, settings, train_dataset=task.dataset(8), processing_class=tokenizer, rollout_func=task)
    seen = []
    inner = trainer._generate_and_score_completions

    def watched(inputs):
        out = inner(inputs)
        seen.append((out, list(task.last)))
        return out

    trainer._generate_and_score_completions = watched
    trainer.train()
    assert task.calls == 2 and any(not torch.equal(before[n], p) for n, p in model.named_parameters())
    out, episodes = seen[0]
    for i, episode in enumerate(episodes):
        ids = [t for t, m in zip(out["completion_ids"][i].tolist(), out["tool_mask"][i].tolist(), strict=True) if m][
            : sum(sum(t.tokens.mask) for t in episode.turns)
        ]
        assert ids == [t for turn in episode.turns for t, m in zip(turn.tokens.ids, turn.tokens.mask, strict=True) if m]
    rewards = torch.tensor([e.total for e in episodes]).view(2, 4)
    centred = (rewards - rewards.mean(1, keepdim=True)).flatten()
    assert torch.equal(out["advantages"].sign(), centred.sign()) and len({e.group for e in episodes}) == 2


def test_what_trl_is_told_is_what_the_weights_gave_and_an_invalid_episode_has_no_reward():
    import anyio
    from agentgym_trainers.streams import make_batch

    import agentgym
    from agentgym.rollout import Job, Rollout

    model, tokenizer = tiny()
    engine = TransformersEngine(model.eval(), ChatRenderer(tokenizer), max_tokens=12)
    rollout = Rollout(lambda: agentgym.make("tools/desk", levels=1), engine, max_tokens=12)
    episodes = anyio.run(rollout.run, [Job(t, seed=i) for i, t in enumerate(agentgym.make("tools/desk", levels=1).taskset.ids()[:3])])
    row = told(episodes, engine.renderer)
    batch = make_batch(episodes, [1.0] * 3, "token")
    assert [i for p, c in zip(row["prompt_ids"], row["completion_ids"], strict=True) for i in (*p, *c)] == batch.ids_N.tolist()
    sampled = batch.mask_N > 0
    assert (score(model, batch) - batch.behaviour_logp_N)[sampled].abs().max() < 1e-4
    episodes[0].status = "invalid"
    assert told(episodes, engine.renderer)["returned"][0] is None and row["returned"][0] is not None


TABLE = """
env = "tools/desk"
model = "MODEL"
groups = 4
group_size = 2
[option]
levels = 1
"""


def exported(tmp_path, capsys, text="", code=0):
    table = tmp_path / "run.toml"
    table.write_text(TABLE.replace("MODEL", str(Path(agentgym_trainers.__file__).parent / "warm")).replace("[option]", f"{text}\n[option]"))
    assert guarded(["export", str(table), "--format", "verl-config", "--to", str(tmp_path / "out"), "--plain"]) == code
    told = capsys.readouterr()
    return told.out + told.err


def test_a_table_becomes_a_configuration_of_verls(tmp_path, capsys):
    assert "as verl-config in" in exported(tmp_path, capsys, 'algo = "dapo"\nlr = 1e-5\nupdates = 2')
    made = yaml.safe_load((tmp_path / "out" / "verl.yaml").read_text())
    actor, rollout = made["actor_rollout_ref"]["actor"], made["actor_rollout_ref"]["rollout"]
    assert (actor["loss_agg_mode"], actor["clip_ratio_high"], actor["optim"]["lr"], actor["ppo_mini_batch_size"]) == ("token-mean", 0.28, 1e-5, 2)
    assert rollout["n"] == 2 and made["data"]["train_batch_size"] == 4 and made["algorithm"]["filter_groups"]["enable"]
    (loop,) = yaml.safe_load((tmp_path / "out" / "agent.yaml").read_text())
    assert loop["env"] == "tools/desk" and loop["options"] == {"levels": 1} and loop["reward"] == "outcome"
    rows = pq.read_table(tmp_path / "out" / "train.parquet").to_pylist()
    assert [r["extra_info"]["task"] for r in rows] == list(agentgym.make("tools/desk", levels=1).taskset.ids())


def test_an_entropy_bonus_of_all_is_verls_own(tmp_path, capsys):
    assert "as verl-config in" in exported(tmp_path, capsys, 'set = {entropy = 0.01, entropy_of = "all"}')
    assert yaml.safe_load((tmp_path / "out" / "verl.yaml").read_text())["actor_rollout_ref"]["actor"]["entropy_coeff"] == 0.01


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('algo = "ppo"', "advantage critic"), ('algo = "dpo"', "objective preference"), ("window = 1", "a window of turns"),
        ('algo = "grpo"\nset = {curriculum = "difficulty"}', "curriculum"), ('set = {sampler = "eliminate"}', "sampler eliminate"), ('data = "runs/x"', "stored episodes"),
        ("set = {entropy = 0.01}", "entropy_of=all"),
    ],
)  # fmt: skip
def test_what_verl_has_no_place_for_is_refused_by_name(tmp_path, capsys, text, why):
    assert why in exported(tmp_path, capsys, text, 2)


def test_a_folder_that_is_no_training_run_is_no_configuration(tmp_path, capsys):
    assert guarded(["export", str(tmp_path), "--format", "verl-config"]) == 2 and "no config.toml" in capsys.readouterr().err
    assert guarded(["export", str(tmp_path), "--format", "verl"]) == 2 and "verl-config" in capsys.readouterr().err
