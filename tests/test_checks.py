"""The audit passes an honest environment and catches a leaky one on each count."""

from collections.abc import Mapping
from typing import Any, ClassVar

import pytest
from worlds import Judge, World

from agentgym.checks import check
from agentgym.checks import report as module
from agentgym.checks.attacks import all_attacks, run_attack
from agentgym.core import Capabilities, Verdict
from agentgym.messages import call, tool
from agentgym.registry import EnvSpec, make


def test_the_desk_passes():
    report = check("tools/desk", tasks=33)
    assert report.passed, [c for c in report.checks if c.status == "fail"]
    assert report.oracle.success == 1.0 and report.noop.success == 0.0 and len(report.attacks) >= 6


def test_there_are_attacks_of_each_class():
    attacks = all_attacks()
    assert {a.kind for a in attacks} >= {"spam", "inaction", "enumeration", "injection", "forgery"} and len({a.name for a in attacks}) == len(attacks) >= 6
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


def subject(cls: type[World], **spec: Any) -> module.Subject:
    made = EnvSpec("test/world-v0", "worlds:World", "test", "test", **{"splits": {"train": 6}, "rewards": ("outcome",), **spec})

    class Given(module.Subject):
        def make(self, split: str = "", reward: str = "outcome") -> World:
            return cls(reward=reward)

    return Given(made, 2)


def test_wrong_declarations_are_caught():
    with pytest.raises(module.Failed, match="declared 7"):
        module.declared(subject(World, splits={"train": 7}))
    with pytest.raises(module.Failed, match="are declared but not there"):
        module.declared(subject(World, rewards=("outcome", "gated")))


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

    with pytest.raises((module.Failed, Exception)) as caught:
        module.snapshots(subject(Forgetful, capabilities=Capabilities(snapshot=True)))
    assert "differs" in str(caught.value) or "another state" in str(caught.value)


def test_a_reward_that_pays_twice_is_caught():
    class Double(World):
        def step(self, action):
            o, r, te, tr, info = super().step(action)
            return o, r * 2, te, tr, info

        def oracle(self):
            for _ in range(self.task.data["turns"]):
                yield "go"

    with pytest.raises(module.Failed, match="step paid 2"):
        module.reward_specs(subject(Double))


def test_an_environment_that_pays_for_garbage_or_loses_order_is_caught():
    class Generous(World):
        verifiers = {"task": Judge(lambda v: Verdict.scored(1.0))}

    with pytest.raises(module.Failed, match="pays"):
        module.garbage(subject(Generous))

    class Loose(World):
        def _require_running(self):
            if self._status == "new":
                self.reset(seed=0)

    with pytest.raises(module.Failed, match="no CallOrderError"):
        module.call_order(subject(Loose))
