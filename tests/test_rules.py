"""The rule verifiers: what each pays, and what it must not."""

import math
import sqlite3
import time

import msgspec
import pytest
from agentgym_verifiers import rules
from agentgym_verifiers.rules import (
    Bleu,
    Boxes,
    Duration,
    Exact,
    Math,
    Milestones,
    Numeric,
    Ordered,
    Pattern,
    Rank,
    Schema,
    Sets,
    Similar,
    Spent,
    SqlMatch,
    Stages,
    StateMatch,
    ToolCalls,
    holds,
)
from hypothesis import given
from hypothesis import strategies as st

from agentgym.core import EpisodeView, Task
from agentgym.episode import Episode, Turn
from agentgym.errors import UnknownName, UsageError
from agentgym.grading import judge
from agentgym.messages import ToolCall

WORDS = st.lists(st.sampled_from(["red", "green", "blue", "cat", "dog", "sun"]), max_size=6)


def view(action="", turns=None, artefacts=None, **data):
    turns = turns or [Turn([], action)]
    return EpisodeView(Task("t", "?", "train", data), Episode("e", "x", "t", "d", "train", turns=turns), artefacts or {})


def value(rule, *args, **kwargs):
    verdict = judge(rule, view(*args, **kwargs))
    assert verdict.status == "scored", verdict
    return verdict.value


@pytest.mark.parametrize(
    ("answer", "gold", "expected"),
    [
        ("The  Cat!", "cat", 1),
        ("cats", "cat", 0),
        ("the cat and the dog", "cat", 0),
        ("", "", 0),
        ("dog", ["cat", "dog"], 1),
        (3, 3, 1),
        (True, 1, 0),
        ("３", "3", 1),
    ],
)
def test_exact_is_the_whole_answer_and_nothing_more(answer, gold, expected):
    turns = [Turn([], "", [ToolCall("answer", {"value": answer})])]
    assert value(Exact(answer="call:answer.value"), turns=turns, answer=gold) == expected


def test_exact_graded_is_token_f1():
    assert value(Exact(graded=True), "red cat", answer="red dog") == pytest.approx(0.5)
    assert value(Exact(normalised=False), "The cat", answer="the cat") == 0


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("42", 1),
        ("42.0", 1),
        ("4.2e1", 1),
        (" 42 ", 1),
        ("$42", 1),
        ("41", 0),
        ("42 43", 0),
        ("1 to 100", 0),
        ("nan", 0),
        ("1e999", 0),
        ("", 0),
        ("4200%", 1),
        ("forty", 0),
    ],
)
def test_numeric_takes_one_number(answer, expected):
    assert value(Numeric(), answer, answer=42) == expected


def test_numeric_knows_thousands_and_refuses_a_wrong_reference():
    assert value(Numeric(), "1,234,567.5", answer=1234567.5) == 1
    assert judge(Numeric(), view("1", answer="many")).status == "invalid"


@given(wanted=st.sets(st.integers(0, 30), min_size=2, max_size=6), part=st.integers(1, 5))
def test_listing_everything_and_doing_nothing_both_pay_less_than_an_honest_part(wanted, part):
    rule = Sets(answer="call:answer.value")
    honest = value(rule, turns=[call(value=sorted(wanted)[:part])], answer=sorted(wanted))
    everything = value(rule, turns=[call(value=list(range(100)))], answer=sorted(wanted))
    nothing = value(rule, turns=[call(value=[])], answer=sorted(wanted))
    assert everything < honest and nothing < honest and value(rule, turns=[call(value=sorted(wanted))], answer=sorted(wanted)) == 1


def call(**arguments):
    return Turn([], "", [ToolCall("answer", arguments)])


def test_precision_alone_ignores_what_is_missed_and_recall_alone_what_is_extra():
    precise, complete = Sets(beta=0.0, extra=0.0), Sets(beta=math.inf, extra=0.0)
    assert value(precise, "a", answer=["a", "b", "c"]) == 1 and value(precise, "a, x", answer=["a"]) == 0.5
    assert value(complete, "a, b, x, y", answer=["a", "b"]) == 1 and value(complete, "a", answer=["a", "b"]) == 0.5
    assert value(Sets(), "", answer=[]) == 1 and value(Sets(), "x", answer=[]) == 0


