"""Runs as people make them: compared, exported, bounded, continued, several at once; and what makes them doubtful is said."""

import sys
import types
from pathlib import Path

import anyio
import msgspec
import pytest
from worlds import Says, World

from agentgym.budget import Bounds
from agentgym.cli.main import guarded
from agentgym.core import Completion
from agentgym.episode import read_episodes
from agentgym.errors import UsageError
from agentgym.evaluation.compare import compare
from agentgym.evaluation.export import atif, hf_rows, openai_rows, sts
from agentgym.evaluation.overlap import Text, of_run, of_tasks, overlap, training_run_of
from agentgym.evaluation.regrade import episodes_of, verify
from agentgym.evaluation.run import Plan, evaluate
from agentgym.evaluation.transcript import messages_of, transcript
from agentgym.policies import resolve
from agentgym.registry import make


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for policy, tasks in (("oracle", 30), ("random", 40)):
        plan = Plan(env="tools/desk", split="test", tasks=tasks, reward="stepwise")
        anyio.run(evaluate, plan, resolve(policy), folder / policy)
    return folder


def cli(capfd, *words):
    code = guarded([*words, "--json"])
    out = capfd.readouterr().out
    return code, msgspec.json.decode(out) if out else None


# Comparison


def test_two_policies_are_compared_task_by_task(runs):
    found = compare(runs / "random", runs / "oracle")
    assert (found.tasks, found.success.wins, found.success.losses, found.success.difference.mean) == (30, 30, 0, 1.0)
    assert found.success.p_value < 0.001 and found.second.success.mean == 1.0 and found.first.policy == "random"
    assert found.notes == ["10 tasks of the first run were not played by the other and are left out"]
    same = compare(runs / "oracle", runs / "oracle")
    assert same.success.difference.mean == 0 and same.success.p_value == 1.0 and same.success.ties == 30


def test_what_cannot_be_compared_is_refused(runs, tmp_path):
    anyio.run(evaluate, Plan(env="tools/desk", split="dev", tasks=3), resolve("noop"), tmp_path / "dev")
    with pytest.raises(UsageError, match="only runs of one environment and split"):
        compare(runs / "oracle", tmp_path / "dev")
    lines = [msgspec.json.decode(line) for line in (runs / "oracle" / "episodes.jsonl").read_bytes().splitlines()]
    lines[0]["task_digest"] = "0" * 64
    (tmp_path / "changed").mkdir()
    (tmp_path / "changed" / "episodes.jsonl").write_bytes(b"".join(msgspec.json.encode(r) + b"\n" for r in lines))
    with pytest.raises(UsageError, match="1 tasks are not the same in both runs"):
        compare(runs / "oracle", tmp_path / "changed")


def test_doubts_are_named(runs, tmp_path):
    plan = Plan(env="tools/desk", split="test", tasks=5, reward="outcome('task') + 0.1 * late('novelty')", options={"limits": {"max_turns": 3}})
    anyio.run(evaluate, plan, resolve("oracle"), tmp_path / "novel")
    notes = " ".join(compare(runs / "oracle", tmp_path / "novel").notes)
    assert "sources with a state" in notes and "different reward specs" in notes and "different limits" in notes


def test_the_command_prints_it_and_knows_wrong_paths(runs, capfd):
    code, found = cli(capfd, "compare", str(runs / "random"), str(runs / "oracle"))
    assert code == 0 and set(found) == {"env", "split", "tasks", "first", "second", "success", "reward", "notes"}
    assert guarded(["compare", str(runs / "random"), "/no/such"]) == 2


# Bounds, continuation, several runs


class Tokened(Says):
    name = "tokened"

    async def act(self, conversation):
        return Completion("go", usage={"prompt_tokens": 100, "completion_tokens": 10})


def test_a_run_whose_budget_is_spent_says_so_and_goes_on_with_a_larger_one(tmp_path, monkeypatch):
    monkeypatch.setattr("agentgym.evaluation.run.make", lambda *a, **k: World())
    monkeypatch.setattr("agentgym.evaluation.run.resolve", lambda name: name)

    def play(tokens):
        plan = Plan(env="test/world-v0", split="train", tasks=6, concurrency=1, run=Bounds(tokens=tokens))
        return anyio.run(evaluate, plan, Tokened(), tmp_path / "run")

    first = play(45)
    assert (first.valid, first.unplayed) == (3, 3) and "3 episodes were not begun" in first.notes[0]
    again = play(45)
    assert (again.valid, again.unplayed) == (3, 3)
    whole = play(10_000)
    assert (whole.valid, whole.unplayed, whole.notes) == (6, 0, []) and len(list(read_episodes(tmp_path / "run" / "episodes.jsonl"))) == 6


