"""The report: one HTML file with everything in it, figures and examples too; it needs no network and no other file."""

from __future__ import annotations

import base64
import dataclasses
import html
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lc_jax.evaluation import metrics, plots, published
from lc_jax.evaluation.intervals import Difference, Scored, paired

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Row = Mapping[str, Any]
# What the table shows: (field of the result, title, whether it has an interval).
COLUMNS = (
    ("num_questions", "rows", False),
    ("accuracy", "accuracy", True),
    ("ece", "ECE", True),
    ("ece_noise_floor", "noise floor", False),
    ("ece_debiased", "debiased ECE", False),
    ("ece_smooth", "smooth ECE", False),
    ("max_error", "max error", False),
    ("brier", "Brier", True),
    ("brier_constant", "of a constant", False),
    ("log_score", "log score", False),
    ("auroc", "AUROC", True),
    ("aurc", "AURC", False),
    ("sharpness", "sharpness", False),
    ("num_confidence_values", "values in use", False),
)
EXAMPLE_FIELDS = (
    "question",
    "answer",
    "paragraph",
    "answers",
    "probs",
    "chosen",
    "confidence",
    "correct",
    "status",
    "detail",
)


@dataclasses.dataclass(frozen=True)
class Entry:
    """One evaluation: what result.json and records.jsonl hold."""

    result: Row
    records: Sequence[Row]

    @property
    def data(self) -> str:
        return str(self.result["data"])

    @property
    def method(self) -> str:
        return str(self.result["method"])

    def scored(self) -> Scored:
        """Its judged rows; what they belong to is the entity of a biography or the question."""
        rows = [row for row in self.records if row["status"] == "ok"]
        clusters = [str(row.get("entity") or row["question_id"]) for row in rows]
        return Scored([row["confidence"] for row in rows], [row["correct"] for row in rows], clusters)


Differences = Mapping[tuple[str, str], Mapping[str, Difference]]  # by data set and method


def differences(entries: Sequence[Entry], baseline: str) -> dict[tuple[str, str], Mapping[str, Difference]]:
    """Every method less the baseline of its data set ("": its first method), on the questions that both have.

    Raises:
      ValueError: no evaluation is of the method `baseline`.
    """
    if baseline and all(entry.method != baseline for entry in entries):
        known = sorted({entry.method for entry in entries})
        raise ValueError(f"--config.baseline={baseline!r} was not evaluated; there are {known}.")
    found: dict[tuple[str, str], Mapping[str, Difference]] = {}
    for data, group in by_data(entries).items():
        base = next((entry for entry in group if entry.method == baseline), None if baseline else group[0])
        for entry in group if base else ():
            if base is not None and entry.method != base.method and (data, entry.method) not in found:
                found[data, entry.method] = _paired(entry, base)
    return found


def _paired(entry: Entry, base: Entry) -> Mapping[str, Difference]:
    num_bins = int(entry.result.get("num_bins", metrics.NUM_BINS))
    return paired(entry.scored(), base.scored(), num_bins=num_bins) or {}


def by_data(entries: Sequence[Entry]) -> dict[str, list[Entry]]:
    """Entries by data set, in order."""
    groups: dict[str, list[Entry]] = {}
    for entry in entries:
        groups.setdefault(entry.data, []).append(entry)
    return groups


def label(entry: Entry, entries: Sequence[Entry]) -> str:
    """The method, with its seed where another seed of it stands in the same data set."""
    same = [other for other in entries if (other.data, other.method) == (entry.data, entry.method)]
    return entry.method if len(same) == 1 else f"{entry.method}, seed {entry.result['seed']}"


def _text(value: object) -> str:
    return html.escape(str(value))


def _number(value: Any, signed: bool = False) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:+.3f}" if signed else f"{value:.3f}"


def _interval(low: Any, high: Any, signed: bool = False) -> str:
    return f"<small>{_number(low, signed)} to {_number(high, signed)}</small>"


def _table(titles: Sequence[str], rows: Sequence[str]) -> str:
    head = "".join(f"<th>{_text(title)}</th>" for title in titles)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'


