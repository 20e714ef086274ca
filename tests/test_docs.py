"""Every example in the docs runs as it stands."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from agentgym.cli.main import find, split_verb
from agentgym.cli.parse import parse
from agentgym.registry import specs

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_python_examples_run_in_order(page):
    code = "\n".join(re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL))
    if code:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


COMMANDS = sorted({line for page in PAGES for line in re.findall(r"^    (agentgym .*?)(?:\s+#.*)?$", page.read_text(), re.MULTILINE)})


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_in_the_docs_are_commands(line):
    verb, words = split_verb(shlex.split(line)[1:])
    assert parse(find(verb), words).config is not None


def test_the_runs_of_the_training_page_run_one_after_the_other(tmp_path):
    lines = re.findall(r"^    (agentgym train .*)$", (ROOT / "docs" / "training.md").read_text(), re.MULTILINE)
    assert len(lines) >= 3
    for line in lines:
        done = subprocess.run([sys.executable, "-m", *shlex.split(line), "--plain"], capture_output=True, text=True, cwd=tmp_path, timeout=300)
        assert done.returncode == 0, done.stderr[-2000:]
    assert {p.parent.name for p in tmp_path.glob("runs/*/report.html")} == {"doc-first", "doc-dapo"}


def test_the_docs_become_a_site_with_cards_methods_and_api(tmp_path):
    env = {**os.environ, "AGENTGYM_CARDS": "text/bandit,tools/desk,bring/domain", "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run([sys.executable, "-m", "mkdocs", "build", "-q", "-d", str(tmp_path)], capture_output=True, text=True, cwd=ROOT, env=env)
    assert done.returncode == 0 and "WARNING" not in done.stderr, done.stderr[-2000:]
    card = (tmp_path / "environments" / "tools-desk-v0.html").read_text()
    assert "An episode, by" in card and "tool_call" in card and "ended: done; reward 1" in card and "48 tools" in card
    listed = (tmp_path / "environments" / "index.html").read_text()
    assert all(f"{spec.id.replace('/', '-')}.html" in listed for spec in specs())
    assert (tmp_path / "methods.html").read_text().count("<tr>") > 150
    assert "AgentEnv" in (tmp_path / "api" / "the-core.html").read_text() and "Exact" in (tmp_path / "api" / "verifiers.html").read_text()
    assert "make demo" in (tmp_path / "index.html").read_text()
