"""Accuracy, Brier score, ECE (ten equal-width bins) and AUROC of 15 result cells that another project published."""

import json

import numpy as np
import pytest

from lc_jax.evaluation import metrics
from tests.recorded import GOLDEN

CELLS = json.loads((GOLDEN / "calibration" / "rlcr.json").read_text())


@pytest.mark.parametrize("name", CELLS)
def test_the_published_numbers_follow_from_the_published_answers(name):
    expected = CELLS[name]
    with np.load(GOLDEN / "calibration" / "rlcr.npz") as arrays:
        confidence, correct = arrays[f"{name}_confidence"], arrays[f"{name}_correct"]
    assert len(confidence) == expected["usable"]
    found = {
        "accuracy": correct.mean(),
        "brier_score": metrics.brier(confidence, correct),
        "ece": metrics.ece(confidence, correct, 10, equal_width=True),
        "auroc": metrics.auroc(confidence, correct),
    }
    for metric, value in found.items():
        assert value == pytest.approx(expected[metric], abs=1e-9), metric
