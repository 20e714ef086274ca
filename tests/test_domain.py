"""Service desks in tau-bench's form: what comes out right, who says what, and what is wrong with a folder."""

import json
import re
import shutil
from pathlib import Path

import agentgym_bring
import anyio
import pytest

import agentgym
from agentgym.checks import check
from agentgym.cli.main import guarded
from agentgym.errors import UsageError
from agentgym.messages import call
from agentgym.policies import resolve
from agentgym.rollout import Job, Rollout

LIBRARY = Path(agentgym_bring.__file__).with_name("library")
CLASSIC = """
import json
from typing import Any, Dict

class Cancel:
    @staticmethod
    def invoke(data: Dict[str, Any], order_id: str, reason: str) -> str:
        orders = data["orders"]
        if order_id not in orders:
            return "Error: order not found"
        orders[order_id]["status"] = "cancelled"
        orders[order_id]["reason"] = reason
        return json.dumps(orders[order_id])

    @staticmethod
    def get_info() -> Dict[str, Any]:
        return {"type": "function", "function": {"name": "cancel_order", "description": "Cancel an order.", "parameters": {"type": "object",
            "properties": {"order_id": {"type": "string"}, "reason": {"type": "string"}}, "required": ["order_id", "reason"]}}}

class Transfer:
    @staticmethod
    def invoke(data: Dict[str, Any], summary: str) -> str:
        return "Transfer successful"

    @staticmethod
    def get_info() -> Dict[str, Any]:
        return {"type": "function", "function": {"name": "transfer_to_human_agents", "description": "Give up.", "parameters": {"type": "object",
            "properties": {"summary": {"type": "string"}}, "required": ["summary"]}}}
"""


