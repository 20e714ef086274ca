"""How fast verifiers are: a step reward model in one forward pass against one per turn, a judge's cache, and 1,024 judge calls at concurrency 64.

    python benchmarks/verifiers.py [--turns 50] [--repeats 5]

Prints one JSON line. The judge calls go to a stub in a process of its own that answers after 50 ms, beside the same through httpx if that is installed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import anyio
import torch
from agentgym_trainers.model import tiny_tokenizer
from agentgym_verifiers.judges import Judge
from agentgym_verifiers.models.scalar import Scalar
from agentgym_verifiers.models.text import rendered
from transformers import Qwen3Config, Qwen3ForTokenClassification

from agentgym import make
from agentgym.core import EpisodeView
from agentgym.episode import Episode, Turn
from agentgym.evaluation.verifiers import view_of
from agentgym.policies import resolve

CALLS, AT_ONCE, DELAY = 1024, 64, 0.05


def long_episode(turns: int) -> Episode:
    """A made-up episode of tool calls and rows, about 40 tokens a turn."""
    said = [Turn([{"role": "user", "content": "Close the ticket 'old door' and tell the owner."}], "")]
    said += [Turn([{"role": "tool", "content": f"id {i}\nstatus open\nowner p{i % 7}\ntitle ticket number {i}"}], "") for i in range(1, turns)]
    for i, t in enumerate(said):
        t.action = f'<tool_call>{{"name": "find_ticket", "arguments": {{"title": "ticket number {i}"}}}}</tool_call>'
    return Episode("long", "tools/desk-v0", "long", "d", "train", turns=said)


def step_model(turns: int, repeats: int) -> dict[str, float]:
    """Seconds to score every turn: in one pass, and by one pass per turn over everything up to it."""
    episode = long_episode(turns)
    tokenizer = tiny_tokenizer([rendered(episode, tiny_tokenizer([]))[0]])
    config = Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=128, intermediate_size=384, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, head_dim=32,
        max_position_embeddings=8192, num_labels=1, classifier_dropout=0.0,
    )  # fmt: skip
    torch.manual_seed(0)
    model = Scalar(Qwen3ForTokenClassification(config), tokenizer, "step")
    view = view_of(episode)
    prefixes = [EpisodeView(view.task, Episode("p", "x", "t", "d", "train", turns=episode.turns[: n + 1])) for n in range(turns)]

    def once() -> list[float]:
        return model.scores([view])[0]

    def each() -> list[float]:
        return [model.scores([p])[0][-1] for p in prefixes]

    assert max(abs(a - b) for a, b in zip(once(), each(), strict=True)) < 1e-4
    one, many = (statistics.median(_timed(f) for _ in range(repeats)) for f in (once, each))
    return {"turns": turns, "tokens": len(model.read(view).ids), "one_pass_ms": 1e3 * one, "per_turn_ms": 1e3 * many, "ratio": many / one}


def _timed(call) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def views(n: int) -> list[EpisodeView]:
    """Different short episodes."""
    env = make("tools/desk", split="train", levels=1)
    out = []
    for i in range(n):
        env.reset(seed=i, options={"task": env.taskset.ids()[i % 200]})
        env.step(f"say {i}")
        out.append(EpisodeView(env.task, env.episode))
    return out


def judges(repeats: int) -> dict[str, float]:
    """Seconds for all calls, and for all of them again from the cache."""
    stub = subprocess.Popen([sys.executable, str(Path(__file__).with_name("_judge_stub.py")), str(DELAY)], stdout=subprocess.PIPE, text=True)
    try:
        assert stub.stdout is not None
        port = int(stub.stdout.readline())
        asked, times, hits = views(CALLS), [], []

        async def run() -> None:
            for _ in range(repeats):
                judge = Judge(f"openai:stub@http://127.0.0.1:{port}/v1")
                for out in (times, hits):
                    began = time.perf_counter()
                    found = await judge.judge(asked, resolve("noop"))
                    out.append(time.perf_counter() - began)
                    assert all(v[0].value == 0.7 for v in found)
                assert judge.counts["calls"] == CALLS and judge.counts["cached"] == CALLS

        anyio.run(run)
        ideal = CALLS / AT_ONCE * DELAY
        seconds = statistics.median(times)
        row = {
            "calls": CALLS, "at_once": AT_ONCE, "ideal_s": ideal, "seconds": seconds, "times_ideal": seconds / ideal,
            "cache_hit_ms": 1e3 * statistics.median(hits) / CALLS,
        }  # fmt: skip
        return {**row, **_httpx(port, ideal)}
    finally:
        stub.kill()
        stub.wait()


def _httpx(port: int, ideal: float) -> dict[str, float]:
    """The same calls through httpx."""
    try:
        import httpx
    except ImportError:
        return {}

    async def run() -> float:
        gate = asyncio.Semaphore(AT_ONCE)
        body = {"model": "stub", "messages": [{"role": "user", "content": "x" * 1500}]}

        async def one(client: httpx.AsyncClient) -> None:
            async with gate:
                (await client.post(f"http://127.0.0.1:{port}/v1/chat/completions", json=body)).json()

        async with httpx.AsyncClient(timeout=60) as client:
            began = time.perf_counter()
            await asyncio.gather(*(one(client) for _ in range(CALLS)))
            return time.perf_counter() - began

    return {"httpx_times_ideal": asyncio.run(run()) / ideal}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    print(json.dumps({"benchmark": "verifiers", "step_model": step_model(given.turns, given.repeats), "judge": judges(given.repeats)}))


if __name__ == "__main__":
    main()
