"""Accuracy, Brier score, ECE (ten equal-width bins) and AUROC of 15 result cells that another project published."""

import dataclasses
import json

import numpy as np
import pytest

from lc_jax.data import jsonl
from lc_jax.evaluation import metrics, report, summary, table
from lc_jax.evaluation.results import Entry
from tests.recorded import GOLDEN

CELLS = json.loads((GOLDEN / "calibration" / "rlcr.json").read_text())


@pytest.mark.parametrize("name", CELLS)
def test_the_published_numbers_follow_from_the_published_answers(name):
    expected = CELLS[name]
    with np.load(GOLDEN / "calibration" / "rlcr.npz") as arrays:
        confidence, correct = arrays[f"{name}_confidence"], arrays[f"{name}_correct"]
    assert len(confidence) == expected["usable"]
    values = {
        "accuracy": correct.mean(),
        "brier_score": metrics.brier(confidence, correct),
        "ece": metrics.ece(confidence, correct, 10, equal_width=True),
        "auroc": metrics.auroc(confidence, correct),
    }
    for metric, value in values.items():
        assert value == pytest.approx(expected[metric], abs=1e-9), metric


def test_the_report_shows_what_ten_bins_of_equal_width_hide():
    """Two published cells: an ECE of .004 is .020 debiased, and the trained model is underconfident out of domain."""
    entries = []
    with np.load(GOLDEN / "calibration" / "rlcr.npz") as arrays:
        for name in ("commonsenseqa_0", "commonsenseqa_4"):
            confidence, correct = arrays[f"{name}_confidence"], arrays[f"{name}_correct"]
            row = {"method": name, "data": "CommonsenseQA", "judge": "none", "seed": 0}
            row |= dataclasses.asdict(summary.summarize(confidence, correct))
            entries.append(Entry(json.loads(jsonl.dumps(row)), []))
    assert [round(CELLS[entry.method]["ece"], 3) for entry in entries] == [0.004, 0.302]
    page, text = report.page(entries, {}), table.render([entry.result for entry in entries])
    for text_ in ("0.020", "-0.302"):
        assert text_ in text
        assert f"<span>{text_}" in page
    header, _, *lines = [[cell.strip() for cell in row.strip("| ").split(" | ")] for row in text.splitlines()[:4]]
    rows = [dict(zip(header, line, strict=True)) for line in lines]
    assert [(row["debiased ECE"], row["over"]) for row in rows] == [("0.020", "-0.004"), ("0.302", "-0.302")]
