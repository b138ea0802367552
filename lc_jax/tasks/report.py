"""Compares evaluations: a report to open in a browser, `results.json`, a table in Markdown, and figures.

Reads `result.json` and `records.jsonl` of any evaluation: of questions or biographies, on several data sets.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from absl import logging
from ml_collections import ConfigDict

from lc_jax.data import jsonl
from lc_jax.data.rows import optional
from lc_jax.evaluation import agreement, plots, published, report, results, table
from lc_jax.evaluation.results import Entry, by_data, judges


def needs_devices(config: ConfigDict) -> bool:
    """Returns False: a report computes nothing on devices."""
    return False


def find(root: Path) -> list[Path]:
    """Returns the folders of evaluations in `root`, or `root` itself where it is one.

    Raises:
      FileNotFoundError: there are none.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"--config.evaluations: no folder {root}; run configs/evaluate_qa.py first.")
    if (root / "result.json").is_file():
        return [root]
    folders = sorted(path for path in root.iterdir() if path.is_dir())
    finished = [folder for folder in folders if (folder / "result.json").is_file()]
    for folder in folders:
        if folder not in finished:
            logging.warning("%s is left out: it has no result.json. Run its evaluation again to finish it.", folder)
    if not finished:
        raise FileNotFoundError(f"No */result.json under {root}; run configs/evaluate_qa.py first.")
    return finished


def load(config: ConfigDict) -> list[Entry]:
    """Reads the evaluations in the order of the table, named by their judge too where those of a data set differ.

    Raises:
      FileNotFoundError: nothing was evaluated there, or records are missing.
      ValueError: a file cannot be read; different judges of a data set, unless the config allows them; one seed twice.
    """
    order = {name: i for i, name in enumerate(config.methods)}
    entries = sorted(
        results.read_all(find(Path(config.evaluations))), key=lambda entry: order.get(entry.method, len(order))
    )
    mixed = {data: names for data, group in by_data(entries).items() if len(names := judges(group)) > 1}
    for data, names in mixed.items():
        if not config.allow_different_judges:
            raise ValueError(
                f"Results of different judges cannot be compared: {names} on {data!r}. Evaluate with one of them, or "
                "show them all the same with --config.allow_different_judges=true."
            )
    entries = [
        dataclasses.replace(e, result={**e.result, "method": f"{e.method} (judge {e.result['judge']})"})
        if e.data in mixed
        else e
        for e in entries
    ]
    results.check_distinct(entries)
    for data, group in by_data(entries).items():
        if not results.has_one_protocol(group):
            logging.warning(
                "The evaluations on %s differ in wordings or rules of judging (`settings` in result.json): their "
                "numbers cannot be compared.", data,
            )  # fmt: skip
    return entries


def _remarks(group: Sequence[Entry], intrinsic: str) -> list[str]:
    """Returns sentences on the agreement of judges, and of stated with intrinsic confidence."""
    return [*agreement.judge_notes(group), *agreement.intrinsic_notes(group, intrinsic)]


def _suffixes(groups: Iterable[str]) -> dict[str, str]:
    """Returns the suffixes of the names of figures, by data set; "" if there is only one."""
    suffixes: dict[str, str] = {}
    for data in groups:
        suffix = "_" + "".join(c if c.isalnum() else "_" for c in data.lower())
        while suffix in suffixes.values():
            suffix += "_"
        suffixes[data] = suffix
    return suffixes if len(suffixes) > 1 else dict.fromkeys(suffixes, "")


def run(config: ConfigDict, mesh: Any) -> None:
    """Reads `<evaluations>/*/result.json` and writes report, table and figures into `config.output`, all or nothing.

    With `config.paper` the paper's results follow on those of its data sets that were not evaluated.

    Raises:
      FileNotFoundError, ValueError: see `load`; nothing to show; or the baseline was not evaluated.
    """
    entries = load(config) if optional(config.evaluations) is not None else []
    groups, output = by_data(entries), Path(config.output)
    if config.intrinsic and config.intrinsic not in map(agreement.method_name, entries):
        methods = sorted(set(map(agreement.method_name, entries)))
        raise ValueError(f"--config.intrinsic={config.intrinsic!r} was not evaluated; there are {methods}.")
    alone = [data for data in published.data_sets() if data not in groups] if config.paper else []
    if not entries and not alone:
        raise ValueError("--config.evaluations is empty: give a folder of evaluations, or --config.paper=true.")
    changes = report.differences(entries, config.baseline)
    remarks = {data: _remarks(group, config.intrinsic) for data, group in groups.items()}
    page = report.page(
        entries,
        changes,
        baseline=config.baseline,
        remarks=remarks,
        num_examples=config.num_examples,
        seed=config.seed,
        published_sets=alone,
    )
    rows = report.rows(entries, changes, config.baseline)
    text = "\n".join([table.render(rows)] * bool(rows) + [table.render_published(data) for data in alone])
    if entries:
        lines = [f"- {data}: {remark}" for data, sentences in remarks.items() for remark in sentences]
        text = "\n\n".join([text, *["\n".join(lines)] * bool(lines), *results.not_evaluated(Path(config.evaluations))])
    suffixes = _suffixes([*groups, *alone])
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".report-", dir=output) as name:
        folder = Path(name)
        jsonl.write_json(folder / "results.json", rows)
        (folder / "table.md").write_text(text, encoding="utf-8", errors="replace")
        (folder / "report.html").write_text(page, encoding="utf-8")
        for data, group in groups.items():
            for name, figure in report.figures(group).items():
                plots.save(figure, folder / f"{name}{suffixes[data]}")
        for data in alone:
            plots.save(report.published_figure(data), folder / f"accuracy_against_ece{suffixes[data]}")
        for path in sorted(folder.iterdir()):  # everything was made: each file takes the place of an older one
            path.replace(output / path.name)
    print(text)
    print(f"Report, results.json and figures: {output}/report.html")
