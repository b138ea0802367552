"""95 % intervals: Wilson's, and percentile bootstrap of one method and of the difference of two (paper section 6).

What is resampled are clusters: questions, or biographies with all their claims. All resamples of a chunk are computed
at once, from how often each draws every confidence. Of few answers, or of answers that are all right or all wrong, a
bootstrap says too little (at worst an interval of width 0): there the interval of an accuracy is Wilson's.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import ArrayLike

from lc_jax.evaluation import metrics

NUM_RESAMPLES = 10_000
METRICS = ("accuracy", "ece", "brier", "auroc")  # those that have intervals
_CHUNK = 4_000_000  # numbers held at a time
_ENDS = (2.5, 97.5)  # per cent
_Z = 1.959963984540054  # the 97.5 % quantile of the normal distribution, squared in Wilson's formula
SMALL = 30  # clusters: with fewer, the interval of an accuracy is Wilson's

Interval = tuple[float, float]  # (low, high)


@dataclasses.dataclass(frozen=True)
class Difference:
    """How much more one method has of a metric than another on the same questions."""

    difference: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class _Rows:
    """Rows in order of confidence, verdict and cluster, so that the order in which they came changes nothing."""

    values: Float[np.ndarray, " V"]  # distinct confidences, ascending
    starts: Int[np.ndarray, " V"]  # first row of each
    right: Bool[np.ndarray, " N"]
    cluster: Int[np.ndarray, " N"]  # its number

    @functools.cached_property
    def table(self) -> Float[np.ndarray, "C V+V"]:
        """What each cluster adds to the counts, then to the right ones, of every confidence."""
        value = np.repeat(np.arange(len(self.values)), np.diff(self.starts, append=len(self.right)))
        found = np.zeros((self.cluster.max() + 1, 2 * len(self.values)))
        np.add.at(found, (self.cluster, value), 1)
        np.add.at(found, (self.cluster, len(self.values) + value), self.right)
        return found

    def tallies(self, weights: Int[np.ndarray, "B C"]) -> tuple[Int[np.ndarray, "B V"], Int[np.ndarray, "B V"]]:
        """Returns (counts, right ones) of every confidence when cluster c is drawn weights[c] times."""
        if len(self.values) * weights.shape[1] < len(self.right):  # many rows a cluster: a product, which is exact too
            counts, rights = np.split((weights @ self.table).astype(np.int64), 2, axis=1)
            return counts, rights
        drawn = weights[:, self.cluster]
        return np.add.reduceat(drawn, self.starts, axis=1), np.add.reduceat(drawn * self.right, self.starts, axis=1)


def _rows(confidences: ArrayLike, correct: ArrayLike, clusters: Int[np.ndarray, " N"] | None) -> _Rows:
    confidence, right = metrics.check(confidences, correct)
    order = np.lexsort((right, confidence) if clusters is None else (clusters, right, confidence))
    values, starts = np.unique(confidence[order], return_index=True)
    return _Rows(values, starts, right[order], np.arange(len(order)) if clusters is None else clusters[order])


def _draws(num_clusters: int, width: int, num_resamples: int, seed: int) -> Iterator[Int[np.ndarray, "B C"]]:
    """How often each cluster is drawn, in chunks of resamples; `width`: rows of the widest table made from them."""
    rng = np.random.default_rng(seed)
    step = max(1, _CHUNK // max(num_clusters, width))
    for start in range(0, num_resamples, step):
        batch = min(step, num_resamples - start)
        drawn = rng.integers(0, num_clusters, (batch, num_clusters))
        drawn += num_clusters * np.arange(batch)[:, None]
        yield np.bincount(drawn.ravel(), minlength=batch * num_clusters).reshape(batch, num_clusters)


def _measure(
    rows: _Rows, weights: Int[np.ndarray, "B C"], names: Sequence[str], num_bins: int
) -> Float[np.ndarray, "M B"]:
    """Returns the metrics `names` of every resample; NaN where one has no value."""
    counts, rights = rows.tallies(weights)
    total, right = counts.sum(axis=1), rights.sum(axis=1)
    found = []
    with np.errstate(invalid="ignore", divide="ignore"):
        for name in names:
            if name == "accuracy":
                found.append(right / total)
            elif name == "ece":
                found.append(metrics.batched_ece(rows.values, counts, rights, num_bins))
            elif name == "brier":
                squares = rights * (1 - rows.values) ** 2 + (counts - rights) * rows.values**2
                found.append(squares.sum(axis=1) / total)
            else:
                wrongs = counts - rights
                twice = rights * (2 * np.cumsum(wrongs, axis=1) - wrongs)
                found.append(twice.sum(axis=1) / (2 * right * (total - right)))
    return np.stack(found)


def _numbered(clusters: Sequence[str], num_rows: int) -> tuple[list[str], Int[np.ndarray, " N"]]:
    if len(clusters) != num_rows:
        raise ValueError(f"{len(clusters)} clusters for {num_rows} rows: give one per row.")
    names, numbers = np.unique(np.asarray(clusters, str), return_inverse=True)
    return names.tolist(), numbers


def _percentiles(values: Float[np.ndarray, " B"]) -> Interval:
    """NaN where no resample has a value (AUROC, when all answers are right)."""
    known = values[~np.isnan(values)]
    low, high = np.percentile(known, _ENDS) if len(known) else (np.nan, np.nan)
    return float(low), float(high)


def wilson(successes: float, total: float) -> Interval:
    """Wilson's 95 % score interval for a share: right for one trial too, and never outside [0, 1].

    Args:
      successes: out of `total`; a fraction where trials are clusters, of which `successes / total` is the mean share.

    Raises:
      ValueError: no trials, or not 0 <= successes <= total.
    """
    if not 0 <= successes <= total or not total:
        raise ValueError(f"{successes} successes of {total} trials: give 0 to all of them, and at least one trial.")
    share, square = successes / total, _Z**2 / total
    centre = (share + square / 2) / (1 + square)
    reach = math.sqrt(square * (share * (1 - share) + square / 4)) / (1 + square)
    return (0.0 if successes == 0 else centre - reach), (1.0 if successes == total else centre + reach)


def of_accuracy(accuracy: float, num_clusters: int, resampled: Interval) -> Interval:
    """Returns the interval of an accuracy: `resampled`, or Wilson's of few clusters or where no resample differs.

    Rows of a cluster count as one trial, as if they were all alike: that is never too narrow.
    """
    few = num_clusters < SMALL or resampled[0] == resampled[1]
    return wilson(accuracy * num_clusters, num_clusters) if few else resampled


def bootstrap(
    confidences: ArrayLike,
    correct: ArrayLike,
    clusters: Sequence[str] | None = None,
    *,
    names: Sequence[str] = METRICS,
    num_resamples: int = NUM_RESAMPLES,
    num_bins: int = metrics.NUM_BINS,
    seed: int = 0,
) -> dict[str, Interval]:
    """Intervals of the metrics `names`.

    A resample is noisier than the data, so near the noise floor an interval may lie above the ECE itself.

    Args:
      clusters: what each row belongs to (a biography); None: every row is drawn by itself.

    Raises:
      ValueError: see `metrics.check`; or not one cluster per row.
    """
    numbers, num_clusters = None, len(np.atleast_1d(confidences))
    if clusters is not None:
        known, numbers = _numbered(clusters, num_clusters)
        num_clusters = len(known)
    rows = _rows(confidences, correct, numbers)
    draws = _draws(num_clusters, len(rows.right), num_resamples, seed)
    found = np.concatenate([_measure(rows, weights, names, num_bins) for weights in draws], axis=1)
    return {name: _percentiles(values) for name, values in zip(names, found, strict=True)}


@dataclasses.dataclass(frozen=True)
class Scored:
    """The judged rows of one method."""

    confidences: Sequence[float]
    correct: Sequence[bool]
    clusters: Sequence[str]  # the question, or the biography, that each row belongs to


def paired(
    one: Scored, other: Scored, *, num_resamples: int = NUM_RESAMPLES, num_bins: int = metrics.NUM_BINS, seed: int = 0
) -> dict[str, Difference] | None:
    """`one` less `other` in METRICS, on the clusters that both have, drawn together; None if they share none.

    With one cluster in common a difference has no interval: its ends are NaN.

    Raises:
      ValueError: see `metrics.check`.
    """
    shared = sorted(set(one.clusters) & set(other.clusters))
    if not shared:
        return None
    place = {name: number for number, name in enumerate(shared)}
    tables = []
    for scored in (one, other):
        kept = [i for i, name in enumerate(scored.clusters) if name in place]
        numbers = np.array([place[scored.clusters[i]] for i in kept])
        tables.append(_rows([scored.confidences[i] for i in kept], [scored.correct[i] for i in kept], numbers))
    once = np.ones((1, len(shared)), np.int64)
    point = np.subtract(*(_measure(rows, once, METRICS, num_bins)[:, 0] for rows in tables))
    draws = _draws(len(shared), max(len(rows.right) for rows in tables), num_resamples, seed)
    changes = [np.subtract(*(_measure(rows, weights, METRICS, num_bins) for rows in tables)) for weights in draws]
    ends = [_percentiles(values) if len(shared) > 1 else (math.nan, math.nan) for values in np.concatenate(changes, 1)]
    return {
        name: Difference(float(value), low, high) for name, value, (low, high) in zip(METRICS, point, ends, strict=True)
    }


def reference(
    name: str,
    confidences: ArrayLike,
    correct: ArrayLike,
    random: np.random.RandomState,
    *,
    num_resamples: int = NUM_RESAMPLES,
) -> Interval:
    """Returns the interval of "accuracy" or "ece" as published: rows drawn one by one, by a legacy generator.

    Reference: process_eval_results.py:ece_bootstrap, with the resampling of scipy at that time.

    Raises:
      ValueError: for "ece", fewer rows than the 20 equal-count bins.
    """
    confidence, right = np.asarray(confidences, np.float64), np.asarray(correct, np.float64)
    drawn = random.randint(0, len(right), (num_resamples, len(right)))
    if name == "accuracy":
        return _percentiles(right[drawn].mean(axis=1))
    errors = [metrics.ece(confidence[rows], right[rows], reference=True) for rows in drawn]
    return _percentiles(np.asarray(errors))
