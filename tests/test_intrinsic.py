"""Intrinsic sources and the sources of credit: what each pays on worlds made to tell them apart."""

import math
import random

import anyio
import numpy as np
import pytest
import torch
from agentgym_verifiers.credit import LeaveOneOut, MonteCarlo, Progress
from agentgym_verifiers.intrinsic.answers import AnswerLikelihood, Vote
from agentgym_verifiers.intrinsic.curiosity import Curiosity, Distillation, Hindsight
from agentgym_verifiers.intrinsic.features import hashed, seen_after
from agentgym_verifiers.intrinsic.nets import Net, through_unit, unit
from agentgym_verifiers.intrinsic.novelty import ArchiveNovelty, Novelty
from agentgym_verifiers.intrinsic.subgoals import Subgoals
from tiny import model, renderer

from agentgym.core import EpisodeView, Task, Tokens
from agentgym.episode import Episode, Turn
from agentgym.errors import CapabilityError, UsageError
from agentgym.evaluation.run import settler_of
from agentgym.policies import resolve
from agentgym.registry import installed, load, make
from agentgym.rewards import attribute, delta, late, outcome
from agentgym.rewards.settler import Settler
from agentgym.rollout import Job, Rollout
from agentgym.verdict import StopReason, Verdict


def episode(*seen, actions=None, id="e", end=1.0, **data):
    """An episode that saw these texts, one before each action and the last at the end."""
    say = [[{"role": "user", "content": s}] for s in seen]
    turns = [Turn(o, (actions or ["go"] * 99)[i], anchor=seen[i + 1]) for i, o in enumerate(say[:-1])]
    record = Episode(
        id, "x", "t", "d", "train", turns=turns, closing=say[-1], status="valid", stop_reason=StopReason.DONE, verdicts={"task": Verdict.scored(end)}
    )
    return EpisodeView(Task(data.pop("task", "t"), "?", "train", data), record)


def judged(source, *views, policy=None):
    return [[v.value for v in row] for row in anyio.run(source.judge, list(views), policy)]


def test_counts_fall_with_the_root_and_first_visits_pay_once():
    view = episode("start", "a", "b", "a", "a")
    assert judged(Novelty(), view) == [pytest.approx([1, 1, 2**-0.5, 3**-0.5])]
    assert judged(Novelty("first"), view, view) == [[1, 1, 0, 0], [0, 0, 0, 0]]
    assert judged(Novelty("first", life="episode"), view, view) == [[1, 1, 0, 0]] * 2


def test_messages_are_counted_by_their_captions():
    view = episode("start", "a", "a", "b")
    for turn, caption in zip(view.episode.turns, ("It is locked.", "It opens.", "It is locked."), strict=True):
        turn.facts["caption"] = caption
    assert judged(load("verifiers", "messages")(), view) == [pytest.approx([1, 1, 2**-0.5])]
    assert judged(Novelty(of="caption"), episode("start", "a", "a", "b")) == [pytest.approx([1, 2**-0.5, 1])]


def test_novelty_is_bounded_and_forgets_what_was_not_seen_for_longest():
    source = Novelty("first", capacity=2)
    assert [source.visit(x) for x in "abacab"] == [1, 1, 0, 1, 0, 1]
    assert len(source.counts) == 2


def test_an_archive_pays_little_for_what_is_like_something_seen():
    source = ArchiveNovelty(nearest=1, capacity=3)
    (first,) = judged(source, episode("", "a red door", "a red door.", "seventeen llamas"))
    assert first[0] == 1 and first[1] < 0.6 < 1 < first[2]
    judged(source, *(episode("", f"room {i}") for i in range(9)))
    assert source.archive.shape == (3, 256)


def test_distillation_pays_for_the_new_and_ever_less_for_the_known():
    source = Distillation(rate=3e-3)
    old = hashed([f"corridor {i % 4}" for i in range(64)])
    early = source.observe(old).mean()
    for _ in range(200):
        source.observe(old)
    assert source.observe(old).mean() < early / 20 and source.observe(hashed(["a dragon guards the hoard"]))[0] > 5 * source.observe(old).mean()


def noisy(draw, n=32):
    """A radio: whatever is done, what comes next is random."""
    heard = ["".join(draw.choice("abcdefghijklmnop") for _ in range(12)) for _ in range(n)]
    return np.stack([hashed(["a radio"] * n), hashed(["listen"] * n), hashed([f"radio says {w}" for w in heard])], axis=1)


