"""Published methods of learned verifiers: each is there, whole, and has a test of the property that defines it."""

import ast
import json
import re
import shlex
from pathlib import Path

import pytest

from agentgym.cli.main import find, split_verb
from agentgym.cli.parse import parse
from agentgym.methods import known_methods

ROWS = {row["id"]: row for row in known_methods()}
HERE = Path(__file__).parent

PROVED = {
    # reward models and how they are taught
    "cooper": "test_verifier_training:test_an_implicit_process_reward_and_a_co_optimised_one_learn_in_the_run",
    "cdr": "test_verifier_models:test_a_ratio_of_equal_models_is_0_and_changing_places_negates_it",
    "crm": "test_verifier_models:test_two_models_that_exchange_their_easy_pairs_beat_one_under_noise_and_lose_nothing_without",
    "flr": "test_verifier_models:test_what_makes_a_pleased_user_likelier_scores_higher_and_nothing_is_trained_on_the_users_words",
    "helpsteer2-preference": "test_verifier_models:test_a_verifier_is_trained_on_a_stored_run_and_used_by_name",
    "polar": "test_verifier_models:test_what_is_closer_to_a_reference_policys_attempt_scores_higher",
    "qwen2.5-math": "test_learned_methods:test_the_loop_of_self_improvement_is_a_list_of_commands",
    "reranker-self-training": "test_verifier_models:test_hard_negatives_are_the_failures_that_score_highest",
    "reward-topology": "test_verifier_eval:test_pairs_of_a_tree_share_their_beginning_and_differ_after_the_branch",
    "rluf": "test_verifier_eval:test_calibration_is_the_distance_of_chances_and_shares",
    "secrets-rm": "test_verifier_models:test_planted_flips_rank_lowest_in_strength_and_dropping_them_helps",
    "skywork-reward-v2": "test_verifier_models:test_any_sequence_classifier_of_one_label_loads_through_one_adapter",
    "vlm-rm": "test_verifier_models:test_likeness_is_the_cosine_of_the_goal_and_what_is_shared_with_the_baseline_pays_nothing",
    "irl-llm-survey": "test_verifier_models:test_a_verifier_is_trained_on_a_stored_run_and_used_by_name",
    # judges
    "cm2": "test_judges:test_a_yes_whose_quote_does_not_occur_is_a_no_and_what_depends_on_it_falls_too",
    "br-rm": "test_judges:test_the_second_reading_sees_the_dimensions_of_the_first_and_a_trace_without_any_is_no_answer",
    "debate-reward": "test_judges:test_in_a_debate_what_is_not_quoted_from_the_episode_is_struck_out",
    "deepseek-grm": "test_judges:test_the_meta_judge_drops_the_worse_half_of_the_votes",
    "multicritique": "test_judges:test_votes_have_a_mean_a_variance_and_agreement_and_need_a_temperature",
    "rewardanything": "test_judges:test_opposite_principles_reverse_a_ranking_and_the_principle_is_evidence",
    "rm-r1": "test_judges:test_a_judge_that_fails_is_invalid_after_bounded_tries_and_never_zero",
    "self-reference-feedback": "test_judges:test_pairs_are_asked_in_both_orders_and_a_judge_that_sticks_to_a_place_prefers_nobody",
    "stable-reinforce": "test_verifier_training:test_a_judge_is_trained_as_a_policy",
    "themis": "test_judges:test_a_judge_with_tools_is_right_where_it_needs_the_calculator_and_stays_within_its_calls",
    "think-rm": "test_judges:test_pairs_are_asked_in_both_orders_and_a_judge_that_sticks_to_a_place_prefers_nobody",
    "edit-r1": "test_judges:test_the_expected_rating_of_known_chances_is_exact_and_grows_with_mass_on_higher_ratings",
    "reagent-v": "test_learned_methods:test_three_equal_views_equal_one",
    # process verifiers
    "pav": "test_learned_methods:test_the_gain_of_a_provers_value_telescopes_and_the_prover_is_another",
    "prime": "test_verifier_training:test_an_implicit_process_reward_and_a_co_optimised_one_learn_in_the_run",
    "webarbiter": "test_judges:test_the_best_candidate_is_named_whatever_their_order_and_one_that_names_none_is_no_answer",
    "deepcritic": "test_judges:test_the_first_wrong_turn_is_named_and_marks_lie_on_words_that_stand_there",
    "hrm": "test_verifier_models:test_a_mistake_with_its_correction_scores_above_the_mistake_alone",
    "prm-lessons": "test_verifier_models:test_labels_come_from_verdicts_probes_policies_and_sources",
    # critics
    "gui-critic-r1": "test_judges:test_a_judged_action_leaves_the_world_as_it_is_and_its_critique_is_the_observation",
    "retroformer": "test_learned_methods:test_a_judges_critique_is_what_a_further_attempt_is_told",
    "coderl": "test_learned_methods:test_a_critics_term_never_overrides_a_failed_test",
    "read-advantage": "test_verifier_eval:test_a_refined_policy_stops_at_the_bar_or_at_its_rounds_and_what_it_was_told_is_not_trained_on",
    "refcritic": "test_verifier_eval:test_a_critique_is_worth_what_the_rule_says_of_the_attempt_that_was_told_it",
    # rewards by a model
    "auto-mc-reward": "test_design:test_the_static_critic_refuses_with_a_reason",
    "eureka": "test_design:test_fitness_is_true_success_and_the_best_never_falls",
    "icpl": "test_design:test_a_ranker_sees_episodes_and_no_code_and_is_counted",
    "text2reward": "test_design:test_the_dry_run_refuses_what_raises_never_ends_or_gives_no_number",
    "language-to-rewards": "test_design:test_weights_of_declared_components_and_nothing_else",
    # search
    "genarm": "test_verifier_models:test_steering_by_no_weight_is_the_base_and_a_second_arm_of_weight_0_changes_nothing",
    "zip-rc": "test_verifier_eval:test_a_look_ahead_takes_the_best_of_what_comes_of_each_and_leaves_the_world_alone",
    # how verifiers, and rewards, are measured
    "practitioners-guide": "test_learned_methods:test_one_stored_run_feeds_several_algorithms",
    "tricks-or-traps": "test_verifier_training:test_a_grid_changes_one_setting_per_cell_and_nothing_else",
    "unpacking-dpo-ppo": "test_verifier_training:test_a_grid_changes_one_setting_per_cell_and_nothing_else",
    "alignment-ceiling": "test_verifier_training:test_a_run_says_how_far_its_reward_agreed_with_success",
    "daa-overopt": "test_learned_methods:test_patience_stops_at_the_peak_of_gold",
    "implicit-rm-generalization": "test_verifier_models:test_a_ratio_of_equal_models_is_0_and_changing_places_negates_it",
    "starc": "test_verifier_eval:test_the_distance_of_rewards_forgets_shaping_and_scale_and_is_a_distance",
    "contrast-instructions": "test_verifier_eval:test_a_verifier_blind_to_the_instruction_scores_chance_on_contrast_sets",
    "m-rewardbench": "test_learned_methods:test_a_verifier_of_one_dimension_is_exposed_by_the_table_of_kinds",
    "mrmbench": "test_learned_methods:test_a_verifier_of_one_dimension_is_exposed_by_the_table_of_kinds",
    "rag-rewardbench": "test_learned_methods:test_a_verifier_of_one_dimension_is_exposed_by_the_table_of_kinds",
    "rewardbench2": "test_verifier_eval:test_the_rule_scores_1_a_random_verifier_chance_and_ties_are_not_right",
    "rewardmath": "test_verifier_eval:test_a_length_biased_verifier_looks_good_in_pairs_and_bad_against_many",
    # self-play
    "spc": "test_verifier_eval:test_payoffs_of_a_duel_sum_to_zero_and_what_is_no_mistake_pays_nobody",
    "spo-minimax": "test_judges:test_pairs_are_asked_in_both_orders_and_a_judge_that_sticks_to_a_place_prefers_nobody",
}


