"""Puts evaluations side by side: `results.json`, a table in the terminal and in Markdown, and the two figures."""

from __future__ import annotations

import json
from pathlib import Path

import jax
from ml_collections import ConfigDict

from lc_jax.data import jsonl
from lc_jax.evaluation import plots, table


def run(config: ConfigDict, mesh: jax.sharding.Mesh) -> None:
    """Reads `<evaluations>/*/result.json` and writes table and figures into `config.output`.

    Raises:
      FileNotFoundError: nothing was evaluated there.
      ValueError: the rows come from different judges or questions, which must not stand in one table.
    """
    folders = sorted(path.parent for path in Path(config.evaluations).glob("*/result.json"))
    if not folders:
        raise FileNotFoundError(f"No */result.json under {config.evaluations}; run configs/evaluate_qa.py first.")
    rows = [json.loads((folder / "result.json").read_text()) for folder in folders]
    for field in ("judge", "data"):
        found = sorted({row[field] for row in rows})
        if len(found) > 1:
            raise ValueError(f"Rows with different {field} cannot stand in one table: {found}.")
    output = Path(config.output)
    output.mkdir(parents=True, exist_ok=True)
    order = {name: i for i, name in enumerate(config.methods)}
    paired = sorted(zip(rows, folders, strict=True), key=lambda p: order.get(p[0]["method"], len(order)))
    rows = [row for row, _ in paired]
    (output / "results.json").write_text(json.dumps(rows, indent=1))
    text = table.render(rows)
    (output / "table.md").write_text(text)
    print(text)
    plots.accuracy_against_ece(rows, output / "accuracy_against_ece.png")
    records = {row["method"]: jsonl.read_jsonl(folder / "records.jsonl") for row, folder in paired}
    plots.reliability(records, output / "reliability.png")
    print(f"Figures and results.json: {output}")
