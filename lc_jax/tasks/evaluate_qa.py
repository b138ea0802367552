"""Evaluates paragraphs on questions: an annotator reads them, answers from them and is judged (paper section 6).

  questions -> paragraphs: from a file, a checkpoint or a provider's model
            -> answers that each offers -> a forecast of each -> the most probable against the truth -> metrics

Leaves `records.jsonl` (one row a question) and `result.json` (accuracy and calibration) in the output folder. Replies
are kept in a store and paragraphs in `paragraphs.jsonl`, so that a rerun resumes. JAX is imported only where a
checkpoint writes.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import logging
from ml_collections import ConfigDict

from lc_jax.data.columns import pair, row_id
from lc_jax.data.memo import memoise
from lc_jax.data.questions import check_answers, load_joined_rows, plain_query, raw_questions, with_distinct_ids
from lc_jax.data.rows import load_rows, optional
from lc_jax.evaluation import outputs, qa, table
from lc_jax.evaluation.summary import judged, summarize
from lc_jax.evaluation.writers import Writer, paragraphs_of
from lc_jax.llm import cost
from lc_jax.llm.annotate import Annotation, AnnotationTasks
from lc_jax.llm.checks import check_asking
from lc_jax.llm.session import open_configured, store_path
from lc_jax.preflight import NATURAL, NON_NEGATIVE, check_all, check_sampling, check_settings
from lc_jax.short_answers import matching
from lc_jax.types import Generation, Question

if TYPE_CHECKING:
    import jax


def needs_devices(config: ConfigDict) -> bool:
    """Returns whether a checkpoint writes."""
    return optional(config.model) is not None and not config.dry_run


def check(config: ConfigDict) -> None:
    """Checks numbers, writer, annotators, budget, store, wordings, questions and paragraphs; see lc_jax.main.

    Raises:
      Problems: a line for each setting that is wrong.
    """
    check_all(
        lambda: check_sampling(config),
        lambda: check_settings("", config, judge_temperature=NON_NEGATIVE, limit=NATURAL),
        lambda: Writer.from_settings(config),
        lambda: check_asking(config, store_path(config, config.output)),
        lambda: _check_data(config),
    )


def _check_data(config: ConfigDict) -> None:
    """Checks where questions and answers are, and reads the user's file of paragraphs with its questions."""
    if optional(config.questions.source) is not None:
        check_answers(config.questions.source, config.questions.answers, config.questions.split)
    if optional(config.paragraphs) is not None:
        load_items(config)
    elif optional(config.questions.source) is None:
        _load_rows(config)  # says what to give


def run(config: ConfigDict, mesh: jax.sharding.Mesh | None) -> None:
    """Evaluates the paragraphs of one method on `config.questions`.

    Raises:
      ValueError: not exactly one writer, questions or paragraphs that cannot be read, failed requests.
      AnnotatorError: no request can be answered, or the budget is spent.
    """
    writer, store = Writer.from_settings(config), store_path(config, config.output)
    items = load_items(config) if writer.paragraphs else None
    questions = [] if items else with_distinct_ids(load_questions(config), config.questions.source)
    with open_configured(config.annotator, store, budget=config.budget, dry_run=config.dry_run) as session:
        costs: cost.Costs = []
        if items is None:
            paragraphs, costs = writer.write({q.question_id: q.prompt for q in questions}, session, mesh)
            items = Items(questions, list(paragraphs.values()), list(paragraphs))
        sessions = session.with_roles(config.annotators, config.dry_run)
        protocol = qa.Protocol.from_settings(config).tasks()
        tasks = AnnotationTasks(protocol, session, config.prompt_dir, dry_run=config.dry_run, sessions=sessions)
        records = _evaluate(config, items, tasks)
        costs += tasks.costs()
        if config.dry_run:
            print(cost.render(costs))
            return
        outputs.write_records(config.output, records, costs)
        row = _result(config, items, records, writer, tasks)
    table.publish(Path(config.output), row)


@dataclasses.dataclass(frozen=True)
class Items:
    """Paragraphs under evaluation, with their questions."""

    questions: list[Question]  # one for each paragraph, no two of the same question_id
    paragraphs: list[Annotation]
    clusters: list[str]  # the id of each question in its file: paragraphs of one question are not independent
    num_missing: int = 0  # questions without a paragraph

    def __post_init__(self) -> None:
        """Marks empty paragraphs as invalid: they are counted, and have no score."""
        for place, paragraph in enumerate(self.paragraphs):
            if paragraph.status == "ok" and not paragraph.value.strip():
                self.paragraphs[place] = Annotation("invalid", detail="the paragraph is empty")


@memoise
def load_items(config: ConfigDict) -> Items:
    """Returns questions with the paragraphs of a file: from one row, or from rows with the same id in two files.

    A question with several paragraphs is evaluated once for each.

    Raises:
      ValueError: no text in the column, or ids that do not say which paragraph belongs to which question.
    """
    is_own = optional(config.questions.source) is None
    try:
        rows = _load_rows(config)
    except ValueError as error:
        raise ValueError(f"{error}{'' if is_own else _own_questions(config)}") from error
    if is_own:
        paragraphs_of(rows, config.paragraphs, config.column)  # rejects a wrong column before anything else
    questions, rows = raw_questions(rows, _source(config))
    questions = _with_queries(questions, config.limit)
    if is_own:
        paragraphs = paragraphs_of(rows, config.paragraphs, config.column)
        return _items(list(zip(questions, paragraphs, strict=False)), config.paragraphs)
    paragraph_rows = load_rows(config.paragraphs, flag="--config.paragraphs")
    texts = paragraphs_of(paragraph_rows, config.paragraphs, config.column)
    ids = [row_id(row) or str(index) for index, row in enumerate(paragraph_rows)]
    names = [row["question_id"] for row in rows]
    try:
        partners = pair(names, ids, f"questions in {config.questions.source}", f"paragraphs in {config.paragraphs}")
    except ValueError as error:
        raise ValueError(f"{error}{_own_questions(config)}") from error
    pairs: list[tuple[Question, Annotation | None]] = []
    for q, places in zip(questions, partners, strict=False):
        pairs += [(q, texts[place]) for place in places if texts[place] is not None] or [(q, None)]
    return _items(pairs, config.paragraphs)


