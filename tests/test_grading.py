"""What a verifier may do wrong, and that the run goes on: never a number, never an exception, never a hang."""

import itertools
import threading
import time

import anyio
import msgspec
import pytest
from worlds import Judge, Says, World

from agentgym.core import StopReason
from agentgym.errors import EnvironmentFault, VerifierFault
from agentgym.evaluation.run import Plan, evaluate
from agentgym.grading import judge, limited, size
from agentgym.quarantine import Quarantine
from agentgym.rollout import Job, Rollout
from agentgym.verdict import Verdict

HUGE = "x" * (1 << 30)


def bare(**fields):
    """A verdict that went round ``Verdict.scored``, as a careless verifier's would."""
    return msgspec.structs.replace(Verdict("scored", 1.0), **fields)


def loop():
    while True:
        pass


BAD = {
    "nan": lambda: bare(value=float("nan")),
    "infinity": lambda: bare(value=float("inf")),
    "1e309": lambda: Verdict.scored(1e309),
    "True": lambda: bare(value=True),
    "an int": lambda: bare(value=1),
    "a string": lambda: bare(value="1.0"),
    "a huge string": lambda: bare(value=HUGE),
    "huge evidence": lambda: bare(evidence={"log": HUGE}),
    "a huge critique": lambda: bare(critique=HUGE),
    "many small things": lambda: bare(evidence={"rows": [[]] * 2_000_000}),
    "an object as evidence": lambda: bare(evidence={"x": object()}),
    "nan as evidence": lambda: bare(evidence={"x": float("nan")}),
    "a bare float": lambda: 1.0,
    "nothing": lambda: None,
    "a dict": lambda: {"status": "scored", "value": 1.0},
    "an unknown status": lambda: bare(status="excellent"),
    "an invalid one with a value": lambda: bare(status="invalid"),
    "a tampered one with a value": lambda: bare(status="tampered"),
    "no value": lambda: bare(value=None),
    "raising": lambda: 1 / 0,
    "raising something huge": lambda: (_ for _ in ()).throw(RuntimeError(HUGE)),
    "recursion": lambda: BAD["recursion"](),
    "a loop": loop,
    "a sleep": lambda: time.sleep(3600),
    "a lock": lambda: threading.Lock().acquire() and threading.Event().wait(3600),
}


@pytest.mark.parametrize("how", BAD)
def test_whatever_a_verifier_does_its_verdict_is_invalid_with_the_verifier_to_blame(how):
    began = time.monotonic()
    verdict = judge(lambda view: BAD[how](), None, seconds=0.4)
    assert verdict.status == "invalid" and verdict.value is None and verdict.culprit == "verifier"
    assert len(verdict.critique) < 3000 and time.monotonic() - began < 10


@pytest.mark.parametrize("how", ["a loop", "raising", "nan"])
def test_the_same_on_a_thread(how):
    found = []
    thread = threading.Thread(target=lambda: found.append(judge(lambda view: BAD[how](), None, seconds=0.3)))
    thread.start()
    thread.join(10)
    assert found[0].status == "invalid" and found[0].culprit == "verifier"


def test_a_verifier_that_hangs_ends_the_episode_and_the_run_goes_on(monkeypatch):
    monkeypatch.setattr(judge, "__defaults__", (0.3,))

    class Hanging(World):
        def __init__(self, **options):
            super().__init__(**options)
            self.verifiers = {"task": Judge(lambda v: loop() if v.task.id == "t.0" else Verdict.scored(1.0))}

    episodes = anyio.run(Rollout(make=Hanging, policy=Says("go"), retries=1).run, [Job("t.0"), Job("t.1")])
    assert [(e.status, e.culprit) for e in episodes] == [("invalid", "verifier"), ("valid", None)]
    assert "took longer" in episodes[0].fault and episodes[0].terms == []


def test_a_time_limit_never_strikes_after_the_call():
    for call in (lambda _: loop(), time.sleep, lambda x: time.sleep(0.06)):
        with pytest.raises(TimeoutError):
            limited(call, 9, 0.0)
    assert limited(str, 7, 5) == "7"
    time.sleep(0.2)


def test_sizes_are_bounded_without_reading_all():
    began = time.monotonic()
    with pytest.raises(ValueError, match="larger"):
        size({"a": [HUGE] * 1000}, 1 << 20)
    assert time.monotonic() - began < 20 and size({"a": ["bc", 1, None]}, 100) == 23


def test_an_invalid_outcome_is_no_reward():
    class Broken(World):
        verifiers = {"task": Judge(lambda v: BAD["nan"]())}

    env = Broken()
    env.reset(seed=1, options={"task": "t.0"})
    with pytest.raises(VerifierFault, match="finite number"):
        env.step("go")


def contradicting(flaky_from=0):
    """A verifier that says something else each time it is asked."""
    numbers = itertools.count(flaky_from)

    class Contradicting(World):
        verifiers = {"task": Judge(lambda v: Verdict.scored(float(next(numbers) % 2)))}

    return Contradicting


def test_a_verifier_that_contradicts_itself_is_quarantined_and_the_run_says_so():
    quarantine = Quarantine(every=1, patience=3)
    rollout = Rollout(make=contradicting(), policy=Says("go"), retries=2, quarantine=quarantine, concurrency=1)
    episodes = anyio.run(rollout.run, [Job("t.0", attempt=i) for i in range(8)])
    assert all(e.status == "invalid" and e.culprit == "verifier" for e in episodes) and quarantine.out == ["task"]
    assert quarantine.asked["task"] <= 4 and "in quarantine" in episodes[-1].fault
    assert quarantine.notes() == [f"verifier task contradicted itself 3 times in {quarantine.asked['task']} repeats: quarantined"]
    assert [e.retry for e in episodes][-1] == 0


def test_an_honest_verifier_stays_out_of_quarantine():
    quarantine = Quarantine(every=2)
    episodes = anyio.run(Rollout(make=World, policy=Says("go"), quarantine=quarantine).run, [Job("t.1", attempt=i) for i in range(40)])
    assert all(e.success for e in episodes) and quarantine.asked["task"] > 5 and quarantine.notes() == []


def test_an_evaluation_tells_at_its_end_who_was_quarantined(monkeypatch):
    monkeypatch.setattr("agentgym.evaluation.run.make", lambda *a, **k: contradicting()())
    monkeypatch.setattr("agentgym.evaluation.run.resolve", lambda name: name)
    monkeypatch.setattr("agentgym.evaluation.run.Quarantine", lambda: Quarantine(every=1, patience=2))
    result = anyio.run(evaluate, Plan(env="test/world-v0", split="train", tasks=6), Says("go"))
    assert result.valid == 0 and result.invalid == 6 and any("quarantined" in note for note in result.notes)


def test_faults_of_the_world_are_not_the_verifiers():
    class Gone(World):
        verifiers = {"task": Judge(lambda v: Verdict.invalid("the sandbox died", "infra"))}

    env = Gone()
    env.reset(seed=1, options={"task": "t.1"})
    env.step("go")
    with pytest.raises(EnvironmentFault) as caught:
        env.end(StopReason.MAX_TURNS)
    assert not isinstance(caught.value, VerifierFault)
