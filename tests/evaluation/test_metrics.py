import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import brier_score_loss, roc_auc_score

from lc_jax.evaluation import metrics
from tests.golden import load

PAIRS = st.lists(st.tuples(st.integers(0, 20).map(lambda k: k / 20), st.booleans()), min_size=1, max_size=60)
FEW = settings(max_examples=60, deadline=None)


def forecaster(n, *, lift=0.0, seed=0):
    """Confidences in tens whose true chance of being right is `lift` lower."""
    rng = np.random.default_rng(seed)
    confidence = rng.integers(3, 11, n) / 10
    return confidence, rng.random(n) < confidence - lift


def test_reference_mode_gives_the_published_numbers(golden):
    cases = [case for case in load(golden / "ece.json")["compute_ece"] if case["confidence"].dtype != object]
    assert len(cases) > 20
    for case in cases:
        options = dict(case["kwargs"])
        mode = {
            "equal_width": options.pop("ece_type") == "equal_bin_length",
            "reference": not options.pop("verbose", False),  # its verbose mode skipped empty bins, as ours always does
        }
        arguments = (case["confidence"], case["correctness"], options.pop("n_bins", 20))
        assert not options
        if "raises" in case:
            with pytest.raises(ValueError, match="cannot fill"):
                metrics.ece(*arguments, **mode)
        else:
            found = metrics.ece(*arguments, **mode)
            np.testing.assert_allclose(found, case["result"]["ece"], rtol=0, atol=1e-9, err_msg=case["note"])


def test_reference_mode_and_the_recorded_resamples_give_the_published_intervals(golden):
    recorded = load(golden / "ece.json")
    for case in recorded["ece_bootstrap"]["cases"]:
        confidence, correct = case["confidence"], case["correctness"]
        rows = np.random.RandomState(case["np_random_seed"]).randint(
            0, len(correct), (case["n_resamples"], len(correct))
        )
        values = [metrics.ece(confidence[row], correct[row], reference=True) for row in rows]
        np.testing.assert_allclose(
            np.percentile(values, [2.5, 97.5]), [case["ci_low"], case["ci_high"]], rtol=0, atol=1e-9
        )
    for case in recorded["accuracy_bootstrap"]["cases"]:  # other draws of the same distribution: one answer apart
        correct = np.asarray(case["correctness"], bool)
        low, high = metrics.bootstrap(np.ones(len(correct)), correct).accuracy
        np.testing.assert_allclose([low, high], [case["ci_low"], case["ci_high"]], atol=1.01 / len(correct))


def test_without_ties_and_remainder_the_default_is_the_published_ece():
    rng = np.random.default_rng(3)
    confidence, correct = rng.random(200), rng.random(200) < 0.5
    np.testing.assert_allclose(metrics.ece(confidence, correct), metrics.ece(confidence, correct, reference=True))
    bins = metrics.reliability(confidence, correct)
    assert bins.counts.tolist() == [10] * 20
    gaps = np.abs(bins.confidences - bins.accuracies) * bins.counts
    np.testing.assert_allclose(gaps.sum() / 200, metrics.ece(confidence, correct))


@FEW
@given(PAIRS, st.randoms())
def test_the_order_of_rows_changes_nothing(pairs, random):
    found = []
    for rows in (pairs, random.sample(pairs, len(pairs))):
        kinds = ["abc"[int(20 * confidence) % 3] for confidence, _ in rows]
        found.append(metrics.summarize([c for c, _ in rows], [right for _, right in rows], kinds))
    assert repr(found[0]) == repr(found[1])  # to the last bit; NaN is itself


@FEW
@given(PAIRS)
def test_brier_auroc_and_log_score_agree_with_their_definitions(pairs):
    confidence, correct = map(np.array, zip(*pairs, strict=True))
    np.testing.assert_allclose(metrics.brier(confidence, correct), brier_score_loss(correct, confidence, pos_label=1))
    outcome = np.where(correct, confidence, 1 - confidence)
    np.testing.assert_allclose(metrics.log_score(confidence, correct), np.log(np.maximum(outcome, 1e-4)).mean())
    if correct.all() or not correct.any():
        assert math.isnan(metrics.auroc(confidence, correct))
    else:
        np.testing.assert_allclose(metrics.auroc(confidence, correct), roc_auc_score(correct, confidence))


@FEW
@given(PAIRS, st.integers(1, 25), st.booleans())
def test_every_row_is_in_one_bin_and_equal_confidences_share_it(pairs, num_bins, equal_width):
    confidence, correct = map(np.array, zip(*pairs, strict=True))
    bins = metrics.reliability(confidence, correct, num_bins, equal_width=equal_width)
    assert bins.counts.sum() == len(pairs)
    assert len(bins.counts) <= min(num_bins, len(set(confidence)))
    np.testing.assert_allclose((bins.confidences * bins.counts).sum(), confidence.sum())
    np.testing.assert_allclose((bins.accuracies * bins.counts).sum(), correct.sum())
    gap = abs(confidence.mean() - correct.mean())
    assert gap - 1e-9 <= metrics.ece(confidence, correct, num_bins, equal_width=equal_width) <= 1


def test_equal_width_edges_belong_to_the_bin_above():
    edges = np.arange(21) / 20
    assert metrics.reliability(edges, edges > 0.5, equal_width=True).counts.tolist() == [1] * 19 + [2]


