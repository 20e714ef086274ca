"""The final state against what it should be: JSON values, schemas, the results of queries."""

from __future__ import annotations

import sqlite3
import time
from functools import cache, lru_cache
from typing import Any

import msgspec

from agentgym.core import EpisodeView
from agentgym.errors import MissingExtra
from agentgym.verdict import Verdict
from agentgym_verifiers.rules.pick import Compared, Rule, pick


class StateMatch(Compared, frozen=True, kw_only=True):
    """1 if a JSON state equals the wanted one. ``partial``: the share of the wanted leaves that are right, less ``stray`` per other leaf.

    ``ignore`` names keys that do not count, at any depth. The first differences are in the evidence.
    """

    answer: str = "json:state.json"
    gold: str = "task:state"
    partial: bool = False
    stray: float = 0.1
    ignore: tuple[str, ...] = ()

    def score(self, view: EpisodeView) -> Verdict:
        want, have = (dict(self._leaves(pick(view, where), "$")) for where in (self.gold, self.answer))
        wrong = sorted(k for k, v in want.items() if k not in have or have[k] != v)
        stray = sorted(have.keys() - want.keys())
        if self.partial:
            value = max(0.0, 1 - len(wrong) / max(1, len(want)) - self.stray * len(stray))
        else:
            value = float(not wrong and not stray)
        return Verdict.scored(value, wrong=wrong[:10], stray=stray[:10])

    def _leaves(self, value: Any, path: str) -> list[tuple[str, Any]]:
        if isinstance(value, dict) and value:
            return [leaf for k in value if k not in self.ignore for leaf in self._leaves(value[k], f"{path}.{k}")]
        if isinstance(value, list) and value:
            return [leaf for i, each in enumerate(value) for leaf in self._leaves(each, f"{path}[{i}]")]
        return [(path, (type(value).__name__ if isinstance(value, bool) else "", value))]


class Schema(Rule, frozen=True, kw_only=True):
    """1 if a value (JSON text is decoded) fits a JSON schema of the task. It says nothing about being right."""

    answer: str = "action"
    schema: str = "task:schema"

    def score(self, view: EpisodeView) -> Verdict:
        checker = _checker(msgspec.json.encode(pick(view, self.schema), order="deterministic"))
        value = pick(view, self.answer)
        if isinstance(value, str):
            try:
                value = msgspec.json.decode(value)
            except msgspec.DecodeError as error:
                return Verdict.scored(0.0, problem=str(error)[:200])
        problem = next((e.message[:200] for e in checker.iter_errors(value)), None)
        return Verdict.scored(float(problem is None), problem=problem)


@cache
def _checker(schema: bytes) -> Any:
    try:
        import jsonschema
    except ImportError:
        raise MissingExtra("jsonschema", "pip install agentgym-verifiers") from None
    decoded = msgspec.json.decode(schema)
    kind = jsonschema.validators.validator_for(decoded)
    kind.check_schema(decoded)
    return kind(decoded)


class SqlMatch(Rule, frozen=True, kw_only=True):
    """1 if the answer's query gives the rows that the reference query gives, on a read-only copy of ``database`` (an artefact of SQLite).

    Rows are compared as a bag, or in order if ``ordered``. A query that fails, writes, gives over ``most`` rows or does not end within
    ``seconds`` scores 0; if the reference does any of this, the verdict is ``invalid``.
    """

    answer: str = "call:answer.query"
    gold: str = "task:query"
    database: str = "task.sqlite"
    ordered: bool = False
    seconds: float = 2.0
    most: int = 10_000

    def score(self, view: EpisodeView) -> Verdict:
        data = view.artefacts.get(self.database)
        if data is None:
            return Verdict.invalid(f"there is no artefact {self.database}")
        wanted = _reference(data, str(pick(view, self.gold)), self)
        try:
            made = _rows(data, str(pick(view, self.answer)), self)
        except sqlite3.Error as error:
            return Verdict.scored(0.0, problem=str(error)[:200])
        return Verdict.scored(float(made == wanted), rows=len(made), wanted=len(wanted))


def _rows(data: bytes, query: str, rule: SqlMatch) -> list[Any]:
    """What a query gives on a copy of a database that it cannot change."""
    connection = sqlite3.connect(":memory:")
    try:
        connection.deserialize(data)
        connection.execute("pragma query_only = on")
        connection.set_authorizer(_read_only)
        deadline = time.monotonic() + rule.seconds
        connection.set_progress_handler(lambda: time.monotonic() > deadline, 1_000)
        rows = connection.execute(query).fetchmany(rule.most + 1)
    finally:
        connection.close()
    if len(rows) > rule.most:
        raise sqlite3.DataError(f"more than {rule.most} rows")
    return rows if rule.ordered else sorted(rows, key=repr)


_reference = lru_cache(maxsize=256)(_rows)
"""The rows of references are remembered: many episodes share them."""


def _read_only(action: int, *_: Any) -> int:
    allowed = (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE)
    return sqlite3.SQLITE_OK if action in allowed else sqlite3.SQLITE_DENY
