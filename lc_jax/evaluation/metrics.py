"""Accuracy and calibration of (confidence, correct) pairs, in numpy. Confidences and accuracies are in [0, 1].

A verdict may be graded, such as 0.6 for a sentence of which 60% are supported: everything but AUROC takes it.

Everything is computed from counts by distinct confidence (answers, and correct ones), so that the order of rows never
changes a number, not even in its last bit.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import ArrayLike

NUM_BINS = 20
MIN_SHARE = 0.05  # a confidence counts as in use when this share of answers states it
COLLAPSED_SHARE = 0.95  # above this share of one confidence, the method no longer discriminates
LOG_FLOOR = 1e-4  # least probability in the log score, as in the reward (paper section 4)
_CHUNK = 4_000_000  # array elements of one chunk of simulations


@dataclasses.dataclass(frozen=True)
class Tally:
    """Counts of the pairs by distinct confidence."""

    values: Float[np.ndarray, " V"]  # ascending
    counts: Int[np.ndarray, " V"]  # answers that state it
    num_correct: Float[np.ndarray, " V"]  # sum of the verdicts y: number of correct ones among them
    ambiguity: Float[np.ndarray, " V"]  # sum of y (1 - y); 0 unless verdicts are graded

    @property
    def total(self) -> int:
        return int(self.counts.sum())


@dataclasses.dataclass(frozen=True)
class Bins:
    """The bins of a reliability diagram that hold answers, in order of confidence."""

    confidences: Float[np.ndarray, " M"]  # mean in the bin
    accuracies: Float[np.ndarray, " M"]
    variances: Float[np.ndarray, " M"]  # of the verdicts in the bin
    counts: Int[np.ndarray, " M"]
    clusters: Int[np.ndarray, " M"]  # number of distinct clusters; `counts` if answers are independent


@dataclasses.dataclass(frozen=True)
class BrierParts:
    """Murphy's decomposition over equal-count bins: Brier = reliability - resolution + uncertainty + within."""

    reliability: float  # mean squared gap of confidence and accuracy in the bins; 0 is calibrated
    resolution: float  # variance of the bins' accuracies; more is better
    uncertainty: float  # variance of the verdicts, which no forecaster can change
    within: float  # what the bins hide: confidences that differ in a bin; 0 where each bin holds one confidence


@dataclasses.dataclass(frozen=True)
class KindRow:
    """Mean confidence and accuracy of one kind of question."""

    kind: str
    num_questions: int
    confidence: float  # mean
    accuracy: float
    auroc: float = math.nan  # within the kind; NaN where all its answers are right or all are wrong


def check(
    confidences: ArrayLike, correct: ArrayLike
) -> tuple[Float[np.ndarray, " N"], Bool[np.ndarray, " N"] | Float[np.ndarray, " N"]]:
    """Checks the pairs and returns them as arrays: verdicts as bool, or as float where one of them is graded.

    Raises:
      ValueError: no pairs, unequal lengths, or a confidence or verdict that is NaN or outside [0, 1]; the message names
        the first such row and their number.
    """
    confidence, verdict = np.asarray(confidences, np.float64), np.asarray(correct, np.float64)
    if confidence.shape != verdict.shape or confidence.ndim != 1 or not confidence.size:
        raise ValueError(
            f"Confidences of shape {confidence.shape} and verdicts of shape {verdict.shape}: "
            "give one of each per question, and at least one question."
        )
    for array, what in ((confidence, "confidence in [0, 1]"), (verdict, "verdict (0 or 1, or graded between them)")):
        bad = ~((array >= 0) & (array <= 1))
        if bad.any():
            row = int(np.argmax(bad))
            raise ValueError(
                f"Row {row}: {array[row]} is no {what} ({bad.sum()} such rows); leave unjudged questions out."
            )
    return confidence, verdict == 1 if ((verdict == 0) | (verdict == 1)).all() else verdict


def tally(confidences: ArrayLike, correct: ArrayLike) -> Tally:
    """Counts the pairs by confidence. Raises ValueError: see `check`."""
    confidence, verdict = check(confidences, correct)
    order = np.lexsort((verdict, confidence))  # so that the order of rows does not change sums of graded verdicts
    label = verdict[order].astype(np.float64)
    values, inverse, counts = np.unique(confidence[order], return_inverse=True, return_counts=True)
    return Tally(values, counts, np.bincount(inverse, label), np.bincount(inverse, label * (1 - label)))


