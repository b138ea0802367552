"""The paper's result tables as data, to stand beside ours: arXiv 2404.00474, test sets.

For orientation only: Llama 2 7B, and the API judges of 2024, which are retired. Of some rows a stronger judge, fewer
questions (GPT-4: 1,000) or other intervals (BioASQ: Student-t over ten seeds) were used.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path

NAN = float("nan")
FALLBACK = "TriviaQA"  # whose numbers stand beside data sets of which none were published


@dataclasses.dataclass(frozen=True)
class Published:
    """One row. Accuracy (of biographies: share of claims supported) and expected calibration error, in [0, 1]."""

    data: str
    method: str
    accuracy: float
    accuracy_low: float  # 95 % interval; NaN where none was published
    accuracy_high: float
    ece: float  # 20 equal-count bins; of biographies 40
    ece_low: float
    ece_high: float


@functools.cache
def tables() -> tuple[Published, ...]:
    """All rows, by data set in the order of the paper."""
    rows = json.loads(Path(__file__).with_name("published.json").read_text(encoding="utf-8"))
    return tuple(
        Published(data, method, *(NAN if number is None else number for number in numbers))
        for data, methods in rows.items()
        for method, numbers in methods.items()
    )


def has(data: str) -> bool:
    """Whether there are rows of this data set."""
    return any(row.data == data for row in tables())


def beside(data: str) -> dict[str, Published]:
    """The published rows of a data set by method; those of FALLBACK where it has none."""
    known = {row.method: row for row in tables() if row.data == data}
    return known or {row.method: row for row in tables() if row.data == FALLBACK}
