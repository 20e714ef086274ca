"""Training runs on a very small model: exact resume, reports, checkpoints, any reward, bad input."""

import json
import math
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from agentgym_trainers import checkpoint
from agentgym_trainers.config import SftConfig, TrainConfig
from agentgym_trainers.model import save_model
from agentgym_trainers.paid import paid
from agentgym_trainers.report import write_report
from agentgym_trainers.streams import make_batch
from agentgym_trainers.supervised import oracle_episode, tokenize
from agentgym_trainers.train import sft, train
from agentgym_trainers.update import Part, make_optimizer, update
from tiny import model, renderer, tokenizer

from agentgym.episode import read_episodes
from agentgym.errors import CheckpointMismatch, UsageError

SMALL = {
    "env": "tools/desk", "option": {"templates": ["set_status"]}, "warm_steps": 6, "warm_batch": 8, "warm_tasks": 16, "eval_tasks": 4, "groups": 2,
    "group_size": 4, "max_tokens": 24, "threads": 1, "context": 512,
}  # fmt: skip


def quiet(phase, row):
    pass


class Killed(Exception):
    pass


@pytest.mark.parametrize("reward", ["stepwise", "intrinsic"])
def test_a_run_that_is_killed_resumes_bit_for_bit(tmp_path, reward):
    config = {**SMALL, "reward": reward, "steps": 4, "save_every": 2, "set": {"kl": 0.01}}
    whole = train(TrainConfig(**config, out=str(tmp_path / "whole")), quiet)

    def stop(phase, row):
        if phase == "train" and row["step"] == 3:
            raise Killed

    with pytest.raises(Killed):
        train(TrainConfig(**config, out=str(tmp_path / "cut")), stop)
    resumed = train(TrainConfig(resume=str(tmp_path / "cut")), quiet)
    for name in ("model.safetensors", "trainer.pt"):
        files = [(Path(r.checkpoint_after) / name) for r in (whole, resumed)]
        if name.endswith("safetensors"):
            assert files[0].read_bytes() == files[1].read_bytes()
        else:
            a, b = (torch.load(f, weights_only=True) for f in files)
            assert all(
                torch.equal(a["optimizer"]["state"][k][m], b["optimizer"]["state"][k][m]) for k in a["optimizer"]["state"] for m in ("exp_avg", "exp_avg_sq")
            )
            assert torch.equal(a["rng"], b["rng"]) and a["extra"] == b["extra"]
    assert len({Path(r.checkpoint_after, checkpoint.LATE).read_bytes() for r in (whole, resumed)}) == 1

    def numbers(folder):
        rows = [msgspec.json.decode(line) for line in (tmp_path / folder / "metrics.jsonl").read_bytes().splitlines()]
        return [{k: v for k, v in r.items() if not k.endswith("_s")} for r in rows]

    assert numbers("whole") == numbers("cut")
    records = [[(e.id, [t.tokens.ids for t in e.turns], e.terms) for e in read_episodes(tmp_path / f / "episodes.jsonl")] for f in ("whole", "cut")]
    assert records[0] == records[1] and len(records[0]) == 4 * 8
    assert (resumed.before, resumed.after, resumed.tokens_generated) == (whole.before, whole.after, whole.tokens_generated)


def test_sft_learns_and_its_checkpoint_loads_as_a_policy_and_as_a_model(tmp_path):
    losses = []
    common = {k: v for k, v in SMALL.items() if k in SftConfig.__struct_fields__}
    config = SftConfig(**{**common, "warm_steps": 30, "out": str(tmp_path / "sft")})
    result = sft(config, lambda phase, row: losses.append(row["loss"]) if phase == "warm" else None)
    assert losses[-1] < losses[0] / 3 and Path(result.checkpoint_after, "model.safetensors").exists()
    from agentgym.policies import resolve

    assert resolve(f"hf:{result.checkpoint_after}").name.startswith("hf:")
    again = train(TrainConfig(**{**SMALL, "model": result.checkpoint_after, "warm_steps": None, "steps": 1, "out": str(tmp_path / "more")}), quiet)
    assert again.warm_start == result.warm_start and again.steps == 1
    seen = sft(SftConfig(**{**common, "model": result.checkpoint_after, "eval_split": "train", "out": str(tmp_path / "seen")}), quiet)
    assert any("the warm start saw tasks of train" in n for n in seen.notes) and not any("warm start" in n for n in again.notes)
    page = write_report(again).read_text()
    assert "data:image/png;base64," in page and "learning curve" in page and (tmp_path / "more" / "curve.png").stat().st_size > 5000