def _assign(table: Tally, num_bins: int, equal_width: bool) -> Int[np.ndarray, " V"]:
    """Assigns a bin to every distinct confidence.

    Equal-count bins: a confidence goes, with all its rows, into the bin of their middle rank, N / num_bins rows each.
    Without ties and with N a multiple of num_bins these are the published bins.
    Equal-width bins: [k/n, (k+1)/n), the last one closed.
    """
    if equal_width:
        return np.searchsorted(np.arange(1, num_bins) / num_bins, table.values, side="right")
    twice_middle = 2 * np.cumsum(table.counts) - table.counts
    return np.minimum(twice_middle * num_bins // (2 * table.total), num_bins - 1)


def batched_ece(
    values: Float[np.ndarray, " V"],
    counts: Int[np.ndarray, "B V"],
    num_correct: Int[np.ndarray, "B V"],
    num_bins: int = NUM_BINS,
) -> Float[np.ndarray, " B"]:
    """Computes `ece` over equal-count bins for many counts of the same confidences, each with at least one row."""
    cumulative = np.cumsum(counts, axis=1, dtype=np.int64)
    totals, twice_middle = cumulative[:, -1:], 2 * cumulative - counts
    bins = np.minimum(twice_middle * num_bins // (2 * totals), num_bins - 1)
    bins += num_bins * np.arange(len(counts))[:, None]
    gaps = np.bincount(bins.ravel(), (num_correct - values * counts).ravel(), len(counts) * num_bins)
    return np.abs(gaps.reshape(-1, num_bins)).sum(axis=1) / totals[:, 0]


def ece(
    confidences: ArrayLike,
    correct: ArrayLike,
    num_bins: int = NUM_BINS,
    *,
    equal_width: bool = False,
    reference: bool = False,
) -> float:
    """Computes the expected calibration error (paper section 6), by default over equal-count bins with ties together.

    Every row counts once, and fewer rows than bins leave bins empty. With `reference` it is as published: rows
    with a NaN confidence are dropped; equal-count bins take floor(N / bins) rows in stable order and leave the most
    confident remainder out; of equal-width bins an empty one makes the result NaN.

    Reference: process_eval_results.py:compute_ece (reference=True).
    Differs: ties together, every row counted, empty bins skipped, NaN rejected (reference=False).

    Raises:
      ValueError: see `check`; with `reference`, fewer rows than equal-count bins.
    """
    if reference:
        return _reference_ece(confidences, correct, num_bins, equal_width)
    bins = reliability(confidences, correct, num_bins, equal_width=equal_width)
    return float(bins.counts @ np.abs(bins.confidences - bins.accuracies) / bins.counts.sum())


def _reference_ece(confidences: ArrayLike, correct: ArrayLike, num_bins: int, equal_width: bool) -> float:
    confidence, right = np.asarray(confidences, np.float64), np.asarray(correct, np.float64)
    valid = ~np.isnan(confidence)
    confidence, right = confidence[valid], right[valid]
    if equal_width:
        bins = np.searchsorted(np.linspace(0, 1, num_bins + 1)[1:-1], confidence, side="right")
        counts = np.bincount(bins, minlength=num_bins)
        gaps = np.bincount(bins, confidence - right, minlength=num_bins)
        return float(np.abs(gaps).sum() / len(right)) if counts.all() else float("nan")
    size = len(confidence) // num_bins
    if not size:
        raise ValueError(f"{len(confidence)} rows cannot fill {num_bins} equal-count bins; take fewer bins.")
    rows = np.argsort(confidence, kind="stable")[: size * num_bins].reshape(num_bins, size)
    return float(np.abs(confidence[rows].mean(axis=1) - right[rows].mean(axis=1)).mean())


def reliability(
    confidences: ArrayLike,
    correct: ArrayLike,
    num_bins: int = NUM_BINS,
    *,
    equal_width: bool = False,
    clusters: Sequence[str] | None = None,
) -> Bins:
    """Computes the bins of `ece` that hold answers. Raises ValueError: see `check`.

    Args:
      clusters: the cluster of each answer (a biography); None: answers are independent.
    """
    table = tally(confidences, correct)
    bins = _assign(table, num_bins, equal_width)
    counts, num_correct, ambiguity, sums = (
        np.bincount(bins, x) for x in (table.counts, table.num_correct, table.ambiguity, table.values * table.counts)
    )
    nonempty = counts > 0
    counts = counts[nonempty].astype(int)
    distinct = counts
    if clusters is not None:
        row_bins = bins[np.searchsorted(table.values, np.asarray(confidences, np.float64))]
        pairs = sorted(set(zip(row_bins.tolist(), clusters, strict=True)))
        distinct = np.bincount([number for number, _ in pairs])[nonempty]
    accuracies = num_correct[nonempty] / counts
    variances = np.maximum(accuracies * (1 - accuracies) - ambiguity[nonempty] / counts, 0)
    return Bins(sums[nonempty] / counts, accuracies, variances, counts, distinct)


def debiased_ece(confidences: ArrayLike, correct: ArrayLike, num_bins: int = NUM_BINS) -> float:
    """Computes ECE less the expected contribution of sampling noise in each bin's accuracy, at least 0.

    With a bin's gap g and the standard error s of its accuracy, noise makes |g| the mean of |N(g, s)| (Kumar et al.
    2019, in closed form in place of simulation). Raises ValueError: see `check`.
    """
    bins = reliability(confidences, correct, num_bins)
    total, excess = bins.counts.sum(), 0.0
    for confidence, accuracy, variance, count in zip(
        bins.confidences, bins.accuracies, bins.variances, bins.counts, strict=True
    ):
        gap, error = abs(accuracy - confidence), math.sqrt(variance / count)
        if error:
            ratio = gap / error
            folded = error * math.sqrt(2 / math.pi) * math.exp(-(ratio**2) / 2) + gap * math.erf(ratio / math.sqrt(2))
            excess += count / total * (folded - gap)
    return float(max(0.0, ece(confidences, correct, num_bins) - excess))


def max_error(
    confidences: ArrayLike, correct: ArrayLike, num_bins: int = NUM_BINS, *, equal_width: bool = False
) -> float:
    """Returns the largest gap of confidence and accuracy in a bin of `reliability`. Raises ValueError: see `check`."""
    bins = reliability(confidences, correct, num_bins, equal_width=equal_width)
    return float(np.abs(bins.confidences - bins.accuracies).max())


def brier_parts(confidences: ArrayLike, correct: ArrayLike, num_bins: int = NUM_BINS) -> BrierParts:
    """Decomposes the Brier score over equal-count bins. Raises ValueError: see `check`."""
    bins = reliability(confidences, correct, num_bins)
    weights = bins.counts / bins.counts.sum()
    accuracy = float(weights @ bins.accuracies)
    gap = float(weights @ (bins.confidences - bins.accuracies) ** 2)
    resolution = float(weights @ (bins.accuracies - accuracy) ** 2)
    uncertainty = accuracy * (1 - accuracy) - float(tally(confidences, correct).ambiguity.sum() / bins.counts.sum())
    return BrierParts(gap, resolution, uncertainty, brier(confidences, correct) - (gap - resolution + uncertainty))


def sharpness(confidences: ArrayLike) -> float:
    """Computes the variance of the confidences: 0 for a constant forecaster, at most 1/4."""
    values, counts = np.unique(np.asarray(confidences, np.float64), return_counts=True)
    shares = counts / counts.sum()
    return float(shares @ (values - shares @ values) ** 2)


def brier(confidences: ArrayLike, correct: ArrayLike) -> float:
    """Computes the mean squared difference of confidence and outcome; 0 is perfect. Raises ValueError: see `check`."""
    table = tally(confidences, correct)
    num_incorrect = table.counts - table.num_correct
    # (c - y)^2 = y (1 - c)^2 + (1 - y) c^2 - y (1 - y)
    squares = table.num_correct * (1 - table.values) ** 2 + num_incorrect * table.values**2 - table.ambiguity
    return float(squares.sum() / table.total)


def log_score(confidences: ArrayLike, correct: ArrayLike, floor: float = LOG_FLOOR) -> float:
    """Computes the mean log probability (at least `floor`) of the outcome, in nats. Raises ValueError: see `check`.

    Of a graded verdict y it is y log c + (1 - y) log(1 - c), which is highest, but below 0, at c = y.
    """
    table = tally(confidences, correct)
    right, wrong = (np.log(np.maximum(prob, floor)) for prob in (table.values, 1 - table.values))
    return float((table.num_correct * right + (table.counts - table.num_correct) * wrong).sum() / table.total)


def auroc(confidences: ArrayLike, correct: ArrayLike) -> float:
    """Computes the probability that a correct answer has more confidence than an incorrect one; ties count half.

    NaN when all answers are right or all are wrong, or verdicts are graded. Raises ValueError: see `check`.
    """
    table = tally(confidences, correct)
    if table.ambiguity.any():
        return float("nan")
    num_incorrect = table.counts - table.num_correct
    pairs = int(table.num_correct.sum()) * int(num_incorrect.sum())
    twice = table.num_correct * (
        2 * np.cumsum(num_incorrect) - num_incorrect
    )  # incorrect answers below count two, equal ones one
    return float(twice.sum() / (2 * pairs)) if pairs else float("nan")


def auroc_within(confidences: ArrayLike, correct: ArrayLike, kinds: Sequence[str]) -> float:
    """Computes `auroc` over the pairs of answers of one kind, pooled over kinds: what confidence tells beyond the kind.

    NaN where no kind has both right and wrong answers, or verdicts are graded. Rows of kind "" are left out. Raises
    ValueError: see `by_kind`.
    """
    confidence, right = check(confidences, correct)
    kind, wins, pairs = _kinds(kinds, len(right)), 0.0, 0
    if right.dtype != bool:
        return math.nan
    for name in np.unique(kind[kind != ""]):
        rows = kind == name
        num_pairs = int(right[rows].sum()) * int((~right[rows]).sum())
        wins += num_pairs * auroc(confidence[rows], right[rows]) if num_pairs else 0.0
        pairs += num_pairs
    return wins / pairs if pairs else math.nan


def overconfidence(confidences: ArrayLike, correct: ArrayLike) -> float:
    """Computes mean confidence less accuracy: positive is overconfident. Raises ValueError: see `check`."""
    table = tally(confidences, correct)
    return float(((table.values * table.counts).sum() - table.num_correct.sum()) / table.total)


def confidence_shares(confidences: ArrayLike) -> dict[int, float]:
    """Returns the share of answers with each confidence, rounded to whole per cent, in ascending order."""
    percent, counts = np.unique(np.rint(100 * np.asarray(confidences, np.float64)), return_counts=True)
    return {int(p): float(share) for p, share in zip(percent, counts / counts.sum(), strict=True)}


def noise_floor(
    confidences: ArrayLike, num_simulations: int = 1000, *, num_bins: int = NUM_BINS, seed: int = 0
) -> float:
    """Simulates the mean ECE of a perfectly calibrated method: the error that finite data alone produce."""
    confidence = np.asarray(confidences, np.float64)
    table = tally(confidence, np.zeros(confidence.shape))
    rng, values = np.random.default_rng(seed), []
    step = max(1, _CHUNK // len(table.values))
    for start in range(0, num_simulations, step):
        num_correct = rng.binomial(table.counts, table.values, (min(step, num_simulations - start), len(table.values)))
        values.append(
            batched_ece(table.values, np.broadcast_to(table.counts, num_correct.shape), num_correct, num_bins)
        )
    return float(np.concatenate(values).mean())


def _kinds(kinds: Sequence[str], num_questions: int) -> np.ndarray:
    kind = np.asarray(kinds, str)
    if kind.shape != (num_questions,):
        raise ValueError(f"{len(kinds)} kinds for {num_questions} questions: give one per question.")
    return kind


def by_kind(confidences: ArrayLike, correct: ArrayLike, kinds: Sequence[str]) -> tuple[KindRow, ...]:
    """Computes confidence, accuracy and AUROC by kind of question, in alphabetical order; rows of kind "" are left out.

    Raises:
      ValueError: see `check`; or not one kind per question.
    """
    confidence, right = check(confidences, correct)
    kind, rows = _kinds(kinds, len(right)), []
    for name in np.unique(kind[kind != ""]):
        pairs = confidence[kind == name], right[kind == name]
        table = tally(*pairs)
        mean = float((table.values * table.counts).sum() / table.total)
        accuracy = float(table.num_correct.sum() / table.total)
        rows.append(KindRow(str(name), table.total, mean, accuracy, auroc(*pairs)))
    return tuple(rows)


def kind_correlation(rows: Sequence[KindRow]) -> float:
    """Computes Pearson's correlation of mean confidence and accuracy over kinds; NaN below three kinds or if equal."""
    means = np.array([(row.confidence, row.accuracy) for row in rows])
    if len(rows) < 3 or np.ptp(means, axis=0).min() < 1e-9:
        return float("nan")
    return float(np.corrcoef(means.T)[0, 1])
