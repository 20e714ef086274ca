"""Asking a model for answers of a kind: cached by content, bounded in number, retried within limits, many at once."""

from __future__ import annotations

import hashlib
import sqlite3
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import cache, partial
from pathlib import Path
from typing import Generic, TypeVar

import anyio
import msgspec
from msgspec import Struct

from agentgym.core import Conversation, Policy
from agentgym.errors import ContextOverflow, Fault
from agentgym.messages import Message
from agentgym_verifiers.judges.answer import Unanswered, last_valid, schema_of
from agentgym_verifiers.judges.show import visible

A = TypeVar("A", bound=Struct)
T = TypeVar("T")


class Question(Struct, Generic[A], frozen=True):
    """What a judge is asked: who it is, what it sees, the kind of its answer, and what would be wrong with one."""

    role: str
    matter: str
    kind: type[A]
    why_not: Callable[[A], str] = lambda answer: ""
    scale: tuple[int, int] | None = None

    def messages(self, objection: str = "") -> list[Message]:
        """As a conversation; after an answer that was none, with the reason."""
        form = _form(self.kind)
        again = f"\n\nYour last answer did not count: {' '.join(visible(objection).split())[:300]}" if objection else ""
        return [{"role": "system", "content": f"{self.role}\n\n{form}"}, {"role": "user", "content": self.matter + again}]


@cache
def _form(kind: type[Struct]) -> str:
    return "First think, then answer with one JSON object and nothing after it. Its schema:\n" + msgspec.json.encode(schema_of(kind)).decode()


class Cache:
    """Answers by content, in memory and, with a path, in a file that processes share."""

    def __init__(self, path: str = "") -> None:
        self._held: dict[bytes, str] = {}
        self._file: sqlite3.Connection | None = None
        if path:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            self._file = sqlite3.connect(path, timeout=30, isolation_level=None, check_same_thread=False)
            self._file.execute("PRAGMA journal_mode=WAL")
            self._file.execute("CREATE TABLE IF NOT EXISTS answers (key BLOB PRIMARY KEY, answer TEXT) WITHOUT ROWID")

    def get(self, key: bytes) -> str | None:
        """What is known for a key."""
        if key not in self._held and self._file is not None:
            row = self._file.execute("SELECT answer FROM answers WHERE key = ?", (key,)).fetchone()
            if row is not None:
                self._held[key] = row[0]
        return self._held.get(key)

    def put(self, key: bytes, answer: str) -> None:
        """Keep an answer."""
        self._held[key] = answer
        if self._file is not None:
            self._file.execute("INSERT OR REPLACE INTO answers VALUES (?, ?)", (key, answer))


class Asker:
    """One model that answers questions.

    Args:
        name: what its answers are kept under; the policy's own name, if none is given.
        tries: attempts at a valid answer, each told what was wrong with the one before; a fault of the endpoint ends them (it retries itself).
        calls: how many may be made in all; beyond them everything is unanswered. 0: no limit.
        at_once: how many may be under way.
        structured: hold the endpoint to the schema of the answer, too.
    """

    def __init__(
        self, policy: Policy, *, tries: int = 3, calls: int = 0, at_once: int = 64, max_tokens: int = 1024, structured: bool = False,
        cache: Cache | None = None, name: str = "",
    ) -> None:  # fmt: skip
        self.policy, self.tries, self.calls, self.max_tokens, self.structured = policy, tries, calls, max_tokens, structured
        self.name, self.cache, self.counts = name or policy.name, cache or Cache(), Counter[str]()
        self._at_once = at_once
        self._room: anyio.Semaphore | None = None

    async def ask(self, question: Question[A], sample: int = 0) -> A:
        """An answer. ``sample`` numbers independent ones to the same question.

        Raises:
            Unanswered: no valid answer came within the tries, or the calls are used up.
        """
        key = self._key(question, sample)
        known = _again(question, self.cache.get(key))
        if known is not None:
            self.counts["cached"] += 1
            return known
        why = ""
        for attempt in range(self.tries):
            try:
                found = last_valid(await self._say(question, why, sample + 1000 * attempt), question.kind, question.why_not)
            except _Spent:
                raise
            except Unanswered as error:
                why = str(error)
                self.counts["unreadable"] += 1
                continue
            self.cache.put(key, msgspec.json.encode(found).decode())
            return found
        self.counts["unanswered"] += 1
        raise Unanswered(f"{self.policy.name} gave no valid answer in {self.tries} attempts: {why}")

    async def _say(self, question: Question[A], objection: str, seed: int) -> str:
        schema = schema_of(question.kind) if self.structured else None
        return await self.say(Conversation("judge", question.messages(objection), max_tokens=self.max_tokens, seed=seed, schema=schema))

    async def say(self, conversation: Conversation) -> str:
        """What the model says: one call.

        Raises:
            Unanswered: it refused, was cut, cannot be reached, or the calls are used up.
        """
        said = await self.call(partial(self.policy.act, conversation))
        for name, n in said.usage.items():
            self.counts[name] += n
        if said.finish == "refused":
            raise Unanswered("the model refused")
        if said.finish == "length":
            raise Unanswered("the answer was cut at its longest")
        return said.action

    async def call(self, ask: Callable[[], Awaitable[T]]) -> T:
        """One call of the model, within the budget and beside at most so many others.

        Raises:
            Unanswered: it cannot be reached, has no room for the question, or the calls are used up.
        """
        if self.calls and self.counts["calls"] >= self.calls:
            raise _Spent(f"the budget of {self.calls} judge calls is used up")
        self.counts["calls"] += 1
        if self._room is None:
            self._room = anyio.Semaphore(self._at_once, fast_acquire=True)
        async with self._room:
            try:
                return await ask()
            except (Fault, ContextOverflow) as fault:
                self.counts["failed"] += 1
                raise _Spent(str(fault)) from None

    def _key(self, question: Question[A], sample: int) -> bytes:
        parts = [self.name, str(getattr(self.policy, "temperature", "")), str(self.max_tokens), str(sample), question.role, question.matter]
        return hashlib.blake2b("\0".join([*parts, question.kind.__name__]).encode(), digest_size=20).digest()


def _again(question: Question[A], held: str | None) -> A | None:
    """An answer that was kept, if it is one to this question too, which may ask for more than the one it was given to."""
    try:
        found = None if held is None else msgspec.json.decode(held, type=question.kind)
    except msgspec.MsgspecError:
        return None
    return found if found is not None and not question.why_not(found) else None


class _Spent(Unanswered):
    """Asking again would not help."""
