"""Two processes that torchrun starts, with FSDP2 over gloo: the losses, gradients and weights of one process."""

import os
import subprocess
import sys
from pathlib import Path

import agentgym_trainers
import msgspec
import pytest
import torch
from safetensors.torch import load_file

WARM = str(Path(agentgym_trainers.__file__).parent / "warm")


def run(folder, processes, *more):
    command = [
        "-m", "agentgym", "train", "--env", "tools/desk", "--model", WARM, "--warm-steps", "2", "--warm-batch", "4", "--eval-tasks", "2", "--groups", "2",
        "--group-size", "4", "--max-tokens", "24", "--threads", "1", "--steps", "3", "--seed", "1", "--temperature", "0.7", "--plain", "--json", "--option",
        'templates=["set_status","other_room","file_mail"]', "--out", str(folder), *more,
    ]  # fmt: skip
    start = (
        [sys.executable]
        if processes == 1
        else [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes), "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]
    )
    done = subprocess.run([*start, *command], capture_output=True, text=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [msgspec.json.decode(line) for line in (folder / "metrics.jsonl").read_bytes().splitlines()]
    return msgspec.json.decode(done.stdout), rows


@pytest.mark.parametrize("more", [("--algo", "grpo", "--set", "kl=0.01"), ("--algo", "ppo", "--updates", "2")], ids=["grpo", "ppo"])
def test_two_processes_learn_what_one_does(tmp_path, more):
    one, first = run(tmp_path / "one", 1, *more)
    two, second = run(tmp_path / "two", 2, *more)
    assert len(first) == len(second) == 7
    for a, b in zip(first, second, strict=True):
        for name in ("loss", "grad_norm", "entropy", "kl", "reward", "success", "value_loss"):
            if a.get(name) is not None:
                assert b[name] == pytest.approx(a[name], abs=1e-4, rel=1e-3), (a["phase"], a["step"], name)
    weights = [load_file(Path(r["checkpoint_after"]) / "model.safetensors") for r in (one, two)]
    assert all(torch.allclose(weights[0][k], weights[1][k], atol=1e-4) for k in weights[0])
    assert one["tokens_generated"] == two["tokens_generated"] and one["tokens_trained"] == two["tokens_trained"]
    lines = [len((tmp_path / f / "episodes.jsonl").read_bytes().splitlines()) for f in ("one", "two")]
    assert lines[0] == lines[1] == 24


def test_a_run_of_two_processes_is_continued_by_one(tmp_path):
    run(tmp_path / "r", 2, "--save-every", "1")
    for late in ("step-00003",):
        (tmp_path / "r" / "checkpoints" / late / "trainer.json").unlink()
    done = subprocess.run(
        [sys.executable, "-m", "agentgym", "train", "--resume", str(tmp_path / "r"), "--plain", "--json"], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert msgspec.json.decode(done.stdout)["steps"] == 3