def walk(draw, n=32):
    """Rooms in a ring: what comes next follows from the room and the step."""
    rooms = ["hall", "kitchen", "cellar", "attic", "garden", "tower", "well", "cave"]
    here, step = [draw.randrange(8) for _ in range(n)], [draw.choice([1, 7]) for _ in range(n)]
    names = [[f"you are in the {rooms[(h + s * k) % 8]}" for h, s in zip(here, step, strict=True)] for k in (0, 1)]
    return np.stack([hashed(names[0]), hashed([f"go {s}" for s in step]), hashed(names[1])], axis=1)


def errors(source, world, batches):
    draw = random.Random(0)
    return [float(source.observe(world(draw)).mean()) for _ in range(batches)]


def test_hindsight_stops_paying_for_noise_while_plain_curiosity_pays_on():
    plain, hindsight = (errors(Curiosity(form, unscaled=True), noisy, 300) for form in ("plain", "hindsight"))
    assert np.mean(plain[-30:]) > 0.5 * np.mean(plain[60:90])
    assert np.mean(hindsight[-30:]) < 0.4 * np.mean(plain[-30:])
    assert np.mean(hindsight[-30:]) < 0.2 * hindsight[0]


def test_in_a_world_without_noise_hindsight_pays_about_what_plain_curiosity_does():
    plain, hindsight = (errors(Curiosity(form, unscaled=True), walk, 150) for form in ("plain", "hindsight"))
    assert np.mean(hindsight[:60]) == pytest.approx(np.mean(plain[:60]), rel=0.3)
    assert np.mean(hindsight[-15:]) < 0.5 * hindsight[0]


def test_a_networks_gradient_is_the_numeric_one():
    net, draw = Net((5, 7, 3), 0), np.random.default_rng(0)
    x, target = draw.standard_normal((4, 5)).astype(np.float32), unit(draw.standard_normal((4, 3)).astype(np.float32))[0]

    def loss(x):
        return float((unit(net.forward(x))[0] * target).sum())

    y, length = unit(net.forward(x))
    grad = net.backward(through_unit(target, y, length), update=False)
    bump = np.zeros_like(x)
    for i in np.ndindex(x.shape):
        bump[:] = 0
        bump[i] = 1e-2
        assert grad[i] == pytest.approx((loss(x + bump) - loss(x - bump)) / 2e-2, abs=2e-3)


STATEFUL = [Novelty, ArchiveNovelty, Distillation, Curiosity, Hindsight, Progress]


@pytest.mark.parametrize("kind", STATEFUL)
def test_a_source_that_is_saved_goes_on_as_if_it_had_not_been(kind):
    views = [episode("s", *(f"room {random.Random(i).randrange(5)} {k}" for k in range(6)), id=f"e{i}", end=i % 2) for i in range(8)]
    whole, first, second = kind(), kind(), kind()
    expected = judged(whole, *views)
    before = judged(first, *views[:4])
    second.load_state(first.state())
    assert before + judged(second, *views[4:]) == expected


@pytest.mark.parametrize("kind", STATEFUL)
def test_a_source_is_the_same_twice(kind):
    views = [episode("s", "a", "b", f"c{i}", id=f"e{i}", end=i % 2) for i in range(5)]
    assert judged(kind(), *views) == judged(kind(), *views)


def test_subgoals_pay_once_in_order_and_the_teacher_is_asked_for_each_task():
    view = episode(
        "start", "a key lies here", "nothing", "you take the Key", "the door opens", "a key lies here", subgoals=["key lies", "take the key", "door opens"]
    )
    assert judged(Subgoals(), view) == [pytest.approx([1 / 3, 0, 1 / 3, 1 / 3, 0])]
    assert judged(Subgoals(lambda task: ["door"]), view) == [[0, 0, 0, 1, 0]]


def test_labels_come_from_the_other_group_only_and_collapse_is_flagged():
    def said(task, other, *answers):
        return [episode("q", "end", actions=[a], task=task, analogous=other) for a in answers]

    views = [*said("a", "b", "1", "1", "2"), *said("b", "a", "2", "2", "3")]
    assert judged(Vote(), *views) == [[0], [0], [1], [0], [0], [0]]
    assert judged(Vote(), *said("a", "b", "7", "7", "7"), *views[3:])[:3] == [[0]] * 3
    same = anyio.run(Vote().judge, [*said("a", "b", "x", "x"), *said("b", "a", "x")], None)
    assert all(v[0].value == 1 and v[0].evidence["collapsed"] and v[0].evidence["entropy"] == 0 for v in same)
    assert anyio.run(Vote().judge, said("a", "b", "1"), None)[0][0].status == "invalid"


