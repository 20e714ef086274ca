"""Where credit goes: the terms of an episode or of its turns, moved to other places. Values are moved, not made."""

from __future__ import annotations

from typing import ClassVar, Literal

import msgspec
import numpy as np

from agentgym.errors import SpecError
from agentgym.rewards.groups import Floats
from agentgym.rewards.spec import TURN, WHOLE, Spec, World, latest, merged
from agentgym.rewards.table import Column, Known, Level, Table


class Assign(Spec, frozen=True):
    """An episode's terms given to its turns, their sum unchanged: all to the ``last``, ``uniform``, or ``discounted`` backwards."""

    terms: Spec
    to: Literal["last", "uniform", "discounted"] = "last"
    gamma: float = 0.9
    takes: ClassVar[tuple[Level, ...]] = WHOLE
    gives: ClassVar[Level] = "turn"
    when: ClassVar[Known] = "end"

    def columns(self, table: Table) -> list[Column]:
        share_ET = np.where(table.played_ET, self._share(table), np.nan)
        found = self.terms.columns(table)
        return [Column(f"{self.to}:{c.source}", "turn", latest(c.known, "end"), c.value_ET * share_ET) for c in found]

    def _share(self, table: Table) -> Floats:
        left_ET = table.length_E[:, None] - 1 - np.arange(table.width)[None]
        if self.to == "last":
            return np.where(left_ET == 0, 1.0, 0.0)
        if self.to == "uniform":
            return np.broadcast_to(1.0 / np.maximum(1, table.length_E)[:, None], left_ET.shape)
        share_ET = np.where(table.played_ET, self.gamma ** np.maximum(left_ET, 0), 0.0)
        total_E1: Floats = np.maximum(share_ET.sum(axis=1, keepdims=True), 1e-300)
        return share_ET / total_E1


class MinForm(Spec, frozen=True):
    """Step terms weighted by softmax(−r/T) over the episode: their sum tends to the least of them as T → 0; at 0 it is that.

    At T = 0 the first of the least turns carries it, so the return from any turn up to it is the minimum of the terms still to come.
    Source: "Stop Summation: Min-Form Credit Assignment Is All Process Reward Model Needs for Reasoning", as its released code.
    """

    terms: Spec
    temperature: float = 0.1
    takes: ClassVar[tuple[Level, ...]] = TURN
    when: ClassVar[Known] = "end"

    def columns(self, table: Table) -> list[Column]:
        column = merged(self.terms.columns(table), table)
        x_ET = column.value_ET
        with np.errstate(invalid="ignore"):
            least_E1 = np.nanmin(np.where(np.isnan(x_ET).all(axis=1, keepdims=True), 0.0, x_ET), axis=1, keepdims=True)
            weight_ET = np.exp((least_E1 - x_ET) / self.temperature) if self.temperature > 0 else (x_ET == least_E1).astype(np.float64)
        if self.temperature == 0:
            weight_ET *= np.cumsum(weight_ET, axis=1) == 1
        total_E1 = np.nansum(weight_ET, axis=1, keepdims=True)
        value_ET = x_ET * weight_ET / np.where(total_E1 > 0, total_E1, 1.0)
        return [msgspec.structs.replace(column, source=f"min_form:{column.source}", value_ET=value_ET, known=latest(column.known, "end"))]


class Attribute(Spec, frozen=True):
    """An episode's term shared out by each turn's contribution ``by``; what they do not explain is spread evenly, so they sum to it.

    Source: "SPA-RL: Reinforcing LLM Agents via Stepwise Progress Attribution", where a fitted model gives the contributions; holding
    the sum exactly is ours.
    """

    terms: Spec
    by: Spec
    takes: ClassVar[tuple[Level, ...]] = WHOLE
    gives: ClassVar[Level] = "turn"
    when: ClassVar[Known] = "end"

    def columns(self, table: Table) -> list[Column]:
        whole, by = merged(self.terms.columns(table), table), merged(self.by.columns(table), table)
        told_ET = np.where(table.played_ET, np.nan_to_num(by.value_ET), np.nan)
        rest_E1 = (whole.value_ET - np.nansum(told_ET, axis=1, keepdims=True)) / np.maximum(1, table.length_E)[:, None]
        return [Column(f"attribute:{whole.source}", "turn", latest(whole.known, by.known, "end"), told_ET + rest_E1)]

    def check(self, world: World, path: str) -> Level:
        if self.by.check(world, f"{path}.by") not in TURN:
            raise SpecError(f"{path}.by", "attribute() wants a contribution for each turn")
        if self.terms.check(world, f"{path}.terms") not in WHOLE:
            raise SpecError(f"{path}.terms", "attribute() shares out a term of the whole episode")
        return "turn"


assign, min_form, attribute = Assign, MinForm, Attribute
