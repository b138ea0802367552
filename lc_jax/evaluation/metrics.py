"""Accuracy and calibration of (confidence, correct) pairs, in numpy. Confidences and accuracies are in [0, 1].

Everything is computed from the tally of each distinct confidence (how often it was stated, how often it was right), so
that the order of rows never changes a number, not even in its last bit.
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
COLLAPSED_SHARE = 0.95  # one confidence with more than this share: nothing is told apart any more
LOG_FLOOR = 1e-4  # least probability in the log score, as in the reward (paper section 4)
_CHUNK = 4_000_000  # numbers held at a time while simulating


@dataclasses.dataclass(frozen=True)
class Tally:
    """The pairs, counted by distinct confidence."""

    values: Float[np.ndarray, " V"]  # ascending
    counts: Int[np.ndarray, " V"]  # answers that state it
    rights: Int[np.ndarray, " V"]  # right ones among them

    @property
    def total(self) -> int:
        return int(self.counts.sum())


@dataclasses.dataclass(frozen=True)
class Bins:
    """The bins of a reliability diagram that hold answers, in order of confidence."""

    confidences: Float[np.ndarray, " M"]  # mean in the bin
    accuracies: Float[np.ndarray, " M"]
    counts: Int[np.ndarray, " M"]
    clusters: Int[np.ndarray, " M"]  # distinct ones among the answers; `counts` where answers are independent


@dataclasses.dataclass(frozen=True)
class BrierParts:
    """Murphy's decomposition over equal-count bins: Brier = reliability - resolution + uncertainty + within."""

    reliability: float  # mean squared gap of confidence and accuracy in the bins; 0 is calibrated
    resolution: float  # how far the bins' accuracies lie from the overall one; more is better
    uncertainty: float  # variance of right and wrong, which no forecaster can change
    within: float  # what the bins hide: confidences that differ in a bin; 0 where each bin holds one confidence


@dataclasses.dataclass(frozen=True)
class RiskCoverage:
    """How often one is wrong who answers only where confidence is at least some value."""

    coverages: Float[np.ndarray, " V"]  # shares of questions answered, ascending
    risks: Float[np.ndarray, " V"]  # share of wrong ones among them
    aurc: float  # mean risk over all numbers of answers, equal confidences in random order; less is better


@dataclasses.dataclass(frozen=True)
class KindRow:
    """One kind of question."""

    kind: str
    num_questions: int
    confidence: float  # mean
    accuracy: float


def check(confidences: ArrayLike, correct: ArrayLike) -> tuple[Float[np.ndarray, " N"], Bool[np.ndarray, " N"]]:
    """Returns the pairs as arrays.

    Raises:
      ValueError: no pairs, unequal lengths, a confidence that is NaN or outside [0, 1], or a verdict that is neither
        right (1) nor wrong (0); the message names the first such row and their number.
    """
    confidence, verdict = np.asarray(confidences, np.float64), np.asarray(correct, np.float64)
    if confidence.shape != verdict.shape or confidence.ndim != 1 or not confidence.size:
        raise ValueError(
            f"Confidences of shape {confidence.shape} and verdicts of shape {verdict.shape}: "
            "give one of each per question, and at least one question."
        )
    outside = ~((confidence >= 0) & (confidence <= 1))
    undecided = (verdict != 0) & (verdict != 1)
    for bad, array, what in ((outside, confidence, "confidence in [0, 1]"), (undecided, verdict, "verdict (0 or 1)")):
        if bad.any():
            row = int(np.argmax(bad))
            raise ValueError(
                f"Row {row}: {array[row]} is no {what} ({bad.sum()} such rows); leave unjudged questions out."
            )
    return confidence, verdict == 1


def tally(confidences: ArrayLike, correct: ArrayLike) -> Tally:
    """Counts the pairs by confidence. Raises ValueError: see `check`."""
    confidence, right = check(confidences, correct)
    values, inverse, counts = np.unique(confidence, return_inverse=True, return_counts=True)
    return Tally(values, counts, np.bincount(inverse[right], minlength=len(values)))


