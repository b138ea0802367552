"""Makes training data from questions, one column family at a time, in the published columns (paper section 4).

  queries         questions -> `paragraph_generation_prompt`; Jeopardy! clues are rephrased first
  paragraphs      + `icl_generated_paragraphs` (M samples), or one paragraph in the column that is named
  summaries       + `claude_summary`: the annotator merges the M paragraphs into one that states its confidence
  claude_distill  + `claude_generated_paragraph`: the annotator writes the paragraph itself
  forecasts       + `lc_sft_ground_truth_and_extracted_answers`, `lc_sft_forecasted_probs`
  correctness     + `factuality_sft_binary_correctness`

Rows are kept as they come and a rerun goes on. A row that the annotator could not do has a missing value, which the
training recipes drop with a count; why stands in OUTPUT.problems.jsonl. Replies that failed (the server was down) are
asked for again by the next run.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from absl import logging
from ml_collections import ConfigDict

from lc_jax import prompts
from lc_jax.data.columns import column, is_missing, pair, rename, row_id
from lc_jax.data.growing import Growing
from lc_jax.data.questions import load_joined_rows, load_raw_questions, raw_questions
from lc_jax.data.rows import load_rows, optional
from lc_jax.inference import writing
from lc_jax.llm import cost
from lc_jax.llm.annotate import Annotation
from lc_jax.llm.checks import check_asking
from lc_jax.llm.data_steps import data_steps
from lc_jax.llm.session import open_configured
from lc_jax.llm.steps import Steps
from lc_jax.models import released
from lc_jax.preflight import NATURAL, POSITIVE_INT, check_all, check_sampling, check_settings
from lc_jax.prompts import in_context, published, query, summarize
from lc_jax.prompts.parsing import first_paragraph, parse_list, strip_reasoning
from lc_jax.provenance import fingerprint
from lc_jax.types import Question

RECORD = "{output}.run.json"

Row = dict[str, Any]


Outcome = tuple[str, Annotation]  # of a step
Result = tuple[int, Row, list[Outcome]]  # a row's number, its new columns, and what they were made from


@dataclasses.dataclass
class Work:
    """What a stage works on."""

    config: ConfigDict
    mesh: jax.sharding.Mesh
    questions: Sequence[Question]  # of the rows, in order
    rows: Sequence[Row]
    todo: Sequence[int]  # numbers of the rows that are not done yet
    steps: Steps | None  # None: no annotator is needed

    def ask(self, step: str, requests: Sequence[tuple[int, Mapping[str, str]]]) -> Iterator[tuple[int, Outcome]]:
        """Yields, for every (row, fields) of `requests`, the row and what the annotator made of it, in order."""
        assert self.steps is not None
        annotations = self.steps.ask(step, [fields for _, fields in requests])
        for (row, _), annotation in zip(requests, annotations, strict=True):
            yield row, (step, annotation)

    def inputs(self, name: str, read: Callable[[Any], Any] = str) -> dict[int, Any]:
        """Returns the values of a column that a stage before this one made, by row; rows without are left out."""
        values = {}
        for row in self.todo:
            value = column(self.rows[row], name)
            if not is_missing(value):
                values[row] = read(value)
        return values


def queries(work: Work) -> Iterator[Result]:
    """An open-ended query that does not give the answer away; with `config.clues` of the clue made a question."""
    questions = {row: work.questions[row] for row in work.todo}
    fields = {row: query.request_fields(q.question, [q.answer, *q.aliases]) for row, q in questions.items()}
    clues: dict[int, list[Outcome]] = {row: [] for row in fields}
    if work.config.clues:
        categories = {row: {"category": str(work.rows[row].get("category") or "")} for row in fields}
        for row, outcome in work.ask("clue", [(row, categories[row] | fields[row]) for row in fields]):
            clues[row] = [outcome]
            fields[row] = {**fields[row], "question": outcome[1].value or ""}
    failures = [row for row, outcomes in clues.items() if outcomes and outcomes[0][1].status != "ok"]
    for row in failures:
        yield row, {"paragraph_generation_prompt": None}, clues[row]
    for row, outcome in work.ask("query", [(row, fields[row]) for row in fields if row not in failures]):
        columns = {"paragraph_generation_prompt": outcome[1].value}
        if work.config.clues:
            columns["rephrased_question"] = fields[row]["question"]
        yield row, columns, [*clues[row], outcome]


def _with_query(work: Work) -> list[tuple[int, Question]]:
    """Returns (row, question) where there is a query to write about."""
    return [(row, q) for row in work.todo if (q := work.questions[row]).prompt]


def _template(config: ConfigDict) -> prompts.Prompt:
    """What the checkpoint is shown."""
    if config.in_context:
        return published.override(config.prompt_dir, "in_context", in_context.PROMPT)
    return prompts.load_templates(config.templates, config.prompt_dir).paragraph


def paragraphs(work: Work) -> Iterator[Result]:
    """Samples `num_samples` paragraphs a question from `config.model`, cut at the first blank line of base models.

    Goes into `config.column`: a list, or the one paragraph when num_samples is 1.
    """
    config, num_samples = work.config, work.config.num_samples
    template, questions = _template(config), _with_query(work)
    released.warn_of_wording(config.model, template)
    texts = [
        template.prompt_text(paragraph_generation_prompt=q.prompt) for _, q in questions for _ in range(num_samples)
    ]
    ids = [row * num_samples + sample for row, _ in questions for sample in range(num_samples)]
    decoding = writing.Decoding(config.max_new_tokens, config.temperature, config.seed, config.batch_size, config.top_p)
    completions = writing.write(config.model, work.mesh, texts, decoding, config.precision, ids)
    samples: dict[int, dict[int, Annotation]] = {row: {} for row, _ in questions}
    for i, text, finished in completions:
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
            yield row, columns, [("sample", annotation) for annotation in annotations]
            del samples[row]


def summaries(work: Work) -> Iterator[Result]:
    """Summary distillation: the consensus of the sampled paragraphs, with percentages."""
    assert work.steps is not None
    drafts = work.inputs("icl_generated_paragraphs", _texts)
    fields = [
        (row, {"paragraph_generation_prompt": query_text, "paragraphs": summarize.join_paragraphs(texts)})
        for row, texts in drafts.items()
        if (query_text := work.questions[row].prompt)
    ]
    yield from _one_column(work, "summarize", fields, "claude_summary")


def _texts(value: Any) -> list[str]:
    return [str(text) for text in (parse_list(value) if isinstance(value, str) else value) if text is not None]


def _one_column(
    work: Work, step: str, fields: Sequence[tuple[int, Mapping[str, str]]], column: str
) -> Iterator[Result]:
    for row, outcome in work.ask(step, fields):
        yield row, {column: outcome[1].value}, [outcome]


def distilled(work: Work) -> Iterator[Result]:
    """The annotator's own paragraph."""
    fields = [(row, {"paragraph_generation_prompt": q.prompt}) for row, q in _with_query(work)]
    yield from _one_column(work, "claude_distill", fields, "claude_generated_paragraph")


