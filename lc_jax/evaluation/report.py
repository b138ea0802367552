"""The report: one HTML file with everything in it, figures and examples too; it needs no network and no other file."""

from __future__ import annotations

import base64
import html
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

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


def differences(entries: Sequence[Entry], baseline: str) -> dict[tuple[str, str], Mapping[str, Difference]]:
    """Every method less the baseline of its data set ("": its first method), on the questions that both have.

    Returns the differences of each metric by (data set, label of the method).

    Raises:
      ValueError: no evaluation is of the method `baseline`.
    """
    if baseline and all(entry.method != baseline for entry in entries):
        methods = sorted({entry.method for entry in entries})
        raise ValueError(f"--config.baseline={baseline!r} was not evaluated; there are {methods}.")
    result: dict[tuple[str, str], Mapping[str, Difference]] = {}
    for data, group in by_data(entries).items():
        base = next((entry for entry in group if entry.method == baseline), None if baseline else group[0])
        for entry in group if base else ():
            if base is not None and entry.method != base.method:
                result[data, label(entry, group)] = _paired(entry, base)
    return result


def _paired(entry: Entry, base: Entry) -> Mapping[str, Difference]:
    num_bins = int(entry.result.get("num_bins", metrics.NUM_BINS))
    scored = entry.scored(), base.scored()
    return (paired(*scored, num_bins=num_bins) or {}) if all(one.correct for one in scored) else {}


def _paper(group: Sequence[Entry]) -> list[Published]:
    """The published rows to compare with: none unless all evaluations have the paper's questions."""
    theirs = [published.comparable(entry.result) for entry in group]
    return list(theirs[0].values()) if all(theirs) else []


def _text(value: object) -> str:
    return html.escape(str(value))


def _name(value: object) -> str:
    """A name of the user's, whose direction of writing stays its own."""
    return f"<bdi>{_text(value)}</bdi>"


def _number(value: float, signed: bool = False) -> str:
    if math.isnan(value):
        return "–"
    return f"{value:+.3f}" if signed else f"{value:.3f}"


def _interval(low: float, high: float, signed: bool = False) -> str:
    return f"<small>{_number(low, signed)} to {_number(high, signed)}</small>"


def _unknown(text: str, why: str) -> str:
    return f'<abbr title="{_text(why or "not defined, or not in this file")}">{text}</abbr>'


def _value(row: Row, column: Column) -> str:
    """A number with its interval; where one is not defined, a dash with the reason as its title."""
    value, low = number(row, column.name), number(row, f"{column.name}_low")
    if math.isnan(value):
        return _unknown("–", reason(row, column.name))
    text = f"{value:,.0f}" if column.name.startswith("num_") else _number(value)
    if not column.has_interval:
        return text
    if math.isnan(low):
        return f"{text}<small>{_unknown('no interval', reason(row, f'{column.name}_low'))}</small>"
    return text + _interval(low, number(row, f"{column.name}_high"))


def _header(title: str, meaning: str = "") -> str:
    return f'<th scope="col" title="{_text(meaning)}">{title}</th>' if meaning else f'<th scope="col">{title}</th>'


def _cell(title: str, content: str, name: str = "") -> str:
    """A cell that a phone shows as "title: content"."""
    return f'<td class="{name}" data-label="{_text(title)}">{content and f"<span>{content}</span>"}</td>'


def _table(headers: Sequence[str], rows: Sequence[str], kind: str = "scroll") -> str:
    body = "".join(f"<tr>{row}</tr>" if not row.startswith("<tr") else row for row in rows)
    return f'<div class="{kind}"><table><thead><tr>{"".join(headers)}</tr></thead><tbody>{body}</tbody></table></div>'


def _main_row(entry: Entry, group: Sequence[Entry]) -> str:
    cells = [_cell("", _name(label(entry, group)))]
    for column in MAIN:
        content = _value(entry.result, column)
        people = {row["entity"] for row in entry.records if row.get("entity") and row["status"] == "ok"}
        if column.name == "num_questions" and people:
            content += f"<small>claims in {len(people):,} biograph{'y' if len(people) == 1 else 'ies'}</small>"
        cells.append(_cell(column.title, content))
    return "".join(cells)


def _paper_row(row: Published) -> str:
    shown = {
        "accuracy": published.rounded(row.accuracy) + _interval(row.accuracy_low, row.accuracy_high),
        "ece": published.rounded(row.ece) + _interval(row.ece_low, row.ece_high),
    }
    cells = [_cell("", f"{_text(row.method)}<small>paper</small>")]
    cells += [_cell(column.title, shown.get(column.name, "")) for column in MAIN]
    return f'<tr class="paper">{"".join(cells)}</tr>'


