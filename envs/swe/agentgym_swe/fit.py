"""``swe/fit-v0``: machine-learning engineering in small. Improve a training script; a fresh sandbox runs it, and labels it never saw decide."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import msgspec
import numpy as np
from agentgym_verifiers.rules import WellFormed
from agentgym_verifiers.rules.patch import PATCH, read_patch
from agentgym_verifiers.rules.unit_tests import Bench, in_turn, played_in
from msgspec import Meta, Struct

from agentgym.core import Capabilities, EpisodeView, Limits, Task, TaskSet, Verdict, Verifier
from agentgym.errors import MissingExtra, SandboxFault
from agentgym.messages import Tool, tool
from agentgym.rewards import Spec, delta, outcome, standard, step
from agentgym.sandbox import WORK, Entry, Image, Resources, Sandbox, start, told
from agentgym_swe import FIT
from agentgym_swe.libraries import FITTING, SITE, image
from agentgym_swe.repo import RepoEnv
from agentgym_swe.tables import FAMILIES, GOOD, STARTS, csv, score, script, table
from agentgym_swe.verify import Broken, Completion, Modification, Share
from agentgym_swe.workspace import TOOLS, Workspace

SCRIPT = "train.py"
BUDGET_S = 20.0
TOO_LONG = "took too long"
PYTHON = ("/usr/bin/python3", "-B")
SEEDS = {"train": range(6), "dev": range(6, 8), "test": range(8, 11)}
RANGES = Path(__file__).with_name("ranges.json")
MARGIN = 0.9
NO_GAIN = 1e-4
MOST_PREDICTIONS = 1 << 20
RESOURCES = Resources(seconds=BUDGET_S)


@cache
def tasks_of(split: str) -> TaskSet:
    """Families of tables × kinds of scripts × the seeds of one split."""
    return TaskSet([f"{f}-{k}-{s}" for s in SEEDS[split] for f in FAMILIES for k in STARTS], partial(task_of, split=split))


@cache
def ranges() -> dict[str, tuple[float, float]]:
    """Hidden scores of the given script and of a good one, per task; measured once, see ``measure``."""
    return msgspec.json.decode(RANGES.read_bytes(), type=dict[str, tuple[float, float]])


@lru_cache(4096)
def task_of(task_id: str, split: str) -> Task:
    """A task from its id: family, kind of script, seed."""
    family, kind, seed = task_id.split("-")
    low, high = ranges()[task_id]
    about = FAMILIES[family]
    instruction = (
        f"In /work, {SCRIPT} learns from data/train.csv ({about.about}; the target is the last column) and writes predictions.csv for data/test.csv, "
        f"one number a line. Its predictions are judged by {about.metric} on labels that are not here. They are not good. Improve the script; it may "
        f"take {BUDGET_S:.0f} s. {SCRIPT} is run anew when you submit; NumPy and scikit-learn are there, and there is no network."
    )
    data = {"family": family, "kind": kind, "seed": int(seed), "low": low, "high": low + MARGIN * (high - low), "gold_files": [SCRIPT]}
    return Task(task_id, instruction, split, data, Limits(max_turns=25), family)


def files_of(task: Task) -> dict[str, bytes]:
    """The tree that the agent starts from."""
    family, found = task.data["family"], table(task.data["family"], task.data["seed"])
    return {
        SCRIPT: script(family, STARTS[task.data["kind"]]),
        "data/train.csv": csv(found.names, found.train),
        "data/test.csv": csv(found.names[:-1], found.test),
    }


def bench(task: Task) -> Bench:
    """Where scripts run; there are no tests. The data may not be changed."""
    return Bench(
        image=image(FITTING, PYTHONPATH=SITE, OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1"), tree=files_of(task), tests={}, fail_to_pass=(),
        pass_to_pass=(), sources=("",), resources=RESOURCES,
    )  # fmt: skip


def hidden_score(task: Task, sandbox: Sandbox, seconds: float = BUDGET_S) -> tuple[float | None, str]:
    """Run the script that lies in a sandbox and score its predictions; None and why, where there are none."""
    done = sandbox.exec([*PYTHON, SCRIPT], timeout=seconds, env={"PYTHONHASHSEED": "0"})
    if done.code:
        return None, TOO_LONG if done.timed_out else f"exit code {done.code}"
    found = table(task.data["family"], task.data["seed"])
    try:
        text = sandbox.read(f"{WORK}/predictions.csv", MOST_PREDICTIONS).decode("ascii")
        predicted = np.array([float(line) for line in text.split()])
    except (FileNotFoundError, ValueError, UnicodeDecodeError) as error:
        return None, f"no predictions: {str(error)[:80]}"
    if predicted.shape != found.labels.shape or not np.isfinite(predicted).all():
        return None, f"{len(predicted)} predictions, or some that are no numbers; {len(found.labels)} are wanted"
    return score(found.metric, found.labels, predicted), ""


class Score(Struct, frozen=True):
    """The declared script, run in a fresh sandbox on the data as it was: where its hidden score lies between the given script's and a good one's."""

    level: ClassVar[Literal["outcome"]] = "outcome"
    limit_s: float = 300.0

    def __call__(self, view: EpisodeView) -> Verdict:
        task, patch = view.task, read_patch(view.artefacts[PATCH])
        files = {p: Entry("f", 0o644, d) for p, d in files_of(task).items()}
        kept = {p: c for p, c in patch.items() if c.kind in ("file", "binary") and not p.startswith("data/") and p != "predictions.csv"}
        files.update({p: Entry("f", 0o644, c.bytes) for p, c in kept.items()})
        where = bench(task)

        def run(seconds: float) -> tuple[float | None, str]:
            with start(where.image, where.resources, played_in(view)) as sandbox:
                sandbox.write({f"{WORK}/{p}": e for p, e in files.items()})
                return hidden_score(task, sandbox, seconds)

        try:
            found, why = in_turn(run, BUDGET_S, lambda given: given[1] == TOO_LONG)
        except (SandboxFault, MissingExtra) as fault:
            return Verdict.invalid(str(fault), "infra")
        if found is None:
            return Verdict.scored(0.0, why=why)
        low, high = task.data["low"], task.data["high"]
        share = (found - low) / (high - low)
        return Verdict.scored(0.0 if share < NO_GAIN else min(1.0, round(share, 6)), score=round(found, 6), low=low, high=high)


class Milestones(Struct, frozen=True):
    """A step verdict from the log: a quarter each for a run to the end, a validation score, one above the given script's, one near the goal."""

    level: ClassVar[Literal["step"]] = "step"

    def __call__(self, view: EpisodeView) -> Verdict:
        best = view.episode.turns[-1].facts.get("best")
        ran = bool(view.episode.turns[-1].facts.get("ran"))
        low, high = view.task.data["low"], view.task.data["high"]
        reached = [
            ran,
            ran and best is not None,
            ran and best is not None and best > low + 0.2 * (high - low),
            ran and best is not None and best > low + 0.7 * (high - low),
        ]
        return Verdict.scored(sum(reached) / 4)


