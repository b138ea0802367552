"""Evaluates paragraphs on questions: an annotator reads them, answers from them and is judged (paper section 6).

  questions -> paragraphs: from a file, a checkpoint or a provider's model
            -> answers that each offers -> a forecast of each -> the most probable against the truth -> metrics

Leaves `records.jsonl` (one row a question) and `result.json` (accuracy and calibration) in the output folder. Replies
are kept in a store and paragraphs in `paragraphs.jsonl`, so that a rerun goes on. JAX is imported only where a
checkpoint writes.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import logging
from ml_collections import ConfigDict

from lc_jax.data import jsonl
from lc_jax.data.growing import code_version, fingerprint
from lc_jax.data.questions import cell, load_training_rows, raw_questions
from lc_jax.data.rows import load_rows
from lc_jax.evaluation import qa, table
from lc_jax.evaluation.summary import summarize
from lc_jax.llm import cost
from lc_jax.llm.annotate import Annotation
from lc_jax.llm.session import Session, open_configured
from lc_jax.llm.steps import Step, Steps
from lc_jax.prompts import Prompt, strategies
from lc_jax.types import Generation, Question

if TYPE_CHECKING:
    import jax

EXPECTED = "word " * 150  # a paragraph, for the estimate of what reading it costs
MAX_TOKENS = 512  # of a paragraph that a provider's model writes


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


def read_paragraphs(path: str, column: str) -> dict[str, str]:
    """Paragraphs by question_id, or by row where rows have none.

    Raises:
      ValueError: no row has the column.
    """
    rows = load_rows(path)
    found = {}
    for index, row in enumerate(rows):
        if isinstance(row.get(column), str):
            question_id = cell(row, "question_id")
            found[str(index if question_id is None else question_id)] = row[column]
    if not found:
        names = sorted({name for row in rows for name in row})
        raise ValueError(f"{path}: no row has text in {column!r}; name its column with --config.column, of {names}.")
    return found


def _write_from_checkpoint(
    config: ConfigDict, mesh: jax.sharding.Mesh, prompt: Prompt, questions: Sequence[Question]
) -> dict[str, Annotation]:
    """Paragraphs by question_id, kept in `<output>/paragraphs.jsonl` as they are written.

    Raises:
      ValueError: that file was begun by another model or in another way.
    """
    from lc_jax.inference import writing

    path = Path(config.output) / "paragraphs.jsonl"
    names = ("model", "strategy", "temperature", "max_new_tokens", "seed")
    recipe = fingerprint([prompt.template, *(config[name] for name in names)])
    done = {row["question_id"]: row["paragraph"] for row in jsonl.repair(path)}
    if any(row.get("recipe") != recipe for row in jsonl.repair(path)):
        raise ValueError(f"{path} was written by another model or in another way: remove it or name another output.")
    todo = [q for q in questions if q.question_id not in done]
    decoding = writing.Decoding(config.max_new_tokens, config.temperature, config.seed, config.batch_size)
    texts = [prompt.render(paragraph_generation_prompt=q.prompt) for q in todo]
    for place, text, _ in writing.write(config.model, mesh, texts, decoding, config.precision):
        row = {"question_id": todo[place].question_id, "paragraph": prompt.parse(text), "recipe": recipe}
        done[row["question_id"]] = row["paragraph"]
        jsonl.append_jsonl(path, [row])
    return {question_id: Annotation("ok", text) for question_id, text in done.items()}


@dataclasses.dataclass
class Work:
    """What one evaluation works with."""

    config: ConfigDict
    mesh: jax.sharding.Mesh | None
    questions: Sequence[Question]
    session: Session  # of the reader and judge
    costs: list[tuple[str, cost.Estimate, cost.Meter | None]] = dataclasses.field(default_factory=list)  # by step

    def paragraphs(self) -> dict[str, Annotation]:
        """By question_id, from a file or from whoever writes them; questions of which a file has none are left out."""
        config = self.config
        if config.paragraphs:
            texts = read_paragraphs(config.paragraphs, config.column)
            return {
                q.question_id: Annotation("ok", texts[q.question_id]) for q in self.questions if q.question_id in texts
            }
        prompt = strategies.load(config.strategy, config.templates, config.prompt_dir, checkpoint=bool(config.model))
        if config.model and config.dry_run:
            return {q.question_id: Annotation("ok", EXPECTED) for q in self.questions}
        if self.mesh is not None:
            return _write_from_checkpoint(config, self.mesh, prompt, self.questions)
        step = Step(prompt, config.temperature, MAX_TOKENS, lambda fields: EXPECTED)
        steps = Steps({"paragraph": step}, self.session.beside(config.writer), dry_run=config.dry_run)
        found = steps.ask("paragraph", [{"paragraph_generation_prompt": q.prompt} for q in self.questions])
        written = {q.question_id: paragraph for q, paragraph in zip(self.questions, found, strict=True)}
        self.costs += steps.costs
        return written

    def records(self) -> list[qa.Record]:
        """One for each question that has a paragraph, in order."""
        config, written = self.config, self.paragraphs()
        steps = Steps(qa.STEPS, self.session, config.prompt_dir, config.dry_run)
        asked = [q for q in self.questions if q.question_id in written]
        good = [q for q in asked if written[q.question_id].status == "ok"]
        found = qa.evaluate(
            [Generation(q, written[q.question_id].value) for q in good],
            steps.ask,
            uses_confidence=config.uses_confidence,
            forecast_truth=config.forecast_truth,
        )
        self.costs += steps.costs
        read = dict(zip((q.question_id for q in good), found, strict=True))
        return [read.get(q.question_id) or qa.unwritten(q, written[q.question_id]) for q in asked]

    def settings(self) -> dict[str, Any]:
        """What the numbers depend on, for whoever reads the report."""
        config = self.config
        names = ("strategy", "temperature", "uses_confidence", "limit", "prompt_dir", "templates")
        writer = config.paragraphs or config.model or config.writer.name
        steps = Steps(qa.STEPS, self.session, config.prompt_dir)
        wordings = {name: fingerprint(steps.prompt(name).template)[:8] for name in qa.STEPS}
        questions = {name: value for name, value in config.questions.items() if value}
        asked = {name: config[name] for name in names}
        return {"writer": writer, **asked, "questions": questions, "prompts": wordings, "code": code_version()}


def _check(config: ConfigDict) -> None:
    """Preflight: exactly one writer."""
    given = [name for name in ("paragraphs", "model") if config[name]] + ["writer.name"] * bool(config.writer.name)
    if len(given) != 1:
        raise ValueError(
            "Who writes the paragraphs? Give one of --config.paragraphs=FILE, --config.model=FOLDER and "
            f"--config.writer.name=provider/model; given: {given}."
        )


def _result(work: Work, records: Sequence[qa.Record]) -> dict[str, Any]:
    """The row of results.

    Raises:
      ValueError: nothing could be judged, or requests failed.
    """
    config, output = work.config, Path(work.config.output)
    statuses = Counter(str(record.status) for record in records)
    missing = len(work.questions) - len(records)
    if missing:
        statuses["missing"] = missing
        logging.warning("%s has no paragraph for %d of %d questions.", config.paragraphs, missing, len(work.questions))
    scored = [record for record in records if record.status == "ok"]
    if statuses["failed"] and not config.accept_failed:
        detail = next(record.detail for record in records if record.status == "failed")
        raise ValueError(
            f"{statuses['failed']} of {len(records)} questions failed, for example: {detail} Nothing is lost: "
            "run again to ask only for these, or leave them out with --config.accept_failed=true."
        )
    if not scored:
        raise ValueError(f"No question could be judged ({dict(statuses)}); see {output}/records.jsonl.")
    summary = summarize(
        [r.confidence for r in scored], [r.correct for r in scored], [r.kind for r in scored], seed=config.seed
    )
    row = {"method": config.method, "seed": config.seed, "judge": work.session.name, "data": config.data}
    spent = {"dollars": work.session.meter.dollars, "calls": work.session.meter.calls}
    return row | dataclasses.asdict(summary) | {"statuses": dict(statuses), "cost": spent, "settings": work.settings()}


def run(config: ConfigDict, mesh: jax.sharding.Mesh | None) -> None:
    """Evaluates the paragraphs of one method on `config.questions`.

    Raises:
      ValueError: not exactly one writer, questions or paragraphs that cannot be read, failed requests.
      AnnotatorError: no request can be answered, or the budget is spent.
    """
    _check(config)
    output = Path(config.output)
    store = Path(config.store) if config.store else output / "replies.sqlite"
    questions = load_questions(config)
    with open_configured(config.annotator, store, budget=config.budget, dry_run=config.dry_run) as session:
        work = Work(config, mesh, questions, session)
        records = work.records()
        if config.dry_run:
            print(cost.render(work.costs))
            return
        jsonl.write_jsonl(output / "records.jsonl", map(dataclasses.asdict, records))
        logging.info("\n%s", cost.render(work.costs))
        row = _result(work, records)
    (output / "result.json").write_text(json.dumps(row, indent=1))
    logging.info("\n%s", table.render([row]))