def test_invalid_episodes_are_counted_and_a_high_retry_rate_is_said(monkeypatch):
    class Fragile(World):
        def _advance(self, action):
            if self.task.id in ("t.1", "t.3", "t.5"):
                raise RuntimeError("gone")
            return super()._advance(action)

    monkeypatch.setattr("agentgym.evaluation.run.make", lambda *a, **k: Fragile())
    monkeypatch.setattr("agentgym.evaluation.run.resolve", lambda name: name)
    result = anyio.run(evaluate, Plan(env="test/world-v0", split="train", tasks=6), Says("go"))
    assert (result.valid, result.invalid, result.invalid_share, result.retry_rate) == (3, 3, 0.5, 0.5)
    assert any("under-represented" in n for n in result.notes)


def test_pass_at_k_and_pass_hat_k_are_in_the_result():
    result = anyio.run(evaluate, Plan(env="tools/desk", split="test", tasks=3, episodes=12), resolve("oracle"))
    assert result.pass_at == result.pass_hat == {"1": 1.0, "2": 1.0, "4": 1.0} and result.success.method == "wilson, clustered"


def test_a_list_and_a_suite_are_several_runs_with_folders_of_their_own(tmp_path, capfd):
    (tmp_path / "suite.toml").write_text(
        '[[run]]\nenv = "tools/desk"\nsplit = "dev"\ntasks = 2\n[[run]]\nenv = "tools/desk"\nreward = "gated"\npolicy = "noop"\n'
    )
    code, found = cli(capfd, "eval", "--suite", str(tmp_path / "suite.toml"), "--policy", "oracle", "--tasks", "3", "--out", str(tmp_path / "out"))
    assert code == 0 and [(r["policy"], r["split"], r["episodes"]) for r in found["runs"]] == [("oracle", "dev", 2), ("noop", "test", 3)]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["00-tools-desk", "01-tools-desk"]
    code, found = cli(capfd, "eval", "--env", "tools/desk,tools/desk-v0", "--policy", "noop", "--tasks", "2")
    assert code == 0 and len(found["runs"]) == 2
    (tmp_path / "wrong.toml").write_text("[[run]]\nenvironment = 1\n")
    for words in (["--suite", str(tmp_path / "wrong.toml")], ["--suite", "/no/such"], [], ["--env", "tools/desk", "--pack", "x.zip"]):
        assert guarded(["eval", *words]) == 2


def test_a_run_is_packed_on_request_and_the_packed_one_is_verified(tmp_path, capfd):
    words = [
        "eval",
        "tools/desk",
        "--policy",
        "oracle",
        "--tasks",
        "3",
        "--out",
        str(tmp_path / "run"),
        "--pack",
        str(tmp_path / "run.zip"),
        "--grade",
        "deferred",
    ]
    assert cli(capfd, *words)[0] == 0
    assert cli(capfd, "verify", str(tmp_path / "run.zip"))[1]["reproduced"] == 3
    assert cli(capfd, "replay", str(tmp_path / "run.zip"))[1]["identical"] == 3


def test_a_stateful_source_makes_an_episode_unverifiable_and_its_other_verdicts_are_still_checked(tmp_path):
    out = tmp_path / "run"
    anyio.run(evaluate, Plan(env="tools/desk", split="test", tasks=3, reward="intrinsic"), resolve("oracle"), out)
    found = verify(out)
    assert (found.reproduced, found.mismatched) == (0, []) and all("hindsight" in u["why"] for u in found.unverifiable)
    path = out / "episodes.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"value":1.0', b'"value":0.5', 1))
    assert len(verify(out).mismatched) == 1


# Export


def models_of_atif():
    """The format's own models, from the wheel that ``make setup`` fetches; its package needs a newer Python, its models do not."""
    wheels = sorted((Path(sys.prefix) / "models").glob("harbor-*.whl"))
    if not wheels:
        pytest.skip("the wheel of harbor could not be fetched")
    for name, inside in (("harbor", "harbor"), ("harbor.models", "harbor/models")):
        package = types.ModuleType(name)
        package.__path__ = [f"{wheels[-1]}/{inside}"]
        sys.modules[name] = package
    from harbor.models.trajectories.trajectory import Trajectory

    return Trajectory


@pytest.mark.parametrize("policy", ["oracle", "random"])
def test_trajectories_fit_the_formats_own_models(runs, policy):
    model = models_of_atif()
    tools = [t.spec.openai() for t in make("tools/desk").tools.values()]
    for e in episodes_of(runs / policy):
        row = msgspec.json.decode(msgspec.json.encode(atif(e, tools)))
        read = model.model_validate(row)
        agent = [s for s in read.steps if s.source == "agent"]
        assert len(agent) == len(e.turns) and [[c.function_name for c in s.tool_calls or []] for s in agent] == [[c.name for c in t.calls] for t in e.turns]
        assert row["extra"]["reward"] == pytest.approx(e.total)


def test_session_traces_are_read_by_the_datasets_library(runs):
    loader = pytest.importorskip("datasets.packaged_modules.json.json")
    for e in list(episodes_of(runs / "oracle"))[:10]:
        lines = [msgspec.json.encode(line).decode() for line in sts(e)]
        harness, session, prompt, _, users, calls = loader.parse_traces_info(lines)
        assert session == e.id and harness is not None and prompt == make("tools/desk", split="test").taskset.get(e.task).instruction
        assert (users, calls) == (sum(m["role"] == "user" for m in messages_of(e)), sum(len(t.calls) for t in e.turns))