def functions_of(name):
    return {n.name for n in ast.walk(ast.parse((HERE / f"{name}.py").read_text())) if isinstance(n, ast.FunctionDef)}


@pytest.mark.parametrize("id", PROVED)
def test_a_method_is_whole_and_the_test_of_its_property_exists(id):
    row = ROWS[id]
    assert not row["partial"] and all(row[k] for k in ("paper", "kind", "recipe", "primitives", "formula", "summary"))
    file, _, name = PROVED[id].partition(":")
    assert name in functions_of(file)


@pytest.mark.parametrize("id", [i for i, row in ROWS.items() if row.get("command") and row["recipe"].startswith("agentgym ")])
def test_a_recipe_that_is_a_command_is_one(id):
    verb, words = split_verb(shlex.split(ROWS[id]["recipe"])[1:])
    assert parse(find(verb), words).config is not None


def test_the_loop_of_self_improvement_is_a_list_of_commands():
    assert re.search(r"eval.*train --role verifier.*sft.*train", ROWS["qwen2.5-math"]["summary"])
    for line in (
        "eval --env tools/desk --policy hf:P --temperature 1",
        "train --role verifier --data R",
        "sft --env tools/desk",
        "train --env tools/desk --model P",
    ):
        verb, words = split_verb(line.split())
        assert parse(find(verb), words).config is not None


