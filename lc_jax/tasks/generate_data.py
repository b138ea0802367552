"""Makes training data from questions, one column family at a time, in the published columns (paper section 4).

  queries         questions -> `paragraph_generation_prompt`; Jeopardy! clues are rephrased first
  paragraphs      + `icl_generated_paragraphs` (M samples), or one paragraph in the column that is named
  summaries       + `claude_summary`: the annotator merges the M paragraphs into one that states its confidence
  claude_distill  + `claude_generated_paragraph`: the annotator writes the paragraph itself
  forecasts       + `lc_sft_ground_truth_and_extracted_answers`, `lc_sft_forecasted_probs`
  correctness     + `factuality_sft_binary_correctness`

Rows are stored as they come, and a rerun resumes. A row that the annotator could not do has a missing value, which the
training recipes drop with a count; OUTPUT.problems.jsonl says why. Replies that failed (the server was down) are
asked for again by the next run.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
from absl import logging
from ml_collections import ConfigDict

from lc_jax import prompts
from lc_jax.data.columns import column, is_missing, pair, rename, row_id
from lc_jax.data.questions import load_joined_rows, load_raw_questions, raw_questions
from lc_jax.data.resumable import ResumableDataset
from lc_jax.data.rows import load_rows, optional
from lc_jax.data.tokenizer import load_templates_for
from lc_jax.inference import writing
from lc_jax.llm import cost
from lc_jax.llm.annotate import Annotation, AnnotationTasks, Fields
from lc_jax.llm.checks import check_asking
from lc_jax.llm.concurrency import gather
from lc_jax.llm.data_tasks import data_tasks
from lc_jax.llm.session import open_configured, store_path
from lc_jax.models import released
from lc_jax.preflight import NATURAL, POSITIVE_INT, check_all, check_sampling, check_settings
from lc_jax.prompts import in_context, published, query, strategies, summarize
from lc_jax.prompts.parsing import first_paragraph, parse_list, strip_reasoning
from lc_jax.provenance import fingerprint
from lc_jax.types import Question

RECORD = "{output}.run.json"

Row = dict[str, Any]


Outcome = tuple[str, Annotation]  # (name of the annotation task, what came of it)
Result = tuple[Row, list[Outcome]]  # the new columns of a row, and what they were made from


@dataclasses.dataclass
class Work:
    """Inputs of a stage."""

    config: ConfigDict
    mesh: jax.sharding.Mesh
    questions: Sequence[Question]  # of the rows, in order
    rows: Sequence[Row]
    todo: Sequence[int]  # numbers of the rows that are not done yet
    tasks: AnnotationTasks | None  # None: no annotator is needed

    async def ask(self, task: str, fields: Fields) -> Annotation:
        """Returns the annotation of one row."""
        assert self.tasks is not None
        return await self.tasks.ask(task, fields)

    def input(self, row: int, name: str) -> Any:
        """Returns the value of a column that a stage before this one made; None where it is missing."""
        value = column(self.rows[row], name)
        return None if is_missing(value) else value


async def queries(work: Work, row: int) -> Result:
    """An open-ended query that does not give the answer away; with `config.clues` of the clue made a question."""
    q = work.questions[row]
    fields = query.request_fields(q.question, [q.answer, *q.aliases])
    outcomes: list[Outcome] = []
    columns: Row = {}
    if work.config.clues:
        clue = await work.ask("clue", {"category": str(work.rows[row].get("category") or ""), **fields})
        outcomes.append(("clue", clue))
        if clue.status != "ok":
            return {"paragraph_generation_prompt": None}, outcomes
        columns["rephrased_question"] = clue.value or ""
        fields = {**fields, "question": columns["rephrased_question"]}
    annotation = await work.ask("query", fields)
    return {"paragraph_generation_prompt": annotation.value} | columns, [*outcomes, ("query", annotation)]


def _is_few_shot(config: ConfigDict) -> bool:
    """Returns whether the examples for the checkpoint are of short answers: those of few_shot.txt in `prompt_dir`."""
    return config.in_context and strategies.of_base_model(config.prompt_dir) == strategies.FEW_SHOT


def _template(config: ConfigDict) -> prompts.Prompt:
    """Returns the prompt template for the checkpoint."""
    if _is_few_shot(config):
        return strategies.load(strategies.FEW_SHOT, config.templates, config.prompt_dir, checkpoint=True)
    if config.in_context:
        return published.override(config.prompt_dir, "in_context", in_context.PROMPT)
    return load_templates_for(config.model, config.templates, config.prompt_dir).paragraph


def paragraphs(work: Work) -> Iterator[tuple[int, Result]]:
    """Samples `num_samples` paragraphs a question from `config.model`, cut at the first blank line of base models.

    Short answers (few_shot.txt in `prompt_dir`) end at the first line break.
    Goes into `config.column`: a list, or the one paragraph when num_samples is 1.
    """
    config, num_samples = work.config, work.config.num_samples
    template = _template(config)
    questions = [(row, q) for row in work.todo if (q := work.questions[row]).prompt]
    released.warn_of_wording(config.model, template)
    texts = [
        template.prompt_text(paragraph_generation_prompt=q.prompt) for _, q in questions for _ in range(num_samples)
    ]
    ids = [row * num_samples + sample for row, _ in questions for sample in range(num_samples)]
    numbers = (config.max_new_tokens, config.temperature, config.seed, config.batch_size, config.top_p)
    decoding = writing.Decoding(*numbers, one_line=_is_few_shot(config))
    completions = writing.write(config.model, work.mesh, texts, decoding, config.precision, ids)
    samples: dict[int, dict[int, Annotation]] = {row: {} for row, _ in questions}
    for i, text, finished, _ in completions:
        row, sample = divmod(ids[i], num_samples)
        answer = strip_reasoning(text)
        if answer is not None and config.first_paragraph:
            finished = finished or "\n\n" in answer.strip()
            answer = first_paragraph(answer)
        is_whole = answer is not None and finished
        samples[row][sample] = Annotation("ok" if is_whole else "truncated", answer and answer.strip())
        if len(samples[row]) == num_samples:
            annotations = [samples[row][number] for number in range(num_samples)]
            values = [annotation.value for annotation in annotations]
            columns = {config.column: values if num_samples > 1 else values[0]}
            yield row, (columns, [("sample", annotation) for annotation in annotations])
            del samples[row]


async def _one_column(work: Work, task: str, fields: Fields, column: str) -> Result:
    annotation = await work.ask(task, fields)
    return {column: annotation.value}, [(task, annotation)]


async def summaries(work: Work, row: int) -> Result | None:
    """Summary distillation: the consensus of the sampled paragraphs, with percentages."""
    value, q = work.input(row, "icl_generated_paragraphs"), work.questions[row]
    if value is None or not q.prompt:
        return None
    texts = [str(text) for text in (parse_list(value) if isinstance(value, str) else value) if text is not None]
    fields = {"paragraph_generation_prompt": q.prompt, "paragraphs": summarize.join_paragraphs(texts)}
    return await _one_column(work, "summarize", fields, "claude_summary")


async def distilled(work: Work, row: int) -> Result | None:
    """The annotator's own paragraph."""
    q = work.questions[row]
    if not q.prompt:
        return None
    fields = {"paragraph_generation_prompt": q.prompt}
    return await _one_column(work, "claude_distill", fields, "claude_generated_paragraph")


