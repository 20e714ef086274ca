"""The sample rows of ``swe/bench``: git bundles with a real history, made from validated bugs. The same bytes on every machine."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import msgspec

from agentgym_swe.history import git
from agentgym_swe.libraries import home, tree
from agentgym_swe.mend import broken_tree, without
from agentgym_swe.workshop import baselines, function_of, rows

SAMPLE = ("addict-000", "addict-001", "parse-000", "parse-001", "semver-000", "semver-001", "xmltodict-000", "xmltodict-001")


def make_sample() -> Path:
    """Write rows and bundles: each history holds the broken tree, and after it the mended one with its tests."""
    target, fresh = home() / "sample", home() / "sample.new"
    if target.is_dir():
        return target
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir()
    lines = []
    for name in SAMPLE:
        row, base = rows()[name], baselines()[rows()[name].library]
        hidden = set(map(function_of, row.fail_to_pass))
        before = dict(broken_tree(name))
        for path in {h.partition("::")[0] for h in hidden}:
            left = without(before[path], {h.partition("::")[2] for h in hidden if h.partition("::")[0] == path})
            before.pop(path) if left is None else before.update({path: left})
        after, failing = tree(row.library), set(row.fail_to_pass)
        with tempfile.TemporaryDirectory() as folder:
            commits = _history(Path(folder), [before, dict(after)])
            gold = sorted({e.path for e in row.bug.edits})
            tests = [p for p in after if before.get(p) != after[p] and p not in gold]
            lines.append({
                "instance_id": name, "repo": f"sample/{name}", "base_commit": commits[0], "patch": _diff(folder, commits, gold),
                "test_patch": _diff(folder, commits, tests), "FAIL_TO_PASS": msgspec.json.encode(row.fail_to_pass).decode(),
                "PASS_TO_PASS": msgspec.json.encode([i for i in base.passing if i not in failing and function_of(i) not in hidden]).decode(),
                "problem_statement": row.instruction, "version": "1",
            })  # fmt: skip
            git("bundle", "create", "-q", str(fresh / f"sample__{name}.bundle"), "main", cwd=Path(folder))
    (fresh / "rows.jsonl").write_bytes(b"".join(msgspec.json.encode(x) + b"\n" for x in lines))
    fresh.rename(target)
    return target


def _diff(folder: str, commits: list[str], paths: list[str]) -> str:
    return git("diff", "--no-color", *commits, "--", *paths, cwd=Path(folder)).decode()


def _history(folder: Path, trees: list[dict[str, bytes]]) -> list[str]:
    git("init", "-q", cwd=folder)
    commits = []
    for number, files in enumerate(trees):
        for path in [p for p in folder.rglob("*") if p.is_file() and ".git" not in p.relative_to(folder).parts]:
            path.unlink()
        for name, data in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
        git("add", "-A", "-f", cwd=folder)
        git("commit", "-q", "-m", f"version {number + 1}", cwd=folder)
        commits.append(git("rev-parse", "HEAD", cwd=folder).decode().strip())
    return commits
