"""Questions and rows of any data set: a local file or folder, or a hub data set by name."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import logging

from lc_jax.data.rows import Row, load_rows
from lc_jax.prompts.literals import parse_list
from lc_jax.types import Question

# Question field -> columns that may hold it, first found wins; a dot steps into a record. The published column names,
# then TriviaQA's, then BioASQ's.
COLUMNS: dict[str, tuple[str, ...]] = {
    "question_id": ("question_id", "id"),
    "paragraph_generation_prompt": ("paragraph_generation_prompt",),
    "question": ("question", "body"),
    "answer": ("ground_truth_top_answer", "answer.value", "answer", "answers", "correct_answer", "exact_answer"),
    "aliases": ("aliases", "answer.aliases", "answers", "exact_answer"),
    "kind": ("kind",),
}
_LISTS = ("answers", "exact_answer")  # columns that hold lists, in CSV files as text


def is_missing(value: object) -> bool:
    """Whether a cell holds nothing: None or NaN. An empty text is a value."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def _at(row: Row, name: str) -> Any:
    """The cell of a column; a dot steps into a record. None where there is none."""
    value: Any = row
    for step in (name,) if name in row else name.split("."):
        value = value.get(step) if isinstance(value, Mapping) else None
    return value


def cell(row: Row, field: str) -> Any:
    """What `row` holds for a Question field, by COLUMNS; None if nothing."""
    for name in COLUMNS[field]:
        value = _at(row, name)
        if is_missing(value) or isinstance(value, Mapping):
            continue
        if isinstance(value, str) and (field == "aliases" or name in _LISTS):
            return _list_or_text(value)
        return value
    return None


def _list_or_text(value: str) -> Any:
    """A list that a CSV cell holds as text, or the text."""
    try:
        return parse_list(value)
    except ValueError:
        return value


def forms(value: Any) -> list[str]:
    """The forms of an answer: a text is one form; of nested lists (BioASQ) the forms of the first come first.

    Differs: data_utils.py:process_bioasq_row takes one letter of a text and leaves a list as it is.
    """
    if is_missing(value):
        return []
    if isinstance(value, (list, tuple)):
        return [form for item in value for form in forms(item)]
    return [str(value)]


def question_from(row: Row) -> Question:
    """The Question of one row; `prompt` is empty where the row has none.

    Raises:
      ValueError: no id, question or answer; the message names the field.
    """
    found = {field: cell(row, field) for field in COLUMNS}
    answers = forms(found["answer"])
    for field, present in (
        ("question_id", found["question_id"] is not None),
        ("question", bool(found["question"])),
        ("answer", bool(answers and answers[0])),
    ):
        if not present:
            raise ValueError(f"missing {field}")
    return Question(
        question_id=str(found["question_id"]),
        prompt=str(found["paragraph_generation_prompt"] or ""),
        question=str(found["question"]),
        answer=answers[0],
        aliases=tuple(dict.fromkeys(form for form in forms(found["aliases"]) if form and form != answers[0])),
        kind=str(found["kind"] or ""),
    )


def join(rows: Sequence[Row], others: Iterable[Row]) -> list[dict[str, Any]]:
    """`rows` with the columns of the row of `others` that has the same question_id; a row's own columns win.

    Rows of `others` without an id (Jeopardy, SciQ) are known by their index. A row without a partner stays as it is.
    """
    partners = {}
    for index, other in enumerate(others):
        key = cell(other, "question_id")
        partners[str(index if key is None else key)] = other
    return [{**partners.get(str(cell(row, "question_id")), {}), **row} for row in rows]


def rename(rows: Sequence[dict[str, Any]], columns: str) -> list[dict[str, Any]]:
    """Rows whose columns have other names, with the published names added: "question=ask,answer=solution.text".

    Raises:
      ValueError: not of that form, or no row has such a column; the message names it.
    """
    if not columns:
        return list(rows)
    pairs = [pair.strip().partition("=") for pair in columns.split(",")]
    for published, equals, theirs in pairs:
        if not (published and equals and theirs):
            raise ValueError(f"columns={columns!r}: write published=yours, with commas between.")
        if rows and all(is_missing(_at(row, theirs)) for row in rows):
            raise ValueError(f"columns={columns!r}: no row has {theirs!r}; there are {sorted(rows[0])}.")
    return [{**row, **{published: _at(row, theirs) for published, _, theirs in pairs}} for row in rows]


