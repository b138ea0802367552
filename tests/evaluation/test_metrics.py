import dataclasses
import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import brier_score_loss, roc_auc_score

from lc_jax.evaluation import intervals, metrics, selective, smooth, summary
from tests.evaluation.forecasters import forecaster
from tests.recorded import load

PAIRS = st.lists(st.tuples(st.integers(0, 20).map(lambda k: k / 20), st.booleans()), min_size=1, max_size=60)
FEW = settings(max_examples=60, deadline=None)


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
            error = metrics.ece(*arguments, **mode)
            np.testing.assert_allclose(error, case["result"]["ece"], rtol=0, atol=1e-9, err_msg=case["note"])


def test_without_ties_and_remainder_the_default_is_the_published_ece():
    rng = np.random.default_rng(3)
    confidence, correct = rng.random(200), rng.random(200) < 0.5
    np.testing.assert_allclose(metrics.ece(confidence, correct), metrics.ece(confidence, correct, reference=True))
    bins = metrics.reliability(confidence, correct)
    assert bins.counts.tolist() == [10] * 20
    gaps = np.abs(bins.confidences - bins.accuracies) * bins.counts
    np.testing.assert_allclose(gaps.sum() / 200, metrics.ece(confidence, correct))


@settings(max_examples=10, deadline=None)
@given(PAIRS, st.randoms())
def test_the_order_of_rows_changes_nothing(pairs, random):
    summaries = []
    for rows in (pairs, random.sample(pairs, len(pairs))):
        kinds = ["abc"[int(20 * confidence) % 3] for confidence, _ in rows]
        whole = summary.summarize([c for c, _ in rows], [right for _, right in rows], kinds)
        summaries.append(dataclasses.replace(whole, ece_published=0.0))  # in which ties follow the order of rows
    assert repr(summaries[0]) == repr(summaries[1])  # to the last bit; NaN is itself


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
    calibrated = summary.summarize(*forecaster(4000))
    assert calibrated.ece < 2 * calibrated.ece_noise_floor < 0.04
    assert calibrated.brier < calibrated.brier_constant
    assert calibrated.num_confidence_values == 8
    assert not calibrated.collapsed
    assert not calibrated.notes
    over = summary.summarize(*forecaster(4000, lift=0.2))
    assert 0.18 < over.ece < 0.22
    assert over.ece_low < over.ece < over.ece_high
    assert over.accuracy_low < over.accuracy < over.accuracy_high
    assert over.ece_noise_floor == pytest.approx(calibrated.ece_noise_floor, abs=0.002)


def test_a_collapsed_forecaster_has_a_good_ece_and_is_flagged():
    correct = np.arange(1000) < 400
    collapsed = summary.summarize(np.full(1000, 0.4), correct)
    assert collapsed.ece == pytest.approx(0, abs=1e-12)
    assert (collapsed.collapsed, collapsed.num_confidence_values, collapsed.auroc) == (True, 1, 0.5)
    assert collapsed.brier == pytest.approx(collapsed.brier_constant)
    assert collapsed.notes == ("one confidence for (nearly) everything",)
    assert metrics.confidence_shares([0.4, 0.401, 0.7, 1.0]) == {40: 0.5, 70: 0.25, 100: 0.25}


@pytest.mark.parametrize(
    ("confidence", "correct", "accuracy", "ece", "brier", "notes"),
    [
        ([0.3], [True], 1, 0.7, 0.49, 4),
        ([0.0, 1.0], [False, True], 0.5, 0, 0, 2),
        ([0.0, 1.0], [True, False], 0.5, 1, 1, 2),
        ([1.0] * 30, [False] * 30, 0, 1, 1, 3),
        ([1.0] * 30, [True] * 30, 1, 0, 0, 3),
    ],
    ids=["one row", "certain and right", "certain and wrong", "all wrong", "all right"],
)
def test_extremes_have_a_value_or_a_reason(confidence, correct, accuracy, ece, brier, notes):
    result = summary.summarize(confidence, correct)
    assert (result.accuracy, result.num_questions) == (accuracy, len(correct))
    assert (result.ece, result.brier) == pytest.approx((ece, brier), abs=1e-12)
    assert math.isnan(result.auroc) == (accuracy != 0.5)
    assert len(result.notes) == notes
    numbers = {name: value for name, value in dataclasses.asdict(result).items() if isinstance(value, float)}
    assert {name for name, value in numbers.items() if math.isnan(value)} == set(result.undefined)


