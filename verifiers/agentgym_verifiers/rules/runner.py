"""Runs inside the sandbox, in the process that imports the tested code: tells, test by test, what happened. It decides nothing.

``python -I -S -B runner.py CONFIG``: the configuration is read and removed before any test is imported. What is told is bound to the secret
of the run, which the tested code is not given, on a copy of standard output; the reader trusts only whole, numbered, signed lines.
"""

import hashlib
import json
import os
import sys


def teller(secret: bytes):  # type: ignore[no-untyped-def]  # this file runs under any Python, alone
    """A function that tells one JSON object; everything it needs is bound now, before tested code could replace it."""
    out, count = os.dup(1), [0]
    os.set_inheritable(out, False)
    write, sign, dumps = os.write, hashlib.blake2b, json.dumps

    def tell(**said: object) -> None:
        count[0] += 1
        text = dumps({"n": count[0], **said}).encode()
        line = b"\n@" + sign(text, key=secret, digest_size=16).hexdigest().encode() + b" " + text + b"\n"
        while line:
            line = line[write(out, line) :]

    return tell


class Recorder:
    """A pytest plugin: one line per test, with its outcome over all phases."""

    def __init__(self, tell) -> None:  # type: ignore[no-untyped-def]
        self.tell, self.count = tell, 0
        self.phases: dict[str, list[tuple[str, str]]] = {}
        self.why: dict[str, dict[str, object]] = {}

    def pytest_runtest_logreport(self, report) -> None:  # type: ignore[no-untyped-def]
        outcome = report.outcome if not hasattr(report, "wasxfail") else "x" + report.outcome
        self.phases.setdefault(report.nodeid, []).append((report.when, outcome))
        if report.failed:
            self.why[report.nodeid] = reason(report)

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        phases = self.phases.pop(nodeid, [])
        passed = [p for p in phases] == [("setup", "passed"), ("call", "passed"), ("teardown", "passed")]
        outcome = "passed" if passed else next((o for _, o in phases if o != "passed"), "odd")
        self.count += 1
        self.tell(id=nodeid, outcome=outcome, **self.why.pop(nodeid, {}))

    def pytest_collectreport(self, report) -> None:  # type: ignore[no-untyped-def]
        if report.failed:
            self.tell(error=report.nodeid, **reason(report))


def reason(report) -> dict[str, object]:  # type: ignore[no-untyped-def]
    """Why something failed: the message, and the line of the test at which it did."""
    crash = getattr(report.longrepr, "reprcrash", None)
    said: dict[str, object] = {"message": str(crash.message if crash else report.longrepr)[-600 if crash is None else 0 :][:600]}
    entries = getattr(getattr(report.longrepr, "reprtraceback", None), "reprentries", None)
    where = getattr(entries[0], "reprfileloc", None) if entries else None
    return {**said, "line": where.lineno} if where is not None else said


def main(path: str) -> None:
    with open(path) as file:  # noqa: PTH123  # few imports
        config = json.load(file)
    os.unlink(path)  # noqa: PTH108
    tell = teller(bytes.fromhex(config.pop("secret")))
    sys.path.insert(0, config["path"][-1])  # pytest's own folder alone, so that a tree that holds a pytest.py is not handed the teller
    import pytest

    sys.path[:1] = config["path"]

    recorder = Recorder(tell)
    flags = ["-q", "--no-header", "--no-summary", "--tb=short", "--continue-on-collection-errors", "-p", "no:cacheprovider", "-c", os.devnull]
    flags += [f"--rootdir={config['root']}", f"--confcutdir={config['root']}"]
    code = int(pytest.main([*flags, *config["files"]], plugins=[recorder]))
    tell(end=recorder.count, code=code)
    os._exit(code)


main(sys.argv[1])
