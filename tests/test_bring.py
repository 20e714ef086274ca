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
