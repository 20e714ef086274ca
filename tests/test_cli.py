"""The command line: JSON that programs rely on, one-line errors, exit codes."""

import os
import signal
import subprocess
import sys

import msgspec
import pytest
from worlds import wait_for

from agentgym.cli.main import VERBS, guarded
from agentgym.registry import installed


def run(capfd, *words):
    code = guarded(list(words))
    out, err = capfd.readouterr()
    return code, out, err


def document(capfd, *words):
    code, out, _ = run(capfd, *words, "--json")
    return code, msgspec.json.decode(out)


def test_every_verb_of_this_version_has_help_with_an_example(capfd):
    for verb in ["list", "info", "play", "check", "eval", "train", "sft", "verify", "replay", "new", "methods", "doctor", "demo"]:
        assert verb in VERBS or verb in installed("commands")
        code, out, _ = run(capfd, verb, "--help")
        assert code == 0 and "example: agentgym" in out and "--json" in out
    assert run(capfd)[0] == 0 and run(capfd, "--version")[1].startswith("agentgym ")


def test_list_and_info_and_methods(capfd):
    code, rows = document(capfd, "list")
    (desk,) = [r for r in rows if r["id"] == "tools/desk-v0"]
    assert code == 0 and {"id", "package", "version", "domain", "summary", "splits", "capabilities", "rewards", "available", "missing"} <= set(desk)
    assert set(desk["capabilities"]) >= {"snapshot", "pixels", "seats", "sandboxes"} and set(desk["rewards"]) == {
        "outcome",
        "stepwise",
        "gated",
        "potential",
        "intrinsic",
    }
    _, about = document(capfd, "info", "tools/desk")
    assert about["task"]["instruction"] and len(about["tools"]) >= 25
    _, methods = document(capfd, "methods")
    for m in methods:
        assert set(m) >= {"id", "paper", "kind", "recipe", "primitives", "formula", "summary", "partial"}
    assert "g-ra" in [m["id"] for m in methods]


def test_eval_verify_replay(capfd, tmp_path):
    out = str(tmp_path / "run")
    code, result = document(capfd, "eval", "--env", "tools/desk", "--policy", "oracle", "--tasks", "5", "--episodes", "10", "--reward", "gated", "--out", out)
    assert code == 0 and result["episodes"] == result["valid"] == 10 and result["invalid"] == 0
    assert set(result) >= {"env", "policy", "split", "success", "reward", "metrics", "pass_at", "turns_mean", "tokens", "model_calls", "wall_s", "out"}
    assert result["success"]["mean"] == 1.0 and set(result["success"]) >= {"mean", "low", "high", "method"} and result["pass_at"] == {"1": 1.0, "2": 1.0}
    assert document(capfd, "verify", out) == (0, {"episodes": 10, "reproduced": 10, "mismatched": [], "unverifiable": [], "broken": []})
    assert document(capfd, "replay", out) == (0, {"episodes": 10, "identical": 10, "diverged": [], "broken": []})
    code, again = document(capfd, "eval", "--env", "tools/desk", "--policy", f"replay:{out}", "--tasks", "5")
    assert again["success"]["mean"] == 1.0
    code, _, err = run(capfd, "eval", "--env", "tools/desk", "--policy", f"replay:{out}", "--tasks", "6")
    assert code == 2 and "no valid attempt 0" in err
    code, _, err = run(capfd, "eval", "--env", "tools/desk", "--policy", "noop", "--tasks", "5", "--out", out)
    assert code == 2 and "holds another run" in err


def test_verify_and_replay_notice_what_was_changed(capfd, tmp_path):
    out = tmp_path / "run"
    run(capfd, "eval", "--env", "tools/desk", "--policy", "noop", "--tasks", "4", "--reward", "stepwise", "--out", str(out))
    path = out / "episodes.jsonl"
    lines = path.read_bytes().splitlines()
    forged = msgspec.json.decode(lines[0])
    forged["verdicts"]["task"]["value"] = 1.0
    path.write_bytes(b"\n".join([msgspec.json.encode(forged), *lines[1:], b""]))
    code, result = document(capfd, "verify", str(out))
    assert code == 1 and result["reproduced"] == 3 and "comes out differently" in result["mismatched"][0]["why"]
    moved = msgspec.json.decode(lines[1])
    moved["turns"][0]["action"] = '<tool_call>{"name": "read_rules", "arguments": {}}</tool_call>'
    path.write_bytes(b"\n".join([lines[0], msgspec.json.encode(moved), *lines[2:], b""]))
    code, result = document(capfd, "replay", str(out))
    assert code == 1 and result["diverged"][0]["turn"] == 0
    artefact = next((out / "artefacts").rglob("*"))
    for artefact in (p for p in (out / "artefacts").rglob("*") if p.is_file()):
        artefact.write_bytes(b"other")
    code, result = document(capfd, "verify", str(out))
    assert code == 1 and all("was changed" in m["why"] for m in result["mismatched"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["lst"], "nearest: list"),
        (["eval", "tools/dsk"], "nearest: tools/desk-v0"),
        (["eval", "tools/desk", "--policy", "orcle"], "nearest: oracle"),
        (["eval", "tools/desk", "--reward", "gatd"], "nearest: gated"),
        (["eval", "tools/desk", "--polcy", "oracle"], "nearest: --policy"),
        (["eval", "tools/desk", "--tasks", "many"], "--tasks: expected `int"),
        (["eval", "tools/desk", "--tasks", "0"], "--tasks: expected `int` >= 1"),
        (["eval", "tools/desk", "--split", "tst"], "nearest: test"),
        (["eval", "tools/desk", "--option", "levels"], "key=value"),
        (["eval", "tools/desk", "--option", "level=1"], "nearest: levels"),
        (["eval", "tools/desk", "--tasks", "99999"], "has 1650 tasks"),
        (["eval"], "needs ENV"),
        (["eval", "tools/desk", "more"], "one argument too many"),
        (["eval", "@", "/no/such.toml"], "cannot read"),
        (["eval", "tools/desk", "--policy", "openai:x"], "openai:MODEL@URL"),
        (["eval", "tools/desk", "--policy", "oracle:x"], "takes no argument"),
        (["eval", "tools/desk", "--policy", "replay:/no"], "run folder"),
        (["play", "tools/desk", "--task", "close_by_titl.train.1"], "nearest: close_by_title.train.1"),
        (["train", "--env", "tools/desk", "--algo", "grp"], "nearest: grpo"),
        (["train"], "which environment"),
        (["train", "--env", "tools/desk", "--group-size", "1"], "--group-size: expected `int` >= 2"),
        (["verify", "/no/such"], "not a run folder"),
        (["methods", "g-raa"], "nearest: g-ra"),
        (["new", "Bad Name"], "small letters"),
    ],
    ids=lambda w: " ".join(w) if isinstance(w, list) else "",
)
def test_a_usage_error_is_one_line_and_exit_2(capfd, words, said):
    code, out, err = run(capfd, *words)
    assert code == 2 and out == "" and said in err and err.count("\n") == 1 and err.startswith("agentgym: ")


