"""Intervals: as published in reference mode, else as wide as they should be, by simulation."""

import math

import numpy as np
import pytest

from lc_jax.evaluation import intervals, metrics
from lc_jax.evaluation.intervals import Scored
from tests.evaluation.forecasters import forecaster
from tests.recorded import load


def test_reference_mode_and_the_recorded_resamples_give_the_published_intervals(golden):
    recorded = load(golden / "ece.json")
    for case in recorded["ece_bootstrap"]["cases"]:
        random, most = np.random.RandomState(case["np_random_seed"]), case["batch"] or case["n_resamples"]
        shape = (case["n_resamples"], len(case["correctness"]))
        if most == shape[0]:
            ends = intervals.reference(
                "ece", case["confidence"], case["correctness"], random, num_resamples=case["n_resamples"]
            )
            np.testing.assert_allclose(ends, [case["ci_low"], case["ci_high"]], rtol=0, atol=1e-9)
    for case in recorded["accuracy_bootstrap"]["cases"]:
        correct = np.asarray(case["correctness"], bool)
        random, ends = np.random.RandomState(case["np_random_seed"]), [case["ci_low"], case["ci_high"]]
        interval = intervals.reference("accuracy", np.ones(len(correct)), correct, random)
        np.testing.assert_allclose(interval, ends, rtol=0, atol=1e-9)
        ours = intervals.bootstrap(np.ones(len(correct)), correct, names=["accuracy"])["accuracy"]
        np.testing.assert_allclose(ours, ends, atol=1.01 / len(correct))  # other draws: at most one answer apart


def test_other_draws_stay_within_the_recorded_spread(golden):
    spread = load(golden / "ece.json")["ece_bootstrap"]["seed_to_seed_spread"]
    random = np.random.RandomState(99)
    low, high = intervals.reference("ece", spread["confidence"], spread["correctness"], random, num_resamples=1000)
    assert low == pytest.approx(spread["ci_low_mean"], abs=4 * spread["ci_low_std"])
    assert high == pytest.approx(spread["ci_high_mean"], abs=4 * spread["ci_high_std"])


@pytest.mark.parametrize("equal", [True, False], ids=["ties", "distinct"])
@pytest.mark.parametrize("num_bins", [1, 7, 20, 40])
def test_many_resamples_at_once_are_the_single_ones(equal, num_bins):
    confidence, correct = forecaster(83, lift=0.1, seed=7)
    if not equal:
        confidence = np.random.default_rng(0).random(83)
    rows = intervals._rows(confidence, correct, None)
    weights = next(intervals._draws(83, 83, 50, seed=1))
    assert weights.sum(axis=1).tolist() == [83] * 50
    at_once = intervals._measure(rows, weights, intervals.METRICS, num_bins)
    order = np.lexsort((correct, confidence))
    for column, weight in zip(at_once.T, weights, strict=True):
        rows = np.repeat(order, weight)
        pairs = confidence[rows], correct[rows]
        plain = [correct[rows].mean(), metrics.ece(*pairs, num_bins), metrics.brier(*pairs), metrics.auroc(*pairs)]
        plain.append(metrics.overconfidence(*pairs))
        np.testing.assert_allclose(column, plain, atol=1e-12)


def test_rows_of_a_cluster_are_drawn_together():
    """Few confidences and many rows a cluster take another path: it gives what drawing the rows themselves does."""
    confidence, correct = forecaster(600, lift=0.1, seed=8)
    clusters = np.random.default_rng(2).integers(0, 20, 600)
    weights = next(intervals._draws(20, 600, 30, seed=3))
    assert len(set(confidence)) * 20 < 600
    values = intervals._measure(intervals._rows(confidence, correct, clusters), weights, intervals.METRICS, 20)
    for column, weight in zip(values.T, weights, strict=True):
        rows = np.repeat(np.arange(600), weight[clusters])
        pairs = confidence[rows], correct[rows]
        plain = [correct[rows].mean(), metrics.ece(*pairs), metrics.brier(*pairs), metrics.auroc(*pairs)]
        plain.append(metrics.overconfidence(*pairs))
        np.testing.assert_allclose(column, plain, atol=1e-12)


def test_intervals_have_the_width_of_the_sampling_error():
    confidence, correct = forecaster(1000, lift=0.2, seed=5)
    ends = intervals.bootstrap(confidence, correct)
    error = 1.96 * math.sqrt(correct.mean() * (1 - correct.mean()) / 1000)
    assert ends["accuracy"] == pytest.approx((correct.mean() - error, correct.mean() + error), abs=0.003)
    rows = np.random.default_rng(0).integers(0, 1000, (500, 1000))
    plain = np.percentile([metrics.ece(confidence[row], correct[row]) for row in rows], [2.5, 97.5])
    assert ends["ece"] == pytest.approx(tuple(plain), abs=0.006)
    assert intervals.bootstrap(confidence, correct) == ends
    assert intervals.bootstrap(confidence, correct, seed=1) != ends


def test_the_order_of_rows_changes_no_interval():
    confidence, correct = forecaster(60, seed=3)
    clusters = np.array([f"bio {i % 11}" for i in range(60)])
    shuffled = np.random.default_rng(1).permutation(60)
    for groups in (None, clusters):
        ends = intervals.bootstrap(confidence, correct, groups, num_resamples=200)
        shuffled_groups = None if groups is None else groups[shuffled]
        assert intervals.bootstrap(confidence[shuffled], correct[shuffled], shuffled_groups, num_resamples=200) == ends


