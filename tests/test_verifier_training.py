"""Learned verifiers in training runs at the office desk, each from the command line's own configuration, on a CPU."""

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import agentgym_trainers
import msgspec
import pytest
from agentgym_trainers.commands import varied
from agentgym_trainers.config import TrainConfig
from agentgym_trainers.run import _mismatch
from agentgym_trainers.train import train
from scripted import quoted_lines

from agentgym import make
from agentgym.cli.main import guarded as main
from agentgym.episode import read_episodes

WARM = str(Path(agentgym_trainers.__file__).parent / "warm")
DESK = {"templates": ["set_status", "other_room"], "limits": {"max_malformed": 2, "max_turns": 4}}


def settings(out, **more):
    given = {
        "env": "tools/desk-v0", "model": WARM, "warm_steps": 0, "steps": 1, "groups": 2, "group_size": 3, "eval_tasks": 4, "eval_split": "demo", "max_tokens": 24,
        "option": DESK, "out": str(out),
    }  # fmt: skip
    return TrainConfig(**{**given, **more})


def run(out, **more):
    result = train(settings(out, **more), lambda phase, row: None)
    rows = [msgspec.json.decode(line) for line in (Path(out) / "metrics.jsonl").read_bytes().splitlines()]
    return result, [r for r in rows if r["phase"] == "train"], list(read_episodes(Path(out) / "episodes.jsonl"))


