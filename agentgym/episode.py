"""The record: ``Turn`` and ``Episode``, and the append-only JSONL store that keeps them.

One line per episode, framed on ``\\n`` alone, with a schema version. Appending is acknowledged after fsync; concurrent
appends share one (group commit). A torn last line, left by a killed process, is cut off when the file is next opened.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import anyio
import msgspec
from msgspec import Struct

from agentgym.errors import RecordError
from agentgym.messages import Message, ToolCall
from agentgym.secrets import Redactor
from agentgym.verdict import Culprit, Json, StopReason, Term, Verdict

SCHEMA = 1


class Tokens(Struct, omit_defaults=True, gc=False):
    """What one turn appended to its segment, in order. All lists have one entry per token.

    ``mask`` is 1 where the policy sampled the token; ``logprobs`` are of the distribution it was sampled from (after
    temperature and truncation), 0 where ``mask`` is 0. ``weight_versions`` are runs ``(version, tokens)`` over the sampled
    tokens. A ``segment`` is one append-only sequence; a turn belongs to exactly one.
    """

    ids: list[int] = []
    mask: list[int] = []
    logprobs: list[float] = []
    sampling: dict[str, float] = {}
    weight_versions: list[tuple[str, int]] = []
    segment: int = 0


class Turn(Struct, omit_defaults=True, gc=False):
    """One observation and one action. ``observation`` holds the messages that were new before the action.

    ``late`` are the verdicts of sources with a state or a model, written by the rollout after the episode.
    """

    observation: list[Message]
    action: str
    calls: list[ToolCall] = []
    problem: str | None = None
    state_hash: str = ""
    anchor: str = ""
    facts: dict[str, Json] = {}
    verdicts: dict[str, Verdict] = {}
    late: dict[str, Verdict] = {}
    tokens: Tokens | None = None
    usage: dict[str, int] = {}
    duration_s: float = 0.0

    @property
    def sampled(self) -> int:
        """How many tokens the policy sampled: as recorded, or as its endpoint says."""
        return sum(self.tokens.mask) if self.tokens else self.usage.get("completion_tokens", 0)


class Episode(Struct, omit_defaults=True):
    """One attempt at one task: everything needed to replay it, grade it again, and train on it."""

    id: str
    env: str
    task: str
    task_digest: str
    split: str
    seed: int | None = None
    schema: int = SCHEMA
    attempt: int = 0
    retry: int = 0
    group: str | None = None
    parent: tuple[str, int] | None = None
    match: str | None = None
    seat: int = 0
    kind: str = ""
    policy: str = ""
    began: str = ""
    reward: str = ""
    status: Literal["running", "valid", "invalid"] = "running"
    stop_reason: StopReason | None = None
    culprit: Culprit | None = None
    fault: str | None = None
    start_hash: str = ""
    start_anchor: str = ""
    turns: list[Turn] = []
    closing: list[Message] = []
    verdicts: dict[str, Verdict] = {}
    late: dict[str, Verdict] = {}
    terms: list[Term] = []
    dials: dict[str, float] = {}
    cost: float = 0.0
    artefacts: dict[str, str] = {}
    limits: dict[str, int | None] = {}
    options: dict[str, Json] = {}
    provenance: dict[str, Json] = {}

    @property
    def total(self) -> float:
        """The sum of all terms."""
        return sum(t.value for t in self.terms)

    @property
    def decided(self) -> bool:
        """True if it says something of its policy: valid, and not ended by the fault of another seat of its match (``fault`` says which)."""
        return self.status == "valid" and not self.fault

    @property
    def success(self) -> bool:
        """True if the episode is valid and every outcome verdict is scored at 1."""
        return self.status == "valid" and bool(self.verdicts) and all(v.status == "scored" and v.value == 1.0 for v in self.verdicts.values())


_ENCODER = msgspec.json.Encoder()
_DECODER = msgspec.json.Decoder(Episode)


def digest(data: bytes) -> str:
    """The content address used for tasks and artefacts: sha256 in hex."""
    return hashlib.sha256(data).hexdigest()


def encode(episode: Episode) -> bytes:
    """One JSON line, ended by ``\\n``. JSON escapes control characters, so no other line break can occur in it."""
    return _ENCODER.encode(episode) + b"\n"


def decode(line: bytes, where: str = "record") -> Episode:
    """Read one line.

    Raises:
        RecordError: it is not an episode, or of a newer schema.
    """
    try:
        episode = _DECODER.decode(line)
    except msgspec.MsgspecError as error:
        raise RecordError(f"{where}: not an episode of schema {SCHEMA}: {error}") from None
    if episode.schema != SCHEMA:
        raise RecordError(f"{where}: schema {episode.schema}; this version reads {SCHEMA}")
    return episode


def read_episodes(path: Path) -> Iterator[Episode]:
    """The acknowledged episodes of a file, in order, one in memory at a time. A torn last line is passed over."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.endswith(b"\n"):
                yield decode(line, f"{path}:{number}")


