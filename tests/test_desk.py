"""The desk: every template's oracle, the incremental hash, disjoint splits, and verifiers that look at rows."""

from collections import Counter, defaultdict

import pytest
from agentgym_tools.desk import Desk, row_digest, rows_of
from agentgym_tools.plan import TEMPLATES
from agentgym_tools.tasks import DEMO, SPLITS, draw, plan_of, tasks_of, world_of
from agentgym_tools.tools import TOOLS
from agentgym_tools.verify import same_answer
from agentgym_tools.world import COLUMNS

from agentgym import make
from agentgym.errors import UnknownName, UsageError
from agentgym.messages import ToolCall, call, print_action

ALONE = {name: t for name, t in TEMPLATES.items() if not t.talk}
LEVELS = {1: (1, 1), 2: (2, 3), 3: (4, 6), 4: (7, 12)}


def play(env, task, actions=None):
    env.reset(options={"task": task})
    total = 0.0
    for action in env.oracle() if actions is None else actions:
        _, reward, terminated, truncated, _ = env.step(action)
        total += reward
        if terminated or truncated:
            break
    return total


def test_there_is_enough_of_everything():
    assert len(TOOLS) >= 25 and len(ALONE) >= 30
    assert {t.level for t in ALONE.values()} == {1, 2, 3, 4}
    endings = Counter(plan_of(draw(t.name, "unseen" if t.unseen else "train", 0)).ending[0] for t in ALONE.values())
    assert endings["refuse"] >= 4 and endings["answer"] >= 4
    assert sum(bool(plan_of(draw(t.name, "unseen" if t.unseen else "train", 0)).user) for t in ALONE.values()) >= 3
    for found in TOOLS.values():
        assert found.spec.description and found.spec.parameters["type"] == "object"


@pytest.mark.parametrize("name", ALONE)
def test_the_oracle_of_each_template_solves_it_in_the_calls_of_its_level(name):
    split = "unseen" if TEMPLATES[name].unseen else "train"
    env = make("tools/desk", split=split)
    low, high = LEVELS[TEMPLATES[name].level]
    for number in range(6):
        task = f"{name}.{split}.{number}"
        assert play(env, task) == 1.0, task
        assert low <= len(env.episode.turns) - 1 <= high


@pytest.mark.parametrize("name", ALONE)
def test_no_template_pays_for_doing_nothing_or_for_half_of_it(name):
    split = "unseen" if TEMPLATES[name].unseen else "train"
    env = make("tools/desk", split=split)
    task = f"{name}.{split}.0"
    plan = plan_of(env.taskset.get(task))
    assert play(env, task, [call("finish")]) == 0.0
    if plan.changes:
        writes = [
            c
            for c in plan.calls
            if c.name.startswith(("set", "move", "write", "send", "pay", "ref", "can", "assign", "note", "change", "red", "upd", "add", "del"))
        ]
        assert play(env, task, [print_action("", [c]) for c in plan.oracle() if c is not writes[-1]]) == 0.0


def test_an_unasked_write_fails_the_task(desk):
    env = make("tools/desk")
    task = "set_status.train.0"
    oracle = plan_of(env.taskset.get(task)).oracle()
    other = next(t["id"] for t in world_of(env.taskset.get(task)).rows("contacts"))
    spoilt = [call("update_contact", id=other, city="Nowhere"), *(print_action("", [c]) for c in oracle)]
    assert play(env, task, spoilt) == 0.0
    assert env.episode.verdicts["task"].evidence["wrong_rows"] == [f"contacts {other}"]


def test_a_refusal_must_name_the_rule_and_be_called_for():
    env = make("tools/desk")
    for rule in ("R1", "R2", "R3", "R4", "R5", "R6", "no", "all of them R1 R2 R3"):
        assert play(env, "reopen.train.0", [call("refuse", rule=rule)]) == float(rule == "R1")
        assert play(env, "close_by_title.train.0", [call("refuse", rule=rule)]) == 0.0


def test_a_wrong_answer_scores_nothing():
    env = make("tools/desk")
    task = "cost_of_order.train.0"
    right = plan_of(env.taskset.get(task)).ending[1]
    for wrong in (right + 1, f"{right} {right + 1}", "", [str(right)], str(right) * 2, f"it is {right}"):
        assert play(env, task, [call("answer", value=wrong)]) == 0.0
    assert play(env, task, [call("answer", value=str(right))]) == 1.0


@pytest.mark.parametrize(
    ("wanted", "given", "same"),
    [
        ("Ada Fox", " ada  fox ", True), (12, "12", True), (12, 12.0, True), ("12", 12, True), (12, "12 13", False), (["a", "b"], ["B", "a"], True),
        (["a"], ["a", "b"], False), (["a"], "a", False), (None, None, True), (None, "", False), ("x", None, False), (1, True, False), ("nan", "nan", True), (3, "nan", False),
    ],
)  # fmt: skip
def test_answers_are_equal_only_where_they_are(wanted, given, same):
    assert same_answer(wanted, given) is same


def test_the_hash_kept_incrementally_is_the_hash_of_all_rows():
    env = make("tools/desk")
    for task in env.taskset.ids()[:66]:
        play(env, task)
        whole = sum(row_digest(t, r) for t, rows in rows_of(env.desk.dump()).items() for r in rows.values()) % (1 << 128)
        assert whole == env.desk.hash == Desk(env.desk.dump()).hash


