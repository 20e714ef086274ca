"""Making tasks: bugs are tried in a sandbox, and kept only if what they break is clear, repeatable, and nothing else.

``agentgym fetch swe --remake`` runs this; the result is ``manifest.jsonl`` and ``baselines.json`` beside this file.
"""

from __future__ import annotations

import ast
import hashlib
import os
import random
import re
import textwrap
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import cache
from multiprocessing import get_context
from pathlib import Path

import msgspec
from agentgym_verifiers.rules.unit_tests import Run, run_tests
from msgspec import Struct

from agentgym.sandbox import WORK, Resources, start
from agentgym_swe.libraries import Library, home, image, libraries, tree
from agentgym_swe.mutate import Bug, apply, candidates, combined, compiles

PYTHON = ("/usr/bin/python3",)
MANIFEST = Path(__file__).with_name("manifest.jsonl")
BASELINES = Path(__file__).with_name("baselines.json")
QUOTA = {"train": 34, "dev": 24, "test": 24}
COMBINED = 0.22
MOST_BROKEN = 40


class Baseline(Struct, frozen=True):
    """What a library's own tests do on the library as published, twice alike: ids that pass, ids that do something else, and how long it took."""

    passing: list[str]
    others: list[str]
    seconds: float


class Row(Struct, frozen=True):
    """A validated task. ``digest`` is of the broken tree, ``seconds`` how long the library's tests take."""

    id: str
    library: str
    split: str
    bug: Bug
    fail_to_pass: list[str]
    instruction: str
    digest: str
    seconds: float


def tree_digest(files: Mapping[str, bytes]) -> str:
    """The content address of a tree."""
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(f"{path}\0{len(files[path])}\0".encode() + files[path])
    return digest.hexdigest()


@cache
def baselines() -> dict[str, Baseline]:
    """The baselines of all libraries, by name."""
    return msgspec.json.decode(BASELINES.read_bytes(), type=dict[str, Baseline])


@cache
def rows() -> dict[str, Row]:
    """The validated tasks, by id."""
    return {row.id: row for row in map(msgspec.json.Decoder(Row).decode, MANIFEST.read_bytes().splitlines())}


def try_out(library: Library, files: Mapping[str, bytes], seconds: float, kind: str | None = None) -> Run:
    """All tests of a library on a tree, in a fresh sandbox."""
    with start(image(), Resources(), kind) as sandbox:
        sandbox.write({f"{WORK}/{p}": d for p, d in files.items()})
        return run_tests(sandbox, test_files(library), python=PYTHON, path=library.imports, seconds=seconds)


def test_files(library: Library) -> list[str]:
    """The test files of a library."""
    names = [p for p in tree(library.name) if library.is_test(p)]
    return sorted(p for p in names if re.fullmatch(r"(test_.*|.*_test|tests?)\.py", p.rpartition("/")[2]))


def baseline(library: Library, kind: str | None = None) -> Baseline:
    """Run a library's tests twice as published; only what passes both times counts as passing."""
    first, second = (try_out(library, tree(library.name), 120, kind) for _ in range(2))
    if not (first.finished and second.finished and first.outcomes):
        raise RuntimeError(f"{library.label}: the published tree does not run to its end: {first.said}")
    ids = sorted(first.outcomes.keys() | second.outcomes.keys())
    passing = [i for i in ids if first.outcomes.get(i) == second.outcomes.get(i) == ["passed"]]
    return Baseline(passing, [i for i in ids if i not in set(passing)], round(max(first.seconds, second.seconds), 2))


