"""Training at a game, and the methods whose home is a world of text, each on the tiny model."""

import math
from collections import Counter
from pathlib import Path

import pytest
from agentgym_trainers.config import TrainConfig
from agentgym_trainers.engine import load_engine
from agentgym_trainers.train import train

from agentgym.episode import read_episodes
from agentgym.errors import UsageError

COMMON = {
    "warm_steps": 3,
    "steps": 2,
    "groups": 2,
    "group_size": 4,
    "eval_tasks": 2,
    "max_tokens": 16,
    "context": 1024,
    "threads": 1,
    "save_every": 1,
    "vocab_tasks": 24,
}
TTT = {"env": "arena/board", "option": {"games": "tictactoe"}, "trainable": ["first", "second"]}


def run(tmp_path, **settings):
    rows = []
    config = TrainConfig(**{**COMMON, "out": str(tmp_path / "r"), **settings})
    result = train(config, lambda phase, row: rows.append(row) if phase == "train" else None)
    assert result.steps == 2 and all(math.isfinite(v) for row in rows for v in row.values())
    return rows, list(read_episodes(Path(result.out) / "episodes.jsonl")), result


@pytest.mark.parametrize("against", ["self", "past", "fictitious", "double-oracle", "greedy"])
def test_the_seats_that_are_learned_from_and_who_sits_opposite(against, tmp_path):
    rows, episodes, result = run(tmp_path, **TTT, against=against)
    sat = Counter((e.seat, e.policy) for e in episodes)
    own = {seat: n for (seat, policy), n in sat.items() if policy == "hf:tiny"}
    assert own == {0: 8, 1: 8} and all(e.match for e in episodes)
    others = {policy for _, policy in sat if policy != "hf:tiny"}
    if against in ("self", "greedy"):
        assert not others
    else:
        assert others <= {"step-0", "step-1"} and len(episodes) == 32
    if against == "self":
        assert all(row["reward"] == pytest.approx(0.5) for row in rows)
    assert (Path(result.out) / "pool.json").exists() == (against == "double-oracle")


def test_the_others_tremble_and_nobody_learns_from_it(tmp_path):
    _, episodes, _ = run(tmp_path, **TTT, against="self", tremble=0.9)
    own, others = ([e for e in episodes if e.policy == name] for name in ("hf:tiny", "trembling:0.9/hf:tiny"))
    assert Counter(e.seat for e in own) == {0: 8, 1: 8} and len(own) + len(others) == len(episodes)
    assert all(e.group.endswith("/opponent") for e in others) and not any(e.group.endswith("/opponent") for e in own)
    drawn = [t for e in others for t in e.turns if t.tokens is None]
    assert len(drawn) > 4 and all(t.action in "123456789" and not t.problem for t in drawn), "an untrained model makes no such moves"
    assert all(t.tokens for e in own for t in e.turns)


def test_a_seats_group_is_its_own(tmp_path):
    _, episodes, _ = run(tmp_path, **TTT, against="self")
    groups = Counter(e.group for e in episodes)
    assert set(groups.values()) == {2} and all(g.endswith(("@first", "@second")) for g in groups)
    assert all(len({e.seat for e in episodes if e.group == g}) == 1 for g in groups)


def test_what_makes_no_sense_at_a_game_is_one_line(tmp_path):
    for wrong, said in (
        ({**TTT, "trainable": ["third"]}, "no seat 'third'"),
        ({"env": "tools/desk", "trainable": ["first"]}, "one seat"),
        ({**TTT, "against": "greedy", "tremble": 0.1}, "--tremble"),
    ):
        with pytest.raises(UsageError, match=said):
            train(TrainConfig(**COMMON, **wrong, out=str(tmp_path / "r")), lambda *_: None)


def test_the_entropy_band_runs_on_a_sparse_world_of_many_turns(tmp_path):
    """EPO on TextWorld, with the band from the first update on."""
    option = {"levels": 2, "limits": {"max_turns": 30, "max_malformed": 30}}
    more = {"max_tokens": 6, "context": 2048, "vocab_tasks": 4, "groups": 1, "group_size": 2, "warm_batch": 4}
    rows, episodes, _ = run(tmp_path, env="text/world", option=option, algo="epo", set={"begins": 0.0}, **more)
    assert max(len(e.turns) for e in episodes) == 30 and all("entropy_by_turn" in row for row in rows)


def test_information_gain_is_credited_where_questions_take_several_hops(tmp_path):
    """IGPO's own terms on the search environment: the levels of the answer's likelihood, turn by turn, from the policy itself."""
    reward = "outcome('answer') + centre(delta(late('answer')), form='scaled')"
    rows, episodes, _ = run(tmp_path, env="text/search", option={"hops": 2, "limits": {"max_turns": 4}}, algo="igpo", reward=reward)
    late = [t.late["answer"].value for e in episodes for t in e.turns if "answer" in t.late and t.late["answer"].status == "scored"]
    assert late and any(late) and all(row["unpaid"] < 1 for row in rows)


def test_asker_answerer_and_judge_are_one_model_and_documents_grow(tmp_path):
    """SPELL: three seats learn in groups of their own; the curriculum begins with the shortest documents."""
    seats = {"trainable": ["asker", "first", "judge"], "against": "self", "max_tokens": 24, "set": {"curriculum": "growing"}}
    _, episodes, _ = run(tmp_path, env="arena/quiz", **seats, warm_steps=6)
    assert {e.seat for e in episodes} >= {0, 4, 5} and {e.group.rpartition("@")[2] for e in episodes} >= {"asker", "first", "judge"}
    assert all(len(t.observation[0]["content"]) < 900 for e in episodes for t in e.turns[:1])


def test_with_a_window_each_turn_is_a_segment_and_its_checkpoint_keeps_it(tmp_path):
    _, episodes, result = run(tmp_path, **TTT, against="self", window=1, warm_by="player")
    tokens = [t.tokens for e in episodes for t in e.turns if t.tokens]
    assert tokens and all(t.segment == i for e in episodes for i, t in enumerate(x.tokens for x in e.turns if x.tokens))
    assert max(len(t.ids) for t in tokens) < 200
    assert load_engine(result.checkpoint_after).renderer.window == 1
