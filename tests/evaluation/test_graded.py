"""Graded verdicts, such as 0.6 for a sentence of which 60 % are supported."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss

from lc_jax.evaluation import intervals, metrics, recalibration, smooth, summary
from tests.evaluation.forecasters import forecaster

ROWS = st.lists(
    st.tuples(st.integers(0, 20).map(lambda k: k / 20), st.sampled_from([0, 0.25, 0.5, 0.75, 1])),
    min_size=1,
    max_size=40,
)
FEW = settings(max_examples=60, deadline=None)


def test_three_sentences_by_hand():
    pairs = [0.8, 0.8, 0.3], [0.6, 1, 0]
    assert metrics.brier(*pairs) == pytest.approx((0.04 + 0.04 + 0.09) / 3)
    assert metrics.ece(*pairs) == metrics.debiased_ece([0.8, 0.8, 0.3], [0.8, 0.8, 0]) == pytest.approx(0.1)
    assert metrics.overconfidence(*pairs) == pytest.approx(0.1)
    assert metrics.log_score(*pairs) == pytest.approx(
        (0.6 * math.log(0.8) + 0.4 * math.log(0.2) + math.log(0.8) + math.log(0.7)) / 3
    )
    parts = metrics.brier_parts(*pairs)
    assert parts.uncertainty == pytest.approx(np.var([0.6, 1, 0]))
    assert parts.reliability == pytest.approx(0.09 / 3)
    assert parts.within == pytest.approx(0, abs=1e-12)
    assert math.isnan(metrics.auroc(*pairs))
    assert math.isnan(metrics.auroc_within(*pairs, ["a"] * 3))


@FEW
@given(ROWS)
def test_a_graded_verdict_is_the_mean_of_as_many_verdicts(rows):
    """A verdict of 3/4 is three right answers of four, but for the Brier score, to which their variance is added."""
    confidence, verdict = map(np.array, zip(*rows, strict=True))
    expanded = np.repeat(confidence, 4), np.concatenate([np.arange(4) < 4 * y for y in verdict])
    for measure in (metrics.ece, metrics.max_error, metrics.log_score, metrics.overconfidence, smooth.smooth_ece):
        assert measure(confidence, verdict) == pytest.approx(measure(*expanded), abs=1e-12)
    variance = np.mean(verdict * (1 - verdict))
    assert metrics.brier(confidence, verdict) == pytest.approx(metrics.brier(*expanded) - variance, abs=1e-12)
    assert metrics.brier(confidence, verdict) == pytest.approx(np.mean((confidence - verdict) ** 2), abs=1e-12)
    weights = np.concatenate([verdict, 1 - verdict])
    clipped = np.clip(np.tile(confidence, 2), 1e-4, 1 - 1e-4)
    labels = np.repeat([1, 0], len(verdict))
    theirs = log_loss(labels, clipped, sample_weight=weights, labels=[0, 1])
    assert metrics.log_score(confidence, verdict) == pytest.approx(-theirs, abs=2e-4)


def test_the_parts_of_a_graded_brier_score_add_up():
    rng = np.random.default_rng(0)
    confidence, verdict = rng.integers(0, 11, 200) / 10, rng.integers(0, 5, 200) / 4
    parts = metrics.brier_parts(confidence, verdict)
    assert parts.uncertainty == pytest.approx(np.var(verdict))
    total = parts.reliability - parts.resolution + parts.uncertainty + parts.within
    assert total == pytest.approx(np.mean((confidence - verdict) ** 2))


def test_resamples_of_graded_verdicts_are_the_single_ones():
    rng = np.random.default_rng(1)
    confidence, verdict, clusters = rng.integers(0, 6, 90) / 5, rng.integers(0, 5, 90) / 4, rng.integers(0, 9, 90)
    for groups, number in ((None, 90), (clusters, 9)):  # two paths of the counts
        weights = next(intervals._draws(number, 90, 20, seed=1))
        values = intervals._measure(intervals._rows(confidence, verdict, groups), weights, intervals.METRICS, 20)
        order = np.lexsort((verdict, confidence))
        for column, weight in zip(values.T, weights, strict=True):
            rows = np.repeat(order, weight) if groups is None else np.repeat(np.arange(90), weight[clusters])
            pairs = confidence[rows], verdict[rows]
            plain = [verdict[rows].mean(), metrics.ece(*pairs), metrics.brier(*pairs), math.nan]
            np.testing.assert_allclose(column, [*plain, metrics.overconfidence(*pairs)], atol=1e-12)


def test_the_summary_says_what_graded_verdicts_do_not_have():
    confidence, correct = forecaster(60)
    verdict = np.where(correct, 0.75, 0.25)
    result = summary.summarize(confidence, verdict, ["a", "b", "c"] * 20)
    graded = {"ece_noise_floor", "auroc", "auroc_low", "auroc_high", "auroc_within"}
    assert {name for name, reason in result.undefined.items() if reason == "verdicts are graded"} == graded
    assert set(result.undefined) == graded
    assert result.accuracy == pytest.approx(verdict.mean())
    shuffled = np.random.default_rng(0).permutation(60)
    again = summary.summarize(confidence[shuffled], verdict[shuffled], [["a", "b", "c"][i % 3] for i in shuffled])
    assert (again.brier, again.ece, again.aurc) == (result.brier, result.ece, result.aurc)
    equal = summary.summarize([0.2, 0.7], [0.5, 0.5])
    assert equal.undefined["prr"] == "all verdicts are equal"


@pytest.mark.parametrize("seed", range(5))
def test_the_order_of_graded_rows_changes_nothing_to_the_last_bit(seed):
    rng = np.random.default_rng(seed)
    confidence, verdict = rng.integers(0, 4, 200) / 10, rng.integers(0, 11, 200) / 10
    order = rng.permutation(200)
    for measure in (metrics.brier, metrics.ece, metrics.log_score, metrics.debiased_ece):
        assert measure(confidence[order], verdict[order]) == measure(confidence, verdict)


def test_maps_are_fitted_to_graded_verdicts():
    answers = recalibration.Answers.from_rows([0.2, 0.2, 0.9], [0.1, 0.5, 0.4], [""] * 3)
    assert recalibration.isotonic(answers)(answers) == pytest.approx([0.3, 0.3, 0.4])
    many = recalibration.Answers.from_rows([0.9] * 400, [0.6] * 400, [""] * 400)
    assert recalibration.platt(many)(many)[0] == pytest.approx(0.6, abs=2e-3)


def test_what_is_no_verdict_is_refused():
    with pytest.raises(ValueError, match=r"Row 1: 1.2 is no verdict \(0 or 1, or graded between them\)"):
        summary.summarize([0.5, 0.5], [0.4, 1.2])
