"""A training step beside TRL's GRPO: the same tiny model, batch of 32, in one run; packing, overlap and memory. One JSON line.

    python benchmarks/train.py --peers ROOT --peer-script PATH     (ROOT has trl/bin/python and tiny_qwen2; PATH is its script)

``single``: one turn of 64 tokens. ``turns``: four turns of 16. ``tools``: three tool rounds and an answer, 16 tokens really sampled in each,
then replaced by a scripted call, as the peer does. Without ``--peers`` only ours is measured.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import anyio
import torch
from agentgym_tools.env import DeskEnv
from agentgym_trainers.algorithm import resolve
from agentgym_trainers.config import TrainConfig
from agentgym_trainers.engine import TransformersEngine
from agentgym_trainers.learner import Learner, Pace
from agentgym_trainers.model import keep_memory, load_model
from agentgym_trainers.renderer import ChatRenderer
from agentgym_trainers.streams import make_batch
from agentgym_trainers.train import train
from agentgym_trainers.update import Part, make_optimizer, update

from agentgym.core import Action, AgentEnv, Completion, Conversation, EpisodeView, Limits, Scene, StopReason, Task, TaskSet, Tokens, Verdict
from agentgym.episode import Episode
from agentgym.registry import make
from agentgym.rewards import outcome
from agentgym.rollout import Job, Rollout

ASKED = "go north then look at the lamp and take it now please thank you"
SCHEMA = "You may call functions. Answer with one JSON object inside <tool_call> marks, with the name of the function and its arguments. " * 4
TEMPLATE = (
    "{% if tools %}<|im_start|>system\n" + SCHEMA + "{% for t in tools %}{{ t | tojson }}\n{% endfor %}<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{m['role']}}\n{% if loop.index > 1 and m['role'] == 'user' %}<tool_response>\n{{m['content']}}\n</tool_response>"
    "{% else %}{{m['content']}}{% endif %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PLAIN = "{% for m in messages %}{{m['content']}}{% if m['role'] == 'assistant' %}<|im_end|>{% endif %}{% endfor %}"
"""As the peer's prompts and answers of the environment are: text, and nothing around it; but a turn must end with a token of its own."""

CALL, LAST = '<tool_call>\n{"name": "echo", "arguments": {"text": "go north"}}\n</tool_call><|im_end|>', "go north<|im_end|>"


class Varied:
    """A reward that differs between episodes: how many distinct characters were said, and a little by its seed."""

    level = "outcome"

    def __call__(self, view: EpisodeView) -> Verdict:
        return Verdict.scored((len(set("".join(t.action for t in view.episode.turns))) + (view.episode.seed or 0) % 8) / 100)


class BenchEnv(AgentEnv):
    """A prompt, and a short answer to each of ``turns`` actions."""

    id = "bench/train-v0"
    verifiers: ClassVar[Mapping[str, Any]] = {"varied": Varied()}
    rewards: ClassVar[Mapping[str, Any]] = {"outcome": outcome("varied")}

    def __init__(self, *, turns: int = 1, **options: Any) -> None:
        self.turns = turns
        super().__init__(**options)

    def tasks(self, split: str) -> TaskSet:
        limits = Limits(max_turns=16, max_malformed=99, max_action_chars=100_000)
        return TaskSet((f"t{i}" for i in range(64)), lambda i: Task(i, f"{ASKED} {i[1:]}", "train", limits=limits))

    def _begin(self, task: Task) -> Scene:
        return Scene([{"role": "user", "content": task.instruction}], "0", "0")

    def _advance(self, action: Action) -> Scene:
        n = len(self.episode.turns)
        return Scene([{"role": "user", "content": " you see north"}], str(n), str(n), end=StopReason.DONE if n >= self.turns else None)


