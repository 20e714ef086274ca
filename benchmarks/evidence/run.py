"""Experiments: one table each in this folder, arms of training runs over the same seeds, claims that their numbers support or do not.

    python benchmarks/evidence/run.py                     # all, five seeds or more each; goes on where it was interrupted
    python benchmarks/evidence/run.py noise --seeds 8     # one of them
    python benchmarks/evidence/run.py --quick --out DIR   # one seed and a few updates of each: does it run?

Of every arm and seed the last checkpoint is played on held-out tasks and submitted to ``leaderboards/evidence``, where anyone can grade it again. Curves,
numbers and pictures go to ``docs/evidence``, and from them docs/evidence.md is written: each sentence has its number, its interval, and what it amounts to.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import shutil
import sys
import time
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import anyio
import msgspec
import numpy as np
from agentgym_trainers.config import SftConfig, TrainConfig
from agentgym_trainers.run import TrainResult
from agentgym_trainers.teach import teach
from agentgym_trainers.train import sft, train
from msgspec import Struct
from scipy import stats

from agentgym.episode import Episode, read_episodes
from agentgym.evaluation.leaderboard import submit
from agentgym.evaluation.run import Plan, evaluate
from agentgym.evaluation.stats import pass_at
from agentgym.policies import resolve

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
MODEL = ROOT / "trainers" / "agentgym_trainers" / "warm"
QUICK = {"steps": 1, "groups": 2, "group_size": 2, "eval_tasks": 4, "eval_every": 0, "warm_steps": 1}


class Claim(Struct, forbid_unknown_fields=True):
    """That one arm has more of a measure than another."""

    more: str
    than: str
    of: str = "success"


class Test(Struct, forbid_unknown_fields=True):
    """How the last checkpoint is measured."""

    split: str = "test"
    tasks: int = 100
    attempts: int = 1
    temperature: float = 0.0


class Experiment(Struct, forbid_unknown_fields=True):
    """A question, the runs that answer it, and what others found. ``common`` and ``arms`` are settings of ``agentgym train``.

    ``extends`` names a table whose ``common`` comes first; ``start`` are settings of ``agentgym sft``: a model made once, that all arms begin from.
    ``teach`` are reward models by name, settings of ``agentgym train --role verifier``: made once, from ``pool`` (tasks, attempts at each) of the model
    that the arms begin from; a reward names them in braces. ``curve`` is drawn from the evaluations, or from what was sampled to train on (``train``).
    ``environment`` are variables of the process.
    """

    title: str
    question: str
    published: str
    arms: dict[str, dict[str, Any]]
    claims: list[Claim]
    common: dict[str, Any] = {}
    test: Test = msgspec.field(default_factory=Test)
    shown: tuple[str, ...] = ("success",)
    limits: str = ""
    extends: str = ""
    seeds: int = 5
    start: dict[str, Any] = {}
    teach: dict[str, dict[str, Any]] = {}
    pool: tuple[int, int] = (40, 8)
    curve: Literal["eval", "train"] = "eval"
    environment: dict[str, str] = {}


Rows = Sequence[Mapping[str, Any]]
MEASURES: dict[str, tuple[str, Callable[[Rows, list[Episode]], float]]] = {
    "success": ("success on held-out tasks after the last update", lambda rows, played: _mean([e.success for e in played])),
    "area": ("held-out success, mean over the run's evaluations", lambda rows, played: _mean([r["success"] for r in rows if r["phase"] == "eval"])),
    "sampled": ("success of what was sampled, mean over the updates", lambda rows, played: _mean(_column(rows, "success"))),
    "entropy_sd": ("standard deviation of the policy's entropy over the updates", lambda rows, played: _spread(_column(rows, "entropy"))),
    "entropy": ("entropy of the policy over the last fifth of the updates", lambda rows, played: _mean(_last(_column(rows, "entropy")))),
    "reward": ("training reward over the last fifth of the updates", lambda rows, played: _mean(_last(_column(rows, "reward")))),
    "farmed": (
        "training reward less training success over the last fifth of the updates",
        lambda rows, played: _mean(_last(_column(rows, "reward"))) - _mean(_last(_column(rows, "success"))),
    ),
    "return": ("reward of a held-out episode", lambda rows, played: _mean([e.total for e in played])),
    "turns": ("turns of a held-out episode", lambda rows, played: _mean([len(e.turns) for e in played])),
    "progress": ("share of a held-out task's steps that were done", lambda rows, played: _mean([_final(e, "progress") for e in played])),
    "listened": ("share of a held-out episode's turns spent at the noise", lambda rows, played: _mean([_evidence(e, "listened") for e in played])),
    "seen": ("share of the world that a held-out episode has seen", lambda rows, played: _mean([_evidence(e, "seen") for e in played])),
    "equal": ("held-out success after as many sampled tokens as the thriftiest run had", lambda rows, played: math.nan),
    "pass@8": ("held-out tasks solved by any of eight attempts", lambda rows, played: _pass(played, 8)),
    "pass@1": ("held-out attempts that succeed, sampled", lambda rows, played: _mean([e.success for e in played])),
}


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if len(values) else math.nan


def _spread(values: Sequence[float]) -> float:
    return float(np.std(values)) if len(values) else math.nan


def _column(rows: Rows, name: str) -> list[float]:
    return [float(r[name]) for r in rows if r["phase"] == "train" and name in r]


def _last(values: list[float]) -> list[float]:
    return values[-max(1, len(values) // 5) :]


def _final(episode: Episode, verdict: str) -> float:
    told = [t.verdicts[verdict].value for t in episode.turns if verdict in t.verdicts]
    return float(told[-1] or 0.0) if told else 0.0


def _evidence(episode: Episode, name: str) -> float:
    return float(next((v.evidence[name] for v in episode.verdicts.values() if name in v.evidence), math.nan))


def _pass(played: list[Episode], k: int) -> float:
    by_task: dict[str, list[bool]] = {}
    for e in played:
        by_task.setdefault(e.task, []).append(e.success)
    return _mean([pass_at(k, len(v), sum(v)) for v in by_task.values() if len(v) >= k])


# One arm, one seed


def cell(name: str, experiment: Experiment, arm: str, seed: int, out: Path, board: Path | None, quick: bool) -> dict[str, Any]:
    """Train, measure, submit. What is there already is kept: a run has one folder, whichever experiments it is an arm of."""
    given = _merged({"eval_split": "dev"}, experiment.common, experiment.arms[arm], {**(QUICK if quick else {}), "seed": seed})
    taught = {n: t for n, t in experiment.teach.items() if f"{{{n}}}" in given.get("reward", "")}
    begins = [x for x in (experiment.start, experiment.environment) if x]
    folder = out / "cells" / _key([given, experiment.test, *begins, *([taught, experiment.pool] if taught else [])])
    kept = folder / "cell.json"
    if not kept.exists():
        os.environ.update(experiment.environment)
        model = begun(experiment.start, out, quick) if experiment.start else str(MODEL)
        for n, settings in taught.items():
            given["reward"] = given["reward"].replace(f"{{{n}}}", learned(settings, experiment, model, out, quick))
        config = msgspec.convert({"model": model, **given, "out": str(folder / "train")}, TrainConfig, strict=False)
        made = measured(config, experiment, folder, f"{name}/{arm}/{seed}".replace(" ", "-"), quick)
        if board is not None:
            seen = submit(folder / "test", board, thin=True)
            if seen.standing is None:
                raise SystemExit(f"{folder / 'test'} is refused: {'; '.join(seen.reasons)}")
            made["bundle"] = seen.standing.file
        kept.write_bytes(msgspec.json.encode(made))
        shutil.rmtree(folder / "train" / "checkpoints", ignore_errors=True)
    found: dict[str, Any] = _numbers(msgspec.json.decode(kept.read_bytes()))
    return {**found, "arm": arm, "seed": seed}


def _key(of: Any) -> str:
    return hashlib.sha256(msgspec.json.encode(of, order="deterministic")).hexdigest()[:12]


def measured(config: TrainConfig, experiment: Experiment, folder: Path, played_as: str, quick: bool) -> dict[str, Any]:
    """Train, and play the last checkpoint on held-out tasks."""
    result, test = _trained(config), experiment.test
    tasks = 4 if quick else test.tasks
    plan = Plan(
        env=config.env,
        split=test.split,
        options=config.option,
        tasks=tasks,
        episodes=tasks * test.attempts,
        max_tokens=config.max_tokens,
    )
    shutil.rmtree(folder / "test", ignore_errors=True)
    policy = resolve(f"hf:{result.checkpoint_after}", temperature=test.temperature, max_tokens=config.max_tokens)
    policy.name = played_as
    anyio.run(evaluate, plan, policy, folder / "test")
    rows = [msgspec.json.decode(line) for line in (folder / "train" / "metrics.jsonl").read_bytes().splitlines()]
    played = [e for e in read_episodes(folder / "test" / "episodes.jsonl") if e.decided]
    sampled = {r["step"]: r["tokens"] for r in rows if r["phase"] == "train"}
    curve = [[r["step"], r["success"], sampled.get(r["step"], 0)] for r in rows if r["phase"] == "eval"]
    if experiment.curve == "train":
        curve = [
            [n, _mean([r["success"] for r in rows if r["phase"] == "train" and n - 5 < r["step"] <= n]), at]
            for n, at in sampled.items()
            if n % 5 == 0 or n == max(sampled)
        ]
    measures = {m: of(rows, played) for m, (_, of) in MEASURES.items()}
    return {"measures": measures, "curve": curve, "tokens": result.tokens_generated, "seconds": result.wall_s, "bundle": ""}


def begun(start: Mapping[str, Any], out: Path, quick: bool) -> str:
    """The model that the arms of an experiment begin from; made once."""
    given = _merged(start, {"warm_steps": 2, "warm_batch": 4, "eval_tasks": 4, "vocab_tasks": 30} if quick else {})
    folder = out / "start" / _key(given)
    if not (folder / "result.json").exists():
        shutil.rmtree(folder, ignore_errors=True)
        sft(msgspec.convert({**given, "out": str(folder)}, SftConfig, strict=False), lambda *_: None)
    found: str = msgspec.json.decode((folder / "result.json").read_bytes())["checkpoint_after"]
    return found


def learned(settings: Mapping[str, Any], experiment: Experiment, model: str, out: Path, quick: bool) -> str:
    """A reward model, made once: it learns from attempts at tasks that the arms train on."""
    common, (tasks, attempts) = experiment.common, (8, 4) if quick else experiment.pool
    plan = Plan(
        env=common["env"], split="train", options=common.get("option", {}), tasks=tasks, episodes=tasks * attempts, max_tokens=common.get("max_tokens", 64)
    )
    pool = out / "pool" / _key([plan, experiment.start])
    if not (pool / "result.json").exists():
        anyio.run(evaluate, plan, resolve(f"hf:{model}", temperature=1.0, max_tokens=plan.max_tokens), pool)
    given = {"model": "tiny", "groups": 16, "lr": 1e-3, "context": 2048, "threads": 1, **settings, **({"steps": 2} if quick else {})}
    folder = out / "taught" / _key([given, pool.name])
    if not (folder / "result.json").exists():
        shutil.rmtree(folder, ignore_errors=True)
        teach(msgspec.convert({**given, "role": "verifier", "data": str(pool), "out": str(folder)}, TrainConfig, strict=False), lambda *_: None)
    return str(folder / "verifier")


def _merged(*tables: Mapping[str, Any]) -> dict[str, Any]:
    """Tables over each other; inner tables are merged, too."""
    out: dict[str, Any] = {}
    for table in tables:
        for key, value in table.items():
            out[key] = {**out[key], **value} if isinstance(value, dict) and isinstance(out.get(key), dict) else value
    return out


def _trained(config: TrainConfig) -> TrainResult:
    """The run, continued where it was interrupted."""
    folder = Path(config.out)
    if (folder / "config.toml").exists():
        if any((folder / "checkpoints").glob("step-*")):
            return train(TrainConfig(resume=str(folder)), lambda *_: None)
        shutil.rmtree(folder)
    return train(config, lambda *_: None)


# All of an experiment


def over_seeds(values: Sequence[float]) -> list[float]:
    """Mean and 95% interval (Student's t over seeds); one seed has none."""
    x = np.asarray(values, dtype=float)
    if len(x) < 2:
        return [float(x.mean()), math.nan, math.nan]
    half = float(stats.t.ppf(0.975, len(x) - 1) * x.std(ddof=1) / math.sqrt(len(x)))
    return [float(x.mean()), float(x.mean() - half), float(x.mean() + half)]


def verdict(gap: Sequence[float]) -> str:
    """What a difference amounts to."""
    return "one seed says nothing" if math.isnan(gap[1]) else "holds here" if gap[1] > 0 else "the opposite holds here" if gap[2] < 0 else "not shown here"


def summary(experiment: Experiment, cells: list[dict[str, Any]]) -> dict[str, Any]:
    """Numbers of an experiment: each arm's measures, and each claim's difference, paired by seed."""
    least = min(c["curve"][-1][2] for c in cells)
    for c in cells:
        steps = np.array(c["curve"], dtype=float)
        c["measures"]["equal"] = float(np.interp(least, steps[:, 2], steps[:, 1]))
    by_arm = {arm: sorted((c for c in cells if c["arm"] == arm), key=lambda c: c["seed"]) for arm in experiment.arms}
    measures = sorted({*experiment.shown, *(c.of for c in experiment.claims)})
    arms = {arm: {m: over_seeds([c["measures"][m] for c in found]) for m in measures} for arm, found in by_arm.items()}
    claims = []
    for claim in experiment.claims:
        pairs = list(zip(by_arm[claim.more], by_arm[claim.than], strict=True))
        found = over_seeds([a["measures"][claim.of] - b["measures"][claim.of] for a, b in pairs])
        same = all(a["curve"] == b["curve"] and a["tokens"] == b["tokens"] for a, b in pairs)  # what should tell the arms apart never came to bear
        claims.append({**msgspec.to_builtins(claim), "gap": found, "verdict": "the runs are the same" if same else verdict(found)})
    curves = {arm: [[row[0], *over_seeds([c["curve"][i][1] for c in found])] for i, row in enumerate(found[0]["curve"])] for arm, found in by_arm.items()}
    used = {
        arm: {"tokens": int(np.mean([c["tokens"] for c in found])), "seconds": float(np.mean([c["seconds"] for c in found]))} for arm, found in by_arm.items()
    }
    bundles = {f"{c['arm']}/{c['seed']}": c["bundle"] for c in cells if c["bundle"]}
    seeds = len(next(iter(by_arm.values())))
    return {"seeds": seeds, "arms": arms, "claims": claims, "curves": curves, "used": used, "bundles": bundles}


def picture(experiment: Experiment, found: Mapping[str, Any], path: Path) -> None:
    """Held-out success over the updates, by arm, with intervals over seeds."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 3.6), layout="constrained")
    for arm, curve in found["curves"].items():
        step, mean, low, high = np.array(curve, dtype=float).T
        (line,) = axes.plot(step, mean, marker="o", markersize=3, label=arm)
        axes.fill_between(step, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
    what = "success on held-out tasks" if experiment.curve == "eval" else "success of what was sampled"
    axes.set(xlabel="updates", ylabel=what, ylim=(0, 1), title=experiment.title)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def told(interval: Sequence[float], signed: bool = False) -> str:
    """A number with its interval."""
    form = "+.3f" if signed else ".3f"
    return f"{interval[0]:{form}}" + ("" if math.isnan(interval[1]) else f" [{interval[1]:{form}}, {interval[2]:{form}}]")


def page(name: str, experiment: Experiment, found: Mapping[str, Any]) -> str:
    """An experiment's section."""
    columns = list(experiment.shown)
    rows = [f"| {arm} | {' | '.join(told(numbers[m]) for m in columns)} | {found['used'][arm]['tokens']:,} |" for arm, numbers in found["arms"].items()]
    sentences = [
        f"- *{c['more']}* against *{c['than']}*, {MEASURES[c['of']][0]}: {told(c['gap'], True)}. **{c['verdict'].capitalize()}.**" for c in found["claims"]
    ]
    return "\n".join([
        f"## {experiment.title}", "", f"{experiment.question} Published: {experiment.published}", "", f"![{experiment.title}](evidence/{name}.png)", "",
        f"| {found['seeds']} seeds | {' | '.join(MEASURES[m][0] for m in columns)} | tokens sampled |", "|---" * (len(columns) + 2) + "|", *rows, "",
        "Differences, paired by seed:", "", *sentences, "", *([experiment.limits, ""] if experiment.limits else []),
    ])  # fmt: skip


def experiments(names: Sequence[str]) -> dict[str, Experiment]:
    """The tables of this folder, by name."""
    found = {p.stem: msgspec.convert(tomllib.loads(p.read_text()), Experiment) for p in sorted(HERE.glob("[!_]*.toml"))}
    for experiment in found.values():
        if experiment.extends:
            experiment.common = _merged(tomllib.loads((HERE / f"{experiment.extends}.toml").read_text()), experiment.common)
    if unknown := [n for n in names if n not in found]:
        raise SystemExit(f"no experiment {unknown[0]!r}; there are {', '.join(found)}")
    for name, experiment in found.items():
        for claim in experiment.claims:
            if wrong := [x for x in (claim.more, claim.than) if x not in experiment.arms] + [x for x in (claim.of,) if x not in MEASURES]:
                raise SystemExit(f"{name}: {wrong[0]!r} is no arm, or no measure")
    return {n: found[n] for n in names or found}


HEAD = """# Evidence

What the methods do here: the tiny model, minutes of a CPU, {seeds} seeds. Each claim was made at scale by others; here it is tested small, and what does not
reproduce is said so. Intervals are Student's t over seeds, at 95%; differences are paired by seed. `make evidence` makes this page again from the tables in
`benchmarks/evidence/`, and goes on where it was interrupted; the episodes behind each number are in `leaderboards/evidence`, to be graded again by
`agentgym leaderboard verify leaderboards/evidence`.

"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="experiments; default all")
    parser.add_argument("--seeds", type=int, help="default: as many as each table says, five or more")
    parser.add_argument("--quick", action="store_true", help="one seed, one update; nothing is submitted or written into docs")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "evidence")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs")
    parser.add_argument("--board", type=Path, default=ROOT / "leaderboards" / "evidence")
    given = parser.parse_args()
    docs = given.out / "docs" if given.quick else given.docs
    (docs / "evidence").mkdir(parents=True, exist_ok=True)
    for name, experiment in experiments(given.names).items():
        cells, began = [], time.perf_counter()
        for seed in range(1 if given.quick else given.seeds or experiment.seeds):
            for arm in experiment.arms:
                cells.append(cell(name, experiment, arm, seed, given.out, None if given.quick else given.board, given.quick))
                print(f"{name}: {arm}, seed {seed}: {cells[-1]['measures']} ({time.perf_counter() - began:.0f} s)", file=sys.stderr, flush=True)
        found = summary(experiment, cells)
        (docs / "evidence" / f"{name}.json").write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=1))
        picture(experiment, found, docs / "evidence" / f"{name}.png")
    sections = []
    for name, experiment in experiments(()).items():
        kept = docs / "evidence" / f"{name}.json"
        if kept.exists():
            sections.append((name, experiment, msgspec.json.decode(kept.read_bytes())))
    sections = [(n, e, _numbers(f)) for n, e, f in sections]
    seeds = sorted({f["seeds"] for _, _, f in sections})
    missing = [e.title for n, e in experiments(()).items() if n not in [name for name, *_ in sections]]
    left = f"Not run whole yet: {'; '.join(missing)}.\n\n" if missing else ""
    text = HEAD.format(seeds=" or ".join(map(str, seeds))) + left + "\n".join([*(page(n, e, f) for n, e, f in sections), (HERE / "_changed.md").read_text()])
    (docs / "evidence.md").write_text(text)
    line = {n: {"seeds": f["seeds"], "claims": [[c["more"], c["than"], c["of"], c["verdict"]] for c in f["claims"]]} for n, _, f in sections}
    print(json.dumps({"benchmark": "evidence", **line}))


def _numbers(value: Any) -> Any:
    """JSON has no NaN: what is null there is one here."""
    if isinstance(value, dict):
        return {k: _numbers(v) for k, v in value.items()}
    return [_numbers(v) for v in value] if isinstance(value, list) else math.nan if value is None else value


if __name__ == "__main__":
    main()
