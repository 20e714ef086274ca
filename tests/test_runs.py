"""What a training run survives: interrupts, numbers that are not finite, memory, stale weights, stragglers; and what it tells."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import agentgym_trainers
import anyio
import msgspec
import numpy as np
import pytest
import torch
from agentgym_trainers import checkpoint, collect, learner, update
from agentgym_trainers.config import TrainConfig
from agentgym_trainers.model import load_model
from agentgym_trainers.report import write_report
from agentgym_trainers.train import train

from agentgym.core import AgentEnv
from agentgym.episode import read_episodes
from agentgym.errors import MissingExtra, TrainingStopped, UsageError

WARM = str(Path(agentgym_trainers.__file__).parent / "warm")
SMALL = {
    "env": "tools/desk", "option": {"templates": ["set_status", "other_room", "file_mail"], "limits": {"max_turns": 4}}, "model": WARM, "warm_steps": 0,
    "eval_tasks": 2, "groups": 2, "group_size": 4, "max_tokens": 24, "threads": 1, "context": 512, "steps": 3, "seed": 1, "temperature": 0.7,
}  # fmt: skip


def rows_of(folder, phase="train"):
    rows = [msgspec.json.decode(line) for line in (Path(folder) / "metrics.jsonl").read_bytes().splitlines()]
    return [r for r in rows if r["phase"] == phase]


def quiet(phase, row):
    pass


# Interrupts


def begin(folder, steps, warm=0):
    command = [
        sys.executable, "-m", "agentgym", "train", "--env", "tools/desk", "--model", WARM, "--warm-steps", str(warm), "--eval-tasks", "2", "--groups", "2", "--group-size",
        "4", "--max-tokens", "24", "--threads", "1", "--seed", "1", "--temperature", "0.7", "--plain", "--option", 'templates=["set_status","other_room","file_mail"]',
        "--out", str(folder), "--steps", str(steps), "--save-every", "1000",
    ]  # fmt: skip
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


def until(condition, seconds=90):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_an_interrupt_leaves_a_checkpoint_that_goes_on_as_if_nothing_had_been(tmp_path):
    process = begin(tmp_path / "cut", 6)
    until(lambda: (tmp_path / "cut" / "metrics.jsonl").exists() and len(rows_of(tmp_path / "cut")) >= 2)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 130 and "interrupted" in said
    step, _ = checkpoint.latest(tmp_path / "cut")
    assert step >= 2
    resumed = train(TrainConfig(resume=str(tmp_path / "cut")), quiet)
    config = TrainConfig(
        **{**SMALL, "option": {"templates": ["set_status", "other_room", "file_mail"]}, "context": 1024, "steps": 6}, out=str(tmp_path / "whole")
    )
    whole = train(config, quiet)
    files = [Path(r.checkpoint_after, "model.safetensors").read_bytes() for r in (resumed, whole)]
    assert files[0] == files[1] and resumed.tokens_generated == whole.tokens_generated


def test_a_second_interrupt_ends_it_at_once(tmp_path):
    process = begin(tmp_path / "r", 1000)
    until(lambda: (tmp_path / "r" / "metrics.jsonl").exists() and len(rows_of(tmp_path / "r")) >= 1)
    process.send_signal(signal.SIGINT)
    time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    process.communicate(timeout=30)
    assert process.returncode in (130, -signal.SIGINT) and time.monotonic() - began < 15


def test_before_the_first_step_there_is_nothing_to_keep_and_an_interrupt_ends_it_at_once(tmp_path):
    process = begin(tmp_path / "r", 6, warm=100_000)
    until(lambda: (tmp_path / "r" / "metrics.jsonl").exists() and len(rows_of(tmp_path / "r", "warm")) >= 2)
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    assert "interrupted" in process.communicate(timeout=60)[1]
    assert process.returncode == 130 and time.monotonic() - began < 15 and checkpoint.latest(tmp_path / "r") is None


# Numbers and memory


def test_a_step_that_is_not_finite_is_skipped_recorded_and_the_third_in_a_row_stops_the_run(tmp_path, monkeypatch):
    real, calls = update.objective_loss, []

    def broken(name, now, batch, **options):
        calls.append(1)
        return real(name, now, batch, **options) * (float("nan") if len(calls) in wrong else 1.0)

    wrong = {1, 2}
    monkeypatch.setattr(update, "objective_loss", broken)
    result = train(TrainConfig(**{**SMALL, "steps": 4}, algo="nsr", out=str(tmp_path / "a")), quiet)
    assert [r["skipped"] for r in rows_of(tmp_path / "a")] == [1.0, 1.0, 0.0, 0.0] and result.steps == 4
    assert len(list(read_episodes(tmp_path / "a" / "bad.jsonl"))) == 16 and sum("not finite" in n for n in result.notes) == 2
    before = load_model(result.checkpoint_before)[0].state_dict()
    assert any(not torch.equal(v, before[k]) for k, v in load_model(result.checkpoint_after)[0].state_dict().items())
    wrong = set(range(100))
    with pytest.raises(TrainingStopped, match=r"3 updates in a row.*bad\.jsonl"):
        train(TrainConfig(**{**SMALL, "steps": 9}, algo="nsr", out=str(tmp_path / "b")), quiet)
    assert len(list(read_episodes(tmp_path / "b" / "bad.jsonl"))) == 24
    kept = load_model(str(checkpoint.folder_of(tmp_path / "b", 0)))[0].state_dict()
    assert all(torch.isfinite(v).all() for v in kept.values())


def test_a_reward_that_is_not_finite_teaches_nobody(tmp_path):
    from agentgym_trainers.paid import paid

    from agentgym.verdict import Verdict

    train(TrainConfig(**{**SMALL, "steps": 1}, out=str(tmp_path / "r")), quiet)
    episodes = list(read_episodes(tmp_path / "r" / "episodes.jsonl"))
    assert Verdict.scored(float("nan")).status == "invalid"
    episodes[0].terms = [msgspec.structs.replace(t, value=float("inf")) for t in episodes[0].terms]
    found = paid(episodes).total_B
    assert np.isnan(found[0]) and not np.isnan(found[1:]).any()


@pytest.mark.parametrize("doing", ["sampling", "learning"])
def test_out_of_memory_is_one_line_with_the_setting_to_lower(tmp_path, monkeypatch, doing):
    def full(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    if doing == "learning":
        monkeypatch.setattr(learner, "update", full)
    else:  # for a step, not for the evaluation before it
        play = collect.Collector.play

        def starved(self, *args):
            self.run.engine._forward = full
            return play(self, *args)

        monkeypatch.setattr(collect.Collector, "play", starved)
    with pytest.raises(TrainingStopped, match=rf"out of memory while {doing}.*--groups, --group-size or --context"):
        train(TrainConfig(**SMALL, algo="nsr", out=str(tmp_path / "r")), quiet)


# Beside sampling


@pytest.mark.parametrize("stragglers", ["wait", "carry", "cut"])
def test_staleness_never_passes_its_bound(tmp_path, stragglers, monkeypatch):
    """Driven to the edge: the learner is fast, one group in three is slow, and updates come as quickly as they can."""
    from agentgym.registry import make as real

    def slow(*args, **kwargs):
        env = real(*args, **kwargs)
        env.capabilities = msgspec.structs.replace(env.capabilities, blocking=True)
        step = env.step

        def later(action):
            time.sleep(0.3 if sum(map(ord, env.task.id)) % 3 == 0 else 0.01)
            return step(action)

        env.step = later
        later.__name__ = "step"
        return env

    monkeypatch.setattr(collect, "make", slow)
    config = {**SMALL, "steps": 8, "staleness": 2, "stragglers": stragglers, "lr": 1e-5}
    result = train(TrainConfig(**config, algo="nsr", out=str(tmp_path / "r")), quiet)
    rows = rows_of(tmp_path / "r")
    assert len(rows) == 8 and max(r.get("staleness_max", 0) for r in rows) <= 2
    assert max(r.get("staleness_max", 0) for r in rows) >= 1  # it did overlap
    learned = {v for e in read_episodes(tmp_path / "r" / "episodes.jsonl") for t in e.turns if t.tokens for v, _ in t.tokens.weight_versions}
    assert len(learned) > 2
    if stragglers != "cut":
        assert not any("cut the group" in n for n in result.notes)


def test_sampling_and_learning_overlap(tmp_path, monkeypatch):
    """Environments step while an update is being made; in turn (staleness 0) none does."""
    learning, stepped = [], {True: 0, False: 0}
    real_learn, real_step = learner.Learner.learn, AgentEnv.step

    def learn(self, *args):
        learning.append(1)
        try:
            time.sleep(0.3)
            return real_learn(self, *args)
        finally:
            learning.clear()

    def step(self, action):
        stepped[bool(learning)] += 1
        return real_step(self, action)

    monkeypatch.setattr(learner.Learner, "learn", learn)
    monkeypatch.setattr(AgentEnv, "step", step)
    for staleness in (0, 1):
        stepped[True] = 0
        train(TrainConfig(**{**SMALL, "steps": 5, "staleness": staleness}, algo="nsr", out=str(tmp_path / str(staleness))), quiet)
        assert (stepped[True] > 0) == bool(staleness)
    with pytest.raises(UsageError, match="--staleness"):
        train(TrainConfig(**{**SMALL, "staleness": 1}, algo="dapo", out=str(tmp_path / "no")), quiet)


def test_new_weights_reach_what_is_being_written(desk):
    """Half-way through a conversation the weights change: tokens say which version sampled them, and continue under the new one."""
    from agentgym_trainers.engine import TransformersEngine
    from tiny import model, renderer

    from agentgym.core import Conversation

    network, other = model(0), model(7)
    engine = TransformersEngine(network, renderer(), temperature=1.0, max_tokens=20)
    forward, count = engine._forward, []

    def watched():
        forward()
        count.append(1)
        if len(count) == 6:
            engine.sync(other, "1")

    engine._forward = watched
    completion = anyio.run(engine.act, Conversation("c", [{"role": "user", "content": "Close the ticket"}], seed=3))
    versions = completion.tokens.weight_versions
    assert versions[0] == ("0", 6) and versions[1][0] == "1" and sum(n for _, n in versions) == sum(completion.tokens.mask)
    ids = torch.tensor([completion.tokens.ids])
    n = versions[1][1]
    with torch.no_grad():
        logp = torch.log_softmax(model(7)(ids).logits[0, :-1], -1).gather(-1, ids[0, 1:, None])[-n:, 0]
    assert completion.tokens.logprobs[-n:] == pytest.approx(logp.tolist(), abs=2e-4)


# Adapters, early stops, reports, trackers


def test_with_lora_only_adapters_move_and_the_run_resumes(tmp_path):
    pytest.importorskip("peft")
    config = {**SMALL, "lora": 4, "steps": 4, "save_every": 2, "lr": 1e-2}
    whole = train(TrainConfig(**config, algo="nsr", out=str(tmp_path / "whole")), quiet)
    from peft import PeftModel

    adapters = PeftModel.from_pretrained(load_model(WARM)[0], Path(whole.checkpoint_after) / "adapter")
    base, start = adapters.get_base_model().state_dict(), load_model(WARM)[0].state_dict()
    assert all(
        torch.equal(base[k.replace(".weight", ".base_layer.weight") if k.replace(".weight", ".base_layer.weight") in base else k], v) for k, v in start.items()
    )
    merged, after = adapters.merge_and_unload().state_dict(), load_model(whole.checkpoint_after)[0].state_dict()
    assert all(torch.allclose(merged[k], after[k], atol=1e-5) for k in after) and any(not torch.equal(after[k], start[k]) for k in after)
    train(TrainConfig(**{**config, "steps": 4}, algo="nsr", out=str(tmp_path / "cut")), quiet)
    for name in ("trainer.json",):
        (tmp_path / "cut" / "checkpoints" / "step-00004" / name).unlink()
    resumed = train(TrainConfig(resume=str(tmp_path / "cut")), quiet)
    again = load_model(resumed.checkpoint_after)[0].state_dict()
    assert all(torch.allclose(again[k], after[k], atol=1e-6) for k in after)


def test_a_run_stops_early_and_says_why(tmp_path):
    result = train(TrainConfig(**{**SMALL, "steps": 6, "eval_every": 1, "stop_at": 0.01}, out=str(tmp_path / "a")), quiet)
    assert result.steps < 6 and any("reached 0.01" in n for n in result.notes)
    idle = train(TrainConfig(**{**SMALL, "steps": 6, "eval_every": 1, "patience": 2, "lr": 1e-12}, out=str(tmp_path / "b")), quiet)
    assert idle.steps == 3 and any("no better" in n for n in idle.notes)


def test_every_evaluation_stands_beside_proxy_and_drift_and_the_report_shows_them(tmp_path):
    result = train(TrainConfig(**{**SMALL, "steps": 3, "eval_every": 1, "reward": "stepwise"}, algo="gigpo", out=str(tmp_path / "r")), quiet)
    rows = rows_of(tmp_path / "r", "eval")
    assert [set(r) >= {"success", "proxy", "drift"} for r in rows] == [False, True, True, True] and rows[-1]["drift"] >= 0
    assert {k for r in rows_of(tmp_path / "r") for k in r} >= {"mismatch", "mismatch_kl", "ratio_max", "clipped", "entropy", "staleness", "sample_s", "learn_s"}
    page = write_report(result)
    text = page.read_text()
    for words in ("reward terms", "tokens per second", "data:image/png;base64,"):
        assert words in text


def test_trackers_get_every_row_or_say_how_to_install_them(tmp_path):
    with pytest.raises(MissingExtra, match="pip install trackio"):
        train(TrainConfig(**{**SMALL, "track": "trackio"}, out=str(tmp_path / "a")), quiet)
    pytest.importorskip("tensorboard")
    train(TrainConfig(**{**SMALL, "steps": 1, "track": "tensorboard"}, out=str(tmp_path / "b")), quiet)
    assert list((tmp_path / "b" / "tensorboard").glob("events*"))
