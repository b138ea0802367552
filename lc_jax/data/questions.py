"""Questions and rows of any data set: a local file or folder, or a hub data set by name."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from lc_jax.data.answers import ALIAS_COLUMNS, MAIN_COLUMNS, accepted_answers
from lc_jax.data.columns import at, column, distinct, hashed_id, is_missing, names_of, rename, row_id
from lc_jax.data.memo import memoise
from lc_jax.data.rows import Row, check_source, is_local, load_rows, optional
from lc_jax.prompts.query import OPENING
from lc_jax.types import Question

QUERIES = ("paragraph_generation_prompt", "prompt")  # columns of the open-ended query, in order of precedence
QUESTIONS = ("question", "body")
_MIN_SPLIT = 5  # at most every fifth question is held out for validation
# Names of our columns in other data sets, for the flag that a message suggests.
_SYNONYMS = {
    "question": ("query", "input", "problem", "clue", "text", "prompt", "instruction"),
    "answer": ("target", "solution", "label", "output", "response", "gold", "obj", "answer_text", "completion"),
    "prompt": ("instruction", "query", "question", "input", "text"),
    "completion": ("output", "response", "answer", "target", "chosen"),
    "label": ("score", "reward", "correct", "target", "is_correct"),
}

# Questions and answers that are not on the hub, by the configuration of their prompts: what to download instead.
NOT_SERVED = {
    "jeopardy_paragraph_generation": (
        "LC_JEOPARDY",
        "JEOPARDY_QUESTIONS1.json, the JSON list of 216,930 clues with `question` and `answer` that circulates under "
        "this name; the number of a row is its id, so leave its order as it is",
    ),
    "bioasq_paragraph_generation": (
        "LC_BIOASQ",
        "training12b_new.json of BioASQ's Task B (Training 12b), after registering at "
        "http://participants-area.bioasq.org/datasets/; its `questions` have `id`, `body` and `exact_answer`",
    ),
}


def check_answers(source: str | Path, answers: str | Path | None, split: str | None = None) -> None:
    """Checks that questions and answers are available for the prompts `source`.

    Args:
      answers, split: as in `load_joined_rows`. Local prompts may hold questions and answers themselves.

    Raises:
      FileNotFoundError: there is no such file, or the hub does not serve them and none was given: what to fetch.
    """
    if is_local(source) and any(map(_holds_questions, load_rows(source, optional(split)))):
        return
    if optional(answers) is not None:
        check_source(str(answers), "--config.questions.answers")
    elif problem := _not_served(source):
        raise FileNotFoundError(problem)


def _not_served(source: str | Path) -> str:
    """Returns what to download for published prompts whose questions and answers are not on the hub; "" for others."""
    name = str(source).partition("@")[0].rpartition(":")[2]
    if name not in NOT_SERVED:
        return ""
    variable, file = NOT_SERVED[name]
    return (
        f"--config.questions.answers is empty, and the hub does not serve what {source} asks about: fetch {file}. "
        f"Then give it by --config.questions.answers=FILE or {variable}=FILE."
    )


def plain_query(question: str) -> str:
    """Returns a query for a question without one; `generate_data` makes better ones."""
    return f"{OPENING}the answer to this question: {question}"


def text_cell(row: Row, names: Sequence[str]) -> str:
    """Returns the first text that is not blank in the columns `names`; "" if there is none.

    Raises:
      ValueError: a column holds something else than text.
    """
    for name in names:
        value = column(row, name)
        if is_missing(value) or (isinstance(value, str) and not value.strip()):
            continue
        if not isinstance(value, str):
            raise ValueError(f"{name} is not text")
        return value
    return ""


def question_from(row: Row, question_id: str = "") -> Question:
    """Makes the Question of a row; its `prompt` is empty if the row has none.

    Args:
      question_id: of a row that has none.

    Raises:
      ValueError: no id, question or answer, or one that is not text; the message names the field.
    """
    name, question, answers = row_id(row) or question_id, text_cell(row, QUESTIONS), accepted_answers(row)
    for field, value in (("question_id", name), ("question", question), ("answer", answers)):
        if not value:
            raise ValueError(f"missing {field}")
    kind, rate = column(row, "kind"), column(row, "empirical_rate")
    return Question(
        question_id=name,
        prompt=text_cell(row, QUERIES),
        question=question,
        answer=answers[0],
        aliases=tuple(answers[1:]),
        kind="" if is_missing(kind) else str(kind),
        empirical_rate=None if is_missing(rate) or rate == "" else _probability(rate, "empirical_rate"),
    )


def _probability(value: Any, name: str) -> float:
    """Returns the number in [0, 1] of a cell.

    Raises:
      ValueError: the cell holds something else; names the column.
    """
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not 0 <= number <= 1:
        raise ValueError(f"{name} is no probability: give a number in [0, 1]")
    return number


def join(rows: Sequence[Row], others: Iterable[Row]) -> list[dict[str, Any]]:
    """Adds to `rows` the columns of the row of `others` with the same question_id; a row's own cells have precedence.

    The id of a row of `others` without one (Jeopardy, SciQ) is its index. A row without a partner stays unchanged.

    Raises:
      ValueError: rows of `others` with one id disagree about question or answer; or no id of `others` is one of `rows`.
    """
    ids, partners = [row_id(row) for row in rows], dict[str, Row]()
    row_ids = set(ids)
    other_id = ""
    for index, other in enumerate(others):
        other_id = row_id(other) or str(index)
        first = partners.setdefault(other_id, other)
        if first is not other and other_id in row_ids and _content(first) != _content(other):
            raise ValueError(f"The id {other_id!r} is of several questions or answers that disagree: correct the ids.")
    if rows and partners and not row_ids & partners.keys():
        raise ValueError(
            f"The questions and answers have other ids than the rows: for example {other_id!r}, not {ids[0]!r}. "
            "Rows that need no other questions: leave the setting for these empty, --config.data.rows.questions= in "
            "training, --config.questions.answers= elsewhere."
        )
    return [
        {**partners.get(name, {}), **{key: cell for key, cell in row.items() if not is_missing(cell)}}
        for name, row in zip(ids, rows, strict=True)
    ]


def _content(row: Row) -> tuple[Any, list[str]]:
    return next((column(row, name) for name in QUESTIONS if column(row, name)), ""), accepted_answers(row)


def _holds_questions(row: Row) -> bool:
    return any(isinstance(column(row, name), str) for name in QUESTIONS) and bool(accepted_answers(row))


def load_joined_rows(
    source: str | Path,
    split: str | None = None,
    answers: str | Path | None = None,
    answers_split: str | None = None,
    columns: str = "",
    flags: tuple[str, str] = ("--config.questions", "answers"),
) -> list[dict[str, Any]]:
    """Loads rows with the questions and answers that published sets leave out, joined on question_id.

    `answers` is not read where rows of `source` hold question and answer themselves.

    Args:
      flags: the flag of all these settings, and the name of `answers` among them, for messages.
    """
    flag, second = flags
    rows = rename(load_rows(source, optional(split), f"{flag}.source"), optional(columns) or "", f"{flag}.columns")
    if optional(answers) is None:
        if (problem := _not_served(source)) and not any(map(_holds_questions, rows)):
            raise FileNotFoundError(problem)
        return rows
    if any(map(_holds_questions, rows)):
        logging.info("%s holds its own questions and answers; %s is not read.", source, answers)
        return rows
    assert answers is not None
    return join(rows, load_rows(answers, optional(answers_split), f"{flag}.{second}"))


@memoise
def load_training_rows(
    source: str | Path,
    split: str | None = None,
    questions: str | Path | None = None,
    questions_split: str | None = None,
    columns: str = "",
) -> list[dict[str, Any]]:
    """Loads rows of a training set, joined as `load_joined_rows` does, each with a `question_id`.

    The id of a row without one is a hash of its prompt or question, so that rows of the same text share it.
    """
    rows = load_joined_rows(source, split, questions, questions_split, columns, ("--config.data.rows", "questions"))
    return [{**row, "question_id": row_id(row) or _default_id(row, number)} for number, row in enumerate(rows)]


def _default_id(row: Row, number: int) -> str:
    """Returns an id for a row without one, from its text or else its number."""
    for name in (*QUERIES, *QUESTIONS, "messages", "conversations"):
        value = column(row, name)
        if not is_missing(value) and value:
            return hashed_id(str(value))
    return f"row {number}"


def suggest(names: Sequence[str], fields: Sequence[str]) -> str:
    """Returns a `columns` setting that may map the columns `names` to `fields`: "prompt=instruction,..."."""
    own = {name.strip().casefold(): name for name in names}
    columns = [next((own[s] for s in _SYNONYMS.get(field, ()) if s in own), "COLUMN") for field in fields]
    return ",".join(f"{field}={name}" for field, name in zip(fields, columns, strict=True))


def _refusal(rows: Sequence[Row], source: object, dropped: Mapping[str, int], flag: str) -> str:
    names = names_of(rows)
    columns = {"question": QUESTIONS, "answer": (*MAIN_COLUMNS, *ALIAS_COLUMNS)}
    fields = [name for name in columns if all(is_missing(at(row, own)) for own in columns[name] for row in rows)]
    remedy = f"Name yours with {flag}.columns={suggest(names, fields)}." if fields else "Fill them in."
    return f"{source}: no row makes a question ({dict(dropped)}); its columns are {names}. {remedy}"


def raw_questions(
    rows: Sequence[Row], source: object, *, flag: str = "--config.questions", hashed: bool = False
) -> tuple[list[Question], list[dict[str, Any]]]:
    """Makes the questions of rows, which may share ids; returns them and their rows with the published column names.

    The id of a row without one is its index. Rows without a question or an answer are left out, and their number is
    logged.

    Args:
      source: where the rows come from, for messages.
      flag: of the setting whose `columns` names columns, for messages.
      hashed: such an id is a hash of the question instead, so that it is the same in every file.

    Raises:
      ValueError: no row makes a question; the message lists the columns.
    """
    questions: list[Question] = []
    question_rows: list[dict[str, Any]] = []
    dropped: Counter[str] = Counter()
    for index, row in enumerate(rows):
        try:
            q = question_from(row, _default_id(row, index) if hashed else str(index))
        except ValueError as error:
            dropped[str(error)] += 1
            continue
        questions.append(q)
        own = {"question_id": q.question_id, "question": q.question, "ground_truth_top_answer": q.answer}
        question_rows.append({**row, **own, "aliases": list(q.aliases)})
    if dropped:
        logging.warning("%s: dropped %d of %d rows: %s", source, sum(dropped.values()), len(rows), dict(dropped))
    if not questions:
        raise ValueError(_refusal(rows, source, dropped, flag))
    return questions, question_rows


def with_distinct_ids(questions: Sequence[Question], source: object) -> list[Question]:
    """Makes the ids of questions unique (see `columns.distinct`)."""
    ids = distinct([q.question_id for q in questions], source)
    return [dataclasses.replace(q, question_id=name) for q, name in zip(questions, ids, strict=True)]


def load_raw_questions(
    source: str | Path,
    split: str | None = None,
    answers: str | Path | None = None,
    answers_split: str | None = None,
    columns: str = "",
    flag: str = "--config.questions",
) -> list[Question]:
    """Loads the questions of a data set with a query each, in order; several may share an id.

    If no row has a query, each gets `plain_query`. If some have one, rows without are dropped, since none was made for
    them. Rows that lack a cell are dropped and their number is logged.

    Args:
      source: what `load_rows` takes.
      split: the split of a data set with several.
      answers: a second source, joined on question_id, where `source` holds only prompts, as the published sets do.
      answers_split: the split of `answers`.
      columns: other names of columns (see `columns.rename`).
      flag: of this setting, for messages.

    Raises:
      ValueError: columns that are not there, or no row that makes a question.
    """
    rows = load_joined_rows(source, split, answers, answers_split, columns, (flag, "answers"))
    questions, _ = raw_questions(rows, source, flag=flag, hashed=True)
    with_query = [q for q in questions if q.prompt]
    if not with_query:
        logging.info("%s has no column %s: every question gets a plain query.", source, QUERIES[0])
        return [dataclasses.replace(q, prompt=plain_query(q.question)) for q in questions]
    if len(with_query) < len(questions):
        logging.warning("%s: dropped %d questions without a query.", source, len(questions) - len(with_query))
    return with_query


def load_questions(
    source: str | Path,
    split: str | None = None,
    limit: int | None = None,
    answers: str | Path | None = None,
    answers_split: str | None = None,
    columns: str = "",
) -> list[Question]:
    """Loads the first `limit` questions as `load_raw_questions` does, with unique ids (a, a#2, ...)."""
    questions = load_raw_questions(source, split, answers, answers_split, columns)
    return with_distinct_ids(questions if limit is None else questions[:limit], source)


@memoise
def load_train_and_validation(
    train: Mapping[str, Any], validation: Mapping[str, Any], num_validation: int, seed: int
) -> tuple[list[Question], list[Question]]:
    """Loads the questions of PPO and at most `num_validation` for its validation.

    If `validation` has no source, or the same file as `train`, questions are split off: at most a fifth, drawn by id
    with `seed`, so that the questions of one id are in one set.

    Args:
      train, validation: the arguments of `load_raw_questions`.

    Raises:
      ValueError: a question id is in both sets; see `load_raw_questions`.
    """
    questions, source = load_raw_questions(**train), optional(validation["source"])
    if source is not None and not (str(source) == str(train["source"]) and Path(source).is_file()):
        held_out = load_raw_questions(**validation, flag="--config.validation")[:num_validation]
        check_disjoint((q.question_id for q in questions), (q.question_id for q in held_out))
        return with_distinct_ids(questions, train["source"]), with_distinct_ids(held_out, source)
    ids = list(dict.fromkeys(q.question_id for q in questions))
    if len(ids) < 2:
        raise ValueError(f"{train['source']}: one question is too few to train on one and validate on another.")
    count = min(num_validation, max(len(ids) // _MIN_SPLIT, 1))
    np.random.RandomState(seed).shuffle(ids)
    validation_ids = set(ids[len(ids) - count :])
    unique = with_distinct_ids(questions, train["source"])
    sides = [q.question_id in validation_ids for q in questions]
    held_out = [q for q, is_held_out in zip(unique, sides, strict=True) if is_held_out]
    logging.info("%s: %d of %d questions are held out for validation.", train["source"], len(held_out), len(questions))
    return [q for q, is_held_out in zip(unique, sides, strict=True) if not is_held_out], held_out


def check_disjoint(train: Iterable[str], evaluation: Iterable[str]) -> None:
    """Checks that no question id is both in training and in evaluation.

    Raises:
      ValueError: some are; the message names them.
    """
    shared = sorted(set(train) & set(evaluation))
    if shared:
        raise ValueError(f"{len(shared)} question ids are both in training and in evaluation: {shared[:10]}.")
