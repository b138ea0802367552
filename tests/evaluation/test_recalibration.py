"""Post-hoc maps: by value, against scikit-learn's own calibration, and their properties."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator

from lc_jax.evaluation import metrics, recalibration
from lc_jax.evaluation.recalibration import FITS, Answers
from tests.evaluation.forecasters import forecaster

ROWS = st.lists(
    st.tuples(st.integers(0, 20).map(lambda k: k / 20), st.booleans(), st.sampled_from(["", "a", "b"])),
    min_size=1,
    max_size=60,
)


def answers(confidences, correct, kinds=None):
    return Answers.from_rows(confidences, correct, kinds or [""] * len(correct))


def mapped(name, confidences, correct, others):
    others = np.asarray(others, float)
    return FITS[name](answers(confidences, correct))(answers(others, np.zeros(len(others))))


def test_isotonic_of_six_answers_by_hand():
    """Verdicts 0 1 0 1 1 0 in order of confidence: pools {0}, {1 0}, {1 1 0}, whose means ascend."""
    confidences, correct = [0.1, 0.3, 0.5, 0.6, 0.8, 0.9], [0, 1, 0, 1, 1, 0]
    assert mapped("isotonic", confidences, correct, confidences) == pytest.approx([0, 1 / 2, 1 / 2, *[2 / 3] * 3])
    between_and_beyond = mapped("isotonic", confidences, correct, [0.0, 0.2, 0.4, 0.55, 1.0])
    assert between_and_beyond == pytest.approx([0, 1 / 4, 1 / 2, 7 / 12, 2 / 3])
    ties = mapped("isotonic", [0.2, 0.2, 0.2, 0.7], [1, 0, 0, 1], [0.2, 0.7])
    assert ties == pytest.approx([1 / 3, 1])


def test_temperature_halves_logits_that_are_twice_too_large():
    """At .8 four of five and at .2 one of five are right; stated are the probabilities of twice those logits."""
    confidences, correct = [16 / 17] * 500 + [1 / 17] * 500, [1] * 400 + [0] * 100 + [1] * 100 + [0] * 400
    assert mapped("temperature", confidences, correct, [16 / 17, 1 / 17, 0.5]) == pytest.approx(
        [0.8, 0.2, 0.5], abs=2e-3
    )
    assert mapped("platt", confidences, correct, [16 / 17, 1 / 17, 0.5]) == pytest.approx([0.8, 0.2, 0.5], abs=2e-3)


def test_platt_shifts_what_temperature_cannot():
    """Always .9 and right half the time: an intercept is needed, and a temperature that goes to infinity states .5."""
    assert mapped("platt", [0.9] * 100, [1, 0] * 50, [0.9]) == pytest.approx([0.5], abs=1e-6)
    thirds = [1, 0, 0] * 100
    assert mapped("platt", [0.9] * 300, thirds, [0.9]) == pytest.approx([1 / 3], abs=2e-3)
    assert mapped("temperature", [0.9] * 300, thirds, [0.9]) == pytest.approx([0.5])


def test_logits_of_certain_statements_are_those_of_half_a_per_cent():
    expected = [-np.log(199), -np.log(199), np.log(97 / 3), np.log(199)]
    assert recalibration.logits(np.array([0, 0.001, 0.97, 1])) == pytest.approx(expected)


def test_means_of_kinds():
    fit = FITS["kind"](answers([0.5] * 5, [1, 0, 0, 1, 1], ["a", "a", "b", "b", ""]))
    assert fit(answers([0.9, 0.1, 0.3, 0.7], [0] * 4, ["b", "a", "c", ""])) == pytest.approx([0.5, 0.5, 0.6, 0.6])
    fit = FITS["kind"](answers([0.5] * 5, [1, 1, 0, 0, 0], ["a", "a", "a", "b", "b"]))
    assert fit(answers([0.9, 0.1], [0] * 2, ["a", "b"])) == pytest.approx([2 / 3, 0])


class Stated(ClassifierMixin, BaseEstimator):
    """A classifier whose decision function is its only feature, for scikit-learn's calibration."""

    def fit(self, x, y):
        self.classes_ = np.array([0, 1])
        return self

    def decision_function(self, x):
        return x[:, 0]

    def predict(self, x):
        return (x[:, 0] > 0).astype(int)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("name", "peer"), [("platt", "sigmoid"), ("isotonic", "isotonic")])
def test_maps_are_those_of_scikit_learn(name, peer, seed):
    confidences, correct = forecaster(400, lift=0.2, seed=seed)
    others = np.linspace(0.3, 1, 15)
    transform = recalibration.logits if name == "platt" else np.asarray
    features = np.column_stack([transform(confidences)])
    model = CalibratedClassifierCV(FrozenEstimator(Stated().fit(features, correct)), method=peer)
    theirs = model.fit(features, correct).predict_proba(transform(others)[:, None])[:, 1]
    assert mapped(name, confidences, correct, others) == pytest.approx(theirs, abs=1e-4)