def _method_row(entry: Entry, entries: Sequence[Entry], change: Mapping[str, Difference] | None) -> str:
    result = entry.result
    cells = [f"<td>{_text(label(entry, entries))}</td>"]
    for name, _, has_interval in COLUMNS:
        value = result.get(name)
        ends = _interval(result.get(f"{name}_low"), result.get(f"{name}_high")) if has_interval else ""
        cells.append(f"<td>{_number(value)}{ends}</td>")
    for name in ("accuracy", "ece"):
        known = change.get(name) if change else None
        cells.append(
            f"<td>{_number(known.difference, True)}{_interval(known.low, known.high, True)}</td>"
            if known
            else "<td></td>"
        )
    return f"<tr>{''.join(cells)}</tr>"


def _paper_row(row: published.Published, names: Sequence[str]) -> str:
    """Its cells in the columns `names`, of which a published row has two."""
    cells = [f"<td>{_text(row.method)}<small>paper, {_text(row.data)}</small></td>"]
    shown = {
        "accuracy": _number(row.accuracy) + _interval(row.accuracy_low, row.accuracy_high),
        "ece": _number(row.ece) + _interval(row.ece_low, row.ece_high),
    }
    cells += [f"<td>{shown.get(name, '')}</td>" for name in names]
    return f'<tr class="paper">{"".join(cells)}</tr>'


def _results(data: str, group: Sequence[Entry], changes: Differences, baseline: str) -> str:
    base = baseline or group[0].method
    titles = ["method", *(title for _, title, _ in COLUMNS), f"accuracy less {base}", f"ECE less {base}"]
    rows = [_method_row(entry, group, changes.get((data, entry.method))) for entry in group]
    theirs = list(published.beside(data).values())
    if published.has(data):
        rows += [_paper_row(row, [*(name for name, _, _ in COLUMNS), "", ""]) for row in theirs]
        apart = ""
    else:
        table = _table(["method", "accuracy", "ECE"], [_paper_row(row, ["accuracy", "ece"]) for row in theirs])
        apart = (
            f"<details><summary>The paper's rows on {_text(theirs[0].data)}, for orientation</summary>{table}</details>"
        )
    flags = [
        f'<li><span class="flag">{_text(label(entry, group))}</span>: {_text(note)}</li>'
        for entry in group
        for note in entry.result.get("notes", ())
    ]
    return _table(titles, rows) + (f"<ul>{''.join(flags)}</ul>" if flags else "") + apart


