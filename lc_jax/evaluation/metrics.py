"""Accuracy and calibration of (confidence, correct) pairs, in numpy. Confidences and accuracies are in [0, 1].

Everything is computed from the tally of each distinct confidence (how often it was stated, how often it was right), so
that the order of rows never changes a number, not even in its last bit.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import ArrayLike

NUM_BINS = 20
NUM_RESAMPLES = 10_000
MIN_SHARE = 0.05  # a confidence counts as in use when this share of answers states it
COLLAPSED_SHARE = 0.95  # one confidence with more than this share: nothing is told apart any more
LOG_FLOOR = 1e-4  # least probability in the log score, as in the reward (paper section 4)
_CHUNK = 4_000_000  # numbers held at a time while resampling


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


@dataclasses.dataclass(frozen=True)
class Intervals:
    """95 % percentile bootstrap intervals, each (low, high)."""

    accuracy: tuple[float, float]
    ece: tuple[float, float]


@dataclasses.dataclass(frozen=True)
class KindRow:
    """One kind of question."""

    kind: str
    num_questions: int
    confidence: float  # mean
    accuracy: float


@dataclasses.dataclass(frozen=True)
class Summary:
    """Everything that one row of results says. Intervals are 95 % percentile bootstrap."""

    num_questions: int
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    ece: float  # 20 equal-count bins, ties together
    ece_low: float
    ece_high: float
    ece_noise_floor: float  # mean ECE of perfectly calibrated forecasters with these confidences
    brier: float
    brier_constant: float  # of always stating the accuracy: the best that a collapsed forecaster can reach
    log_score: float  # mean log probability of what happened, in nats; 0 is perfect
    auroc: float  # NaN when all answers are right or all are wrong
    num_confidence_values: int  # distinct percentages that at least MIN_SHARE of answers state
    collapsed: bool  # one percentage for (nearly) everything
    kind_correlation: float  # of mean confidence and accuracy over kinds; NaN with fewer than three, or all alike
    kinds: tuple[KindRow, ...]
    notes: tuple[str, ...]  # why a number is NaN or means little


def check(confidences: ArrayLike, correct: ArrayLike) -> tuple[Float[np.ndarray, " N"], Bool[np.ndarray, " N"]]:
    """The pairs as arrays.

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


def _assign(
    values: Float[np.ndarray, " V"], counts: Int[np.ndarray, "*B V"], num_bins: int, equal_width: bool
) -> Int[np.ndarray, "*B V"]:
    """Bin of every distinct confidence.

    Equal-count bins: a confidence goes, with all its rows, where their middle rank falls among N / num_bins rows a bin.
    Without ties and with N a multiple of num_bins these are the published bins.
    Equal-width bins: [k/n, (k+1)/n), the last one closed.
    """
    if equal_width:
        bins = np.searchsorted(np.arange(1, num_bins) / num_bins, values, side="right")
        return np.broadcast_to(bins, counts.shape)
    twice_middle = 2 * np.cumsum(counts, axis=-1) - counts
    total = counts.sum(axis=-1, keepdims=True)
    return np.minimum(twice_middle * num_bins // (2 * total), num_bins - 1)


def _tally_ece(
    values: Float[np.ndarray, " V"],
    counts: Int[np.ndarray, "B V"],
    rights: Int[np.ndarray, "B V"],
    num_bins: int = NUM_BINS,
    equal_width: bool = False,
) -> Float[np.ndarray, " B"]:
    """ECE of many tallies over the same confidences: sum over bins of |sum of confidence - number right| / N."""
    batch = len(counts)
    bins = _assign(values, counts, num_bins, equal_width) + num_bins * np.arange(batch)[:, None]
    gaps = np.bincount(bins.ravel(), (values * counts - rights).ravel(), minlength=batch * num_bins)
    return np.abs(gaps.reshape(batch, num_bins)).sum(axis=1) / counts.sum(axis=1)


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
    found = tally(confidences, correct)
    return float(_tally_ece(found.values, found.counts[None], found.rights[None], num_bins, equal_width)[0])


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
    confidences: ArrayLike, correct: ArrayLike, num_bins: int = NUM_BINS, *, equal_width: bool = False
) -> Bins:
    """The bins of `ece` that hold answers. Raises ValueError: see `check`."""
    found = tally(confidences, correct)
    bins = _assign(found.values, found.counts, num_bins, equal_width)
    counts, rights, sums = (np.bincount(bins, x) for x in (found.counts, found.rights, found.values * found.counts))
    used = counts > 0
    return Bins(sums[used] / counts[used], rights[used] / counts[used], counts[used].astype(int))


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


