"""Results as a Markdown table that also reads well in a terminal, with the paper's TriviaQA numbers beside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

# Paper, table 2: TriviaQA test, accuracy and ECE. For orientation: another world, another reader.
PUBLISHED = {
    "Llama 2 7B 8-shot": (0.619, 0.381),
    "Claude Distill": (0.609, 0.391),
    "Factuality SFT": (0.612, 0.388),
    "Factuality RL": (0.633, 0.367),
    "Llama 2 7B summary 8-shot": (0.614, 0.257),
    "LC SFT": (0.610, 0.166),
    "LC RL": (0.647, 0.108),
}
HEADER = (
    "method",
    "questions",
    "accuracy",
    "95 %",
    "ECE",
    "95 %",
    "noise floor",
    "Brier",
    "constant",
    "AUROC",
    "values",
    "paper acc.",
    "paper ECE",
)


def _row(row: Mapping[str, Any]) -> list[str]:
    paper = PUBLISHED.get(row["method"])
    return [
        row["method"],
        str(row["num_questions"]),
        f"{row['accuracy']:.3f}",
        f"{row['accuracy_low']:.3f}-{row['accuracy_high']:.3f}",
        f"{row['ece']:.3f}",
        f"{row['ece_low']:.3f}-{row['ece_high']:.3f}",
        f"{row['ece_noise_floor']:.3f}",
        f"{row['brier']:.3f}",
        f"{row['brier_constant']:.3f}",
        f"{row['auroc']:.3f}",
        str(row["num_confidence_values"]),
        *(f"{value:.3f}" for value in paper or ()),
        *(() if paper else ("", "")),
    ]


def markdown(cells: Sequence[Sequence[str]]) -> str:
    """Rows (the first is the header) as an aligned Markdown table."""
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]

    def line(row: Sequence[str]) -> str:
        return "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"

    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([line(cells[0]), rule, *map(line, cells[1:])])


def render(rows: Sequence[Mapping[str, Any]]) -> str:
    """The methods' table, then each method's stated confidence and accuracy by kind of question."""
    parts = [markdown([list(HEADER), *map(_row, rows)])]
    kinds = sorted({k["kind"] for row in rows for k in row["kinds"]})
    if kinds:
        cells = [["confidence / accuracy", *(row["method"] for row in rows)]]
        for kind in kinds:
            found = [next((k for k in row["kinds"] if k["kind"] == kind), None) for row in rows]
            cells.append([kind, *(f"{k['confidence']:.2f} / {k['accuracy']:.2f}" if k else "" for k in found)])
        cells.append(["correlation over kinds", *(f"{row['kind_correlation']:.2f}" for row in rows)])
        parts.append(markdown(cells))
    return "\n\n".join(parts) + "\n"