def test_three_equal_views_equal_one():
    from scripted import episode

    from agentgym.rewards import load
    from agentgym.verdict import Verdict

    e = episode(["a"])
    e.late = {f"judge:{n}.toml": Verdict.scored(0.7) for n in "ABC"}
    assert sum(t.value for t in load(ROWS["reagent-v"]["recipe"]).settle([e])[0]) == pytest.approx(0.7)


def test_the_gain_of_a_provers_value_telescopes_and_the_prover_is_another():
    import anyio
    from agentgym_verifiers.credit import MonteCarlo
    from scripted import Model

    import agentgym
    from agentgym.core import EpisodeView
    from agentgym.rewards import delta, late
    from agentgym.verdict import Verdict

    env = agentgym.make("tools/desk", split="dev", levels=1)
    env.reset(seed=1, options={"task": env.taskset.ids()[0]})
    script = list(env.oracle())
    for action in ["I wait", *script]:
        env.step(action)
    source = MonteCarlo("oracle", n=1)
    policy = Model(lambda t, c: "never asked", name="policy")
    (verdicts,) = anyio.run(source.judge, [EpisodeView(env.task, env.episode)], policy)
    assert source.prover.name == "oracle" != policy.name and not policy.asked
    assert {v.value for v in verdicts} == {0.0}  # the prover does it from either state: a step that leaves its chance unchanged earns 0
    e = env.episode
    values = [0.25, *[0.5] * (len(e.turns) - 2), 1.0]
    for t, v in zip(e.turns, values, strict=True):
        t.late = {"onward": Verdict.scored(v)}
    assert sum(t.value for t in delta(late("onward")).settle([e])[0]) == values[-1]


def test_a_judges_critique_is_what_a_further_attempt_is_told():
    import msgspec
    from agentgym_trainers.rewrite import critique_of
    from scripted import episode

    from agentgym.verdict import Verdict

    e = episode(["a", "b"], success=False)
    e.late = {"judge:x": msgspec.structs.replace(Verdict.scored(0.1), critique="it closed another ticket")}
    e.turns[1].late = {"first-error:x": msgspec.structs.replace(Verdict.scored(0.0), critique="turn 1 was wrong")}
    assert "it closed another ticket" in critique_of(e) and "turn 1 was wrong" in critique_of(e)


def test_a_critics_term_never_overrides_a_failed_test():
    from scripted import episode

    from agentgym.rewards import load
    from agentgym.verdict import Verdict

    spec = load("outcome('task') + gate(0.2 * delta(late('rm:PATH')), by=outcome('task'))")
    found = {}
    for success in (True, False):
        e = episode(["a", "b"], success=success)
        for t in e.turns:
            t.late = {"rm:PATH": Verdict.scored(1.0)}
        found[success] = sum(t.value for t in spec.settle([e])[0])
    assert found == {True: pytest.approx(1.2), False: 0.0}


def test_one_stored_run_feeds_several_algorithms(tmp_path):
    from agentgym_trainers.train import train
    from test_verifier_training import settings

    train(settings(tmp_path / "first", groups=3, group_size=4), lambda phase, row: None)
    seen = {}
    for algo in ("grpo", "rloo", "ppo"):
        result = train(settings(tmp_path / algo, data=str(tmp_path / "first"), algo=algo), lambda phase, row: None)
        seen[algo] = result.tokens_generated
        assert json.loads((tmp_path / algo / "result.json").read_bytes())["algorithm"] == algo
    assert set(seen.values()) == {0}  # nothing was sampled: the budgets are equal


def test_patience_stops_at_the_peak_of_gold():
    from agentgym_trainers.config import TrainConfig
    from agentgym_trainers.run import Measured
    from agentgym_trainers.train import _enough

    from agentgym.evaluation.stats import Interval

    gold = [0.2, 0.4, 0.6, 0.5, 0.4, 0.3]
    config, best, since, stopped = TrainConfig(patience=2), -1.0, 0, None
    run = type("R", (), {"said": [], "step": 0})()
    for step, g in enumerate(gold):
        since = 0 if g > best else since + 1
        best = max(best, g)
        if _enough(run, config, Measured(Interval(g, g, g), 1, 1), since):
            stopped = step
            break
    assert stopped == 4 and best == 0.6


def test_a_verifier_of_one_dimension_is_exposed_by_the_table_of_kinds():
    from scripted import episode

    from agentgym.evaluation.verifiers import Judged, summed_up

    def one(kind, value, label, i):
        return Judged(episode(["a"], id=f"{kind}{i}", kind=kind, task=f"{kind}{i}"), value, [], label, "plain", "x")

    found = [one("citation", 0.9, float(i % 2), i) for i in range(10)] + [one("abstention", 0.9 * (i % 2), float(i % 2), i) for i in range(10)]
    assert summed_up("v", "s", found, {}, 0.0).kinds == {"citation": 0.5, "abstention": 1.0}