def test_a_calibrated_forecaster_stays_at_the_noise_floor_and_an_overconfident_one_is_told():
    calibrated = metrics.summarize(*forecaster(4000))
    assert calibrated.ece < 2 * calibrated.ece_noise_floor < 0.04
    assert calibrated.brier < calibrated.brier_constant
    assert calibrated.num_confidence_values == 8
    assert not calibrated.collapsed
    assert not calibrated.notes
    over = metrics.summarize(*forecaster(4000, lift=0.2))
    assert 0.18 < over.ece < 0.22
    assert over.ece_low < over.ece < over.ece_high
    assert over.accuracy_low < over.accuracy < over.accuracy_high
    assert over.ece_noise_floor == pytest.approx(calibrated.ece_noise_floor, abs=0.002)


def test_a_collapsed_forecaster_has_a_good_ece_and_is_flagged():
    correct = np.arange(1000) < 400
    collapsed = metrics.summarize(np.full(1000, 0.4), correct)
    assert collapsed.ece == pytest.approx(0, abs=1e-12)
    assert (collapsed.collapsed, collapsed.num_confidence_values, collapsed.auroc) == (True, 1, 0.5)
    assert collapsed.brier == pytest.approx(collapsed.brier_constant)
    assert collapsed.notes == ("one confidence for (nearly) everything",)
    assert metrics.confidence_shares([0.4, 0.401, 0.7, 1.0]) == {40: 0.5, 70: 0.25, 100: 0.25}


def test_intervals_have_the_width_of_the_sampling_error():
    confidence, correct = forecaster(1000, lift=0.2, seed=5)
    intervals = metrics.bootstrap(confidence, correct)
    error = 1.96 * math.sqrt(correct.mean() * (1 - correct.mean()) / 1000)
    assert intervals.accuracy == pytest.approx((correct.mean() - error, correct.mean() + error), abs=0.003)
    rows = np.random.default_rng(0).integers(0, 1000, (500, 1000))
    plain = np.percentile([metrics.ece(confidence[row], correct[row]) for row in rows], [2.5, 97.5])
    assert intervals.ece == pytest.approx(tuple(plain), abs=0.006)
    assert metrics.bootstrap(confidence, correct) == intervals
    assert metrics.bootstrap(confidence, correct, seed=1) != intervals


@pytest.mark.parametrize(
    ("confidence", "correct", "accuracy", "ece", "brier", "notes"),
    [
        ([0.3], [True], 1, 0.7, 0.49, 3),
        ([0.0, 1.0], [False, True], 0.5, 0, 0, 1),
        ([0.0, 1.0], [True, False], 0.5, 1, 1, 1),
        ([1.0] * 30, [False] * 30, 0, 1, 1, 2),
        ([1.0] * 30, [True] * 30, 1, 0, 0, 2),
    ],
    ids=["one row", "certain and right", "certain and wrong", "all wrong", "all right"],
)
def test_extremes_have_a_value_or_a_reason(confidence, correct, accuracy, ece, brier, notes):
    found = metrics.summarize(confidence, correct)
    assert (found.accuracy, found.num_questions) == (accuracy, len(correct))
    assert (found.ece, found.brier) == pytest.approx((ece, brier), abs=1e-12)
    assert math.isnan(found.auroc) == (accuracy != 0.5)
    assert len(found.notes) == notes
    numbers = [value for name, value in dataclasses.asdict(found).items() if isinstance(value, float)]
    assert sum(map(math.isnan, numbers)) == math.isnan(found.auroc) + math.isnan(found.kind_correlation)


@pytest.mark.parametrize(
    ("confidence", "correct", "message"),
    [
        ([], [], "at least one question"),
        ([0.5], [True, False], "one of each"),
        ([0.5, float("nan"), float("nan")], [True] * 3, r"Row 1: nan is no confidence in \[0, 1\] \(2 such rows\)"),
        ([1.01], [True], "Row 0: 1.01 is no confidence"),
        ([0.5], [float("nan")], r"Row 0: nan is no verdict \(0 or 1\)"),
    ],
)
def test_bad_rows_are_refused_by_number(confidence, correct, message):
    with pytest.raises(ValueError, match=message):
        metrics.summarize(confidence, correct)


def test_kinds():
    confidence = [0.2, 0.4, 0.9, 0.7, 0.6, 0.6, 0.1]
    correct = [False, True, True, True, False, True, False]
    rows = metrics.by_kind(confidence, correct, ["b", "b", "a", "a", "c", "c", ""])
    assert [(row.kind, row.num_questions, row.accuracy) for row in rows] == [("a", 2, 1), ("b", 2, 0.5), ("c", 2, 0.5)]
    assert [row.confidence for row in rows] == pytest.approx([0.8, 0.3, 0.6])
    expected = np.corrcoef([0.8, 0.3, 0.6], [1, 0.5, 0.5])[0, 1]
    assert metrics.kind_correlation(rows) == pytest.approx(expected)
    assert math.isnan(metrics.kind_correlation(rows[:2]))
    alike = metrics.by_kind([0.7] * 100, [True, False] * 50, [str(i * i % 7) for i in range(100)])
    assert math.isnan(metrics.kind_correlation(alike))
    with pytest.raises(ValueError, match="1 kinds for 2 questions"):
        metrics.by_kind([0.5, 0.5], [True, True], ["a"])
