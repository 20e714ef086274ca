"""Repositories at a commit: trees out of a mirror or a bundle, patches applied, and history that is cut where an agent works."""

from __future__ import annotations

import io
import re
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from agentgym.errors import MissingExtra, SandboxFault
from agentgym.sandbox import Sandbox

IDENTITY = {"GIT_AUTHOR_DATE": "2020-01-01T00:00:00Z", "GIT_COMMITTER_DATE": "2020-01-01T00:00:00Z"}
SETTINGS = ("user.name=agentgym", "user.email=agentgym@localhost", "init.defaultBranch=main", "gc.auto=0", "commit.gpgsign=false")
GIT = ["git", *(word for setting in SETTINGS for word in ("-c", setting))]


def paths_of(patch: str) -> list[str]:
    """The paths that a git patch touches."""
    found = re.findall(r"^(?:---|\+\+\+) (?:[ab]/)?([^\t\n]+)", patch, re.MULTILINE)
    return list(dict.fromkeys(p for p in found if p != "/dev/null"))


def git(*arguments: str, cwd: Path | None = None, data: bytes | None = None) -> bytes:
    done = subprocess.run(
        [*GIT, *arguments], cwd=cwd, input=data, capture_output=True, env={"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/nonexistent", **IDENTITY}
    )
    if done.returncode:
        raise SandboxFault(f"git {arguments[0]}: {done.stderr.decode('utf-8', 'replace').strip()[-300:]}")
    return done.stdout


def mirror_of(folder: str, repo: str) -> Path:
    """The bundle, bare mirror or clone of a repository in a folder.

    Raises:
        MissingExtra: there is none; the line that makes one.
    """
    name = repo.replace("/", "__")
    for candidate in (f"{name}.bundle", f"{name}.git", name):
        if (found := Path(folder, candidate)).exists():
            return found
    raise MissingExtra(f"a mirror of {repo} in {folder}", f"git clone --mirror REPOSITORY {folder}/{name}.git")


@lru_cache(64)
def tree_at(folder: str, repo: str, commit: str) -> Mapping[str, bytes]:
    """The files of a repository at a commit, by path; no links, no history."""
    source = mirror_of(folder, repo)
    with tempfile.TemporaryDirectory() as scratch:
        if source.suffix == ".bundle":
            git("clone", "-q", "--bare", str(source.resolve()), f"{scratch}/bare")
            source = Path(scratch, "bare")
        archive = git("archive", "--format=tar", commit, cwd=source)
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return {m.name: tar.extractfile(m).read() for m in tar if m.isreg()}  # type: ignore[union-attr]  # regular members have a file


@lru_cache(64)
def patched(patch: str, paths: tuple[tuple[str, bytes], ...]) -> Mapping[str, bytes | None]:
    """What a git patch makes of some files; None for those it removes.

    Raises:
        SandboxFault: it does not apply.
    """
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for path, data in paths:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(data)
        if patch.strip():
            git("init", "-q", cwd=root)
            git("apply", "--whitespace=nowarn", "-", cwd=root, data=patch.encode() + (b"" if patch.endswith("\n") else b"\n"))
        return {p: (root / p).read_bytes() if (root / p).is_file() else None for p in paths_of(patch)}


def cut_history(sandbox: Sandbox) -> None:
    """Make the tree a repository of one commit, and prove that it holds no other.

    Raises:
        SandboxFault: something else can be reached in it.
    """
    commands = [
        "rm -rf .git",
        "git init -q -b main . && git config user.name agent && git config user.email agent@localhost && git config gc.auto 0",
        "git add -A && git commit -q --allow-empty -m start && rm -rf .git/logs .git/hooks .git/COMMIT_EDITMSG .git/ORIG_HEAD",
    ]
    for command in commands:
        done = sandbox.exec(command, env=IDENTITY, timeout=120)
        if done.code:
            raise SandboxFault(f"cutting the history: {done.output[-300:]}")
    proof = sandbox.exec(
        "git rev-list --all --count; git for-each-ref | wc -l; git stash list | wc -l; git reflog --all 2>/dev/null | wc -l; git remote | wc -l; "
        "git tag | wc -l; "
        "git fsck --lost-found --no-progress 2>&1 | wc -l; git cat-file --batch-all-objects --batch-check='%(objecttype)' | grep -c commit",
        timeout=120,
    )
    if proof.output.split() != ["1", "1", "0", "0", "0", "0", "0", "1"]:
        raise SandboxFault(f"the history could not be cut: {proof.output!r}")
