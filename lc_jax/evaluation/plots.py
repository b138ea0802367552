"""Figures of an evaluation: accuracy against calibration error, reliability with counts, risk against coverage."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lc_jax.evaluation import metrics, selective
from lc_jax.evaluation.intervals import wilson
from lc_jax.evaluation.published import Published
from lc_jax.evaluation.results import number

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito, told apart by colour-blind eyes; with the markers, also in black and white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "D", "^", "v", "P", "X", "<", ">")
STYLE = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11,
    "text.parse_math": False,  # a dollar sign in a method's name is one
}
ERRORS = {"ece": "expected calibration error", "brier": "Brier score"}
MAX_NAME = 40  # letters of a method's name in a figure
MAX_INSIDE = 8  # methods in a legend among the curves
MAX_COLUMNS = 4  # methods side by side
LABEL_GAP = 13  # least distance of two labels, in pixels per 100 dpi
GREY = "0.45"  # of what others measured

Records = Mapping[str, Sequence[Mapping[str, Any]]]  # by method, the fields of qa.Record


def _figure(width: float, height: float, **options: Any) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # slow to import, of no use to those who only compute
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), **options)
    FigureCanvasAgg(figure)
    return figure


@contextlib.contextmanager
def _styled() -> Iterator[None]:
    import matplotlib

    style: Any = STYLE
    with matplotlib.rc_context(style), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # letters that the font lacks become boxes
        warnings.filterwarnings("ignore", message="Matplotlib currently does not support")  # some scripts' ligatures
        yield


def _short(name: str) -> str:
    """Returns a method's name on one line; a leading "_", which would hide it from a legend, comes after a space."""
    name = " ".join(name.split())
    name = name if len(name) <= MAX_NAME else name[: MAX_NAME - 1] + "…"
    return f" {name}" if name.startswith("_") else name


def save(figure: Figure, stem: Path) -> None:
    """Writes `stem`.png and `stem`.pdf."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    with _styled():
        for suffix in ("png", "pdf"):
            figure.savefig(stem.with_name(f"{stem.name}.{suffix}"), dpi=150)


def svg(figure: Figure) -> bytes:
    """Returns the figure as SVG, with its letters as shapes."""
    file = io.BytesIO()
    with _styled():
        figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()


def colour_and_marker(index: int) -> tuple[str, str]:
    """Returns colour and marker of the index-th method."""
    return COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]


def _spread(heights: Sequence[float], gap: float) -> np.ndarray:
    """Moves heights as little as possible, in their order, so that neighbours are at least `gap` apart.

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
    result = np.empty(len(heights))
    for block in blocks:
        result[block] = np.mean([heights[i] for i in block]) + gap * (np.arange(len(block)) - (len(block) - 1) / 2)
    return result


def _label(axes: Any, points: Sequence[tuple[float, float]], names: Sequence[str], colours: Sequence[str]) -> None:
    """Writes a name to the right of each point, moved up or down and with a leader where names would overlap."""
    from matplotlib import patheffects

    axes.figure.canvas.draw()  # fixes the layout, which the pixels depend on
    pixels = axes.transData.transform(points)
    heights = _spread(pixels[:, 1], LABEL_GAP * axes.figure.dpi / 100)
    halo = [patheffects.withStroke(linewidth=3, foreground="white")]
    for point, pixel, height, name, colour in zip(points, pixels, heights, names, colours, strict=True):
        offset = (height - pixel[1]) * 72 / axes.figure.dpi
        leader = {"arrowstyle": "-", "color": colour, "linewidth": 0.5, "shrinkA": 0, "shrinkB": 3}
        axes.annotate(
            name, point, xytext=(9, offset), textcoords="offset points", va="center", color=colour, path_effects=halo,
            annotation_clip=False, fontsize=8 if colour == GREY else 10, arrowprops=leader,
        )  # fmt: skip


def _bars(row: Mapping[str, Any], name: str) -> np.ndarray:
    """Returns lengths of an error bar [2, 1] to both ends of an interval.

    Near its noise floor an ECE may be below its own interval: that side has no bar. An undefined end has none either.
    """
    ends = [number(row, name) - number(row, f"{name}_low"), number(row, f"{name}_high") - number(row, name)]
    return np.maximum(np.nan_to_num(ends), 0)[:, None]