def load_training_rows(
    source: str | Path,
    split: str | None = None,
    questions: str | Path | None = None,
    questions_split: str | None = None,
    columns: str = "",
) -> list[dict[str, Any]]:
    """Rows of a training set, joined on question_id with the questions and answers that published sets leave out.

    `columns` names columns that are called otherwise (see `rename`).
    """
    rows = rename(load_rows(source, split), columns)
    return join(rows, load_rows(questions, questions_split)) if questions else rows


def load_questions(
    source: str | Path,
    split: str | None = None,
    limit: int | None = None,
    answers: str | Path | None = None,
    answers_split: str | None = None,
    columns: str = "",
) -> list[Question]:
    """The questions of a data set, in order. Rows that lack a cell are dropped and their number is logged.

    Args:
      source: what `load_rows` takes.
      split: which split of a data set that has several.
      limit: at most this many questions, from the start.
      answers: a second source, joined on question_id, where `source` holds only prompts, as the published sets do.
      answers_split: the split of `answers`.
      columns: names of columns that are called otherwise (see `rename`).

    Raises:
      ValueError: columns that are not there, or no row that makes a question.
    """
    rows = rename(load_rows(source, split), columns)
    if answers is not None:
        rows = join(rows, load_rows(answers, answers_split))
    questions: list[Question] = []
    dropped: Counter[str] = Counter()
    for row in rows:
        if limit is not None and len(questions) >= limit:
            break
        try:
            question = question_from(row)
        except ValueError as error:
            dropped[str(error)] += 1
            continue
        if question.prompt:
            questions.append(question)
        else:
            dropped["missing paragraph_generation_prompt"] += 1
    if dropped:
        logging.warning("%s: dropped %d of %d rows: %s", source, sum(dropped.values()), len(rows), dict(dropped))
    if not questions and limit != 0:
        names = sorted(rows[0]) if rows else []
        raise ValueError(
            f"{source}: no row makes a question ({dict(dropped)}); its columns are {names}. Name them with `columns`."
        )
    return questions


def raw_questions(rows: Sequence[Row], source: object) -> tuple[list[Question], list[dict[str, Any]]]:
    """The questions of rows that need no prompt yet, and these rows under the names of the published columns.

    Rows without an id (Jeopardy, SciQ) are known by their index. Rows that lack a question or an answer are left out,
    and their number is logged.

    Args:
      source: where the rows come from, for messages.

    Raises:
      ValueError: no row makes a question.
    """
    questions: list[Question] = []
    kept: list[dict[str, Any]] = []
    dropped: Counter[str] = Counter()
    for index, row in enumerate(rows):
        named = {**row} if cell(row, "question_id") is not None else {**row, "question_id": str(index)}
        try:
            q = question_from(named)
        except ValueError as error:
            dropped[str(error)] += 1
            continue
        questions.append(q)
        own = {"question_id": q.question_id, "question": q.question, "ground_truth_top_answer": q.answer}
        kept.append({**named, **own, "aliases": list(q.aliases)})
    if dropped:
        logging.warning("%s: dropped %d of %d rows: %s", source, sum(dropped.values()), len(rows), dict(dropped))
    if not questions:
        raise ValueError(f"{source}: no row makes a question ({dict(dropped)}).")
    return questions, kept


def check_disjoint(train: Iterable[str], evaluation: Iterable[str]) -> None:
    """Refuses question ids that stand both in training and in evaluation.

    Raises:
      ValueError: names the shared ids.
    """
    shared = sorted(set(train) & set(evaluation))
    if shared:
        raise ValueError(f"{len(shared)} question ids are both in training and in evaluation: {shared[:10]}.")
