"""The paper's result tables as data, to compare ours with: arXiv 2404.00474, test sets.

For orientation only: Llama 2 7B, and the API judges of 2024, which are retired. Of some rows a stronger judge, fewer
questions (GPT-4: 1,000) or other intervals (BioASQ: Student-t over ten seeds) were used.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

NAN = float("nan")
# The published prompts of each data set are called NAME_paragraph_generation.
PROMPTS = {"TriviaQA": "trivia_qa", "Jeopardy": "jeopardy", "SciQ": "sciq", "BioASQ": "bioasq"}
# Pairs of methods whose calibration errors the paper compares.
RATIOS = (("LC RL", "LC SFT"), ("LC RL", "Factuality RL"))


@dataclasses.dataclass(frozen=True)
class Published:
    """One row: accuracy (of biographies: share of claims supported) and expected calibration error, in [0, 1]."""

    data: str
    method: str
    accuracy: float
    accuracy_low: float  # 95% interval; NaN where none was published
    accuracy_high: float
    ece: float  # 20 equal-count bins; of biographies 40
    ece_low: float
    ece_high: float


@functools.cache
def tables() -> tuple[Published, ...]:
    """Returns all rows, by data set in the order of the paper."""
    rows = json.loads(Path(__file__).with_name("published.json").read_text(encoding="utf-8"))
    return tuple(
        Published(data, method, *(NAN if number is None else number for number in numbers))
        for data, methods in rows.items()
        for method, numbers in methods.items()
    )


def by_method(data: str) -> dict[str, Published]:
    """Returns the published rows of a data set by method; {} where it has none."""
    return {row.method: row for row in tables() if row.data == data}


def data_sets() -> list[str]:
    """Returns the paper's data sets in its order."""
    return list(dict.fromkeys(row.data for row in tables()))


def rounded(value: float) -> str:
    """Returns a published number with three places, halves up as in the paper's text (.7595 is .760)."""
    return f"{math.floor(value * 1000 + 0.5 + 1e-6) / 1000:.3f}"


def ratio_notes(errors: Mapping[str, float], theirs: Mapping[str, Published]) -> list[str]:
    """Returns sentences on RATIOS, one's own next to the paper's.

    Args:
      errors: calibration errors by method; {} for the paper's ratios alone.
      theirs: published rows on the same data by method; without one of a pair, that ratio is left out.
    """
    notes = []
    for upper, lower in RATIOS:
        if {upper, lower} <= theirs.keys():
            paper = f"{theirs[upper].ece / theirs[lower].ece:.2f}"
            if not errors:
                notes.append(f"ECE of {upper} / {lower}: {paper}")
            elif {upper, lower} <= errors.keys() and errors[lower] > 0:
                notes.append(f"ECE of {upper} / {lower}: {errors[upper] / errors[lower]:.2f} (paper {paper})")
    return notes


def comparable(result: Mapping[str, Any]) -> dict[str, Published]:
    """Returns the published rows on the data of a result, by method; {} if its questions are not the paper's.

    The name of the data set must be one of the paper's, and the questions must have come from its prompts: questions of
    one's own under that name are other data. Results that do not say where questions came from go by the name.
    """
    data, questions = str(result.get("data", "")), (result.get("settings") or {}).get("questions")
    source = str((questions or {}).get("source", ""))
    if questions is not None and f":{PROMPTS.get(data)}_paragraph_generation" not in source:
        return {}
    return by_method(data)