def accuracy_against(error: str, rows: Sequence[Mapping[str, Any]], published: Sequence[Published] = ()) -> Figure:
    """Draws a point for each row of results with 95% intervals, in its method's colour; the best corner is top left.

    With more than MAX_INSIDE methods, whose names and intervals would cover the points, each has one point, the mean of
    its rows, without intervals, and the legend names it.

    Args:
      error: the horizontal axis, one of ERRORS.
      rows: of one data set, the fields of Summary and the method's name; a method may have several (seeds).
      published: rows of calibration errors that are drawn hollow, with the published intervals, in the colour of their
        method where that is among `rows`, else in grey.
    """
    rows = [row for row in rows if not math.isnan(number(row, error) + number(row, "accuracy"))]
    methods = list(dict.fromkeys(row["method"] for row in rows))
    many = len(methods) > MAX_INSIDE
    if many:
        rows = [
            {"method": method}
            | {
                x: float(np.mean([number(row, x) for row in rows if row["method"] == method]))
                for x in (error, "accuracy")
            }
            for method in methods
        ]
    with _styled():
        figure = _figure(10.5, max(4.2, 0.2 * len(methods) + 0.5)) if many else _figure(6, 4.2)
        axes = figure.subplots()
        figure.subplots_adjust(right=0.6 if many else 0.68, bottom=0.13, left=0.11, top=0.97)
        for row in rows:
            colour, marker = colour_and_marker(methods.index(row["method"]))
            across, accuracy = number(row, error), number(row, "accuracy")
            bars = _bars(row, error), _bars(row, "accuracy")
            label = _short(row["method"]) if many else None
            axes.errorbar(
                across, accuracy, bars[1], bars[0], fmt=marker, color=colour, markersize=6, linewidth=1, label=label
            )
        for theirs in published:
            is_ours = theirs.method in methods
            colour, marker = colour_and_marker(methods.index(theirs.method)) if is_ours else (GREY, "o")
            style: dict[str, Any] = {"color": colour, "markerfacecolor": "white", "markersize": 6 if is_ours else 4}
            row = dataclasses.asdict(theirs)
            bars = _bars(row, "ece"), _bars(row, "accuracy")
            axes.errorbar(theirs.ece, theirs.accuracy, bars[1], bars[0], fmt=marker, zorder=4, linewidth=0.6, **style)
        points = [
            max((np.nanmax([number(row, error), number(row, f"{error}_high")]), number(row, "accuracy"))
                for row in rows if row["method"] == method)
            for method in methods
        ]  # fmt: skip
        others = [theirs for theirs in published if theirs.method not in methods]
        points += [(theirs.ece, theirs.accuracy) for theirs in others]
        names = [*map(_short, methods), *(theirs.method for theirs in others)]
        colours = [*(colour_and_marker(i)[0] for i in range(len(methods))), *[GREY] * len(others)]
        axes.set(xlabel=f"{ERRORS[error]} (less is better)", ylabel="accuracy (more is better)")
        if error == "ece":
            axes.set_xlim(left=0)
        axes.grid(color="0.92", linewidth=0.8)
        axes.set_axisbelow(True)
        if published:
            axes.text(0.01, 0.02, "hollow: the paper's", transform=axes.transAxes, color=GREY, fontsize=8)
        if many:
            axes.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1, 1))
        first = len(methods) if many else 0  # what the legend names needs no label
        if points[first:]:
            _label(axes, points[first:], names[first:], colours[first:])
    return figure


