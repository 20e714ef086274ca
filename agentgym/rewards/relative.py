"""What is done to terms with what only a rollout has: the other episodes of a group, or the numbers of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import numpy as np

from agentgym.errors import SpecError
from agentgym.rewards import groups
from agentgym.rewards.groups import Floats
from agentgym.rewards.spec import WHOLE, Need, Spec, World, merged, per_episode, weighted
from agentgym.rewards.table import Column, Level, Table
from agentgym.rewards.transforms import Elementwise


class Centre(Elementwise, frozen=True):
    """The term less its group's ``mean``, or the mean of the ``others`` (leave one out); ``scaled``: divided by the deviation too.

    Step terms are centred over all turns of the group, never by turn number: that would pay or punish length alone.
    """

    terms: Spec
    form: Literal["mean", "others", "scaled"] = "mean"
    needs: ClassVar[Need] = "group"

    def apply(self, x_ET: Floats, column: Column, table: Table) -> Floats:
        x_N, group_N = x_ET.ravel(), np.repeat(table.group_E, x_ET.shape[1])
        middle_N = groups.others(x_N, group_N) if self.form == "others" else groups.mean(x_N, group_N)
        out_N = x_N - middle_N
        if self.form == "scaled":
            out_N = out_N / (np.nan_to_num(groups.std(x_N, group_N), nan=1.0) + 1e-6)
        return out_N.reshape(x_ET.shape)


class Residual(Spec, frozen=True):
    """What is left of an episode's terms once ``parts`` (known confounders, such as its length) have explained what they can.

    Least squares over the group's valid episodes; the mean stays. With no confounders nothing changes. Source of the idea: "Aligning
    Language Models with Observational Data: Opportunities and Risks from a Causal Perspective"; linear and within the group is ours.
    """

    terms: Spec
    parts: tuple[Spec, ...] = ()
    gives: ClassVar[Level] = "episode"
    needs: ClassVar[Need] = "group"

    def columns(self, table: Table) -> list[Column]:
        x_E = per_episode(self.terms.columns(table))
        causes_EK = np.stack([per_episode(p.columns(table)) for p in self.parts], axis=1) if self.parts else np.zeros((len(x_E), 0))
        out_E = x_E.copy()
        for g in np.unique(table.group_E):
            at = np.flatnonzero((table.group_E == g) & ~np.isnan(x_E) & ~np.isnan(causes_EK).any(axis=1))
            if len(at) > causes_EK.shape[1] > 0:
                causes_nK = causes_EK[at] - causes_EK[at].mean(axis=0)
                out_E[at] -= causes_nK @ np.linalg.lstsq(causes_nK, x_E[at] - x_E[at].mean(), rcond=1e-9)[0]
        return [Column(f"residual:{self.terms}", "episode", "late", out_E[:, None])]


class Normalise(Elementwise, frozen=True):
    """Divided by the running deviation of the run (``centred``: less the running mean too), as it stood when the episode ended."""

    terms: Spec
    centred: bool = True
    needs: ClassVar[Need] = "run"

    def apply(self, x_ET: Floats, column: Column, table: Table) -> Floats:
        name = f"normalise:{column.source}"
        spread_E1 = np.sqrt(table.dial(f"{name}.variance", 1.0)) + 1e-8
        return (x_ET - (table.dial(f"{name}.mean", 0.0) if self.centred else 0.0)) / spread_E1

    def tune(self, table: Table, dials: Mapping[str, float]) -> dict[str, float]:
        """Chan's update of count, mean and variance by the batch."""
        column = merged(self.terms.columns(table), table)
        x = column.value_ET[~np.isnan(column.value_ET)]
        if not len(x):
            return {}
        name = f"normalise:{column.source}"
        n, middle, variance = dials.get(f"{name}.count", 0.0), dials.get(f"{name}.mean", 0.0), dials.get(f"{name}.variance", 0.0)
        total, gap = n + len(x), float(x.mean()) - middle
        squares = n * variance + len(x) * float(x.var()) + gap * gap * n * len(x) / total
        new = {"count": total, "mean": middle + gap * len(x) / total, "variance": squares / total}
        return {f"{name}.{key}": value for key, value in new.items()}


class Schedule(Spec, frozen=True):
    """Terms times a weight that goes from ``start`` to ``end`` over ``over`` training steps.

    With ``by`` it goes with measured progress instead: the running mean of those terms, which reaches the end at ``over``.
    """

    terms: Spec
    start: float = 1.0
    end: float = 0.0
    over: float = 1000
    by: Spec | None = None
    needs: ClassVar[Need] = "run"

    def columns(self, table: Table) -> list[Column]:
        done_E1 = np.clip(table.dial(self._dial, 0.0) / self.over, 0.0, 1.0)
        return weighted("schedule", self.terms.columns(table), self.start + (self.end - self.start) * done_E1)

    @property
    def _dial(self) -> str:
        return "step" if self.by is None else f"progress:{self.by}"

    def tune(self, table: Table, dials: Mapping[str, float]) -> dict[str, float]:
        """A running mean (a tenth per batch) of the measured progress."""
        if self.by is None:
            return {}
        now = float(np.nanmean(per_episode(self.by.columns(table))))
        old = dials.get(self._dial, 0.0)
        return {} if np.isnan(now) else {self._dial: old + 0.1 * (now - old)}

    def check(self, world: World, path: str) -> Level | None:
        if self.by is not None:
            self.by.check(world, f"{path}.by")
        return self.terms.check(world, f"{path}.terms")


class Trust(Spec, frozen=True):
    """Terms weighted by how far they agree with ``by`` in the group: e^{min(0, gap) / temperature}.

    The gap is the mean of the terms over episodes where ``by`` is at least 1/2 less their mean over the others; 1 where one side is
    empty. Source: "SophiaVL-R1: Reinforcing MLLMs Reasoning with Thinking Reward"; the formula is ours.
    """

    terms: Spec
    by: Spec
    temperature: float = 0.1
    needs: ClassVar[Need] = "group"

    def columns(self, table: Table) -> list[Column]:
        found = self.terms.columns(table)
        judged_E, right_E = per_episode(found), per_episode(self.by.columns(table))
        right, wrong = (groups.mean(np.where(side_E, judged_E, np.nan), table.group_E) for side_E in (right_E >= 0.5, right_E < 0.5))
        gap_E = groups.most(right, table.group_E), groups.most(wrong, table.group_E)
        high_E, low_E = (_spread(x_E, table.group_E) for x_E in gap_E)
        weight_E = np.nan_to_num(np.exp(np.minimum(0.0, high_E - low_E) / self.temperature), nan=1.0)
        return weighted("trust", found, weight_E[:, None])

    def check(self, world: World, path: str) -> Level | None:
        if self.by.check(world, f"{path}.by") not in WHOLE:
            raise SpecError(f"{path}.by", "trust() compares with an outcome")
        return self.terms.check(world, f"{path}.terms")


def _spread(x_E: Floats, group_E: groups.Ints) -> Floats:
    """A group's one number at each of its members, also those that have none."""
    _, dense_E = np.unique(group_E, return_inverse=True)
    best = np.full(dense_E.max(initial=-1) + 1, np.nan)
    known_E = ~np.isnan(x_E)
    best[dense_E[known_E]] = x_E[known_E]
    spread: Floats = best[dense_E]
    return spread


centre, residual, normalise, schedule, trust = Centre, Residual, Normalise, Schedule, Trust
