"""Tables for a terminal or a Markdown file."""

from __future__ import annotations

from collections.abc import Sequence


def table(rows: Sequence[Sequence[str]], *, align: str = "lr", markdown: bool = False) -> str:
    """Returns rows of text, the first of them the header, in aligned columns.

    Args:
      rows: cells of each row, the same number in all of them.
      align: "l" or "r" for each column; its last letter holds for all further columns.
      markdown: whether bars separate the columns, with a rule below the header; otherwise two spaces do.
    """
    if markdown:
        rows = [[" ".join(cell.replace("|", "\\|").split()) for cell in row] for row in rows]
    columns = list(zip(*rows, strict=True))
    sides = [align[min(i, len(align) - 1)] for i in range(len(columns))]
    widths = [max(3 if markdown else 0, *map(len, column)) for column in columns]
    pad = {"l": str.ljust, "r": str.rjust}
    lines = [[pad[s](cell, w) for cell, w, s in zip(row, widths, sides, strict=True)] for row in rows]
    if not markdown:
        return "\n".join("  ".join(line).rstrip() for line in lines)
    header, *body = [f"| {' | '.join(line)} |" for line in lines]
    rule = "|".join("-" * (w + 2) if s == "l" else "-" * (w + 1) + ":" for w, s in zip(widths, sides, strict=True))
    return "\n".join([header, f"|{rule}|", *body])
