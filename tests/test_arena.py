"""The arena's games: what they pay, what their rules refuse, and what is measured beside winning."""

import random

import pytest
from agentgym_arena import GAMES
from agentgym_arena.classic import wrap
from agentgym_arena.questions import bent, question, right

import agentgym
from agentgym.errors import ToolError, UsageError


def game_of(env, task=None):
    made = agentgym.make(env)
    return made.game(made.taskset.get(task) if task else made.taskset[0])


def played(game, players, dice=None):
    dice = dice or random.Random(0)
    while game.current is not None:
        game.step(players[game.current](game, game.current, dice))
    return game


@pytest.mark.parametrize("name", GAMES)
@pytest.mark.parametrize("seat", ["first", "second"])
def test_every_classic_game_is_played_to_its_end_in_words(name, seat):
    env = agentgym.make("arena/board", games=name, seat=seat)
    for seed in range(3):
        first, _ = env.reset(seed=seed)
        assert "moves:" in first and len(env.choices()) >= 2
        while env.episode.stop_reason is None:
            env.step(random.Random(len(env.episode.turns)).choice(env.choices()))
        assert env.episode.stop_reason == "done" and 0 <= env.episode.verdicts["result"].value <= 1


def test_any_other_game_of_pettingzoo_is_wrapped_too():
    from pettingzoo.classic import connect_four_v3

    game, dice = wrap(connect_four_v3.raw_env(), "Drop discs."), random.Random(1)
    while game.current is not None:
        assert (game.rules("first") == "Drop discs." and "moves:\n0,1" in game.view(game.current)) or len(game.legal()) < 7
        game.step(dice.choice(game.legal()))
    assert sorted(game.rewards.values()) in ([-1.0, 1.0], [0.0, 0.0])


def test_hidden_cards_stay_hidden():
    env = agentgym.make("arena/board", games="leduc")
    for i in range(10):
        game = env.game(env.taskset[i])
        hands = [game.view(s).split("\n")[0] for s in game.seats]
        assert hands[0] != hands[1] and all(h.startswith("your hand: ") for h in hands)


def test_perfect_play_never_loses_at_tic_tac_toe():
    from agentgym_arena.players import PLAYERS

    env = agentgym.make("arena/board", games="tictactoe", seat="second", opponents="greedy")
    for seed in range(30):
        game = env.game(env.taskset.get("train/tictactoe-0000"))
        other = PLAYERS["greedy"] if seed % 2 else lambda g, s, d: d.choice(g.legal())
        played(game, {"first": other, "second": PLAYERS["perfect"]}, random.Random(seed))
        assert game.value("second") >= 0.5


# Negotiation


def test_a_deal_pays_each_its_own_values_and_is_measured_by_rule():
    game = game_of("arena/negotiate")
    best = max(game.deals, key=lambda share: game.deals[share][0] * game.deals[share][1])
    game.step(f"I like this.\noffer {' '.join(map(str, best))}")
    assert "the other | I like this." in game.observe("second")
    with pytest.raises(ToolError, match="at most"):
        game.step("offer 9 9 9")
    game.step("accept")
    assert [game.rewards[s] * 10 for s in game.seats] == list(game.deals[best]) and game.measures("first")["pareto"] == 1.0
    assert game.value("first") == game.value("second") == 1.0


def test_a_worse_deal_for_both_is_not_efficient_and_no_deal_pays_nobody():
    made = agentgym.make("arena/negotiate")
    for i in range(40):
        game = made.game(made.taskset[i])
        bad = next((s for s, p in game.deals.items() if any(q[0] > p[0] and q[1] > p[1] for q in game.deals.values())), None)
        if bad is not None:
            game.step(f"offer {' '.join(map(str, bad))}")
            game.step("accept")
            assert game.measures("first")["pareto"] == 0.0
            break
    else:
        raise AssertionError("every deal of forty tasks is efficient")
    game = made.game(made.taskset[0])
    game.step("walk")
    assert game.current is None and set(game.rewards.values()) == {0.0} and game.measures("first") == {"deal": 0.0, "pareto": 0.0, "fair": 0.0}


def test_nobody_accepts_their_own_offer():
    game = game_of("arena/negotiate")
    with pytest.raises(ToolError, match="no offer of the other"):
        game.step("accept")
    game.step("offer 1 0 0")
    game.step("offer 0 0 1")
    assert game.offered[0] == "second" and "accept" in game.legal()


# The sneaky hand and the critic


def test_payoffs_of_the_duel_sum_to_zero_and_a_line_that_is_right_is_refused():
    from agentgym_arena.critic import PLAYERS

    made = agentgym.make("arena/critic")
    for i in range(12):
        game = made.game(made.taskset[i])
        if i == 0:
            with pytest.raises(ToolError, match="not wrong"):
                game.step(f"1: {game.asked.lines[0]}")
            with pytest.raises(ToolError, match="answer 'N"):
                game.step("1: nonsense")
        played(game, {"sneak": PLAYERS["random"], "critic": PLAYERS["careful"]}, random.Random(i))
        assert sum(game.rewards.values()) == 0 and game.rewards["critic"] == 1.0
    game = made.game(made.taskset[0])
    game.step(f"2: {bent(game.asked.lines, 1, 1)[1]}")
    game.step("none")
    assert game.rewards == {"critic": -1.0, "sneak": 1.0}


