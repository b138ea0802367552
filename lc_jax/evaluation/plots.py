"""The two figures of an evaluation: accuracy against calibration error, and a reliability diagram for each method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lc_jax.evaluation.metrics import equal_count_bins

COLOURS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
)  # Okabe and Ito: safe for colour-blind eyes


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams.update({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False})
    return plt


def accuracy_against_ece(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """One point a method with its 95 % intervals; up and to the left is better. Takes rows of results.json."""
    plt = _pyplot()
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for row, colour in zip(rows, COLOURS * len(rows), strict=False):
        x, y = row["ece"], row["accuracy"]
        spans = [
            [[value - row[f"{name}_low"]], [row[f"{name}_high"] - value]]
            for name, value in (("ece", x), ("accuracy", y))
        ]
        axes.errorbar(x, y, xerr=np.abs(spans[0]), yerr=np.abs(spans[1]), fmt="o", color=colour, capsize=2)
        axes.annotate(row["method"], (x, y), xytext=(6, 6), textcoords="offset points", color=colour)
    axes.set(xlabel="expected calibration error (lower is better)", ylabel="accuracy")
    axes.margins(0.25)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def reliability(records: Mapping[str, Sequence[Mapping[str, Any]]], path: Path, num_bins: int = 10) -> None:
    """Accuracy against stated confidence for each method, over counts of confidences. Takes records.jsonl by method."""
    plt = _pyplot()
    figure, grid = plt.subplots(
        2, len(records), figsize=(2.6 * len(records) + 0.6, 3.8), height_ratios=(3, 1), sharex=True, squeeze=False,
        layout="constrained",
    )  # fmt: skip
    for column, (method, rows) in enumerate(records.items()):
        colour, scored = COLOURS[column % len(COLOURS)], [r for r in rows if r["status"] == "ok"]
        confidence = np.array([r["confidence"] for r in scored])
        right = np.array([r["correct"] for r in scored], float)
        bins = equal_count_bins(confidence, num_bins)
        points = np.array([(confidence[bins == b].mean(), right[bins == b].mean()) for b in np.unique(bins)])
        above, below = grid[:, column]
        above.plot([0, 1], [0, 1], color="0.7", linewidth=1)
        above.plot(*points.T, "o-", color=colour, markersize=4)
        above.set(title=method, ylim=(0, 1), xlim=(0, 1))
        below.hist(confidence, bins=20, range=(0, 1), color=colour)
        below.set(xlabel="stated confidence")
    grid[0, 0].set_ylabel("accuracy")
    grid[1, 0].set_ylabel("answers")
    figure.savefig(path, dpi=150)
    plt.close(figure)