def test_training_chats_hold_only_what_succeeded_and_every_call_has_its_answer(runs):
    assert list(openai_rows(episodes_of(runs / "random"))) == []
    rows = list(openai_rows(episodes_of(runs / "oracle")))
    assert len(rows) == 30 and all(len(r["tools"]) == 48 for r in rows)
    for row in rows:
        called = [c["id"] for m in row["messages"] for c in m.get("tool_calls", [])]
        assert called == [m["tool_call_id"] for m in row["messages"] if m["role"] == "tool"] and row["messages"][0]["role"] == "system"


@pytest.mark.parametrize("format", ["atif", "sts", "openai", "hf", "parquet", "html", "bundle"])
def test_every_format_is_written_by_the_command(runs, tmp_path, capfd, format):
    code, found = cli(capfd, "export", str(runs / "oracle"), "--format", format, "--to", str(tmp_path / "out"))
    assert code == 0 and found["episodes"] == 30 and (tmp_path / "out").exists()


def test_a_dataset_folder_is_loaded_by_the_datasets_library(runs, tmp_path):
    datasets = pytest.importorskip("datasets")
    assert guarded(["export", str(runs / "oracle"), "--format", "hf", "--to", str(tmp_path / "set")]) == 0
    loaded = datasets.load_dataset(str(tmp_path / "set"), split="test", cache_dir=str(tmp_path / "cache"))
    (first,) = list(hf_rows(list(episodes_of(runs / "oracle"))[:1]))
    assert len(loaded) == 30 and loaded[0]["messages"] == first["messages"] and loaded[0]["reward"] == pytest.approx(first["reward"])


def test_an_unknown_format_is_refused_with_the_nearest(runs, capfd):
    assert guarded(["export", str(runs / "oracle"), "--format", "parket"]) == 2
    assert "nearest: parquet" in capfd.readouterr().err


def test_a_page_stands_alone_and_shows_the_worst_and_the_longest(runs, tmp_path):
    assert guarded(["export", str(runs / "random"), "--format", "html", "--to", str(tmp_path / "page.html")]) == 0
    page = (tmp_path / "page.html").read_text()
    assert page.count("data:image/png;base64,") == 1 and "http" not in page.replace("http-equiv", "").split("<pre>")[0]
    assert page.count("<details>") == 6 and "<script" not in page and "random on tools/desk-v0" in page


def test_text_of_an_episode_is_escaped_in_a_page(tmp_path):
    (tmp_path / "run").mkdir()
    evil = "<script>alert(1)</script>\x1b[2J"

    class Evil(Says):
        async def act(self, conversation):
            return Completion(evil)

    anyio.run(evaluate, Plan(env="tools/desk", split="test", tasks=1), Evil(), tmp_path / "evil")
    assert guarded(["export", str(tmp_path / "evil"), "--to", str(tmp_path / "p.html")]) == 0
    assert "<script>alert" not in (tmp_path / "p.html").read_text()
    shown = transcript(episodes_of(tmp_path / "evil")[0])
    assert "<script>alert(1)</script>\\x1b[2J" in shown and "\x1b" not in shown


# Contamination


def test_the_same_task_the_same_text_and_a_near_one_are_told_apart():
    text = "book a quiet room for twelve people on friday morning and tell the owner about it"
    mine = {"a": Text("1", "x"), "b": Text("2", f"  {text.upper()} "), "c": Text("3", f"{text} please"), "d": Text("4", "something else entirely")}
    found = overlap(mine, {"t1": Text("1", "other"), "t2": Text("9", text)})
    assert [p[:2] for p in found.same] == [("a", "t1")] and [p[:2] for p in found.text] == [("b", "t2")] and [p[:2] for p in found.near] == [("c", "t2")]
    assert "of 4 evaluated tasks 1 are among" in found.says("evaluated", "them") and overlap(mine, {}).says("a", "b") == ""


def test_a_checkpoint_evaluated_on_what_it_trained_on_is_named(runs, tmp_path):
    run = tmp_path / "train"
    (run / "checkpoints" / "step-00001").mkdir(parents=True)
    (run / "episodes.jsonl").write_bytes((runs / "oracle" / "episodes.jsonl").read_bytes())
    assert training_run_of(f"hf:{run}/checkpoints/step-00001") == run and training_run_of("oracle") is None

    class Checkpoint(Says):
        name = f"hf:{run}/checkpoints/step-00001"

    result = anyio.run(evaluate, Plan(env="tools/desk", split="test", tasks=5), Checkpoint())
    assert any(n.startswith("contamination: of 5 evaluated tasks 5 are among") for n in result.notes)
    clean = anyio.run(evaluate, Plan(env="tools/desk", split="dev", tasks=5), Checkpoint())
    assert not any(n.startswith("contamination") for n in clean.notes)
    assert len(of_run(run)) == 30 and len(of_tasks(make("tools/desk").taskset, make("tools/desk").taskset.ids()[:7])) == 7