def test_any_hugging_face_folder_trains_through_the_same_code(tmp_path):
    save_model(model(1), tokenizer(), tmp_path / "m")
    result = train(
        TrainConfig(**{**SMALL, "model": str(tmp_path / "m"), "warm_steps": 0, "steps": 1, "reward": "intrinsic", "out": str(tmp_path / "r")}), quiet
    )
    assert result.tokens_trained > 0 and math.isfinite(result.after.success.mean)


def test_only_what_the_oracle_did_carries_weight(desk):
    episode = tokenize(oracle_episode(desk, "close_by_title.train.0"), renderer(), desk)
    batch = make_batch([episode], [1.0], "token")
    said = "".join(tokenizer().decode(batch.ids_N[batch.mask_N > 0]).split("<|im_end|>"))
    assert said == "".join(t.action for t in episode.turns)
    assert ((batch.weight_N > 0) == (batch.mask_N > 0)).all() and batch.weight_N.sum().item() == pytest.approx(1.0)


def test_a_loss_that_is_not_finite_skips_the_step(desk):
    network = model()
    batch = make_batch([tokenize(oracle_episode(desk, "set_status.train.0"), renderer(), desk)], [float("nan")], "token")
    before = [p.clone() for p in network.parameters()]
    row = update(network, make_optimizer(network, 1e-3), [Part(batch, "reinforce")])
    assert row["skipped"] == 1.0 and all(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))


def test_a_checkpoint_of_another_model_is_refused_with_both_names(tmp_path):
    small, large = model(), model(hidden=64)
    folder = checkpoint.save(tmp_path, 3, small, tokenizer(), make_optimizer(small, 1e-3), {})
    with pytest.raises(CheckpointMismatch, match=rf"{small.num_parameters()}, this run has {large.num_parameters()}"):
        checkpoint.restore(folder, large, make_optimizer(large, 1e-3))


def test_a_half_written_checkpoint_does_not_count(tmp_path):
    small = model()
    checkpoint.save(tmp_path, 2, small, tokenizer(), make_optimizer(small, 1e-3), {})
    half = checkpoint.save(tmp_path, 4, small, tokenizer(), make_optimizer(small, 1e-3), {})
    (half / "trainer.json").unlink()
    assert checkpoint.latest(tmp_path)[0] == 2


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"model": "/no/such/model"}, "no model can be loaded"),
        ({"resume": "/no/such/run"}, "not a training run"),
        ({"reward": "outcom"}, "nearest: outcome"),
        ({"algo": "grp"}, "nearest: grpo"),
    ],
)
def test_bad_input_is_one_clear_error(tmp_path, wrong, said):
    with pytest.raises(UsageError, match=said):
        train(TrainConfig(**{**SMALL, "out": str(tmp_path / "x"), **wrong}), quiet)


def test_a_folder_that_holds_a_run_is_not_overwritten(tmp_path):
    config = TrainConfig(**{**SMALL, "warm_steps": 1, "steps": 0, "out": str(tmp_path / "r")})
    train(config, quiet)
    with pytest.raises(UsageError, match="--resume"):
        train(config, quiet)


def test_the_order_of_tasks_is_a_function_of_the_step():
    from agentgym_trainers.sampler import task_of

    ids = [f"t{i}" for i in range(7)]
    order = [task_of(ids, 0, n) for n in range(21)]
    assert [sorted(order[i : i + 7]) for i in (0, 7, 14)] == [ids] * 3 and order[:7] != order[7:14]


def test_a_failed_judge_is_no_reward_of_zero():
    from records import scored

    from agentgym.core import Tokens, Verdict
    from agentgym.rewards import late, load, outcome

    spec, made = outcome("o") + late("j", level="outcome"), [scored([1.0], x, f"e{x}", status="valid") for x in (0.0, 1.0, 1.0)]
    for e in made:
        e.turns[0].tokens = Tokens([1], [1], [-1.0], {"temperature": 1.0}, [("0", 1)])
        e.late["j"], e.terms = Verdict.scored(1.0), load(str(outcome("o"))).at(e, 0)
    made[2].late["j"] = Verdict.invalid("the judge gave no answer", "infra")
    assert paid(made, spec).total_B[:2].tolist() == [0.0, 1.0] and np.isnan(paid(made, spec).total_B[2])
    assert not np.isnan(paid(made, outcome("o")).total_B).any()


def test_the_gpu_benchmark_runs_at_a_tiny_size_without_one():
    script = Path(__file__).parent.parent / "benchmarks" / "gpu_train.py"
    done = subprocess.run([sys.executable, str(script), "--tiny"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    row = json.loads(done.stdout.splitlines()[-1])
    assert row["generated_tokens_per_s"] > 0 and row["trained_tokens_per_s"] > 0 and row["sample_share"] + row["learn_share"] == pytest.approx(1.0, abs=0.01)
