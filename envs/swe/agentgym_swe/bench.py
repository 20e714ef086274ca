"""``swe/bench-v0``: rows in the SWE-bench form, as SWE-bench, SWE-Gym and SWE-smith publish them, from a file of yours.

``rows`` is JSONL or Parquet; ``mirror`` a folder with a git bundle, a bare mirror or a clone per repository. A row with an ``image`` runs in
that image (kind ``docker``; the repository is expected in ``/testbed``). Without options, eight sample rows made from ``swe/mend`` are played.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, ClassVar

import msgspec
from agentgym_verifiers.rules.unit_tests import Bench
from msgspec import Struct

from agentgym.core import Capabilities, Limits, Scene, Task, TaskSet, Verifier
from agentgym.errors import MissingExtra, SandboxFault, UsageError
from agentgym.sandbox import WORK, Image, Resources, start
from agentgym_swe import BENCH
from agentgym_swe.history import cut_history, patched, paths_of, tree_at
from agentgym_swe.libraries import FETCH, SITE, home, image
from agentgym_swe.repo import RepoEnv, verifiers

TESTBED = "/testbed"
MOST_INSTRUCTION = 100_000
MOST_BYTES = 1 << 28
PYTHONS = ("/opt/miniconda3/envs/testbed/bin/python", "/usr/local/bin/python3", "/usr/bin/python3")


class Row(Struct, kw_only=True):
    """A row as published; what is not named here is left alone. Lists of ids may be JSON text."""

    instance_id: str
    repo: str
    base_commit: str
    patch: str
    test_patch: str
    fail_to_pass: list[str] | str = msgspec.field(name="FAIL_TO_PASS")
    pass_to_pass: list[str] | str = msgspec.field(name="PASS_TO_PASS")
    problem_statement: str = ""
    image: str = ""
    image_name: str = ""
    docker_image: str = ""

    @property
    def where(self) -> str:
        """The image it names, under any of the names in use."""
        return self.image or self.image_name or self.docker_image


def ids_of(given: list[str] | str) -> list[str]:
    """A list of test ids, also where it was written as JSON text."""
    return list(msgspec.json.decode(given, type=list[str])) if isinstance(given, str) else list(given)


@lru_cache(8)
def read_rows(path: str, stamp: float) -> dict[str, dict[str, Any]]:
    """The rows of a file by id, undecoded.

    Raises:
        UsageError: the file cannot be read, a line is no row, a field is missing or odd, or an id comes twice; the message names the line.
    """
    rows: dict[str, dict[str, Any]] = {}
    for number, raw in enumerate(_records(Path(path)), 1):
        try:
            row = msgspec.convert(raw, Row)
            ids_of(row.fail_to_pass), ids_of(row.pass_to_pass)
        except msgspec.MsgspecError as error:
            raise UsageError(f"{path}: row {number}: {error}") from None
        if not re.fullmatch(r"[\w.-]{1,200}", row.instance_id) or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", row.repo) or ".." in row.repo:
            raise UsageError(f"{path}: row {number}: {row.instance_id!r:.80} or {row.repo!r:.80} is no name")
        if not re.fullmatch(r"[0-9a-f]{7,64}", row.base_commit):
            raise UsageError(f"{path}: row {number}: base_commit {row.base_commit!r:.80} is no commit")
        if len(row.problem_statement) > MOST_INSTRUCTION:
            raise UsageError(f"{path}: row {number}: a problem_statement of {len(row.problem_statement):,} characters; at most {MOST_INSTRUCTION:,}")
        for patch in (row.patch, row.test_patch):
            if bad := next((p for p in paths_of(patch) if p.startswith("/") or ".." in p.split("/")), None):
                raise UsageError(f"{path}: row {number}: a patch may not touch {bad!r:.80}")
        if row.instance_id in rows:
            raise UsageError(f"{path}: row {number}: {row.instance_id} is there twice")
        rows[row.instance_id] = raw
    return rows


def _records(path: Path) -> Sequence[Any]:
    try:
        if path.suffix == ".parquet":
            from pyarrow import parquet

            return list(parquet.read_table(path).to_pylist())
        return [msgspec.json.decode(line) for line in path.read_bytes().split(b"\n") if line.strip()]
    except ImportError:
        raise MissingExtra("pyarrow", "pip install 'agentgym-core[parquet]'") from None
    except (OSError, ValueError, msgspec.MsgspecError) as error:
        raise UsageError(f"cannot read the rows in {path}: {error}") from None


def tasks_of(rows: str, mirror: str) -> TaskSet:
    """The rows of a file as tasks. An empty ``mirror`` is that of the sample: a task is the same wherever it was fetched to."""
    path = Path(rows)
    if not path.is_file():
        raise UsageError(f"there is no file {rows}")
    found = read_rows(rows, path.stat().st_mtime)

    def make(task_id: str) -> Task:
        row = msgspec.convert(found[task_id], Row)
        data = {
            "row": msgspec.to_builtins(row), "mirror": mirror, "gold_files": paths_of(row.patch), "passing_at_start": 1.0,
            "fail_to_pass": ids_of(row.fail_to_pass), "pass_to_pass": ids_of(row.pass_to_pass),
        }  # fmt: skip
        text = f"The folder /work holds a repository. Mend this; then submit.\n\n{row.problem_statement}"
        return Task(row.instance_id, text, "test", data, Limits(max_turns=60), row.repo)

    return TaskSet(found, make)


def row_of(task: Task) -> Row:
    """The row behind a task."""
    return msgspec.convert(task.data["row"], Row)


@lru_cache(64)
def _base(folder: str, row_bytes: bytes) -> Mapping[str, bytes]:
    """The files at the base commit: from the mirror, or out of the image."""
    row = msgspec.json.decode(row_bytes, type=Row)
    if not row.where:
        return tree_at(folder, row.repo, row.base_commit)
    with start(_image(row), Resources(), "docker") as sandbox:
        return {p: e.data for p, e in sandbox.collect(WORK, MOST_BYTES).items() if e.type == "f" and not p.startswith(".git/")}


def _image(row: Row) -> Image:
    if not row.where:
        return image()
    return Image(base=row.where, layers=image().layers, moved=TESTBED, env=(("PYTHONDONTWRITEBYTECODE", "1"),))


def base_of(task: Task) -> Mapping[str, bytes]:
    """The files that the agent starts from."""
    return _base(task.data["mirror"] or str(home() / "sample"), msgspec.json.encode(row_of(task)))


def _changed(task: Task, patch: str) -> Mapping[str, bytes | None]:
    base = base_of(task)
    return patched(patch, tuple((p, base[p]) for p in paths_of(patch) if p in base))


def bench(task: Task) -> Bench:
    """What the hidden tests of a row need."""
    row, base = row_of(task), base_of(task)
    tests = {p: d for p, d in _changed(task, row.test_patch).items() if d is not None}
    files = {i.partition("::")[0] for i in (*task.data["fail_to_pass"], *task.data["pass_to_pass"])}
    tests.update({p: base[p] for p in files if p in base and p not in tests})
    path = (WORK, f"{WORK}/src", SITE)
    return Bench(
        image=_image(row), tree=base, tests=tests, fail_to_pass=task.data["fail_to_pass"], pass_to_pass=task.data["pass_to_pass"],
        hidden=frozenset(p for p in tests if p not in base), others=(), python=(_python(row.where),), path=path, seconds=600.0,
        exact=False, resources=Resources(),
    )  # fmt: skip


@cache
def _python(where: str) -> str:
    """The Python of an image: that of its test environment, if it has one."""
    if not where:
        return PYTHONS[-1]
    with start(Image(base=where), Resources(), "docker") as sandbox:
        found = sandbox.exec(f"for p in {' '.join(PYTHONS)}; do [ -x $p ] && echo $p && break; done", cwd="/").output.split()
    if not found:
        raise SandboxFault(f"image {where} has no Python in {', '.join(PYTHONS)}")
    return found[0]


class BenchEnv(RepoEnv):
    """Rows of a file. Options: ``rows`` and ``mirror`` as above, ``sandbox``: ``bwrap``, ``docker``, ``runsc``."""

    id = "swe/bench-v0"
    capabilities: ClassVar[Capabilities] = BENCH.capabilities
    verifiers: ClassVar[Mapping[str, Verifier]] = verifiers("agentgym_swe.bench:bench")
    splits = ("test",)

    def __init__(self, *, rows: str = "", mirror: str = "", **base: Any) -> None:
        sample = home() / "sample"
        self._rows, self._mirror = rows or str(sample / "rows.jsonl"), mirror or (str(Path(rows).parent) if rows else "")
        if not rows and not Path(self._rows).is_file():
            raise MissingExtra("the sample rows of swe/bench", FETCH)
        super().__init__(**base)

    def tasks(self, split: str) -> TaskSet:
        """The rows."""
        return tasks_of(self._rows, self._mirror)

    def _begin(self, task: Task) -> Scene:
        if row_of(task).where and self.kind == "bwrap":
            raise UsageError(f"{task.id} names an image: --sandbox docker")
        scene = super()._begin(task)
        cut_history(self.workspace.sandbox)
        return scene

    def bench(self, task: Task) -> Bench:
        """What the hidden tests of a row need."""
        return bench(task)

    def visible(self, task: Task) -> tuple[Mapping[str, bytes], Sequence[str]]:
        """The tree at the base commit, and the test files in it that the row names."""
        base = base_of(task)
        named = {i.partition("::")[0] for i in (*task.data["fail_to_pass"], *task.data["pass_to_pass"])}
        return base, sorted(p for p in named if p in base)

    def solved(self, task: Task) -> Mapping[str, bytes]:
        """What the published patch makes of its files."""
        return {p: d for p, d in _changed(task, row_of(task).patch).items() if d is not None}