def test_config_comes_from_flags_over_files_over_defaults(capfd, tmp_path):
    path = tmp_path / "c.toml"
    path.write_text('env = "tools/desk"\npolicy = "noop"\ntasks = 3\n[option]\nlevels = [1]\n')
    _, result = document(capfd, "eval", "@", str(path), "--policy", "oracle")
    assert (result["policy"], result["episodes"]) == ("oracle", 3)
    path.write_text('env = "tools/desk"\ntaks = 3\n')
    code, _, err = run(capfd, "eval", "@", str(path))
    assert code == 2 and f"{path}: unknown key 'taks' (nearest: tasks)" in err
    path.write_text("env = [")
    assert run(capfd, "eval", f"@{path}")[0] == 2


def test_a_missing_part_is_exit_3_with_the_line_that_installs_it(capfd, monkeypatch):
    monkeypatch.setattr(sys.modules["agentgym.cli.main"], "installed", lambda group: {})
    code, _, err = run(capfd, "train", "--env", "tools/desk")
    assert code == 3 and "pip install agentgym-trainers" in err


def test_doctor_knows_the_other_project_of_that_name(capfd, tmp_path):
    code, report = document(capfd, "doctor")
    assert code == 0 and report["ok"]
    info = tmp_path / "agentgym-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: agentgym\nVersion: 0.1\n")
    done = subprocess.run([sys.executable, "-m", "agentgym", "doctor"], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(tmp_path)})
    assert done.returncode == 1 and "another project named agentgym" in done.stdout and "pip uninstall -y agentgym" in done.stdout


def test_a_person_plays_at_a_terminal():
    words = [sys.executable, "-m", "agentgym", "play", "tools/desk", "--task", "value_of_cell.train.0"]
    done = subprocess.run(words, input='<tool_call>{"name": "answer", "arguments": {"value": "?"}}</tool_call>\n', capture_output=True, text=True)
    assert done.returncode == 0 and "What is in cell" in done.stderr and "ended: submitted; verdict: task scored 0; reward 0" in done.stdout
    left = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert left.returncode == 0 and "ended: timeout" in left.stdout


def test_an_interrupt_is_exit_130_and_the_run_can_be_resumed(tmp_path):
    words = [
        sys.executable,
        "-m",
        "agentgym",
        "eval",
        "--env",
        "tools/desk",
        "--policy",
        "random",
        "--episodes",
        "1600",
        "--concurrency",
        "2",
        "--out",
        str(tmp_path / "r"),
    ]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    path = tmp_path / "r" / "episodes.jsonl"
    wait_for(path, 1)
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 130 and process.stderr.read().strip().endswith("interrupted")
    assert subprocess.run(words, capture_output=True).returncode == 0


def test_an_interrupted_command_ends_though_a_thread_of_it_does_not():
    code = """
import sys, threading
import agentgym.cli
main = sys.modules["agentgym.cli.main"]
def run(argv):
    threading.Thread(target=threading.Event().wait).start()
    raise KeyboardInterrupt
main.run, main.PATIENCE = run, 0.2
main.main([])
"""
    done = subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, timeout=30)
    assert done.returncode == 130 and done.stderr == "interrupted\n"


def test_a_run_with_options_is_verified_from_its_record_and_one_without_artefacts_is_not_called_reproduced(capfd, tmp_path):
    out = tmp_path / "run"
    run(capfd, "eval", "tools/desk", "--policy", "oracle", "--tasks", "4", "--option", "levels=1", "--option", 'limits={"max_turns": 3}', "--out", str(out))
    (out / "config.toml").unlink()
    assert document(capfd, "verify", str(out))[1]["reproduced"] == document(capfd, "replay", str(out))[1]["identical"] == 4
    path = out / "episodes.jsonl"
    rows = [msgspec.json.decode(line) for line in path.read_bytes().splitlines()]
    path.write_bytes(b"".join(msgspec.json.encode({**r, "artefacts": {}}) + b"\n" for r in rows))
    code, result = document(capfd, "verify", str(out))
    assert (result["reproduced"], len(result["unverifiable"]), result["mismatched"]) == (0, 4, [])
