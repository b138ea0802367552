"""Evaluates biographies claim by claim against a knowledge store (paper section 6, after FActScore).

  entities -> biographies: from a file, a checkpoint or a provider's model -> claims, alternatives together
           -> the confidence in each -> passages of the entity's page -> supported or not -> metrics

Leaves `records.jsonl` (one row a claim) and `result.json` in the output folder, which a report takes as it takes those
of questions. Replies are kept in a store, so that a rerun resumes. An entity without a page costs nothing.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import logging
from ml_collections import ConfigDict

from lc_jax.data.columns import distinct
from lc_jax.data.entities import SOURCE, entity_of, load_entities
from lc_jax.data.knowledge import Knowledge
from lc_jax.data.pages import NoPage, Page
from lc_jax.data.rows import load_rows, optional
from lc_jax.evaluation import biography, outputs, retrieval, table
from lc_jax.evaluation.biography import Biography, Record
from lc_jax.evaluation.retrieval import Retriever
from lc_jax.evaluation.summary import judged, summarize
from lc_jax.evaluation.writers import Writer, paragraphs_of
from lc_jax.llm import cost
from lc_jax.llm.annotate import Annotation, AnnotationTasks
from lc_jax.llm.checks import check_asking
from lc_jax.llm.session import open_configured, store_path
from lc_jax.preflight import (
    NATURAL,
    NON_NEGATIVE,
    POSITIVE_INT,
    check_all,
    check_sampling,
    check_settings,
)
from lc_jax.prompts import Prompt

if TYPE_CHECKING:
    import jax


def needs_devices(config: ConfigDict) -> bool:
    """Returns whether a checkpoint writes."""
    return optional(config.model) is not None and not config.dry_run


def entities_of(config: ConfigDict) -> list[str]:
    """Loads the entities of `config.entities`, or of the rows of paragraphs where it is empty.

    Raises:
      FileNotFoundError, ValueError: there are none; see `load_entities`.
    """
    source = optional(config.entities) or optional(config.paragraphs)
    if not source:
        raise ValueError(f"--config.entities is empty, and there is no --config.paragraphs that names them: {SOURCE}.")
    return load_entities(source, config.entities_split)[: config.limit or None]


@dataclasses.dataclass(frozen=True)
class Written:
    """A text about an entity, or why there is none."""

    name: str  # the entity; of a second text about the same "entity#2"
    entity: str
    text: Annotation


def load_biographies(config: ConfigDict, entities: Sequence[str]) -> list[Written]:
    """The biographies of a file in the order of `entities`; several about one entity are told apart by name.

    Raises:
      ValueError: no text in the column, or no row is about one of the entities.
    """
    rows = load_rows(config.paragraphs, flag="--config.paragraphs")
    texts: dict[str, list[Annotation]] = {}
    for row, text in zip(rows, paragraphs_of(rows, config.paragraphs, config.column), strict=True):
        if text is not None and entity_of(row):
            texts.setdefault(entity_of(row), []).append(text)
    pairs = [(entity, text) for entity in entities for text in texts.get(entity, ())]
    if not pairs:
        raise ValueError(
            f"{config.paragraphs}: no row is about one of the entities; it is about {list(texts)[:3]}, and "
            f"{config.entities or config.paragraphs} names {list(entities)[:3]}."
        )
    names = distinct([entity for entity, _ in pairs], config.paragraphs)
    return [Written(name, entity, text) for name, (entity, text) in zip(names, pairs, strict=True)]


def look_up(knowledge: Knowledge, entities: Sequence[str]) -> tuple[dict[str, Page], dict[str, str]]:
    """Pages by entity; and, of entities without a page, why."""
    pages: dict[str, Page] = {}
    missing: dict[str, str] = {}
    for entity in entities:
        try:
            pages[entity] = knowledge.find(entity)
        except NoPage as error:
            missing[entity] = str(error)
    return pages, missing


@dataclasses.dataclass(frozen=True)
class Work:
    """Inputs of one evaluation."""

    config: ConfigDict
    prompts: Mapping[str, str]  # what is asked for, by entity
    pages: Mapping[str, Page]  # by entity
    missing: Mapping[str, str]  # entities without a page, and why
    tasks: AnnotationTasks  # the questions to the annotator
    retriever: Retriever | None  # None in a dry run

    def passages(self, entity: str, claims: Sequence[str]) -> list[list[str]]:
        """For each claim the passages that it is held against; a dry run takes the first ones."""
        page, number = self.pages[entity], self.config.num_passages
        if self.retriever is None:
            return [list(page.passages[:number]) for _ in claims]
        return retrieval.top(self.retriever, page, [f"{entity} {claim}" for claim in claims], number)

    def records(self, items: Sequence[Written]) -> list[Record]:
        """Returns the records of all entities, in order; of `items` those that have a text and a page are read."""
        good = [
            Biography(item.entity, self.prompts[item.entity], item.text.value, item.name)
            for item in items
            if item.text.status == "ok" and item.entity in self.pages
        ]
        evaluate_one = functools.partial(
            biography.evaluate_one,
            find=self.passages,
            ask=self.tasks.ask,
            uses_confidence=self.config.uses_confidence,
        )
        by_biography = self.tasks.session.map_all(evaluate_one, good, "biography")
        read = {records[0].biography: records for records in by_biography}
        names = {entity: [item for item in items if item.entity == entity] for entity in self.prompts}
        records: list[Record] = []
        for entity, prompt in self.prompts.items():
            if entity in self.missing:
                whole = biography.whole(Biography(entity, prompt, ""), "unverifiable", self.missing[entity])
                records.append(whole)
                continue
            for item in names[entity]:
                unread = biography.whole(Biography(entity, prompt, "", item.name), item.text.status, item.text.detail)
                records += read.get(item.name, [unread])
        return records


def _unread(records: Sequence[Record], reader: str) -> tuple[str, ...]:
    """Returns a warning where the reader found a claim in (nearly) no biography."""
    read = {record.biography or record.entity for record in records if record.claims or record.status == "no_claims"}
    silent = {record.biography or record.entity for record in records if record.status == "no_claims"}
    return outputs.unread_notes(reader, "claim", len(silent), len(read), "biographies")


def _result(work: Work, records: Sequence[Record], writer: Writer) -> dict[str, Any]:
    """Returns the row of results.

    Raises:
      ValueError: nothing could be judged, or requests failed.
    """
    config = work.config
    statuses = Counter(str(record.status) for record in records)
    absent = len(work.prompts) - len({record.entity for record in records})
    if absent:
        statuses["missing"] = absent
        logging.warning("%s has no biography of %d of %d entities.", config.paragraphs, absent, len(work.prompts))
    if work.missing:
        logging.warning("%d of %d entities are unverifiable: %s.", len(work.missing), len(work.prompts),
                        "; ".join(list(work.missing.values())[:3]))  # fmt: skip
    scored = judged(records, "claims", f"{config.output}/records.jsonl", accept_failed=config.accept_failed)
    summary = summarize(
        [record.confidence for record in scored],
        [bool(record.correct) for record in scored],
        clusters=[record.entity for record in scored],
        num_bins=biography.NUM_BINS,
        seed=config.seed,
    )
    figures = biography.factscore(records)
    unread = _unread(records, work.tasks.annotators())
    summary = dataclasses.replace(summary, notes=(*summary.notes, *unread, figures.sentence()))
    names = {"method": config.method, "seed": config.seed, "data": config.data}
    row = outputs.result_row(summary, statuses, writer, work.tasks, names=names, settings=_settings(config))
    return row | {"factscore": dataclasses.asdict(figures)}


def _settings(config: ConfigDict) -> dict[str, Any]:
    """Returns the settings on which the numbers depend, for the report."""
    names = ["entities", "knowledge", "retriever", "num_passages", "query", "strategy", "temperature"]
    names += ["uses_confidence", "limit", "prompt_dir", "templates", "judge_temperature"]
    return {name: config[name] for name in names}


def _vectors(config: ConfigDict) -> Path:
    """Returns the file of an encoder's vectors: next to the knowledge store, in the output where that is read-only."""
    knowledge = Path(config.knowledge)
    return Path(f"{knowledge}.vectors" if os.access(knowledge.parent, os.W_OK) else f"{config.output}/vectors.sqlite")


