"""A model of about 90 million parameters, from nothing: oracle episodes of all text environments, then reinforcement on long tasks, outcome against gated.

    python benchmarks/evidence/gpu.py --out runs/gpu       (on a CPU: --tiny)

Needs a source checkout, PyTorch, transformers and the core's own few dependencies: no download, no compiler, nothing of ours installed. One JSON
line with the card's name. Worlds whose libraries are not there are left out, and named.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from _checkout import usable

usable()
import torch  # noqa: E402
from agentgym_trainers.config import TrainConfig  # noqa: E402
from agentgym_trainers.model import save_model, tiny_model, tiny_tokenizer  # noqa: E402
from agentgym_trainers.renderer import ChatRenderer  # noqa: E402
from agentgym_trainers.streams import make_batch  # noqa: E402
from agentgym_trainers.supervised import oracle_episode, text_of_episode, tokenize  # noqa: E402
from agentgym_trainers.train import train  # noqa: E402
from agentgym_trainers.update import Part, make_optimizer, update  # noqa: E402

from agentgym import make  # noqa: E402
from agentgym.core import AgentEnv  # noqa: E402
from agentgym.episode import Episode  # noqa: E402
from agentgym.errors import AgentGymError  # noqa: E402

WORLDS: dict[str, dict[str, Any]] = {
    "tools/desk": {}, "text/search": {"hits": 2, "libraries": 50}, "text/sql": {}, "text/bandit": {"horizon": 12}, "text/malloc": {}, "text/rooms": {},
    "text/world": {"levels": [1, 2]}, "arena/board": {"games": "tictactoe"},
}  # fmt: skip
LONG: dict[str, Any] = {"levels": [3, 4]}
ARMS = ("outcome", "gated")


def shown(episodes: int) -> tuple[dict[str, list[tuple[AgentEnv, Episode]]], dict[str, str]]:
    """Oracle episodes of every world that runs here, and why the others do not."""
    found: dict[str, list[tuple[AgentEnv, Episode]]] = {}
    missing: dict[str, str] = {}
    for name, options in WORLDS.items():
        try:
            env = make(name, split="train", **options)
            ids = list(env.taskset.ids())
            chosen = random.Random(0).sample(ids, min(episodes, len(ids)))
            found[name] = [(env, e) for t in chosen if (e := oracle_episode(env, t)) is not None]
        except (AgentGymError, ImportError) as error:
            missing[name] = str(error).splitlines()[0][:200]
    return found, missing


def stream(told: dict[str, list[tuple[AgentEnv, Episode]]], renderer: ChatRenderer, context: int) -> Iterator[Episode]:
    """Episodes with tokens, a world after the other, for ever; what is longer than the context is left out."""
    dice, ready = random.Random(0), dict[int, Episode]()
    kept = {n: list(rows) for n, rows in told.items()}
    while True:
        for rows in kept.values():
            env, episode = dice.choice(rows)
            if id(episode) not in ready:
                ready[id(episode)] = tokenize(episode, renderer, env)
            if sum(len(t.tokens.ids) for t in episode.turns if t.tokens) <= context:
                yield episode


def pretrained(out: Path, given: argparse.Namespace) -> dict[str, Any]:
    """Tokenizer, model and supervised updates on the mixture; the model in ``out/start``."""
    began = time.perf_counter()
    told, missing = shown(given.episodes)
    shell = ChatRenderer(tiny_tokenizer([]))
    texts = [text_of_episode(e, lambda m: str(shell._render(m))) for rows in told.values() for _, e in rows[:300]]
    tokenizer = tiny_tokenizer(texts, 600 if given.tiny else 8192)
    renderer = ChatRenderer(tokenizer)
    shape = {"hidden": 64, "layers": 2, "heads": 4} if given.tiny else {"hidden": 768, "layers": 12, "heads": 12}
    model = tiny_model(tokenizer, 0, context=given.context, **shape).to("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_float32_matmul_precision("high")
    optimizer = make_optimizer(model, given.lr)
    prepared, losses, tokens = time.perf_counter() - began, list[float](), 0
    episodes = stream(told, renderer, given.context)
    began = time.perf_counter()
    for step in range(given.steps):
        for group in optimizer.param_groups:
            group["lr"] = given.lr * min(1.0, (step + 1) / 50) * (1 - 0.9 * step / given.steps)
        batch = make_batch(list(islice(episodes, given.batch)), [1.0] * given.batch, "token")
        tokens += len(batch)
        losses.append(float(update(model, optimizer, [Part(batch, "reinforce")])["loss"]))
        if step % 50 == 0:
            print(f"supervised {step}/{given.steps} loss {losses[-1]:.3f}", file=sys.stderr, flush=True)
    seconds = time.perf_counter() - began
    save_model(model, tokenizer, out / "start")
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    return {
        "parameters_m": round(millions, 1), "episodes": {n: len(r) for n, r in told.items()}, "missing": missing, "updates": given.steps,
        "tokens": tokens, "tokens_per_s": round(tokens / seconds), "loss": [round(losses[0], 3), round(losses[-1], 3)],
        "prepare_s": round(prepared, 1), "seconds": round(seconds, 1),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tiny", action="store_true", help="two small layers and a few updates: does it run?")
    parser.add_argument("--episodes", type=int, default=2000, help="oracle episodes of each world")
    parser.add_argument("--steps", type=int, default=1500, help="supervised updates")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--context", type=int, default=2048)
    parser.add_argument("--lr", type=float, default=4e-4)
    parser.add_argument("--rl-steps", type=int, default=40)
    parser.add_argument("--eval-tasks", type=int, default=100)
    given = parser.parse_args()
    if given.tiny:
        given.episodes, given.steps, given.batch, given.rl_steps, given.eval_tasks = 12, 3, 4, 1, 4
    given.out.mkdir(parents=True, exist_ok=True)
    row: dict[str, Any] = {
        "benchmark": "evidence_gpu", "card": torch.cuda.get_device_name() if torch.cuda.is_available() else "none", "torch": torch.__version__,
        "supervised": pretrained(given.out, given),
    }  # fmt: skip
    for arm in ARMS:
        config = TrainConfig(
            env="tools/desk", option=LONG, model=str(given.out / "start"), reward=arm, steps=given.rl_steps, groups=2 if given.tiny else 16,
            group_size=2 if given.tiny else 8, updates=1 if given.tiny else 2, lr=1e-5, lr_final=0.2, max_norm=0.3, context=given.context,
            eval_tasks=given.eval_tasks, save_every=1000, out=str(given.out / arm),
        )  # fmt: skip
        result = train(config, lambda *_: None)
        rows = [json.loads(line) for line in (given.out / arm / "metrics.jsonl").read_text().splitlines()]
        learnt = [r for r in rows if r["phase"] == "train"]
        numbers = {when: [round(x, 3) for x in (m.mean, m.low, m.high)] for when, m in (("before", result.before.success), ("after", result.after.success))}
        row[arm] = {
            **numbers,
            "reward": [round(r["reward"], 3) for r in learnt[:: max(1, len(learnt) // 8)]],
            "tokens": result.tokens_generated,
            "seconds": round(result.wall_s, 1),
        }
    print(json.dumps(row))


if __name__ == "__main__":
    main()