class _Commit:
    """One write and fsync that several appends wait for."""

    def __init__(self) -> None:
        self.done = anyio.Event()
        self.error: RecordError | None = None


class EpisodeStore:
    """Append-only writer of one ``.jsonl`` file, held under an exclusive lock. Secrets are masked before they are written.

    Raises:
        RecordError: another process writes this file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._file)
            raise RecordError(f"{path} is being written by another process") from None
        self._end = self._repair()
        self._redact = Redactor()
        self._waiting: list[bytes] = []
        self._next = _Commit()
        self._flushing = False

    def _repair(self) -> int:
        """Cut a torn last line off; return the length of what is whole."""
        end = size = os.fstat(self._file).st_size
        while end > 0:
            start = max(0, end - 65_536)
            cut = os.pread(self._file, end - start, start).rfind(b"\n")
            if cut >= 0:
                end = start + cut + 1
                break
            end = start
        if end != size:
            os.ftruncate(self._file, end)
            os.fsync(self._file)
        return end

    def _commit(self, batch: list[bytes]) -> None:
        """Write all lines at the end, their secrets masked, and fsync; on failure (disk full) leave the file as it was."""
        try:
            view, at = memoryview(self._redact(b"".join(batch))), self._end
            while view:
                n = os.pwrite(self._file, view, at)
                view, at = view[n:], at + n
            os.fsync(self._file)
        except OSError as error:
            os.ftruncate(self._file, self._end)
            raise RecordError(f"cannot write {self.path}: {error.strerror}") from error
        self._end = at

    async def append(self, *episodes: Episode) -> None:
        """Return once the episodes are on disk. Appends that wait together share one fsync.

        Raises:
            RecordError: it could not be written (disk full); the file is as it was before.
        """
        if not episodes:
            return
        self._waiting += map(encode, episodes)
        commit = self._next
        if not self._flushing:
            self._flushing = True
            try:
                with anyio.CancelScope(shield=True):
                    await self._flush()
            finally:
                self._flushing = False
        await commit.done.wait()
        if commit.error is not None:
            raise commit.error

    async def _flush(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting, []
            commit, self._next = self._next, _Commit()
            try:
                await anyio.to_thread.run_sync(self._commit, batch)
            except RecordError as error:
                commit.error = error
            commit.done.set()

    def close(self) -> None:
        """Release the file; idempotent."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __enter__(self) -> EpisodeStore:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class ArtefactStore:
    """Files named by their content under one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._redact = Redactor()

    def put(self, data: bytes) -> str:
        """Keep ``data``, its secrets masked; return its sha256. Written once, whole or not at all."""
        data = self._redact(data)
        name = digest(data)
        path = self.folder / name[:2] / name
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_suffix(f".{os.getpid()}.part")
            partial.write_bytes(data)
            partial.replace(path)
        return name

    def get(self, name: str) -> bytes:
        """Read by digest.

        Raises:
            RecordError: it is missing, or its bytes are not what its name says.
        """
        if len(name) != 64 or not set(name) <= set("0123456789abcdef"):
            raise RecordError(f"{name!r:.80} is not an artefact's digest")
        path = self.folder / name[:2] / name
        if not path.is_file():
            raise RecordError(f"artefact {name[:12]} is missing from {self.folder}")
        data = path.read_bytes()
        if digest(data) != name:
            raise RecordError(f"artefact {name[:12]} in {self.folder} was changed")
        return data


def write_parquet(episodes: Iterable[Episode], path: Path) -> int:
    """Write one row per episode (nested turns as a JSON column) to a Parquet file; return the number of rows.

    Raises:
        MissingExtra: pyarrow is not installed.
    """
    from agentgym.errors import MissingExtra

    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise MissingExtra("pyarrow", "pip install 'agentgym-core[parquet]'") from None
    rows = [_flat(e) for e in episodes]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return len(rows)


def read_parquet(path: Path) -> Iterator[Episode]:
    """The episodes of a file written by ``write_parquet``, equal to what was written."""
    import pyarrow.parquet

    for batch in pyarrow.parquet.ParquetFile(path).iter_batches(columns=["record"]):
        for line in batch.column(0):
            yield decode(line.as_py().encode(), str(path))


def _flat(episode: Episode) -> dict[str, Any]:
    """Columns that people filter by, and the whole record as JSON."""
    return {
        **{k: getattr(episode, k) for k in ("id", "env", "task", "kind", "split", "attempt", "policy", "reward", "status")},
        "stop_reason": episode.stop_reason and episode.stop_reason.value,
        "success": episode.success,
        "total": episode.total,
        "turns": len(episode.turns),
        "record": _ENCODER.encode(episode).decode(),
    }