def check(config: ConfigDict) -> None:
    """Checks numbers, writer, annotators, budget, store, wordings, retriever, entities, paragraphs and knowledge.

    Raises:
      Problems: a line for each setting that is wrong.
    """
    check_all(
        lambda: check_sampling(config),
        lambda: check_settings("", config, judge_temperature=NON_NEGATIVE, limit=NATURAL, num_passages=POSITIVE_INT),
        lambda: Writer.from_settings(config),
        lambda: check_asking(config, store_path(config, config.output)),
        lambda: retrieval.check_name(config.retriever),
        lambda: retrieval.check_installed(config.retriever),
        lambda: _check_data(config),
        lambda: Knowledge(config.knowledge).__exit__(),
    )


def _check_data(config: ConfigDict) -> None:
    """Reads the entities, and the user's file of paragraphs about them."""
    entities = entities_of(config)
    if optional(config.paragraphs) is not None:
        load_biographies(config, entities)


def run(config: ConfigDict, mesh: jax.sharding.Mesh | None) -> None:
    """Evaluates the biographies of one method.

    Raises:
      FileNotFoundError, ValueError: no store of knowledge that is whole, not exactly one writer, entities, biographies
        or a retriever that cannot be had, failed requests.
      AnnotatorError: no request can be answered, or the budget is spent.
    """
    writer, store = Writer.from_settings(config), store_path(config, config.output)
    query = Prompt(config.query)
    prompts = {entity: query.render(entity=entity) for entity in entities_of(config)}
    biographies = load_biographies(config, list(prompts)) if writer.paragraphs else None
    with Knowledge(config.knowledge) as knowledge:
        pages, missing = look_up(knowledge, list(prompts))
    with open_configured(config.annotator, store, budget=config.budget, dry_run=config.dry_run) as session:
        retriever = None  # loaded before anything is paid for
        if pages and not config.dry_run:
            retriever = retrieval.load(config.retriever, _vectors(config))
        sessions = session.with_roles(config.annotators, config.dry_run)
        questions = biography.tasks(config.judge_temperature)
        tasks = AnnotationTasks(questions, session, config.prompt_dir, dry_run=config.dry_run, sessions=sessions)
        work = Work(config, prompts, pages, missing, tasks, retriever)
        costs: cost.Costs = []
        if biographies is None:
            texts, costs = writer.write({entity: prompts[entity] for entity in pages}, session, mesh)
            biographies = [Written(entity, entity, text) for entity, text in texts.items()]
        records = work.records(biographies)
        costs += tasks.costs()
        if config.dry_run:
            print(cost.render(costs))
            return
        outputs.write_records(config.output, records, costs)
        row = _result(work, records, writer)
    table.publish(Path(config.output), row)
