"""Puts evaluations side by side: a report to open in a browser, `results.json`, a table in Markdown, and figures.

Whatever left `result.json` and `records.jsonl` can be shown: questions or biographies, of several data sets.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from lc_jax.data import jsonl
from lc_jax.evaluation import plots, report, table
from lc_jax.evaluation.report import Entry


def needs_devices(config: ConfigDict) -> bool:
    """Never."""
    return False


def read(folder: Path) -> Entry:
    """The evaluation in a folder.

    Raises:
      ValueError: result.json lacks a field that a report needs.
    """
    path = folder / "result.json"
    row = json.loads(path.read_text(encoding="utf-8"))
    missing = [name for name in ("method", "data", "judge", "seed", "accuracy", "ece") if name not in row]
    if missing:
        raise ValueError(f"{path} lacks {missing}; evaluate {folder} again.")
    return Entry(row, jsonl.read_jsonl(folder / "records.jsonl"))


def run(config: ConfigDict, mesh: Any) -> None:
    """Reads `<evaluations>/*/result.json` and writes report, table and figures into `config.output`.

    Raises:
      FileNotFoundError: nothing was evaluated there.
      ValueError: the rows come from different judges, which must not stand in one table unless the config allows it.
    """
    folders = sorted(path.parent for path in Path(config.evaluations).glob("*/result.json"))
    if not folders:
        raise FileNotFoundError(f"No */result.json under {config.evaluations}; run configs/evaluate_qa.py first.")
    order = {name: i for i, name in enumerate(config.methods)}
    entries = sorted(map(read, folders), key=lambda entry: order.get(entry.method, len(order)))
    judges = sorted({entry.result["judge"] for entry in entries})
    if len(judges) > 1 and not config.allow_different_judges:
        raise ValueError(
            f"Different judges cannot stand in one table: {judges}. Evaluate with one of them, or show them all "
            "the same with --config.allow_different_judges=true."
        )
    if len(judges) > 1:
        entries = [Entry({**e.result, "method": f"{e.method} (judge {e.result['judge']})"}, e.records) for e in entries]
    rows = [entry.result for entry in entries]
    output = Path(config.output)
    output.mkdir(parents=True, exist_ok=True)
    (output / "results.json").write_text(json.dumps(rows, indent=1))
    text = table.render(rows)
    (output / "table.md").write_text(text)
    print(text)
    groups = report.by_data(entries)
    for data, group in groups.items():
        of_data = "" if len(groups) == 1 else "_" + "".join(c if c.isalnum() else "_" for c in data.lower())
        for name, figure in report.figures(group).items():
            plots.save(figure, output / f"{name}{of_data}")
    page = report.page(entries, baseline=config.baseline, num_examples=config.num_examples)
    (output / "report.html").write_text(page, encoding="utf-8")
    print(f"Report, results.json and figures: {output}/report.html")
