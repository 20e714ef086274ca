"""The desk with somebody on the other seat: a person with a phone of their own, or a model that answers for the tools."""

import random

import pytest
from agentgym_tools.plan import TEMPLATES
from agentgym_tools.sim import answered, apply
from agentgym_tools.user import helpful, terse

import agentgym
from agentgym.errors import ToolError
from agentgym.messages import call

TALK = [t for t in TEMPLATES.values() if t.talk]


def user_game(template, number=0):
    env = agentgym.make("tools/desk-user")
    return env.game(env.taskset.get(f"{template}.train.{number}"))


@pytest.mark.parametrize("template", [t.name for t in TALK])
def test_a_task_of_the_person_needs_both(template):
    """Done with a helpful person; without asking, or if the person only says that they do not know, it is not done."""
    env = agentgym.make("tools/desk-user")
    for number in range(3):
        task = f"{template}.train.{number}"
        env.reset(seed=0, options={"task": task})
        for action in env.oracle():
            env.step(action)
        assert env.episode.success, task
        env.reset(seed=0, options={"task": task})
        for c in env.match.game.plan.oracle():
            if c.name != "ask_user" and env.episode.stop_reason is None:
                from agentgym.messages import print_action

                env.step(print_action("", [c]))
        plan = env.match.game.plan
        assert env.episode.success == (not plan.approve and not plan.phone)


def test_what_the_person_prefers_is_not_to_be_seen_until_asked():
    game = user_game("status_they_want")
    assert game.plan.user["status"] in game.rules("user") and game.plan.user["status"] not in game.rules("agent") + game.view("agent")
    game.step("What else?")
    assert helpful(game, "user", random.Random(0)) == "I have nothing to say about that."
    game.step("Nothing.")
    game.step("Which status?")
    assert game.plan.user["status"] in helpful(game, "user", random.Random(0))


def test_a_refund_waits_for_the_persons_own_hand():
    game = user_game("refund_they_approve")
    number = game.plan.approve[0]
    refund = next(c for c in game.plan.calls if c.name == "refund")
    game.step(call("refund", **refund.arguments))
    assert "has not been approved" in game.answers["agent"][0][1]
    game.step(f"Please approve payment {number} in your app.")
    with pytest.raises(ToolError):
        game.step("")
    game.step(helpful(game, "user", random.Random(0)))
    assert game.current == "user" and game.phone.approved == {number}
    game.step("Done.")
    game.step(call("refund", **refund.arguments))
    assert game.answers["agent"][0][1] == "ok"
    game.step(call("finish"))
    assert game.current is None and game.value("agent") == game.value("user") == 1.0


def test_a_setting_that_nobody_asked_for_fails_the_task():
    game = user_game("status_they_want")
    game.step("Hello.")
    game.step(call("set_phone", setting="ringtone", value="loud"))
    game.step("I changed something.")
    for c in game.plan.oracle():
        if c.name != "ask_user":
            game.step(call(c.name, **c.arguments))
    assert game.value("agent") == 0.0 and game.measures("agent")["wrong_on_phone"] == ["ringtone"]


def test_a_person_who_hangs_up_ends_it():
    game = user_game("status_they_want")
    game.step("Hello.")
    game.step(call("hang_up"))
    assert game.current is None and game.value("agent") == 0.0


def test_a_terse_person_makes_it_longer_and_the_seats_tools_are_their_own():
    game = user_game("status_they_want")
    game.step("Which status?")
    assert terse(game, "user", random.Random(0)) == "What do you mean?"
    agent, user = (agentgym.make("tools/desk-user", seat=s) for s in ("agent", "user"))
    assert set(user.tools) == {"show_phone", "set_phone", "approve", "hang_up"} and "ask_user" not in agent.tools and not set(user.tools) & set(agent.tools)
    found = agentgym.make("tools/desk-user", seat="user")
    found.reset(seed=0)
    assert found.step(call("refund", id=1, amount=1))[0].startswith("error: there is no tool")


# A model for the tools


def sim_game(task="set_status.train.0"):
    env = agentgym.make("tools/desk-sim")
    return env.game(env.taskset.get(task))


def test_a_faithful_world_is_the_desk_itself():
    for opponents, faithful in (("faithful", True), ("sloppy", False), ("random", False)):
        env, fidelity = agentgym.make("tools/desk-sim", opponents=opponents), []
        for i in range(12):
            env.reset(seed=i, options={"task": env.taskset.ids()[i]})
            plan = env.match.game.plan.oracle()
            for c in plan:
                if env.episode.stop_reason is None:
                    env.step(call(c.name, **c.arguments))
            fidelity.append(env.episode.verdicts["result"].evidence["fidelity"])
            assert not faithful or env.episode.success
        assert (sum(fidelity) == 12) == faithful


def test_what_is_claimed_is_what_happened():
    game = sim_game()
    done = next(c for c in game.plan.calls if c.name == "set_ticket")
    game.step(call(done.name, **done.arguments))
    game.step(answered("ok", []))
    assert game.fidelity == 0.0 and game.desk.get("tickets", done.arguments["id"])["status"] != done.arguments["status"]
    game.step(call("finish"))
    assert game.value("agent") == 0.0 and game.value("world") == 0.0


@pytest.mark.parametrize(
    "claim",
    [
        "ok",
        "ok\neffect: nonsense",
        'ok\neffect: [["nowhere", 1, "=", {}]]',
        'ok\neffect: [["tickets", 99999, "=", {"status": "open"}]]',
        'ok\neffect: [["tickets", 1, "?", {}]]',
    ],
)
def test_an_answer_that_claims_nothing_or_the_impossible_is_refused(claim):
    game = sim_game()
    game.step(call("read_rules"))
    state = game.desk.hash
    with pytest.raises(ToolError):
        game.step(claim)
    assert game.desk.hash == state and game.current == "world"


def test_trying_leaves_no_trace():
    game = sim_game()
    desk, before = game.desk, game.desk.hash
    dump = desk.rows()
    with desk.trying():
        apply(desk, [["mails", next(iter(dump["mails"])), "=", {"folder": "trash"}]])
        assert desk.hash != before
    assert desk.hash == before and desk.rows() == dump and desk.writes == []


def test_the_world_is_a_seat_that_can_be_played_and_is_paid_for_fidelity():
    env = agentgym.make("tools/desk-sim", seat="world", reward="stepwise")
    for i in range(4):
        env.reset(seed=i, options={"task": env.taskset.ids()[i]})
        if env.match.over:
            continue
        for action in env.oracle():
            env.step(action)
        assert env.episode.verdicts["result"].value == 1.0
