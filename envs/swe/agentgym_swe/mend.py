"""``swe/mend-v0``: real libraries with bugs that were put in and validated; the report tells what fails, hidden tests decide."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from functools import cache, lru_cache
from typing import ClassVar

from agentgym_verifiers.rules.unit_tests import Bench, parse

from agentgym.core import Capabilities, Limits, Task, TaskSet, Verifier
from agentgym_swe import MEND
from agentgym_swe.libraries import image, libraries, tree
from agentgym_swe.mutate import apply
from agentgym_swe.repo import RepoEnv, verifiers
from agentgym_swe.workshop import PYTHON, Row, baselines, function_of, rows, shown, test_files


@cache
def tasks_of(split: str) -> TaskSet:
    """The validated tasks of one split, the libraries in turn, so that the first few are of all of them."""
    found = [row.id for row in rows().values() if row.split == split]
    return TaskSet(sorted(found, key=lambda i: (i.rpartition("-")[2], i)), task_of)


@lru_cache(4096)
def task_of(row_id: str) -> Task:
    """A row as a task. Its data names the row; the tests and the bug stay in the manifest, bound by the digest of the broken tree."""
    row = rows()[row_id]
    library, base = libraries()[row.library], baselines()[row.library]
    hidden, failing = hidden_functions(row), set(row.fail_to_pass)
    there = [i for i in (*base.passing, *base.others) if function_of(i) not in hidden]
    at_start = sum(i not in failing for i in base.passing if function_of(i) not in hidden) / max(1, len(there))
    data = {
        "row": row.id, "library": library.label, "sha256": library.sha256, "tree": row.digest, "gold_files": sorted({e.path for e in row.bug.edits}),
        "fail_to_pass": row.fail_to_pass, "passing_at_start": at_start, "operators": list(row.bug.operators),
    }  # fmt: skip
    return Task(row.id, row.instruction, row.split, data, Limits(max_turns=40), row.library)


def hidden_functions(row: Row) -> set[str]:
    """The test functions that fail and are not shown."""
    return set(map(function_of, row.fail_to_pass)) - {shown(row.fail_to_pass)}


def row_of(task: Task) -> Row:
    """The manifest's row of a task."""
    return rows()[task.data["row"]]


@cache
def broken_tree(row_id: str) -> Mapping[str, bytes]:
    """A library's tree with the bug in."""
    row = rows()[row_id]
    return {**tree(row.library), **apply(tree(row.library), row.bug)}


@lru_cache(256)
def _bench(row_id: str) -> Bench:
    row = rows()[row_id]
    library, base = libraries()[row.library], baselines()[row.library]
    files, failing = tree(row.library), set(row.fail_to_pass)
    tests = {p: d for p, d in files.items() if library.is_test(p)}
    given = visible_tree(row_id)
    return Bench(
        image=image(), tree=broken_tree(row_id), tests=tests, fail_to_pass=row.fail_to_pass,
        pass_to_pass=[i for i in base.passing if i not in failing], others=base.others, sources=(library.sources,),
        hidden=frozenset(p for p in tests if p not in given), python=PYTHON, path=library.imports, seconds=base.seconds * 10 + 20,
    )  # fmt: skip


def bench(task: Task) -> Bench:
    """What the hidden tests of a task need."""
    return _bench(task.data["row"])


@lru_cache(256)
def visible_tree(row_id: str) -> Mapping[str, bytes]:
    """The broken tree without the failing tests that are hidden; a test file in which nothing is left goes with them."""
    row = rows()[row_id]
    files, hidden = dict(broken_tree(row_id)), hidden_functions(row)
    for path in {i.partition("::")[0] for i in hidden}:
        left = without(files[path], {i.partition("::")[2] for i in hidden if i.partition("::")[0] == path})
        if left is None:
            del files[path]
        else:
            files[path] = left
    return files


def without(source: bytes, names: set[str]) -> bytes | None:
    """A test module without the test functions of these names, in whatever class; None if no test is left."""
    starts, found, left = source.splitlines(keepends=True), list[ast.FunctionDef | ast.AsyncFunctionDef](), 0
    for node in ast.walk(parse(source)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name.startswith("test"):
            if node.name in names:
                found.append(node)
            else:
                left += 1
    if not left:
        return None
    for node in sorted(found, key=lambda n: -n.lineno):
        first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
        indent = " " * node.col_offset
        starts[first - 1 : node.end_lineno] = [f"{indent}pass\n".encode()] if indent else []
    return b"".join(starts)


class MendEnv(RepoEnv):
    """Mend a library. Option ``sandbox``: ``bwrap``, ``docker``, ``runsc``."""

    id = "swe/mend-v0"
    capabilities: ClassVar[Capabilities] = MEND.capabilities
    verifiers: ClassVar[Mapping[str, Verifier]] = verifiers("agentgym_swe.mend:bench")

    def tasks(self, split: str) -> TaskSet:
        """The validated tasks of a split."""
        return tasks_of(split)

    def bench(self, task: Task) -> Bench:
        """What the hidden tests of a task need."""
        return bench(task)

    def visible(self, task: Task) -> tuple[Mapping[str, bytes], Sequence[str]]:
        """The broken tree without hidden tests, and the test files that are left."""
        given = visible_tree(task.data["row"])
        return given, [t for t in test_files(libraries()[row_of(task).library]) if t in given]

    def solved(self, task: Task) -> Mapping[str, bytes]:
        """The files as published."""
        return {p: tree(row_of(task).library)[p] for p in task.data["gold_files"]}