@pytest.fixture
def checker():
    """A local model that checks a list by rule: a criterion is met if a word of it stands in what was done, which it quotes."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args):
            pass

        def do_POST(self):
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            text = "\n".join(m["content"] for m in asked["messages"])
            done = [line for line in quoted_lines(text) if "<tool_call>" in line]
            items = [{"id": i, "met": bool(done), "quote": done[0] if done else ""} for i in re.findall(r"^(c\d+): ", text, re.MULTILINE)]
            body = json.dumps({"choices": [{"message": {"content": f"I looked.\n{json.dumps({'items': items})}"}, "finish_reason": "stop"}]}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    threading.Thread(target=http.serve_forever, daemon=True).start()
    yield f"openai:checker@http://127.0.0.1:{http.server_port}/v1"
    http.shutdown()


def test_a_checklist_judge_pays_in_training(tmp_path, checker):
    (tmp_path / "list.toml").write_text(
        f'model = "{checker}"\nform = "checklist"\ncriteria = [{{text = "it called a tool"}}, {{text = "with arguments", after = "c1"}}]\n'
    )
    result, (row,), episodes = run(tmp_path / "run", reward=f"outcome('task') + 0.2 * late('judge:{tmp_path}/list.toml', level='outcome')")
    name = f"judge:{tmp_path}/list.toml"
    assert row[f"term:{name}"] > 0 and {e.late[name].status for e in episodes} == {"scored"} and result.steps == 1
    assert all(e.late[name].value == float(any("<tool_call>" in t.action for t in e.turns)) for e in episodes)


def test_a_judge_that_is_down_trains_nobody_and_says_so(tmp_path):
    (tmp_path / "down.toml").write_text('model = "openai:m@http://127.0.0.1:9"\npatience = 0.3\n')
    result, (row,), episodes = run(tmp_path / "run", reward=f"outcome('task') + late('judge:{tmp_path}/down.toml', level='outcome')")
    assert row["unpaid"] == 1.0 and row["trained"] == 0.0 and all(not any(t.source.startswith("judge") for t in e.terms) for e in episodes)
    assert any("judge" in note for note in result.notes)


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    """A step reward model, taught on oracle episodes with mistakes that were played."""
    folder = tmp_path_factory.mktemp("taught")
    eval_ = ["eval", "tools/desk", "--policy", "oracle", "--split", "train", "--tasks", "60", "--option", 'templates=["set_status","other_room"]']
    assert main([*eval_, "--out", str(folder / "run"), "--json"]) == 0
    assert main(["export", str(folder / "run"), "--format", "probes", "--to", str(folder / "set"), "--json"]) == 0
    flags = [
        "train",
        "--role",
        "verifier",
        "--data",
        str(folder / "set"),
        "--algo",
        "step",
        "--steps",
        "12",
        "--groups",
        "16",
        "--lr",
        "2e-3",
        "--context",
        "512",
    ]
    assert main([*flags, "--out", str(folder / "rm"), "--json"]) == 0
    return folder


def test_a_trained_step_reward_model_pays_at_turns(tmp_path, taught, capsys):
    name = f"rm:{taught}/rm/verifier"
    found = json.loads((taught / "rm" / "result.json").read_bytes())
    assert found["after"]["success"]["mean"] > found["before"]["success"]["mean"] and found["algorithm"] == "verifier:step"
    result, (row,), episodes = run(tmp_path / "run", reward=f"outcome('task') + 0.2 * delta(late('{name}'))", algo="grpo", set={"advantage": "turn"})
    assert {t.place.level for e in episodes for t in e.terms if "rm:" in t.source} == {"turn"} and all(
        t.late[name].status == "scored" for e in episodes for t in e.turns
    )
    capsys.readouterr()
    assert main(["eval", "--verifier", name, "--on", str(taught / "set"), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["first_error"]["f1"] > 0.3 and said["last_lowest"] is not None and set(said["probes"]) >= {"noise", "mistake", "mismatch"}


def test_an_implicit_process_reward_and_a_co_optimised_one_learn_in_the_run(tmp_path):
    _, (prime,), _ = run(tmp_path / "prime", algo="prime")
    assert prime["process_loss"] > 0 and prime["trained"] > 0
    result, rows, _ = run(tmp_path / "cooper", algo="co_trained", steps=4, eval_every=1, set={"trust": 0.2, "hard": 0.5})
    assert [r["reward_model_trusted"] for r in rows][:2] == [0.0, 0.0]  # nothing is paid before it has been seen to agree
    assert rows[-1]["reward_model_drift"] > 0 and all(0 <= r["reward_model_agreement"] <= 1 for r in rows)
    assert any("agree by" in n for n in result.notes) or len({r["reward"] for r in rows}) < 2


def test_a_judge_is_trained_as_a_policy(tmp_path):
    env = make("judge/outcome", split="train")
    assert len(env.taskset) == 400
    more = {"env": "judge/outcome-v0", "option": {}, "eval_split": "dev", "max_tokens": 48, "context": 1024, "role": "verifier"}
    result, (row,), _ = run(tmp_path / "run", **more)
    assert result.env == "judge/outcome-v0" and row["invalid"] == 0.0


def test_a_grid_changes_one_setting_per_cell_and_nothing_else(tmp_path):
    cells = dict(varied(settings(tmp_path, vary={"advantage": "rloo,dr_grpo", "kl": 0.01, "algo": "ppo"})))
    assert list(cells) == ["base", "advantage=rloo", "advantage=dr_grpo", "kl=0.01", "algo=ppo"]
    base = cells["base"]
    for name, cell in cells.items():
        changed = {f for f in TrainConfig.__struct_fields__ if getattr(cell, f) != getattr(base, f)}
        assert changed == (set() if name == "base" else {"algo"} if name == "algo=ppo" else {"set"}) and cell.seed == base.seed and cell.steps == base.steps
    assert cells["kl=0.01"].set == {"kl": 0.01} and cells["advantage=rloo"].set == {"advantage": "rloo"}


def test_a_run_says_how_far_its_reward_agreed_with_success(tmp_path):
    rows = [{"phase": "eval", "proxy": p, "success": s} for p, s in ((0.1, 0.2), (0.5, 0.6), (0.9, 0.4))]
    (tmp_path / "metrics.jsonl").write_bytes(b"".join(msgspec.json.encode(r) + b"\n" for r in rows))
    assert (
        _mismatch(tmp_path) == ["training reward and held-out success agree by +0.50 (rank correlation of 3 evaluations)"] and _mismatch(tmp_path / "x") == []
    )