def broken_by(library: Library, base: Baseline, bug: Bug) -> tuple[list[str], Run] | None:
    """The tests that a bug breaks, the same ones twice; None unless it is a clear, small, repeatable failure."""
    changed = apply(tree(library.name), bug)
    if not all(map(compiles, changed.values())):
        return None
    files = {**tree(library.name), **changed}
    runs, known = [], {*base.passing, *base.others}
    for _ in range(2):
        run = try_out(library, files, base.seconds * 4 + 5)
        failing = [i for i in base.passing if run.outcomes.get(i) != ["passed"]]
        if not run.finished or run.errors or not 1 <= len(failing) <= min(MOST_BROKEN, max(2, len(base.passing) // 4)):
            return None
        if any(run.outcomes.get(i) != ["failed"] for i in failing) or set(run.outcomes) - known:
            return None
        runs.append((failing, run))
    return runs[0] if runs[0][0] == runs[1][0] else None


def function_of(test_id: str) -> str:
    """``path::name`` of the function behind a test id: without parameters, and without its class, since classes inherit tests."""
    path, _, name = test_id.partition("[")[0].partition("::")
    return f"{path}::{name.rpartition('::')[2]}"


def shown(failing: Sequence[str]) -> str | None:
    """The failing function that stays visible: the first, if there are others to be hidden."""
    names = list(dict.fromkeys(map(function_of, failing)))
    return names[0] if len(names) > 1 else None


def make(library: Library, base: Baseline, quota: int) -> list[Row]:
    """Validated tasks of one library: every operator in turn, then pairs of bugs that work alone, in different files where there are any."""
    draw = random.Random(library.label)
    sources = {p: d for p, d in tree(library.name).items() if library.is_source(p)}
    waiting: dict[str, list[Bug]] = defaultdict(list)
    for bug in candidates(sources):
        waiting[bug.operators[0]].append(bug)
    for each in waiting.values():
        draw.shuffle(each)
    singles: list[tuple[Bug, list[str], Run]] = []
    places: dict[str, int] = defaultdict(int)
    wanted = round(quota * (1 - COMBINED))
    tries = 0
    while len(singles) < wanted and any(waiting.values()) and tries < 12 * quota:
        for operator in list(waiting):
            single = _next(waiting[operator], places)
            if single is None or len(singles) >= wanted:
                continue
            tries += 1
            if (found := broken_by(library, base, single)) is not None:
                places[single.where] += 1
                singles.append((single, *found))
    made = [row_of(library, base, *found) for found in singles]
    pairs = [(a, b) for i, a in enumerate(singles) for b in singles[i + 1 :] if a[0].where != b[0].where]
    draw.shuffle(pairs)
    pairs.sort(key=lambda p: p[0][0].edits[0].path == p[1][0].edits[0].path)
    for (one, *_), (two, *_) in pairs[: 3 * quota]:
        if len(made) >= quota:
            break
        both = combined(one, two)
        if (found := broken_by(library, base, both)) is not None:
            made.append(row_of(library, base, both, *found))
    return [msgspec.structs.replace(row, id=f"{library.name}-{i:03d}") for i, row in enumerate(made)]


def _next(bugs: list[Bug], places: Mapping[str, int]) -> Bug | None:
    """The next bug in a function that has not got two already."""
    while bugs:
        if places.get((bug := bugs.pop()).where, 0) < 2:
            return bug
    return None


def row_of(library: Library, base: Baseline, bug: Bug, failing: list[str], run: Run) -> Row:
    """A task from a bug that was tried."""
    files = {**tree(library.name), **apply(tree(library.name), bug)}
    return Row("", library.name, library.split, bug, failing, describe(library, failing, run), tree_digest(files), base.seconds)


def describe(library: Library, failing: Sequence[str], run: Run) -> str:
    """An issue from what fails: the code that shows it, and what it says. Nothing of the bug itself."""
    first = failing[0]
    why = run.why.get(first, {})
    message = re.sub(r"0x[0-9a-f]{6,}", "0x…", str(why.get("message", "it fails"))).replace(f"{WORK}/", "")
    lines = [x.rstrip()[:200] for x in message.splitlines() if x.strip()][:8]
    kind = lines[0].partition(":")[0] if lines and re.match(r"[A-Z]\w+(Error|Exception|Warning)?(:|$)", lines[0]) else "AssertionError"
    snippet, called = excerpt(library, first, why.get("line"))
    subject = f" in {', '.join(f'`{c}`' for c in called[:2])}" if called else ""
    title = f"{library.name}: {'wrong result' if kind in ('AssertionError', 'assert') else kind}{subject}"
    parameters = first.partition("[")[2].rstrip("]")
    case = f"\nThis is with the case `{parameters[:120]}`.\n" if parameters else ""
    more = len(failing) - 1
    also = f"\nI see {more} other failure{'s' if more > 1 else ''} that may be related.\n" if more else ""
    return (
        f"The folder /work holds {library.name} {library.version}; its code is in {library.sources}. A user reports:\n\n"
        f"# {title}\n\nThis worked in the release before and fails now:\n\n```python\n{snippet}\n```\n{case}\nWhat I get:\n\n```\n"
        + "\n".join(lines)
        + f"\n```\n{also}\nFind the cause in the code and mend it; leave the tests as they are. Then submit."
    )


def excerpt(library: Library, test_id: str, line: int | None) -> tuple[str, list[str]]:
    """The body of a test up to the line that failed, at most 16 lines, and the names that this line calls."""
    path, _, name = function_of(test_id).partition("::")
    places = [(p, n) for p in (path, *(t for t in tree(library.name) if library.is_test(t) and t.endswith(".py"))) for n in _named(tree(library.name)[p], name)]
    if not places:
        return f"# {name}", []
    within = [(p, n) for p, n in places if p == path and line and n.lineno <= line <= (n.end_lineno or 0)]
    path, node = (within or places)[0]
    source, line = tree(library.name)[path].decode(), line if within else None
    text, body = source.splitlines(), node.body[1:] if ast.get_docstring(node) is not None and len(node.body) > 1 else node.body
    failing = next((s for s in _statements(body) if line and s.lineno <= line <= (s.end_lineno or s.lineno) and not hasattr(s, "body")), body[-1])
    end = failing.end_lineno or failing.lineno
    chosen = text[body[0].lineno - 1 : end]
    called = [ast.unparse(n.func) for n in ast.walk(failing) if isinstance(n, ast.Call)]
    names = [c for c in called if re.fullmatch(r"[\w.]+", c) and not c.startswith(("self.", "pytest.", "len", "list", "str", "isinstance"))]
    return textwrap.dedent("\n".join(chosen[-16:])), list(dict.fromkeys(names))


def _named(source: bytes, name: str) -> list[ast.FunctionDef]:
    return [n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.FunctionDef) and n.name == name]


def _statements(body: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
    for statement in body:
        yield from (s for s in ast.walk(statement) if isinstance(s, ast.stmt))


class Part(Struct, frozen=True):
    """What was made of one library."""

    base: Baseline
    rows: list[Row]


def part_of(name: str) -> tuple[str, Part]:
    """The tasks of one library; kept beside the fetched files, so that an interrupted remake goes on."""
    library = libraries()[name]
    kept = home() / f"part-{library.label}.json"
    if not kept.exists():
        base = baseline(library)
        part = Part(base, make(library, base, QUOTA[library.split]))
        kept.write_bytes(msgspec.json.encode(part))
    return name, msgspec.json.decode(kept.read_bytes(), type=Part)


def remake(say: Callable[[str, int, int], None], only: Sequence[str] = ()) -> int:
    """Make the manifest anew; how many tasks it has. With ``only``, the rows of other libraries stay."""
    chosen = [n for n in libraries() if not only or n in only]
    parts: dict[str, Part] = {}
    with ProcessPoolExecutor(max(1, (os.cpu_count() or 2)), mp_context=get_context("spawn")) as pool:
        for done in as_completed([pool.submit(part_of, n) for n in chosen]):
            name, part = done.result()
            parts[name] = part
            say(f"{name}: {len(part.rows)} tasks", len(parts), len(chosen))
    known = baselines() if only and BASELINES.exists() else {}
    kept = [r for r in rows().values() if r.library not in parts] if only and MANIFEST.exists() else []
    bases = {**known, **{n: p.base for n, p in parts.items()}}
    BASELINES.write_bytes(msgspec.json.format(msgspec.json.encode(bases, order="sorted"), indent=1) + b"\n")
    ordered = sorted([*kept, *(r for p in parts.values() for r in p.rows)], key=lambda r: r.id)
    MANIFEST.write_bytes(b"".join(msgspec.json.encode(r) + b"\n" for r in ordered))
    for name in parts:
        (home() / f"part-{libraries()[name].label}.json").unlink()
    return len(ordered)
