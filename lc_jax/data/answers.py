"""The accepted answers of a row, in whichever form its data set keeps them."""

from __future__ import annotations

import io
import itertools
import re
import tokenize
from collections.abc import Mapping
from typing import Any

from lc_jax.data.columns import at, column, is_missing
from lc_jax.data.rows import Row
from lc_jax.prompts.literals import parse_list, parse_object

# Columns of the usual form, the first that holds one; a dot steps into a record. The published names, then those of
# TriviaQA, NQ-open, SciQ, BioASQ and PopQA.
USUAL = (
    "ground_truth_top_answer",
    "answer.value",
    "answer",
    "answers",
    "correct_answer",
    "exact_answer",
    "possible_answers",
)
# Columns of more accepted forms, all of them.
MORE = ("aliases", "answer", "answers", "exact_answer", "possible_answers", "normalized_aliases")
_LISTS = ("aliases", "answers", "exact_answer", "possible_answers", "normalized_aliases")  # in CSV files as text
_PARTS = ("value", "text", "aliases", "normalized_value", "normalized_aliases", "normalizedvalue", "normalizedaliases")
_ARRAY = re.compile(r"array\((\[.*?\])(?:, dtype=\w+)?\)", re.DOTALL)  # NumPy's, in a cell that pandas wrote


def forms(value: Any) -> list[str]:
    """The forms of an answer in order, without blanks and duplicates.

    A text or a number is one form; of nested lists (BioASQ) the forms of the first come first; of a record the value or
    text (SQuAD), then the aliases (TriviaQA).

    Differs: data_utils.py:process_bioasq_row takes one letter of a text and leaves a list as it is.
    """
    return list(dict.fromkeys(form for form in _forms(value) if form.strip()))


def _forms(value: Any) -> list[str]:
    if is_missing(value):
        return []
    if isinstance(value, Mapping):
        return [form for name in _PARTS for form in _forms(column(value, name))]
    if isinstance(value, list | tuple):
        return [form for item in value for form in _forms(item)]
    if isinstance(value, bool):
        return [str(value).lower()]
    return [str(int(value) if isinstance(value, float) and value.is_integer() else value)]


def accepted(row: Row) -> list[str]:
    """All accepted answers of a row, the usual form first; [] where it has none.

    Of a row that has further forms only, such as `aliases`, the first of them is the usual one.
    """
    usual = next((names for name in USUAL if (names := forms(_cell(row, name)))), [])
    return list(dict.fromkeys([*usual, *(form for name in MORE for form in forms(_cell(row, name)))]))


def _cell(row: Row, name: str) -> Any:
    value = at(row, name)
    return parse_cell(value, is_list=name in _LISTS) if isinstance(value, str) else value


def parse_cell(text: str, *, is_list: bool = True) -> Any:
    """The list or record that a CSV cell holds as text, or the text itself.

    Args:
      is_list: whether the column holds lists by its name; of others only a list of texts is one, since "[1, 2]" may be
        the answer to a sum.
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
    """NumPy writes a list of texts without commas, which Python would read as one text."""
    try:
        tokens = [t for t in tokenize.generate_tokens(io.StringIO(text).readline) if t.type != tokenize.NL]
    except (tokenize.TokenError, SyntaxError, IndentationError):
        return text
    ends = {a.end for a, b in itertools.pairwise(tokens) if a.type == b.type == tokenize.STRING}
    lines = text.splitlines(keepends=True)
    for row, place in sorted(ends, reverse=True):
        lines[row - 1] = f"{lines[row - 1][:place]},{lines[row - 1][place:]}"
    return "".join(lines) if ends else text
