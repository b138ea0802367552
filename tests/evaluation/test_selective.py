"""Selective answering: by hand, against LM-Polygraph's numbers, and closed forms."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lc_jax.evaluation import metrics, selective
from tests.evaluation.forecasters import forecaster
from tests.recorded import GOLDEN

PAIRS = st.lists(st.tuples(st.integers(0, 20).map(lambda k: k / 20), st.booleans()), min_size=1, max_size=60)
FEW = settings(max_examples=60, deadline=None)
# RiskCoverageCurveAUC and normalised PredictionRejectionArea of lm-polygraph 0.7.0 on published answers whose
# confidences (nearly) all differ: it breaks ties by the order of rows.
PEER = {
    "commonsenseqa_3": (0.06572343808870967, 0.2977110348701426),
    "math-500_3": (0.4159113599356562, 0.5400275076975017),
    "gpqa_3": (0.5872088047399107, 0.048391413151295894),
}


@pytest.mark.parametrize("name", PEER)
def test_area_and_rejection_ratio_are_those_of_lm_polygraph(name):
    with np.load(GOLDEN / "calibration" / "rlcr.npz") as arrays:
        pairs = arrays[f"{name}_confidence"], arrays[f"{name}_correct"]
    distinct = len(np.unique(pairs[0])) == len(pairs[0])
    ours = selective.risk_coverage(*pairs).aurc, selective.prediction_rejection_ratio(*pairs)
    assert ours == pytest.approx(PEER[name], abs=1e-12 if distinct else 0.01)


def test_three_answers_by_hand():
    """In order of confidence: wrong, right, right."""
    pairs = [0.9, 0.6, 0.2], [False, True, True]
    curve = selective.risk_coverage(*pairs)
    assert curve.risks.tolist() == pytest.approx([1, 1 / 2, 1 / 3])
    assert curve.aurc == pytest.approx((1 + 1 / 2 + 1 / 3) / 3)
    # Coverage x risk is 0, 1/3, 1/3, 1/3 at coverages 0, 1/3, 2/3, 1.
    assert curve.augrc == pytest.approx((1 / 6 + 1 / 3 + 1 / 3) / 3)
    # Random order: risk 1/3 everywhere; an oracle: risks 0, 0, 1/3.
    assert selective.prediction_rejection_ratio(*pairs) == pytest.approx((1 / 3 - 11 / 18) / (1 / 3 - 1 / 9))
    assert [curve.accuracy_at(x) for x in (1 / 3, 1 / 2, 2 / 3, 1)] == pytest.approx([0, 1 / 3, 1 / 2, 2 / 3])
    for coverage in (0, 1.01):
        with pytest.raises(ValueError, match=r"is not in \(0, 1\]"):
            curve.accuracy_at(coverage)


def test_equal_confidences_are_in_random_order():
    curve = selective.risk_coverage([0.5] * 4, [True, False, True, True])
    assert [curve.accuracy_at(x) for x in (0.1, 0.5, 1)] == pytest.approx([0.75] * 3)
    assert selective.prediction_rejection_ratio([0.5] * 4, [True, False, True, True]) == pytest.approx(0)


def test_an_oracle_saves_everything_and_equal_verdicts_leave_nothing_to_save():
    assert selective.prediction_rejection_ratio([0.9, 0.9, 0.1], [True, True, False]) == pytest.approx(1)
    assert selective.prediction_rejection_ratio([0.1, 0.2, 0.9], [True, True, False]) < 0
    assert math.isnan(selective.prediction_rejection_ratio([0.1, 0.2], [True, True]))


@FEW
@given(PAIRS)
def test_augrc_has_its_closed_form(pairs):
    confidence, correct = map(np.array, zip(*pairs, strict=True))
    accuracy = correct.mean()
    auroc = metrics.auroc(confidence, correct) if 0 < accuracy < 1 else 0.5
    expected = (1 - auroc) * accuracy * (1 - accuracy) + (1 - accuracy) ** 2 / 2
    assert selective.risk_coverage(confidence, correct).augrc == pytest.approx(expected, abs=1e-12)


def test_graded_verdicts_by_hand():
    """Losses .4 and 0 at confidence .8, 1 at .3."""
    curve = selective.risk_coverage([0.8, 0.8, 0.3], [0.6, 1, 0])
    assert curve.aurc == pytest.approx((0.2 + 0.2 + 1.4 / 3) / 3)
    assert curve.augrc == pytest.approx(0.4 / 9 + 0.1)
    assert curve.accuracy_at(2 / 3) == pytest.approx(0.8)
    oracle = (0 + 0.2 + 1.4 / 3) / 3  # losses 0, .4, 1
    ratio = selective.prediction_rejection_ratio([0.8, 0.8, 0.3], [0.6, 1, 0])
    assert ratio == pytest.approx((1.4 / 3 - curve.aurc) / (1.4 / 3 - oracle))


def test_confidence_that_tells_more_answers_better_at_every_coverage():
    confidence, correct = forecaster(4000, seed=2)
    curve = selective.risk_coverage(confidence, correct)
    values = [curve.accuracy_at(x) for x in (0.1, 0.5, 0.8, 1)]
    assert values == sorted(values, reverse=True)
    assert values[-1] == pytest.approx(correct.mean())