def _items(pairs: Sequence[tuple[Question, Annotation | None]], source: object) -> Items:
    """Returns the pairs that have a paragraph; `source` names the questions in messages."""
    with_text = [(q, paragraph) for q, paragraph in pairs if paragraph is not None]
    questions = with_distinct_ids([q for q, _ in with_text], source)
    ids = [q.question_id for q, _ in with_text]
    return Items(questions, [paragraph for _, paragraph in with_text], ids, len(pairs) - len(with_text))


def load_questions(config: ConfigDict) -> list[Question]:
    """Returns the questions of `config.questions`, or of the file of paragraphs where they have no source.

    A question without a query gets one of the plainest form; `generate_data` makes better ones.
    """
    questions, _ = raw_questions(_load_rows(config), _source(config))
    return _with_queries(questions, config.limit)


def _with_queries(questions: Sequence[Question], limit: int) -> list[Question]:
    return [
        q if q.prompt else dataclasses.replace(q, prompt=plain_query(q.question)) for q in questions[: limit or None]
    ]


def _load_rows(config: ConfigDict) -> list[dict[str, Any]]:
    """Returns the rows of the questions."""
    source: dict[str, Any] = dict(config.questions)
    if optional(source["source"]) is None:
        if not config.paragraphs:
            raise ValueError(
                "--config.questions.source is empty, and a model needs questions to write about: give "
                "--config.questions.source=questions.jsonl (rows of `question` and `answer`), or the paragraphs of a "
                "file with --config.paragraphs."
            )
        source |= {"source": config.paragraphs, "split": None, "answers": None, "answers_split": None}
    return load_joined_rows(**source)


def _source(config: ConfigDict) -> str:
    return optional(config.questions.source) or config.paragraphs


def _own_questions(config: ConfigDict) -> str:
    """Returns advice for a file of paragraphs whose rows hold questions and answers; "" for others."""
    try:
        raw_questions(load_rows(config.paragraphs, flag="--config.paragraphs"), config.paragraphs)
    except (OSError, ValueError):
        return ""
    return f" The rows of {config.paragraphs} hold question and answer: --config=configs/evaluate_qa.py:own uses them."


def _evaluate(config: ConfigDict, items: Items, tasks: AnnotationTasks) -> list[qa.Record]:
    """Returns a record for each of the items, in order."""
    pairs = list(zip(items.questions, items.paragraphs, strict=True))
    generations = [Generation(q, paragraph.value) for q, paragraph in pairs if paragraph.status == "ok"]
    options = {name: config[name] for name in ("uses_confidence", "forecast_truth", "judge_matches")}
    if tasks.session_of("equivalence").name.startswith("rules/"):
        options["matches"] = matching.matches  # the judge's own rule, for aliases too
    records = tasks.session.run(qa.evaluate_all(generations, tasks.ask, tasks.session.map, **options))
    by_id = {record.question_id: record for record in records}
    return [by_id.get(q.question_id) or qa.without_paragraph(q, paragraph) for q, paragraph in pairs]


def _result(
    config: ConfigDict, items: Items, records: Sequence[qa.Record], writer: Writer, tasks: AnnotationTasks
) -> dict[str, Any]:
    """Returns the row of results.

    Raises:
      ValueError: nothing could be judged, or requests failed.
    """
    statuses = Counter(str(record.status) for record in records)
    if items.num_missing:
        statuses["missing"] = items.num_missing
        total = items.num_missing + len(records)
        logging.warning("%s has no paragraph for %d of %d.", config.paragraphs, items.num_missing, total)
    scored = judged(records, "questions", f"{config.output}/records.jsonl", accept_failed=config.accept_failed)
    clusters = dict(zip((q.question_id for q in items.questions), items.clusters, strict=True))
    are_clustered = len(set(items.clusters)) < len(clusters)
    summary = summarize(
        [r.confidence for r in scored],
        [bool(r.correct) for r in scored],
        [r.kind for r in scored],
        clusters=[clusters[r.question_id] for r in scored] if are_clustered else None,
        seed=config.seed,
    )
    num_unread = sum(not record.answers for record in scored)
    reader = tasks.session_of("eval_extract").name
    notes = outputs.unread_notes(reader, "answer", num_unread, len(scored), "paragraphs")
    summary = dataclasses.replace(summary, notes=(*summary.notes, *notes))
    names = {"method": config.method, "seed": config.seed, "data": _data_name(config)}
    return outputs.result_row(summary, statuses, writer, tasks, names=names, settings=_settings(config))


def _data_name(config: ConfigDict) -> str:
    """Returns the name of the questions in tables: `config.data`, or the name of their file."""
    return config.data or Path(_source(config)).stem


def _settings(config: ConfigDict) -> dict[str, Any]:
    """Returns the settings on which the numbers depend, for the report."""
    names = ["strategy", "temperature", "uses_confidence", "limit", "prompt_dir", "templates"]
    names += ["judge_matches", "judge_temperature"]
    questions = {name: value for name, value in config.questions.items() if optional(value) is not None}
    return {name: config[name] for name in names} | {"wording": dict(config.wording), "questions": questions}
