"""Resumable datasets: rows are completed one by one, and the file appears when all are done.

Until then OUTPUT.part has the new columns of the completed rows, in any order. OUTPUT.manifest.json, written from the
start, records the specification, costs and counts.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lc_jax.data import jsonl
from lc_jax.provenance import code_version, describe_changes, now

StepCounts = Mapping[str, Mapping[str, int]]  # step -> status -> number of requests


class ResumableDataset:
    """Dataset at `path`, with its partial file and its manifest.

    Args:
      spec: everything that determines the rows; a partial file can be resumed only with the same.

    Raises:
      ValueError: there is a partial file with another `spec`.
    """

    def __init__(self, path: Path, spec: Mapping[str, Any]) -> None:
        self.path = path
        self._part = path.with_name(path.name + ".part")
        self._manifest_path = path.with_name(path.name + ".manifest.json")
        spec = json.loads(json.dumps(spec))
        resumes = self._manifest_path.exists() and self._part.exists()
        old = json.loads(self._manifest_path.read_text()) if resumes else {}
        changed = describe_changes(old.get("spec", spec), spec)
        if changed:
            raise ValueError(f"{self._part} was begun otherwise: {changed}. Remove it or name another output.")
        self.completed = {row["row"]: row for row in jsonl.truncate_partial_line(self._part)}  # by number of the row
        self._part.touch()
        self._earlier_cost = old.get("cost", {}).get("dollars", 0.0)  # dollars
        self._manifest = {"spec": spec, "started": old.get("started", now()), "cost": {"dollars": self._earlier_cost}}
        self._update_manifest()

    def _update_manifest(self, **facts: Any) -> None:
        self._manifest |= facts
        self._manifest |= {"code": code_version(), "statuses": self.count_statuses(), "updated": now()}
        jsonl.write_json(self._manifest_path, self._manifest)

    def record_cost(self, dollars: float, **usage: Any) -> None:
        """Records the cost of this run in the manifest, in addition to that of earlier runs."""
        self._update_manifest(cost={"dollars": self._earlier_cost + dollars, **usage})

    def add(
        self, row: int, columns: Mapping[str, Any], counts: StepCounts, problems: Sequence[Mapping[str, str]]
    ) -> None:
        """Stores the new columns of a row, the statuses of its requests, and its problems."""
        self.completed[row] = {"row": row, "columns": columns, "notes": counts, "problems": problems}
        jsonl.append_jsonl(self._part, [self.completed[row]])

    def count_statuses(self) -> dict[str, dict[str, int]]:
        """Returns step -> status -> number of requests, over all completed rows."""
        totals: dict[str, Counter[str]] = {}
        for row in self.completed.values():
            for step, counts in row["notes"].items():
                totals.setdefault(step, Counter()).update(counts)
        return {step: dict(counts) for step, counts in totals.items()}

    def finish(self, rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Writes `rows` with their new columns, and the problems in a file of their own; returns the written rows."""
        table = [{**row, **self.completed[number]["columns"]} for number, row in enumerate(rows)]
        problems = [
            {"row": number, **problem} for number in range(len(table)) for problem in self.completed[number]["problems"]
        ]
        problems_path = self.path.with_name(self.path.name + ".problems.jsonl")
        if problems:
            jsonl.write_jsonl(problems_path, problems)
        else:
            problems_path.unlink(missing_ok=True)
        self._update_manifest(num_rows=len(table), num_problems=len(problems), finished=now())
        jsonl.write_jsonl(self.path, table)
        self._part.unlink()
        return table
