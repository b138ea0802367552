"""One row of results: every metric of one method on one set of questions."""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Protocol, TypeVar

from numpy.typing import ArrayLike

from lc_jax.evaluation import intervals, metrics, selective, smooth
from lc_jax.evaluation.metrics import KindRow
from lc_jax.preflight import NothingJudged


class _HasStatus(Protocol):
    @property
    def status(self) -> str: ...
    @property
    def detail(self) -> str: ...


Judged = TypeVar("Judged", bound=_HasStatus)  # a record of any kind


@dataclasses.dataclass(frozen=True)
class Summary:
    """All numbers of one row of results.

    Intervals (_low, _high) are 95% percentile bootstrap; of an accuracy Wilson's where that says too little
    (`intervals.of_accuracy`). A number that is not defined is NaN, null in a file, and `undefined` says why.
    """

    num_questions: int
    accuracy: float  # mean verdict, where they are graded
    accuracy_low: float
    accuracy_high: float
    num_bins: int  # of all that is binned
    ece: float  # equal-count bins, ties together
    ece_low: float
    ece_high: float
    ece_noise_floor: float  # mean ECE of perfectly calibrated forecasters with these confidences
    ece_debiased: float  # without what noise adds to it
    ece_equal_width: float  # bins of equal width
    ece_smooth: float  # without bins
    ece_published: float  # as published, most confident remainder left out; NaN with fewer questions than bins
    max_error: float  # of a bin
    overconfidence: float  # mean confidence less accuracy; negative: underconfident
    overconfidence_low: float
    overconfidence_high: float
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
    auroc_within: float  # over pairs of answers of one kind; NaN where no kind has right and wrong ones
    aurc: float  # mean risk over coverages
    augrc: float  # mean share of all questions answered wrongly over coverages
    prr: float  # prediction-rejection ratio: 0 is random order, 1 an oracle; NaN where all verdicts are equal
    selective_accuracy_50: float  # accuracy of the most confident half
    selective_accuracy_80: float
    sharpness: float  # variance of the confidences
    num_confidence_values: int  # distinct percentages that at least MIN_SHARE of answers state
    collapsed: bool  # one percentage for (nearly) everything
    kind_correlation: float  # of mean confidence and accuracy over kinds; NaN with fewer than three, or all alike
    kinds: tuple[KindRow, ...]
    undefined: Mapping[str, str]  # the reason for each field above that is NaN
    notes: tuple[str, ...]  # why numbers are NaN or mean little


def _no_interval(num_clusters: int) -> str:
    return (
        "a single question or biography cannot be resampled"
        if num_clusters == 1
        else "every resample gives the same value"
    )


def _undefined(summary: Summary, num_clusters: int) -> dict[str, str]:
    """Returns the reason for each number that is NaN, by field."""
    equal = {0.0: "all answers are wrong", 1.0: "all answers are right"}.get(summary.accuracy)
    graded = "verdicts are graded"
    one_class = equal or graded
    few = "no question has a kind" if not summary.kinds else "fewer than three kinds of questions, or all alike"
    reasons = {
        "ece_published": f"fewer questions ({summary.num_questions}) than bins ({summary.num_bins})",
        "ece_noise_floor": graded,
        "auroc": one_class,
        "prr": equal or "all verdicts are equal",
        "auroc_within": (
            graded
            if math.isnan(summary.ece_noise_floor)
            else "no kind has right and wrong answers"
            if summary.kinds
            else "no question has a kind"
        ),
        "kind_correlation": few,
        **{f"{name}_{end}": _no_interval(num_clusters) for name in intervals.METRICS for end in ("low", "high")},
    }
    if math.isnan(summary.auroc):
        reasons |= {"auroc_low": one_class, "auroc_high": one_class}
    return {name: reason for name, reason in reasons.items() if math.isnan(getattr(summary, name))}


def _notes(summary: Summary) -> tuple[str, ...]:
    """Returns why numbers of a summary are NaN or mean little."""
    undefined = summary.undefined
    titles = {"ece": "ECE", "brier": "Brier", "auroc": "AUROC", "overconfidence": "overconfidence"}
    bare = [name for name in titles if f"{name}_low" in undefined and name not in undefined]
    if summary.collapsed and bare == ["auroc"]:  # of one confidence it is 1/2 whatever the answers
        bare = []
    reasons = {
        f"fewer questions ({summary.num_questions}) than bins ({summary.num_bins})": "ece_published" in undefined,
        "one confidence for (nearly) everything": summary.collapsed,
        f"no AUROC: {undefined.get('auroc')}": "auroc" in undefined,
        f"no interval for {', '.join(map(titles.__getitem__, bare))}: {undefined[f'{bare[0]}_low'] if bare else ''}": (
            bool(bare)
        ),
        f"no correlation over kinds: {undefined.get('kind_correlation')}": "kind_correlation" in undefined
        and bool(summary.kinds)
        and not summary.collapsed,
    }
    return tuple(reason for reason, holds in reasons.items() if holds)


