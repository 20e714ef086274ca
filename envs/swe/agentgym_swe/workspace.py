"""What an agent works in: a sandbox with a tree under ``/work``, and the tools that reach it."""

from __future__ import annotations

import posixpath
import shlex
from collections.abc import Mapping, Sequence
from typing import Annotated

from agentgym_verifiers.rules import unit_tests
from agentgym_verifiers.rules.unit_tests import GRADE, Run
from msgspec import Meta

from agentgym.errors import ToolError
from agentgym.messages import Tool, tool
from agentgym.sandbox import IGNORED, WORK, Entry, Sandbox, look, shorten, told
from agentgym_swe.mutate import compiles

REMEMBERED = ("seen", "passed", "submitted", "ran", "best")


class Workspace:
    """One episode's sandbox. ``given`` is the tree as it was handed over; ``seen`` the files looked at, ``tests`` the last run of them."""

    def __init__(self, sandbox: Sandbox, given: Mapping[str, bytes], tests: Sequence[str], python: Sequence[str], path: Sequence[str], seconds: float) -> None:
        self.sandbox, self.given = sandbox, given
        self._tests, self._python, self._path, self._seconds = tests, python, path, seconds
        self.seen: list[str] = []
        self.passed: float | None = None
        self.submitted = False
        self.entries: Mapping[str, Entry] = {}
        self.digest = ""

    def fill(self) -> None:
        """Write the tree into a new sandbox."""
        self.sandbox.write({f"{WORK}/{p}": d for p, d in self.given.items()})

    def look(self) -> None:
        """Take in what is there now: the entries of the tree, and a digest of all files that the agent may write."""
        self.entries, self.digest = look(self.sandbox)

    def facts(self) -> dict[str, object]:
        """What verifiers may know of the state."""
        seen = [p for p in self.seen if p in self.given]
        return {"seen": seen, "changed": self.changed()[:200], "broken": self.broken()[:20], "passed": self.passed}

    def memory(self) -> dict[str, object]:
        """What a snapshot must hold beside the files."""
        return {k: v for k, v in vars(self).items() if k in REMEMBERED}

    def changed(self) -> list[str]:
        """Files of the tree that differ from what was given."""
        now = {p: e.data for p, e in self.entries.items() if e.type == "f" and not any(part in IGNORED for part in p.split("/"))}
        return sorted(p for p in now.keys() | self.given.keys() if now.get(p) != self.given.get(p))

    def broken(self) -> list[str]:
        """Changed Python files that do not compile."""
        return [p for p in self.changed() if p.endswith(".py") and p in self.entries and not compiles(self.entries[p].data)]

    def run_tests(self, where: str = "") -> Run:
        """Run the visible tests, or those below a path of the tree."""
        files = [t for t in self._tests if not where or t == where or t.startswith(f"{where.rstrip('/')}/") or where.partition("::")[0] == t]
        if "::" in where and files:
            files = [where]
        if not files:
            raise ToolError(f"there are no tests in {where or WORK}; test files: {', '.join(self._tests[:12])}")
        run = unit_tests.run_tests(self.sandbox, files, python=self._python, path=self._path, seconds=self._seconds)
        self.sandbox.exec(["rm", "-rf", GRADE])
        if not where:
            told = [o for each in run.outcomes.values() for o in each]
            self.passed = sum(o == "passed" for o in told) / len(told) if told and run.finished else 0.0
        return run


def _path(given: str) -> str:
    if "\0" in given or len(given) > 1000:
        raise ToolError("that is no path")
    return posixpath.normpath(posixpath.join(WORK, given))


def _relative(path: str) -> str:
    return path.removeprefix(f"{WORK}/")


@tool
def bash(workspace: Workspace, command: Annotated[str, Meta(max_length=20_000)], timeout: Annotated[int, Meta(ge=1, le=120)] = 30) -> str:
    """Run a shell command in /work. Each command has a session of its own; there is no network; standard input is empty."""
    workspace.seen += [p for p in workspace.given if p in command and p.rpartition("/")[2] in command and p not in workspace.seen]
    return told(workspace.sandbox.exec(command, timeout=float(timeout)), timeout)


