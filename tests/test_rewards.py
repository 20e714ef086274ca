"""The reward algebra: gates, potentials, places, and that step rewards add up to the settled terms."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentgym.episode import Episode, Turn
from agentgym.rewards import delta, gate, late, outcome, potential, settle, step
from agentgym.verdict import StopReason, Verdict

SCORES = st.one_of(st.floats(-10, 10).map(Verdict.scored), st.just(Verdict.invalid("x")), st.just(Verdict.tampered("x")))
LEVELS = st.lists(SCORES, min_size=1, max_size=12)
SPECS = [
    outcome("o"), outcome("o") + step("s"), outcome("o") + gate(0.5 * step("s") + delta("s"), by="o", threshold=1.0),
    outcome("o") + potential("s", gamma=0.9), 2 * (outcome("o") + gate(step("s"), by="o")) + late("novelty"),
]  # fmt: skip


def record(levels: list[Verdict], end: Verdict) -> Episode:
    return Episode("e", "x", "t", "d", "train", stop_reason=StopReason.DONE, turns=[Turn([], "", verdicts={"s": v}) for v in levels], verdicts={"o": end})


@pytest.mark.parametrize("spec", SPECS, ids=str)
@given(levels=LEVELS, end=SCORES)
def test_what_each_step_pays_adds_up_to_the_settled_terms(spec, levels, end):
    whole = record(levels, end)
    growing = record([], end)
    growing.stop_reason, paid = None, 0.0
    growing.verdicts = {}
    for i, turn in enumerate(whole.turns):
        growing.turns.append(turn)
        if i == len(levels) - 1:
            growing.stop_reason, growing.verdicts = whole.stop_reason, whole.verdicts
        paid += sum(t.value for t in spec.at(growing, i))
    terms = settle(spec, whole)
    assert paid == pytest.approx(sum(t.value for t in terms))
    assert all(t.place.level == "episode" or t.place.turn <= t.known_at for t in terms)


@given(levels=LEVELS, end=st.floats(-2, 2), threshold=st.floats(-2, 2))
def test_below_the_gate_any_pile_of_steps_adds_exactly_nothing_and_above_it_everything(levels, end, threshold):
    whole = record(levels, Verdict.scored(end))
    steps = settle(step("s"), whole)
    gated = settle(gate(step("s"), by="o", threshold=threshold), whole)
    if end >= threshold:
        assert [(t.value, t.place) for t in gated] == [(t.value, t.place) for t in steps]
        assert all(t.known_at == len(levels) - 1 for t in gated)
    else:
        assert gated == []


@given(levels=LEVELS, gamma=st.floats(0.1, 1))
def test_a_potential_telescopes_to_nothing_when_discounted_from_the_start(levels, gamma):
    terms = settle(potential("s", gamma=gamma), record(levels, Verdict.scored(1.0)))
    assert sum(gamma**t.place.turn * t.value for t in terms) == pytest.approx(0.0, abs=1e-6)


@given(levels=LEVELS)
def test_deltas_telescope_to_the_last_level(levels):
    last = next((0.0 if v.status == "tampered" else v.value for v in reversed(levels) if v.status != "invalid"), 0.0)
    assert sum(t.value for t in settle(delta("s"), record(levels, Verdict.scored(1.0)))) == pytest.approx(last, abs=1e-9)


def test_an_invalid_verdict_makes_no_term_and_a_tampered_one_the_floor():
    whole = record([Verdict.invalid("x"), Verdict.scored(1.0)], Verdict.tampered("x"))
    assert [(t.place.turn, t.value) for t in settle(step("s"), whole)] == [(1, 1.0)]
    assert [t.value for t in settle(outcome("o"), whole)] == [0.0]
    assert settle(outcome("o"), record([], Verdict.invalid("x"))) == []


def test_a_spec_prints_as_the_expression_that_makes_it():
    for spec in SPECS:
        assert eval(str(spec)) == spec
