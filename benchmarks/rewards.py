"""What rewards cost on one core: a group's reward on arrays and from records, novelty, networks, rule verdicts. Prints one JSON line.

The reference is the same reward written out in plain Python, over the same values.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import time
from collections.abc import Callable

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
from agentgym_verifiers import rules
from agentgym_verifiers.intrinsic.curiosity import Curiosity, Distillation
from agentgym_verifiers.intrinsic.features import hashed
from agentgym_verifiers.intrinsic.novelty import Novelty

from agentgym.core import EpisodeView, Task
from agentgym.episode import Episode, Turn
from agentgym.grading import judge
from agentgym.messages import ToolCall
from agentgym.rewards import gate, min_form, outcome, step
from agentgym.rewards.table import Table
from agentgym.verdict import StopReason, Verdict

GROUPS, SIZE, TURNS = 64, 8, 50
PARTS = [f"s{i}" for i in range(6)]
SPEC = outcome("task") + gate(0.1 * (step("s0") + step("s1") + step("s2") + step("s3") + step("s4") + step("s5")), by=outcome("task")) + min_form(step("p"))


def median_ms(call: Callable[[], object], rounds: int = 15) -> float:
    """Median wall time in milliseconds, after one warm-up."""
    call()
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        call()
        times.append((time.perf_counter() - began) * 1e3)
    return round(statistics.median(times), 3)


def episodes(turns: int) -> list[Episode]:
    """64 groups of 8 episodes with 8 named verdicts."""
    draw = np.random.default_rng(0)
    made = []
    for n in range(GROUPS * SIZE):
        values = draw.random((turns, 7)).tolist()
        played = [Turn([], "", verdicts={name: Verdict("scored", v) for name, v in zip([*PARTS, "p"], row, strict=True)}) for row in values]
        end = {"task": Verdict("scored", float(n % 2))}
        made.append(Episode(f"e{n}", "x", "t", "d", "train", group=f"g{n // SIZE}", turns=played, verdicts=end, stop_reason=StopReason.DONE, status="valid"))
    return made


def on_arrays(records: list[Episode]) -> Callable[[], float]:
    """The reward of all episodes from columns that are there already: the algebra alone."""
    table = Table(records)
    for name in (*PARTS, "p"):
        table.step(name)
    table.outcome("task")

    def run() -> float:
        return float(sum(np.nansum(c.value_ET) for c in SPEC.columns(table)))

    return run


def from_records(records: list[Episode]) -> Callable[[], float]:
    """The same from the objects: columns are read first."""

    def run() -> float:
        return float(sum(np.nansum(c.value_ET) for c in SPEC.columns(Table(records))))

    return run


def in_python(records: list[Episode]) -> float:
    """The same reward, written out with loops."""
    total = 0.0
    for e in records:
        end = e.verdicts["task"].value or 0.0
        total += end
        if end >= 1.0:
            total += sum(0.1 * (t.verdicts[name].value or 0.0) for t in e.turns for name in PARTS)
        p = [t.verdicts["p"].value or 0.0 for t in e.turns]
        weights = [math.exp((min(p) - x) / 0.1) for x in p]
        total += sum(x * w for x, w in zip(p, weights, strict=True)) / sum(weights)
    return total


def per_second(n: int, call: Callable[[], object], rounds: int = 7) -> float:
    """``n`` things per call, as a rate."""
    return round(n / (median_ms(call, rounds) / 1e3))


def texts(n: int) -> list[str]:
    return [f"You are in room {i * 7919 % 1009}. There is a {'key' if i % 3 else 'lamp'} and a door to the {'north' if i % 2 else 'south'}." for i in range(n)]


def verdict_rates() -> dict[str, float]:
    """Verdicts a second of each rule that runs in process, ``judge`` around it included."""
    data = {
        "answer": "the red cat", "number": 42, "items": ["a", "b"], "calls": [{"name": "book", "arguments": {"city": "Rome", "nights": 2}}],
        "state": {"a": 1, "b": [1, 2]}, "box": [0, 0, 4, 4], "schema": {"type": "object", "required": ["a"]},
    }  # fmt: skip
    made = [ToolCall("book", {"city": "Rome", "nights": 3}), ToolCall("say", {"box": [0, 0, 4, 5], "items": ["a", "c"]})]
    turns = [Turn([], "<think>x</think><answer>the red  Cat</answer>", made, facts={"events": ["edit", "test"], "seconds": [1.0, 2.0]}) for _ in range(5)]
    episode = Episode("e", "x", "t", "d", "train", turns=turns)
    view = EpisodeView(Task("t", "?", "train", data), episode, {"state.json": b'{"a": 1, "b": [1, 2]}'})
    subjects: dict[str, rules.Rule] = {
        "Exact": rules.Exact(), "Numeric": rules.Numeric(gold="task:number"), "Sets": rules.Sets(answer="call:say.items", gold="task:items"),
        "Rank": rules.Rank(answer="call:say.items", gold="task:items"), "Boxes": rules.Boxes(answer="call:say.box", gold="task:box"),
        "ToolCalls": rules.ToolCalls(), "StateMatch": rules.StateMatch(), "Stages": rules.Stages(stages=("think", "answer")),
        "Pattern": rules.Pattern(patterns=("red", "blue")), "Milestones": rules.Milestones(events=("edit", "test")),
        "Ordered": rules.Ordered(formula="G(edit -> F test)"), "Spent": rules.Spent(), "Duration": rules.Duration(reference="task:number"),
        "Schema": rules.Schema(answer="json:state.json"), "Similar": rules.Similar(),
    }  # fmt: skip
    assert all(judge(r, view).status == "scored" for r in subjects.values())
    return {name: per_second(500, lambda r=rule: [judge(r, view) for _ in range(500)], 5) for name, rule in subjects.items()}  # type: ignore[misc]  # bound at once


def main() -> None:
    records, double = episodes(TURNS), episodes(2 * TURNS)
    arrays, loops = on_arrays(records), median_ms(lambda: in_python(records), 5)
    assert abs(arrays() - in_python(records)) < 1e-6 * abs(arrays())
    array_ms, record_ms = median_ms(arrays), median_ms(from_records(records))
    novelty, many = Novelty(), [f"anchor {i % 5000}" for i in range(20_000)]
    seen = texts(256)
    before = hashed(texts(256))
    distillation, plain, hindsight = Distillation(), Curiosity("plain"), Curiosity("hindsight")
    triple = np.stack([before, before, before], axis=1)
    rates = verdict_rates()
    print(
        json.dumps(
            {
                "benchmark": "rewards",
                "group_reward": {
                    "episodes": GROUPS * SIZE, "turns": TURNS, "terms": 8, "arrays_ms": array_ms, "from_records_ms": record_ms, "python_loops_ms": loops,
                    "ratio_to_loops": round(loops / array_ms, 1), "arrays_ms_at_twice_the_turns": median_ms(on_arrays(double)),
                    "all_terms_as_objects_ms": median_ms(lambda: SPEC.settle(records), 3),
                },
                "observations_per_s": {
                    "hash": per_second(len(many), lambda: [novelty.visit(a) for a in many]),
                    "distillation_text_included": per_second(256, lambda: distillation.observe(hashed(seen))),
                    "distillation": per_second(256, lambda: distillation.observe(before)),
                    "curiosity": per_second(256, lambda: plain.observe(triple)),
                    "hindsight": per_second(256, lambda: hindsight.observe(triple)),
                },
                "verdicts_per_s": {**rates, "slowest": min(rates.values())},
            }
        )
    )  # fmt: skip


if __name__ == "__main__":
    main()