def _assign(found: Tally, num_bins: int, equal_width: bool) -> Int[np.ndarray, " V"]:
    """Bin of every distinct confidence.

    Equal-count bins: a confidence goes, with all its rows, where their middle rank falls among N / num_bins rows a bin.
    Without ties and with N a multiple of num_bins these are the published bins.
    Equal-width bins: [k/n, (k+1)/n), the last one closed.
    """
    if equal_width:
        return np.searchsorted(np.arange(1, num_bins) / num_bins, found.values, side="right")
    twice_middle = 2 * np.cumsum(found.counts) - found.counts
    return np.minimum(twice_middle * num_bins // (2 * found.total), num_bins - 1)


def batched_ece(
    values: Float[np.ndarray, " V"],
    counts: Int[np.ndarray, "B V"],
    rights: Int[np.ndarray, "B V"],
    num_bins: int = NUM_BINS,
) -> Float[np.ndarray, " B"]:
    """`ece` over equal-count bins of many tallies of the same confidences; every tally holds at least one row."""
    cumulative = np.cumsum(counts, axis=1, dtype=np.int64)
    totals, twice_middle = cumulative[:, -1:], 2 * cumulative - counts
    bins = np.minimum(twice_middle * num_bins // (2 * totals), num_bins - 1)
    bins += num_bins * np.arange(len(counts))[:, None]
    gaps = np.bincount(bins.ravel(), (rights - values * counts).ravel(), len(counts) * num_bins)
    return np.abs(gaps.reshape(-1, num_bins)).sum(axis=1) / totals[:, 0]


def ece(
    confidences: ArrayLike,
    correct: ArrayLike,
    num_bins: int = NUM_BINS,
    *,
    equal_width: bool = False,
    reference: bool = False,
) -> float:
    """Expected calibration error (paper section 6), by default over equal-count bins with ties kept together.

    Every row counts once, and fewer rows than bins leave bins empty. `reference` computes it as published instead: rows
    with a NaN confidence are dropped; equal-count bins take floor(N / bins) rows in stable order and leave the most
    confident remainder out; of equal-width bins an empty one makes the result NaN.

    Reference: process_eval_results.py:compute_ece (reference=True).
    Differs: ties together, every row counted, empty bins skipped, NaN refused (reference=False).

    Raises:
      ValueError: see `check`; with `reference`, fewer rows than equal-count bins.
    """
    if reference:
        return _reference_ece(confidences, correct, num_bins, equal_width)
    bins = reliability(confidences, correct, num_bins, equal_width=equal_width)
    return float(bins.counts @ np.abs(bins.confidences - bins.accuracies) / bins.counts.sum())


def _reference_ece(confidences: ArrayLike, correct: ArrayLike, num_bins: int, equal_width: bool) -> float:
    confidence, right = np.asarray(confidences, np.float64), np.asarray(correct, np.float64)
    kept = ~np.isnan(confidence)
    confidence, right = confidence[kept], right[kept]
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
    """Returns the bins of `ece` that hold answers. Raises ValueError: see `check`.

    Args:
      clusters: what each answer belongs to (a biography); None: each is by itself.
    """
    found = tally(confidences, correct)
    bins = _assign(found, num_bins, equal_width)
    counts, rights, sums = (np.bincount(bins, x) for x in (found.counts, found.rights, found.values * found.counts))
    used = counts > 0
    counts = counts[used].astype(int)
    distinct = counts
    if clusters is not None:
        of_row = bins[np.searchsorted(found.values, np.asarray(confidences, np.float64))]
        pairs = sorted(set(zip(of_row.tolist(), clusters, strict=True)))
        distinct = np.bincount([number for number, _ in pairs])[used]
    return Bins(sums[used] / counts, rights[used] / counts, counts, distinct)


def debiased_ece(confidences: ArrayLike, correct: ArrayLike, num_bins: int = NUM_BINS) -> float:
    """ECE less what the noise of each bin's accuracy adds to it on average, at least 0.

    With a bin's gap g and the standard error s of its accuracy, noise makes |g| the mean of |N(g, s)| (Kumar et al.
    2019, in closed form in place of simulation). Raises ValueError: see `check`.
    """
    bins = reliability(confidences, correct, num_bins)
    total, excess = bins.counts.sum(), 0.0
    for confidence, accuracy, count in zip(bins.confidences, bins.accuracies, bins.counts, strict=True):
        gap, error = abs(accuracy - confidence), math.sqrt(accuracy * (1 - accuracy) / count)
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
    """What the Brier score is made of, over equal-count bins. Raises ValueError: see `check`."""
    bins = reliability(confidences, correct, num_bins)
    weights = bins.counts / bins.counts.sum()
    accuracy = float(weights @ bins.accuracies)
    gap = float(weights @ (bins.confidences - bins.accuracies) ** 2)
    resolution = float(weights @ (bins.accuracies - accuracy) ** 2)
    uncertainty = accuracy * (1 - accuracy)
    return BrierParts(gap, resolution, uncertainty, brier(confidences, correct) - (gap - resolution + uncertainty))


def risk_coverage(confidences: ArrayLike, correct: ArrayLike) -> RiskCoverage:
    """Risk against coverage, the most confident answers first, and the area below. Raises ValueError: see `check`."""
    found = tally(confidences, correct)
    counts, wrongs = found.counts[::-1], (found.counts - found.rights)[::-1]
    answered, failed = np.cumsum(counts), np.cumsum(wrongs)
    rank = np.arange(1, found.total + 1)
    group = np.repeat(np.arange(len(counts)), counts)
    before = (failed - wrongs)[group] + (rank - (answered - counts)[group]) * (wrongs / counts)[group]
    return RiskCoverage(answered / found.total, failed / answered, float((before / rank).mean()))


def sharpness(confidences: ArrayLike) -> float:
    """Variance of the confidences: 0 for a forecaster that always says the same, at most 1/4."""
    values, counts = np.unique(np.asarray(confidences, np.float64), return_counts=True)
    shares = counts / counts.sum()
    return float(shares @ (values - shares @ values) ** 2)


def brier(confidences: ArrayLike, correct: ArrayLike) -> float:
    """Mean squared difference of confidence and outcome; 0 is perfect. Raises ValueError: see `check`."""
    found = tally(confidences, correct)
    wrongs = found.counts - found.rights
    return float((found.rights * (1 - found.values) ** 2 + wrongs * found.values**2).sum() / found.total)


def log_score(confidences: ArrayLike, correct: ArrayLike, floor: float = LOG_FLOOR) -> float:
    """Mean log of the probability given to what happened, at least `floor`; in nats. Raises ValueError: see `check`."""
    found = tally(confidences, correct)
    right, wrong = (np.log(np.maximum(prob, floor)) for prob in (found.values, 1 - found.values))
    return float((found.rights * right + (found.counts - found.rights) * wrong).sum() / found.total)


def auroc(confidences: ArrayLike, correct: ArrayLike) -> float:
    """Chance that a right answer is stated with more confidence than a wrong one, ties half.

    NaN when all answers are right or all are wrong. Raises ValueError: see `check`.
    """
    found = tally(confidences, correct)
    wrongs = found.counts - found.rights
    pairs = int(found.rights.sum()) * int(wrongs.sum())
    twice = found.rights * (2 * np.cumsum(wrongs) - wrongs)  # wrong answers below count two, equal ones one
    return float(twice.sum() / (2 * pairs)) if pairs else float("nan")


def confidence_shares(confidences: ArrayLike) -> dict[int, float]:
    """Share of answers that state each percentage (confidences to the nearest per cent), in ascending order."""
    percent, counts = np.unique(np.rint(100 * np.asarray(confidences, np.float64)), return_counts=True)
    return {int(p): float(share) for p, share in zip(percent, counts / counts.sum(), strict=True)}


def noise_floor(
    confidences: ArrayLike, num_simulations: int = 1000, *, num_bins: int = NUM_BINS, seed: int = 0
) -> float:
    """Mean ECE when every confidence is exactly the chance of being right: what finite data alone produce."""
    confidence = np.asarray(confidences, np.float64)
    found = tally(confidence, np.zeros(confidence.shape))
    rng, values = np.random.default_rng(seed), []
    step = max(1, _CHUNK // len(found.values))
    for start in range(0, num_simulations, step):
        rights = rng.binomial(found.counts, found.values, (min(step, num_simulations - start), len(found.values)))
        values.append(batched_ece(found.values, np.broadcast_to(found.counts, rights.shape), rights, num_bins))
    return float(np.concatenate(values).mean())


def by_kind(confidences: ArrayLike, correct: ArrayLike, kinds: Sequence[str]) -> tuple[KindRow, ...]:
    """Mean confidence and accuracy of each kind of question, in alphabetical order; rows of kind "" are left out.

    Raises:
      ValueError: see `check`; or not one kind per question.
    """
    confidence, right = check(confidences, correct)
    kind = np.asarray(kinds, str)
    if kind.shape != right.shape:
        raise ValueError(f"{len(kinds)} kinds for {len(right)} questions: give one per question.")
    rows = []
    for name in np.unique(kind[kind != ""]):
        found = tally(confidence[kind == name], right[kind == name])
        mean = float((found.values * found.counts).sum() / found.total)
        rows.append(KindRow(str(name), found.total, mean, float(found.rights.sum() / found.total)))
    return tuple(rows)


def kind_correlation(rows: Sequence[KindRow]) -> float:
    """Pearson correlation of mean confidence and accuracy over kinds; NaN with fewer than three, or all alike."""
    means = np.array([(row.confidence, row.accuracy) for row in rows])
    if len(rows) < 3 or np.ptp(means, axis=0).min() < 1e-9:
        return float("nan")
    return float(np.corrcoef(means.T)[0, 1])
