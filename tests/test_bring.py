"""Tasks that users bring along: what is wrong with a file is said with its line, and what leaks is said by the audit."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import agentgym_bring
import pytest
from agentgym_bring.harbor import folders
from agentgym_bring.rows import said
from sandboxes import need

import agentgym
from agentgym.checks import check
from agentgym.cli.main import guarded
from agentgym.errors import EnvironmentFault, UnknownName, UsageError
from agentgym.messages import call

ROWS = [{"question": f"What is {i} + 2?", "solution": i + 2, "kind": "sum"} for i in range(40)]


@pytest.fixture
def path(tmp_path):
    def write(rows):
        file = tmp_path / "rows.jsonl"
        file.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows))
        return str(file)

    return write


def made(path, rows=ROWS, **options):
    return agentgym.make("bring/rows", path=path(rows), **{"prompt": "question", "answer": "solution", "by": "number", **options})


def test_the_example_passes_the_audit():
    report = check("bring/rows", tasks=5)
    assert report.passed, [c for c in report.checks if c.status == "fail"]


def test_rows_of_a_file_are_tasks_and_a_rule_by_name_decides(path):
    env = made(path, system="Be brief.")
    for answer, value in (("It is easy.\nanswer: {}", 1.0), ("#### {}.0", 1.0), ("{}", 1.0), ("answer: {}\nanswer: 99999", 0.0), ("maybe {}5", 0.0)):
        _, info = env.reset(seed=3)
        right = env.task.data["answer"]
        _, reward, terminated, _, _ = env.step(answer.format(right))
        assert (reward, terminated) == (value, True), answer
    assert info["messages"][0] == {"role": "system", "content": "Be brief."} and env.task.kind == "sum"


def test_the_prompt_may_be_a_text_with_fields_in_it_and_splits_are_by_content(path):
    env = made(path, prompt="Q: {question}")
    names = [{t.partition("/")[2] for t in made(path, prompt="Q: {question}", split=s).taskset.ids()} for s in ("train", "dev", "test")]
    assert env.taskset[0].instruction.startswith("Q: What is") and sum(map(len, names)) == 40 and not names[0] & (names[1] | names[2])
    told = made(path, [{**r, "split": "test" if i < 5 else "train"} for i, r in enumerate(ROWS)], split="test")
    assert len(told.taskset) == 5


def test_an_answer_that_is_marked_is_read_as_people_would():
    for text, found in (("a\nb", "b"), ("answer: 4 \nthanks", "4"), ("####7", "7"), ("Answer: x answer: y", "y"), ("  ", ""), ("answer:", "")):
        assert said(text) == found


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        (["{"], r":1 is no JSON object"), ([{"question": "x"}], r":1 has no field 'solution'; it has question"), ([ROWS[0], {"solution": 1}], r":2 has no field"),
        ([{**ROWS[0], "solution": ""}], r":1 has an empty 'solution'"), ([{**ROWS[0], "split": "unseen"}], "split 'unseen'"), ([], "no row for the split train"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_file_is_said_with_its_line(rows, why, path):
    with pytest.raises(UsageError, match=why):
        made(path, rows)


def test_wrong_options_are_one_line(path):
    with pytest.raises(UsageError, match="cannot read /nowhere"):
        agentgym.make("bring/rows", path="/nowhere")
    with pytest.raises(UnknownName, match="Exakt"):
        made(path, by="Exakt(answer='action')")


def test_the_audit_says_what_leaks(path, capsys):
    """Of rows whose answer stands in what is said first, where an agent reads it."""
    rows = [
        {"q": f"Name the secret of house {i}.", "a": f"secret-{i}-word", "split": s} for s in ("train", "dev", "test") for i in range(4 if s == "train" else 2)
    ]
    told = ["check", "bring/rows", "--tasks", "4", "--option", "prompt=q", "--option", "answer=a", "--option", f"path={path(rows)}", "--json"]
    assert guarded([*told, "--option", "system=Answers: secret-0-word secret-1-word secret-2-word secret-3-word"]) == 1
    failed = {c["name"]: c["detail"] for c in json.loads(capsys.readouterr().out)["checks"] if c["status"] == "fail"}
    assert "secret-" in failed["leaks"] and "tasks of dev are tasks of train" in failed["contamination"]


def test_a_data_set_is_read_as_the_hub_would_be(tmp_path):
    from datasets import Dataset

    Dataset.from_list(ROWS).to_parquet(tmp_path / "train.parquet")
    env = agentgym.make("bring/rows", path=f"hf:{tmp_path}", prompt="question", answer="solution", by="number")
    assert 25 < len(env.taskset) <= 40
    with pytest.raises(UsageError, match="no data set"):
        agentgym.make("bring/rows", path=f"hf:{tmp_path}:nowhere")


# The rows of the Berkeley Function-Calling Leaderboard


def played(script, task="train/multi_turn_base_0", reward="outcome"):
    env = agentgym.make("bring/bfcl", reward=reward)
    env.reset(seed=1, options={"task": task})
    for action in script(list(env.oracle())):
        if env.episode.stop_reason is None:
            env.step(action)
    return env


def test_its_rows_pass_the_audit():
    report = check("bring/bfcl", tasks=6)
    assert report.passed, [c for c in report.checks if c.status == "fail"]


@pytest.mark.parametrize("kind", ["base", "miss_param", "long_context"])
def test_the_reference_calls_solve_their_rows(kind):
    env = agentgym.make("bring/bfcl", kinds=kind, split="test")
    for task in env.taskset.ids()[:12]:
        env.reset(seed=1, options={"task": task})
        for action in list(env.oracle()):
            env.step(action)
        assert env.episode.success, task


def test_each_turn_must_leave_the_state_and_return_what_the_reference_does():
    look, other = agentgym.messages.call("ls"), agentgym.messages.call("touch", file_name="stray.txt")
    for name, script, share in (
        ("as the reference", lambda s: s, 1.0), ("looking around besides", lambda s: [look, *s], 1.0), ("a stray file", lambda s: [other, *s], 0.0),
        ("a call left out", lambda s: s[1:], 0.0), ("nothing done", lambda s: ["done"] * 4, 0.0), ("the first turn alone", lambda s: [*s[:4], *["done"] * 3], 0.25),
    ):  # fmt: skip
        env = played(script)
        verdict = env.episode.verdicts["task"]
        assert (verdict.value, env.episode.turns[-1].verdicts["followed"].value) == (float(share == 1.0), share), name


def test_the_next_question_comes_once_the_agent_says_something_and_wrong_calls_are_answers():
    env = agentgym.make("bring/bfcl")
    first, _ = env.reset(seed=1, options={"task": "train/multi_turn_base_0"})
    assert "No such" in env.step(agentgym.messages.call("cd", folder="nowhere"))[0] and "error" in env.step(agentgym.messages.call("cd", fold="x"))[0]
    assert "there is no tool" in env.step(agentgym.messages.call("fly"))[0] and env.episode.turns[-1].verdicts["followed"].value == 0.0
    asked = env.step("I am done with that.")[0]
    assert "grep" in asked and asked != first and set(env.tools) >= {"cd", "mv", "post_tweet"} and env.tools["cd"].spec.parameters["type"] == "object"
    with pytest.raises(UnknownName, match="miss_func"):
        agentgym.make("bring/bfcl", kinds="miss_func")


def test_the_verdict_is_the_leaderboards_own():
    """Reference scripts, whole and damaged, judged by our rule and by the package's checker."""
    from agentgym_bring.bfcl import rows
    from bfcl_eval.eval_checker.multi_turn_eval.multi_turn_checker import multi_turn_checker

    env, agreed = agentgym.make("bring/bfcl", kinds="base"), []
    for n, task in enumerate(env.taskset.ids()[:40]):
        about = rows()[task]
        turns = [list(calls) for calls in about["answers"]]
        for damage in range(3):
            kept = [calls[damage:] if i == damage - 1 else calls for i, calls in enumerate(turns)]
            env.reset(seed=1, options={"task": task})
            for calls in kept:
                for written in calls:
                    env.step(agentgym.messages.print_action("", [env._world.call_of(written)]))
                if env.episode.stop_reason is None:
                    env.step("done")
            theirs = multi_turn_checker([[[c] for c in calls] for calls in kept], turns, about["row"], "multi_turn_base", f"model{n}x{damage}")
            agreed.append((env.episode.success, theirs["valid"]))
    assert all(ours == theirs for ours, theirs in agreed) and len(set(agreed)) == 2