class Scripted:
    """Really samples 16 tokens, then says a scripted call instead, as the peer's script does."""

    def __init__(self, engine: TransformersEngine) -> None:
        self.engine, self.name = engine, "scripted"
        self.call, self.last = (engine.renderer.tokenizer.encode(t, add_special_tokens=False) for t in (CALL, LAST))

    async def act(self, conversation: Conversation) -> Completion:
        done = await self.engine.act(conversation)
        assert done.tokens is not None
        said = self.call if len(conversation.prefix or ()) < 3 else self.last
        kept = len(done.tokens.ids) - sum(done.tokens.mask)
        held = sum(len(t.ids) for t in conversation.prefix or ()) + kept
        slot = self.engine._owner[conversation.id]
        self.engine._lengths[slot] = min(held, int(self.engine._lengths[slot]))
        n = len(said)
        tokens = Tokens(done.tokens.ids[:kept] + said, [0] * kept + [1] * n, [0.0] * kept + [-1.0] * n, {"temperature": 1.0}, [(self.engine.version, n)])
        return Completion("go north", tokens, "stop", {"completion_tokens": 16})


class Bench:
    """One kind of step, on a fresh model."""

    def __init__(self, mode: str, model: str) -> None:
        self.mode = mode
        self.model, tokenizer = load_model(model)
        tokenizer.chat_template = TEMPLATE if mode == "tools" else PLAIN
        self.renderer = ChatRenderer(tokenizer)
        turns, tokens = {"single": (1, 64), "turns": (4, 16), "tools": (4, 16)}[mode]
        self.env = BenchEnv(turns=turns)
        if mode == "tools":
            from agentgym.messages import tool

            def echo(world: Any, text: str) -> str:
                """Echo the text back."""
                return text

            BenchEnv.tools = {"echo": tool(echo)}
        else:
            BenchEnv.tools = {}
        self.renderer.stop_ids = frozenset()
        self.engine = TransformersEngine(self.model, self.renderer, max_tokens=tokens, context=4096)
        self.optimizer = make_optimizer(self.model, 1e-5)
        self.learner = Learner(self.model, self.optimizer, self.renderer, self.env, resolve("grpo"))
        self.policy: Any = Scripted(self.engine) if mode == "tools" else self.engine
        self.turns, self.tokens = turns, tokens

    def collect(self, step: int) -> list[Episode]:
        jobs = [Job(f"t{(4 * step + g) % 64}", step * 8 + i, (step * 4 + g) * 8 + i, f"{step}.{g}") for g in range(4) for i in range(8)]
        self.model.eval()
        self.engine.sync(self.model, str(step))
        return anyio.run(Rollout(make=lambda: BenchEnv(turns=self.turns), policy=self.policy, max_tokens=self.tokens).run, jobs)

    def step(self, step: int) -> dict[str, float]:
        began = time.perf_counter()
        episodes = self.collect(step)
        sampled = time.perf_counter()
        row = self.learner.learn(episodes, Pace(lr=1e-5))
        assert row["trained"] > 0 and not row["skipped"]
        return {"s": time.perf_counter() - began, "sample_s": sampled - began, "learn_s": time.perf_counter() - sampled, "trained": row["tokens_trained"]}