@tool
def view(workspace: Workspace, path: str, start: Annotated[int, Meta(ge=1)] = 1, lines: Annotated[int, Meta(ge=1, le=400)] = 150) -> str:
    """Show lines of a file with their numbers, or the names in a folder."""
    where = _path(path)
    try:
        text = workspace.sandbox.read(where, 4 << 20).decode("utf-8", "replace")
    except FileNotFoundError:
        listing = workspace.sandbox.exec(["ls", "-A", "-p", where])
        if listing.code:
            raise ToolError(f"there is no file or folder {path}") from None
        return shorten(listing.output.rstrip("\n")) or "[an empty folder]"
    if _relative(where) not in workspace.seen:
        workspace.seen.append(_relative(where))
    all_lines = text.split("\n")
    chosen = all_lines[start - 1 : start - 1 + lines]
    if not chosen:
        raise ToolError(f"{path} has {len(all_lines)} lines")
    body = "\n".join(f"{start + i:>5}  {line}" for i, line in enumerate(chosen))
    return shorten(body, 32_000) + (f"\n[{len(all_lines)} lines in all]" if len(chosen) < len(all_lines) else "")


@tool
def search(workspace: Workspace, pattern: Annotated[str, Meta(min_length=1, max_length=400)], path: str = ".") -> str:
    """Search the files below a path for an extended regular expression; at most 60 lines are shown."""
    command = f"grep -rnIE --exclude-dir=.git -e {shlex.quote(pattern)} -- {shlex.quote(_path(path))} | cut -c1-240"
    done = workspace.sandbox.exec(command)
    lines = [_relative(line) for line in done.output.splitlines()]
    if not lines:
        return "[nothing found]"
    return "\n".join(lines[:60]) + (f"\n[{len(lines) - 60} more]" if len(lines) > 60 else "")


@tool
def edit_file(workspace: Workspace, path: str, old: str, new: str) -> str:
    """Replace the one place where exactly ``old`` stands in a file by ``new``. With an empty ``old``, write a new file."""
    where = _path(path)
    try:
        text = workspace.sandbox.read(where, 4 << 20).decode("utf-8")
    except UnicodeDecodeError:
        raise ToolError(f"{path} is no text file") from None
    except FileNotFoundError as problem:
        if old:
            raise ToolError(f"there is no file {path}") from None
        if "not a regular file" in str(problem):
            raise ToolError(f"{path} is no regular file") from None
        text = ""
    else:
        if not old:
            raise ToolError(f"{path} is there already; give the text to replace as old")
        if (count := text.count(old)) != 1:
            raise ToolError(f"old stands {count} times in {path}; it must stand there exactly once")
    try:
        workspace.sandbox.write({where: (text.replace(old, new) if old else new).encode("utf-8", "surrogatepass")})
    except PermissionError as problem:
        raise ToolError(f"cannot write {path}: {str(problem).rpartition(': ')[2]}") from None
    return f"{path} was written"


@tool
def run_tests(workspace: Workspace, path: str = "") -> str:
    """Run the tests that are here, or those of one file or test id."""
    run = workspace.run_tests(_relative(_path(path)) if path else "")
    outcomes = [(i, o) for i, each in run.outcomes.items() for o in each]
    failed = [i for i, o in outcomes if o not in ("passed", "skipped", "xskipped", "xpassed")]
    lines = [f"{sum(o == 'passed' for _, o in outcomes)} passed, {len(failed)} failed, {len(outcomes)} in all"]
    for name in failed[:10]:
        said = str(run.why.get(name, {}).get("message", "")).splitlines()[:4]
        lines += [f"FAILED {name}", *(f"    {x[:200]}" for x in said)]
    lines += [f"ERROR {name}: {why[-400:]}" for name, why in list(run.errors.items())[:3]]
    if not run.finished:
        lines.append(f"[the run did not reach its end{': out of ' + run.limit if run.limit else ''}] {run.said[-600:]}")
    return "\n".join(lines)


@tool
def submit(workspace: Workspace) -> str:
    """Hand in the tree as it is. This ends the episode."""
    workspace.submitted = True
    return "submitted"


TOOLS: Mapping[str, Tool] = {t.spec.name: t for t in (bash, view, search, edit_file, run_tests, submit)}
