"""The reward algebra: step rewards add up, gates, places, groups that ignore what is invalid, specs as text and tables."""

import tomllib

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from records import LEVELS, SCORES, group_of, record

from agentgym.core import EpisodeView, Task
from agentgym.errors import SpecError
from agentgym.rewards import (
    World,
    assign,
    attribute,
    blend,
    budget,
    cap,
    centre,
    clip,
    combine,
    delta,
    discretise,
    diversity,
    flip,
    gate,
    group,
    groups,
    lagrangian,
    late,
    length,
    load,
    min_form,
    normalise,
    outcome,
    potential,
    residual,
    route,
    schedule,
    sigmoid,
    span,
    step,
    threshold,
    to_table,
    trust,
    win_rate,
)
from agentgym.rewards.settler import Settler
from agentgym.rewards.spec import OPS
from agentgym.verdict import Verdict

O, S = outcome("o"), step("s")  # noqa: E741
SPECS = [
    O, O + S, O + gate(0.5 * S + delta(S), by=O), O + potential(S, gamma=0.9), 2 * (O + gate(S, by=O)) + late("n"), clip(S, low=-0.5, high=0.5) - O,
    cap(S, most=2.0), sigmoid(S - step("t")), threshold(S, bar=0.5), discretise(S, levels=(0.0, 1.0, 2.0)), flip(threshold(S, bar=0.0), p=0.3, seed=4),
    centre(S, form="scaled"), centre(O, form="others"), normalise(S), schedule(S, start=0.0, end=1.0, over=10), schedule(S, by=O, over=0.5),
    gate(S, by=step("t"), strict=True), gate(S, by=group(O), threshold=0.5), trust(S, by=O), combine((S, step("t")), form="min"), combine((O, O), form="robust", weight=0.3),
    route({"": O + S, "x": S}), group(O, stat="std"), win_rate((O, S), margins=(0.1,)), win_rate((O,), anchor=True), diversity(of="anchor"),
    lagrangian(S, limit=0.2), blend(S, primary=O), assign(O, to="discounted", gamma=0.5), assign(O, to="uniform"), assign(O), min_form(S), min_form(S, temperature=0.0),
    attribute(O, by=S), length(), length("chars") * -0.1, length("tokens"), residual(O, parts=(length(),)), residual(O), budget(5, unit="turns", buffer=2.0), budget(3, unit="turns"), span("s"), span("s", unit="tokens"),
    gate(gate(S, by=step("t")), by=O), cap(delta(S)) + min_form(S + step("t")), 0.5 * late("j", level="outcome"),
]  # fmt: skip
WORLD = World({"o": "outcome", "s": "step", "t": "step"}, {"n": "step", "j": "outcome"})


def paid(spec, whole):
    """What ``step`` pays over an episode: each turn sees the record up to it, and nothing of what comes."""
    growing = msgspec.structs.replace(whole, turns=[], stop_reason=None, verdicts={}, late={})
    terms = []
    for i, turn in enumerate(whole.turns):
        growing.turns.append(turn)
        if i == len(whole.turns) - 1:
            growing.stop_reason, growing.verdicts = whole.stop_reason, whole.verdicts
        terms += spec.at(growing, i)
    return terms


@pytest.mark.parametrize("spec", SPECS, ids=str)
@given(levels=LEVELS, end=SCORES)
def test_what_each_step_pays_adds_up_to_the_settled_terms(spec, levels, end):
    whole = record(levels, end)
    stepped = paid(spec, whole)
    settled = [t for t in spec.settle([whole])[0] if t.known_at is not None]
    assert [(t.source, t.place, t.known_at) for t in stepped] == [(t.source, t.place, t.known_at) for t in settled]
    assert [t.value for t in stepped] == pytest.approx([t.value for t in settled])
    assert all(np.isfinite(t.value) for t in settled)
    assert all(t.place.level in ("episode", "group") or t.place.turn <= t.known_at for t in settled)


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_a_spec_is_its_expression_and_its_table(spec):
    again, from_table = load(str(spec), WORLD), load(tomllib.loads(msgspec.toml.encode(to_table(spec)).decode()), WORLD)
    assert again == spec == from_table and str(again) == str(spec) == str(from_table)
    assert hash(again) == hash(spec) == hash(from_table) and again.digest == spec.digest == from_table.digest


def test_every_primitive_is_among_the_specs_tested_here():
    assert {node.op for spec in SPECS for node in spec.nodes()} == set(OPS)


