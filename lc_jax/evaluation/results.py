"""Stored evaluations: result.json (one row of numbers) and records.jsonl (one row per question or claim)."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lc_jax import preflight
from lc_jax.data import jsonl
from lc_jax.evaluation.intervals import Scored

Row = Mapping[str, Any]
NOT_EVALUATED = "not_evaluated.json"  # next to evaluations: data sets without one, and the reasons
PROTOCOL = (
    "prompts",
    "wording",
    "judge_matches",
    "judge_temperature",
)  # settings that must agree for results to be comparable
# Types of the fields that every result has; an error may be undefined.
_NUMBER = int | float | None
FIELDS: dict[str, Any] = {
    "method": str,
    "data": str,
    "judge": str,
    "seed": _NUMBER,
    "accuracy": _NUMBER,
    "ece": _NUMBER,
}


@dataclasses.dataclass(frozen=True)
class Column:
    """Column of a table: one number of a result."""

    name: str  # the field
    title: str
    meaning: str  # in a sentence, for someone who opens a report for the first time
    has_interval: bool = False


MAIN = (
    Column("accuracy", "accuracy", "Share of right answers (biographies: of supported claims). More is better.", True),
    Column(
        "ece",
        "ECE",
        "Expected calibration error: how far stated confidence is from the share of right answers, on average over "
        "bins. 0 is perfect.",
        True,
    ),
    Column(
        "ece_debiased",
        "debiased ECE",
        "ECE without what chance adds to it in each bin. Bins of equal width can hide errors that this one shows.",
    ),
    Column(
        "overconfidence",
        "over (+) or under (−)",
        "Mean stated confidence less the share of right answers: positive is overconfident, negative underconfident.",
        True,
    ),
    Column(
        "brier",
        "Brier",
        "Mean squared difference of confidence and outcome: less is better. It rewards being right and knowing when.",
        True,
    ),
    Column(
        "brier_constant",
        "Brier of a constant",
        "Brier score of always stating the accuracy: what a method has to beat to tell right from wrong.",
    ),
    Column(
        "auroc",
        "AUROC",
        "Chance that a right answer is stated with more confidence than a wrong one: 0.5 tells nothing, 1 tells all.",
        True,
    ),
    Column("num_questions", "n", "Number of judged answers (of biographies: claims)."),
)
MORE = (
    Column(
        "ece_noise_floor",
        "noise floor of ECE",
        "Mean ECE that a perfectly calibrated method would show on as few answers: smaller differences mean nothing.",
    ),
    Column("ece_smooth", "smooth ECE", "Calibration error without bins, under a kernel."),
    Column("ece_equal_width", "ECE, equal width", "ECE over bins of equal width instead of equal count."),
    Column("max_error", "largest error", "Largest gap between confidence and accuracy in a bin."),
    Column(
        "auroc_within",
        "AUROC within kinds",
        "AUROC over pairs of answers to questions of one kind: 0.5 where confidence tells no more than the kind does.",
    ),
    Column("log_score", "log score", "Mean log probability of what happened, in nats: 0 is perfect."),
    Column(
        "aurc",
        "AURC",
        "Area under risk and coverage: share of wrong answers when only the most confident ones are given, averaged.",
    ),
    Column(
        "augrc",
        "AUGRC",
        "Share of all questions that are answered wrongly when only the most confident are answered, averaged; unlike "
        "AURC it does not weigh the very first answers most. Less is better.",
    ),
    Column(
        "prr",
        "prediction-rejection ratio",
        "Part of what an oracle saves over random order that confidence saves: 1 rejects wrong answers first, 0 is "
        "chance.",
    ),
    Column(
        "selective_accuracy_50", "accuracy at half coverage", "Accuracy of the half that is stated most confidently."
    ),
    Column("selective_accuracy_80", "accuracy at 80% coverage", "Accuracy without the least confident fifth."),
    Column("sharpness", "sharpness", "Variance of the stated confidences: 0 where they are all the same."),
    Column("num_confidence_values", "values in use", "Distinct percentages that at least 5% of the answers state."),
)


@dataclasses.dataclass(frozen=True)
class Entry:
    """Contents of result.json and records.jsonl of one evaluation."""

    result: Row
    records: Sequence[Row]
    folder: str = ""  # folder of the two files

    @property
    def data(self) -> str:
        return str(self.result["data"])

    @property
    def method(self) -> str:
        return str(self.result["method"])

    def scored(self) -> Scored:
        """Returns the judged rows; their clusters are the entities of biographies, or the questions."""
        rows = [row for row in self.records if row["status"] == "ok"]
        clusters = [str(row.get("entity") or row["question_id"]) for row in rows]
        return Scored([row["confidence"] for row in rows], [row["correct"] for row in rows], clusters)


def number(row: Row, name: str) -> float:
    """Returns a number of a result; NaN if it is null, NaN (in files of older versions) or missing."""
    value = row.get(name)
    return float(value) if isinstance(value, int | float) else math.nan


def reason(row: Row, name: str) -> str:
    """Returns why a number of a result is undefined; "" if it is defined, or for files of older versions."""
    return str((row.get("undefined") or {}).get(name, ""))


def read_result(path: Path) -> dict[str, Any]:
    """Reads a result.json.

    Raises:
      ValueError: it is cut off, no JSON object, or without a field that every result has.
    """
    remedy = _remedy(path.parent)
    try:
        row = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not JSON ({error}), perhaps cut off; {remedy}") from error
    if not isinstance(row, dict):
        raise ValueError(f"{path} is no result of an evaluation (a JSON object is expected); {remedy}")
    missing = [name for name in FIELDS if name not in row]
    if missing:
        raise ValueError(f"{path} lacks {missing}; {remedy}")
    wrong = [name for name, kind in FIELDS.items() if not isinstance(row[name], kind)]
    if wrong:
        raise ValueError(f"{path}: {', '.join(wrong)} of another type than an evaluation writes; {remedy}")
    return row


def _remedy(folder: Path) -> str:
    return f"evaluate {folder} again, or move that folder away."


def read(folder: Path) -> Entry:
    """Reads the evaluation in a folder.

    Raises:
      FileNotFoundError: records.jsonl is missing.
      ValueError: a file cannot be read, or a judged record has no confidence in [0, 1] or no verdict.
    """
    result, path = read_result(folder / "result.json"), folder / "records.jsonl"
    if not path.is_file():
        raise FileNotFoundError(f"{folder} has result.json but no records.jsonl: {_remedy(folder)}")
    records = jsonl.read_jsonl(path)
    for row_number, row in enumerate(records, 1):
        problem = _problem(row)
        if problem:
            raise ValueError(f"{path}, row {row_number}: {problem}; evaluate {folder} again.")
    return Entry(result, records, str(folder))


def _problem(row: Row) -> str:
    """Returns the problem of a record; "" if there is none."""
    if not row.get("status") or not (row.get("question_id") or row.get("entity")):
        return "no 'status', or neither 'question_id' nor 'entity'"
    if row["status"] == "ok" and not 0 <= number(row, "confidence") <= 1:
        return f"confidence {row.get('confidence')!r} of a judged row is not in [0, 1]"
    if row["status"] == "ok" and not 0 <= number(row, "correct") <= 1:
        return f"correct {row.get('correct')!r} of a judged row is neither true nor false, nor graded in [0, 1]"
    return ""


def read_all(folders: Sequence[Path]) -> list[Entry]:
    """Reads the evaluations in `folders`, in order; the problems of all are reported together."""
    return preflight.check_all(*(functools.partial(read, folder) for folder in folders))


def check_distinct(entries: Sequence[Entry]) -> None:
    """Checks that evaluations of a method have different seeds, since they are averaged over seeds.

    Raises:
      ValueError: two evaluations have the same method, data set and seed.
    """
    first: dict[tuple[str, str, Any], Entry] = {}
    for entry in entries:
        other = first.setdefault((entry.data, entry.method, entry.result["seed"]), entry)
        if other is not entry:
            raise ValueError(
                f"{other.folder} and {entry.folder} both hold {entry.method!r} on {entry.data!r} with seed "
                f"{entry.result['seed']}: evaluate one of them with another --config.method or --config.seed, or move "
                "it away."
            )


def by_data(entries: Sequence[Entry]) -> dict[str, list[Entry]]:
    """Groups entries by data set, in order."""
    groups: dict[str, list[Entry]] = {}
    for entry in entries:
        groups.setdefault(entry.data, []).append(entry)
    return groups


def judges(group: Sequence[Entry]) -> list[str]:
    """Returns the distinct judges of entries, in alphabetical order."""
    return sorted({str(entry.result["judge"]) for entry in group})


def has_one_protocol(group: Sequence[Entry]) -> bool:
    """Returns whether all entries that state them have the same prompts and settings of the protocol."""
    settings = [entry.result.get("settings") or {} for entry in group]
    protocols = [{name: each.get(name) for name in PROTOCOL} for each in settings if each.get("prompts")]
    return all(protocol == protocols[0] for protocol in protocols)


def label(entry: Entry, entries: Sequence[Entry]) -> str:
    """Returns the method, with its seed if `entries` have several seeds of it on the same data set."""
    same = [other for other in entries if (other.data, other.method) == (entry.data, entry.method)]
    return entry.method if len(same) == 1 else f"{entry.method}, seed {entry.result['seed']}"


def not_evaluated(folder: Path) -> list[str]:
    """Returns a line for each data set that a script skipped, for the end of a table."""
    path = folder / NOT_EVALUATED
    if not path.is_file():
        return []
    return [f"not evaluated: {row['data']}: {row['reason']}" for row in json.loads(path.read_text())]