HARBOR = Path(agentgym_bring.__file__).with_name("harbor")


@pytest.fixture
def folder(tmp_path):
    need("docker")
    shutil.copytree(HARBOR / "count-lines", tmp_path / "tasks" / "count-lines")
    return tmp_path / "tasks"


def shell(env, command):
    return env.step(call("bash", command=command))


def test_harbors_own_models_read_our_task_folders_as_we_do():
    paths = sorted((Path(sys.prefix) / "models").glob("harbor-*.whl"))
    if not paths:
        pytest.skip("the wheel of harbor could not be fetched")
    script = "import sys, tomllib; sys.path.insert(0, sys.argv[1])\nfrom harbor.models.task.config import TaskConfig\n"
    script += "c = TaskConfig.model_validate(tomllib.load(open(sys.argv[2], 'rb')))\nprint(c.verifier.timeout_sec, c.environment.memory_mb, c.environment.cpus)"
    done = subprocess.run([sys.executable, "-c", script, str(paths[0]), str(HARBOR / "count-lines" / "task.toml")], capture_output=True, text=True)
    if "ModuleNotFoundError" in done.stderr or "SyntaxError" in done.stderr:
        pytest.skip(f"harbor cannot be imported by this Python: {done.stderr.splitlines()[-1]}")
    ours = folders(str(HARBOR), False)["test"]["count-lines"].config
    assert done.stdout.split() == [str(ours.verifier.timeout_sec), str(ours.environment.memory_mb), str(int(ours.environment.cpus))], done.stderr