ANSWERS, PROBS = "lc_sft_ground_truth_and_extracted_answers", "lc_sft_forecasted_probs"


async def forecasts(work: Work, row: int) -> Result | None:
    """Every answer that a paragraph offers, then a probability for the true answer (first) and for each of them."""
    text, q = work.input(row, "lc_sft_generated_paragraph"), work.questions[row]
    if text is None:
        return None
    fields = {"generated_paragraph": str(text), "question": q.question}
    extraction = await work.ask("extract", fields)
    if extraction.status != "ok":
        return {ANSWERS: None, PROBS: None}, [("extract", extraction)]
    answers = [q.answer, *extraction.value]
    probs = await gather(*(work.ask("forecast", fields | {"answer": answer}) for answer in answers))
    columns = {ANSWERS: answers, PROBS: [annotation.value for annotation in probs]}
    return columns, [("extract", extraction), *(("forecast", annotation) for annotation in probs)]


async def correctnesses(work: Work, row: int) -> Result | None:
    """Returns whether a reader of the paragraph would give the true answer: 1 or 0."""
    text, q = work.input(row, "factuality_sft_generated_paragraph"), work.questions[row]
    if text is None:
        return None
    fields = {"generated_paragraph": str(text), "question": q.question, "answer": q.answer}
    return await _one_column(work, "correctness", fields, "factuality_sft_binary_correctness")