ANSWERS, PROBS = "lc_sft_ground_truth_and_extracted_answers", "lc_sft_forecasted_probs"


def forecasts(work: Work) -> Iterator[Result]:
    """Every answer that a paragraph offers, then a probability for the true answer (first) and for each of them."""
    fields = {
        row: {"generated_paragraph": text, "question": work.questions[row].question}
        for row, text in work.inputs("lc_sft_generated_paragraph").items()
    }
    extractions = dict(work.ask("extract", list(fields.items())))
    answers: dict[int, list[str]] = {}
    for row, outcome in extractions.items():
        if outcome[1].status == "ok":
            answers[row] = [work.questions[row].answer, *outcome[1].value]
        else:
            yield row, {ANSWERS: None, PROBS: None}, [outcome]
    requests = [(row, fields[row] | {"answer": answer}) for row in answers for answer in answers[row]]
    probs: dict[int, list[Outcome]] = {}
    for row, outcome in work.ask("forecast", requests):
        probs.setdefault(row, []).append(outcome)
        if len(probs[row]) == len(answers[row]):
            values = [annotation.value for _, annotation in probs[row]]
            yield row, {ANSWERS: answers[row], PROBS: values}, [extractions[row], *probs.pop(row)]


def correctnesses(work: Work) -> Iterator[Result]:
    """Whether a reader of the paragraph would give the true answer: 1 or 0."""
    fields = []
    for row, text in work.inputs("factuality_sft_generated_paragraph").items():
        q = work.questions[row]
        fields.append((row, {"generated_paragraph": text, "question": q.question, "answer": q.answer}))
    yield from _one_column(work, "correctness", fields, "factuality_sft_binary_correctness")


@dataclasses.dataclass(frozen=True)
class Stage:
    """One thing to make."""

    make: Callable[[Work], Iterator[Result]]
    columns: tuple[str, ...]  # that it adds; a row that it could not do has them without a value
    steps: tuple[str, ...] = ()  # questions to the annotator; (): a checkpoint writes


