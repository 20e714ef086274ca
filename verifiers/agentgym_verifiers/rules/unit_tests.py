"""The hidden tests of a task, run in a fresh sandbox on the declared patch alone.

What decides is on this side: which ids must pass, the exit status, the token after the last test, and canaries: tests made anew for every
run, some of which must fail. What the tested code can still do in principle is said in ``docs/security.md``.
"""

from __future__ import annotations

import ast
import hashlib
import hmac
import json
import os
import random
import re
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from agentgym.core import EpisodeView, Task
from agentgym.errors import MissingExtra, SandboxFault
from agentgym.sandbox import WORK, Entry, Image, Resources, Sandbox, choose, start
from agentgym.verdict import Verdict
from agentgym_verifiers.rules.patch import PATCH, Changed, read_patch
from agentgym_verifiers.rules.pick import Rule

T = TypeVar("T")

RUNNER = Path(__file__).with_name("runner.py")
GRADE = "/tmp/.grade"
PLANTED = re.compile(
    r"(^|/)(conftest\.py|sitecustomize\.py|usercustomize\.py|pytest\.ini|tox\.ini|setup\.cfg|pyproject\.toml|[^/]*\.pth|[^/]*\.pyc|[^/]*\.so)$"
)
MOST_EVIDENCE = 10


class Bench(Struct, frozen=True, kw_only=True):
    """What a task's tests need. Paths are relative to ``/work``.

    ``tree`` is what the agent started from; ``tests`` are the test files as graded. ``sources`` are the prefixes that a patch may change; a
    path in ``hidden`` that a patch holds is tampering. ``others`` are ids that are collected too and may do as they like; unless ``exact``, so
    is any id that is not named at all.
    """

    image: Image
    tree: Mapping[str, bytes]
    tests: Mapping[str, bytes]
    fail_to_pass: Sequence[str]
    pass_to_pass: Sequence[str]
    others: Sequence[str] = ()
    sources: Sequence[str] = ("",)
    hidden: frozenset[str] = frozenset()
    python: Sequence[str] = ("/usr/bin/python3",)
    path: Sequence[str] = (WORK,)
    seconds: float = 60.0
    resources: Resources = Resources()
    exact: bool = True

    def may_change(self, path: str) -> bool:
        """Whether a patch may change that path."""
        return path not in self.tests and not PLANTED.search(path) and any(path.startswith(s) for s in self.sources)


class Run(Struct, frozen=True):
    """What a run of tests told. ``finished``: the token after the last test came, and agrees with the exit status."""

    outcomes: dict[str, list[str]]
    errors: dict[str, str]
    why: dict[str, dict[str, Any]]
    finished: bool
    code: int
    said: str
    seconds: float
    limit: str = ""