VALIDATION = re.compile(r"^validation [\w ]+: (-?\d+\.\d+)$", re.MULTILINE)


class FitWorkspace(Workspace):
    """A workspace that remembers what its script's log said."""

    ran: bool = False
    best: float | None = None

    def facts(self) -> dict[str, object]:
        return {**super().facts(), "ran": self.ran, "best": self.best}


@tool
def run_script(workspace: FitWorkspace, timeout: Annotated[int, Meta(ge=1, le=20)] = 20) -> str:
    """Run train.py within its time budget, and show its log."""
    done = workspace.sandbox.exec([*PYTHON, SCRIPT], timeout=float(timeout), env={"PYTHONHASHSEED": "0"})
    if done.code == 0 and "milestone: predictions written" in done.output:
        workspace.ran = True
        scores = [float(s) for s in VALIDATION.findall(done.output)]
        workspace.best = max([*scores, *([workspace.best] if workspace.best is not None else [])], default=None)
    return told(done, timeout)


STEPS = 0.02 * step("form") + 0.2 * delta(step("milestones")) + -0.1 * delta(step("broken"))


class FitEnv(RepoEnv):
    """Improve a training script. Option ``sandbox``: ``bwrap``, ``docker``, ``runsc``."""

    id = "swe/fit-v0"
    capabilities: ClassVar[Capabilities] = FIT.capabilities
    workspace_class = FitWorkspace
    tools: Mapping[str, Tool] = {**{n: t for n, t in TOOLS.items() if n not in ("run_tests", "submit")}, "run_script": run_script, "submit": TOOLS["submit"]}
    verifiers: ClassVar[Mapping[str, Verifier]] = {
        "form": WellFormed(), "edited": Share("changed"), "broken": Broken(), "milestones": Milestones(), "completion": Completion(),
        "modification": Modification("agentgym_swe.fit:bench"), "score": Score(),
    }  # fmt: skip
    rewards: ClassVar[Mapping[str, Spec]] = standard(outcome("score"), STEPS, step("milestones"))
    test_tool = "run_script"

    def tasks(self, split: str) -> TaskSet:
        """The tasks of a split."""
        return tasks_of(split)

    def resources(self) -> Resources:
        """What a sandbox of these tasks must enforce."""
        return RESOURCES

    def bench(self, task: Task) -> Bench:
        """Where the script runs."""
        return bench(task)

    def visible(self, task: Task) -> tuple[Mapping[str, bytes], Sequence[str]]:
        """Script and data; there are no tests."""
        return files_of(task), ()

    def solved(self, task: Task) -> Mapping[str, bytes]:
        """A script that is good enough."""
        return {SCRIPT: solution(task.data["family"])}


def solution(family: str) -> bytes:
    """A good script for a family."""
    return script(family, GOOD[family])


def measure() -> None:
    """Measure the ranges of all tasks, in sandboxes, and write them beside this file. The same numbers come out each time."""
    found: dict[str, tuple[float, float]] = {}
    where = image(FITTING, PYTHONPATH=SITE, OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
    for seeds in SEEDS.values():
        for seed in seeds:
            for family in FAMILIES:
                scores = {kind: _try(where, family, seed, script(family, body)) for kind, body in {**STARTS, "good": GOOD[family]}.items()}
                for kind in STARTS:
                    found[f"{family}-{kind}-{seed}"] = (round(scores[kind], 6), round(scores["good"], 6))
    RANGES.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=1) + b"\n")


def _try(where: Image, family: str, seed: int, text: bytes) -> float:
    task = Task("", "", "", {"family": family, "seed": seed, "kind": "numpy"})
    with start(where, RESOURCES) as sandbox:
        sandbox.write({f"{WORK}/{p}": d for p, d in {**files_of(task), SCRIPT: text}.items()})
        found, why = hidden_score(task, sandbox)
    if found is None:
        raise RuntimeError(f"{family} {seed}: {why}")
    return found
