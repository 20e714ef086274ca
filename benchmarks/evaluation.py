"""What evaluation costs: verifying 1,000 desk episodes, writing records, statistics of 10,000. Prints one JSON line.

The reference for writing is the same rollout without a store, in the same run.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import anyio
import msgspec
from _echo import EchoEnv, EchoPolicy

from agentgym.core import Completion, Conversation
from agentgym.episode import EpisodeStore
from agentgym.evaluation.regrade import replay, verify
from agentgym.evaluation.run import Plan, evaluate, summarise
from agentgym.policies import resolve
from agentgym.registry import make
from agentgym.rollout import Job, Keep, Rollout


def seconds(call: Callable[[], object], rounds: int = 5) -> float:
    """Median wall time after one warm-up."""
    call()
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


class Thinking(EchoPolicy):
    """Answers after 50 ms, as a model behind an endpoint would."""

    async def act(self, conversation: Conversation) -> Completion:
        await anyio.sleep(0.05)
        return await super().act(conversation)


def played(policy: EchoPolicy, episodes: int, keep: bool, concurrency: int = 64) -> None:
    """A rollout of 10-turn episodes, on disk or not."""
    jobs = [Job(f"echo.{i}") for i in range(episodes)]
    if not keep:
        anyio.run(Rollout(make=EchoEnv, policy=policy, concurrency=concurrency).run, jobs)
        return
    with tempfile.TemporaryDirectory() as folder, EpisodeStore(Path(folder) / "episodes.jsonl") as store:
        anyio.run(Rollout(make=EchoEnv, policy=policy, concurrency=concurrency, keep=Keep(store)).run, jobs)


def writing(policy: EchoPolicy, episodes: int, rounds: int) -> dict[str, float]:
    """The share of time that keeping the records takes: pairs of runs, one after the other, their median."""
    bare, kept = [], []
    played(policy, episodes, True)
    for _ in range(rounds):
        for into, keep in ((bare, False), (kept, True)):
            began = time.perf_counter()
            played(policy, episodes, keep)
            into.append(time.perf_counter() - began)
    share = statistics.median(k / b - 1 for b, k in zip(bare, kept, strict=True))
    return {"without_s": round(statistics.median(bare), 4), "with_s": round(statistics.median(kept), 4), "share": round(share, 4)}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        anyio.run(evaluate, Plan(env="tools/desk", split="test", tasks=1000, reward="stepwise"), resolve("oracle"), out)
        checked = verify(out)
        assert checked.reproduced == 1000
        verifying, replaying = seconds(lambda: verify(out), 3), seconds(lambda: replay(out), 3)
    env = make("tools/desk", split="test")
    some = anyio.run(
        Rollout(make=lambda: make("tools/desk", split="test"), policy=resolve("random")).run, [Job(t, i) for i, t in enumerate(env.taskset.ids()[:500])]
    )
    many = [msgspec.structs.replace(e, attempt=k, id=f"{e.task}#{k}") for k in range(20) for e in some]
    plan = Plan(env="tools/desk", split="test")
    print(
        json.dumps(
            {
                "benchmark": "evaluation",
                "verify_1000_desk_episodes_s": round(verifying, 3),
                "replay_1000_desk_episodes_s": round(replaying, 3),
                "writing_zero_latency": writing(EchoPolicy(), 1024, 9),
                "writing_beside_50_ms": writing(Thinking(), 256, 5),
                "statistics_of_10000_episodes_s": round(seconds(lambda: summarise(plan, "random", many, 0), 3), 3),
            }
        )
    )


if __name__ == "__main__":
    main()