def test_splits_are_disjoint_by_their_parameters():
    seen = defaultdict(set)
    for split in SPLITS:
        tasks = tasks_of(split)
        for i in range(0, len(tasks), 5):
            task = tasks[i]
            seen[split].add((task.data["template"], task.instruction))
    assert seen["demo"] <= seen["dev"] | {(t, tasks_of("dev").get(i).instruction) for i in tasks_of("demo").ids() for t in [i.split(".")[0]]}
    for a in ("train", "dev", "test", "unseen"):
        for b in ("train", "dev", "test", "unseen"):
            assert a == b or not seen[a] & seen[b]
    assert {t for t, _ in seen["unseen"]} == {t.name for t in ALONE.values() if t.unseen}


def test_the_demo_split_is_dev_tasks_of_named_templates():
    tasks = tasks_of("demo")
    assert len(tasks) == 300 and {i.split(".")[0] for i in tasks.ids()} == set(DEMO) and all(".dev." in i for i in tasks.ids())


def test_tasks_are_made_one_at_a_time_and_chosen_by_options():
    env = make("tools/desk", levels=[4], split="dev")
    assert {TEMPLATES[t.split(".")[0]].level for t in env.taskset.ids()} == {4}
    for wrong, error in (({"templates": ["close_by_titel"]}, UnknownName), ({"levels": [9]}, UsageError)):
        with pytest.raises(error):
            make("tools/desk", **wrong)
    with pytest.raises(UnknownName, match=r"close_by_title\.dev\.1"):
        env = make("tools/desk", split="dev")
        env.reset(options={"task": "close_by_titl.dev.1"})


def test_step_verifiers_score_form_name_arguments_and_values_apart():
    env = make("tools/desk")
    task = "replace_text.train.0"
    gold = plan_of(env.taskset.get(task)).calls[0]

    def verdicts(action):
        env.reset(options={"task": task})
        env.step(action)
        found = env.episode.turns[0].verdicts
        return [found[n].value for n in ("form", "tool", "names", "values")]

    assert verdicts(print_action("", [gold])) == [1, 1, 1, 1]
    assert verdicts(call("find_file", name="other.txt")) == [1, 1, 1, 0]
    assert verdicts(call("find_file", nam="other.txt")) == [0, 1, 0, 0]
    assert verdicts(call("list_team", team="legal")) == [1, 0, 0, 0]
    assert verdicts("I would look for the file") == [0, 0, 0, 0]
    partly = plan_of(env.taskset.get(task)).calls[2]
    assert 0 < verdicts(print_action("", [ToolCall(partly.name, {**partly.arguments, "text": "wrong"})]))[3] < 1


def test_progress_rises_with_the_oracle_and_falls_with_stray_writes():
    env = make("tools/desk", reward="stepwise")
    play(env, "tidy_person.train.0")
    levels = [t.verdicts["progress"].value for t in env.episode.turns]
    assert levels == sorted(levels) and levels[-1] == 1.0
    env.reset(options={"task": "close_by_title.train.0"})
    some = next(iter(env.desk.find("contacts")))["id"]
    actions = env.oracle()
    env.step(next(actions))
    before = env.episode.turns[-1].verdicts["progress"].value
    env.step(call("update_contact", id=some, city="x"))
    assert env.episode.turns[-1].verdicts["progress"].value < before


def test_the_user_tells_one_thing_and_only_when_asked():
    env = make("tools/desk")
    env.reset(options={"task": "book_when_told.train.0"})
    facts = env.desk.user
    for value in facts.values():
        assert value not in env.task.instruction.split()
    say = lambda q: env.step(call("ask_user", question=q))[0]  # noqa: E731
    assert say("tell me everything") == "I have nothing to say about that."
    assert say("the day and the room?") == "Please ask for one thing, by its name."
    assert say("Which DAY?") == f"day {facts['day']}"


def test_calls_after_the_end_do_nothing():
    env = make("tools/desk")
    env.reset(options={"task": "set_status.train.0"})
    before = env.desk.hash
    observation, *_ = env.step(print_action("", [ToolCall("finish", {}), ToolCall("delete_file", {"id": env.desk.find("files")[0]["id"]})]))
    assert env.desk.hash == before and "the episode has ended" in observation


def test_a_fork_has_a_database_of_its_own():
    env = make("tools/desk")
    env.reset(options={"task": "set_status.train.0"})
    left, right = env.fork(2)
    for action in left.oracle():
        left.step(action)
    assert left.episode.success and right.desk.hash == env.desk.hash != left.desk.hash
    env.close()
    for action in right.oracle():
        right.step(action)
    assert right.episode.success


def test_sql_in_an_argument_is_only_text():
    env = make("tools/desk")
    env.reset(seed=1)
    count = len(env.desk.find("contacts"))
    for text in ("x'; DROP TABLE contacts; --", "' OR '1'='1", "%", "_" * 10):
        assert env.step(call("find_tickets", owner=text))[0] == "none"
        env.reset(seed=1)
    assert len(env.desk.find("contacts")) == count


def test_observations_are_one_key_and_value_per_line():
    env = make("tools/desk")
    env.reset(options={"task": "close_by_title.train.0"})
    observation, *_ = env.step(next(env.oracle()))
    assert [line.split(" ")[0] for line in observation.splitlines()] == ["id", "status"]


def test_worlds_have_near_duplicates_and_consistent_payments():
    world = world_of(draw("set_status", "train", 3))
    firsts = Counter(c["name"].split()[0] for c in world.rows("contacts"))
    assert max(firsts.values()) >= 2 and len({c["name"] for c in world.rows("contacts")}) == len(world.rows("contacts"))
    orders = {o["id"]: o for o in world.rows("orders")}
    assert all(p["amount"] == orders[p["order_id"]]["price"] * orders[p["order_id"]]["quantity"] for p in world.rows("payments"))
    assert set(world.tuples()) == set(COLUMNS)
