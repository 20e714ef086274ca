"""The environment template: order, limits, malformed actions, verdicts, snapshots (rows 24 to 26 of the list of faults)."""

import pickle
from typing import Any, ClassVar

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from worlds import Judge, World

from agentgym import errors
from agentgym.checks.subject import GARBAGE
from agentgym.core import Limits, StopReason, Verdict
from agentgym.errors import UnknownName
from agentgym.messages import call


def test_step_before_reset_after_the_end_and_after_close_are_typed_errors():
    env = World()
    with pytest.raises(errors.ResetNeeded):
        env.step("go")
    env.reset(options={"task": "t.0"})
    env.step("go")
    with pytest.raises(errors.EpisodeOver):
        env.step("go")
    env.close()
    env.close()
    with pytest.raises(errors.EnvironmentClosed):
        env.step("go")
    with pytest.raises(errors.EnvironmentClosed):
        env.reset()


def test_a_second_task_sees_nothing_of_the_first():
    env = World()
    env.reset(options={"task": "t.4"})
    env.step("secret words")
    first = env.episode
    text, info = env.reset(options={"task": "t.2"})
    assert "t.4" not in text and info["turn"] == 0
    assert env.episode is not first and not env.episode.turns and env.episode.task == "t.2"


def test_an_action_that_is_no_text_is_the_callers_error():
    env = World()
    env.reset(seed=1)
    with pytest.raises(errors.ActionTypeError):
        env.step(3)


@pytest.mark.parametrize("text", GARBAGE, ids=lambda t: repr(t[:24]))
def test_whatever_a_model_writes_is_an_observation_and_then_a_parse_error(desk, text):
    observation, _ = desk.reset(seed=1)
    total, turns = 0.0, 0
    while True:
        observation, reward, terminated, truncated, info = desk.step(text)
        total, turns = total + reward, turns + 1
        assert isinstance(observation, str) and observation.startswith("error")
        if terminated or truncated:
            break
    assert info["stop_reason"] == "parse_error" and terminated and turns == desk.task.limits.max_malformed
    assert total <= 0.0


@pytest.mark.parametrize(
    ("action", "said"),
    [
        (call("no_such_tool"), "did you mean"),
        (call("../read_ticket"), "there is no tool"),
        (call("set_ticket", id="seven", status="open"), "Expected `int`"),
        (call("set_ticket", id=7), "missing required field `status`"),
        (call("set_ticket", id=7, status="opened"), "Invalid enum value"),
        (call("set_ticket", id=7, status="open", force=True), "unknown field `force`"),
    ],
)
def test_a_wrong_call_says_what_is_wrong(desk, action, said):
    desk.reset(seed=1)
    before = desk.desk.hash
    observation, *_ = desk.step(action)
    assert said in observation
    assert desk.desk.hash == before and desk.episode.turns[0].facts["calls"] == ["malformed"]


def test_a_refusal_of_the_world_is_not_malformed(desk):
    desk.reset(seed=1)
    observation, *_ = desk.step(call("read_ticket", id=9))
    assert observation == "error: there is no ticket 9"
    assert desk.episode.turns[0].facts["calls"] == ["refused"]


class Short(World):
    given = Limits(max_turns=2)


def test_the_turn_limit_truncates_and_is_still_graded():
    env = Short()
    env.reset(options={"task": "t.5"})
    env.step("go")
    *_, terminated, truncated, info = env.step("go")
    assert (terminated, truncated, info["stop_reason"]) == (False, True, "max_turns")
    assert env.episode.verdicts["task"].status == "scored"


def test_end_from_outside_keeps_the_cut_action_unexecuted_and_grades():
    env = World()
    env.reset(options={"task": "t.5"})
    _, _, terminated, truncated, info = env.end(StopReason.MAX_TOKENS, '<tool_call>{"na')
    assert (terminated, truncated, info["stop_reason"]) == (False, True, "max_tokens")
    assert env.turns == 0 and env.episode.turns[0].problem.startswith("not executed")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), True, "1.0", None, [1.0]])
