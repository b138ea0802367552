"""Accepted answers of a row, in the layouts of several data sets."""

from __future__ import annotations

import io
import itertools
import re
import tokenize
from collections.abc import Mapping
from typing import Any

from lc_jax.data.columns import at, column, is_missing
from lc_jax.data.rows import Row
from lc_jax.prompts.parsing import parse_list, parse_object

# Columns of the main answer, in order of precedence; a dot steps into a record. The published names, then those of
# TriviaQA, NQ-open, SciQ, BioASQ and PopQA.
MAIN_COLUMNS = (
    "ground_truth_top_answer",
    "answer.value",
    "answer",
    "answers",
    "correct_answer",
    "exact_answer",
    "possible_answers",
)
# Columns of aliases, all of which are read.
ALIAS_COLUMNS = ("aliases", "answer", "answers", "exact_answer", "possible_answers", "normalized_aliases")
_LIST_COLUMNS = ("aliases", "answers", "exact_answer", "possible_answers", "normalized_aliases")  # in CSV files as text
_RECORD_KEYS = (
    "value",
    "text",
    "aliases",
    "normalized_value",
    "normalized_aliases",
    "normalizedvalue",
    "normalizedaliases",
)
_ARRAY = re.compile(r"array\((\[.*?\])(?:, dtype=\w+)?\)", re.DOTALL)  # NumPy's, in a cell that pandas wrote


def parse_aliases(value: Any) -> list[str]:
    """Returns the aliases of an answer in order, without blanks and duplicates.

    A text or a number is one alias. Nested lists (BioASQ) are flattened. A record gives its value or text (SQuAD), then
    its aliases (TriviaQA).

    Differs: data_utils.py:process_bioasq_row takes one letter of a text and leaves a list as it is.
    """
    return list(dict.fromkeys(alias for alias in _flatten(value) if alias.strip()))


def _flatten(value: Any) -> list[str]:
    if is_missing(value):
        return []
    if isinstance(value, Mapping):
        return [alias for name in _RECORD_KEYS for alias in _flatten(column(value, name))]
    if isinstance(value, list | tuple):
        return [alias for item in value for alias in _flatten(item)]
    if isinstance(value, bool):
        return [str(value).lower()]
    return [str(int(value) if isinstance(value, float) and value.is_integer() else value)]


def accepted_answers(row: Row) -> list[str]:
    """Returns all accepted answers of a row, the main one first; [] if it has none.

    If a row has aliases only, the first of them is the main answer.
    """
    main = next((aliases for name in MAIN_COLUMNS if (aliases := parse_aliases(_cell(row, name)))), [])
    return list(dict.fromkeys([*main, *(alias for name in ALIAS_COLUMNS for alias in parse_aliases(_cell(row, name)))]))


def _cell(row: Row, name: str) -> Any:
    value = at(row, name)
    return parse_cell(value, is_list=name in _LIST_COLUMNS) if isinstance(value, str) else value


def parse_cell(text: str, *, is_list: bool = True) -> Any:
    """Returns the list or record that a CSV cell holds as text, or the text itself.

    Args:
      is_list: whether the column's name says that it holds lists; in others only a list of texts is parsed, since
        "[1, 2]" may be the answer itself.
    """
    start = text.lstrip()[:1]
    if start not in ("[", "{"):
        return text
    plain = _with_commas(_ARRAY.sub(r"\1", text))
    try:
        value = parse_list(plain) if start == "[" else parse_object(plain)
    except ValueError:
        return text
    return value if is_list or start == "{" or (value and all(_is_text(item) for item in value)) else text


def _is_text(item: Any) -> bool:
    return isinstance(item, str) or (isinstance(item, list) and bool(item) and all(map(_is_text, item)))


def _with_commas(text: str) -> str:
    """Inserts commas into a list of texts that NumPy wrote without them, which Python would read as one text."""
    try:
        tokens = [t for t in tokenize.generate_tokens(io.StringIO(text).readline) if t.type != tokenize.NL]
    except (tokenize.TokenError, SyntaxError, IndentationError):
        return text
    ends = {a.end for a, b in itertools.pairwise(tokens) if a.type == b.type == tokenize.STRING}
    lines = text.splitlines(keepends=True)
    for row, place in sorted(ends, reverse=True):
        lines[row - 1] = f"{lines[row - 1][:place]},{lines[row - 1][place:]}"
    return "".join(lines) if ends else text