def run_tests(sandbox: Sandbox, files: Sequence[str], *, python: Sequence[str], path: Sequence[str], seconds: float, secret: bytes | None = None) -> Run:
    """Run test files (or ids) below ``/work`` in a sandbox by the runner, and read what it tells.

    Raises:
        SandboxFault: the sandbox, not the tests, failed.
    """
    secret = secret or os.urandom(16)
    config = json.dumps({"secret": secret.hex(), "path": list(path), "root": WORK, "files": [f"{WORK}/{f}" for f in files]})
    sandbox.write({f"{GRADE}/runner.py": RUNNER.read_bytes(), f"{GRADE}/config.json": config.encode(), f"{GRADE}/tmp/.keep": b""})
    env = {"TMPDIR": f"{GRADE}/tmp", "PYTHONHASHSEED": "0", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [*python, "-I", "-S", "-B", f"{GRADE}/runner.py", f"{GRADE}/config.json"]
    done = sandbox.exec(command, env=env, timeout=seconds, head=1 << 23, tail=1 << 22, separate=True)
    told = list(_signed(done.output, secret))
    outcomes: dict[str, list[str]] = {}
    for line in told:
        if "id" in line:
            outcomes.setdefault(line["id"], []).append(line["outcome"])
    why: dict[str, dict[str, Any]] = {line["id"]: {k: line[k] for k in ("message", "line") if k in line} for line in told if "id" in line and "message" in line}
    last = told[-1] if told else {}
    whole = [line["n"] for line in told] == list(range(1, len(told) + 1))
    finished = whole and last.get("end") == sum(map(len, outcomes.values())) and last.get("code") == done.code
    limit = "time" if done.timed_out else "memory" if done.oom else "disk" if done.disk_full else ""
    errors = {line["error"]: str(line.get("message", "")) for line in told if "error" in line}
    return Run(outcomes, errors, why, finished, done.code, (done.error or _unsigned(done.output))[-2000:], done.duration_s, limit)


def _signed(output: str, secret: bytes) -> list[dict[str, Any]]:
    """The lines of the runner; anything else that was written there is not seen."""
    found = []
    for line in output.split("\n"):
        if line[:1] == "@" and line[33:34] == " ":
            text = line[34:].encode()
            if hmac.compare_digest(hashlib.blake2b(text, key=secret, digest_size=16).hexdigest(), line[1:33]):
                found.append(json.loads(text))
    return found


def _unsigned(output: str) -> str:
    return "\n".join(line for line in output.split("\n") if line[:1] != "@").strip()


class UnitTests(Rule, frozen=True, kw_only=True):
    """1 if every hidden test passes on the declared patch, each exactly once, and nothing else happened; else 0.

    ``bench`` is ``module:function``, a function from a ``Task`` to its ``Bench``. ``tampered``: a hidden path was there before, or a canary
    did what it must not. The outcome class (``broken`` where a test file could not even be collected, ``fails``, ``passes``) and the size of the patch
    are in the evidence; nothing timed is, so that it repeats.
    """

    bench: str
    limit_s: float = 4 * 3600.0  # a backstop: each run has a limit of its own, and waiting for a turn must not count

    def __call__(self, view: EpisodeView) -> Verdict:
        if PATCH not in view.artefacts:
            return Verdict.invalid(f"the episode has no {PATCH}", "env")
        try:
            return grade_patch(bench_of(self.bench, view.task), read_patch(view.artefacts[PATCH]), played_in(view))
        except (SandboxFault, MissingExtra) as fault:
            return Verdict.invalid(str(fault), "infra")


def bench_of(where: str, task: Task) -> Bench:
    """The bench of a task, from ``module:function``."""
    module, _, name = where.partition(":")
    made: Bench = getattr(import_module(module), name)(task)
    return made


def played_in(view: EpisodeView) -> str | None:
    """The kind of sandbox that the episode was played in, where it can be had here."""
    wanted = view.episode.options.get("sandbox")
    if isinstance(wanted, str):
        try:
            return choose(Resources(), (wanted,))
        except MissingExtra:
            return None
    return None


def grade_patch(bench: Bench, patch: Mapping[str, Changed], kind: str | None = None) -> Verdict:
    """The verdict of a patch, in a fresh sandbox.

    Raises:
        SandboxFault, MissingExtra: the tests could not be run.
    """
    if planted := sorted(p for p in patch if _touches(p, bench.hidden)):
        return Verdict.tampered(f"the place of a hidden test was taken: {planted[0]}", paths=list(planted[:MOST_EVIDENCE]))
    taken = {p: c for p, c in patch.items() if c.kind in ("file", "binary", "deleted") and bench.may_change(p)}
    secret = os.urandom(16)
    canaries = Canaries(bench, random.Random(secret))
    files = {p: d for p, d in bench.tree.items() if p not in taken}
    files.update({p: c.bytes for p, c in taken.items() if c.kind != "deleted"})
    files.update(bench.tests)
    files.update(canaries.files)
    asked = sorted({i.partition("::")[0] for i in (*bench.fail_to_pass, *bench.pass_to_pass, *bench.others)})
    asked.insert(random.Random(secret).randrange(len(asked) + 1), canaries.plain)
    asked += [f for f in canaries.files if f != canaries.plain]
    entries = {f"{WORK}/{p}": Entry("f", taken[p].mode & 0o755 if p in taken else 0o644, data=d) for p, d in files.items()}

    def run_in_a_fresh_one(seconds: float) -> Run:
        with start(bench.image, bench.resources, kind) as sandbox:
            sandbox.write(entries)
            return run_tests(sandbox, asked, python=bench.python, path=bench.path, seconds=seconds, secret=secret)

    run = in_turn(run_in_a_fresh_one, bench.seconds, lambda run: run.limit == "time")
    verdict = judge_run(bench, canaries, run)
    evidence = {**verdict.evidence, "changed": len(taken), "patch_bytes": sum(len(c.data) for c in taken.values())}
    if left := sorted(patch.keys() - taken.keys()):
        evidence["left_out"] = left[:MOST_EVIDENCE]
    return msgspec.structs.replace(verdict, evidence=evidence)


def in_turn(run: Callable[[float], T], seconds: float, late: Callable[[T], bool]) -> T:
    """What ``run`` gives within ``seconds``. As many run at once as there are processors: more would only take each other's time.

    A time-out on a machine that has more to do than processors counts only if it happens again, with twice the time and no other second try beside.
    """
    with _turns:
        found = run(seconds)
    if late(found) and busy():
        with _second_try, _turns:
            found = run(2 * seconds)
    return found


def busy() -> bool:
    """Whether more wants to run on this machine than it has processors."""
    return os.getloadavg()[0] > (os.cpu_count() or 1)


def _touches(path: str, hidden: frozenset[str]) -> bool:
    """Whether a path is a hidden one, below one, or a file where a folder of one must be."""
    return any(path == h or path.startswith(f"{h}/") for h in hidden)


def judge_run(bench: Bench, canaries: Canaries, run: Run) -> Verdict:
    """What a run of the tests means."""
    for name in (*canaries.must_pass, *canaries.must_fail):
        told = run.outcomes.get(name, [])
        if name in canaries.must_fail and "passed" in told:
            return Verdict.tampered("a test passed that cannot pass", canaries=len(canaries.must_fail))
        if name in canaries.must_pass and (len(told) > 1 or (told and told[0] != "passed") or (run.finished and not told)):
            return Verdict.tampered("a test did not pass that cannot fail", told=told[:3])
    wanted = [*bench.fail_to_pass, *bench.pass_to_pass]
    known = {*wanted, *bench.others}
    wrong = [i for i in wanted if run.outcomes.get(i) != ["passed"]]
    extra = [i for i in run.outcomes if i not in known and i.partition("::")[0] not in canaries.files] if bench.exact else []
    kinds = Counter("missing" if i not in run.outcomes else run.outcomes[i][0] if len(run.outcomes[i]) == 1 else "repeated" for i in wrong)
    passed = not wrong and not extra and run.finished and run.code == int(bool(canaries.must_fail))
    outcome = "passes" if passed else "broken" if run.errors or not run.outcomes else "fails"
    return Verdict.scored(
        float(passed), outcome=outcome, wrong=wrong[:MOST_EVIDENCE], wrong_kinds=dict(kinds), extra=extra[:MOST_EVIDENCE], finished=run.finished,
        fail_to_pass=sum(run.outcomes.get(i) == ["passed"] for i in bench.fail_to_pass), of=len(bench.fail_to_pass), limit=run.limit,
    )  # fmt: skip


_one_at_a_time, _second_try, _turns = threading.Lock(), threading.Lock(), threading.BoundedSemaphore(os.cpu_count() or 1)


def parse(source: bytes) -> ast.Module:
    """``ast.parse``, one at a time: in Python 3.11 two threads cannot make trees at once."""
    with _one_at_a_time:
        return ast.parse(source)


WORDS = ("empty", "order", "nested", "unicode", "default", "repeat", "types", "limits", "merge", "strict", "round", "basic", "keys", "error")


class Canaries:
    """Tests made for one run: some cannot fail, some cannot pass. They lie beside the real ones, under names like theirs.

    Those that cannot pass are real tests whose expected value was changed to one that the run's secret makes, so that an object that is
    equal to everything is found out too; and plain ones, for trees whose tests do not lend themselves. The plain ones stand anywhere among
    the real ones, the others behind them: real tests may leave something behind that others meet, so their own order stays as it was.
    """

    plain: str

    def __init__(self, bench: Bench, draw: random.Random) -> None:
        self.files: dict[str, bytes] = {}
        self.must_pass: list[str] = []
        self.must_fail: list[str] = []
        homes = sorted({i.partition("::")[0] for i in (*bench.fail_to_pass, *bench.pass_to_pass)})
        self._plain(PurePosixPath(draw.choice(homes)), draw)
        able = [h for h in homes if changeable(bench.tests.get(h, b""))]
        for home in draw.sample(able, min(3, len(able))):
            self._changed(PurePosixPath(home), bench.tests[home], draw)

    def _plain(self, beside: PurePosixPath, draw: random.Random) -> None:
        path = self._name(beside, draw)
        words = draw.sample(WORDS, 4)
        lines = []
        for i, word in enumerate(words):
            a, b = draw.randrange(100, 10_000), draw.randrange(100, 10_000)
            right = i % 2 == 0
            lines.append(f"def test_{word}():\n    values = [{a}, {b}]\n    assert sum(values) == {a + b + (0 if right else draw.randrange(1, 99))}\n")
            (self.must_pass if right else self.must_fail).append(f"{path}::test_{word}")
        self.plain, self.files[path] = path, "\n\n".join(lines).encode()

    def _changed(self, beside: PurePosixPath, source: bytes, draw: random.Random) -> None:
        """A copy of a test file with some of its tests, each with another expected value."""
        path, found = self._name(beside, draw), changeable(source)
        chosen = draw.sample(found, min(3, len(found)))
        tree = parse(source)
        for body, prefix in _bodies(tree):
            body[:] = [n for n in body if not (isinstance(n, ast.FunctionDef) and n.name.startswith("test") and f"{prefix}{n.name}" not in chosen)] or [
                ast.Pass()
            ]
            for node in body:
                if isinstance(node, ast.FunctionDef) and f"{prefix}{node.name}" in chosen:
                    _change(node, draw)
        self.must_fail += [f"{path}::{name}" for name in chosen]
        self.files[path] = ast.unparse(ast.fix_missing_locations(tree)).encode()

    def _name(self, beside: PurePosixPath, draw: random.Random) -> str:
        return str(beside.with_name(f"test_{draw.choice(WORDS)}_{draw.getrandbits(32):08x}.py"))


@cache
def changeable(source: bytes) -> list[str]:
    """Plain tests of a module that compare something with a literal: ``name`` or ``Class::name``."""
    try:
        tree = parse(source)
    except SyntaxError:
        return []
    return [
        f"{prefix}{node.name}"
        for body, prefix in _bodies(tree)
        for node in body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test") and not node.decorator_list
        if [a.arg for a in node.args.args] == ["self"] * bool(prefix) and any(_expected(s) is not None for s in node.body)
    ]  # fmt: skip


def _bodies(tree: ast.Module) -> list[tuple[list[ast.stmt], str]]:
    """The bodies in which tests stand: the module's, and those of its classes, with the prefix of their ids."""
    return [(tree.body, ""), *((n.body, f"{n.name}::") for n in tree.body if isinstance(n, ast.ClassDef))]


def _expected(statement: ast.stmt) -> ast.Constant | None:
    """The literal that a statement demands something to equal, by ``assert`` or ``assertEqual``."""
    if isinstance(statement, ast.Assert) and isinstance(statement.test, ast.Compare) and [type(o) for o in statement.test.ops] == [ast.Eq]:
        left, right = statement.test.left, statement.test.comparators[0]
    elif (
        isinstance(statement, ast.Expr)
        and isinstance(call := statement.value, ast.Call)
        and ast.unparse(call.func) == "self.assertEqual"
        and len(call.args) > 1
    ):
        left, right = call.args[0], call.args[1]
    else:
        return None
    computed, literal = (left, right) if isinstance(right, ast.Constant) else (right, left)
    plain = isinstance(literal, ast.Constant) and isinstance(literal.value, (str, int, float))
    return literal if plain and isinstance(computed, (ast.Call, ast.Attribute, ast.Subscript)) else None  # type: ignore[return-value]  # plain says so


def _change(function: ast.FunctionDef, draw: random.Random) -> None:
    """Give the first literal that is demanded another value."""
    value = next(v for s in function.body if (v := _expected(s)) is not None)
    value.value = f"{draw.getrandbits(32):08x}{value.value}" if isinstance(value.value, str) else draw.randrange(10**6, 10**9) + 0.5
