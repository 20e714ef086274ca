"""Statistics against enumeration, against scipy, and against published values."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentgym.evaluation.stats import Interval, bootstrap, clustered, could_move, paired, pass_at, pass_hat, share, sign_flip, standard_error, wilson


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [(15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718), (81, 263, 0.2553, 0.3662)],
)
def test_wilson_gives_the_published_values(successes, n, low, high):
    """Table I of Newcombe, "Two-sided confidence intervals for the single proportion: comparison of seven methods", method 3."""
    found = wilson(successes, n)
    assert (round(found.low, 4), round(found.high, 4)) == (low, high)


@given(n=st.integers(1, 60), share=st.floats(0, 1))
def test_wilson_is_scipys(n, share):
    from scipy.stats import binomtest

    successes = round(n * share)
    expected = binomtest(successes, n).proportion_ci(method="wilson")
    assert (wilson(successes, n).low, wilson(successes, n).high) == pytest.approx((expected.low, expected.high), abs=1e-9)


@given(n=st.integers(1, 7), data=st.data())
def test_pass_at_k_and_pass_hat_k_are_what_enumeration_gives(n, data):
    successes, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    attempts = [True] * successes + [False] * (n - successes)
    draws = list(itertools.combinations(attempts, k))
    assert pass_at(k, n, successes) == pytest.approx(np.mean([any(d) for d in draws]))
    assert pass_hat(k, n, successes) == pytest.approx(np.mean([all(d) for d in draws]))


@pytest.mark.parametrize("function", [pass_at, pass_hat])
def test_too_few_attempts_are_refused_not_wrong(function):
    with pytest.raises(ValueError, match="at least 4 attempts"):
        function(4, 3, 1)


def test_a_clustered_error_is_the_plain_one_where_every_cluster_has_one_value():
    draw = np.random.default_rng(0).normal(size=30)
    names = [str(i) for i in range(30)]
    assert standard_error(draw.tolist(), names)[0] == pytest.approx(draw.std(ddof=1) / math.sqrt(30))
    copies, doubled = np.repeat(draw, 4).tolist(), np.repeat(names, 4).tolist()
    assert clustered(copies, doubled).high == pytest.approx(clustered(draw.tolist(), names).high)


def test_a_share_knows_that_attempts_at_one_task_are_not_independent():
    once = share([True, False] * 20, [str(i) for i in range(40)])
    assert once == wilson(20, 40)
    copied = share([True, False] * 80, [str(i % 40) for i in range(160)])
    assert (copied.low, copied.high) == pytest.approx((once.low, once.high), abs=0.01) and copied.mean == 0.5
    failed = share([False] * 120, [str(i % 60) for i in range(120)])
    assert (failed.mean, failed.low, failed.high) == (0.0, 0.0, wilson(0, 60).high)


def test_a_clustered_interval_covers_what_it_should():
    draw, covered = np.random.default_rng(1), 0
    for _ in range(400):
        tasks = draw.normal(0.4, 0.2, size=25)
        values = (tasks[:, None] + draw.normal(0, 0.1, size=(25, 4))).ravel()
        names = np.repeat(np.arange(25).astype(str), 4)
        interval = clustered(values.tolist(), names.tolist())
        covered += interval.low <= 0.4 <= interval.high
    assert 0.91 < covered / 400 < 0.98


@given(gaps=st.lists(st.integers(-3, 3), min_size=2, max_size=9))
def test_the_permutation_test_is_enumeration(gaps):
    signed = [abs(sum(s * g for s, g in zip(signs, gaps, strict=True))) for signs in itertools.product((-1, 1), repeat=len(gaps))]
    assert sign_flip(np.array(gaps, dtype=float)) == pytest.approx(np.mean([x >= abs(sum(gaps)) for x in signed]))


def test_many_draws_agree_with_scipys_permutation_test_and_are_never_zero():
    from scipy.stats import permutation_test

    gaps = np.random.default_rng(2).normal(0.15, 1.0, size=60)
    expected = permutation_test((gaps,), np.sum, permutation_type="samples", n_resamples=20_000, rng=np.random.default_rng(0)).pvalue
    assert sign_flip(gaps) == pytest.approx(expected, abs=0.02)
    assert 0 < sign_flip(np.ones(60)) < 0.001 and sign_flip(np.zeros(5)) == 1.0


def test_a_real_difference_is_found_and_what_is_detectable_is():
    draw, found = np.random.default_rng(3), 0
    tasks = [str(i) for i in range(80)]
    for _ in range(200):
        base = draw.normal(0.5, 0.2, size=80)
        gap = draw.normal(0, 0.1, size=80)
        effect = paired(dict(zip(tasks, base, strict=True)), dict(zip(tasks, base + gap, strict=True)), draws=10).detectable
        result = paired(dict(zip(tasks, base, strict=True)), dict(zip(tasks, base + gap + effect, strict=True)), draws=500)
        found += result.difference.low > 0
    assert 0.7 < found / 200 < 0.9
    same = paired({"a": 1, "b": 0, "c": 1}, {"a": 1, "b": 1, "c": 0})
    assert (same.wins, same.ties, same.losses, same.difference.mean, same.p_value) == (1, 1, 1, 0, 1)
    with pytest.raises(ValueError, match="in common"):
        paired({"a": 1}, {"b": 1})


def test_invalid_episodes_that_could_move_the_result_are_named():
    assert could_move(100, 0, 0.5, wilson(50, 100)) == "" and could_move(1000, 1, 0.5, wilson(500, 1000)) == ""
    assert "from 0.250 to 0.750" in could_move(50, 50, 0.5, wilson(25, 50))


def test_a_bootstrap_repeats_and_takes_whole_clusters():
    values, names = [1.0, 1.0, 0.0, 0.0], ["a", "a", "b", "b"]
    assert bootstrap(values, names) == bootstrap(values, names)
    assert (bootstrap(values, names).low, bootstrap(values, names).high) == (0.0, 1.0)
    assert Interval(0.5, 0.4, 0.6).apart(Interval(0.8, 0.7, 0.9)) and not Interval(0.5, 0.4, 0.75).apart(Interval(0.8, 0.7, 0.9))