def test_one_row_a_cluster_is_no_clustering_and_copies_do_not_narrow():
    confidence, correct = forecaster(400, lift=0.1, seed=4)
    low, high = intervals.bootstrap(confidence, correct, names=["accuracy"])["accuracy"]
    names = [str(i) for i in range(400)]
    assert intervals.bootstrap(confidence, correct, names)["accuracy"] == pytest.approx((low, high), abs=0.005)
    tripled = (np.tile(confidence, 3), np.tile(correct, 3), names * 3)
    assert intervals.bootstrap(*tripled)["accuracy"] == pytest.approx((low, high), abs=0.005)
    narrow = intervals.bootstrap(*tripled[:2])["accuracy"]
    assert narrow[1] - narrow[0] < 0.65 * (high - low)
    with pytest.raises(ValueError, match="2 clusters for 400 rows"):
        intervals.bootstrap(confidence, correct, ["a", "b"])


def test_what_has_no_value_has_no_interval():
    ends = intervals.bootstrap([0.5, 0.6], [True, True], num_resamples=50)
    assert ends["accuracy"] == (1.0, 1.0)
    assert all(math.isnan(end) for end in ends["auroc"])


@pytest.mark.parametrize(
    ("successes", "total", "low", "high"),
    [
        (1, 1, 0.2065, 1),  # (1 + z^2/2 - z sqrt(z^2/4)) / (1 + z^2) = 1 / 4.8415
        (0, 1, 0, 0.7935),
        (8, 10, 0.4902, 0.9433),
        (15, 30, 0.3315, 0.6685),
        (0.5, 1, 0.0546, 0.9454),  # one biography, half of its claims right
    ],
)
def test_wilsons_interval(successes, total, low, high):
    assert intervals.wilson(successes, total) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize(("successes", "total"), [(0, 0), (2, 1), (-1, 1), (math.nan, 1)])
def test_wilsons_interval_refuses_what_is_no_share(successes, total):
    with pytest.raises(ValueError, match="at least one trial"):
        intervals.wilson(successes, total)


def test_a_difference_on_one_question_has_no_interval():
    one, other = Scored([0.9], [True], ["a"]), Scored([0.4], [False], ["a"])
    difference = intervals.paired(one, other)["accuracy"]
    assert difference.difference == 1
    assert math.isnan(difference.low)
    assert math.isnan(difference.high)


def test_paired_differences_take_the_noise_of_the_questions_out():
    """Two methods that agree on nearly every question: their difference is known better than either."""
    confidence, correct = forecaster(500, lift=0.1, seed=6)
    ids = [f"q{i}" for i in range(500)]
    better = correct.copy()
    better[np.flatnonzero(~correct)[:20]] = True
    one, other = Scored(confidence, better, ids), Scored(confidence[::-1], correct[::-1], ids[::-1])
    differences = intervals.paired(one, other)
    assert differences["accuracy"].difference == pytest.approx(0.04)
    assert differences["accuracy"].low > 0.02
    single = intervals.bootstrap(confidence, correct)["accuracy"]
    assert differences["accuracy"].high - differences["accuracy"].low < 0.6 * (single[1] - single[0])
    direct = metrics.ece(confidence, better) - metrics.ece(confidence, correct)
    assert differences["ece"].difference == pytest.approx(direct)
    same = intervals.paired(other, other)
    assert all((d.difference, d.low, d.high) == (0, 0, 0) for d in same.values())
    assert intervals.paired(one, Scored([0.5], [True], ["another"])) is None


def test_pairs_may_share_some_clusters_with_several_rows_each():
    one = Scored([0.5, 0.9, 0.2, 0.7], [True, True, False, True], ["a", "a", "b", "c"])
    other = Scored([0.4, 0.3], [False, True], ["b", "a"])
    differences = intervals.paired(one, other, num_resamples=100)
    assert differences["accuracy"].difference == pytest.approx(2 / 3 - 1 / 2)
    assert differences["brier"].difference == pytest.approx((0.25 + 0.01 + 0.04) / 3 - (0.16 + 0.49) / 2)


def coverage(truth, draw, simulations, **options):
    """Share of simulated data sets whose interval holds the truth, by metric."""
    hits = dict.fromkeys(truth, 0)
    for seed in range(simulations):
        ends = intervals.bootstrap(*draw(seed), names=list(truth), num_resamples=400, seed=seed, **options)
        for name, value in truth.items():
            hits[name] += ends[name][0] <= value <= ends[name][1]
    return {name: count / simulations for name, count in hits.items()}


@pytest.mark.slow
def test_intervals_hold_the_truth_as_often_as_they_say():
    """An overconfident forecaster: accuracy .45 and ECE .20 are known. 1,500 data sets: standard error .6 per cent."""
    truth = {"accuracy": 0.45, "ece": 0.2}
    covered = coverage(truth, lambda seed: forecaster(300, lift=0.2, seed=seed), 1500)
    print("coverage:", covered)
    assert all(0.93 <= share <= 0.97 for share in covered.values()), covered


def biographies(seed):
    """80 biographies of 12 claims that share most of their luck."""
    rng = np.random.default_rng(seed)
    luck = np.repeat(rng.uniform(0.1, 0.9, 80), 12)
    return np.full(960, 0.8), rng.random(960) < luck, np.repeat(np.arange(80).astype(str), 12)


@pytest.mark.slow
def test_intervals_of_clustered_claims_hold_too_and_others_would_not():
    truth = {"accuracy": 0.5, "ece": 0.3}
    covered = coverage(truth, biographies, 1500)
    naive = coverage(truth, lambda seed: biographies(seed)[:2], 150)
    print("coverage with clusters:", covered, "without:", naive)
    assert all(0.93 <= share <= 0.97 for share in covered.values()), covered
    assert all(share < 0.85 for share in naive.values()), naive
