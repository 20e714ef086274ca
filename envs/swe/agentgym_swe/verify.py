"""What the repository environments say of each turn and of the end, beside the hidden tests."""

from __future__ import annotations

from typing import ClassVar, Literal

from agentgym_verifiers.rules.patch import PATCH, read_patch
from agentgym_verifiers.rules.unit_tests import bench_of
from msgspec import Struct

from agentgym.core import EpisodeView, StopReason, Verdict


class Share(Struct, frozen=True):
    """A step verdict: the share of the files that have to change which are among those that a fact names. A level: ``delta`` pays it."""

    fact: str
    level: ClassVar[Literal["step"]] = "step"

    def __call__(self, view: EpisodeView) -> Verdict:
        wanted = view.task.data["gold_files"]
        return Verdict.scored(len(set(wanted) & set(view.episode.turns[-1].facts.get(self.fact, ()))) / len(wanted))


class Broken(Struct, frozen=True):
    """A step verdict: 1 if a changed Python file does not compile, else 0."""

    level: ClassVar[Literal["step"]] = "step"

    def __call__(self, view: EpisodeView) -> Verdict:
        broken = view.episode.turns[-1].facts.get("broken", [])
        return Verdict.scored(float(bool(broken)), files=list(broken)[:5])


class VisibleTests(Struct, frozen=True):
    """A step verdict: the share of visible tests that pass at their last run, less that share at the start; 0 before a run. It may be negative."""

    level: ClassVar[Literal["step"]] = "step"

    def __call__(self, view: EpisodeView) -> Verdict:
        passed = view.episode.turns[-1].facts.get("passed")
        return Verdict.scored(0.0 if passed is None else passed - view.task.data["passing_at_start"])


class Progress(Struct, frozen=True):
    """A step verdict in [0, 1]: half for files found, half for files changed; 0 while something does not compile."""

    level: ClassVar[Literal["step"]] = "step"

    def __call__(self, view: EpisodeView) -> Verdict:
        if view.episode.turns[-1].facts.get("broken"):
            return Verdict.scored(0.0)
        return Verdict.scored(0.5 * (Share("seen")(view).value or 0.0) + 0.5 * (Share("changed")(view).value or 0.0))


class Completion(Struct, frozen=True):
    """1 if the episode was ended by handing in, else 0. It says nothing about what was handed in."""

    level: ClassVar[Literal["outcome"]] = "outcome"

    def __call__(self, view: EpisodeView) -> Verdict:
        return Verdict.scored(float(view.episode.stop_reason is StopReason.SUBMITTED))


class Modification(Struct, frozen=True):
    """1 if the patch changes code that it may change, else 0. It says nothing about whether it helps."""

    bench: str
    level: ClassVar[Literal["outcome"]] = "outcome"

    def __call__(self, view: EpisodeView) -> Verdict:
        bench, patch = bench_of(self.bench, view.task), read_patch(view.artefacts[PATCH])
        counted = list(filter(bench.may_change, patch))
        return Verdict.scored(float(bool(counted)), files=counted[:10])
