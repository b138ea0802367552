"""Smooth calibration error (Blasiok and Nakkiran 2023), which needs neither bins nor a bandwidth."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from lc_jax.evaluation import metrics

GRID = 1000  # cells of [0, 1]
TOLERANCE = 1e-3  # of the bandwidth


def _smooth(gaps: Float[np.ndarray, " G"], bandwidth: float) -> Float[np.ndarray, " G"]:
    """Smooths `gaps` with a Gaussian kernel of standard deviation `bandwidth`, reflected at 0 and 1."""
    reach = min(GRID - 1, int(np.ceil(5 * bandwidth * GRID)))
    offsets = np.arange(-reach, reach + 1) / GRID
    kernel = np.exp(-((offsets / bandwidth) ** 2) / 2)
    padded = np.concatenate([gaps[:reach][::-1], gaps, gaps[len(gaps) - reach :][::-1]])
    return np.convolve(padded, kernel / kernel.sum(), mode="valid")


def smooth_ece(confidences: ArrayLike, correct: ArrayLike) -> float:
    """Computes the smoothed gap of outcome and confidence at the bandwidth that equals it; in [0, 1].

    Reflections beyond the first are left out, which matters only for bandwidths, and so errors, near 1.

    Raises:
      ValueError: see `metrics.check`.
    """
    table = metrics.tally(confidences, correct)
    cells = np.minimum((table.values * GRID).astype(int), GRID - 1)
    gaps = np.bincount(cells, table.num_correct - table.values * table.counts, minlength=GRID) / table.total
    low, high = TOLERANCE, 1.0
    while high - low > TOLERANCE / 4:
        middle = (low + high) / 2
        if np.abs(_smooth(gaps, middle)).sum() < middle:
            high = middle
        else:
            low = middle
    return float(np.abs(_smooth(gaps, high)).sum())
