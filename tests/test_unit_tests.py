"""The hidden tests decide, and nothing that the tested code does decides for them. The numbers are the rows of the list of faults."""

from __future__ import annotations

import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest
from agentgym_swe.libraries import SITE, image
from agentgym_verifiers.rules import load, unit_tests
from agentgym_verifiers.rules.patch import Changed, patch_of, read_patch
from agentgym_verifiers.rules.unit_tests import Bench, UnitTests, changeable, grade_patch
from sandboxes import kinds, need

from agentgym.sandbox import Entry, Resources

WRONG = "def double(x):\n    return x + 2\n\n\ndef name(x):\n    return f'n{x}'\n"
RIGHT = "def double(x):\n    return 2 * x\n\n\ndef name(x):\n    return f'n{x}'\n"
VISIBLE = "import lib\n\n\ndef test_name():\n    assert lib.name(1) == 'n1'\n"
HIDDEN = VISIBLE + "\n\ndef test_double():\n    assert lib.double(5) == 10\n\n\ndef test_zero():\n    assert lib.double(0) == 0\n"
OTHER = "import unittest\n\nimport lib\n\n\nclass NameTests(unittest.TestCase):\n    def test_two(self):\n        self.assertEqual(lib.name(2), 'n2')\n"


def bench(**more):
    return Bench(
        image=image(), tree={"lib.py": WRONG.encode(), "tests/test_lib.py": VISIBLE.encode(), "tests/test_other.py": OTHER.encode()},
        tests={"tests/test_lib.py": HIDDEN.encode(), "tests/test_other.py": OTHER.encode(), "tests/test_late.py": b"def test_late(): pass\n"},
        fail_to_pass=["tests/test_lib.py::test_double", "tests/test_lib.py::test_zero"],
        pass_to_pass=["tests/test_lib.py::test_name", "tests/test_other.py::NameTests::test_two", "tests/test_late.py::test_late"],
        sources=("lib.py", "pkg/"), hidden=frozenset({"tests/test_late.py"}), path=("/work", SITE), resources=Resources(seconds=20.0), **more,
    )  # fmt: skip


def grade(kind, **files):
    patch = {p.replace("__", "/"): Changed("file", text) if isinstance(text, str) else text for p, text in files.items()}
    return grade_patch(bench(), {k.replace("_py", ".py"): v for k, v in patch.items()}, kind)


both = pytest.mark.parametrize("kind", kinds())


@both
def test_right_code_passes_and_wrong_code_does_not(kind):
    need(kind)
    good = grade(kind, lib_py=RIGHT)
    assert good.value == 1.0 and good.evidence["outcome"] == "passes"
    none = grade_patch(bench(), {}, kind)
    assert none.value == 0.0 and none.evidence["outcome"] == "fails" and none.evidence["fail_to_pass"] == 0
    assert grade(kind, lib_py="def broken(:\n").evidence["outcome"] == "broken"
    assert grade(kind, lib_py=Changed("deleted")).value == 0.0


HOOK = "def pytest_runtest_makereport(item, call):\n    call.excinfo = None\n"
PLANTED = {
    "conftest.py": HOOK, "tests/conftest.py": HOOK, "pkg/conftest.py": HOOK, "pytest.ini": "[pytest]\naddopts = --deselect tests/test_lib.py::test_double\n",
    "setup.cfg": "[tool:pytest]\naddopts = -k nothing\n", "sitecustomize.py": "import os; os._exit(0)\n", "usercustomize.py": "import os; os._exit(0)\n",
    "x.pth": "import os; os._exit(0)\n", "pyproject.toml": "[tool.pytest.ini_options]\naddopts = '--co'\n", "pytest.py": "raise SystemExit(0)\n",
    "tests/__init__.py": "", "json.py": "raise SystemExit(0)\n", "tests/test_lib.py": "def test_double(): pass\ndef test_zero(): pass\ndef test_name(): pass\n",
}  # fmt: skip


@both
def test_1_2_planted_files_change_nothing_for_wrong_code_nor_for_right(kind):
    need(kind)
    planted = {p: Changed("file", t) for p, t in PLANTED.items()}
    wrong = grade_patch(bench(), {**planted, "lib.py": Changed("file", WRONG + "\n")}, kind)
    right = grade_patch(bench(), {**planted, "lib.py": Changed("file", RIGHT), "tests/test_other.py": Changed("deleted")}, kind)
    assert (wrong.value, right.value) == (0.0, 1.0) and "conftest.py" in right.evidence["left_out"]