@dataclasses.dataclass(frozen=True)
class Stage:
    """One thing to make."""

    columns: tuple[str, ...]  # that it adds; a row that it could not do has them without a value
    tasks: tuple[str, ...] = ()  # questions to the annotator; (): a checkpoint writes
    # Makes the columns of one row of a stage with an annotator; None: the row lacks what they are made from.
    make: Callable[[Work, int], Coroutine[Any, Any, Result | None]] | None = None


STAGES = {
    "queries": Stage(("paragraph_generation_prompt",), ("clue", "query"), queries),
    "paragraphs": Stage(()),
    "summaries": Stage(("claude_summary",), ("summarize",), summaries),
    "claude_distill": Stage(("claude_generated_paragraph",), ("claude_distill",), distilled),
    "forecasts": Stage((ANSWERS, PROBS), ("extract", "forecast"), forecasts),
    "correctness": Stage(("factuality_sft_binary_correctness",), ("correctness",), correctnesses),
}


def _questions(config: ConfigDict) -> tuple[Sequence[Question], Sequence[Row]]:
    """The questions and the rows to work on: of `config.questions`, or the rows' own if that has no source.

    Raises:
      ValueError: a row of `config.input` belongs to no question.
    """
    source: dict[str, Any] = dict(config.questions)
    has_source, columns = optional(source["source"]) is not None, optional(source["columns"]) or ""
    limit = config.limit or None
    if optional(config.input) is None and not has_source:
        raise ValueError("No questions: give --config.input=FILE or --config.questions.source=DATA.")
    rows = None
    if optional(config.input) is not None:
        rows = rename(load_rows(config.input, flag="--config.input"), columns)[:limit]
    if config.what == "queries" or not has_source:
        if rows is None:
            rows = load_joined_rows(**source)
        return raw_questions(rows[:limit], optional(config.input) or source["source"])
    questions = load_raw_questions(**source)
    if rows is None:
        questions = questions[:limit]
        return questions, [{"question_id": q.question_id, "paragraph_generation_prompt": q.prompt} for q in questions]
    return [questions[place] for place in _partners(rows, questions, config)], rows


def _partners(rows: Sequence[Row], questions: Sequence[Question], config: ConfigDict) -> list[int]:
    """Returns the place of each row's question in `questions`.

    Raises:
      ValueError: a row belongs to no question, or nothing says to which of several.
    """
    ids = [row_id(row) for row in rows]
    partners = pair(
        ids, [q.question_id for q in questions], f"rows of {config.input}", f"questions of {config.questions.source}"
    )
    unknown = [name for name, places in zip(ids, partners, strict=True) if not places]
    if unknown:
        raise ValueError(
            f"{config.input}: question_id {unknown[0]!r} (and {len(unknown) - 1} more) not among the questions."
        )
    several = [name for name, places in zip(ids, partners, strict=True) if len(places) > 1]
    if several:
        raise ValueError(f"{config.questions.source}: the id {several[0]!r} is of several questions; correct the ids.")
    return [places[0] for places in partners]


def _spec(work: Work) -> Row:
    """Returns everything that determines the rows."""
    config = work.config
    spec: Row = {"what": config.what, "input": config.input, "questions": dict(config.questions)}
    spec |= {"num_rows": len(work.rows), "data": fingerprint([*map(dataclasses.asdict, work.questions), *work.rows])}
    if work.tasks is None:
        names = ("model", "column", "num_samples", "temperature", "top_p", "max_new_tokens", "first_paragraph", "seed")
        templates = {"paragraph": fingerprint(_template(config).template)}
        return spec | {name: config[name] for name in names} | {"prompts": templates}
    prompts_by_task = {task: work.tasks.prompts[task] for task in STAGES[config.what].tasks}
    spec["prompts"] = {task: fingerprint([p.template, p.schema]) for task, p in prompts_by_task.items()}
    return spec | {"annotator": work.tasks.session.name, "clues": config.clues}


def _make_rows(work: Work, each: Callable[[int, Result | None], None]) -> None:
    """Calls `each` with the number of every row that is to be made and its result, as soon as it is there.

    The result is None where the row lacks what it is made from.
    """
    make, tasks = STAGES[work.config.what].make, work.tasks
    if make is None or tasks is None:
        rest = set(work.todo)
        for row, result in paragraphs(work):
            rest.discard(row)
            each(row, result)
        for row in sorted(rest):
            each(row, None)
        return

    async def make_one(row: int) -> tuple[int, Result | None]:
        return row, await make(work, row)

    async def make_all() -> None:
        async for row, result in tasks.session.map(make_one, work.todo, "row"):
            each(row, result)

    tasks.session.run(make_all())