STAGES = {
    "queries": Stage(queries, ("paragraph_generation_prompt",), ("clue", "query")),
    "paragraphs": Stage(paragraphs, ()),
    "summaries": Stage(summaries, ("claude_summary",), ("summarize",)),
    "claude_distill": Stage(distilled, ("claude_generated_paragraph",), ("claude_distill",)),
    "forecasts": Stage(forecasts, (ANSWERS, PROBS), ("extract", "forecast")),
    "correctness": Stage(correctnesses, ("factuality_sft_binary_correctness",), ("correctness",)),
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


def _recipe(work: Work) -> Row:
    """What the rows depend on."""
    config, steps = work.config, STAGES[work.config.what].steps
    recipe: Row = {"what": config.what, "input": config.input, "questions": dict(config.questions)}
    recipe |= {"num_rows": len(work.rows), "data": fingerprint([*map(dataclasses.asdict, work.questions), *work.rows])}
    if work.steps is None:
        names = ("model", "column", "num_samples", "temperature", "top_p", "max_new_tokens", "first_paragraph", "seed")
        templates = {"paragraph": fingerprint(_template(config).template)}
        return recipe | {name: config[name] for name in names} | {"prompts": templates}
    prompts_by_step = {step: work.steps.prompt(step) for step in steps}
    recipe["prompts"] = {step: fingerprint([p.template, p.schema]) for step, p in prompts_by_step.items()}
    return recipe | {"annotator": work.steps.session.name, "clues": config.clues}


def _grow(work: Work, growing: Growing) -> Counter[str]:
    """Makes the missing rows; returns how many requests failed, by reason. Rows of failed requests are not stored."""
    stage, rest, failures = STAGES[work.config.what], set(work.todo), Counter[str]()
    for row, columns, outcomes in stage.make(work):
        rest.discard(row)
        reasons = [annotation.detail for _, annotation in outcomes if annotation.status == "failed"]
        if reasons and not work.config.accept_failed:
            failures.update(reasons)
            continue
        notes: dict[str, Counter[str]] = {}
        for step, annotation in outcomes:
            notes.setdefault(step, Counter())[annotation.status] += 1
        problems = [
            {"question_id": work.questions[row].question_id, "step": step, "status": a.status, "detail": a.detail}
            | {"reply": a.text}
            for step, a in outcomes
            if a.status != "ok" and step != "sample"
        ]
        growing.add(row, columns, notes, problems)
    for row in sorted(rest):
        problem = {"question_id": work.questions[row].question_id, "step": "input", "status": "missing"}
        columns = dict.fromkeys(stage.columns or (work.config.column,))
        growing.add(row, columns, {"input": {"missing": 1}}, [problem])
    return failures


def _store(config: ConfigDict) -> Path:
    """The file of replies."""
    return Path(config.store) if config.store else Path(config.output).with_name("replies.sqlite")


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
    if STAGES[config.what].steps and not Path(config.output).exists():
        checks.append(lambda: check_asking(config, _store(config)))
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
        logging.info("%s is there already; remove it to make it anew", output)
        return
    questions, rows = _questions(config)
    with contextlib.ExitStack() as stack:
        steps = None
        if STAGES[config.what].steps:
            options: dict[str, Any] = {"budget": config.budget, "dry_run": config.dry_run}
            session = stack.enter_context(open_configured(config.annotator, _store(config), **options))
            steps = Steps(data_steps(**config.wording), session, config.prompt_dir, config.dry_run)
        work = Work(config, mesh, questions, rows, range(len(rows)), steps)
        if config.dry_run:
            for _ in STAGES[config.what].make(work) if steps else ():
                pass
            print(cost.render(steps.costs) if steps else "No annotator is asked: nothing to pay.")
            return
        growing = Growing(output, _recipe(work))
        work.todo = [row for row in work.todo if row not in growing.added]
        logging.info("%d rows to make, %d are there already", len(work.todo), len(growing.added))
        try:
            failures = _grow(work, growing)
        finally:
            if steps:
                session = steps.session
                usage = dataclasses.asdict(session.meter.usage)
                growing.note_cost(session.meter.dollars, calls=session.meter.calls, **usage)
    if steps and steps.costs:
        logging.info("\n%s", cost.render(steps.costs))
    if failures:
        raise ValueError(
            f"{failures.total()} requests failed, most often: {failures.most_common(1)[0][0]} Nothing is lost: run "
            "again to ask only for these, or take their rows without a value with --config.accept_failed=true."
        )
    table = growing.finish(rows)
    logging.info(
        "%d rows, columns %s, %s: %s",
        len(table),
        dict(Counter(name for row in table for name in row if row[name] is not None)),
        growing.statuses(),
        output,
    )