@both
@pytest.mark.parametrize("kind_of_thing", ["file", "link", "folder", "other"])
def test_1_taking_the_place_of_a_hidden_test_is_tampering(kind, kind_of_thing):
    need(kind)
    verdict = grade_patch(bench(), {"lib.py": Changed("file", RIGHT), "tests/test_late.py": Changed(kind_of_thing)}, kind)
    assert verdict.status == "tampered" and verdict.value is None
    below = grade_patch(bench(), {"tests/test_late.py/x.py": Changed("file", "")}, kind)
    assert below.status == "tampered"


CHEATS = {
    "sys.exit at import": "import sys\nsys.exit(0)\n",
    "os._exit at import": "import os\nos._exit(0)\n",
    "os._exit in a call": WRONG.replace("return x + 2", "__import__('os')._exit(0)"),
    "kill the parent": "import os, signal\nfor p in (os.getppid(), 1, -1):\n    try: os.kill(p, signal.SIGKILL)\n    except OSError: pass\n" + WRONG,
    "atexit": "import atexit, os\natexit.register(lambda: os._exit(0))\n" + WRONG,
    "forged lines": "import os\nfor fd in range(1, 20):\n    try: os.write(fd, b'\\n== 5 passed in 0.01s ==\\nPASSED\\n@' + b'0'*32 + b' {\"n\": 1, \"end\": 0, \"code\": 0}\\nexit code: 0\\n')\n    except OSError: pass\nprint('<testsuite failures=\"0\"/>')\nos._exit(0)\n",
    "report hook": "import _pytest.runner as r\nimport _pytest.reports as p\no = p.TestReport.from_item_and_call\ndef f(item, call):\n    call.excinfo = None\n    return o(item, call)\np.TestReport.from_item_and_call = staticmethod(f)\n" + WRONG,
    "unittest and assert": "import unittest, builtins\nunittest.TestCase.assertEqual = lambda *a, **k: None\nbuiltins.AssertionError = type('Quiet', (Exception,), {})\n" + WRONG,
    "equal to everything": "class Any:\n    def __eq__(self, other): return True\n    def __ne__(self, other): return False\n    def __hash__(self): return 0\n    def __call__(self, *a, **k): return self\n\ndef double(x): return Any()\n\ndef name(x): return Any()\n",
    "skip at import": "import pytest\npytest.skip('no', allow_module_level=True)\n",
    "skip in a call": WRONG.replace("return x + 2", "__import__('pytest').skip('later')"),
    "xfail in a call": WRONG.replace("return x + 2", "__import__('pytest').xfail('known')"),
    "tests replaced at run time": "import sys, gc\nimport types\nfor f in gc.get_objects():\n    if isinstance(f, types.FunctionType) and f.__name__.startswith('test_'):\n        f.__code__ = (lambda: None).__code__\n" + WRONG,
    "collection hook": "import _pytest.python as p\np.Module.collect = lambda self: []\n" + WRONG,
    "rewrite the tests": "import pathlib\nfor t in pathlib.Path('/work/tests').glob('*.py'):\n    t.write_text('def test_double(): pass\\ndef test_zero(): pass\\ndef test_name(): pass\\n')\n" + WRONG,
    "hang": "while True: pass\n",
    "memory": "x = bytearray(40 << 30)\n",
    "flood": "import os\nfor i in range(3000): os.write(1, b'x' * 100000)\n" + WRONG,
}  # fmt: skip
FORGER = "class M: pass\ndef main(args, plugins=()):\n    t = plugins[0]\n    for i in ('test_lib.py::test_double', 'test_lib.py::test_zero', 'test_lib.py::test_name'):\n        t.count += 1; t.tell(id='tests/' + i, outcome='passed')\n    return 1\n"


@pytest.mark.parametrize("name", ["pytest.py", "_pytest/__init__.py", "pluggy.py", "json.py", "hashlib.py", "src/pytest.py"])
def test_5_a_tree_that_brings_its_own_test_framework_is_not_asked(name):
    """Where any file may be changed, as in rows of benchmarks."""
    need("bwrap")
    open_to_all = msgspec.structs.replace(bench(), sources=("",))
    verdict = grade_patch(open_to_all, {name: Changed("file", FORGER)}, "bwrap")
    assert verdict.value == 0.0 and verdict.evidence["wrong_kinds"] == {"failed": 2} and verdict.evidence["finished"], verdict
    right = grade_patch(open_to_all, {"lib.py": Changed("file", RIGHT)}, "bwrap")
    assert right.value == 1.0


FLAGGED = {"report hook", "equal to everything"}


@pytest.mark.parametrize("cheat", CHEATS)
def test_3_to_6_no_cheat_in_the_tested_code_passes(cheat):
    verdict = grade_patch(bench(seconds=6.0), {"lib.py": Changed("file", CHEATS[cheat])}, need("bwrap"))
    assert verdict.value in (0.0, None) and verdict.status in ("scored", "tampered"), (cheat, verdict)
    assert (verdict.status == "tampered") >= (cheat in FLAGGED), (cheat, verdict)


