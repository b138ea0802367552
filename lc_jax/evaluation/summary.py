"""One row of results: every metric of one method on one set of questions."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from lc_jax.evaluation import intervals, metrics, smooth
from lc_jax.evaluation.metrics import KindRow


@dataclasses.dataclass(frozen=True)
class Summary:
    """Everything that one row of results says. Intervals (_low, _high) are 95 % percentile bootstrap."""

    num_questions: int
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    ece: float  # 20 equal-count bins, ties together
    ece_low: float
    ece_high: float
    ece_noise_floor: float  # mean ECE of perfectly calibrated forecasters with these confidences
    ece_debiased: float  # without what noise adds to it
    ece_equal_width: float  # 20 bins of equal width
    ece_smooth: float  # without bins
    ece_published: float  # as published, most confident remainder left out; NaN with fewer questions than bins
    max_error: float  # of a bin
    brier: float
    brier_low: float
    brier_high: float
    brier_constant: float  # of always stating the accuracy: the best that a collapsed forecaster can reach
    brier_reliability: float  # Brier = reliability - resolution + uncertainty (brier_constant) + within
    brier_resolution: float
    brier_within: float
    log_score: float  # mean log probability of what happened, in nats; 0 is perfect
    auroc: float  # NaN when all answers are right or all are wrong
    auroc_low: float
    auroc_high: float
    aurc: float  # mean risk over coverages
    sharpness: float  # variance of the confidences
    num_confidence_values: int  # distinct percentages that at least MIN_SHARE of answers state
    collapsed: bool  # one percentage for (nearly) everything
    kind_correlation: float  # of mean confidence and accuracy over kinds; NaN with fewer than three, or all alike
    kinds: tuple[KindRow, ...]
    notes: tuple[str, ...]  # why a number is NaN or means little


def _notes(summary: Summary) -> tuple[str, ...]:
    """Why numbers of a summary are NaN or mean little."""
    reasons = {
        f"fewer questions ({summary.num_questions}) than bins ({metrics.NUM_BINS})": (
            summary.num_questions < metrics.NUM_BINS
        ),
        "one confidence for (nearly) everything": summary.collapsed,
        "no AUROC: all answers are right": summary.accuracy == 1,
        "no AUROC: all answers are wrong": summary.accuracy == 0,
        "no correlation over kinds: fewer than three, or all alike": bool(summary.kinds)
        and not summary.collapsed
        and np.isnan(summary.kind_correlation),
    }
    return tuple(reason for reason, holds in reasons.items() if holds)


def summarize(
    confidences: ArrayLike,
    correct: ArrayLike,
    kinds: Sequence[str] | None = None,
    *,
    clusters: Sequence[str] | None = None,
    seed: int = 0,
) -> Summary:
    """All metrics of one method on one set of questions.

    Args:
      clusters: what each row belongs to, where rows are not independent (the claims of a biography).
      seed: of the resampling.

    Raises:
      ValueError: see `metrics.check`.
    """
    confidence, right = metrics.check(confidences, correct)
    accuracy = float(right.mean())
    shares = metrics.confidence_shares(confidence)
    table = metrics.by_kind(confidence, right, kinds) if kinds is not None else ()
    parts = metrics.brier_parts(confidence, right)
    ends = intervals.bootstrap(confidence, right, clusters, seed=seed)
    lows_and_highs = {f"{name}_{end}": ends[name][i] for name in ends for i, end in enumerate(("low", "high"))}
    enough = len(right) >= metrics.NUM_BINS
    summary = Summary(
        num_questions=len(right),
        accuracy=accuracy,
        ece=metrics.ece(confidence, right),
        ece_noise_floor=metrics.noise_floor(confidence, seed=seed),
        ece_debiased=metrics.debiased_ece(confidence, right),
        ece_equal_width=metrics.ece(confidence, right, equal_width=True),
        ece_smooth=smooth.smooth_ece(confidence, right),
        ece_published=metrics.ece(confidence, right, reference=True) if enough else float("nan"),
        max_error=metrics.max_error(confidence, right),
        brier=metrics.brier(confidence, right),
        brier_constant=parts.uncertainty,
        brier_reliability=parts.reliability,
        brier_resolution=parts.resolution,
        brier_within=parts.within,
        log_score=metrics.log_score(confidence, right),
        auroc=metrics.auroc(confidence, right),
        aurc=metrics.risk_coverage(confidence, right).aurc,
        sharpness=metrics.sharpness(confidence),
        num_confidence_values=sum(share >= metrics.MIN_SHARE for share in shares.values()),
        collapsed=max(shares.values()) > metrics.COLLAPSED_SHARE,
        kind_correlation=metrics.kind_correlation(table),
        kinds=table,
        notes=(),
        **lows_and_highs,
    )
    return dataclasses.replace(summary, notes=_notes(summary))