def test_every_number_that_is_not_defined_has_its_reason():
    one = summary.summarize([0.3], [True])
    alone, right = "a single question or biography cannot be resampled", "all answers are right"
    ends = {f"{name}_{end}": alone for name in ("ece", "brier", "overconfidence") for end in ("low", "high")}
    assert one.undefined == ends | {
        "ece_published": "fewer questions (1) than bins (20)",
        "auroc": right,
        "auroc_low": right,
        "auroc_high": right,
        "prr": right,
        "auroc_within": "no question has a kind",
        "kind_correlation": "no question has a kind",
    }
    assert one.notes == (
        "fewer questions (1) than bins (20)",
        "one confidence for (nearly) everything",
        "no AUROC: all answers are right",
        "no interval for ECE, Brier, overconfidence: a single question or biography cannot be resampled",
    )
    wrong = summary.summarize([0.0, 0.3, 1.0], [False] * 3, ["a", "b", "b"])
    assert wrong.undefined["auroc"] == wrong.undefined["auroc_high"] == "all answers are wrong"
    assert wrong.undefined["kind_correlation"] == "fewer than three kinds of questions, or all alike"
    assert "ece_low" not in wrong.undefined
    enough = summary.summarize(*forecaster(40), list("abcd" * 10))
    assert enough.undefined == {}


@pytest.mark.parametrize(
    ("correct", "low", "high"),
    [([True], 0.2065, 1), ([False], 0, 0.7935), ([True] * 8 + [False] * 2, 0.4902, 0.9433), ([True] * 60, 0.9398, 1)],
    ids=["1 of 1", "0 of 1", "8 of 10", "60 of 60"],
)
def test_the_interval_of_an_accuracy_is_wilsons_where_a_bootstrap_says_too_little(correct, low, high):
    result = summary.summarize([0.5] * len(correct), correct)
    assert (result.accuracy_low, result.accuracy_high) == pytest.approx((low, high), abs=5e-5)


def test_claims_of_one_biography_count_as_one_trial_in_wilsons_interval():
    result = summary.summarize([0.5] * 10, [True] * 8 + [False] * 2, clusters=["Ada"] * 10)
    assert (result.accuracy_low, result.accuracy_high) == pytest.approx(intervals.wilson(0.8, 1))
    assert result.accuracy_low < 0.15
    assert result.undefined["ece_low"] == "a single question or biography cannot be resampled"


@pytest.mark.parametrize(
    ("confidence", "correct", "message"),
    [
        ([], [], "at least one question"),
        ([0.5], [True, False], "one of each"),
        ([0.5, float("nan"), float("nan")], [True] * 3, r"Row 1: nan is no confidence in \[0, 1\] \(2 such rows\)"),
        ([1.01], [True], "Row 0: 1.01 is no confidence"),
        ([0.5], [float("nan")], r"Row 0: nan is no verdict \(0 or 1, or graded"),
    ],
)
def test_bad_rows_are_refused_by_number(confidence, correct, message):
    with pytest.raises(ValueError, match=message):
        summary.summarize(confidence, correct)


def test_reference_mode_is_the_only_one_that_takes_nan():
    nan = float("nan")
    assert metrics.ece([nan, *[1.0] * 20], [True, *[False] * 20], reference=True) == 1.0
    for measure in (metrics.ece, metrics.debiased_ece, metrics.max_error, metrics.brier, smooth.smooth_ece):
        with pytest.raises(ValueError, match="nan is no confidence"):
            measure([0.5, nan], [True, True])


@FEW
@given(PAIRS, st.integers(1, 25))
def test_the_parts_of_the_brier_score_add_up(pairs, num_bins):
    confidence, correct = map(np.array, zip(*pairs, strict=True))
    parts = metrics.brier_parts(confidence, correct, num_bins)
    total = parts.reliability - parts.resolution + parts.uncertainty + parts.within
    assert total == pytest.approx(brier_score_loss(correct, confidence, pos_label=1))
    assert min(parts.reliability, parts.resolution, parts.uncertainty) >= 0
    if num_bins == 1:
        assert parts.resolution == pytest.approx(0)
        assert parts.uncertainty == pytest.approx(correct.var())


def test_murphys_parts_of_a_literal_case():
    parts = metrics.brier_parts([0.2, 0.2, 0.8, 0.8, 0.8], [False, True, True, True, False])
    expected = (0.4 * 0.3**2 + 0.6 * (0.8 - 2 / 3) ** 2, 0.4 * 0.1**2 + 0.6 * (2 / 3 - 0.6) ** 2, 0.24)
    assert (parts.reliability, parts.resolution, parts.uncertainty) == pytest.approx(expected)
    assert parts.within == pytest.approx(0)


@FEW
@given(PAIRS, st.randoms())
def test_risk_and_coverage_agree_with_a_plain_loop(pairs, random):
    """Equal confidences in random order: the mean over orders is what is computed at once."""
    confidence, correct = map(np.array, zip(*pairs, strict=True))
    curve = selective.risk_coverage(confidence, correct)
    for coverage, risk, least in zip(curve.coverages, curve.risks, np.unique(confidence)[::-1], strict=True):
        answered_rows = confidence >= least
        assert (coverage, risk) == pytest.approx((answered_rows.mean(), 1 - correct[answered_rows].mean()))
    if len(set(confidence)) == len(confidence):
        wrong = ~correct[np.argsort(-confidence)]
        assert curve.aurc == pytest.approx((np.cumsum(wrong) / np.arange(1, len(wrong) + 1)).mean())
    assert curve.risks[-1] == pytest.approx(1 - correct.mean())


