"""Recalibrates an evaluation: writes a new one with mapped confidences, for the same report.

  evaluation of a validation set -> map from stated confidence to probability -> confidences of the other evaluation
  or, without a validation set: each record's map is fitted on the other folds

Answers and verdicts stay; each record has the original confidence as `stated_confidence`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import logging
from ml_collections import ConfigDict

from lc_jax.data import jsonl
from lc_jax.data.rows import optional
from lc_jax.evaluation import metrics, recalibration, results, table
from lc_jax.evaluation.recalibration import Answers
from lc_jax.evaluation.results import Entry
from lc_jax.evaluation.summary import summarize
from lc_jax.preflight import POSITIVE_INT, Range, check_all, check_output, check_settings
from lc_jax.provenance import code_version


def needs_devices(config: ConfigDict) -> bool:
    """Returns False: maps are fitted on the host."""
    return False


def _judged(entry: Entry) -> list[results.Row]:
    """Returns the records that count."""
    return [row for row in entry.records if row["status"] == "ok"]


def _answers(rows: Sequence[results.Row]) -> Answers:
    kinds = [str(row.get("kind") or "") for row in rows]
    return Answers.from_rows([row["confidence"] for row in rows], [row["correct"] for row in rows], kinds)


def _cluster(row: results.Row) -> str:
    """Returns the entity of a claim, or a question with its answer: ids are numbers of lines in many files."""
    if row.get("entity"):
        return str(row["entity"])
    return f"{row['question']}\n{row['answer']}" if row.get("question") else str(row["question_id"])


def _read(flag: str, folder: str) -> Entry:
    path = Path(folder) / "result.json"
    if not path.is_file():
        raise FileNotFoundError(f"--config.{flag}={folder}: no {path}; evaluate it first, or name another folder.")
    return results.read(Path(folder))


def load(config: ConfigDict) -> tuple[Entry, Entry | None]:
    """Reads the evaluation, and the one of the validation set; None where the map is cross-fitted.

    Raises:
      FileNotFoundError: a folder has no evaluation.
      ValueError: an evaluation cannot be read; too few records; no kinds for the map "kind"; questions in both; or the
        output is the folder of an input.
    """
    if optional(config.evaluation) is None:
        raise ValueError("give --config.evaluation=FOLDER, with result.json and records.jsonl of an evaluation.")
    folders = {"evaluation": config.evaluation}
    if optional(config.validation) is not None:
        folders["validation"] = config.validation
    for flag, folder in folders.items():
        if Path(folder).resolve() == Path(config.output).resolve():
            raise ValueError(f"--config.output={config.output} is the folder of --config.{flag}: name another.")
    entry, *others = check_all(*(functools.partial(_read, flag, folder) for flag, folder in folders.items()))
    validation = others[0] if others else None
    fitted, flag = (validation, "validation") if validation else (entry, "evaluation")
    rows = _judged(fitted)
    if len(rows) < config.min_records:
        raise ValueError(
            f"--config.{flag}={fitted.folder}: {len(rows)} judged records are too few for a fit; evaluate more "
            f"questions, or lower --config.min_records={config.min_records}."
        )
    if config.map == "kind" and not any(row.get("kind") for row in rows):
        raise ValueError(f"--config.map=kind: no record of {fitted.folder} has a kind; take another map.")
    if validation is None:
        num_clusters = len({_cluster(row) for row in rows})
        if num_clusters < config.num_folds:
            raise ValueError(
                f"--config.num_folds={config.num_folds}: {entry.folder} has {num_clusters} questions or biographies; "
                "give at most as many folds."
            )
    else:
        shared = {_cluster(row) for row in rows} & {_cluster(row) for row in _judged(entry)}
        if shared:
            example = min(shared).partition("\n")[0]
            raise ValueError(
                f"{len(shared)} questions are in {config.evaluation} and in {config.validation}, for example "
                f"{example!r}: a map fitted on them has used their verdicts. Evaluate other questions, or leave "
                "--config.validation empty for cross-fitting."
            )
        for name in ("method", "judge"):
            if entry.result[name] != validation.result[name]:
                logging.warning("%s is of the %s %r, %s of %r.", config.evaluation, name, entry.result[name],
                                config.validation, validation.result[name])  # fmt: skip
    return entry, validation


def check(config: ConfigDict) -> None:
    """Checks the settings, and reads both evaluations.

    Raises:
      Problems: a line for each setting that is wrong.
    """
    check_all(
        lambda: check_settings(
            "", config, map=tuple(recalibration.FITS), num_folds=Range(2, integer=True), min_records=POSITIVE_INT
        ),
        lambda: check_output(config.output),
        lambda: load(config),
    )


def _result(entry: Entry, rows: Sequence[results.Row], method: str, note: str, seed: int) -> dict[str, Any]:
    """Returns the row of results of the mapped records, with the original's judge, data, statuses and figures."""
    clusters = [_cluster(row) for row in rows]
    kinds = [str(row.get("kind") or "") for row in rows] if "kind" in rows[0] else None
    summary = summarize(
        [row["confidence"] for row in rows],
        [row["correct"] for row in rows],
        kinds,
        clusters=clusters if len(set(clusters)) < len(clusters) else None,
        num_bins=int(entry.result.get("num_bins", metrics.NUM_BINS)),
        seed=seed,
    )
    summary = dataclasses.replace(summary, notes=(*summary.notes, note))
    cost = {"dollars": 0.0, "calls": 0}  # nothing was asked for this row
    return {**entry.result, **dataclasses.asdict(summary), "method": method, "cost": cost}


def run(config: ConfigDict, mesh: Any) -> None:
    """Writes `config.evaluation` with mapped confidences into `config.output`.

    Raises:
      FileNotFoundError, ValueError: see `load`.
    """
    entry, validation = load(config)
    rows, title = _judged(entry), recalibration.TITLES[config.map]
    answers = _answers(rows)
    if validation is None:
        clusters = [_cluster(row) for row in rows]
        probs = recalibration.cross_fit(config.map, answers, clusters, config.num_folds, config.seed)
        method = f"{entry.method} + {title} (cross-fitted)"
        note = f"{config.num_folds} folds of its own {len(rows):,} records; the map of each was fitted without it"
    else:
        fitted = _judged(validation)
        probs = recalibration.FITS[config.map](_answers(fitted))(answers)
        method = f"{entry.method} + {title}"
        note = f"fitted on {len(fitted):,} records of {validation.folder}"
    mapped = iter(probs.tolist())
    records = [
        {**row, "confidence": next(mapped), "stated_confidence": row["confidence"]} if row["status"] == "ok" else row
        for row in entry.records
    ]
    rows = [row for row in records if row["status"] == "ok"]
    result = _result(entry, rows, method, f"recalibrated: {note}", config.seed)
    names = ("evaluation", "validation", "map", "num_folds")
    source = {name: config[name] for name in names} | {"code": code_version()}
    result["settings"] = {**(entry.result.get("settings") or {}), "recalibration": source}
    output = Path(config.output)
    jsonl.write_jsonl(output / "records.jsonl", records)
    table.publish(output, result, original=entry.result)
