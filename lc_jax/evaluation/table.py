"""Results as a Markdown table that also reads well in a terminal, with the paper's numbers on the paper's data."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import logging

from lc_jax.data import jsonl
from lc_jax.evaluation import published
from lc_jax.evaluation.published import Published
from lc_jax.evaluation.results import MAIN, number
from lc_jax.provenance import command_line
from lc_jax.text_table import table

Row = Mapping[str, Any]  # the fields of Summary, and the names of the method and the data set
HEADER = (
    "method", "accuracy", "95%", "ECE", "95%", "Brier", "AUROC", "n", "noise floor", "debiased ECE", "over",
    "constant", "within kinds", "values", "seeds",
)  # fmt: skip
PAPER = ("paper accuracy", "paper ECE")
UNDEFINED = "–"  # a number that is not defined; a note below the table says why
MEANS = (
    "num_questions", "accuracy", "accuracy_low", "accuracy_high", "ece", "ece_low", "ece_high", "ece_noise_floor",
    "ece_debiased", "overconfidence", "brier", "brier_constant", "auroc", "auroc_within", "num_confidence_values",
    "kind_correlation",
)  # fmt: skip
SPREAD = ("accuracy", "ece", "ece_debiased", "overconfidence", "brier", "auroc")  # their standard deviation over seeds


def _number(value: float, places: int = 3) -> str:
    return UNDEFINED if math.isnan(value) else f"{value:.{places}f}"


def _signed(value: float) -> str:
    return UNDEFINED if math.isnan(value) else f"{value:+.3f}"


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def mean_over_seeds(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Returns one row for each data set and method, in order of first appearance: means over its `seeds`.

    `spread` has the standard deviations over seeds (n - 1 in the denominator) of SPREAD where they are defined.
    """
    methods: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        methods.setdefault((row.get("data", ""), row["method"]), []).append(row)
    merged = []
    for (data, method), same in methods.items():
        kinds: dict[str, list[Row]] = {}
        for kind in (kind for row in same for kind in row.get("kinds", ())):
            kinds.setdefault(kind["kind"], []).append(kind)
        fields: dict[str, Any] = {
            name: _mean([number(row, name) for row in same if name in row] or [math.nan]) for name in MEANS
        }
        values = {name: [number(row, name) for row in same] for name in SPREAD}
        spread = {name: statistics.stdev(v) for name, v in values.items() if len(v) > 1 and not math.isnan(sum(v))}
        fields["differences"] = _mean_differences([row["differences"] for row in same if row.get("differences")])
        fields["kinds"] = [
            {"kind": name, **{field: _mean([each[field] for each in group]) for field in ("confidence", "accuracy")}}
            for name, group in sorted(kinds.items())
        ]
        fields["notes"] = list(dict.fromkeys(note for row in same for note in row.get("notes", ())))
        theirs = published.comparable(same[0])
        paper = theirs.get(method)
        names = {"data": data, "method": method, "seeds": len(same), "paper": paper, "theirs": theirs}
        merged.append(names | {"spread": spread} | fields)
    return merged


def _mean_differences(of_seeds: Sequence[Row]) -> dict[str, Any]:
    """Returns the differences from the baseline, each number (ends of intervals too) the mean over seeds."""
    if not of_seeds:
        return {}
    metrics = {name: rows for name in of_seeds[0] if name != "baseline" and (rows := [row[name] for row in of_seeds])}
    ends = ("difference", "low", "high")
    means = {name: {end: _mean([number(row, end) for row in rows]) for end in ends} for name, rows in metrics.items()}
    return {"baseline": of_seeds[0]["baseline"], **means}


def _interval(row: Row, name: str) -> str:
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    return UNDEFINED if math.isnan(low) else f"{_number(low)} to {_number(high)}"


def _mean_cell(row: Row, name: str) -> str:
    """Returns a number, with its standard deviation over seeds where there are several."""
    return _number(row[name]) + (f" ± {row['spread'][name]:.3f}" if name in row["spread"] else "")


def _cells(row: Row) -> list[str]:
    return [
        row["method"],
        _mean_cell(row, "accuracy"),
        _interval(row, "accuracy"),
        _mean_cell(row, "ece"),
        _interval(row, "ece"),
        _mean_cell(row, "brier"),
        _mean_cell(row, "auroc"),
        _number(row["num_questions"], 0),
        _number(row["ece_noise_floor"]),
        _mean_cell(row, "ece_debiased"),
        _signed(row["overconfidence"]),
        _number(row["brier_constant"]),
        _number(row["auroc_within"]),
        UNDEFINED if math.isnan(row["num_confidence_values"]) else f"{row['num_confidence_values']:.3g}",
        str(row["seeds"]),
    ]