def test_a_rank_rises_all_the_way_up_while_a_cut_is_silent():
    ranked = [call(value=[f"d{i}" for i in range(1, 101)])]
    at = [value(Rank(answer="call:answer.value"), turns=ranked, answer=f"d{r}") for r in (80, 40, 10, 1)]
    assert at == sorted(at) and len(set(at)) == 4 and at[-1] == 1
    cut = Rank(answer="call:answer.value", cut=10)
    assert [value(cut, turns=ranked, answer=f"d{r}") for r in (80, 40)] == [0, 0]


def test_a_box_of_everything_and_a_point_pay_less_than_the_right_one():
    gold = [40, 40, 60, 50]
    for form in ("overlap", "hit"):
        rule = Boxes(form=form, answer="call:answer.value")
        pays = {
            name: value(rule, turns=[call(value=box)], answer=gold)
            for name, box in {"right": gold, "screen": [0, 0, 100, 90], "point": [50, 45, 50, 45], "near": [41, 40, 62, 50]}.items()
        }
        assert pays["right"] == 1 and pays["near"] > 0.7 and pays["screen"] < 0.05 and pays["point"] < 0.05
        assert value(rule, turns=[call(value=[3, 2, 1, 0])], answer=gold) == 0 and value(rule, turns=[call(value="x")], answer=gold) == 0


@given(a=WORDS, b=WORDS)
def test_likeness_is_symmetric_and_1_with_itself(a, b):
    one, other = " ".join(a), " ".join(b)
    rule = Similar()
    assert value(rule, one, answer=one) == 1 and value(rule, one, answer=other) == value(rule, other, answer=one)


def test_a_paraphrase_is_above_an_unrelated_text():
    gold = "checks the buffer length before copying the user input"
    assert (
        value(Similar(), "check the length of the buffer before input is copied", answer=gold)
        > value(Similar(), "renders a blue page with flowers", answer=gold) + 0.2
    )


def test_copying_the_vulnerable_input_scores_nothing_on_the_change():
    before, after = "a = 1\nstrcpy(x, y)\nreturn a", "a = 1\nstrncpy(x, y, 8)\nreturn a"
    rule = Similar(form="change")
    assert value(rule, before, input=before, answer=after) == 0 and value(rule, after, input=before, answer=after) == 1
    assert 0.3 < value(rule, after.replace("8", "9"), input=before, answer=after) < 1


def test_bleu_agrees_with_sacrebleu():
    from sacrebleu import sentence_bleu

    for text in ("the cat sat on the mat", "a cat sat", "dogs bark loudly at night", ""):
        gold = ["the cat sat on a mat", "there is a cat on the mat"]
        assert value(Bleu(), text, answer=gold) == pytest.approx(sentence_bleu(text, gold, use_effective_order=True).score / 100)


WANTED = [{"name": "book", "arguments": {"city": "Rome", "nights": 2}}, {"name": "pay", "arguments": {"sum": 10}}]


def calls(*made, problem=None):
    return [Turn([], "", [ToolCall(name, arguments)], problem) for name, arguments in made]


def test_one_wrong_argument_scores_strictly_between_nothing_and_all():
    right, wrong = ("book", {"city": "Rome", "nights": 2}), ("book", {"city": "Rome", "nights": 3})
    pay = ("pay", {"sum": 10})
    fine = ToolCalls()
    assert value(fine, turns=calls(right, pay), calls=WANTED) == value(fine, turns=calls(pay, right), calls=WANTED) == 1
    assert 0.5 < value(fine, turns=calls(wrong, pay), calls=WANTED) < 1
    assert (
        value(fine, turns=calls(wrong, pay), calls=WANTED)
        > value(fine, turns=calls(("book", {}), pay), calls=WANTED)
        > value(fine, turns=calls(pay), calls=WANTED)
    )


def test_coarse_and_fine_agree_on_everything_and_on_nothing():
    exact = [(c["name"], c["arguments"]) for c in WANTED]
    for made, expected in ((calls(*exact), 1), ([Turn([], "no")], 0)):
        assert value(ToolCalls(), turns=made, calls=WANTED) == value(ToolCalls(granularity="coarse"), turns=made, calls=WANTED) == expected
    assert value(ToolCalls(granularity="coarse"), turns=calls(exact[0]), calls=WANTED) == 0


