"""Selective answering: how wrong is a method that gives only its most confident answers?

Risk is the mean of 1 less the verdict, so that graded verdicts need no other formulas. Equal confidences are in random
order: every number is the expectation over orders, which is linear between the coverages of `RiskCoverage`.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from lc_jax.evaluation import metrics


@dataclasses.dataclass(frozen=True)
class RiskCoverage:
    """Error rate as a function of coverage, if only the most confident questions are answered."""

    coverages: Float[np.ndarray, " V"]  # shares of questions answered, ascending
    risks: Float[np.ndarray, " V"]  # share of wrong answers among them
    aurc: float  # mean risk over all numbers of answers, equal confidences in random order; less is better

    def accuracy_at(self, coverage: float) -> float:
        """Returns the expected share of right answers among the share `coverage` of most confident ones.

        Raises:
          ValueError: `coverage` is not in (0, 1].
        """
        if not 0 < coverage <= 1:
            raise ValueError(f"coverage {coverage} is not in (0, 1].")
        wrong = np.interp(coverage, [0, *self.coverages], [0, *(self.coverages * self.risks)])
        return float(1 - wrong / coverage)

    @property
    def augrc(self) -> float:
        """Area under coverage x risk, the share of all questions that are answered wrongly (Traub et al. 2024).

        It is (1 - AUROC) a (1 - a) + (1 - a)^2 / 2 for accuracy a. Unlike AURC, it does not weigh the errors of the
        most confident answers by 1 / rank. Less is better.
        """
        return float(np.trapezoid([0, *(self.coverages * self.risks)], [0, *self.coverages]))


def risk_coverage(confidences: ArrayLike, correct: ArrayLike) -> RiskCoverage:
    """Computes risk against coverage, most confident first, and its area. Raises ValueError: see `metrics.check`."""
    table = metrics.tally(confidences, correct)
    counts, num_incorrect = table.counts[::-1], (table.counts - table.num_correct)[::-1]
    num_answered, num_wrong = np.cumsum(counts), np.cumsum(num_incorrect)
    rank = np.arange(1, table.total + 1)
    group = np.repeat(np.arange(len(counts)), counts)
    # Expected number of incorrect answers among the first `rank`, with equal confidences in random order.
    wrong_before, answered_before = num_wrong - num_incorrect, num_answered - counts
    expected = wrong_before[group] + (rank - answered_before[group]) * (num_incorrect / counts)[group]
    return RiskCoverage(num_answered / table.total, num_wrong / num_answered, float((expected / rank).mean()))


def prediction_rejection_ratio(confidences: ArrayLike, correct: ArrayLike) -> float:
    """Computes how much of the AURC that an oracle saves over random order the confidences save (Malinin et al. 2021).

    1 is an oracle, which rejects wrong answers first; 0 is random order; below 0 confidence misleads. All coverages
    count, as in LM-Polygraph. NaN where all verdicts are equal. Raises ValueError: see `metrics.check`.
    """
    _, verdict = metrics.check(confidences, correct)
    random = 1 - float(np.mean(verdict))
    oracle = risk_coverage(verdict, verdict).aurc
    return (random - risk_coverage(confidences, correct).aurc) / (random - oracle) if random != oracle else math.nan