def test_contributions_learn_which_turn_matters_and_sum_to_the_outcome():
    draw, source = random.Random(0), Progress()

    def toy(n):
        acts = [draw.choice(["find key", "look around", "wait"]) for _ in range(draw.randrange(2, 6))]
        return episode("s", *["ok"] * len(acts), actions=acts, id=f"e{n}", end=sum(a == "find key" for a in acts) / 5)

    judged(source, *(toy(i) for i in range(1500)))
    held_out = toy(9999)
    held_out.episode.turns[0].action, held_out.episode.turns[1].action = "find key", "wait"
    held_out.episode.verdicts["task"] = Verdict.scored(sum(t.action == "find key" for t in held_out.episode.turns) / 5)
    (told,) = judged(source, held_out)
    assert sum(told) == pytest.approx(held_out.episode.verdicts["task"].value, abs=0.05)
    assert told[0] == pytest.approx(0.2, abs=0.05) and told[1] == pytest.approx(0.0, abs=0.05)
    for turn, c in zip(held_out.episode.turns, told, strict=True):
        turn.late["progress"] = Verdict.scored(c)
    terms = attribute(outcome("task"), by=late("progress")).settle([held_out.episode])[0]
    assert sum(t.value for t in terms) == pytest.approx(held_out.episode.verdicts["task"].value, abs=1e-12)


def desk(actions, task="close_by_title.dev.0"):
    env = make("tools/desk", split="dev")
    env.reset(seed=1, options={"task": task})
    solution = list(env.oracle())
    for a in actions(solution):
        env.step(a)
        if env.episode.stop_reason is not None:
            break
    return EpisodeView(env.task, env.episode, env.artefacts)


def test_leaving_out_a_turn_that_does_nothing_costs_nothing():
    view = desk(lambda solution: [solution[0], solution[0], *solution[1:]])
    assert view.episode.success
    (values,) = judged(LeaveOneOut(), view)
    assert values[1] == 0 and max(values) == 1 and len(values) == len(view.episode.turns)


def test_playing_on_by_the_oracle_is_worth_1_until_the_task_is_spoilt():
    view = desk(lambda solution: [solution[0], '<tool_call>{"name": "finish", "arguments": {}}</tool_call>'])
    assert not view.episode.success
    (values,) = judged(MonteCarlo(n=2), view, policy=resolve("oracle"))
    assert values == [0, -1]
    for turn, v in zip(view.episode.turns, values, strict=True):
        turn.late["onward"] = Verdict.scored(v)
    assert [(t.place.turn, t.value) for t in delta(late("onward")).settle([view.episode])[0]] == [(1, -1)]


class Hot:
    """Finds the answer likelier after each turn: by the number of ids that came before."""

    name = "hot"

    async def score(self, conversation, continuation):
        n = sum(len(t.ids) for t in conversation.prefix)
        return [math.log(n / 100)] * len(continuation.split())


def with_tokens(*lengths, **data):
    view = episode("q", *["see"] * len(lengths), **data)
    for turn, n in zip(view.episode.turns, lengths, strict=True):
        turn.tokens = Tokens([1] * (4 + n), [0] * 4 + [1] * n, [0.0] * (4 + n), {"temperature": 1.0}, [("0", n)])
    return view


def test_information_gain_telescopes_and_stays_where_outcomes_are_equal():
    view = with_tokens(6, 16, 10, answer="the true one", end=1.0)
    (levels,) = judged(AnswerLikelihood(), view, policy=Hot())
    assert levels == pytest.approx([(4 + 6 + 4) / 100 - 0.04, (4 + 6 + 4 + 16 + 4) / 100 - 0.04, 0.30])
    cut = with_tokens(6, 16, 10, answer="the true one")
    cut.episode.turns.append(Turn([], ""))
    assert judged(AnswerLikelihood(), cut, policy=Hot()) == [pytest.approx([*levels, levels[-1]])]
    for turn, p in zip(view.episode.turns, levels, strict=True):
        turn.late["answer"] = Verdict.scored(p)
    gains = [t.value for t in delta(late("answer")).settle([view.episode])[0]]
    assert sum(gains) == pytest.approx(levels[-1]) and len(gains) == 2


