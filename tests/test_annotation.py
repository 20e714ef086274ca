"""Online distilled annotation: it never slows what it watches, pays what was learned, and says what it missed."""

import os
import threading
import time

import anyio
import pytest
from agentgym_verifiers.intrinsic.annotation import VARIABLE, Annotation, Model, Words, annotator_of
from test_intrinsic import episode, judged
from test_openai_policy import Server, reply

from agentgym.errors import UsageError
from agentgym.policies import resolve
from agentgym.registry import load, verifier

GOOD, BAD = [f"you find {n} gold pieces" for n in range(40)], [f"the wall {n} is solid" for n in range(40)]


def told(source, captions):
    """Offer captions, wait until they are labelled."""
    judged(source, episode("start", *captions, actions=["go"] * len(captions)))
    assert source.settle_down(20)


def test_hashing_looks_labels_up_and_pays_what_it_does_not_know_nothing():
    source = Annotation("hash", Words(["gold"]))
    assert judged(source, episode("", GOOD[0], BAD[0], GOOD[0])) == [[0, 0, 0]]
    assert source.settle_down(5)
    assert judged(source, episode("", GOOD[0], BAD[0], GOOD[0], GOOD[1])) == [[1, 0, pytest.approx(2**-0.5), 0]]


def test_a_counter_makes_nothing_new():
    source = Annotation("classify", Words(["gold"]))
    for n in range(30):
        told(source, [f"turn {n * 8 + k}: gold lies north" if k % 2 else f"turn {n * 8 + k}: a wall" for k in range(8)])
    (paid,) = judged(source, episode("", *(f"turn {900 + k}: gold lies north" for k in range(9)), actions=["wait"] * 9))
    assert paid[0] > 0.9 and paid[8] < 0.4 and sum(paid) < 5.5  # Σ 1/√n of nine


@pytest.mark.parametrize("form", ["classify", "rank"])
def test_models_pay_for_captions_like_those_that_were_found_good(form):
    source = Annotation(form, Words(["gold"]))
    for _ in range(4):
        source._asked.clear()
        told(source, [c for pair in zip(GOOD[:30], BAD[:30], strict=True) for c in pair])
    new = source.values([*GOOD[30:], *BAD[30:]])
    assert new[:10].min() > new[10:].max() and (new >= 0).all() and (new <= 1).all()


def test_a_form_is_the_sources_argument_and_looking_up_says_where_nothing_is_met_again(monkeypatch):
    monkeypatch.setenv(VARIABLE, "words:gold")
    paid = {}
    for form in ("", ":classify"):
        source = verifier(f"annotation{form}")
        for n in range(30):
            told(source, [f"T:{n}-{k} you find gold" if k % 2 else f"T:{n}-{k} the wall is solid" for k in range(8)])
        paid[form] = judged(source, episode("", "T:99-1 you find gold", "T:99-2 the wall is solid", actions=["go"] * 2))[0]
        assert any("nothing was paid; annotation:classify" in n for n in source.notes()) == (not form)
    assert paid[""] == [0, 0] and paid[":classify"][0] > 0.5 > paid[":classify"][1]
    with pytest.raises(UsageError, match=r"no form 'clasify'.*nearest: classify"):
        verifier("annotation:clasify")


class Slow(Words):
    def labels(self, captions):
        time.sleep(0.3)
        return super().labels(captions)


def test_a_slow_annotator_never_slows_the_run_and_a_full_queue_drops():
    source = Annotation("hash", Slow(["gold"]), waiting=16)
    began = time.perf_counter()
    for n in range(50):
        judged(source, episode("", *(f"caption {n} {k}" for k in range(20)), actions=["go"] * 20))
    assert time.perf_counter() - began < 2.0
    assert source.counts["dropped"] > 500 and "dropped" in source.notes()[0]


class Broken(Words):
    """Answers as told: properly, not at all, or with garbage."""

    mode = "well"

    def labels(self, captions):
        if self.mode == "down":
            raise ConnectionError("nobody listens")
        return super().labels(captions) if self.mode == "well" else [None] * len(captions) if self.mode == "garbage" else [1.0]


def test_while_the_annotator_is_down_or_talks_garbage_the_last_model_pays_and_the_gap_is_counted():
    annotator = Broken(["gold"])
    source = Annotation("hash", annotator)
    told(source, GOOD[:4])
    for annotator.mode in ("down", "garbage", "too few"):
        told(source, [f"{annotator.mode} gold {n}" for n in range(3)])
        assert list(source.values(GOOD[:4])) == [1.0] * 4
    assert source.counts["failed"] >= 6 and source.counts["unclear"] == 3
    (note,) = source.notes()
    assert "failed" in note and "unclear" in note and "the last distilled model paid" in note
    annotator.mode = "well"
    told(source, ["down gold 0"])
    assert source.values(["down gold 0"])[0] == 1.0  # what failed is asked again


def test_it_continues_from_its_state():
    source = Annotation("classify", Words(["gold"]))
    told(source, [*GOOD[:20], *BAD[:20]])
    again = Annotation("classify", Words(["gold"]))
    again.load_state(source.state())
    assert (again.values(GOOD) == source.values(GOOD)).all() and again.known == source.known


def test_any_endpoint_may_annotate():
    server = Server()
    try:
        server.plays((200, {}, reply("Yes, it does."), ""))
        model = annotator_of(f"openai:m@{server.url}")
        assert isinstance(model, Model)
        found = []
        thread = threading.Thread(target=lambda: found.extend([model.labels(["a", "b"]), model.labels(["c"])]))
        thread.start()
        thread.join(20)
        assert found == [[1.0, 1.0], [1.0]] and "progress" in server.asked[0][1]["messages"][0]["content"]
        server.plays((200, {}, reply("What do you mean?"), ""))
        assert Model(resolve(f"openai:m@{server.url}")).better([("a", "b")]) == [None]
    finally:
        server.http.shutdown()


def test_without_an_annotator_the_source_says_which_variable_names_one(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    with pytest.raises(UsageError, match="AGENTGYM_ANNOTATOR=openai"):
        load("verifiers", "annotation")()
    monkeypatch.setitem(os.environ, VARIABLE, "words:gold,door")
    assert anyio.run(load("verifiers", "annotation")().judge, [], None) == []