def ours(mode: str, model: str, steps: int) -> dict[str, float]:
    """Medians over steps after two that warm up."""
    bench = Bench(mode, model)
    rows = [bench.step(k) for k in range(steps + 2)][2:]
    found = {k: round(statistics.median(r[k] for r in rows), 4) for k in rows[0]}
    return {**found, "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)}


def packed(model: str) -> dict[str, float]:
    """Trained tokens per second on a real desk batch, prefixes shared against one padded row per sequence; medians of alternating updates."""
    network, tokenizer = load_model(model)
    renderer = ChatRenderer(tokenizer)
    engine = TransformersEngine(network, renderer, max_tokens=24, context=4096)
    ids = make("tools/desk").taskset.ids()
    jobs = [Job(ids[g * 37], i, g * 8 + i, str(g)) for g in range(8) for i in range(8)]
    episodes = anyio.run(Rollout(make=lambda: make("tools/desk", limits={"max_turns": 6}), policy=engine, max_tokens=24).run, jobs)
    batch = make_batch(episodes, [(-1.0) ** i for i in range(len(episodes))], "token")
    optimizer, times = make_optimizer(network, 1e-6), {True: [], False: []}
    for _ in range(4):
        for share in (True, False):
            began = time.perf_counter()
            update(network, optimizer, [Part(batch, "clipped")], share=share)
            times[share].append(time.perf_counter() - began)
    n = float(batch.mask_N.sum())
    a, b = (statistics.median(times[s][1:]) for s in (True, False))
    return {"trained_tokens": n, "tokens": float(len(batch)), "packed_per_s": round(n / a, 1), "padded_per_s": round(n / b, 1), "ratio": round(b / a, 2)}


async def slow_step(env: AgentEnv, action: str) -> Any:
    """A step that takes a quarter of a second of waiting more."""
    await anyio.sleep(0.25)
    return env.step(action)


def overlap(model: str) -> dict[str, float]:
    """A real run with environments that sleep: the wall time of a step over the longest of its phases, as they are in a run without overlap."""
    DeskEnv.astep = slow_step  # the desk has no such method; in this process alone it gets one
    config = {
        "env": "tools/desk", "model": model, "warm_steps": 0, "eval_tasks": 2, "groups": 4, "group_size": 4, "max_tokens": 24, "steps": 12, "lr": 1e-6,
        "option": {"limits": {"max_turns": 6}}, "algo": "nsr",
    }  # fmt: skip
    step_s, phase_s = {}, {}
    for staleness in (0, 1):
        rows: list[dict[str, float]] = []
        with tempfile.TemporaryDirectory() as folder:
            train(TrainConfig(**config, staleness=staleness, out=folder + "/r"), lambda phase, row, rows=rows: rows.append(row) if phase == "train" else None)
        step_s[staleness] = statistics.mean(r["sample_s"] + r["learn_s"] for r in rows[3:])  # batches that end together make steps uneven: no median
        phase_s[staleness] = {k: round(statistics.median(r[k] for r in rows[3:]), 4) for k in ("sample_s", "learn_s")}
    longest = max(phase_s[0].values())
    return {
        **phase_s[0], "in_turn_step_s": round(step_s[0], 4), "beside_step_s": round(step_s[1], 4), "over_longest_phase": round(step_s[1] / longest, 3),
        "over_in_turn": round(step_s[1] / step_s[0], 3),
    }  # fmt: skip


def child(part: str, model: str, steps: int) -> dict[str, Any]:
    """A part in a process of its own, so that memory and caches are its own."""
    command = [sys.executable, __file__, "--part", part, "--model", model, "--steps", str(steps)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--peers")
    parser.add_argument("--peer-script")
    parser.add_argument("--model", default="")
    parser.add_argument("--part", default="")
    parser.add_argument("--steps", type=int, default=10)
    given = parser.parse_args()
    model = given.model or (f"{given.peers}/tiny_qwen2" if given.peers else str(Path(__file__).parents[1] / "trainers" / "agentgym_trainers" / "warm"))
    if given.part:
        keep_memory()  # as a run does
        found = {"packed": lambda: packed(model), "overlap": lambda: overlap(model)}.get(given.part, lambda: ours(given.part, model, given.steps))()
        print(json.dumps(found))
        return
    warm = str(Path(__file__).parents[1] / "trainers" / "agentgym_trainers" / "warm")
    out: dict[str, Any] = {
        "benchmark": "train",
        "batch": 32,
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 2),
        "ours": {},
        "trl": {},
        "ratio": {},
    }
    for mode, peer in (("single", "single"), ("turns", "rollout"), ("tools", "env")):
        out["ours"][mode] = child(mode, model, given.steps if mode != "tools" else 4)
        if given.peers:
            done = subprocess.run(
                [sys.executable, given.peer_script, "--root", given.peers, "--only", peer], capture_output=True, text=True, timeout=600, check=False
            )
            out["trl"][mode] = json.loads(done.stdout.strip().splitlines()[-1])["results"][peer]
            again = child(mode, model, given.steps if mode != "tools" else 4)
            mine = statistics.median([out["ours"][mode]["s"], again["s"]])
            out["ratio"][mode] = round(out["trl"][mode]["s_per_step"] / mine, 2)
    out["packed"] = child("packed", warm, given.steps)
    out["overlap"] = child("overlap", warm, given.steps)
    print(json.dumps(out))


if __name__ == "__main__":
    main()