def test_an_engine_scores_what_its_model_says():
    from agentgym_trainers.engine import TransformersEngine

    small, rendered = model(), renderer()
    engine = TransformersEngine(small, rendered, context=512)
    start, answer = rendered.open((), [{"role": "user", "content": "what is it"}]), "open the door"
    from agentgym.core import Conversation

    got = anyio.run(engine.score, Conversation("x", [{"role": "user", "content": "what is it"}]), answer)
    assert got == anyio.run(engine.score, Conversation("x", [], prefix=[Tokens(start, [0] * len(start))]), answer)
    ids = rendered.tokenizer(answer, add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        logp = torch.log_softmax(small(torch.tensor([start + ids])).logits[0].float(), -1)
    assert got == pytest.approx([float(logp[len(start) - 1 + i, t]) for i, t in enumerate(ids)], abs=1e-5)


def test_a_policy_without_probabilities_is_refused_before_the_first_episode():
    env = make("tools/desk", split="dev", reward="outcome('task') + delta(late('answer'))")
    rollout = Rollout(make=lambda: env, policy=resolve("oracle"), late=settler_of(env))
    with pytest.raises(CapabilityError, match="take one that owns weights"):
        anyio.run(rollout.run, [Job(env.taskset.ids()[0])])


class Broken:
    level, scope = "step", "episode"

    def __init__(self, rows):
        self.rows = rows

    async def judge(self, views, policy):
        if self.rows is None:
            raise ZeroDivisionError("no luck")
        return self.rows

    def state(self):
        return b""


@pytest.mark.parametrize(
    ("rows", "says"),
    [(None, "no luck"), ([[Verdict.scored(1.0)]], "another number"), ([[0.5, 0.5]], "must return a Verdict"), ([[Verdict("scored", math.inf)] * 2], "finite")],
)
def test_a_source_that_fails_gives_no_terms_and_the_episode_stays_valid(rows, says):
    view = episode("a", "b", "c")
    anyio.run(Settler(outcome("task") + late("novelty"), {"novelty": Broken(rows)}).settle, [view], None)
    assert [t.source for t in view.episode.terms] == ["task"]
    assert all(t.late["novelty"].status == "invalid" and says in t.late["novelty"].critique for t in view.episode.turns)


def test_a_source_that_hangs_is_cut_off():
    class Hanging(Broken):
        async def judge(self, views, policy):
            await anyio.sleep(3600)

    view = episode("a", "b", "c")
    anyio.run(Settler(outcome("task") + late("novelty"), {"novelty": Hanging([])}, limit_s=0.05).settle, [view], None)
    assert [t.source for t in view.episode.terms] == ["task"] and view.episode.turns[0].late["novelty"].status == "invalid"


def test_every_source_is_installed_under_its_name(monkeypatch):
    monkeypatch.setenv("AGENTGYM_ANNOTATOR", "words:gold")
    names = set(installed("verifiers"))
    assert names >= {
        "novelty",
        "messages",
        "annotation",
        "archive",
        "distillation",
        "curiosity",
        "hindsight",
        "answer",
        "vote",
        "subgoals",
        "progress",
        "without",
        "onward",
    }
    for name in names:
        try:
            made = load("verifiers", name)()
        except UsageError as error:  # those that are nothing without a model or a file say so
            assert f"{name}:" in str(error) or "a judge needs a model" in str(error)
            continue
        assert made.level == "action" or (made.level in ("step", "outcome") and made.scope in ("episode", "group", "batch"))
    with pytest.raises(UsageError, match="before the act"):
        settler_of(make("tools/desk", reward="outcome('task') + late('careful')"))


def test_observations_are_those_after_each_turn():
    assert seen_after(episode("a", "b", "c").episode) == ["b", "c"] and np.allclose(np.linalg.norm(hashed(["x", "", "ünïcode \ud800"]), axis=1)[[0, 2]], 1)


def test_a_rollout_waits_for_the_batch_and_writes_what_it_settled():
    reward = "outcome('task') + 0.1 * late('vote', level='outcome') + 0.05 * late('hindsight')"
    env = make("tools/desk", split="dev", reward=reward)
    kept = []
    rollout = Rollout(make=lambda: make("tools/desk", split="dev", reward=reward), policy=resolve("oracle"), late=settler_of(env), on_episode=kept.append)
    assert rollout.late.scope == "batch"
    episodes = anyio.run(rollout.run, [Job(t, seed=1) for t in env.taskset.ids()[:3]])
    assert len(kept) == 3 and all("vote" in e.late and "hindsight" in e.turns[0].late for e in episodes)
    assert all({t.source for t in e.terms} == {"task", "hindsight"} for e in episodes)
