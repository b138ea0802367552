"""Simulated forecasters, whose calibration is known."""

import numpy as np


def forecaster(n, *, lift=0.0, seed=0):
    """Confidences in tens whose true chance of being right is `lift` lower."""
    rng = np.random.default_rng(seed)
    confidence = rng.integers(3, 11, n) / 10
    return confidence, rng.random(n) < confidence - lift