def test_temperature_is_the_best_of_a_grid():
    confidences, correct = forecaster(400, lift=0.2, seed=1)
    z, num_correct = recalibration.logits(confidences), correct.sum()
    targets = np.where(correct, (num_correct + 1) / (num_correct + 2), 1 / (400 - num_correct + 2))
    grid = 1 / np.linspace(0.05, 3, 2000)
    probs = 1 / (1 + np.exp(-z / grid[:, None]))
    losses = -(targets * np.log(probs) + (1 - targets) * np.log(1 - probs)).sum(axis=1)
    best = grid[losses.argmin()]
    ours = mapped("temperature", confidences, correct, confidences)
    assert ours == pytest.approx(1 / (1 + np.exp(-z / best)), abs=1e-3)


@settings(max_examples=60, deadline=None)
@given(ROWS, st.sampled_from(sorted(FITS)))
def test_whatever_the_answers_a_map_gives_probabilities_and_never_reverses_confidences(rows, name):
    """Ties, one confidence for all, all correct and all incorrect included."""
    sample = answers(*map(list, zip(*rows, strict=True)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit = FITS[name](sample)
        own, grid = fit(sample), fit(answers(np.linspace(0, 1, 41), np.zeros(41)))
    assert ((own >= 0) & (own <= 1)).all()
    assert (np.diff(grid) >= -1e-9).all()


@settings(max_examples=60, deadline=None)
@given(ROWS)
def test_isotonic_never_worsens_brier_and_is_calibrated_on_the_answers_of_its_fit(rows):
    confidences, correct, _ = map(list, zip(*rows, strict=True))
    probs = mapped("isotonic", confidences, correct, confidences)
    assert metrics.brier(probs, correct) <= min(metrics.brier(confidences, correct), 0.25) + 1e-9
    assert probs.mean() == pytest.approx(np.mean(correct), abs=1e-9)
    for level in np.unique(probs):
        rows_of_level = probs == level
        assert np.mean(np.asarray(correct)[rows_of_level]) == pytest.approx(level, abs=1e-9)


def test_platt_never_turns_confidence_round():
    """More confidence, fewer right answers: the best map that does not decrease is the accuracy for all."""
    confidences, correct = [0.9] * 50 + [0.1] * 50, [0] * 40 + [1] * 10 + [1] * 30 + [0] * 20
    assert mapped("platt", confidences, correct, [0.1, 0.9]) == pytest.approx([0.4, 0.4], abs=0.01)
    assert mapped("isotonic", confidences, correct, [0.1, 0.9]) == pytest.approx([0.4, 0.4])


def test_a_cross_fitted_map_has_not_seen_its_answer_nor_the_others_of_its_question():
    """Two folds of two questions each: the accuracy of the other fold is what kind means state."""
    sample = answers([0.5] * 6, [1, 1, 0, 0, 0, 0], ["a"] * 6)
    clusters = ["p", "p", "q", "q", "r", "s"]
    probs = recalibration.cross_fit("kind", sample, clusters, 2, seed=0)
    folds = {name: probs[[c == name for c in clusters]] for name in "pqrs"}
    partner = next(name for name in "qrs" if folds[name][0] == folds["p"][0])
    outside = [right for right, name in zip(sample.correct, clusters, strict=True) if name not in ("p", partner)]
    assert set(folds["p"]) == {np.mean(outside)} == {0}
    inside = [right for right, name in zip(sample.correct, clusters, strict=True) if name in ("p", partner)]
    assert {float(folds[name][0]) for name in {*"qrs"} - {partner}} == {np.mean(inside)}


def test_cross_fitting_does_not_depend_on_the_order_of_rows():
    confidences, correct = forecaster(60, lift=0.2)
    clusters = [str(number) for number in range(60)]
    order = np.random.default_rng(0).permutation(60)
    probs = recalibration.cross_fit("isotonic", answers(confidences, correct), clusters, 5, seed=3)
    shuffled = answers(confidences[order], correct[order])
    again = recalibration.cross_fit("isotonic", shuffled, [clusters[i] for i in order], 5, seed=3)
    assert again == pytest.approx(probs[order])


def test_each_map_mends_an_overconfident_forecaster_on_other_questions():
    fitted, others = forecaster(2000, lift=0.2, seed=1), forecaster(2000, lift=0.2, seed=2)
    for name in ("isotonic", "platt"):
        probs = mapped(name, *fitted, others[0])
        assert metrics.ece(others[0], others[1]) > 0.17
        assert metrics.ece(probs, others[1]) < (0.06 if name == "platt" else 0.04)  # the true map is no sigmoid


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        (([0.5], [True], []), "0 kinds for 1 answers"),
        (([float("nan")], [True], [""]), "nan is no confidence"),
        (([], [], []), "at least one question"),
    ],
)
def test_bad_answers_are_refused(sample, message):
    with pytest.raises(ValueError, match=message):
        Answers.from_rows(*sample)


def test_more_folds_than_questions_are_refused():
    with pytest.raises(ValueError, match="3 folds need as many questions or biographies, and there are 2"):
        recalibration.cross_fit("isotonic", answers([0.5] * 3, [1, 0, 1]), ["a", "a", "b"], 3)