def _scored(rows: Sequence[Mapping[str, Any]]) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Returns (confidences, verdicts, entities or questions) of the judged records."""
    judged = [row for row in rows if row["status"] == "ok"]
    confidence, right = (np.array([row[name] for row in judged], np.float64) for name in ("confidence", "correct"))
    return confidence, right, [str(row.get("entity") or i) for i, row in enumerate(judged)]


def _reliability(above: Any, below: Any, rows: Sequence[Mapping[str, Any]], index: int, num_bins: int) -> None:
    colour, marker = colour_and_marker(index)
    above.plot([0, 1], [0, 1], color="0.7", linewidth=1)
    above.set(ylim=(-0.04, 1.04), yticks=(0, 0.25, 0.5, 0.75, 1))
    for axes in (above, below):
        axes.set(xlim=(-0.04, 1.04), xticks=(0, 0.5, 1))
    below.locator_params(axis="y", nbins=2, integer=True)
    below.set_xlabel("stated confidence")
    confidence, right, clusters = _scored(rows)
    if not len(right):
        above.text(0.5, 0.5, "nothing judged", ha="center")
        return
    bins = metrics.reliability(confidence, right, num_bins, clusters=clusters)
    ends = [wilson(share * count, count) for share, count in zip(bins.accuracies, bins.clusters, strict=True)]
    bars = np.abs(np.transpose(ends) - bins.accuracies)
    above.errorbar(bins.confidences, bins.accuracies, bars, fmt=f"{marker}-", color=colour, markersize=5, linewidth=1.2)
    counted = f"ECE {metrics.ece(confidence, right):.3f}\nn = {len(right):,}"
    above.text(0.02, 0.98, counted, va="top", fontsize=9, color="0.3")
    below.hist(confidence, bins=np.linspace(-0.025, 1.025, 22).tolist(), color=colour)


def reliability(records: Records, num_bins: int = 10, first: int = 0) -> Figure:
    """Draws for each method accuracy against stated confidence, above how many answers state it.

    The further below the diagonal, the more overconfident. Bars are Wilson's 95% intervals; claims of one biography
    count as one trial in a bin.

    Args:
      records: by method; those whose status is not "ok" are left out.
      first: number of the first method, for its colour.
    """
    columns = min(len(records), MAX_COLUMNS)
    lines = math.ceil(len(records) / MAX_COLUMNS)
    with _styled():
        figure = _figure(2.7 * columns + 0.7, 4 * lines, layout="constrained")
        grid = figure.subplots(2 * lines, columns, height_ratios=(3, 1) * lines, squeeze=False)
        for i, (method, rows) in enumerate(records.items()):
            line, column = divmod(i, columns)
            above, below = grid[2 * line : 2 * line + 2, column]
            above.tick_params(labelleft=column == 0, labelbottom=False)
            above.set_title(_short(method), color=colour_and_marker(first + i)[0])
            _reliability(above, below, rows, first + i, num_bins)
        for axes in grid[-2:, len(records) - columns * (lines - 1) :].flat:  # none is left for them
            axes.remove()
        for above, below in zip(grid[::2, 0], grid[1::2, 0], strict=True):
            above.set_ylabel("accuracy")
            below.set_ylabel("answers")
    return figure


def risk_coverage(records: Records) -> Figure:
    """Draws for each method the share of wrong ones among its most confident answers; flat if they say nothing."""
    with _styled():
        outside = len(records) > MAX_INSIDE  # where the legend is: among the curves, it would cover them
        figure = _figure(10.5 if outside else 6, max(4.2, 0.2 * len(records) + 0.5), layout="constrained")
        axes = figure.subplots()
        for i, (method, rows) in enumerate(records.items()):
            confidence, right, _ = _scored(rows)
            if len(right):
                curve = selective.risk_coverage(confidence, right)
                label = f"{_short(method)} (area {curve.aurc:.3f})"
                # Some of the most confident, in random order, are wrong as often as all of them.
                coverages, risks = (
                    np.concatenate(ends) for ends in (([0], curve.coverages), (curve.risks[:1], curve.risks))
                )
                colour, marker = colour_and_marker(i)
                axes.plot(coverages, risks, color=colour, marker=marker, markevery=0.2, label=label)
        axes.set(xlabel="share of questions answered, most confident first", ylabel="share of wrong answers")
        axes.set_xlim(0, 1.02)
        axes.set_ylim(bottom=0)
        axes.grid(color="0.92", linewidth=0.8)
        if axes.get_lines():
            options: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1, 1)} if outside else {}
            axes.legend(frameon=False, fontsize=9, **options)
    return figure