def test_the_area_under_risk_and_coverage_takes_equal_confidences_in_random_order():
    assert selective.risk_coverage([0.9, 0.9, 0.1], [True, False, True]).aurc == pytest.approx((0.5 + 0.5 + 1 / 3) / 3)
    assert selective.risk_coverage([1.0] * 4, [True, False, False, True]).aurc == pytest.approx(0.5)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(-0.3, 0.3))
def test_smooth_ece_is_that_of_its_authors(seed, lift):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the plotting packages that it brings
        relplot = pytest.importorskip("relplot")
    relplot.config.use_logit_scaling = False
    rng = np.random.default_rng(seed)
    confidence = np.round(rng.random(300), 2)
    correct = rng.random(300) < np.clip(confidence - lift, 0, 1)
    assert smooth.smooth_ece(confidence, correct) == pytest.approx(relplot.smECE(confidence, correct), abs=0.004)


@pytest.mark.parametrize(("lift", "ece"), [(0.0, 0.0), (0.05, 0.05), (0.2, 0.2)])
def test_debiased_and_smooth_ece_are_near_the_truth_where_plain_ece_is_not(lift, ece):
    pairs = [forecaster(300, lift=lift, seed=seed) for seed in range(60)]
    plain, debiased, smoothed = (
        np.mean([measure(*pair) for pair in pairs])
        for measure in (metrics.ece, metrics.debiased_ece, smooth.smooth_ece)
    )
    assert abs(debiased - ece) < abs(plain - ece) / 1.5 + 0.003
    assert abs(debiased - ece) < 0.03
    assert abs(smoothed - ece) < 0.045


def test_simulated_forecasters_show_what_they_are():
    """Calibrated, overconfident, collapsed and uninformed, with ties: every number within its stated bound."""
    confidence, correct = forecaster(20_000, seed=1)
    assert metrics.ece(confidence, correct) < 0.015
    assert metrics.max_error(confidence, correct) < 0.03
    assert metrics.debiased_ece(confidence, correct) < 0.01
    assert metrics.sharpness(confidence) == pytest.approx(np.var(confidence))
    parts = metrics.brier_parts(confidence, correct)
    assert parts.reliability < 5e-4
    assert parts.resolution == pytest.approx(np.var(confidence), abs=0.005)  # calibrated: resolution is sharpness
    over, right = forecaster(20_000, lift=0.2, seed=2)
    assert metrics.max_error(over, right) == pytest.approx(0.2, abs=0.03)
    assert metrics.brier_parts(over, right).reliability == pytest.approx(0.04, abs=0.01)
    assert metrics.sharpness([0.7] * 5) == 0
    random = np.random.default_rng(3).random(20_000)
    assert metrics.auroc(random, right) == pytest.approx(0.5, abs=0.02)
    assert selective.risk_coverage(random, right).aurc == pytest.approx(1 - right.mean(), abs=0.03)
    assert selective.risk_coverage(confidence, correct).aurc < 1 - correct.mean() - 0.05


def test_overconfidence_is_signed():
    assert metrics.overconfidence([0.9, 0.6], [True, False]) == pytest.approx(0.25)
    assert metrics.overconfidence([0.5, 0.6, 0.7], [True] * 3) == pytest.approx(-0.4)


def test_within_kinds_a_confidence_that_only_repeats_the_kind_tells_nothing():
    """Kind a is right once in four and stated as .2, kind b three times and stated as .8."""
    confidence, correct = [0.2] * 4 + [0.8] * 4, [True, False, False, False, True, True, True, False]
    kinds = ["a"] * 4 + ["b"] * 4
    assert metrics.auroc(confidence, correct) == pytest.approx((9 + 0.5 * 6) / 16)
    assert metrics.auroc_within(confidence, correct, kinds) == 0.5
    confidence[0] = 0.3  # the right one of kind a now wins its three pairs; kind b has three ties
    assert metrics.auroc_within(confidence, correct, kinds) == pytest.approx((3 + 1.5) / 6)
    assert metrics.auroc_within(confidence, correct, ["a"] * 4 + [""] * 4) == 1
    assert [row.auroc for row in metrics.by_kind(confidence, correct, kinds)] == [1, 0.5]
    assert math.isnan(metrics.auroc_within([0.5, 0.7], [True, False], ["a", "b"]))
    with pytest.raises(ValueError, match="1 kinds for 2 questions"):
        metrics.auroc_within([0.5, 0.7], [True, False], ["a"])


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
