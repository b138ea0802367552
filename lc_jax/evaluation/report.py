"""The report: one HTML file that holds everything, figures and examples too; it needs no network and no other file.

This module computes what the page shows; `report.html` is the Jinja2 template that lays it out and escapes every text.
"""

from __future__ import annotations

import base64
import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2

from lc_jax.data import jsonl
from lc_jax.evaluation import examples, intervals, metrics, plots, published
from lc_jax.evaluation.intervals import Difference, paired
from lc_jax.evaluation.published import Published
from lc_jax.evaluation.results import (
    MAIN,
    MORE,
    Column,
    Entry,
    Row,
    by_data,
    has_one_protocol,
    judges,
    label,
    number,
    reason,
)
from lc_jax.evaluation.table import mean_over_seeds

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_OPEN_KINDS = 12  # a longer table by kind is folded
Differences = Mapping[tuple[str, str], Mapping[str, Difference]]  # by data set and label


@dataclasses.dataclass(frozen=True)
class Cell:
    """A number of a table and, below it in small print, its interval; all of them as text."""

    text: str = ""
    small: str = ""
    why: str = ""  # the number, or else the interval, is not defined


@dataclasses.dataclass(frozen=True)
class Line:
    """A row of a table."""

    name: str
    cells: Sequence[Cell]
    small: str = ""  # below the name


def differences(entries: Sequence[Entry], baseline: str) -> dict[tuple[str, str], Mapping[str, Difference]]:
    """Computes every method less the baseline of its data set ("": its first method), on the questions of both.

    Of a baseline with several seeds each evaluation is compared with that of its own seed, or else with the first.
    Returns the differences of each metric by (data set, label of the method).

    Raises:
      ValueError: no evaluation is of the method `baseline`.
    """
    if baseline and all(entry.method != baseline for entry in entries):
        methods = sorted({entry.method for entry in entries})
        raise ValueError(f"--config.baseline={baseline!r} was not evaluated; there are {methods}.")
    result: dict[tuple[str, str], Mapping[str, Difference]] = {}
    for data, group in by_data(entries).items():
        bases = [entry for entry in group if entry.method == (baseline or group[0].method)]
        for entry in group if bases else ():
            if entry.method == bases[0].method:
                continue
            base = next((other for other in bases if other.result["seed"] == entry.result["seed"]), bases[0])
            scored, num_bins = (entry.scored(), base.scored()), int(entry.result.get("num_bins", metrics.NUM_BINS))
            has_rows = all(one.correct for one in scored)
            result[data, label(entry, group)] = (paired(*scored, num_bins=num_bins) or {}) if has_rows else {}
    return result


def rows(entries: Sequence[Entry], changes: Differences, baseline: str) -> list[dict[str, Any]]:
    """Returns the results for a table, each with its `differences` from the baseline where there are any.

    Args:
      changes: `differences` of the entries.
      baseline: as for `differences`.
    """
    groups, results = by_data(entries), []
    for entry in entries:
        group = groups[entry.data]
        change = {name: dataclasses.asdict(d) for name, d in changes.get((entry.data, label(entry, group)), {}).items()}
        own = {"differences": {"baseline": baseline or group[0].method, **change}} if change else {}
        results.append({**entry.result, **own})
    return results


def figures(group: Sequence[Entry]) -> dict[str, Figure]:
    """Returns the figures of one data set by name, all methods in each."""
    records = {label(entry, group): entry.records for entry in group}
    rows = [entry.result for entry in group]
    return {
        "accuracy_against_ece": plots.accuracy_against("ece", rows, _published_rows(group)),
        "accuracy_against_brier": plots.accuracy_against("brier", rows),
        "reliability": plots.reliability(records),
        "risk_coverage": plots.risk_coverage(records),
    }


def published_figure(data: str) -> Figure:
    """Returns the paper's accuracy against its calibration error on one of its data sets."""
    return plots.accuracy_against("ece", [], list(published.by_method(data).values()))


