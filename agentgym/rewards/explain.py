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
    role: str = ""


def explain(spec: Spec, episode: Episode, group: Sequence[Episode] = ()) -> Node:
    """The derivation of an episode's terms. ``group`` are all episodes it was settled with (itself among them), where the spec compares."""
    episodes = list(group) or [episode]
    return _node(spec, Table(episodes), episodes.index(episode), episode)


def _node(spec: Spec, table: Table, at: int, episode: Episode, role: str = "") -> Node:
    amounts = [_amount(c, at) for c in spec.columns(table)]
    fields = [(f.name, getattr(spec, f.name), f.default) for f in msgspec.structs.fields(spec)]
    settings = ", ".join(repr(v) if n == "name" else f"{n}={v!r}" for n, v, default in fields if not _is_part(v) and v != default)
    parts = [_node(part, table, at, episode, _role(path)) for path, part in spec.children("")]
    name = getattr(spec, "name", None)
    verdict = (episode.late if spec.op == "late" else episode.verdicts).get(str(name)) if spec.op in ("outcome", "late") else None
    return Node(spec.op, settings, sum(a.total for a in amounts), amounts, parts, verdict, role)


def _role(path: str) -> str:
    """What a part is to its whole, where its order does not say it: ``by``, ``primary``, the kind of a route."""
    name = path.rpartition(".")[2]
    return "" if name == "terms" or name.endswith("]") else f"{name}:"


def _is_part(value: object) -> bool:
    return isinstance(value, (Spec, dict)) or (isinstance(value, tuple) and bool(value) and isinstance(value[0], Spec))


def _amount(column: Column, at: int) -> Amount:
    row_T = column.value_ET[at]
    turns = {} if column.level in WHOLE else {t: float(x) for t, x in enumerate(row_T) if not np.isnan(x) and x != 0}
    return Amount(column.source, column.level, column.known, float(np.nansum(row_T)), turns)


def lines(node: Node, before: str = "", last: bool = True, top: bool = True) -> list[str]:
    """The tree as text, one part a line: its value, what it is, and where that lies."""
    joint = "" if top else "└─ " if last else "├─ "
    value = f"{node.total:+.4g}" if node.amounts else "none"
    out = [f"{before}{joint}{value}  {node.role + ' ' if node.role else ''}{node.op}{f'({node.settings})' if node.settings else ''}{_where(node)}"]
    before += "" if top else "   " if last else "│  "
    for i, part in enumerate(node.parts):
        out += lines(part, before, i == len(node.parts) - 1, False)
    return out


def _where(node: Node) -> str:
    """The turns of a part, who settled it, and what the verifier said."""
    turns: dict[int, float] = {}
    for amount in node.amounts:
        for t, x in amount.turns.items():
            turns[t] = turns.get(t, 0.0) + x
    said = "   at " + ", ".join(f"turn {t}: {x:+.4g}" for t, x in sorted(turns.items())) if turns else ""
    said = said if len(said) <= 100 else f"{said[:97]}…"
    if node.op in ("outcome", "late") and node.verdict is not None:
        facts = {**node.verdict.evidence, **({"critique": node.verdict.critique} if node.verdict.critique else {})}
        said += f"   {node.verdict.status} {facts if facts else ''}"[:160]
    late = node.amounts and all(a.known == "late" for a in node.amounts) and not node.parts
    return said + ("   (settled by the rollout)" if late else "")