def _more(group: Sequence[Entry], data: str, changes: Differences, base: str) -> str:
    """The other measures, a line each, and the differences from the method `base`."""
    names = [label(entry, group) for entry in group]
    rows = []
    for column in MORE:
        if any(column.name in entry.result for entry in group):
            values = "".join(f"<td>{_value(entry.result, column)}</td>" for entry in group)
            rows.append(f'<th scope="row">{column.title}<small>{column.meaning}</small></th>{values}')
    for column in MAIN if any(key[0] == data for key in changes) else ():
        if column.has_interval:
            deltas = [changes.get((data, name), {}).get(column.name) for name in names]
            values = "".join(
                f"<td>{_number(d.difference, True)}{_interval(d.low, d.high, True)}</td>" if d else "<td></td>"
                for d in deltas
            )
            meaning = "Difference on the questions that both have, with its paired interval."
            rows.append(f'<th scope="row">{column.title} less {_name(base)}<small>{meaning}</small></th>{values}')
    table = _table([_header("measure"), *(_header(_name(name)) for name in names)], rows)
    return f"<details><summary>More measures, and differences between methods</summary>{table}</details>"


def _legend() -> str:
    terms = "".join(f"<dt>{column.title}</dt><dd>{column.meaning}</dd>" for column in MAIN)
    return f'<details class="legend"><summary>What the columns mean</summary><dl>{terms}</dl></details>'


def _kinds(group: Sequence[Entry]) -> str:
    """Stated confidence and accuracy by kind of question: a line a kind, a column a method."""
    tables = [{kind["kind"]: kind for kind in entry.result.get("kinds") or ()} for entry in group]
    names = sorted({name for table in tables for name in table})
    if not names:
        return ""
    rows = []
    for name in names:
        cells = []
        for table in tables:
            kind = table.get(name)
            if kind is None:
                cells.append("<td></td>")
                continue
            count = int(kind["num_questions"])
            low, high = intervals.wilson(round(kind["accuracy"] * count), count)
            interval = f"<small>n = {count:,}; {low:.2f} to {high:.2f}</small>"
            cells.append(f"<td>{kind['confidence']:.2f} / {kind['accuracy']:.2f}{interval}</td>")
        rows.append(f'<th scope="row">{_name(name)}</th>{"".join(cells)}')
    correlation = Column("kind_correlation", "correlation", "")
    values = "".join(f"<td>{_value(entry.result, correlation)}</td>" for entry in group)
    rows.append(f'<th scope="row">correlation<small>of confidence and accuracy over kinds</small></th>{values}')
    headers = [_header("kind"), *(_header(_name(label(entry, group))) for entry in group)]
    meaning = (
        "Mean stated confidence / share of right answers. Below, the number of answers and Wilson's 95 % interval of "
        "that share."
    )
    fold = " open" if len(names) <= MAX_OPEN_KINDS else ""
    return (
        f"<details{fold}><summary>By kind of question ({len(names)})</summary>"
        f'<p class="soft">{meaning}</p>{_table(headers, rows)}</details>'
    )


def _results(data: str, group: Sequence[Entry], changes: Differences, baseline: str) -> str:
    headers = [_header("method"), *(_header(column.title, column.meaning) for column in MAIN)]
    theirs = _paper(group)
    same = [row for row in theirs if row.method in {entry.method for entry in group}]
    rows = [*(_main_row(entry, group) for entry in group), *map(_paper_row, same)]
    others = [_paper_row(row) for row in theirs if row not in same]
    paper = f"<details><summary>The paper's other methods</summary>{_table(headers, others, 'stack')}</details>"
    flags = [
        f'<li><span class="flag">{_name(label(entry, group))}</span>: {_text(note)}</li>'
        for entry in group
        for note in entry.result.get("notes", ())
    ]
    errors = {row["method"]: number(row, "ece") for row in mean_over_seeds([entry.result for entry in group])}
    flags += [f"<li>{_text(note)}</li>" for note in published.ratio_notes(errors, {row.method: row for row in theirs})]
    notes = f"<ul>{''.join(flags)}</ul>" if flags else ""
    more = _more(group, data, changes, baseline or group[0].method)
    return _table(headers, rows, "stack") + notes + _legend() + more + (paper if others else "") + _kinds(group)


