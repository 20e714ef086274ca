"""The audit passes an honest environment and catches a leaky one on each count."""

import random
import time
from collections.abc import Mapping
from typing import Any, ClassVar

import pytest
from bench import bench
from worlds import Judge, World

from agentgym.checks import check, conformance, health
from agentgym.checks.attacks import Attack, actions_of, all_attacks, run_attack
from agentgym.checks.report import audit
from agentgym.checks.subject import Failed, Subject
from agentgym.core import Capabilities, Verdict
from agentgym.messages import call, tool
from agentgym.registry import EnvSpec, make


def test_the_desk_passes():
    report = check("tools/desk", tasks=33)
    assert report.passed, [c for c in report.checks if c.status == "fail"]
    assert report.oracle.success == 1.0 and report.noop.success == 0.0 and len(report.attacks) >= 6


def test_there_are_attacks_of_each_class():
    attacks = all_attacks()
    kinds = {"spam", "inaction", "enumeration", "injection", "forgery", "forged markers", "planted file", "monkey-patching", "early exit", "daemon"}
    assert {a.kind for a in attacks} >= kinds | {"answer hunt", "judge injection", "replaced tools"} and len({a.name for a in attacks}) == len(attacks)
    assert all(a.why for a in attacks)


def leaky(judge: Any) -> type[World]:
    @tool
    def answer(world: object, value: str) -> str:
        """Answer."""
        return "answered"

    @tool
    def refuse(world: object, rule: str) -> str:
        """Refuse."""
        return "refused"

    @tool
    def finish(world: object) -> str:
        """End."""
        return "finished"

    class Leaky(World):
        tools: Mapping[str, Any] = {"answer": answer, "refuse": refuse, "finish": finish}
        verifiers: ClassVar[Mapping[str, Any]] = {"task": Judge(judge)}

        def oracle(self):
            while True:
                yield call("answer", value="42")

    return Leaky


def said(view: Any) -> str:
    return " ".join(t.action for t in view.episode.turns)


@pytest.mark.parametrize(
    ("name", "judge"),
    [
        ("dump every id", lambda v: Verdict.scored(float("42" in said(v)))),
        ("dump every id as prose", lambda v: Verdict.scored(float("42" in said(v)))),
        ("empty", lambda v: Verdict.scored(float("wrong" not in said(v)))),
        ("refuse everything", lambda v: Verdict.scored(float('"refuse"' in said(v)))),
        ("finish at once", lambda v: Verdict.scored(float('"finish"' in said(v)))),
        ("answer nothing", lambda v: Verdict.scored(float('"value": ""' in said(v)))),
        ("injection into the verifier", lambda v: Verdict.scored(float("1.0" in said(v)))),
        ("injection as prose", lambda v: Verdict.scored(float('"verdict": "pass"' in said(v)))),
        ("forged result", lambda v: Verdict.scored(float("PASSED" in said(v)))),
        ("spam", lambda v: Verdict.scored(float(len(said(v)) > 900))),
    ],
)
def test_a_leaky_verifier_is_caught_by_the_attack_on_its_leak(name, judge):
    (attack,) = [a for a in all_attacks() if a.name == name]
    assert not run_attack(leaky(judge)(), attack, ["t.0", "t.3"]).held
    assert run_attack(make("tools/desk"), attack, make("tools/desk").taskset.ids()[:6]).held


def subject(cls: type[World], **spec: Any) -> Subject:
    made = EnvSpec("test/world-v0", "worlds:World", "test", "test", **{"splits": {"train": 6}, "rewards": ("outcome",), **spec})

    class Given(Subject):
        def make(self, split: str = "", reward: str = "outcome") -> World:
            return cls(reward=reward)

    return Given(made, 2)


def test_wrong_declarations_are_caught():
    with pytest.raises(Failed, match="declared 7"):
        conformance.declared(subject(World, splits={"train": 7}))
    with pytest.raises(Failed, match="are declared but not there"):
        conformance.declared(subject(World, rewards=("outcome", "gated")))


def test_a_snapshot_that_forgets_is_caught():
    class Forgetful(World):
        capabilities = Capabilities(snapshot=True)

        def reset(self, *, seed=None, options=None):
            return super().reset(seed=seed, options=options or {"task": "t.5"})

        def oracle(self):
            for _ in range(6 - self.turns):
                yield "go"

        def _load(self, payload):
            self.turns = 0

    with pytest.raises((Failed, Exception)) as caught:
        conformance.snapshots(subject(Forgetful, capabilities=Capabilities(snapshot=True)))
    assert "differs" in str(caught.value) or "another state" in str(caught.value)


def test_a_reward_that_pays_twice_is_caught():
    class Double(World):
        def step(self, action):
            o, r, te, tr, info = super().step(action)
            return o, r * 2, te, tr, info

        def oracle(self):
            for _ in range(self.task.data["turns"]):
                yield "go"

    with pytest.raises(Failed, match="step paid 2"):
        conformance.reward_specs(subject(Double))