def test_calling_everything_pays_less_than_the_right_calls_and_inaction_is_penalised():
    exact = [(c["name"], c["arguments"]) for c in WANTED]
    many = [*exact, *(("book", {"city": c, "nights": 1}) for c in "ABCDEFGH")]
    assert value(ToolCalls(), turns=calls(*many), calls=WANTED) < value(ToolCalls(), turns=calls(exact[0]), calls=WANTED)
    assert value(ToolCalls(inaction=-0.5), turns=[Turn([], "")], calls=WANTED) == -0.5


def test_a_state_is_compared_leaf_by_leaf():
    state = {"a": 1, "b": {"c": [1, 2], "at": 9}}

    def of(rule, have):
        return value(rule, artefacts={"state.json": msgspec.json.encode(have)}, state=state)

    assert of(StateMatch(), state) == 1 and of(StateMatch(), {**state, "x": 0}) == 0 and of(StateMatch(), {**state, "a": True}) == 0
    assert of(StateMatch(ignore=("at",)), {"a": 1, "b": {"c": [1, 2], "at": 5}}) == 1
    assert of(StateMatch(partial=True), {**state, "a": 2}) == 0.75 and of(StateMatch(partial=True), {"a": 1}) == 0.25
    assert value(StateMatch(), state=state) == 0 and value(StateMatch(), artefacts={"state.json": b"{"}, state=state) == 0


def test_a_schema_is_held_or_not():
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    assert [value(Schema(), text, schema=schema) for text in ('{"n": 1}', '{"n": "1"}', "{", "[]")] == [1, 0, 0, 0]
    assert judge(Schema(), view("{}", schema={"type": "nonsense"})).status == "invalid"


@pytest.fixture
def database():
    connection = sqlite3.connect(":memory:")
    connection.executescript("create table t (a, b); insert into t values (1, 'x'), (2, 'y'), (2, 'z');")
    return {"task.sqlite": connection.serialize()}


def test_sql_is_compared_by_its_rows(database):
    def of(query, gold="select a from t where a > 1", ordered=False):
        return value(SqlMatch(answer="action", ordered=ordered), query, artefacts=database, query=gold)

    assert of("select a from t where a = 2") == 1 and of("select a from t") == 0 and of("select distinct a from t where a > 1") == 0
    assert of("select b from t order by b desc", "select b from t order by b") == 1
    assert of("select b from t order by b desc", "select b from t order by b", ordered=True) == 0
    assert [of(q) for q in ("delete from t", "drop table t", "attach 'x' as y", "pragma query_only = off", "nonsense", "")] == [0] * 6
    assert judge(SqlMatch(answer="action"), view("select 1", artefacts=database, query="select nothing from nowhere")).status == "invalid"


def test_a_query_that_does_not_end_scores_nothing_within_its_time(database):
    endless = "with recursive r(x) as (select 1 union all select x + 1 from r) select count(*) from r"
    began = time.monotonic()
    assert value(SqlMatch(answer="action", seconds=0.2), endless, artefacts=database, query="select 1") == 0
    assert value(SqlMatch(answer="action"), "select 1 from t, t t2, t t3, t t4, t t5, t t6, t t7, t t8, t t9", artefacts=database, query="select 1") == 0
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("text", "whole", "share"),
    [
        ("<reason>r</reason> <observe>o</observe>\n<decide>d</decide>", 1, 1),
        ("<reason>r</reason><decide>d</decide>", 0, 1 / 3),
        ("<observe>o</observe><reason>r</reason><decide>d</decide>", 0, 1 / 3),
        ("<reason></reason><observe>o</observe><decide>d</decide>", 0, 0),
        ("hi <reason>r</reason><observe>o</observe><decide>d</decide>", 0, 1),
        ("<reason>r</reason><observe>o</observe><decide>d</decide> bye", 0, 1),
        ("<reason>r</reason><observe>o</observe><decide>d</decide><decide>e</decide>", 0, 2 / 3),
    ],
)
def test_missing_any_stage_loses_the_format(text, whole, share):
    stages = ("reason", "observe", "decide")
    assert value(Stages(stages=stages), text) == whole and value(Stages(stages=stages, graded=True), text) == pytest.approx(share)


def test_a_pattern_says_that_it_does_not_verify():
    verdict = judge(Pattern(patterns=("wait", "therefore")), view("Wait, hmm"))
    assert verdict.value == 0.5 and verdict.evidence["verifies"] is False


def trace(*turns):
    return [Turn([], "", facts={"events": list(t.split())}) for t in turns]