def _settings(found: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Every setting that says something as "name: value"; a dot stands between the names of nested ones."""
    lines = []
    for name, value in found.items():
        if isinstance(value, Mapping):
            lines += _settings(value, f"{prefix}{name}.")
        elif value not in ("", None):
            lines.append(f"{prefix}{name}: {value}")
    return lines


def _provenance(entries: Sequence[Entry]) -> str:
    """Judge, counts of every status, cost and all settings."""
    rows = []
    for entry in entries:
        result = entry.result
        statuses = ", ".join(f"{name} {count:,}" for name, count in result.get("statuses", {}).items())
        dollars = result.get("cost", {}).get("dollars")
        settings = "; ".join(_settings(result.get("settings", {})))
        words = "".join(f'<td class="words">{_text(value)}</td>' for value in (result["judge"], statuses, settings))
        cost = "" if dollars is None else f"${dollars:,.2f}"
        where = f"{entry.data}, seed {result['seed']}"
        rows.append(f"<tr><td>{_text(entry.method)}<small>{_text(where)}</small></td>{words}<td>{cost}</td></tr>")
    table = _table(["method", "reader and judge", "rows by status", "settings", "cost"], rows)
    return f'<div class="provenance">{table}</div>'


def _figure(figure: Figure, caption: str) -> str:
    source = base64.b64encode(plots.svg(figure)).decode()
    return (
        f'<figure><img alt="{_text(caption)}" src="data:image/svg+xml;base64,{source}">'
        f"<figcaption>{_text(caption)}</figcaption></figure>"
    )


def figures(group: Sequence[Entry]) -> dict[str, Figure]:
    """The figures of one data set by name, all methods in each."""
    records = {label(entry, group): entry.records for entry in group}
    theirs = published.beside(group[0].data).values() if published.has(group[0].data) else ()
    return {
        "accuracy_against_ece": plots.accuracy_against_ece([entry.result for entry in group], list(theirs)),
        "reliability": plots.reliability(records),
        "risk_coverage": plots.risk_coverage(records),
    }


def _section(data: str, group: Sequence[Entry], changes: Differences, baseline: str) -> str:
    drawn = figures(group)
    wide = _figure(drawn["accuracy_against_ece"], "Accuracy against calibration error, with 95 % intervals.")
    wide += _figure(drawn["risk_coverage"], "How often one is wrong who answers only the most confident questions.")
    names = [label(entry, group) for entry in group]
    panels = [
        _figure(
            plots.reliability({name: entry.records}, first=number),
            f"{name}: accuracy by stated confidence (below the diagonal: overconfident) and how often it was stated.",
        )
        for number, (name, entry) in enumerate(zip(names, group, strict=True))
    ]
    return (
        f"<h2>{_text(data)}</h2>{_results(data, group, changes, baseline)}<h3>Figures</h3>"
        f'<div class="wide">{wide}</div><h3>Reliability</h3><div class="figures">{"".join(panels)}</div>'
    )


def choose_examples(records: Sequence[Row], limit: int) -> list[Row]:
    """At most `limit` records, in order: half the most confident wrong ones, half spread evenly over the others."""
    if len(records) <= limit:
        return list(records)
    wrong = [i for i, row in enumerate(records) if row["status"] == "ok" and not row["correct"]]
    chosen = set(sorted(wrong, key=lambda i: (-records[i]["confidence"], i))[: limit // 2])
    others = [i for i in range(len(records)) if i not in chosen]
    room = limit - len(chosen)
    chosen |= {others[place * len(others) // room] for place in range(room)}
    return [records[i] for i in sorted(chosen)]


def _example(entry: Entry, name: str, row: Row) -> dict[str, Any]:
    empty: dict[str, Any] = {"answers": [], "probs": [], "confidence": None, "correct": False}
    example = {field: row.get(field, empty.get(field, "")) for field in EXAMPLE_FIELDS}
    if isinstance(example["confidence"], float) and math.isnan(example["confidence"]):
        example["confidence"] = None
    return {"data": entry.data, "method": name, **example}


def _embedded(value: Any) -> str:
    """JSON that may stand inside a script element, whatever texts it holds."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c")


def page(entries: Sequence[Entry], *, baseline: str = "", num_examples: int = 200) -> str:
    """The whole report as HTML.

    Args:
      entries: evaluations in the order of the table; those of one data set form a section.
      baseline: the method that others are compared with; "": the first of each data set.
      num_examples: to browse, for each evaluation.

    Raises:
      ValueError: `baseline` was not evaluated.
    """
    changes, groups = differences(entries, baseline), by_data(entries)
    judges = sorted({str(entry.result["judge"]) for entry in entries})
    warning = (
        ' <span class="flag">Different judges: their numbers cannot be compared.</span>' if len(judges) > 1 else ""
    )
    sections = [_section(data, group, changes, baseline) for data, group in groups.items()]
    body = (
        "<h1>Linguistic calibration: evaluation</h1>"
        f"<p>{len(entries)} evaluations on {_text(', '.join(groups))}, read and judged by {_text(', '.join(judges))}."
        f"{warning} Intervals are 95&nbsp;% percentile bootstrap, differences paired on the same questions. ECE has "
        f"{metrics.NUM_BINS} equal-count bins (of biographies 40) with equal confidences together. A forecaster that "
        "always says the same can have a small ECE: compare Brier with that of a constant. The paper's rows were "
        "judged by other models.</p>"
        f"{''.join(sections)}<h2>How it was made</h2>{_provenance(entries)}"
    )
    examples, shown = [], []
    for entry in entries:
        name = label(entry, groups[entry.data])
        chosen = choose_examples(entry.records, num_examples)
        examples += [_example(entry, name, row) for row in chosen]
        shown.append(f"{name}: {len(chosen):,} of {len(entry.records):,}")
    parts = {"body": body, "records": _embedded(examples), "shown": _text("; ".join(shown) + ".")}
    template = Path(__file__).with_name("report.html").read_text(encoding="utf-8")
    return re.sub(r"<!--(\w+)-->", lambda found: parts[found[1]], template)