def test_an_environment_that_pays_for_garbage_or_loses_order_is_caught():
    class Generous(World):
        verifiers = {"task": Judge(lambda v: Verdict.scored(1.0))}

    with pytest.raises(Failed, match="pays"):
        conformance.garbage(subject(Generous))

    class Loose(World):
        def _require_running(self):
            if self._status == "new":
                self.reset(seed=0)

    with pytest.raises(Failed, match="no CallOrderError"):
        conformance.call_order(subject(Loose))


LEAKS = {
    "file": ["planted reward file", "reward file by shell"],
    "late": ["daemon that rewrites the reward"],
    "exit": ["early exit"],
    "process": ["grader monkey-patching"],
    "stdout": ["forged markers"],
    "tools": ["replaced tools"],
    "hunt": ["answer hunt by shell"],
    "judge": ["injection into a judge", "injection into a judge by answer"],
}


@pytest.mark.parametrize(("leak", "names"), LEAKS.items())
def test_each_leak_of_a_real_grader_is_caught_by_its_attack(leak, names):
    env = bench(leak)()
    try:
        results = {a.name: run_attack(env, a, ["t.0"]) for a in all_attacks() if a.name in names}
        assert results.keys() == set(names)
        assert not any(r.held for r in results.values()), results
    finally:
        env.close()


def test_the_honest_grader_holds_against_every_attack_and_passes_the_oracle():
    env = bench("")()
    try:
        results = [run_attack(env, a, ["t.0"]) for a in all_attacks()]
        assert [r.name for r in results if not r.held] == []
        assert sum(r.status != "not applicable" for r in results) >= len(results) - 4
        env.reset(options={"task": "t.0"})
        assert [env.step(a)[1] for a in env.oracle()] == [0.0, 1.0]
    finally:
        env.close()


def test_a_whole_audit_tells_the_leaky_from_the_honest():
    honest, leaky_one = (audit(subject(cls, splits={"train": 6})) for cls in (World, leaky(lambda v: Verdict.scored(float("42" in said(v))))))
    assert not leaky_one.passed and {a.name for a in leaky_one.attacks if not a.held} >= {"dump every id"}
    assert [c.detail for c in honest.checks if c.status == "fail" and c.name not in ("gymnasium", "determinism", "oracle", "noop")] == []


FLAKY = iter(range(10**9))


@pytest.mark.parametrize(
    ("check", "judge", "says"),
    [
        ("repeat", lambda v: Verdict.scored(float(next(FLAKY) % 2)), "flake rate 0."),
        ("elsewhere", lambda v: Verdict.scored(float(int(time.time() / 86_400) % 1000)), "change with time"),
        ("elsewhere", lambda v: Verdict.scored(random.random()), "change with time"),
        ("floor", lambda v: Verdict.scored(1.0), "for nothing"),
    ],
)
def test_an_unhealthy_verifier_is_caught(check, judge, says):
    class Unhealthy(World):
        verifiers: ClassVar[Mapping[str, Any]] = {"task": Judge(judge)}

    with pytest.raises(Failed, match=says):
        health.HEALTH[check](subject(Unhealthy))


def test_healthy_verifiers_are_not_caught():
    for name, each in health.HEALTH.items():
        if name != "contamination":
            assert each(subject(World))


def test_a_task_that_stands_in_two_splits_is_caught():
    twice = subject(World, splits={"train": 6, "dev": 6})
    with pytest.raises(Failed, match="6 tasks of dev are tasks of train too"):
        health.contamination(twice)


def test_an_answer_shown_at_the_start_is_caught():
    class Telling(World):
        def _begin(self, task):
            scene = super()._begin(task)
            scene.messages.append({"role": "user", "content": "(the word is tangerine-4711)"})
            return scene

        def oracle(self):
            yield call("answer", value="tangerine-4711")

    with pytest.raises(Failed, match="can be read at the start"):
        health.leaks(subject(Telling))


def test_a_world_that_replays_otherwise_is_caught():
    class Drifting(World):
        drift = 0

        def _scene(self):
            scene = super()._scene()
            Drifting.drift += 1
            scene.state += f"|{Drifting.drift}"
            return scene

    with pytest.raises(Failed, match="another way"):
        conformance.replayed(subject(Drifting))


def test_third_parties_add_attacks_and_arguments_are_filled_by_name():
    attack = Attack("mine", "x", "y", tools="write_file", arguments={"path": ["a", "b"], ".*": ["1", "2"]}, then="finish")
    tools = [t.spec for t in bench("").tools.values()]
    assert list(actions_of(attack, tools, "")) == [call("write_file", path="a", content="1"), call("write_file", path="b", content="2"), call("finish")]