def page(
    entries: Sequence[Entry],
    changes: Differences,
    *,
    baseline: str = "",
    remarks: Mapping[str, Sequence[str]] | None = None,
    num_examples: int = 200,
    seed: int = 0,
    published_sets: Sequence[str] = (),
) -> str:
    """Returns the whole report as HTML.

    Args:
      entries: evaluations in the order of the table; those of one data set form a section.
      changes: `differences` of the entries; {} shows none.
      baseline: the method that others are compared with; "": the first of each data set.
      remarks: more sentences below the table of a data set, by its name.
      num_examples: to browse, for each evaluation.
      seed: of the draw of examples.
      published_sets: the paper's data sets that are shown without an evaluation of one's own.
    """
    groups = by_data(entries)
    rows, notes = [], []
    for entry in entries:
        name = label(entry, groups[entry.data])
        sample = examples.choose(entry.records, num_examples, seed)
        rows += [examples.fields(entry, name, row, why) for row, why in sample]
        notes.append(examples.describe_choice(name, entry, sample, seed))
    if any(row["why"] for row in rows):
        notes.append("So wrong answers are more frequent here than in the evaluations.")
    differing = ["judges"] * any(len(judges(group)) > 1 for group in groups.values())
    differing += ["wordings or rules of judging"] * (not all(map(has_one_protocol, groups.values())))
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    text = environment.get_template("report.html").render(
        num_entries=len(entries),
        judges={data: tuple(judges(group)) for data, group in groups.items()},
        differing=differing,
        shows_paper=bool(published_sets) or any(map(_published_rows, groups.values())),
        small_sample=intervals.SMALL,
        num_bins=metrics.NUM_BINS,
        columns=MAIN,
        max_open_kinds=MAX_OPEN_KINDS,
        sections=[
            _section(data, group, changes, baseline, (remarks or {}).get(data, ())) for data, group in groups.items()
        ],
        published_sections=[_published_section(data) for data in published_sets],
        runs=[_run(entry) for entry in entries],
        example_notes=notes,
        # JSON inside a script element, which no text that it holds can end.
        records=jsonl.dumps(rows).replace("<", "\\u003c"),
    )
    return text.encode("utf-8", "replace").decode("utf-8")  # half a surrogate pair cannot be written


def _section(
    data: str, group: Sequence[Entry], changes: Differences, baseline: str, remarks: Sequence[str]
) -> dict[str, Any]:
    """Returns what the page shows of one data set."""
    entries = {label(entry, group): entry for entry in group}
    theirs, methods = _published_rows(group), {entry.method for entry in group}
    means = mean_over_seeds([entry.result for entry in group])
    errors = {row["method"]: number(row, "ece") for row in means}
    images = figures(group)
    panels = [
        _figure(
            plots.reliability({name: entry.records}, first=index),
            f"{name}: accuracy by stated confidence (below the diagonal: overconfident) with Wilson's 95% intervals, "
            "and how often it was stated.",
        )
        for index, (name, entry) in enumerate(entries.items())
    ]
    return {
        "data": data,
        "names": list(entries),
        "rows": [Line(name, [_main_cell(entry, column) for column in MAIN]) for name, entry in entries.items()]
        + [_mean_line(row) for row in means if row["seeds"] > 1],
        "paper": [_published_line(row) for row in theirs if row.method in methods],
        "other_paper": [_published_line(row) for row in theirs if row.method not in methods],
        "flags": [(name, note) for name, entry in entries.items() for note in entry.result.get("notes", ())],
        "notes": [*published.ratio_notes(errors, {row.method: row for row in theirs}), *remarks],
        "more": [
            Line(column.title, [_cell(entry.result, column) for entry in group], column.meaning)
            for column in MORE
            if any(column.name in entry.result for entry in group)
        ],
        "base": baseline or group[0].method,
        "differences": [
            Line(column.title, [_difference(changes.get((data, name), {}).get(column.name)) for name in entries])
            for column in MAIN
            if column.has_interval and any(key[0] == data for key in changes)
        ],
        "kinds": _kinds(group),
        "kind_correlation": [_cell(entry.result, Column("kind_correlation", "", "")) for entry in group],
        "figures": [
            _figure(images["accuracy_against_ece"], "Accuracy against calibration error, with 95% intervals."),
            _figure(images["accuracy_against_brier"], "Accuracy against the Brier score, with 95% intervals."),
            _figure(images["risk_coverage"], "How often one is wrong who answers only the most confident questions."),
        ],
        "panels": panels,
    }


def _published_section(data: str) -> dict[str, Any]:
    """Returns what the paper has on one of its data sets that was not evaluated here."""
    rows = published.by_method(data)
    caption = "The paper's accuracy against its calibration error, with 95% intervals."
    return {
        "data": data,
        "paper": [_published_line(row) for row in rows.values()],
        "notes": published.ratio_notes({}, rows),
        "figures": [_figure(published_figure(data), caption)],
    }


def _published_rows(group: Sequence[Entry]) -> list[Published]:
    """Returns the published rows to compare with: none unless all evaluations have the paper's questions."""
    theirs = [published.comparable(entry.result) for entry in group]
    return list(theirs[0].values()) if all(theirs) else []