def test_milestones_pay_once_each_and_going_back_and_forth_pays_nothing_more():
    rule = Milestones(events=("key", "door"))
    assert [judge(rule, view(turns=trace(*turns))).value for turns in (["key"], ["key", "key"], ["key", "door", "key", "door"])] == [0.5, 0.5, 1]
    assert judge(Milestones(events=("key", "door"), in_order=True), view(turns=trace("door", "key"))).value == 0.5


def test_a_reward_machine_pays_the_transitions_of_the_turn_and_knows_where_it_is():
    rule = rules.load("Machine(transitions={'start': {'key': ['armed', 0.5]}, 'armed': {'door': ['in', 1.0], 'trap': ['start', -1.0]}})")
    turns = ["door", "key", "key", "trap", "key", "door"]
    seen = [judge(rule, view(turns=trace(*turns[: i + 1]))) for i in range(6)]
    assert [v.value for v in seen] == [0, 0.5, 0, -1, 0.5, 1] and seen[-1].evidence["state"] == "in"


def test_the_same_events_in_another_order_are_another_reward():
    rule = Ordered(formula="G(edit -> F test)")
    assert value(rule, turns=trace("edit", "test")) == 1 and value(rule, turns=trace("test", "edit")) == 0


EVENTS = st.lists(st.sets(st.sampled_from(["a", "b"])).map(frozenset), min_size=1, max_size=6)


@given(t=EVENTS)
def test_temporal_operators_are_each_others_duals(t):
    assert holds("F a", t) == any("a" in s for s in t) and holds("G a", t) == all("a" in s for s in t)
    assert holds("F a", t) == (not holds("G !a", t)) and holds("a U b", t) == any("b" in s and all("a" in p for p in t[:i]) for i, s in enumerate(t))
    assert holds("X a", t) == (len(t) > 1 and "a" in t[1]) and holds("F(last & a)", t) == ("a" in t[-1])
    assert holds("a -> b", t) == holds("!a | b", t) and holds("a & b | b", t) == holds("b", t)


@pytest.mark.parametrize("text", ["", "a &", "(a", "a b", "& a", "a ? b", "F"])
def test_a_formula_that_is_none_is_refused(text):
    with pytest.raises(ValueError, match="formula"):
        holds(text, [frozenset()])


def test_less_spent_is_more_and_durations_take_the_median():
    assert value(Spent(of="turns", budget=4), turns=trace("a", "b")) == 0.5 and value(Spent(of="chars", budget="task:most"), "x" * 30, most=10) == 0
    slow, fast = ([Turn([], "", facts={"seconds": s})] for s in ([2.0, 2.0, 90.0], [1.0, 1.25, 1.0]))
    assert value(Duration(), turns=slow, seconds=1.0) == 0.5 and value(Duration(), turns=fast, seconds=1.0) == 1


def test_mathematics_is_compared_out_of_process():
    assert [value(Math(), a, answer="1/2") for a in ("$\\frac{2}{4}$", "0.5", "$\\frac{1}{3}$", "no idea", "")] == [1, 1, 0, 0, 0]
    assert value(Math(), "$\\{3, 1\\}$", answer="$\\{1, 3\\}$") == 1


def test_mathematics_that_does_not_end_is_killed_and_the_next_answer_is_judged():
    tower = "$" + "9^{" * 12 + "9" + "}" * 12 + "$"
    began = time.monotonic()
    assert value(Math(seconds=1.0), tower, answer="7") == 0
    assert time.monotonic() - began < 20
    assert value(Math(), "$7$", answer="7") == 1


def test_a_missing_answer_is_the_policys_and_a_missing_gold_the_tasks():
    rule = Exact(answer="call:answer.value")
    assert value(rule, "no call", answer="x") == 0
    assert judge(rule, view(turns=[call(value="x")])).status == "invalid"
    assert judge(Exact(answer="nonsense:x"), view(answer="x")).status == "invalid"


def test_rules_are_written_as_expressions():
    assert rules.load("Sets(beta=0.5, gold='task:items')") == Sets(beta=0.5, gold="task:items")
    with pytest.raises(UnknownName, match="nearest: Exact"):
        rules.load("Exakt()")
    for wrong in ("Exact(nope=1)", "Exact('x')", "Exact(gold=open('x'))", "1 + 1", "Sets(beta='x')"):
        with pytest.raises(UsageError):
            rules.load(wrong)
