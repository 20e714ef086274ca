"""The desk's database: SQLite in memory, one per episode. Every write goes through three methods, which keep the state hash."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from agentgym.errors import ToolError
from agentgym_tools.world import COLUMNS, Row, Rows, World

_KEY = {table: "TEXT" if table == "cells" else "INTEGER" for table in COLUMNS}
_SCHEMA = "".join(f"CREATE TABLE {t} (id {_KEY[t]} PRIMARY KEY, {', '.join(c[1:])}){' WITHOUT ROWID' if t == 'cells' else ''};" for t, c in COLUMNS.items())
_INSERT = {t: f"INSERT INTO {t} VALUES ({','.join('?' * len(c))})" for t, c in COLUMNS.items()}
_SELECT = {t: f"SELECT * FROM {t}" for t in COLUMNS}
_MODULUS = 1 << 128


def _blank() -> bytes:
    connection = sqlite3.connect(":memory:")
    connection.executescript("PRAGMA page_size = 1024;" + _SCHEMA)
    return connection.serialize()


_BLANK = _blank()


def row_digest(table: str, row: tuple[Any, ...]) -> int:
    """128 bits of one row; the digest of a database is the sum over its rows, so that it can be kept incrementally."""
    return int.from_bytes(hashlib.blake2b(repr((table, row)).encode(), digest_size=16).digest())


class Desk:
    """The open database of one episode, and what has been done at it. ``approved`` are the payments that may be paid back; None: all."""

    def __init__(self, database: bytes = _BLANK) -> None:
        self.connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False, cached_statements=256)
        self.connection.deserialize(database)
        self.hash = sum(row_digest(t, r) for t in COLUMNS for r in self.connection.execute(_SELECT[t])) % _MODULUS
        self.writes: list[list[Any]] = []
        self.ending: tuple[str, Any] | None = None
        self.user: Mapping[str, str] = {}
        self.approved: set[int] | None = None

    @classmethod
    def of(cls, world: World) -> Desk:
        """The desk at the start of a task."""
        desk = cls()
        desk.connection.execute("BEGIN")
        for table, rows in world.tuples().items():
            desk.connection.executemany(_INSERT[table], rows.values())
            desk.hash += sum(row_digest(table, r) for r in rows.values())
        desk.connection.execute("COMMIT")
        desk.hash %= _MODULUS
        return desk

    @contextmanager
    def trying(self) -> Iterator[None]:
        """What is done inside is undone at the end."""
        before = self.hash, list(self.writes), self.ending
        self.connection.execute("SAVEPOINT trying")
        try:
            yield
        finally:
            self.connection.execute("ROLLBACK TO trying")
            self.connection.execute("RELEASE trying")
            self.hash, self.writes, self.ending = before

    def rows(self) -> Rows:
        """All rows by table and id."""
        return _rows(self.connection)

    def dump(self) -> bytes:
        """The whole database as a SQLite file."""
        return self.connection.serialize()

    # Reading

    def get(self, table: str, key: int | str) -> Row:
        """One row by id. Raises ``ToolError`` if there is none."""
        row = self.connection.execute(f"{_SELECT[table]} WHERE id = ?", (key,)).fetchone()
        if row is None:
            raise ToolError(f"there is no {table.removesuffix('s')} {key}")
        return dict(zip(COLUMNS[table], row, strict=True))

    def find(self, table: str, **where: Any) -> list[Row]:
        """Rows in which every given column is equal (text: case does not matter); None is not given."""
        given = {k: v for k, v in where.items() if v is not None}
        condition = " AND ".join(f"{k} = ? COLLATE NOCASE" for k in given)
        query = f"{_SELECT[table]} WHERE {condition or '1'} ORDER BY id"
        return [dict(zip(COLUMNS[table], r, strict=True)) for r in self.connection.execute(query, tuple(given.values()))]

    def free_id(self, table: str) -> int:
        """The id of the next new row: 100 and up."""
        highest: int = self.connection.execute(f"SELECT MAX(id) FROM {table}").fetchone()[0] or 0
        return max(100, highest + 1)

    # Writing

    def insert(self, table: str, **values: Any) -> int:
        """Add a row; return its id."""
        key = self.free_id(table)
        row = tuple({"id": key, **values}[c] for c in COLUMNS[table])
        self.connection.execute(_INSERT[table], row)
        self.hash = (self.hash + row_digest(table, row)) % _MODULUS
        self.writes.append([table, key, "+", {k: values[k] for k in COLUMNS[table][1:]}])
        return key

    def update(self, table: str, key: int | str, **values: Any) -> None:
        """Change columns of a row that is there."""
        before = self.get(table, key)
        after = {**before, **values}
        self.connection.execute(f"UPDATE {table} SET {', '.join(f'{k} = ?' for k in values)} WHERE id = ?", (*values.values(), key))
        self.hash = (self.hash - row_digest(table, tuple(before.values())) + row_digest(table, tuple(after.values()))) % _MODULUS
        self.writes.append([table, key, "=", values])

    def delete(self, table: str, key: int | str) -> None:
        """Remove a row that is there."""
        before = self.get(table, key)
        self.connection.execute(f"DELETE FROM {table} WHERE id = ?", (key,))
        self.hash = (self.hash - row_digest(table, tuple(before.values()))) % _MODULUS
        self.writes.append([table, key, "-", {}])


def rows_of(database: bytes) -> Rows:
    """All rows of a dumped database by table and id, for comparison."""
    connection = sqlite3.connect(":memory:")
    connection.deserialize(database)
    try:
        return _rows(connection)
    finally:
        connection.close()


def _rows(connection: sqlite3.Connection) -> Rows:
    return {t: {r[0]: r for r in connection.execute(_SELECT[t])} for t in COLUMNS}
