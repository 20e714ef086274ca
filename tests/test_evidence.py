"""The experiments run, go on where they were interrupted, and say what their numbers amount to."""

import importlib.util
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from agentgym.evaluation.leaderboard import examine

ROOT = Path(__file__).parent.parent
spec = importlib.util.spec_from_file_location("evidence", ROOT / "benchmarks" / "evidence" / "run.py")
evidence = importlib.util.module_from_spec(spec)
sys.modules["evidence"] = evidence
spec.loader.exec_module(evidence)


def test_every_experiment_runs_with_one_seed_and_goes_on_where_it_was_interrupted(tmp_path):
    command = [sys.executable, str(ROOT / "benchmarks" / "evidence" / "run.py"), "--quick", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert set(told) == {"benchmark", *evidence.experiments(())}
    page = (tmp_path / "docs" / "evidence.md").read_text()
    for name, experiment in evidence.experiments(()).items():
        assert experiment.title in page and (tmp_path / "docs" / "evidence" / f"{name}.png").stat().st_size > 5000
    first = sorted(tmp_path.rglob("cell.json"))
    before = {p: p.stat().st_mtime_ns for p in first}
    first[0].unlink()
    assert subprocess.run(command, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"}).returncode == 0
    changed = [p for p in first if p.stat().st_mtime_ns != before[p]]
    assert changed == [first[0]], "what was there is kept"


def test_a_difference_is_shown_only_where_its_interval_is_on_one_side():
    assert evidence.verdict(evidence.over_seeds([0.2, 0.3, 0.25, 0.2, 0.3])) == "holds here"
    assert evidence.verdict(evidence.over_seeds([-0.2, -0.3, -0.25])) == "the opposite holds here"
    assert evidence.verdict(evidence.over_seeds([0.2, -0.3, 0.25])) == "not shown here"
    assert evidence.verdict(evidence.over_seeds([0.9])) == "one seed says nothing"
    mean, low, high = evidence.over_seeds([1.0, 2.0, 3.0])
    assert (mean, low) == (2.0, pytest.approx(2 - 4.302653 / math.sqrt(3), abs=1e-4)) and high - mean == pytest.approx(mean - low)


def test_arms_at_equal_tokens_are_compared_where_the_thriftiest_ends():
    experiment = evidence.experiments(("sampling",))["sampling"]
    cells = [
        {"arm": arm, "seed": seed, "measures": {"success": 0.5}, "curve": [[0, 0.0, 0], [10, end, tokens]], "tokens": tokens, "seconds": 1.0, "bundle": ""}
        for arm, end, tokens in (("fixed", 0.8, 1000), ("adaptive", 0.6, 500))
        for seed in (0, 1)
    ]
    found = evidence.summary(experiment, cells)
    assert found["arms"]["fixed"]["equal"][0] == pytest.approx(0.4) and found["arms"]["adaptive"]["equal"][0] == pytest.approx(0.6)
    assert all(c["verdict"] != "the runs are the same" for c in found["claims"])
    alike = [{**c, "curve": [[0, 0.0, 0], [10, 0.8, 1000]], "tokens": 1000} for c in cells]
    assert all(c["verdict"] == "the runs are the same" for c in evidence.summary(experiment, alike)["claims"]), "an arm that changed nothing is no finding"


def test_the_table_holds_the_pairs_that_were_measured_and_says_what_did_not_run(tmp_path):
    lines = [
        {"script": "serving", "at": "2026-01-01 10:00", "sessions_1": {"ours": {"p50_ms": 0.1}, "openenv": {"p50_ms": 0.2}}},
        {"script": "text", "at": "2026-01-01 10:01", "paces": {"text/world": {"steps_per_s": 800, "library": 1000, "ratio": 0.8}, "text/sql": {"steps_per_s": 5000}}},
        {"script": "gui", "at": "2026-01-01 10:02", "error": "no X server"},
    ]  # fmt: skip
    (tmp_path / "lines").write_text("\n".join(map(json.dumps, lines)))
    command = [sys.executable, str(ROOT / "benchmarks" / "beside.py"), "--lines", str(tmp_path / "lines"), "--to", str(tmp_path / "page.md")]
    assert subprocess.run(command).returncode == 0
    page = (tmp_path / "page.md").read_text()
    assert "| served, 1 session, p50 ms | 0.1 | 0.2 | 2.00 | OpenEnv |" in page, "half of the time is twice as good"
    assert "| text/world, steps/s | 800 | 1,000 | 0.80 |" in page and "text/sql" not in page and "`gui` did not run: no X server" in page
    assert json.loads((tmp_path / "page.json").read_text()) == lines


def test_the_runs_behind_the_page_are_on_their_board_and_reproduce():
    board, told = ROOT / "leaderboards" / "evidence", [json.loads(p.read_bytes()) for p in (ROOT / "docs" / "evidence").glob("*.json")]
    named = {file for found in told for file in found["bundles"].values()}
    assert named == {p.relative_to(board).as_posix() for p in board.glob("*/*.zip")}, "no number without its run, no run that nothing is said of"
    for env in sorted({file.partition("/")[0] for file in named}):
        found = examine(board / min(f for f in named if f.startswith(env)))
        assert found.accepted, found.reasons


def test_the_script_for_a_gpu_runs_at_a_tiny_size(tmp_path):
    command = [sys.executable, str(ROOT / "benchmarks" / "evidence" / "gpu.py"), "--tiny", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert {"card", "outcome", "gated"} < set(told) and told["supervised"]["episodes"]["text/rooms"] == 12 and not told["supervised"]["missing"]
    assert all(len(told[arm]["after"]) == 3 and told[arm]["tokens"] > 0 for arm in ("outcome", "gated"))


def test_a_source_checkout_is_usable_without_being_installed(tmp_path):
    """Where our packages are not installed, their entry points are found in the checkout: ``-S`` leaves site-packages, and so the installed ones, out."""
    code = "import importlib.metadata as m; print(len(m.entry_points(group='agentgym.environments')))"
    check = f"import sys; sys.path.insert(0, {str(ROOT / 'benchmarks')!r}); from _checkout import usable; usable(); {code}"
    found = subprocess.run([sys.executable, "-S", "-c", check], capture_output=True, text=True, cwd=tmp_path)
    assert found.returncode == 0 and int(found.stdout) > 40, found.stderr