def _resampled(found: Tally, num_resamples: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Chunks of (counts, rights) [B, V] of N rows drawn with replacement, drawn as counts of each kind of row."""
    rng = np.random.default_rng(seed)
    cells = np.stack([found.rights, found.counts - found.rights], axis=1).ravel()
    occupied = np.flatnonzero(cells)  # a multinomial draw costs time for every cell
    chance = cells[occupied] / found.total
    step = max(1, _CHUNK // len(cells))
    for start in range(0, num_resamples, step):
        drawn = np.zeros((min(step, num_resamples - start), len(cells)), np.int64)
        drawn[:, occupied] = rng.multinomial(found.total, chance, size=len(drawn))
        pairs = drawn.reshape(len(drawn), -1, 2)
        yield pairs.sum(axis=2), pairs[:, :, 0]


def bootstrap(
    confidences: ArrayLike,
    correct: ArrayLike,
    num_resamples: int = NUM_RESAMPLES,
    *,
    num_bins: int = NUM_BINS,
    seed: int = 0,
) -> Intervals:
    """95 % percentile intervals of accuracy and ECE over resampled questions. Raises ValueError: see `check`.

    Differs: the published resamples are drawn row by row; this draws how often each (confidence, verdict) comes up,
    which is the same distribution and does not depend on the order of rows.

    A resample is noisier than the data, so near the noise floor an interval may lie above the ECE itself.
    """
    found = tally(confidences, correct)
    accuracies, errors = [], []
    for counts, rights in _resampled(found, num_resamples, seed):
        accuracies.append(rights.sum(axis=1) / found.total)
        errors.append(_tally_ece(found.values, counts, rights, num_bins))
    ends = [np.percentile(np.concatenate(values), [2.5, 97.5]) for values in (accuracies, errors)]
    return Intervals(*((float(low), float(high)) for low, high in ends))


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
        values.append(_tally_ece(found.values, np.broadcast_to(found.counts, rights.shape), rights, num_bins))
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


def _notes(summary: Summary) -> tuple[str, ...]:
    """Why numbers of a summary are NaN or mean little."""
    reasons = {
        f"fewer questions ({summary.num_questions}) than bins ({NUM_BINS})": summary.num_questions < NUM_BINS,
        "one confidence for (nearly) everything": summary.collapsed,
        "no AUROC: all answers are right": summary.accuracy == 1,
        "no AUROC: all answers are wrong": summary.accuracy == 0,
        "no correlation over kinds: fewer than three, or all alike": bool(summary.kinds)
        and not summary.collapsed
        and np.isnan(summary.kind_correlation),
    }
    return tuple(reason for reason, holds in reasons.items() if holds)


def summarize(confidences: ArrayLike, correct: ArrayLike, kinds: Sequence[str] | None = None, seed: int = 0) -> Summary:
    """All metrics of one method on one set of questions; `seed` is of the resampling.

    Raises:
      ValueError: see `check`.
    """
    confidence, right = check(confidences, correct)
    accuracy = float(right.mean())
    shares = confidence_shares(confidence)
    table = by_kind(confidence, right, kinds) if kinds is not None else ()
    intervals = bootstrap(confidence, right, seed=seed)
    summary = Summary(
        num_questions=len(right),
        accuracy=accuracy,
        accuracy_low=intervals.accuracy[0],
        accuracy_high=intervals.accuracy[1],
        ece=ece(confidence, right),
        ece_low=intervals.ece[0],
        ece_high=intervals.ece[1],
        ece_noise_floor=noise_floor(confidence, seed=seed),
        brier=brier(confidence, right),
        brier_constant=accuracy * (1 - accuracy),
        log_score=log_score(confidence, right),
        auroc=auroc(confidence, right),
        num_confidence_values=sum(share >= MIN_SHARE for share in shares.values()),
        collapsed=max(shares.values()) > COLLAPSED_SHARE,
        kind_correlation=kind_correlation(table),
        kinds=table,
        notes=(),
    )
    return dataclasses.replace(summary, notes=_notes(summary))