def _paper_cells(paper: Published | None) -> list[str]:
    return [published.rounded(paper.accuracy), published.rounded(paper.ece)] if paper else ["", ""]


def _kind_table(rows: Sequence[Row]) -> str:
    """Returns mean stated confidence / accuracy of each kind of question (lines) under each method (columns)."""
    cells = [["confidence / accuracy", *(row["method"] for row in rows)]]
    for kind in sorted({kind["kind"] for row in rows for kind in row["kinds"]}):
        of_methods = [next((k for k in row["kinds"] if k["kind"] == kind), None) for row in rows]
        cells.append([kind, *(f"{k['confidence']:.2f} / {k['accuracy']:.2f}" if k else "" for k in of_methods)])
    cells.append(["correlation over kinds", *(_number(row["kind_correlation"], 2) for row in rows)])
    return table(cells, markdown=True)


def _difference_table(rows: Sequence[Row]) -> str:
    """Returns each method less the baseline on the questions of both, with paired 95% intervals."""
    columns = [column for column in MAIN if column.has_interval]
    cells = [[f"less {rows[0]['differences']['baseline']}", *(column.title for column in columns)]]
    for row in rows:
        changes = [row["differences"].get(column.name, {}) for column in columns]
        texts = [[_signed(number(change, end)) for end in ("difference", "low", "high")] for change in changes]
        cells.append([row["method"], *(f"{value} ({low} to {high})" for value, low, high in texts)])
    return table(cells, markdown=True)


def render(rows: Sequence[Row]) -> str:
    """Returns for each data set the methods' table, notes on its numbers, differences, then confidence by kind.

    Rows of one method under several seeds become one row of means.

    Args:
      rows: results; `differences` of one has the name of the `baseline` and, by metric, difference, low and high.
    """
    merged = mean_over_seeds(rows)
    sets = list(dict.fromkeys(row["data"] for row in merged))
    if len(sets) == 1:
        return _render(merged)
    return "\n".join(f"## {data}\n\n" + _render([row for row in merged if row["data"] == data]) for data in sets)


def _render(merged: Sequence[Row]) -> str:
    cells = [list(HEADER), *map(_cells, merged)]
    if any(row["paper"] for row in merged):
        papers = [list(PAPER), *(_paper_cells(row["paper"]) for row in merged)]
        cells = [own + paper for own, paper in zip(cells, papers, strict=True)]
    parts = [table(cells, markdown=True)]
    notes = [f"- {row['method']}: {note}" for row in merged for note in row["notes"]]
    errors = {row["method"]: row["ece"] for row in merged if row["theirs"]}
    for theirs in [row["theirs"] for row in merged if row["theirs"]][:1]:
        notes += [f"- {note}" for note in published.ratio_notes(errors, theirs)]
    if any(row["seeds"] > 1 for row in merged):
        notes.append("- Several seeds: every number is their mean, ends of intervals too; ± their standard deviation.")
    if notes:
        parts.append("\n".join(notes))
    if any(row["differences"] for row in merged):
        parts.append(_difference_table([row for row in merged if row["differences"]]))
    if any(row["kinds"] for row in merged):
        parts.append(_kind_table(merged))
    return "\n\n".join(parts) + "\n"


def render_published(data: str) -> str:
    """Returns the paper's table of one of its data sets."""
    rows = published.by_method(data)
    cells = [["method (paper)", *HEADER[1:5]]]
    for row in rows.values():
        ends = {"accuracy_low": row.accuracy_low, "accuracy_high": row.accuracy_high}
        ends |= {"ece_low": row.ece_low, "ece_high": row.ece_high}
        accuracy, error = published.rounded(row.accuracy), published.rounded(row.ece)
        cells.append([row.method, accuracy, _interval(ends, "accuracy"), error, _interval(ends, "ece")])
    notes = "".join(f"- {note}\n" for note in published.ratio_notes({}, rows))
    return f"## {data}, the paper's\n\n{table(cells, markdown=True)}\n" + (f"\n{notes}" if notes else "")


def publish(folder: Path, row: Row, original: Row | None = None) -> None:
    """Writes result.json next to the records in `folder`, logs the table, and says which command comes next.

    Args:
      original: a row that the table shows above it.
    """
    jsonl.write_json(folder / "result.json", row)
    logging.info("\n%s", render([row] if original is None else [original, row]))
    following = command_line("configs/report.py", {"evaluations": folder.parent})
    logging.info("Made %s/result.json and records.jsonl.\nNext: %s", folder, following)
