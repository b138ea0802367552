"""Evaluates paragraphs on questions: an annotator reads them, answers from them and is judged (paper section 6).

  questions -> paragraphs: from a file, a checkpoint or a provider's model
            -> answers that each offers -> a forecast of each -> the most probable against the truth -> metrics

Leaves `records.jsonl` (one row a question) and `result.json` (accuracy and calibration) in the output folder. Replies
are kept in a store and paragraphs in `paragraphs.jsonl`, so that a rerun goes on. JAX is imported only where a
checkpoint writes.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import logging
from ml_collections import ConfigDict

from lc_jax.data import jsonl
from lc_jax.data.questions import cell, load_training_rows, raw_questions
from lc_jax.evaluation import qa, table
from lc_jax.evaluation.summary import judged, summarize
from lc_jax.evaluation.writers import Writer
from lc_jax.llm import cost
from lc_jax.llm.annotate import Annotation
from lc_jax.llm.checks import check_asking
from lc_jax.llm.session import open_configured
from lc_jax.llm.steps import Steps
from lc_jax.preflight import check_all
from lc_jax.provenance import code_version
from lc_jax.types import Generation, Question

if TYPE_CHECKING:
    import jax


def needs_devices(config: ConfigDict) -> bool:
    """Whether a checkpoint writes."""
    return bool(config.model) and not config.dry_run


def load_questions(config: ConfigDict) -> list[Question]:
    """The questions of `config.questions`, or of the file of paragraphs itself where they have no source.

    A question without a query gets one of the plainest form; `generate_data` makes better ones.
    """
    source: dict[str, Any] = {name: value or None for name, value in config.questions.items()}
    if not source["source"]:
        if not config.paragraphs:
            raise ValueError(
                "--config.questions.source is empty: give a data set, or --config.paragraphs with questions."
            )
        source |= {"source": config.paragraphs, "split": None, "answers": None, "answers_split": None}
    rows = load_training_rows(
        source["source"], source["split"], source["answers"], source["answers_split"], source["columns"] or ""
    )
    found, _ = raw_questions(rows, source["source"])
    asked = found[: config.limit or None]
    return [q if q.prompt else dataclasses.replace(q, prompt=qa.plain_query(q.question)) for q in asked]


@dataclasses.dataclass(frozen=True)
class Work:
    """What one evaluation works with."""

    config: ConfigDict
    questions: Sequence[Question]
    writer: Writer
    steps: Steps  # the questions to the reader and judge

    def records(self, written: Mapping[str, Annotation]) -> list[qa.Record]:
        """One for each question that has a paragraph (`written`: by question_id), in order."""
        asked = [q for q in self.questions if q.question_id in written]
        good = [q for q in asked if written[q.question_id].status == "ok"]
        found = qa.evaluate(
            [Generation(q, written[q.question_id].value) for q in good],
            self.steps.ask,
            uses_confidence=self.config.uses_confidence,
            forecast_truth=self.config.forecast_truth,
        )
        read = dict(zip((q.question_id for q in good), found, strict=True))
        return [read.get(q.question_id) or qa.unwritten(q, written[q.question_id]) for q in asked]

    def settings(self) -> dict[str, Any]:
        """What the numbers depend on, for whoever reads the report."""
        config = self.config
        names = ("strategy", "temperature", "uses_confidence", "limit", "prompt_dir", "templates")
        asked = {name: config[name] for name in names}
        questions = {name: value for name, value in config.questions.items() if value}
        made = {"prompts": self.steps.wordings(), "code": code_version()}
        return {"writer": self.writer.name, **asked, "questions": questions, **made}


def _result(work: Work, records: Sequence[qa.Record]) -> dict[str, Any]:
    """The row of results.

    Raises:
      ValueError: nothing could be judged, or requests failed.
    """
    config, session = work.config, work.steps.session
    statuses = Counter(str(record.status) for record in records)
    missing = len(work.questions) - len(records)
    if missing:
        statuses["missing"] = missing
        logging.warning("%s has no paragraph for %d of %d questions.", config.paragraphs, missing, len(work.questions))
    scored = judged(records, "questions", f"{config.output}/records.jsonl", accept_failed=config.accept_failed)
    summary = summarize(
        [r.confidence for r in scored], [r.correct for r in scored], [r.kind for r in scored], seed=config.seed
    )
    row = {"method": config.method, "seed": config.seed, "judge": session.name, "data": config.data}
    spent = {"dollars": session.meter.dollars, "calls": session.meter.calls}
    return row | dataclasses.asdict(summary) | {"statuses": dict(statuses), "cost": spent, "settings": work.settings()}


def _store(config: ConfigDict) -> Path:
    """The file of replies."""
    return Path(config.store) if config.store else Path(config.output) / "replies.sqlite"


def check(config: ConfigDict) -> None:
    """Checks writer, annotator, budget, store and wordings; see lc_jax.main.

    Raises:
      Problems: a line for each setting that is wrong.
    """
    check_all(lambda: Writer.from_settings(config), lambda: check_asking(config, _store(config)))


def run(config: ConfigDict, mesh: jax.sharding.Mesh | None) -> None:
    """Evaluates the paragraphs of one method on `config.questions`.

    Raises:
      ValueError: not exactly one writer, questions or paragraphs that cannot be read, failed requests.
      AnnotatorError: no request can be answered, or the budget is spent.
    """
    writer = Writer.from_settings(config)
    output = Path(config.output)
    questions = load_questions(config)
    prompts = {q.question_id: q.prompt for q in questions}
    with open_configured(config.annotator, _store(config), budget=config.budget, dry_run=config.dry_run) as session:
        written, costs = writer.write(prompts, lambda row: cell(row, "question_id"), session, mesh)
        work = Work(config, questions, writer, Steps(qa.STEPS, session, config.prompt_dir, config.dry_run))
        records = work.records(written)
        costs += work.steps.costs
        if config.dry_run:
            print(cost.render(costs))
            return
        jsonl.write_jsonl(output / "records.jsonl", map(dataclasses.asdict, records))
        logging.info("\n%s", cost.render(costs))
        row = _result(work, records)
    jsonl.write_json(output / "result.json", row)
    logging.info("\n%s", table.render([row]))