def test_harbor_folders_pass_the_audit():
    need("docker")
    report = check("bring/harbor", tasks=1)
    assert report.passed, [c for c in report.checks if c.status == "fail"]


def test_what_is_left_beside_the_folder_decides_nothing(folder):
    env = agentgym.make("bring/harbor", split="test", path=str(folder))
    _, info = env.reset(seed=1)
    assert "in the folder /app;" in info["messages"][0]["content"] and "not root" in info["messages"][0]["content"]
    shown, *_ = shell(env, "pwd; ls /app; id -u; touch /tests 2>&1; mkdir -p /logs/verifier 2>&1; ls /tests 2>&1")
    assert "answer.txt" not in shown and "Permission denied" in shown
    shell(env, "mkdir -p ~/bin /tmp/made/logs && printf '#!/bin/sh\\necho 0' > ~/bin/wc && chmod +x ~/bin/wc && echo 'PATH=~/bin:$PATH' > ~/.profile")
    shell(env, "(setsid sh -c 'while :; do mkdir -p /logs/verifier; echo 1 > /logs/verifier/reward.txt; sleep 0.1; done' > /dev/null 2>&1 &)")
    shell(env, "echo 0 > /app/answer.txt; ln -s /dev/zero /app/zero; mkfifo /app/pipe; ln -s /logs/verifier/reward.txt /app/reward")
    _, reward, terminated, *_ = env.step(call("submit"))
    assert (reward, terminated) == (0.0, True) and env.episode.verdicts["tests"].status == "scored"
    env.close()