def _number(value: float, sign: str = "") -> str:
    return "–" if math.isnan(value) else f"{value:{sign}.3f}"


def _cell(row: Row, column: Column) -> Cell:
    """Returns a number with its interval; where one is not defined, a dash with the reason."""
    unknown = "not defined, or not in this file"
    value, low = number(row, column.name), number(row, f"{column.name}_low")
    if math.isnan(value):
        return Cell("–", why=reason(row, column.name) or unknown)
    text = f"{value:,.0f}" if column.name.startswith("num_") else _number(value)
    if not column.has_interval:
        return Cell(text)
    if math.isnan(low):
        return Cell(text, "no interval", reason(row, f"{column.name}_low") or unknown)
    return Cell(text, f"{_number(low)} to {_number(number(row, f'{column.name}_high'))}")


def _main_cell(entry: Entry, column: Column) -> Cell:
    """Returns a number of the first table; a number of claims says how many biographies make them."""
    cell = _cell(entry.result, column)
    people = {row["entity"] for row in entry.records if row.get("entity") and row["status"] == "ok"}
    if column.name != "num_questions" or not people:
        return cell
    return dataclasses.replace(cell, small=f"claims in {len(people):,} biograph{'y' if len(people) == 1 else 'ies'}")


def _mean_line(row: Row) -> Line:
    """Returns the means over the seeds of a method, with their standard deviations."""
    cells = [
        Cell(
            f"{number(row, column.name):,.0f}" if column.name.startswith("num_") else _number(number(row, column.name)),
            f"± {row['spread'][column.name]:.3f}" if column.name in row["spread"] else "",
        )
        for column in MAIN
    ]
    return Line(f"{row['method']}, mean of {row['seeds']} seeds", cells)


def _published_line(row: Published) -> Line:
    cells = {
        "accuracy": Cell(
            published.rounded(row.accuracy), f"{_number(row.accuracy_low)} to {_number(row.accuracy_high)}"
        ),
        "ece": Cell(published.rounded(row.ece), f"{_number(row.ece_low)} to {_number(row.ece_high)}"),
    }
    return Line(row.method, [cells.get(column.name, Cell()) for column in MAIN])


def _difference(change: Difference | None) -> Cell:
    if change is None:
        return Cell()
    return Cell(_number(change.difference, "+"), f"{_number(change.low, '+')} to {_number(change.high, '+')}")


def _kinds(group: Sequence[Entry]) -> list[Line]:
    """Returns stated confidence and accuracy by kind of question: a line per kind, a cell per method."""
    tables = [{kind["kind"]: kind for kind in entry.result.get("kinds") or ()} for entry in group]
    lines = []
    for name in sorted({name for table in tables for name in table}):
        cells = []
        for table in tables:
            if name not in table:
                cells.append(Cell())
                continue
            accuracy, count = table[name]["accuracy"], int(table[name]["num_questions"])
            low, high = intervals.wilson(round(accuracy * count), count)
            text = f"{table[name]['confidence']:.2f} / {accuracy:.2f}"
            auroc = number(table[name], "auroc")
            ranking = "" if math.isnan(auroc) else f"; AUROC {auroc:.2f}"
            cells.append(Cell(text, f"n = {count:,}; {low:.2f} to {high:.2f}{ranking}"))
        lines.append(Line(name, cells))
    return lines


def _run(entry: Entry) -> dict[str, Any]:
    """Returns how an evaluation was made: judge, counts of every status, all settings, cost."""
    statuses, dollars = entry.result.get("statuses") or {}, (entry.result.get("cost") or {}).get("dollars")
    return {
        "method": entry.method,
        "data": entry.data,
        "seed": entry.result["seed"],
        "texts": {
            "reader and judge": entry.result["judge"],
            "rows by status": ", ".join(f"{name} {count:,}" for name, count in statuses.items()),
            "settings": "; ".join(_settings(entry.result.get("settings") or {})),
            "cost": "" if dollars is None else f"${dollars:,.2f}",
        },
    }


def _settings(values: Mapping[str, Any], prefix: str = "") -> Iterable[str]:
    """Yields every setting that is not empty as "name: value"; names of nested ones are joined by a dot."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _settings(value, f"{prefix}{name}.")
        elif value not in ("", None):
            yield f"{prefix}{name}: {value}"


def _figure(figure: Figure, caption: str) -> dict[str, str]:
    return {"caption": caption, "svg": base64.b64encode(plots.svg(figure)).decode()}
