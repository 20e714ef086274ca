"""Contamination: tasks of one set that stand, to the letter or nearly so, in another."""

from __future__ import annotations

import re
import unicodedata
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
from msgspec import Struct

from agentgym.core import Task, TaskSet
from agentgym.episode import Episode, digest, read_episodes

WORDS = re.compile(r"\w+|[^\w\s]")
SHINGLE, NEAR, ROWS = 4, 0.8, 512


class Text(NamedTuple):
    """What is compared: a task's digest where it is known, and its instruction."""

    digest: str
    instruction: str


class Overlap(Struct, frozen=True):
    """How much of ``of`` tasks is in another set: the very task (``same``), its ``text`` to the letter, or most of its word runs (``near``).

    Each is a list of (task, task of the other set, likeness). Tasks of one text may differ in their world.
    """

    of: int
    same: list[tuple[str, str, float]]
    text: list[tuple[str, str, float]]
    near: list[tuple[str, str, float]]

    def says(self, what: str, other: str) -> str:
        """A sentence for a run's notes; empty where nothing overlaps."""
        worst = next(iter([*self.same, *self.text, *self.near]), None)
        if worst is None:
            return ""
        counts = f"{len(self.same)} are among {other}, {len(self.text)} more have the text of one to the letter, {len(self.near)} nearly"
        return f"contamination: of {self.of} {what} tasks {counts} ({worst[0]} ~ {worst[1]})"


def normal(text: str) -> str:
    """One case, one form of letters, one space."""
    return " ".join(WORDS.findall(unicodedata.normalize("NFKC", text).casefold()))


def shingles(text: str) -> set[int]:
    """Hashes of all runs of four words; of the whole text where it is shorter."""
    words = normal(text).split()
    runs = [" ".join(words[i : i + SHINGLE]) for i in range(len(words) - SHINGLE + 1)] or [" ".join(words)]
    return {zlib.crc32(r.encode("utf-8", "surrogatepass")) for r in runs}


def overlap(tasks: Mapping[str, Text], others: Mapping[str, Text], near: float = NEAR) -> Overlap:
    """Tasks of ``tasks`` that stand in ``others``: by digest, by text, or with a Jaccard index of word runs of at least ``near``."""
    by_digest = {t.digest: name for name, t in others.items() if t.digest}
    by_text = {normal(t.instruction): name for name, t in others.items()}
    same = [(name, by_digest[t.digest], 1.0) for name, t in tasks.items() if t.digest and t.digest in by_digest]
    known = {name for name, *_ in same}
    text = [(name, by_text[normal(t.instruction)], 1.0) for name, t in tasks.items() if name not in known and normal(t.instruction) in by_text]
    known |= {name for name, *_ in text}
    left = {name: t.instruction for name, t in tasks.items() if name not in known}
    return Overlap(len(tasks), same, text, _near(left, {n: t.instruction for n, t in others.items()}, near))


def _near(tasks: Mapping[str, str], others: Mapping[str, str], least: float) -> list[tuple[str, str, float]]:
    """The likest of the others for each task, where it is like enough; the likest pairs first."""
    from scipy.sparse import csr_array

    if not tasks or not others:
        return []
    places: dict[int, int] = {}

    def table(texts: Sequence[str]) -> csr_array:
        sets = [shingles(t) for t in texts]
        columns = [places.setdefault(s, len(places)) for each in sets for s in each]
        starts = np.cumsum([0, *map(len, sets)])
        return csr_array((np.ones(len(columns), dtype=np.int32), columns, starts), shape=(len(sets), 1 << 32))

    mine, theirs = table(list(tasks.values())), table(list(others.values()))
    mine.resize((len(tasks), len(places)))
    theirs.resize((len(others), len(places)))
    sizes, names, found = theirs.sum(axis=1), list(others), []
    for start in range(0, len(tasks), ROWS):
        block = mine[start : start + ROWS]
        common = (block @ theirs.T).tocoo()
        index = common.data / (block.sum(axis=1)[common.row] + sizes[common.col] - common.data)
        best: dict[int, tuple[float, int]] = {}
        for row, column, value in zip(common.row[index >= least], common.col[index >= least], index[index >= least], strict=True):
            best[int(row)] = max(best.get(int(row), (0.0, 0)), (float(value), int(column)))
        keys = list(tasks)[start : start + ROWS]
        found += [(keys[row], names[column], round(value, 3)) for row, (value, column) in best.items()]
    return sorted(found, key=lambda pair: -pair[2])


def of_tasks(taskset: TaskSet, ids: Sequence[str], content: bool = False) -> dict[str, Text]:
    """The texts of tasks. ``content``: by a digest of instruction and data alone, whatever their ids and splits."""
    tasks = (taskset.get(i) for i in ids)
    return {t.id: Text(_content(t) if content else t.digest, t.instruction) for t in tasks}


def _content(task: Task) -> str:
    return digest(msgspec.json.encode((task.instruction, task.data), order="deterministic"))


def of_run(folder: Path) -> dict[str, Text]:
    """The texts of the tasks that a run played, from its records."""
    path = folder / "episodes.jsonl"
    found: dict[str, Text] = {}
    for e in read_episodes(path) if path.is_file() else ():
        if e.task not in found and e.turns:
            found[e.task] = Text(e.task_digest, _asked(e))
    return found


def _asked(episode: Episode) -> str:
    """The first thing that the user said."""
    return next((str(m["content"]) for m in episode.turns[0].observation if m["role"] == "user"), "")


def training_run_of(policy: str) -> Path | None:
    """The training run that a policy's checkpoint lies in, if it does."""
    path = Path(policy.partition(":")[2])
    run = path.parent.parent
    return run if path.parent.name == "checkpoints" and (run / "episodes.jsonl").is_file() else None