@pytest.fixture
def classic(tmp_path):
    """A folder as tau-bench lays it out, with a task of tau2-bench's, too."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "orders.json").write_text('{"#W1": {"status": "pending", "total": 1234.5}, "#W2": {"status": "pending"}}')
    (tmp_path / "wiki.md").write_text("# Policy\nCancel what is pending.")
    (tmp_path / "tools.py").write_text(CLASSIC)
    rows = [
        {"user_id": "u1", "instruction": "Cancel #W1; you like it no more.", "actions": [{"name": "cancel_order", "kwargs": {"order_id": "#W1", "reason": "no more"}}], "outputs": ["1,234.5"]},
        {"id": "human", "user_scenario": {"instructions": {"task_instructions": "You want a person.", "domain": "orders"}}, "evaluation_criteria": {"actions": [
            {"action_id": "0", "name": "transfer_to_human_agents", "arguments": {"summary": "x"}}], "communicate_info": []}},
        {"instruction": "You want what the policy forbids.", "actions": []},
    ]  # fmt: skip
    (tmp_path / "tasks_test.json").write_text(json.dumps(rows))
    return tmp_path


def test_the_library_passes_the_audit():
    report = check("bring/domain", tasks=4)
    assert report.passed, [c for c in report.checks if c.status == "fail"]


def test_right_is_the_database_as_the_gold_calls_leave_it_and_what_must_be_said(classic):
    env = agentgym.make("bring/domain", split="test", path=str(classic))
    assert list(env.taskset.ids()) == ["test/0", "test/human"] and set(env.tools) == {"cancel_order", "transfer_to_human_agents"}

    def first(*actions):
        env.reset(seed=1, options={"task": "test/0"})
        for action in actions:
            shown, reward, over, _, _ = env.step(action)
            if over:
                return reward
        return shown

    cancel = call("cancel_order", order_id="#W1", reason="no more")
    assert first(cancel, "It was 1234.5 dollars.") == 1.0
    assert first(cancel, "Done.") == 0.0 and first("It was 1234.5 dollars.") == 0.0
    assert first(call("cancel_order", order_id="#W1", reason="other"), "1234.5") == 0.0
    assert first(call("cancel_order", order_id="#W2", reason="no more"), cancel, "1234.5") == 0.0
    assert "order not found" in first(call("cancel_order", order_id="#W9", reason=""))
    assert first(call("transfer_to_human_agents", summary="x")) == 0.0
    env.reset(seed=1, options={"task": "test/human"})
    assert env.step(call("transfer_to_human_agents", summary="someone")) [1] == 1.0  # fmt: skip


def test_who_does_nothing_is_right_nowhere_unless_it_is_asked_for(classic, capsys):
    env = agentgym.make("bring/domain", split="test", path=str(classic))
    env.reset(seed=1, options={"task": "test/human"})
    assert env.step("I can help you with nothing.")[1] == 0.0, "nothing was to be changed, but the call was to be made"
    assert "test/2" in agentgym.make("bring/domain", split="test", path=str(classic), inaction=True).taskset.ids()
    assert guarded(["check", "bring/domain", "--option", f"path={LIBRARY}"]) == 0
    rows = json.loads((LIBRARY / "tasks.json").read_text())
    shutil.copytree(LIBRARY, classic / "idle")
    (classic / "idle" / "tasks.json").write_text(
        json.dumps([*rows, {"split": "train", "instruction": "Ask for what is forbidden.", "actions": [], "outputs": []}])
    )
    capsys.readouterr()
    assert guarded(["check", "bring/domain", "--option", f"path={classic / 'idle'}", "--option", "inaction=true", "--tasks", "50"]) == 1
    assert "noop" in capsys.readouterr().err


def test_what_a_tool_raises_is_its_answer_and_changes_nothing(classic):
    (classic / "tools.py").write_text(
        CLASSIC + '\n\ndef spoil(data, hard: bool) -> str:\n    """Spoil all."""\n    data["orders"].clear()\n    raise RuntimeError("half-way")\n'
    )
    env = agentgym.make("bring/domain", split="test", path=str(classic))
    env.reset(seed=1, options={"task": "test/0"})
    shown, *_ = env.step(call("spoil", hard=True))
    assert "error: half-way" in shown and len(env.match.game.db["orders"]) == 2
    shown, _, _, _, info = env.step(call("spoil", hard="perhaps"))
    assert "hard" in shown and env.match.game.slip == "agent"


class Person:
    """A user who tells one thing at a time."""

    name = "person"

    async def act(self, conversation):
        heard = conversation.messages[-1]["content"]
        said = "Please cancel an order." if "help you" in heard else "#W1, no more." if "which" in heard.lower() else "Thanks. ###STOP###"
        return agentgym.core.Completion(said)


class Agent:
    name = "agent"

    async def act(self, conversation):
        heard = str(conversation.messages[-1]["content"])
        if "Please" in heard:
            return agentgym.core.Completion("Which?")
        return agentgym.core.Completion(call("cancel_order", order_id="#W1", reason="no more") if "#W1, no" in heard else "It was 1234.5.")


def test_the_user_is_a_seat_that_any_policy_takes(classic):
    def made(seat="agent"):
        return agentgym.make("bring/domain", split="test", path=str(classic), seat=seat)

    jobs = [Job("test/0", seed=1, seat=s, match="m") for s in ("agent", "user")]
    agent, user = anyio.run(Rollout(made, Agent(), seats={"user": Person()}).run, jobs)
    assert [t.action for t in user.turns] == ["Please cancel an order.", "#W1, no more.", "Thanks. ###STOP###"]
    assert agent.total == user.total == 1.0 and agent.closing is not None
    assert "This is what you want:\nCancel #W1" in user.turns[0].observation[0]["content"]
    assert not any("no more" in str(m["content"]) for m in agent.turns[0].observation), "the agent does not know the wish before it is told"


def test_the_gold_calls_of_every_task_are_an_episode_that_is_right():
    for split in ("train", "dev", "test"):
        env = agentgym.make("bring/domain", split=split)
        episodes = anyio.run(
            Rollout(lambda env=env: agentgym.make("bring/domain", split=env.split), resolve("oracle")).run, [Job(t) for t in env.taskset.ids()]
        )
        assert all(e.success for e in episodes)


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("tools.py", None, "no tools.py"), ("tools.py", "import nowhere", "ModuleNotFoundError"), ("tools.py", "x = 1", "no public function"),
        ("tasks_test.json", "[{}]", "task 0 has no 'instruction'"), ("tasks_test.json", "[", "cannot read"), ("tasks_test.json", "[]", "no tasks.json"),
        ("tasks_test.json", '[{"instruction": "x", "actions": [{"name": "fly", "kwargs": {}}]}]', "calls fly"),
        ("tasks_test.json", '[{"instruction": "x", "actions": [{"name": "cancel_order", "kwargs": {"order": "#W1", "reason": ""}}]}]', "does not fit"), ("data/orders.json", None, "no db.json"),
        ("tasks_test.json", '[{"instruction": "x", "split": "later"}]', "'later'"), ("data/orders.json", "{", "cannot read"), ("db.json", "[1]", "an object"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_folder_is_said(classic, name, text, why):
    path = classic / name
    path.unlink() if text is None else path.write_text(text)
    with pytest.raises(UsageError, match=re.escape(why)):
        agentgym.make("bring/domain", split="test", path=str(classic))


def test_a_folder_that_changes_is_read_again_and_an_old_task_is_a_fault(classic):
    env = agentgym.make("bring/domain", split="test", path=str(classic))
    old = env.taskset[0]
    (classic / "wiki.md").write_text("Cancel nothing.")
    fresh = agentgym.make("bring/domain", split="test", path=str(classic))
    assert fresh.taskset[0].digest != old.digest
    _, info = fresh.reset(seed=1, options={"task": "test/0"})
    assert info["messages"][0]["content"] == "Cancel nothing."
