"""``text/sql-v0``: questions over generated databases. What counts is the query: it must give the right rows here, and on rows never seen."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Annotated, Any, ClassVar, Literal

import msgspec
from agentgym_verifiers.rules import Noted, SqlMatch, WellFormed
from msgspec import Meta, Struct

from agentgym.core import Action, AgentEnv, Capabilities, EpisodeView, Limits, Scene, StopReason, Task, TaskSet, Verdict, Verifier
from agentgym.errors import ToolError, UnknownName
from agentgym.messages import Tool, call, tool
from agentgym.messages import answer as answers
from agentgym.rewards import Spec, delta, outcome, standard, step
from agentgym_text.domains import DOMAINS, database, question, tables_of

COUNT = {"train": 1200, "dev": 200, "test": 300}
SHOWN, SECONDS = 20, 2.0
"""Rows of a result that are shown, and how long a query may take."""
SYSTEM = "You answer questions about a SQLite database. Look at it with query; end with answer, whose query must give what is asked for, and nothing else."


class Console:
    """What one episode has done at its database."""

    def __init__(self, data: bytes, tables: Iterable[str]) -> None:
        self.data, self.tables = data, tuple(tables)
        self.connection: sqlite3.Connection | None = None
        self.touched: set[str] = set()
        self.answered: str | None = None
        self.calls = 0

    def open(self) -> sqlite3.Connection:
        """The database, read-only, opened when it is first asked."""
        if self.connection is None:
            self.connection = sqlite3.connect(":memory:", check_same_thread=False)
            self.connection.deserialize(self.data)
            self.connection.execute("pragma query_only = on")
            self.connection.set_authorizer(self._allowed)
        return self.connection

    def _allowed(self, action: int, first: str | None, *_: Any) -> int:
        if action == sqlite3.SQLITE_READ and first:
            self.touched.add(first)
        fine = (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE)
        return sqlite3.SQLITE_OK if action in fine else sqlite3.SQLITE_DENY

    def close(self) -> None:
        """Close the database; idempotent."""
        if self.connection is not None:
            self.connection.close()
            self.connection = None


def query(console: Console, sql: Annotated[str, Meta(max_length=4000)]) -> str:
    """Run a SELECT and see the first rows of its result. The tables and their columns: SELECT sql FROM sqlite_schema."""
    connection, deadline = console.open(), time.monotonic() + SECONDS
    connection.set_progress_handler(lambda: time.monotonic() > deadline, 10_000)
    try:
        cursor = connection.execute(sql)
        rows = cursor.fetchmany(SHOWN + 1)
    except (sqlite3.Error, sqlite3.Warning) as error:
        raise ToolError(str(error)[:300]) from None
    if cursor.description is None:
        raise ToolError("only SELECT is allowed")
    head = " | ".join(d[0] for d in cursor.description)
    lines = [" | ".join(str(v)[:200] for v in row) for row in rows[:SHOWN]]
    return "\n".join([head, *lines, *(["… more rows"] if len(rows) > SHOWN else [])]) if rows else f"{head}\n(no rows)"


def answer(console: Console, query: Annotated[str, Meta(max_length=4000)]) -> str:
    """Give the query that answers the question, and end."""
    console.answered = query
    return "answered"


class Answered(Struct, frozen=True):
    """The outcome: the query gives the right rows on the database that was shown and on one of other rows, so nothing can be copied into it."""

    level: ClassVar[Literal["outcome"]] = "outcome"

    def __call__(self, view: EpisodeView) -> Verdict:
        found = {name: SqlMatch(database=name)(view) for name in ("task.sqlite", "other.sqlite")}
        if bad := next((v for v in found.values() if v.status != "scored"), None):
            return bad
        shown, other = (v.value or 0.0 for v in found.values())
        return Verdict.scored(min(shown, other), shown=shown, other=other, **{k: v for k, v in found["task.sqlite"].evidence.items() if v is not None})


class SqlEnv(AgentEnv):
    """A database and a question. Option: ``domains`` (one or several of shop, school, harbour)."""

    id = "text/sql-v0"
    capabilities = Capabilities(snapshot=True)
    tools: Mapping[str, Tool] = {"query": tool(query), "answer": tool(answer)}
    verifiers: ClassVar[Mapping[str, Verifier]] = {
        "form": WellFormed(), "found": Noted(fact="found", kept=True), "answer": Answered(),
    }  # fmt: skip
    rewards: ClassVar[Mapping[str, Spec]] = standard(outcome("answer"), 0.02 * step("form") + 0.1 * delta(step("found")), step("found"))

    def __init__(self, *, domains: str | Iterable[str] = (), **base: Any) -> None:
        self._domains = (domains,) if isinstance(domains, str) else tuple(domains) or tuple(DOMAINS)
        for each in self._domains:
            if each not in DOMAINS:
                raise UnknownName("domain", each, DOMAINS)
        self._console: Console | None = None
        super().__init__(**base)

    def tasks(self, split: str) -> TaskSet:
        """Questions by number, the domains in turn."""
        every = list(DOMAINS)
        ids = [f"{split}/{every[i % 3]}-{i:04d}" for i in range(COUNT[split]) if every[i % 3] in self._domains]
        return TaskSet(ids, lambda name: _task(split, name))

    @property
    def console(self) -> Console:
        """The database of this episode."""
        assert self._console is not None
        return self._console

    def _open(self, task: Task) -> None:
        self._shut()
        self._console = Console(_database(task.data["domain"], task.data["seed"]), task.data["tables"])

    def _begin(self, task: Task) -> Scene:
        self._open(task)
        return self._scene([{"role": "system", "content": SYSTEM}, {"role": "user", "content": task.instruction}])

    def _advance(self, action: Action) -> Scene:
        console = self.console
        done = answers(self.tools, console, action, len(self.episode.turns) - 1, lambda: console.answered is not None, hint="end with answer")
        console.calls += len(done.states)
        return self._scene(done.messages, StopReason.SUBMITTED if console.answered is not None else None, done.malformed, done.states)

    def _scene(self, messages: Any, end: StopReason | None = None, malformed: bool = False, states: Iterable[str] = ()) -> Scene:
        console = self.console
        touched = sorted(console.touched & set(tables_of(self.task.data["domain"])))
        found = sum(t in touched for t in console.tables) / max(1, len(console.tables))
        seen = "|".join(m["content"] for m in messages)
        return Scene(messages, f"{touched}|{console.answered}|{console.calls}", seen, end, malformed, {"found": found, "calls": list(states)})

    def _artefacts(self) -> Mapping[str, bytes]:
        domain, seed = self.task.data["domain"], self.task.data["seed"]
        return {"task.sqlite": _database(domain, seed), "other.sqlite": _database(domain, f"{seed}/other")}

    def oracle(self) -> Iterator[str]:
        """Look at each table that is needed, and answer with the reference query."""
        self._require_running()
        for table in self.console.tables:
            if table not in self.console.touched:
                yield call("query", sql=f"SELECT * FROM {table} LIMIT 3")
        yield call("answer", query=self.task.data["query"])

    def _save(self) -> bytes:
        console = self.console
        return msgspec.msgpack.encode((sorted(console.touched), console.answered, console.calls))

    def _load(self, payload: bytes) -> None:
        self._open(self.task)
        touched, self.console.answered, self.console.calls = msgspec.msgpack.decode(payload, type=tuple[list[str], str | None, int])
        self.console.touched = set(touched)

    def _shut(self) -> None:
        if self._console is not None:
            self._console.close()
            self._console = None

    def close(self) -> None:
        """Close the database; idempotent."""
        self._shut()
        super().close()


@lru_cache(maxsize=2048)
def _database(domain: str, seed: str) -> bytes:
    return database(domain, seed)


@lru_cache(maxsize=4096)
def _task(split: str, name: str) -> Task:
    domain = name.partition("/")[2].partition("-")[0]
    asked = question(domain, name)
    data = {"domain": domain, "seed": name, "query": asked.query, "tables": list(asked.tables)}
    return Task(name, asked.text, split, data, Limits(max_turns=30), kind=domain)
