"""What ``agentgym new`` makes works as it is made: installed, found by name, its own tests pass."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from agentgym.cli.main import guarded


@pytest.mark.parametrize(("kind", "use"), [
    ("verifier", "import anyio, agentgym; from agentgym.registry import verifier; assert verifier('my-thing:5').words == 5"),
    ("algorithm", "from agentgym_trainers.algorithm import resolve; assert resolve('my-thing').advantage == 'rloo'"),
])  # fmt: skip
def test_a_package_is_installed_found_and_passes_its_tests(kind, use, tmp_path, capsys):
    assert guarded(["new", kind, "my-thing", "--out", str(tmp_path), "--json"]) == 0
    capsys.readouterr()
    site = tmp_path / "site"
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", site, tmp_path / "my-thing"], check=True)
    there = {**os.environ, "PYTHONPATH": str(site)}
    subprocess.run([sys.executable, "-c", use], check=True, env=there)
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", tmp_path / "my-thing"], env=there, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:]


def test_the_page_on_a_first_environment_makes_one_that_passes_its_audit(tmp_path, capsys):
    page = (Path(__file__).parent.parent / "docs" / "your-first-environment.md").read_text()
    assert guarded(["new", "my-ledger", "--out", str(tmp_path), "--json"]) == 0
    capsys.readouterr()
    code = "\n\n".join(re.findall(r"```python\n(.*?)```", page, re.DOTALL))
    (tmp_path / "my-ledger" / "agentgym_my_ledger" / "env.py").write_text(code)
    site = tmp_path / "site"
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", site, tmp_path / "my-ledger"], check=True)
    there = {**os.environ, "PYTHONPATH": str(site)}
    done = subprocess.run([sys.executable, "-m", "agentgym", "check", "my-ledger/count-v0", "--tasks", "10"], env=there, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def test_wrong_names_and_folders_that_are_there_are_refused(tmp_path, capsys):
    for words in (["new", "verifier", "My_Rule"], ["new", "algorithm", "1st"]):
        assert guarded([*words, "--out", str(tmp_path)]) == 2 and "small letters" in capsys.readouterr().err
    (tmp_path / "here").mkdir()
    assert guarded(["new", "verifier", "here", "--out", str(tmp_path)]) == 2 and "exists already" in capsys.readouterr().err
