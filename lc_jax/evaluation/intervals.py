"""95% intervals: Wilson's, and percentile bootstrap of one method and of the difference of two (paper section 6).

Clusters are resampled: questions, or biographies with all their claims. All resamples of a chunk are computed at once,
from the counts of every confidence. For few answers, or answers that are all correct or all incorrect, a bootstrap is
too narrow (at worst of width 0), so the interval of an accuracy is Wilson's there.
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
METRICS = ("accuracy", "ece", "brier", "auroc", "overconfidence")  # metrics with intervals
_CHUNK = 4_000_000  # array elements of one chunk of resamples
_ENDS = (2.5, 97.5)  # per cent
_Z = 1.959963984540054  # the 97.5% quantile of the normal distribution, squared in Wilson's formula
SMALL = 30  # clusters: with fewer, the interval of an accuracy is Wilson's

Interval = tuple[float, float]  # (low, high)


@dataclasses.dataclass(frozen=True)
class Difference:
    """Difference of two methods in a metric on the same questions, with its interval."""

    difference: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class _Rows:
    """Rows sorted by confidence, verdict and cluster, so that results do not depend on their order."""

    values: Float[np.ndarray, " V"]  # distinct confidences, ascending
    starts: Int[np.ndarray, " V"]  # first row of each
    right: Bool[np.ndarray, " N"] | Float[np.ndarray, " N"]  # float: graded
    cluster: Int[np.ndarray, " N"]  # number of the cluster

    @functools.cached_property
    def table(self) -> Float[np.ndarray, "C V+V"]:
        """Each cluster's counts of rows, then of correct rows, by confidence."""
        value = np.repeat(np.arange(len(self.values)), np.diff(self.starts, append=len(self.right)))
        table = np.zeros((self.cluster.max() + 1, 2 * len(self.values)))
        np.add.at(table, (self.cluster, value), 1)
        np.add.at(table, (self.cluster, len(self.values) + value), self.right)
        return table

    @functools.cached_property
    def ambiguity(self) -> Float[np.ndarray, " C"]:
        """Each cluster's sum of y (1 - y) over its verdicts y; 0 unless they are graded."""
        label = self.right.astype(np.float64)
        return np.bincount(self.cluster, label * (1 - label))

    def tallies(self, weights: Int[np.ndarray, "B C"]) -> tuple[Int[np.ndarray, "B V"], Float[np.ndarray, "B V"]]:
        """Returns the numbers of rows and of correct rows by confidence if cluster c is drawn weights[c] times."""
        if len(self.values) * weights.shape[1] < len(self.right):  # many rows a cluster: a matrix product, exact too
            counts, num_correct = np.split(weights @ self.table, 2, axis=1)
            return counts.astype(np.int64), num_correct
        counts = weights[:, self.cluster]
        return np.add.reduceat(counts, self.starts, axis=1), np.add.reduceat(counts * self.right, self.starts, axis=1)


def _rows(confidences: ArrayLike, correct: ArrayLike, clusters: Int[np.ndarray, " N"] | None) -> _Rows:
    confidence, right = metrics.check(confidences, correct)
    order = np.lexsort((right, confidence) if clusters is None else (clusters, right, confidence))
    values, starts = np.unique(confidence[order], return_index=True)
    return _Rows(values, starts, right[order], np.arange(len(order)) if clusters is None else clusters[order])


