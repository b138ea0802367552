"""The two figures of an evaluation: accuracy against calibration error, and a reliability diagram for each method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lc_jax.evaluation import metrics

# Okabe and Ito, told apart by colour-blind eyes; with the markers, also in black and white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "D", "^", "v", "P", "X", "<", ">")
STYLE = {"font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": 11}
LABEL_GAP = 15  # least distance of two labels, in pixels per 100 dpi


def _pyplot() -> Any:
    import matplotlib  # slow to import, and of no use to those who only compute

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def _save(plt: Any, figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _look(index: int) -> tuple[str, str]:
    """Colour and marker of the index-th method."""
    return COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]


def _spread(heights: Sequence[float], gap: float) -> np.ndarray:
    """Heights as near to the given ones as may be, in their order, with neighbours at least `gap` apart.

    Neighbours that are too close become a block around their mean; blocks that then overlap are joined.
    """
    order = np.argsort(heights, kind="stable")
    blocks: list[list[int]] = []
    for index in order:
        blocks.append([int(index)])
        while len(blocks) > 1:
            below, above = blocks[-2:]
            centres = [np.mean([heights[i] for i in block]) for block in (below, above)]
            if centres[1] - centres[0] >= gap * (len(below) + len(above)) / 2:
                break
            blocks[-2:] = [below + above]
    moved = np.empty(len(heights))
    for block in blocks:
        moved[block] = np.mean([heights[i] for i in block]) + gap * (np.arange(len(block)) - (len(block) - 1) / 2)
    return moved


def _label(axes: Any, points: Sequence[tuple[float, float]], names: Sequence[str]) -> None:
    """A name in its colour to the right of each point, moved up or down where names would overlap."""
    from matplotlib import patheffects

    axes.figure.canvas.draw()  # fixes the layout, which the pixels depend on
    pixels = axes.transData.transform(points)
    heights = _spread(pixels[:, 1], LABEL_GAP * axes.figure.dpi / 100)
    halo = [patheffects.withStroke(linewidth=3, foreground="white")]
    for i, (height, name) in enumerate(zip(heights, names, strict=True)):
        offset = (height - pixels[i, 1]) * 72 / axes.figure.dpi
        axes.annotate(
            name, points[i], xytext=(7, offset), textcoords="offset points", va="center", color=_look(i)[0],
            path_effects=halo, annotation_clip=False,
        )  # fmt: skip


def accuracy_against_ece(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """One point a row of results with its 95 % intervals, in the colour of its method; the best corner is top left.

    Args:
      rows: the fields of metrics.Summary and the method's name; a method may stand in several rows (seeds).
      path: the PNG to write.
    """
    plt = _pyplot()
    methods = list(dict.fromkeys(row["method"] for row in rows))
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(7, 4.5))
        figure.subplots_adjust(right=0.72, bottom=0.13, left=0.1, top=0.95)
        for row in rows:
            colour, marker = _look(methods.index(row["method"]))
            bars = {}
            for bar, name in (("xerr", "ece"), ("yerr", "accuracy")):
                # Near its noise floor an ECE may lie below its own interval: that side has no bar.
                bars[bar] = np.maximum([[row[name] - row[f"{name}_low"]], [row[f"{name}_high"] - row[name]]], 0)
            axes.errorbar(row["ece"], row["accuracy"], **bars, fmt=marker, color=colour, markersize=6, linewidth=1)
        ends = [[(row["ece_high"], row["accuracy"]) for row in rows if row["method"] == m] for m in methods]
        axes.set(xlabel="expected calibration error (less is better)", ylabel="accuracy (more is better)")
        axes.set_xlim(left=0)
        axes.grid(color="0.92", linewidth=0.8)
        axes.set_axisbelow(True)
        _label(axes, [max(points) for points in ends], methods)
        _save(plt, figure, path)


def reliability(records: Mapping[str, Sequence[Mapping[str, Any]]], path: Path, num_bins: int = 10) -> None:
    """For each method accuracy against stated confidence, above how many answers state it.

    The further below the diagonal, the more overconfident. Bars are plus and minus one standard error.

    Args:
      records: by method, the fields of qa.Record; those whose status is not "ok" are left out.
      path: the PNG to write.
    """
    plt = _pyplot()
    size = (2.7 * len(records) + 0.7, 4)
    with plt.rc_context(STYLE):
        figure, grid = plt.subplots(
            2, len(records), figsize=size, height_ratios=(3, 1), sharex=True, layout="constrained", squeeze=False
        )  # fmt: skip
        for i, (method, rows) in enumerate(records.items()):
            (colour, marker), (above, below) = _look(i), grid[:, i]
            above.plot([0, 1], [0, 1], color="0.7", linewidth=1)
            above.set(xlim=(-0.04, 1.04), ylim=(-0.04, 1.04), xticks=(0, 0.5, 1), yticks=(0, 0.25, 0.5, 0.75, 1))
            above.tick_params(labelleft=i == 0)
            below.locator_params(axis="y", nbins=2, integer=True)
            above.set_title(method, color=colour)
            below.set_xlabel("stated confidence")
            scored = [(row["confidence"], row["correct"]) for row in rows if row["status"] == "ok"]
            if not scored:
                above.text(0.5, 0.5, "nothing judged", ha="center")
                continue
            confidence, right = np.array(scored, np.float64).T
            bins = metrics.reliability(confidence, right, num_bins)
            error = np.sqrt(bins.accuracies * (1 - bins.accuracies) / bins.counts)
            above.errorbar(
                bins.confidences, bins.accuracies, error, fmt=f"{marker}-", color=colour, markersize=5, linewidth=1.2
            )
            ece = metrics.ece(confidence, right)
            above.text(0.02, 0.98, f"ECE {ece:.3f}\nn = {len(right):,}", va="top", fontsize=9, color="0.3")
            below.hist(confidence, bins=np.linspace(-0.025, 1.025, 22).tolist(), color=colour)
        grid[0, 0].set_ylabel("accuracy")
        grid[1, 0].set_ylabel("answers")
        _save(plt, figure, path)