def judged(records: Sequence[Judged], what: str, path: str, *, accept_failed: bool) -> list[Judged]:
    """Returns the records that count: those of status "ok".

    Args:
      what: the records are, in messages ("questions").
      path: of their file, for messages.

    Raises:
      ValueError: requests failed, which is not accepted.
      NothingJudged: nothing could be judged.
    """
    statuses = collections.Counter(str(record.status) for record in records)
    if statuses["failed"] and not accept_failed:
        detail = next(record.detail for record in records if record.status == "failed")
        raise ValueError(
            f"{statuses['failed']} of {len(records)} {what} failed, for example: {detail} Nothing is lost: "
            "run again to ask only for these, or leave them out with --config.accept_failed=true."
        )
    scored = [record for record in records if record.status == "ok"]
    if not scored:
        raise NothingJudged(f"None of the {what} could be judged ({dict(statuses)}); see {path}.")
    return scored


def summarize(
    confidences: ArrayLike,
    correct: ArrayLike,
    kinds: Sequence[str] | None = None,
    *,
    clusters: Sequence[str] | None = None,
    num_bins: int = metrics.NUM_BINS,
    seed: int = 0,
) -> Summary:
    """Computes all metrics of one method on one set of questions.

    Args:
      clusters: what each row belongs to, where rows are not independent (the claims of a biography).
      num_bins: of everything that is binned (40 for biographies, as published).
      seed: of the resampling.

    Raises:
      ValueError: see `metrics.check`.
    """
    confidence, right = metrics.check(confidences, correct)
    accuracy = float(right.mean())
    shares = metrics.confidence_shares(confidence)
    table = metrics.by_kind(confidence, right, kinds) if kinds is not None else ()
    parts = metrics.brier_parts(confidence, right, num_bins)
    num_clusters = len(right) if clusters is None else len(set(clusters))
    ends = intervals.bootstrap(confidence, right, clusters, num_bins=num_bins, seed=seed)
    of_accuracy = intervals.of_accuracy(accuracy, num_clusters, ends["accuracy"])
    ends = {name: (math.nan, math.nan) if low == high else (low, high) for name, (low, high) in ends.items()}
    ends["accuracy"] = of_accuracy
    lows_and_highs = {f"{name}_{end}": ends[name][i] for name in ends for i, end in enumerate(("low", "high"))}
    enough, is_graded = len(right) >= num_bins, right.dtype != bool
    curve = selective.risk_coverage(confidence, right)
    summary = Summary(
        num_questions=len(right),
        accuracy=accuracy,
        num_bins=num_bins,
        ece=metrics.ece(confidence, right, num_bins),
        ece_noise_floor=math.nan if is_graded else metrics.noise_floor(confidence, num_bins=num_bins, seed=seed),
        ece_debiased=metrics.debiased_ece(confidence, right, num_bins),
        ece_equal_width=metrics.ece(confidence, right, num_bins, equal_width=True),
        ece_smooth=smooth.smooth_ece(confidence, right),
        ece_published=metrics.ece(confidence, right, num_bins, reference=True) if enough else float("nan"),
        max_error=metrics.max_error(confidence, right, num_bins),
        overconfidence=metrics.overconfidence(confidence, right),
        brier=metrics.brier(confidence, right),
        brier_constant=parts.uncertainty,
        brier_reliability=parts.reliability,
        brier_resolution=parts.resolution,
        brier_within=parts.within,
        log_score=metrics.log_score(confidence, right),
        auroc=metrics.auroc(confidence, right),
        auroc_within=metrics.auroc_within(confidence, right, kinds or [""] * len(right)),
        aurc=curve.aurc,
        augrc=curve.augrc,
        prr=selective.prediction_rejection_ratio(confidence, right),
        selective_accuracy_50=curve.accuracy_at(0.5),
        selective_accuracy_80=curve.accuracy_at(0.8),
        sharpness=metrics.sharpness(confidence),
        num_confidence_values=sum(share >= metrics.MIN_SHARE for share in shares.values()),
        collapsed=max(shares.values()) > metrics.COLLAPSED_SHARE,
        kind_correlation=metrics.kind_correlation(table),
        kinds=table,
        undefined={},
        notes=(),
        **lows_and_highs,
    )
    summary = dataclasses.replace(summary, undefined=_undefined(summary, num_clusters))
    return dataclasses.replace(summary, notes=_notes(summary))
