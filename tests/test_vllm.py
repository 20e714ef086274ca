"""The vLLM engine, with a real vLLM in an environment of its own: the same tokens as transformers, before and after new weights."""

import os
from pathlib import Path

import agentgym_trainers
import anyio
import pytest
import torch
from agentgym_trainers.config import TrainConfig
from agentgym_trainers.engine import TransformersEngine
from agentgym_trainers.train import train
from agentgym_trainers.vllm import VllmEngine
from tiny import model, renderer

from agentgym.core import Conversation
from agentgym.episode import read_episodes
from agentgym.errors import PolicyFault, UsageError

PYTHON = os.environ.get("AGENTGYM_VLLM_PYTHON", "")
SIZE = {"hidden": 64, "heads": 2, "context": 512}
vllm = [pytest.mark.vllm, pytest.mark.skipif(not PYTHON, reason="no AGENTGYM_VLLM_PYTHON; make test-vllm sets one up")]


@pytest.fixture(scope="module")
def engine():
    made = VllmEngine.start(model(0, **SIZE), renderer(), PYTHON, temperature=0.0, max_tokens=16, context=512)
    yield made
    made.close()
    assert not made.folder.exists()


def answers(engine, texts, tag="a"):
    async def run():
        found = {}

        async def one(i, text):
            found[i] = await engine.act(Conversation(f"{tag}{i}", [{"role": "user", "content": text}], seed=i))

        async with anyio.create_task_group() as group:
            for i, text in enumerate(texts):
                group.start_soon(one, i, text)
        return [found[i] for i in range(len(texts))]

    return anyio.run(run)


TEXTS = ["Close the ticket", "user door 42", "old door status open"]


@pytest.mark.timeout(900)
class TestReal:
    pytestmark = vllm

    def test_greedy_tokens_are_those_of_transformers_before_and_after_an_update(self, engine):
        for version, seed in (("0", 0), ("1", 7), ("2", 3)):
            network = model(seed, **SIZE)
            if version != "0":
                engine.sync(network, version)
            here = answers(TransformersEngine(network, renderer(), temperature=0.0, max_tokens=16, context=512), TEXTS)
            there = answers(engine, TEXTS, version)
            assert [c.tokens.ids for c in there] == [c.tokens.ids for c in here]
            for a, b in zip(here, there, strict=True):
                assert b.tokens.logprobs == pytest.approx(a.tokens.logprobs, abs=1e-4)
                assert b.tokens.weight_versions == [(version, sum(b.tokens.mask))]

    def test_scores_are_those_of_transformers(self, engine):
        network = model(3, **SIZE)
        engine.sync(network, "5")
        asked = Conversation("s", [{"role": "user", "content": "status?"}])
        local = TransformersEngine(network, renderer(), context=512)
        assert anyio.run(engine.score, asked, "Close the door") == pytest.approx(anyio.run(local.score, asked, "Close the door"), abs=1e-4)

    def test_recorded_log_probabilities_are_of_the_distribution_that_was_sampled_from(self, engine):
        engine.sync(model(0, **SIZE), "6")
        engine.temperature = 0.7
        try:
            for c in answers(engine, TEXTS, "t"):
                n = sum(c.tokens.mask)
                ids = torch.tensor([c.tokens.ids])
                with torch.no_grad():
                    logp = torch.log_softmax(model(0, **SIZE)(ids).logits[0, :-1].float() / 0.7, -1).gather(-1, ids[0, 1:, None])[-n:, 0]
                assert c.tokens.logprobs[-n:] == pytest.approx(logp.tolist(), abs=2e-4)
        finally:
            engine.temperature = 0.0

    def test_a_run_trains_on_what_vllm_sampled(self, tmp_path):
        config = {
            "env": "tools/desk", "option": {"templates": ["set_status"], "limits": {"max_turns": 3}}, "model": str(Path(agentgym_trainers.__file__).parent / "warm"),
            "warm_steps": 0, "eval_tasks": 4, "groups": 2, "group_size": 4, "max_tokens": 24, "threads": 1, "steps": 2, "engine": "vllm", "vllm_python": PYTHON,
        }  # fmt: skip
        rows = []
        result = train(TrainConfig(**config, out=str(tmp_path / "r")), lambda phase, row: rows.append(row) if phase == "train" else None)
        assert result.tokens_generated > 0 and len(rows) == 2
        versions = {v for e in read_episodes(tmp_path / "r" / "episodes.jsonl") for t in e.turns for v, _ in t.tokens.weight_versions}
        assert versions == {"0", "1"}
        assert all(row.get("mismatch", 0.0) < 1e-3 for row in rows)

    def test_a_worker_that_dies_is_a_fault_of_the_infrastructure(self):
        made = VllmEngine.start(model(0, **SIZE), renderer(), PYTHON, temperature=0.0, max_tokens=4, context=512)
        made.worker.process.kill()
        made.worker.process.wait()
        try:
            with pytest.raises(PolicyFault, match="worker"):
                anyio.run(made.act, Conversation("x", [{"role": "user", "content": "hi"}]))
        finally:
            made.close()


@pytest.mark.parametrize(("python", "said"), [("", "--vllm-python"), ("/no/such/python", "--vllm-python"), ("python3", "has no vLLM")])
def test_without_a_python_that_has_vllm_it_says_what_to_do(python, said, monkeypatch):
    monkeypatch.delenv("AGENTGYM_VLLM_PYTHON", raising=False)
    with pytest.raises(UsageError, match=said):
        VllmEngine.start(model(), renderer(), python)