@pytest.mark.parametrize("spec", SPECS, ids=str)
@given(episodes=group_of(3), seed=st.randoms(use_true_random=False))
def test_invalid_episodes_in_a_group_move_nobody_elses_terms(spec, episodes, seed):
    invalid = [
        msgspec.structs.replace(record([Verdict.scored(9.0)], Verdict.scored(99.0), id=f"bad{i}"), status="invalid", group=episodes[0].group) for i in range(2)
    ]
    mixed = [*episodes, *invalid]
    seed.shuffle(mixed)
    alone = dict(zip([e.id for e in episodes], spec.settle(episodes), strict=True))
    among = dict(zip([e.id for e in mixed], spec.settle(mixed), strict=True))
    for id, terms in alone.items():
        assert [(t.source, t.place) for t in among[id]] == [(t.source, t.place) for t in terms]
        assert [t.value for t in among[id]] == pytest.approx([t.value for t in terms])
    assert all(among[e.id] == [] for e in invalid)


@given(x=st.lists(st.one_of(st.floats(-5, 5), st.just(float("nan"))), min_size=1, max_size=12))
def test_group_statistics_are_those_of_the_valid_entries(x):
    x_N, group_N = np.array([*x, 100.0, 200.0]), np.array([7] * len(x) + [3, 3])
    valid = [v for v in x if v == v]
    for i, v in enumerate(x):
        if v != v:
            assert all(np.isnan(f(x_N, group_N)[i]) for f in (groups.mean, groups.std, groups.others, groups.least, groups.most))
            continue
        rest = [*valid]
        rest.remove(v)
        assert groups.mean(x_N, group_N)[i] == pytest.approx(np.mean(valid))
        assert groups.least(x_N, group_N)[i] == min(valid) and groups.most(x_N, group_N)[i] == max(valid)
        if rest:
            assert groups.std(x_N, group_N)[i] == pytest.approx(np.std(valid, ddof=1), abs=1e-12)
            assert groups.others(x_N, group_N)[i] == pytest.approx(np.mean(rest), abs=1e-12)
            assert groups.wins(x_N[None], group_N)[i] == pytest.approx(sum((v > r) + 0.5 * (v == r) for r in rest) / len(rest))


@pytest.mark.parametrize(
    ("text", "path", "says"),
    [
        ("outcome('x')", "reward", "there is no verdict 'x'"),
        ("outcome('o') + step('o')", "reward.parts[1]", "'o' is an outcome verdict"),
        ("0.1 * step('p')", "reward.terms", "no verdict 'p'"),
        ("gate(outcome('o'), by=outcome('o'))", "reward.by", "on itself"),
        ("gate(step('s') + 0.1 * step('t'), by=step('t'))", "reward.by", "on itself"),
        ("gate(outcome('o'), by=step('s'))", "reward.by", "cannot gate what belongs to the episode"),
        ("clip(outcome('o') + step('s'))", "reward.terms", "several levels"),
        ("combine((step('s'), outcome('o')))", "reward", "mixes the levels"),
        ("cap(outcome('o'))", "reward.terms", "takes terms of level turn"),
        ("assign(step('s'))", "reward.terms", "not turn"),
        ("late('nope')", "reward", "no source 'nope'"),
        ("late('j')", "reward", "gives outcome verdicts"),
        ("stepp('s')", "reward", "unknown primitive 'stepp' (nearest: step)"),
        ("clip(step('s'), hi=2)", "reward", "has no 'hi' (nearest: high)"),
        ("clip(step('s'), high='x')", "reward.high", "float"),
        ("gate(step('s'), by='o')", "reward.by", "wants a spec"),
        ("route({'a': step('q')})", "reward.cases.a", "no verdict 'q'"),
        ("blend(step('s'), primary=step('t'))", "reward.primary", "outcome"),
        ("__import__('os').system('true')", "reward", "no part of a spec"),
        ("1 + 1", "reward", "not a spec"),
        ("outcome('o'", "reward", "not an expression"),
        ("budget(-1)", "reward", "most > 0"),
        ("nothing.toml", "reward", "cannot read"),
        ("1e999 * outcome('o')", "reward", "finite weight"),
        ("combine(())", "reward.parts", "at least one"),
        ("discretise(outcome('o'), levels=())", "reward.levels", "at least one"),
    ],
)
def test_a_spec_that_makes_no_sense_is_refused_with_its_path(text, path, says):
    with pytest.raises(SpecError) as caught:
        load(text, WORLD)
    assert caught.value.path == path and says in str(caught.value)