def _settings(values: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Every setting that says something as "name: value"; names of nested ones are joined by a dot."""
    lines = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            lines += _settings(value, f"{prefix}{name}.")
        elif value not in ("", None):
            lines.append(f"{prefix}{name}: {value}")
    return lines


def _provenance(entries: Sequence[Entry]) -> str:
    """Judge, counts of every status, cost and all settings."""
    titles = ("reader and judge", "rows by status", "settings", "cost")
    rows = []
    for entry in entries:
        result = entry.result
        statuses = ", ".join(f"{name} {count:,}" for name, count in (result.get("statuses") or {}).items())
        dollars = (result.get("cost") or {}).get("dollars")
        settings = "; ".join(_settings(result.get("settings") or {}))
        values = (result["judge"], statuses, settings, "" if dollars is None else f"${dollars:,.2f}")
        where = f"<small>{_name(entry.data)}, seed {_text(result['seed'])}</small>"
        cells = [_cell(title, _text(value), "words") for title, value in zip(titles, values, strict=True)]
        rows.append(_cell("", _name(entry.method) + where) + "".join(cells))
    table = _table([_header("method"), *map(_header, titles)], rows, "stack")
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
    return {
        "accuracy_against_ece": plots.accuracy_against_ece([entry.result for entry in group], _paper(group)),
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
            plots.reliability({name: entry.records}, first=index),
            f"{name}: accuracy by stated confidence (below the diagonal: overconfident) with Wilson's 95 % intervals, "
            "and how often it was stated.",
        )
        for index, (name, entry) in enumerate(zip(names, group, strict=True))
    ]
    return (
        f"<h2>{_name(data)}</h2>{_results(data, group, changes, baseline)}<h3>Figures</h3>"
        f'<div class="wide">{wide}</div><h3>Reliability</h3><div class="figures">{"".join(panels)}</div>'
    )


def _published_section(data: str) -> str:
    """What the paper has on one of its data sets that was not evaluated here."""
    rows = published.by_method(data)
    headers = [_header("method"), *(_header(column.title, column.meaning) for column in MAIN)]
    notes = "".join(f"<li>{_text(note)}</li>" for note in published.ratio_notes({}, rows))
    drawn = _figure(published_figure(data), "The paper's accuracy against its calibration error, with 95 % intervals.")
    return (
        f"<h2>{_name(data)}, the paper's</h2>{_table(headers, list(map(_paper_row, rows.values())), 'stack')}"
        f'<ul>{notes}</ul><div class="wide">{drawn}</div>'
    )


def published_figure(data: str) -> Figure:
    """Returns the paper's accuracy against its calibration error on one of its data sets."""
    return plots.accuracy_against_ece([], list(published.by_method(data).values()))


def _embedded(value: Any) -> str:
    """JSON inside a script element, which no text that it holds can end."""
    return jsonl.dumps(value).replace("<", "\\u003c")


def page(
    entries: Sequence[Entry],
    *,
    baseline: str = "",
    num_examples: int = 200,
    seed: int = 0,
    published_sets: Sequence[str] = (),
) -> str:
    """The whole report as HTML.

    Args:
      entries: evaluations in the order of the table; those of one data set form a section.
      baseline: the method that others are compared with; "": the first of each data set.
      num_examples: to browse, for each evaluation.
      seed: of the draw of examples.
      published_sets: the paper's data sets that are shown without an evaluation of one's own.

    Raises:
      ValueError: `baseline` was not evaluated.
    """
    changes, groups = differences(entries, baseline), by_data(entries)
    names = {data: " and ".join(map(_name, judges(group))) for data, group in groups.items()}
    differing = ["judges"] * any(len(judges(group)) > 1 for group in groups.values())
    differing += ["wordings or rules of judging"] * (not all(map(has_one_protocol, groups.values())))
    warning = "".join(
        f' <span class="flag">Different {what}: their numbers cannot be compared.</span>' for what in differing
    )
    by = next(iter(names.values()), "nobody")
    if len(set(names.values())) > 1:
        by = "; ".join(f"{annotators} on {_name(data)}" for data, annotators in names.items())
    sections = [_section(data, group, changes, baseline) for data, group in groups.items()]
    sections += map(_published_section, published_sets)
    shows_paper = bool(published_sets) or any(map(_paper, groups.values()))
    theirs = " The paper's rows were judged by other models." if shows_paper else ""
    what = f"{len(entries)} evaluation{'s' if len(entries) > 1 else ''} on {', '.join(map(_name, groups))}"
    intro = f"{what}, read and judged by {by}.{warning}{theirs}" if entries else "The paper's own results."
    body = (
        "<h1>Linguistic calibration: evaluation</h1>"
        f"<p>{intro}</p>"
        '<details class="legend"><summary>How numbers and intervals are computed</summary><p>Intervals are 95&nbsp;% '
        "percentile bootstrap over questions (over biographies, with all claims of each). The interval of an accuracy "
        f"is Wilson's below {intervals.SMALL} questions or biographies, and where all answers are right or all wrong. "
        f"Differences are paired on the same questions. ECE has {metrics.NUM_BINS} equal-count bins (40 for "
        "biographies); equal confidences share a bin. A method that always states the same confidence can have a small "
        "ECE: compare its Brier score with that of a constant.</p></details>"
        f"{''.join(sections)}<h2>How it was made</h2>{_provenance(entries)}"
    )
    rows, notes = [], []
    for entry in entries:
        name = label(entry, groups[entry.data])
        chosen = examples.choose(entry.records, num_examples, seed)
        rows += [examples.fields(entry, name, row, why) for row, why in chosen]
        notes.append(examples.how_chosen(name, entry, chosen, seed))
    if any(row["why"] for row in rows):
        notes.append("So wrong answers are more frequent here than in the evaluations.")
    parts = {"body": body, "records": _embedded(rows), "shown": "<br>".join(map(_text, notes))}
    template = Path(__file__).with_name("report.html").read_text(encoding="utf-8")
    text = re.sub(r"<!--(\w+)-->", lambda match: parts[match[1]], template)
    return text.encode("utf-8", "replace").decode("utf-8")  # half a surrogate pair cannot be written
