"""Examples of an evaluation for a report to browse: which are shown, and why."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lc_jax.evaluation.results import Entry, Row

OVERCONFIDENT, RANDOM = "one of the most confident wrong answers", "drawn at random"  # why an example is shown
EXAMPLE_FIELDS = (
    "question",
    "entity",
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


def choose(records: Sequence[Row], limit: int, seed: int = 0) -> list[tuple[Row, str]]:
    """Returns at most `limit` records in order, each with why it is shown; all of them, without a reason, if they fit.

    Half are the most confident wrong answers, or as many as there are; the others are drawn at random from the rest.
    """
    if len(records) <= limit:
        return [(row, "") for row in records]
    wrong = [i for i, row in enumerate(records) if row["status"] == "ok" and not row["correct"]]
    why = dict.fromkeys(sorted(wrong, key=lambda i: (-records[i]["confidence"], i))[: limit // 2], OVERCONFIDENT)
    others = [i for i in range(len(records)) if i not in why]
    sample = np.random.default_rng(seed).choice(others, limit - len(why), replace=False)
    why |= dict.fromkeys(sample.tolist(), RANDOM)
    return [(records[i], why[i]) for i in sorted(why)]


def describe_choice(name: str, entry: Entry, sample: Sequence[tuple[Row, str]], seed: int) -> str:
    """Returns how the examples of one evaluation were chosen, in a line."""
    if len(sample) == len(entry.records):
        return f"{name} on {entry.data}: all {len(sample):,}."
    wrong = sum(why == OVERCONFIDENT for _, why in sample)
    return (
        f"{name} on {entry.data}: {len(sample):,} of {len(entry.records):,}, of which {wrong:,} are the most confident "
        f"wrong answers and {len(sample) - wrong:,} were drawn at random (seed {seed})."
    )


def fields(entry: Entry, name: str, row: Row, why: str) -> dict[str, Any]:
    """Returns what the report shows of a record, chosen for the reason `why`; `name` is the label of its method."""
    empty: dict[str, Any] = {"answers": [], "probs": [], "confidence": None, "correct": False}
    example = {name: empty.get(name, "") if row.get(name) is None else row[name] for name in EXAMPLE_FIELDS}
    if row["status"] != "ok":
        example["confidence"] = None  # of what was not judged: NaN in files of older versions
    return {"data": entry.data, "method": name, "why": why, **example}