@pytest.mark.parametrize(
    ("test", "value", "why"),
    [
        ("echo 0.25 > /logs/verifier/reward.txt", 0.25, None), ('echo \'{"a": 1, "b": 0}\' > /logs/verifier/reward.json', 0.5, None),
        ("exit 3", 0.0, "no reward"), ("echo nan > /logs/verifier/reward.txt", None, "[0, 1]"), ("echo 7 > /logs/verifier/reward.txt", None, "[0, 1]"),
        ("echo well > /logs/verifier/reward.txt", 0.0, "holds no reward"), ("ls -A /app/new | wc -l > /logs/verifier/reward.txt", 1.0, None),
    ],
)  # fmt: skip
def test_a_reward_is_what_the_tests_write(folder, test, value, why):
    (folder / "count-lines" / "tests" / "test.sh").write_text(test + "\n")
    env = agentgym.make("bring/harbor", split="test", path=str(folder))
    env.reset(seed=1)
    shell(env, "mkdir /app/new; echo x > /app/new/x")
    if value is None:
        with pytest.raises(EnvironmentFault, match=re.escape(why)):
            env.step(call("submit"))
    else:
        assert env.step(call("submit"))[1] == value
        assert why is None or why in env.episode.verdicts["tests"].evidence["why"]
    env.close()


def test_the_audit_says_where_an_image_holds_its_answer(folder, capsys):
    environment = folder / "count-lines" / "environment"
    shutil.copy(folder / "count-lines" / "solution" / "solve.sh", environment / "solve.sh")
    (environment / "Dockerfile").write_text((environment / "Dockerfile").read_text() + "COPY solve.sh /opt/notes.txt\nENV PATH=/app/bin:$PATH\n")
    assert guarded(["check", "bring/harbor", "--tasks", "1", "--option", f"path={folder}"]) == 1
    told = capsys.readouterr().err
    assert "/opt/notes.txt is solution/solve.sh" in told and "PATH leads into the agent's folder" in told


def test_a_folder_that_was_made_a_file_is_graded_and_is_no_fault(folder):
    env = agentgym.make("bring/harbor", split="test", path=str(folder))
    env.reset(seed=1)
    shell(env, "rm -rf /app/logs && echo x > /app/logs && ln -s /nowhere/at/all /app/answer.txt")
    _, reward, terminated, *_ = env.step(call("submit"))
    assert (reward, terminated) == (0.0, True) and env.episode.status == "valid"
    env.close()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"task.toml": "not toml ["}, "is no task"), ({"task.toml": "[environment]\ngpus = 1"}, "needs a GPU"), ({"task.toml": "[[steps]]\nname = 'a'"}, "several steps"),
        ({"environment/docker-compose.yaml": "services: {}"}, "a compose file"), ({"tests/test.sh": None}, "needs tests/test.sh"), ({"instruction.md": "\n"}, "no instruction"),
        ({"task.toml": "[environment]\ncpus = 'many'"}, "cpus"), ({"environment/Dockerfile": None}, "docker_image"),
    ],
)  # fmt: skip
def test_a_folder_that_cannot_be_played_is_said_or_left_out(folder, change, why):
    shutil.copytree(folder / "count-lines", folder / "good")
    for name, text in change.items():
        path = folder / "count-lines" / name
        path.unlink() if text is None else path.write_text(text)
    with pytest.raises(UsageError, match=re.escape(why)):
        agentgym.make("bring/harbor", split="test", path=str(folder))
    assert list(agentgym.make("bring/harbor", split="test", path=str(folder), skip=True).taskset.ids()) == ["good"]


def test_images_that_cannot_be_had_are_faults_of_nobody_at_play(folder):
    (folder / "count-lines" / "environment" / "Dockerfile").write_text("FROM agentgym/base\nRUN echo it breaks here && false\n")
    env = agentgym.make("bring/harbor", split="test", path=str(folder))
    with pytest.raises(EnvironmentFault, match="it breaks here"):
        env.reset(seed=1)
    with pytest.raises(UsageError, match="no task is in split train"):
        agentgym.make("bring/harbor", path=str(folder))
    for wrong in ("/nowhere", str(folder / "count-lines" / "tests")):
        with pytest.raises(UsageError):
            agentgym.make("bring/harbor", split="test", path=wrong)