def _add(work: Work, dataset: ResumableDataset, row: int, result: Result | None) -> list[str]:
    """Stores a row and returns []; or returns why requests failed, in which case it is not stored."""
    question_id, columns_of_stage = work.questions[row].question_id, STAGES[work.config.what].columns
    if result is None:
        problem = {"question_id": question_id, "step": "input", "status": "missing"}
        columns = dict.fromkeys(columns_of_stage or (work.config.column,))
        dataset.add(row, columns, {"input": {"missing": 1}}, [problem])
        return []
    columns, outcomes = result
    reasons = [annotation.detail for _, annotation in outcomes if annotation.status == "failed"]
    if reasons and not work.config.accept_failed:
        return reasons
    counts: dict[str, Counter[str]] = {}
    for task, annotation in outcomes:
        counts.setdefault(task, Counter())[annotation.status] += 1
    problems = [
        {"question_id": question_id, "step": task, "status": a.status, "detail": a.detail, "reply": a.text}
        for task, a in outcomes
        if a.status != "ok" and task != "sample"
    ]
    dataset.add(row, columns, counts, problems)
    return []


def check(config: ConfigDict) -> None:
    """Checks the stage, numbers, and annotator, budget, store and wordings where it asks; see lc_jax.main.

    Raises:
      ValueError: `config.what` is unknown.
      Problems: a line for each setting that is wrong.
    """
    if config.what not in STAGES:
        raise ValueError(f"--config.what={config.what!r}: give one of {sorted(STAGES)}.")
    checks = [
        lambda: check_sampling(config),
        lambda: check_settings("", config, num_samples=POSITIVE_INT, limit=NATURAL),
    ]
    if STAGES[config.what].tasks and not Path(config.output).exists():
        checks.append(lambda: check_asking(config, store_path(config, Path(config.output).parent)))
    check_all(*checks)


def run(config: ConfigDict, mesh: jax.sharding.Mesh) -> None:
    """Adds the columns of `config.what` to the rows of `config.input` (default: bare questions).

    Raises:
      ValueError: `config.what` is unknown, a row of `config.input` belongs to no question, or requests failed.
      AnnotatorError: no request can be answered, or the budget is spent.
    """
    check(config)
    output = Path(config.output)
    if output.exists():
        logging.info("%s is there already; remove it to generate it again", output)
        return
    questions, rows = _questions(config)
    with contextlib.ExitStack() as stack:
        tasks = None
        if STAGES[config.what].tasks:
            store = store_path(config, Path(config.output).parent)
            options: dict[str, Any] = {"budget": config.budget, "dry_run": config.dry_run}
            session = stack.enter_context(open_configured(config.annotator, store, **options))
            questions_to_annotator = data_tasks(**config.wording)
            tasks = AnnotationTasks(questions_to_annotator, session, config.prompt_dir, dry_run=config.dry_run)
        work = Work(config, mesh, questions, rows, range(len(rows)), tasks)
        if config.dry_run:
            if tasks:
                _make_rows(work, lambda row, result: None)
            print(cost.render(tasks.costs()) if tasks else "No annotator is asked: nothing to pay.")
            return
        dataset = ResumableDataset(output, _spec(work))
        work.todo = [row for row in work.todo if row not in dataset.completed]
        logging.info("%d rows to make, %d are there already", len(work.todo), len(dataset.completed))
        try:
            failures = Counter[str]()
            _make_rows(work, lambda row, result: failures.update(_add(work, dataset, row, result)))
        finally:
            if tasks:
                session = tasks.session
                usage = dataclasses.asdict(session.meter.usage)
                dataset.record_cost(session.meter.dollars, calls=session.meter.calls, **usage)
    if tasks and (costs := tasks.costs()):
        logging.info("\n%s", cost.render(costs))
    if failures:
        raise ValueError(
            f"{failures.total()} requests failed, most often: {failures.most_common(1)[0][0]} Nothing is lost: run "
            "again to ask only for these, or take their rows without a value with --config.accept_failed=true."
        )
    table = dataset.finish(rows)
    logging.info(
        "%d rows, columns %s, %s: %s",
        len(table),
        dict(Counter(name for row in table for name in row if row[name] is not None)),
        dataset.count_statuses(),
        output,
    )
