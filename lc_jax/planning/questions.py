"""Checks of the evaluations' questions before the first stage: missing data sets, and overlap with training."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Mapping, Sequence
from typing import Any

from lc_jax.data.questions import check_answers, load_joined_rows, load_training_rows, raw_questions
from lc_jax.data.rows import HubUnreachable, optional
from lc_jax.planning.stages import Stage, join_names
from lc_jax.preflight import Problems

_MAX_OVERLAP = 0.01  # share of a test set's questions that may be in the training data
_TEXTS = ("paragraph_generation_prompt", "prompt", "question")


@dataclasses.dataclass(frozen=True)
class Missing:
    """Test data set that cannot be loaded."""

    data: str  # its name in tables
    reason: str  # with the remedy
    stages: tuple[str, ...]  # names of the stages that need it
    is_fault: bool = False  # an error rather than absence: the user names it, it is unreadable, or the hub is down


def missing_tests(stages: Sequence[Stage]) -> list[Missing]:
    """Loads the test questions of all stages; returns the data sets that cannot be loaded."""
    missing = []
    for group in _by_questions([stage for stage in stages if _is_test(stage)]):
        try:
            _load(**group[0].config.questions)
        except (OSError, ValueError) as error:
            mode = group[0].experiment.partition(":")[2]
            name = next((stage.config.data for stage in group if stage.config.get("data")), mode)
            is_fault = not _is_absent(error) or any(map(_names_questions, group))
            missing.append(Missing(name, str(error), tuple(stage.name for stage in group), is_fault))
    return missing


def check_missing(missing: Sequence[Missing]) -> None:
    """Checks that missing data sets are simply absent, so that they can be skipped.

    Raises:
      Problems: a message for each other data set.
    """
    messages = [f"{join_names(data.stages)}: {data.reason}" for data in missing if data.is_fault]
    if messages:
        raise Problems(messages)


def _is_absent(error: Exception) -> bool:
    """Returns whether an error says that there is no such data set, rather than that it is unknown."""
    return isinstance(error, FileNotFoundError) or not isinstance(error, OSError | HubUnreachable)


def _names_questions(stage: Stage) -> bool:
    """Returns whether the user names the stage's questions, by an environment variable or a flag."""
    mode = stage.experiment.partition(":")[2]
    own = ("--config.questions.source", "--config.questions.answers")
    values = [value for name, _, value in (flag.partition("=") for flag in stage.flags) if name in own]
    return bool(os.environ.get(f"LC_{mode.upper()}", "").strip()) or any(map(optional, values))


def leaks(stages: Sequence[Stage]) -> tuple[list[str], list[str]]:
    """Compares the questions of evaluations with those of training.

    Returns:
      Problems: data sets of which training has too many questions; and notes on those of which it has few.
    """
    training: dict[str, set[str]] = {stage.name: _trained_on(stage) for stage in stages if _trains(stage)}
    problems, notes = [], []
    for group in _by_questions([stage for stage in stages if _is_test(stage)]):
        texts = [
            {_fold_case_and_spaces(q.question), _fold_case_and_spaces(q.prompt)} - {""}
            for q in _load(**group[0].config.questions)
        ]
        names = [name for name, texts_of_stage in training.items() if any(own & texts_of_stage for own in texts)]
        count = sum(any(own & training[name] for name in names) for own in texts)
        if not count:
            continue
        data = group[0].config.get("data") or group[0].config.questions.source
        part = f"{count} of {len(texts)} questions of the evaluation"
        line = f"{data}: {part} are in the training data of {join_names(names)}"
        if count > _MAX_OVERLAP * len(texts):
            problems.append(f"{line}; give the evaluation or the training other questions.")
        else:
            notes.append(f"{line}.")
    return problems, notes


def _is_test(stage: Stage) -> bool:
    questions = stage.config.get("questions")
    return stage.config.task in ("evaluate_qa", "generate_data") and bool(questions) and questions.split == "test"


def _trains(stage: Stage) -> bool:
    return stage.config.task in ("sft", "reward_model", "ppo")


def _by_questions(stages: Sequence[Stage]) -> list[list[Stage]]:
    """Groups stages by their questions."""
    groups: dict[str, list[Stage]] = {}
    for stage in stages:
        groups.setdefault(str(sorted(stage.config.questions.items())), []).append(stage)
    return list(groups.values())


@functools.cache
def _load(
    source: str, split: str | None, answers: str | None, answers_split: str | None, columns: str = ""
) -> list[Any]:
    """Loads the questions of a data set once."""
    check_answers(source, answers, split)
    return raw_questions(load_joined_rows(source, split, answers, answers_split, columns), source)[0]


def _trained_on(stage: Stage) -> set[str]:
    """Returns the questions and queries that a stage trains on; none if its data do not exist yet."""
    config = stage.config
    source: Mapping[str, Any] = config.questions if config.task == "ppo" else config.data.rows
    if optional(source["source"]) is None:
        return set()
    load = load_joined_rows if config.task == "ppo" else load_training_rows
    try:
        rows = _rows(load, tuple(sorted(source.items())))
    except (OSError, ValueError):  # the stage's own check says what is wrong
        return set()
    return {_fold_case_and_spaces(str(row[name])) for row in rows for name in _TEXTS if row.get(name)}


@functools.cache
def _rows(load: Any, arguments: tuple[tuple[str, Any], ...]) -> list[dict[str, Any]]:
    return load(**dict(arguments))


def _fold_case_and_spaces(text: str) -> str:
    """Returns a question or a prompt for comparison; unlike in `splits.normalise_question`, its last mark counts."""
    return " ".join(text.casefold().split())
