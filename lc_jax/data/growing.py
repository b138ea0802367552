"""A data set that grows row by row and appears whole, with a manifest that says what it was made from.

Beside OUTPUT stand, while it is made, OUTPUT.part (what was added to which row, in any order), and from the start
OUTPUT.manifest.json. OUTPUT itself appears when every row is done.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lc_jax.data import jsonl
from lc_jax.provenance import code_version, describe_changes, now

Notes = Mapping[str, Mapping[str, int]]  # step -> status -> how many


class Growing:
    """The file `path` and its companions.

    Args:
      recipe: everything that the rows depend on; a half-made file goes on only under the same.

    Raises:
      ValueError: the file was begun under another recipe.
    """

    def __init__(self, path: Path, recipe: Mapping[str, Any]) -> None:
        self.path = path
        self.part = path.with_name(path.name + ".part")
        self.manifest_path = path.with_name(path.name + ".manifest.json")
        recipe = json.loads(json.dumps(recipe))
        old = json.loads(self.manifest_path.read_text()) if self.manifest_path.exists() and self.part.exists() else {}
        before = old.get("recipe", recipe)
        changed = describe_changes(before, recipe)
        if changed:
            raise ValueError(f"{self.part} was begun otherwise: {changed}. Remove it or name another output.")
        self.added = {row["row"]: row for row in jsonl.truncate_partial_line(self.part)}
        self.part.touch()
        spent = old.get("cost", {}).get("dollars", 0.0)
        self.manifest = {"recipe": recipe, "started": old.get("started", now()), "cost": {"dollars": spent}}
        self._spent = spent
        self.note()

    def note(self, **facts: Any) -> None:
        """Puts facts into the manifest; the code's version, the counts and the time come with them."""
        self.manifest |= facts
        self.manifest |= {"code": code_version(), "statuses": self.statuses(), "updated": now()}
        jsonl.write_json(self.manifest_path, self.manifest)

    def note_cost(self, dollars: float, **facts: Any) -> None:
        """What this run has spent, on top of what former runs have."""
        self.note(cost={"dollars": self._spent + dollars, **facts})

    def add(self, row: int, columns: Mapping[str, Any], notes: Notes, problems: Sequence[Mapping[str, str]]) -> None:
        """Keeps the new columns of a row, how often its steps ended with which status, and what went wrong."""
        self.added[row] = {"row": row, "columns": columns, "notes": notes, "problems": problems}
        jsonl.append_jsonl(self.part, [self.added[row]])

    def statuses(self) -> dict[str, dict[str, int]]:
        """Step -> status -> how many, over all rows that were added."""
        totals: dict[str, Counter[str]] = {}
        for row in self.added.values():
            for step, counts in row["notes"].items():
                totals.setdefault(step, Counter()).update(counts)
        return {step: dict(counts) for step, counts in totals.items()}

    def finish(self, rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Writes `rows` with what was added to each, and the problems beside them; the rows as written."""
        whole = [{**row, **self.added[number]["columns"]} for number, row in enumerate(rows)]
        problems = [
            {"row": number, **problem} for number in range(len(whole)) for problem in self.added[number]["problems"]
        ]
        beside = self.path.with_name(self.path.name + ".problems.jsonl")
        if problems:
            jsonl.write_jsonl(beside, problems)
        else:
            beside.unlink(missing_ok=True)
        self.note(num_rows=len(whole), num_problems=len(problems), finished=now())
        jsonl.write_jsonl(self.path, whole)
        self.part.unlink()
        return whole
