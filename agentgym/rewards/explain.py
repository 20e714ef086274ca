"""Why an episode got the reward it got: the spec as a tree, with what each part of it came to."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
from msgspec import Struct

from agentgym.episode import Episode
from agentgym.rewards.spec import Spec
from agentgym.rewards.table import WHOLE, Column, Table
from agentgym.verdict import Verdict


class Amount(Struct, frozen=True):
    """What a part came to: one ``total``, and its ``turns`` (turn number to value) where it lies on turns."""

    source: str
    level: str
    known: str
    total: float
    turns: dict[int, float] = {}


class Node(Struct, frozen=True):
    """A primitive with its own settings, its amounts, and the parts it is made of. ``verdict`` is that of an outcome source."""

    op: str
    settings: str
    total: float
    amounts: list[Amount]
    parts: list[Node] = []
    verdict: Verdict | None = None


def explain(spec: Spec, episode: Episode, group: Sequence[Episode] = ()) -> Node:
    """The derivation of an episode's terms. ``group`` are all episodes it was settled with (itself among them), where the spec compares."""
    episodes = list(group) or [episode]
    return _node(spec, Table(episodes), episodes.index(episode), episode)


def _node(spec: Spec, table: Table, at: int, episode: Episode) -> Node:
    amounts = [_amount(c, at) for c in spec.columns(table)]
    settings = ", ".join(f"{f.name}={v!r}" for f in msgspec.structs.fields(spec) if not _is_part(v := getattr(spec, f.name)))
    parts = [_node(part, table, at, episode) for _, part in spec.children()]
    name = getattr(spec, "name", None)
    verdict = (episode.late if spec.op == "late" else episode.verdicts).get(str(name)) if spec.op in ("outcome", "late") else None
    return Node(spec.op, settings, sum(a.total for a in amounts), amounts, parts, verdict)


def _is_part(value: object) -> bool:
    return isinstance(value, (Spec, dict)) or (isinstance(value, tuple) and bool(value) and isinstance(value[0], Spec))


def _amount(column: Column, at: int) -> Amount:
    row_T = column.value_ET[at]
    turns = {} if column.level in WHOLE else {t: float(x) for t, x in enumerate(row_T) if not np.isnan(x) and x != 0}
    return Amount(column.source, column.level, column.known, float(np.nansum(row_T)), turns)


def lines(node: Node, depth: int = 0) -> list[str]:
    """The tree as text, one part a line, the value first."""
    label = f"{node.op}({node.settings})"
    turns = {t: sum(a.turns.get(t, 0.0) for a in node.amounts) for a in node.amounts for t in a.turns}
    where = "  turns " + ", ".join(f"{t}: {x:+.4g}" for t, x in sorted(turns.items())) if turns else ""
    late = "  settled by the rollout" if node.amounts and all(a.known == "late" for a in node.amounts) else ""
    said = ""
    if node.verdict is not None:
        facts = {**node.verdict.evidence, **({"critique": node.verdict.critique} if node.verdict.critique else {})}
        said = f"  {node.verdict.status}" + (f" {facts}" if facts else "")
    own = f"{node.total:+.4g}" if node.amounts else "none"
    out = [f"{'  ' * depth}{own:>8}  {label}{where[:120]}{late}{said[:160]}"]
    for part in node.parts:
        out += lines(part, depth + 1)
    return out
