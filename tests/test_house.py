"""The house keeps its rules: linters, types, import contracts, a light core, short files."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent


@pytest.mark.parametrize("command", [["ruff", "check", "."], ["ruff", "format", "--check", "."], ["mypy"], ["lint-imports"]], ids=lambda c: " ".join(c))
def test_linters_are_silent(command):
    done = subprocess.run([BIN / command[0], *command[1:]], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]


def test_the_core_is_light():
    table = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert len(table["project"]["dependencies"]) <= 8


def test_files_and_functions_are_short():
    long = []
    for path in [p for folder in ("agentgym", "envs", "verifiers", "trainers") for p in (ROOT / folder).rglob("*.py")]:
        text = path.read_text()
        if text.count("\n") > 500:
            long.append(str(path))
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.end_lineno - node.lineno >= 60:
                long.append(f"{path}:{node.name}")
    assert not long


def test_the_contract_is_one_short_file():
    assert (ROOT / "agentgym" / "core.py").read_text().count("\n") < 470


def test_the_repository_names_no_host_of_a_registry_and_no_foreign_path():
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    hosts = ("pypi" + ".org", "pytho" + "nhosted", "npmjs" + ".", "debian" + ".org", "/ro" + "ot/")
    bad = [f for f in files if (ROOT / f).is_file() and any(h in (ROOT / f).read_text(errors="ignore") for h in hosts)]
    assert not bad
