"""Post-hoc recalibration: maps from stated confidence to the probability of being correct, fitted on judged answers.

A method that is trained to state its confidence has to beat these maps, which cost a validation set and no training.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import ArrayLike
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from lc_jax.evaluation import metrics

CLIP = 0.005  # confidences are moved this far from 0 and 1 before their logit: half of a whole per cent


@dataclasses.dataclass(frozen=True)
class Answers:
    """Answers with their confidences, verdicts and kinds of question."""

    confidences: Float[np.ndarray, " N"]
    correct: Bool[np.ndarray, " N"] | Float[np.ndarray, " N"]  # float: graded
    kinds: Sequence[str]  # "": unknown

    @classmethod
    def from_rows(cls, confidences: ArrayLike, correct: ArrayLike, kinds: Sequence[str]) -> Answers:
        """Returns the answers after a check.

        Raises:
          ValueError: see `metrics.check`; or not one kind per answer.
        """
        confidence, right = metrics.check(confidences, correct)
        if len(kinds) != len(right):
            raise ValueError(f"{len(kinds)} kinds for {len(right)} answers: give one per answer.")
        return cls(confidence, right, tuple(kinds))

    def select(self, rows: Int[np.ndarray, " M"]) -> Answers:
        """Returns the answers in `rows`."""
        return Answers(self.confidences[rows], self.correct[rows], [self.kinds[row] for row in rows])


Map = Callable[[Answers], Float[np.ndarray, " N"]]  # to probabilities of being correct; verdicts are not read


def logits(confidences: Float[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
    """Returns log c / (1 - c) of confidences clipped to [CLIP, 1 - CLIP]."""
    clipped = np.clip(confidences, CLIP, 1 - CLIP)
    return np.log(clipped) - np.log1p(-clipped)


def isotonic(answers: Answers) -> Map:
    """Fits the non-decreasing function with the least Brier score (Zadrozny and Elkan 2002).

    Equal confidences count once, with their accuracy. Between fitted confidences it is linear, beyond them constant.
    """
    model = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(
        answers.confidences, answers.correct.astype(float)
    )
    return lambda others: model.predict(others.confidences)


def _logistic(answers: Answers, *, intercept: bool) -> Map:
    """Fits sigmoid(a logit(c) + b) with a >= 0 by maximum likelihood, to Platt's targets.

    The targets (n1 + 1) / (n1 + 2) of n1 correct and 1 / (n0 + 2) of n0 incorrect answers keep the fit finite where
    all answers are correct, all are incorrect, or confidence separates them.
    """
    verdicts = answers.correct.astype(np.float64)
    num_correct = float(verdicts.sum())
    high, low = (num_correct + 1) / (num_correct + 2), 1 / (len(verdicts) - num_correct + 2)
    targets = verdicts * high + (1 - verdicts) * low
    x = logits(answers.confidences)[:, None]
    # An answer with target t is a correct one of weight t and an incorrect one of weight 1 - t.
    labels, weights = np.repeat([1, 0], len(x)), np.concatenate([targets, 1 - targets])
    model = LogisticRegression(C=np.inf, fit_intercept=intercept, tol=1e-8, max_iter=1000)
    model.fit(np.concatenate([x, x]), labels, weights)
    slope, bias = float(model.coef_[0, 0]), float(model.intercept_[0]) if intercept else 0.0
    if slope < 0:  # the maximum under the constraint is on its boundary, where only the mean is fitted
        slope, bias = 0.0, float(np.log(targets.mean() / (1 - targets.mean()))) if intercept else 0.0
    return lambda others: 1 / (1 + np.exp(-(slope * logits(others.confidences) + bias)))


def platt(answers: Answers) -> Map:
    """Fits sigmoid(a logit(c) + b) with a >= 0 (Platt 1999, on the logits of stated confidences)."""
    return _logistic(answers, intercept=True)


def temperature(answers: Answers) -> Map:
    """Fits sigmoid(logit(c) / T) with T > 0 (Guo et al. 2017), which leaves 1/2 where it is."""
    return _logistic(answers, intercept=False)


def kind_means(answers: Answers) -> Map:
    """Fits the accuracy of each kind of question, which ignores stated confidences; of unknown kinds the accuracy."""
    table = {row.kind: row.accuracy for row in metrics.by_kind(answers.confidences, answers.correct, answers.kinds)}
    accuracy = float(answers.correct.mean())
    return lambda others: np.array([table.get(kind, accuracy) for kind in others.kinds], np.float64)


FITS: dict[str, Callable[[Answers], Map]] = {
    "isotonic": isotonic,
    "platt": platt,
    "temperature": temperature,
    "kind": kind_means,
}
TITLES = {"isotonic": "isotonic", "platt": "Platt", "temperature": "temperature", "kind": "kind means"}


def cross_fit(
    name: str, answers: Answers, clusters: Sequence[str], num_folds: int, seed: int = 0
) -> Float[np.ndarray, " N"]:
    """Maps each answer by a fit to the other folds: the map of an answer has not seen it or its cluster.

    Args:
      name: of one of FITS.
      clusters: the cluster of each answer (a question, a biography); a cluster is in one fold.
      seed: of the assignment of clusters to folds, which does not depend on the order of rows.

    Raises:
      ValueError: fewer clusters than folds.
    """
    names, numbers = np.unique(np.asarray(clusters, str), return_inverse=True)
    if len(names) < num_folds:
        raise ValueError(f"{num_folds} folds need as many questions or biographies, and there are {len(names)}.")
    folds = np.random.default_rng(seed).permutation(len(names))[numbers] % num_folds
    probs = np.empty(len(answers.correct))
    for fold in range(num_folds):
        rows = np.flatnonzero(folds == fold)
        probs[rows] = FITS[name](answers.select(np.flatnonzero(folds != fold)))(answers.select(rows))
    return probs