def _draws(num_clusters: int, width: int, num_resamples: int, seed: int) -> Iterator[Int[np.ndarray, "B C"]]:
    """Yields the number of draws of each cluster, in chunks of resamples whose largest array has `width` columns."""
    rng = np.random.default_rng(seed)
    step = max(1, _CHUNK // max(num_clusters, width))
    for start in range(0, num_resamples, step):
        batch = min(step, num_resamples - start)
        indices = rng.integers(0, num_clusters, (batch, num_clusters))
        indices += num_clusters * np.arange(batch)[:, None]
        yield np.bincount(indices.ravel(), minlength=batch * num_clusters).reshape(batch, num_clusters)


def _measure(
    rows: _Rows, weights: Int[np.ndarray, "B C"], names: Sequence[str], num_bins: int
) -> Float[np.ndarray, "M B"]:
    """Computes the metrics `names` of every resample; NaN where one is undefined."""
    counts, num_correct = rows.tallies(weights)
    total, right = counts.sum(axis=1), num_correct.sum(axis=1)
    values = []
    with np.errstate(invalid="ignore", divide="ignore"):
        for name in names:
            if name == "accuracy":
                values.append(right / total)
            elif name == "ece":
                values.append(metrics.batched_ece(rows.values, counts, num_correct, num_bins))
            elif name == "brier":
                squares = num_correct * (1 - rows.values) ** 2 + (counts - num_correct) * rows.values**2
                values.append((squares.sum(axis=1) - weights @ rows.ambiguity) / total)
            elif name == "overconfidence":
                values.append((counts @ rows.values - right) / total)
            elif rows.ambiguity.any():
                values.append(np.full(len(total), np.nan))  # no AUROC of graded verdicts
            else:
                num_incorrect = counts - num_correct
                twice = num_correct * (2 * np.cumsum(num_incorrect, axis=1) - num_incorrect)
                values.append(twice.sum(axis=1) / (2 * right * (total - right)))
    return np.stack(values)


def _number_clusters(clusters: Sequence[str], num_rows: int) -> tuple[list[str], Int[np.ndarray, " N"]]:
    if len(clusters) != num_rows:
        raise ValueError(f"{len(clusters)} clusters for {num_rows} rows: give one per row.")
    names, numbers = np.unique(np.asarray(clusters, str), return_inverse=True)
    return names.tolist(), numbers


def _percentiles(values: Float[np.ndarray, " B"]) -> Interval:
    """Returns the interval of resampled values; NaN if all are NaN (AUROC, if all answers are correct)."""
    finite = values[~np.isnan(values)]
    low, high = np.percentile(finite, _ENDS) if len(finite) else (np.nan, np.nan)
    return float(low), float(high)


def wilson(successes: float, total: float) -> Interval:
    """Computes Wilson's 95% score interval for a proportion: valid for one trial too, and never outside [0, 1].

    Args:
      successes: out of `total`; fractional if trials are clusters, with `successes / total` the mean over clusters.

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
    """Returns the interval of an accuracy: `resampled`, or Wilson's for few clusters or if all resamples agree.

    Rows of a cluster count as one trial, as if fully correlated, which is conservative.
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
    """Computes percentile bootstrap intervals of the metrics `names`.

    A resample is noisier than the data, so near the noise floor an interval may be above the ECE itself.

    Args:
      clusters: the cluster of each row (a biography); None: every row is a cluster.

    Raises:
      ValueError: see `metrics.check`; or not one cluster per row.
    """
    numbers, num_clusters = None, len(np.atleast_1d(confidences))
    if clusters is not None:
        cluster_names, numbers = _number_clusters(clusters, num_clusters)
        num_clusters = len(cluster_names)
    rows = _rows(confidences, correct, numbers)
    draws = _draws(num_clusters, len(rows.right), num_resamples, seed)
    values = np.concatenate([_measure(rows, weights, names, num_bins) for weights in draws], axis=1)
    return {name: _percentiles(row) for name, row in zip(names, values, strict=True)}


@dataclasses.dataclass(frozen=True)
class Scored:
    """Judged rows of one method."""

    confidences: Sequence[float]
    correct: Sequence[bool]
    clusters: Sequence[str]  # question or biography of each row


def paired(
    one: Scored, other: Scored, *, num_resamples: int = NUM_RESAMPLES, num_bins: int = metrics.NUM_BINS, seed: int = 0
) -> dict[str, Difference] | None:
    """Computes `one` less `other` in METRICS by a paired bootstrap over shared clusters; None if there are none.

    With one shared cluster a difference has no interval: its ends are NaN.

    Raises:
      ValueError: see `metrics.check`.
    """
    shared = sorted(set(one.clusters) & set(other.clusters))
    if not shared:
        return None
    index = {name: number for number, name in enumerate(shared)}
    tables = []
    for scored in (one, other):
        rows = [i for i, name in enumerate(scored.clusters) if name in index]
        numbers = np.array([index[scored.clusters[i]] for i in rows])
        tables.append(_rows([scored.confidences[i] for i in rows], [scored.correct[i] for i in rows], numbers))
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
    """Computes the interval of "accuracy" or "ece" as published: rows are drawn one by one by a legacy generator.

    Reference: process_eval_results.py:ece_bootstrap, with the resampling of scipy at that time.

    Raises:
      ValueError: for "ece", fewer rows than the 20 equal-count bins.
    """
    confidence, right = np.asarray(confidences, np.float64), np.asarray(correct, np.float64)
    samples = random.randint(0, len(right), (num_resamples, len(right)))
    if name == "accuracy":
        return _percentiles(right[samples].mean(axis=1))
    errors = [metrics.ece(confidence[rows], right[rows], reference=True) for rows in samples]
    return _percentiles(np.asarray(errors))
