"""Agreement of two evaluations of the same answers: verdicts of two judges; stated and intrinsic confidence."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from lc_jax.evaluation.results import Entry, Row


@dataclasses.dataclass(frozen=True)
class Verdicts:
    """Agreement of two judges on the same answers."""

    num_answers: int
    raw: float  # share of equal verdicts
    kappa: (
        float  # Cohen's: 0 is chance at these rates of right answers, 1 is equal; NaN if both give one verdict to all
    )


@dataclasses.dataclass(frozen=True)
class Faithfulness:
    """Gap between stated and intrinsic confidence over questions."""

    num_questions: int
    gap: float  # mean |stated - intrinsic|; 0 is faithful
    correlation: float  # Pearson's; NaN where one of the two is constant
    cmfg: float  # 1 - gap, averaged over equal-width bins of intrinsic confidence; 1 is faithful


def verdicts(first: ArrayLike, second: ArrayLike) -> Verdicts:
    """Computes the agreement of two judges.

    Raises:
      ValueError: no answers, or not two verdicts on each.
    """
    a, b = np.asarray(first, bool), np.asarray(second, bool)
    if a.shape != b.shape or a.ndim != 1 or not a.size:
        raise ValueError(f"{a.size} and {b.size} verdicts: give two on each answer, and at least one answer.")
    raw = float((a == b).mean())
    chance = float(a.mean() * b.mean() + (1 - a.mean()) * (1 - b.mean()))
    return Verdicts(len(a), raw, (raw - chance) / (1 - chance) if chance < 1 else math.nan)


def faithfulness(confidences: ArrayLike, intrinsic: ArrayLike, num_bins: int = 10) -> Faithfulness:
    """Computes how faithfully stated confidences express intrinsic ones (Yona et al. 2024).

    The conditional mean faithful generation (cMFG) averages over the bins of intrinsic confidence that hold questions,
    so that it does not reward a constant where most intrinsic confidences are alike: where they fill all bins, a
    constant 1/2 has 3/4, and a constant 1 has 1/2.

    Raises:
      ValueError: no questions, not two confidences for each, or one outside [0, 1].
    """
    says, has = np.asarray(confidences, np.float64), np.asarray(intrinsic, np.float64)
    if says.shape != has.shape or says.ndim != 1 or not says.size:
        raise ValueError(
            f"{says.size} and {has.size} confidences: give two for each question, and at least one question."
        )
    if not all(((values >= 0) & (values <= 1)).all() for values in (says, has)):
        raise ValueError("a confidence is not in [0, 1].")
    gaps = np.abs(says - has)
    bins = np.minimum((has * num_bins).astype(int), num_bins - 1)
    sums, counts = np.bincount(bins, gaps), np.bincount(bins)
    constant = min(np.ptp(says), np.ptp(has)) < 1e-9
    correlation = math.nan if constant else float(np.corrcoef(says, has)[0, 1])
    return Faithfulness(
        len(gaps), float(gaps.mean()), correlation, 1 - float((sums[counts > 0] / counts[counts > 0]).mean())
    )


def _pairs(one: Entry, other: Entry) -> list[tuple[Row, Row]]:
    """Returns the judged records of both, by question_id."""
    rows = {row["question_id"]: row for row in other.records if row["status"] == "ok" and row.get("question_id")}
    return [
        (row, rows[row["question_id"]])
        for row in one.records
        if row["status"] == "ok" and row.get("question_id") in rows
    ]


def method_name(entry: Entry) -> str:
    """Returns the name of the method without that of the judge, which a report adds where judges differ."""
    return entry.method.removesuffix(f" (judge {entry.result['judge']})")


def judge_notes(group: Sequence[Entry]) -> list[str]:
    """Returns a sentence for every two evaluations of one method and seed by different judges, on equal answers."""
    notes = []
    for one, other in itertools.combinations(group, 2):
        judges = [str(entry.result["judge"]) for entry in (one, other)]
        names = [method_name(entry) for entry in (one, other)]
        if judges[0] == judges[1] or names[0] != names[1] or one.result["seed"] != other.result["seed"]:
            continue
        equal = [(a["correct"], b["correct"]) for a, b in _pairs(one, other) if a.get("chosen") == b.get("chosen")]
        if equal:
            result = verdicts([first for first, _ in equal], [second for _, second in equal])
            notes.append(
                f"{names[0]}: {judges[0]} and {judges[1]} give {result.raw:.1%} of {result.num_answers:,} equal "
                f"answers the same verdict, Cohen's kappa {result.kappa:.2f}"
            )
    return notes


def intrinsic_notes(group: Sequence[Entry], intrinsic: str) -> list[str]:
    """Returns a sentence on each method: how far its confidences are from those of the method `intrinsic`.

    Evaluations are compared with that of their own seed where there is one; "" gives none.
    """
    bases = [entry for entry in group if method_name(entry) == intrinsic]
    notes = []
    for entry in group if bases else ():
        if method_name(entry) == intrinsic:
            continue
        base = next((other for other in bases if other.result["seed"] == entry.result["seed"]), bases[0])
        pairs = [(one["confidence"], other["confidence"]) for one, other in _pairs(entry, base)]
        if pairs:
            result = faithfulness([verbal for verbal, _ in pairs], [own for _, own in pairs])
            notes.append(
                f"{entry.method}, seed {entry.result['seed']}: stated confidence differs from that of {intrinsic!r} by "
                f"{result.gap:.3f} on average, correlation {result.correlation:.2f}, cMFG {result.cmfg:.3f} "
                f"(n = {result.num_questions:,})"
            )
    return notes