@pytest.mark.parametrize("cheat", ["report hook", "equal to everything", "os._exit in a call", "forged lines"])
def test_3_to_6_nor_in_a_container(cheat):
    verdict = grade_patch(bench(seconds=6.0), {"lib.py": Changed("file", CHEATS[cheat])}, need("docker"))
    assert verdict.value in (0.0, None) and (verdict.status == "tampered") >= (cheat in FLAGGED)


SLOW = RIGHT + "\nimport time\ntime.sleep(4)\n"


@pytest.mark.parametrize("load, value", [(0.0, 0.0), (1e9, 1.0)])
def test_a_time_out_counts_at_once_on_a_quiet_machine_and_is_tried_again_on_a_busy_one(monkeypatch, load, value):
    """A patch that needs more than the time, and less than twice of it."""
    monkeypatch.setattr(os, "getloadavg", lambda: (load, load, load))
    verdict = grade_patch(bench(seconds=4.0), {"lib.py": Changed("file", SLOW)}, need("bwrap"))
    assert verdict.value == value and verdict.evidence["limit"] == ("" if value else "time")


def test_gradings_take_turns(monkeypatch):
    """Six at once, with room for two: no more than two run, and all are right."""
    running, seen, run_tests = [], [], unit_tests.run_tests

    def counted(*args, **options):
        running.append(1)
        seen.append(len(running))
        try:
            return run_tests(*args, **options)
        finally:
            running.pop()

    monkeypatch.setattr(unit_tests, "run_tests", counted)
    monkeypatch.setattr(unit_tests, "_turns", threading.BoundedSemaphore(2))
    kind = need("bwrap")
    with ThreadPoolExecutor(6) as pool:
        verdicts = list(pool.map(lambda text: grade_patch(bench(), {"lib.py": Changed("file", text)}, kind), [RIGHT, WRONG + "\n"] * 3))
    assert [v.value for v in verdicts] == [1.0, 0.0] * 3 and len(seen) == 6 and max(seen) <= 2


def test_6_the_ids_must_be_exactly_those():
    need("bwrap")
    right = {"lib.py": Changed("file", RIGHT)}
    twice = bench()
    twice = msgspec.structs.replace(twice, fail_to_pass=[*twice.fail_to_pass, "tests/test_lib.py::test_never"])
    missing = grade_patch(twice, right, "bwrap")
    assert missing.value == 0.0 and missing.evidence["wrong_kinds"] == {"missing": 1}
    fewer = msgspec.structs.replace(bench(), pass_to_pass=["tests/test_lib.py::test_name"])
    assert grade_patch(fewer, right, "bwrap").value == 1.0  # the other file is not asked for
    extra = msgspec.structs.replace(bench(), fail_to_pass=["tests/test_lib.py::test_double"])
    assert grade_patch(extra, right, "bwrap").evidence["extra"] == ["tests/test_lib.py::test_zero"]


def test_canaries_are_new_each_time_and_the_verdict_is_not():
    need("bwrap")
    verdicts = {msgspec.json.encode(grade_patch(bench(), {"lib.py": Changed("file", RIGHT)}, "bwrap")) for _ in range(4)}
    assert len(verdicts) == 1
    assert changeable(HIDDEN.encode()) == ["test_name", "test_double", "test_zero"]
    assert changeable(OTHER.encode()) == ["NameTests::test_two"]


def test_a_patch_is_what_changed_and_says_what_is_no_file():
    before = {"a.py": b"1", "b.py": b"2", "c.py": b"3"}
    after = {
        "": Entry("d"),
        "a.py": Entry("f", data=b"1"),
        "b.py": Entry("l", data=b"/etc/passwd"),
        "d.bin": Entry("f", data=b"\xff\xfe"),
        "p": Entry("p"),
        ".git/x": Entry("f"),
    }
    patch = patch_of(before, after, (".git",))
    assert {p: c.kind for p, c in patch.items()} == {"b.py": "link", "c.py": "deleted", "d.bin": "binary", "p": "other"}
    again = read_patch(msgspec.json.encode(patch))
    assert again == patch and again["d.bin"].bytes == b"\xff\xfe"
    for path in ("/etc/passwd", "../x", "a/../../x"):
        with pytest.raises(ValueError):
            read_patch(json.dumps({path: {"kind": "file"}}).encode())


def test_the_rule_is_one_of_the_rules_and_prints_as_it_is_read():
    rule = load("UnitTests(bench='agentgym_swe.mend:bench')")
    assert isinstance(rule, UnitTests) and rule.level == "outcome" and rule.limit_s > 30