def test_a_tampered_verdict_scores_the_floor_and_an_invalid_one_makes_no_term():
    whole = record([Verdict.invalid("x"), Verdict.scored(1.0)], Verdict.tampered("x"))
    assert [(t.place.turn, t.value) for t in S.settle([whole])[0]] == [(1, 1.0)]
    assert [t.value for t in O.settle([whole])[0]] == [0.0]
    assert O.settle([record([Verdict.scored(1.0)], Verdict.invalid("x"))]) == [[]]


def test_a_missing_reference_makes_the_difference_missing_not_large():
    whole = record([Verdict.scored(3.0)], Verdict.scored(1.0))
    whole.turns[0].verdicts["t"] = Verdict.invalid("no reference")
    assert sigmoid(S - step("t")).settle([whole]) == [[]]


def test_spans_keep_their_place_and_their_number():
    verdict = Verdict.scored(0.0, spans=[[0, 2, 1.0], [5, 9, -0.5]])
    terms = span("s").settle([record([verdict, Verdict.scored(0.0)], Verdict.scored(1.0))])[0]
    assert [(t.value, t.place.level, t.place.turn, t.place.span) for t in terms] == [(1.0, "span", 0, (0, 2)), (-0.5, "span", 0, (5, 9))]
    assert span("s", unit="tokens").settle([record([verdict], Verdict.scored(1.0))])[0][0].place.level == "token"


def test_a_route_takes_each_kind_its_own_way_and_refuses_an_unknown_one():
    spec = route({"math": O, "chat": 2 * O})
    a, b = (msgspec.structs.replace(record([Verdict.scored(0.0)], Verdict.scored(1.0), id=k), kind=k) for k in ("math", "chat"))
    assert [[t.value for t in terms] for terms in spec.settle([a, b])] == [[1.0], [2.0]]
    with pytest.raises(SpecError, match="no case for tasks of kind 'code'"):
        spec.settle([a, msgspec.structs.replace(b, kind="code")])


def test_dials_are_kept_in_the_record_so_that_settling_stays_pure():
    import anyio

    settler = Settler(O + lagrangian(S, limit=0.0, rate=1.0) + schedule(S, start=0.0, end=1.0, over=4), {})
    first, second = record([Verdict.scored(2.0)], Verdict.scored(1.0)), record([Verdict.scored(2.0)], Verdict.scored(1.0))
    for n, each in enumerate((first, second)):
        each.status = "valid"
        anyio.run(settler.settle, [EpisodeView(Task("t", "?", "train"), each)], None)
        settler.advance(n + 1, [each])
    assert {t.source: t.value for t in first.terms} == {"o": 1.0}
    assert {t.source: t.value for t in second.terms} == {"o": 1.0, "lagrangian:s": -4.0, "schedule:s": 0.5}
    assert settler.spec.settle([first, second]) == [first.terms, second.terms]
    other = Settler(settler.spec, {})
    other.load_state(settler.state())
    assert other.dials == settler.dials


@pytest.mark.parametrize("form", ["mean", "min", "max", "product", "vote", "cautious", "robust", "trusted"])
def test_a_member_that_fails_makes_an_ensemble_missing_and_never_better(form):
    whole = record([Verdict.scored(0.2)], Verdict.scored(1.0))
    whole.turns[0].verdicts["t"] = Verdict.invalid("the guard is down")
    assert combine((S, step("t")), form=form).settle([whole]) == [[]]


@pytest.mark.parametrize("spec", [O + centre(S), O + centre(late("j", level="outcome")), win_rate((O, late("j", level="outcome")))], ids=str)
def test_an_episode_whose_source_failed_moves_nobody_and_is_named(spec):
    made = [record([Verdict.scored(x)], Verdict.scored(x), f"e{i}") for i, x in enumerate((0.0, 1.0, 9.0))]
    for e in made:
        e.late["j"] = e.verdicts["o"]
    alone = spec.settle(made[:2])
    made[2].late["j"] = made[2].turns[0].verdicts["s"] = Verdict.invalid("down", "infra")
    assert spec.settle(made)[:2] == alone and spec.lacking(made[2]) and not spec.lacking(made[0])


def test_a_verdict_that_is_not_scored_cannot_carry_a_value_not_even_from_disk():
    with pytest.raises(ValueError, match="carries no value"):
        Verdict("invalid", 1.0)
    with pytest.raises(msgspec.ValidationError, match="carries no value"):
        msgspec.json.decode(b'{"status":"tampered","value":1.0}', type=Verdict)
