"""Tasks that users bring along: what is wrong with a file is said with its line, and what leaks is said by the audit."""

import json

import pytest
from agentgym_bring.rows import said

import agentgym
from agentgym.checks import check
from agentgym.cli.main import guarded
from agentgym.errors import UnknownName, UsageError

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
                for call in calls:
                    env.step(agentgym.messages.print_action("", [env._world.call_of(call)]))
                if env.episode.stop_reason is None:
                    env.step("done")
            theirs = multi_turn_checker([[[c] for c in calls] for calls in kept], turns, about["row"], "multi_turn_base", f"model{n}x{damage}")
            agreed.append((env.episode.success, theirs["valid"]))
    assert all(ours == theirs for ours, theirs in agreed) and len(set(agreed)) == 2