def test_a_value_that_is_no_finite_number_is_never_a_reward(value):
    class Broken(World):
        verifiers = {"task": Judge(lambda view: Verdict("scored", value))}

    env = Broken()
    env.reset(options={"task": "t.0"})
    with pytest.raises(errors.VerifierFault):
        env.step("go")
    assert env.episode.status != "valid" and not env.episode.terms


def test_a_verifier_that_raises_is_a_fault_with_a_culprit():
    class Broken(World):
        verifiers = {"task": Judge(lambda view: 1 / 0)}

    env = Broken()
    env.reset(options={"task": "t.0"})
    with pytest.raises(errors.VerifierFault, match="ZeroDivisionError") as caught:
        env.step("go")
    assert caught.value.culprit == "verifier"


def test_tampering_scores_the_floor():
    class Touched(World):
        verifiers = {"task": Judge(lambda view: Verdict.tampered("planted a file"))}

    env = Touched()
    env.reset(options={"task": "t.0"})
    _, reward, *_, info = env.step("go")
    assert reward == 0.0 and info["verdicts"]["task"]["status"] == "tampered"


def test_a_snapshot_outlives_its_environment_and_gives_the_same_future():
    env = World()
    env.reset(options={"task": "t.5"})
    env.step("go")
    env.step("<tool_call>")
    point, here = pickle.loads(pickle.dumps(env.snapshot())), env._hash
    future = [env.step("go")[4]["state_hash"] for _ in range(3)]
    forks = env.fork(2)
    env.close()
    other = World()
    other.restore(point)
    assert other._hash == here
    assert [other.step("go")[4]["state_hash"] for _ in range(3)] == future
    assert [f.episode.parent for f in forks] == [("t.5#0", 5)] * 2


def test_every_error_pickles():
    for cls in vars(errors).values():
        if isinstance(cls, type) and issubclass(cls, errors.AgentGymError):
            made = (
                cls("flag", "x", ["y"])
                if cls in (errors.UnknownName, errors.BundleError)
                else cls("a", "b")
                if cls in (errors.MissingExtra, errors.SandboxRefused, errors.SpecError)
                else cls("a")
            )
            again = pickle.loads(pickle.dumps(made))
            assert str(again) == str(made) and len(cls.__mro__) > 3


def test_limits_can_be_overridden_and_are_recorded_as_enforced():
    env = World(limits={"max_turns": 1, "max_malformed": 9})
    env.reset(options={"task": "t.5"})
    assert env.step("go")[4]["stop_reason"] == "max_turns"
    assert env.episode.limits["max_turns"] == 1 and env.episode.task_digest == env.task.digest == World().tasks("train").get("t.5").digest
    with pytest.raises(errors.UnknownName, match="max_turns"):
        World(limits={"max_turn": 1})


def test_an_environment_with_a_screen_conforms_and_shows_it():
    class Seen(World):
        id = "test/seen-v0"
        screen = (4, 6)
        metadata: ClassVar[dict[str, Any]] = {"render_modes": ["ansi", "rgb_array"], "render_fps": 1}

        def _scene(self):
            scene = super()._scene()
            scene.screenshot = np.full((4, 6, 3), self.turns, dtype=np.uint8)
            return scene

    env = Seen(render_mode="rgb_array")
    check_env(env, skip_render_check=True)
    first, _ = env.reset(seed=1, options={"task": "t.2"})
    second = env.step("go")[0]
    assert first["text"].startswith("Say go") and second["screenshot"].max() == 1 and (env.render() == second["screenshot"]).all()
    assert isinstance(World().reset()[0], str) and World().render() is None


def test_a_split_there_is_not_is_named_with_those_there_are():
    with pytest.raises(UnknownName, match="nearest: train"):
        World(split="tran")
