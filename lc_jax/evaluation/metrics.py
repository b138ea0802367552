"""Accuracy and calibration of (confidence, correct) pairs, in numpy. Confidences and accuracies are in [0, 1]."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Bool, Float

NUM_BINS = 20
MIN_SHARE = 0.05  # a confidence counts as in use when this share of answers states it


@dataclasses.dataclass(frozen=True)
class KindRow:
    """One kind of question."""

    kind: str
    num_questions: int
    confidence: float
    accuracy: float


@dataclasses.dataclass(frozen=True)
class Summary:
    """Everything that one row of results says. Intervals are 95 % percentile bootstrap."""

    num_questions: int
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    ece: float
    ece_low: float
    ece_high: float
    ece_noise_floor: float  # mean ECE of perfectly calibrated forecasters with these confidences
    brier: float
    brier_constant: float  # of always stating the accuracy: the best that a collapsed forecaster can reach
    auroc: float  # NaN when all answers are right or all are wrong
    num_confidence_values: int  # distinct confidences that at least MIN_SHARE of answers state
    collapsed: bool  # one confidence for (nearly) everything
    kind_correlation: float  # of mean confidence and accuracy over kinds; NaN with fewer than three
    kinds: tuple[KindRow, ...]


def check(
    confidences: Sequence[float], correct: Sequence[bool]
) -> tuple[Float[np.ndarray, " N"], Bool[np.ndarray, " N"]]:
    """The pairs as arrays.

    Raises:
      ValueError: no pairs, unequal lengths, or a confidence that is NaN or outside [0, 1]; the message names the row.
    """
    confidence, right = np.asarray(confidences, np.float64), np.asarray(correct, bool)
    if confidence.shape != right.shape or confidence.ndim != 1 or not len(right):
        raise ValueError(
            f"{confidence.shape} confidences and {right.shape} verdicts: one of each per question is needed."
        )
    outside = ~((confidence >= 0) & (confidence <= 1))
    if outside.any():
        row = int(np.argmax(outside))
        raise ValueError(f"Row {row}: confidence {confidence[row]} is not in [0, 1] ({outside.sum()} such rows).")
    return confidence, right


def equal_count_bins(confidence: Float[np.ndarray, " N"], num_bins: int = NUM_BINS) -> np.ndarray:
    """Bin of each row: about N / num_bins rows each, in order of confidence. Equal confidences share a bin.

    A tied group goes where its middle rank falls, so that the order of rows is irrelevant and every row counts once.
    """
    _, inverse, counts = np.unique(confidence, return_inverse=True, return_counts=True)
    middle = np.cumsum(counts) - counts / 2
    return np.minimum((middle * num_bins / len(confidence)).astype(int), num_bins - 1)[inverse]


def equal_width_bins(confidence: Float[np.ndarray, " N"], num_bins: int = NUM_BINS) -> np.ndarray:
    """Bin of each row: [0, 1/n), ..., [1 - 1/n, 1]."""
    return np.minimum((confidence * num_bins).astype(int), num_bins - 1)


def ece(
    confidences: Sequence[float], correct: Sequence[bool], num_bins: int = NUM_BINS, equal_width: bool = False
) -> float:
    """Expected calibration error: sum over bins of |sum of confidence - number right| / N."""
    confidence, right = check(confidences, correct)
    bins = (equal_width_bins if equal_width else equal_count_bins)(confidence, num_bins)
    return float(np.abs(np.bincount(bins, confidence - right)).sum() / len(right))


def reference_ece(confidences: Sequence[float], correct: Sequence[bool], num_bins: int = NUM_BINS) -> float:
    """ECE as the paper computed it: stable sort, floor(N / bins) rows a bin, the most confident remainder left out.

    Reference: process_eval_results.py:calculate_ece. Raises ValueError when there are fewer rows than bins.
    """
    confidence, right = np.asarray(confidences, np.float64), np.asarray(correct, np.float64)
    size = len(confidence) // num_bins
    if not size:
        raise ValueError(f"{len(confidence)} rows cannot fill {num_bins} bins.")
    order = np.argsort(confidence, kind="stable")[: size * num_bins].reshape(num_bins, size)
    return float(np.mean(np.abs(confidence[order].mean(axis=1) - right[order].mean(axis=1))))


def brier(confidences: Sequence[float], correct: Sequence[bool]) -> float:
    """Mean squared difference of confidence and outcome."""
    confidence, right = check(confidences, correct)
    return float(np.mean((confidence - right) ** 2))


def auroc(confidences: Sequence[float], correct: Sequence[bool]) -> float:
    """Chance that a right answer is stated with more confidence than a wrong one, ties half; NaN without both."""
    confidence, right = check(confidences, correct)
    if right.all() or not right.any():
        return float("nan")
    _, inverse, counts = np.unique(confidence, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    positives, negatives = right.sum(), (~right).sum()
    return float((ranks[right].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def bootstrap(
    confidences: Sequence[float],
    correct: Sequence[bool],
    statistic: Callable[[np.ndarray, np.ndarray], float],
    num_resamples: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """95 % percentile interval of `statistic` over resampled questions."""
    confidence, right = check(confidences, correct)
    rng, count = np.random.default_rng(seed), len(right)
    values = []
    for _ in range(num_resamples):
        rows = rng.integers(count, size=count)
        values.append(statistic(confidence[rows], right[rows]))
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def noise_floor(confidences: Sequence[float], num_simulations: int = 200, seed: int = 0) -> float:
    """Mean ECE when every confidence is exactly the chance of being right: what finite data alone produce."""
    confidence = np.asarray(confidences, np.float64)
    rng = np.random.default_rng(seed)
    return float(np.mean([ece(confidence, rng.random(len(confidence)) < confidence) for _ in range(num_simulations)]))


def by_kind(confidences: Sequence[float], correct: Sequence[bool], kinds: Sequence[str]) -> tuple[KindRow, ...]:
    """Mean confidence and accuracy of each kind of question, in alphabetical order."""
    confidence, right, kind = *check(confidences, correct), np.asarray(kinds)
    return tuple(
        KindRow(str(k), int((kind == k).sum()), float(confidence[kind == k].mean()), float(right[kind == k].mean()))
        for k in np.unique(kind)
        if k
    )


def summarize(
    confidences: Sequence[float], correct: Sequence[bool], kinds: Sequence[str] | None = None, seed: int = 0
) -> Summary:
    """All metrics of one method on one set of questions.

    Raises:
      ValueError: see `check`.
    """
    confidence, right = check(confidences, correct)
    values, counts = np.unique(confidence, return_counts=True)
    accuracy = float(right.mean())
    table = by_kind(confidence, right, kinds) if kinds is not None else ()
    means = np.array([[row.confidence, row.accuracy] for row in table])
    varied = len(table) >= 3 and means.std(axis=0).min() > 0
    accuracy_low, accuracy_high = bootstrap(confidence, right, lambda c, r: float(r.mean()), seed=seed)
    ece_low, ece_high = bootstrap(confidence, right, ece, seed=seed)
    return Summary(
        num_questions=len(right),
        accuracy=accuracy,
        accuracy_low=accuracy_low,
        accuracy_high=accuracy_high,
        ece=ece(confidence, right),
        ece_low=ece_low,
        ece_high=ece_high,
        ece_noise_floor=noise_floor(confidence, seed=seed),
        brier=brier(confidence, right),
        brier_constant=accuracy * (1 - accuracy),
        auroc=auroc(confidence, right),
        num_confidence_values=int((counts >= MIN_SHARE * len(right)).sum()),
        collapsed=bool(counts.max() > 0.95 * len(right)),
        kind_correlation=float(np.corrcoef(means.T)[0, 1]) if varied else float("nan"),
        kinds=table,
    )
