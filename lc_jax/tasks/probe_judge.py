"""Probes a judge's bias against hedges: the same answers with and without words of doubt, and whose verdicts change.

  records of an evaluation -> each chosen answer in several wordings -> verdicts -> changes against the plain answer

A fair judge compares answers, so that no verdict changes. Leaves `probe.json` in the output folder.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import logging
from ml_collections import ConfigDict

from lc_jax.data import jsonl
from lc_jax.data.rows import optional
from lc_jax.evaluation import intervals, qa, results
from lc_jax.llm import cost
from lc_jax.llm.annotate import AnnotationTasks
from lc_jax.llm.checks import check_asking
from lc_jax.llm.session import open_configured, store_path
from lc_jax.preflight import NATURAL, NON_NEGATIVE, check_all, check_settings
from lc_jax.prompts.equivalence import BATCH
from lc_jax.text_table import table

PLAIN = "{answer}"
WORDINGS = (
    "I think it is {answer}.",
    "Possibly {answer}.",
    "It might be {answer}, but I am not sure.",
    "{answer} (40%)",
    "It is certainly {answer}.",
)


def needs_devices(config: ConfigDict) -> bool:
    """Returns False: an annotator that is a checkpoint finds its own devices."""
    return False


def load(config: ConfigDict) -> list[qa.Record]:
    """Loads the judged records of `config.evaluation` that have an answer, at most `config.limit`.

    Raises:
      FileNotFoundError: there is no evaluation.
      ValueError: it cannot be read, is of biographies, or no record has an answer.
    """
    if optional(config.evaluation) is None:
        raise ValueError(
            "give --config.evaluation=FOLDER, with result.json and records.jsonl of configs/evaluate_qa.py."
        )
    folder = Path(config.evaluation)
    if not (folder / "result.json").is_file():
        raise FileNotFoundError(f"--config.evaluation={folder}: no {folder}/result.json; evaluate it first.")
    names = [field.name for field in dataclasses.fields(qa.Record)]
    rows = [row for row in results.read(folder).records if row["status"] == "ok" and row.get("chosen")]
    if not rows or any(row.get("entity") for row in rows):
        raise ValueError(f"--config.evaluation={folder}: its records have no answers to questions; name another.")
    empty = {"kind": "", "prompt": ""}  # which the judge does not see
    records = [qa.Record(**(empty | {name: row[name] for name in names if name in row})) for row in rows]
    return records[: config.limit or None]


def check(config: ConfigDict) -> None:
    """Checks numbers, judge, budget and store, and reads the evaluation.

    Raises:
      Problems: a line for each setting that is wrong.
    """
    check_all(
        lambda: check_settings("", config, judge_temperature=NON_NEGATIVE, limit=NATURAL),
        lambda: check_asking(config, store_path(config, config.output)),
        lambda: load(config),
    )


async def _verdicts(tasks: AnnotationTasks, records: Sequence[qa.Record], wording: str) -> list[qa.Record]:
    """Returns the records with verdicts on their answers in a wording; those without one have another status."""
    phrased = [dataclasses.replace(record, chosen=wording.format(answer=record.chosen)) for record in records]
    tens = [phrased[i : i + BATCH] for i in range(0, len(phrased), BATCH)]

    async def judge(ten: Sequence[qa.Record]) -> list[qa.Record]:
        return await qa.judge(ten, tasks.ask)

    return [record async for ten in tasks.session.map(judge, tens, "request") for record in ten]


def changes(wording: str, plain: Sequence[qa.Record], phrased: Sequence[qa.Record]) -> dict[str, Any]:
    """Returns how many verdicts a wording changes where both have one, with Wilson's 95% interval of their share."""
    pairs = [(a.correct, b.correct) for a, b in zip(plain, phrased, strict=True) if a.status == b.status == "ok"]
    to_wrong, to_right = pairs.count((True, False)), pairs.count((False, True))
    row = {"wording": wording, "num_answers": len(pairs), "right_to_wrong": to_wrong, "wrong_to_right": to_right}
    low, high = intervals.wilson(to_wrong + to_right, len(pairs)) if pairs else (None, None)
    return row | {"changed_low": low, "changed_high": high}


def run(config: ConfigDict, mesh: Any) -> None:
    """Asks the judge about every answer in every wording, and counts the verdicts that change.

    Raises:
      FileNotFoundError, ValueError: see `load`; or requests failed.
      AnnotatorError: no request can be answered, or the budget is spent.
    """
    records, output, store = load(config), Path(config.output), store_path(config, config.output)
    with open_configured(config.annotator, store, budget=config.budget, dry_run=config.dry_run) as session:
        protocol = qa.Protocol(judge_temperature=config.judge_temperature).tasks()
        tasks = AnnotationTasks(
            {"equivalence": protocol["equivalence"]}, session, config.prompt_dir, dry_run=config.dry_run
        )
        plain, *others = [session.run(_verdicts(tasks, records, wording)) for wording in (PLAIN, *WORDINGS)]
        print(cost.render(tasks.costs()))
        if config.dry_run:
            return
        failed = [record for records in (plain, *others) for record in records if record.status == "failed"]
        if failed and not config.accept_failed:
            raise ValueError(
                f"{len(failed)} requests failed, for example: {failed[0].detail} Nothing is lost: run again to ask "
                "only for these, or leave them out with --config.accept_failed=true."
            )
        rows = [changes(wording, plain, other) for wording, other in zip(WORDINGS, others, strict=True)]
        jsonl.write_json(output / "probe.json", {"judge": session.name, "wordings": rows})
    cells = [["wording", "answers", "right to wrong", "wrong to right", "95% of changed"]]
    for row in rows:
        ends = f"{row['changed_low']:.3f} to {row['changed_high']:.3f}" if row["num_answers"] else "–"
        counts = [str(row[name]) for name in ("num_answers", "right_to_wrong", "wrong_to_right")]
        cells.append([row["wording"], *counts, ends])
    print(table(cells, markdown=True))
    logging.info("Made %s/probe.json.", output)