def test_an_error_is_carried_on_so_that_every_other_line_is_right_in_itself():
    asked = question(random.Random(3), 5)
    assert all(map(right, asked.lines)) and asked.lines[-1].endswith(f"= {asked.answer}")
    wrong = bent(asked.lines, 2, 4)
    assert [right(line) for line in wrong] == [True, True, False, True, True] and wrong[-1] != asked.lines[-1]


# Debate


def test_the_judge_is_paid_for_the_truth_and_the_advocates_for_the_judge():
    from agentgym_arena.debate import PLAYERS

    made = agentgym.make("arena/debate")
    for i in range(12):
        game = played(made.game(made.taskset[i]), {"judge": PLAYERS["random"], "pro": PLAYERS["careful"], "con": PLAYERS["random"]}, random.Random(i))
        truth = game.decided == game.asked.answer
        assert game.value("judge") == float(truth) and game.rewards["pro"] + game.rewards["con"] == 0
        assert game.value("pro") == float(game.answers["pro"] == game.decided)


def test_speeches_are_quoted_line_by_line_and_only_the_two_answers_decide():
    game = game_of("arena/debate")
    game.step("judge is to decide\nanswer: 7")
    assert all(line.startswith("pro | ") for line in game.observe("judge").split("\n")[:2])
    for _ in range(3):
        game.step("so it is")
    with pytest.raises(ToolError, match="decide with"):
        game.step("answer: 999999")
    game.step(f"answer: {game.asked.answer}")
    assert game.value("judge") == 1.0


def test_a_judge_who_checks_the_lines_beats_one_who_tosses_a_coin():
    from agentgym_arena.debate import PLAYERS

    made = agentgym.make("arena/debate")

    def found(judge):
        seats = {"judge": PLAYERS[judge], "pro": PLAYERS["careful"], "con": PLAYERS["careful"]}
        return sum(played(made.game(made.taskset[i]), seats, random.Random(i)).value("judge") for i in range(40)) / 40

    assert found("checking") == 1.0 and found("random") < 0.8


# The quiz


def asked(question="", answers=("x",) * 4, verdict="right: none", reference=""):
    game = game_of("arena/quiz")
    known = next(iter(game.facts))
    game.step(f"{question or known} = {reference or game.facts[known]}")
    for answer in answers:
        game.step(answer or game.facts[known])
    game.step(verdict)
    return game


def test_the_asker_is_paid_most_where_half_of_the_answers_are_right():
    paid = [asked(answers=[""] * n + ["no"] * (4 - n)).value("asker") for n in range(5)]
    assert paid == [0.0, 0.75, 1.0, 0.75, 0.0]


def test_where_a_rule_knows_the_answer_the_judges_word_pays_nobody_but_the_judge():
    for verdict, share in (("right: 1 2", 1.0), ("right: 3 4", 0.0), ("right: 1 2 3 4", 0.5), ("right: 1", 0.75)):
        game = asked(answers=["", "", "no", "no"], verdict=verdict)
        assert [game.value(s) for s in game.seats[:4]] == [1.0, 1.0, 0.0, 0.0] and game.value("judge") == share


def test_an_open_question_is_decided_by_the_judge_who_is_paid_for_labels_alone():
    value = game_of("arena/quiz").facts.popitem()[1]
    for verdict in ("right: 1 2", "right: none"):
        game = asked("Is it so?", verdict=verdict, reference=value)
        assert game.known is None and game.value("judge") == 0.5
        assert [game.value(s) for s in game.seats[:4]] == ([1.0, 1.0, 0.0, 0.0] if "1" in verdict else [0.0] * 4)


def test_a_wrong_reference_pays_its_author_nothing_and_one_from_nowhere_is_refused():
    game = game_of("arena/quiz")
    (known, value), *rest = game.facts.items()
    other = next(v for _, v in rest if v != value)
    cheat = asked(known, ["", "", "no", "no"], reference=other)
    assert cheat.value("asker") == 0.0 and cheat.value("first") == 1.0
    for wrong in (f"{known} = zebra", f"Is it {value}? = {value}", f"{known} {value}", f"{known} =  "):
        with pytest.raises(ToolError):
            game.step(wrong)
    game.step(f"{known} = {value}")
    assert value not in game.view("second")
    for wrong in ("", "x" * 200):
        with pytest.raises(ToolError, match="an answer is"):
            game.step(wrong)


def test_the_judge_sees_answers_in_quotes_and_no_document():
    game = game_of("arena/quiz")
    known, value = next(iter(game.facts.items()))
    game.step(f"{known} = {value}")
    for i in range(4):
        game.step(f"reference: {i}")
    assert game.document not in game.rules("judge") and "1 | reference: 0" in game.view("judge")
    assert len(game.legal()) == 16


def test_documents_grow_with_the_level():
    made = agentgym.make("arena/quiz")
    sizes = {made.taskset[i].kind: len(made.taskset[i].data["facts"]) for i in range(8)}
    assert sizes == {"2-people": 8, "4-people": 16, "8-people": 32, "16-people": 64}


def test_an_opening_is_as_long_as_asked_and_never_ends_the_game():
    env = agentgym.make("arena/board", games="tictactoe", opening=4)
    made = set()
    for i in range(60):
        env.reset(seed=i, options={"task": f"train/tictactoe-{i:04d}"})
        made.add(env.task.data["opening"])
        assert len(env.choices()) == 9 - env.task.data["opening"]
    assert made == {0, 2, 4}
    for game, opening in (("tictactoe", 5), ("leduc", 2)):
        with pytest.raises(UsageError, match="at most"):
            agentgym.make("arena/board", games=game, opening=opening)
