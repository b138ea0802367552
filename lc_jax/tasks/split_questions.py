"""Splits questions with short answers into the sets of launch/calibrate.sh, and chooses sizes that fit their number.

  questions -> sft.jsonl, ppo.jsonl, validation.jsonl, test.jsonl; shots.jsonl: examples, and prompts/ with them for a
               base model, without confidence and (prompts_percentage/) with percentages; sizes.flags: settings of
               later stages; left_out.jsonl: rows that make no question, and repeated ones

With `only_test` all questions are in test.jsonl, and no other set is written. The question itself is what the model is
asked (`paragraph_generation_prompt`), unless a row has another query.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging
from ml_collections import ConfigDict

from lc_jax.data import jsonl, splits
from lc_jax.data.questions import load_joined_rows, question_from, with_distinct_ids
from lc_jax.data.rows import optional, place_of
from lc_jax.preflight import NATURAL, POSITIVE_INT, check_all, check_output, check_settings
from lc_jax.short_answers.matching import matches
from lc_jax.types import Question

RECORD = "{output}/run.json"
SETS = ("sft", "ppo", "validation", "test", "shots")
PASSES = 4
STATE_CONFIDENCE = "Give a short answer and, in brackets, how probable it is that this answer is right.\n\n"
PERCENTAGES = (" (90%)", " (30%)", " (70%)", " (50%)")  # of the examples: they show the form, and no confidence
MOST_MESSAGES = 20  # rows that are named in the log; left_out.jsonl has all


def needs_devices(config: ConfigDict) -> bool:
    """Returns False: text is read and written."""
    return False


def check(config: ConfigDict) -> None:
    """Checks the sizes, and that there are questions.

    Raises:
      Problems: a line for each setting that is wrong.
    """
    counts = (
        "num_sft", "num_ppo", "num_validation", "num_test", "num_samples", "sft_batch_size",
        "rollout_batch_size", "minibatch_size", "max_steps",
    )  # fmt: skip
    check_all(
        lambda: check_settings("", config, num_shots=NATURAL, limit=NATURAL, **dict.fromkeys(counts, POSITIVE_INT)),
        lambda: check_output(config.output),
        lambda: load(config, training=""),  # whose sets an earlier stage may have yet to write
    )


def load(config: ConfigDict, training: str) -> tuple[list[Question], list[dict[str, Any]]]:
    """Returns the distinct questions in order, and a record of each row that is left out with its place and reason.

    Args:
      training: a folder of sets whose questions are left out; "" for none.

    Raises:
      ValueError: no row makes a question.
    """
    source = config.questions
    rows = load_joined_rows(**source)
    questions: list[Question] = []
    indices: list[int] = []  # of their rows
    left_out: list[dict[str, Any]] = []

    def place(index: int) -> str:
        return place_of(source.source, optional(source.split), index)

    def leave_out(index: int, reason: str) -> None:
        left_out.append({"place": place(index), "reason": reason, "row": rows[index]})

    for index, row in enumerate(rows):
        try:
            questions.append(question_from(row, f"row {index + 1}"))
            indices.append(index)
        except ValueError as error:
            leave_out(index, str(error))
    if not questions:
        reasons = sorted({record["reason"] for record in left_out})
        raise ValueError(
            f"{source.source}: no row makes a question ({', '.join(reasons)}); a row needs a question and an answer. "
            "Name other columns with --config.questions.columns=question=YOURS,answer=YOURS."
        )
    in_training, repeated, distinct = _training_questions(training), splits.duplicates(questions), list[Question]()
    for index, q in enumerate(questions):
        if index in repeated:
            first = questions[repeated[index]]
            differs = not matches(q.answer, (first.answer, *first.aliases))
            reason = f"repeats the question of {place(indices[repeated[index]])}"
            leave_out(indices[index], reason + (", with another answer" if differs else ""))
        elif path := in_training.get(splits.normalise_question(q.question)):
            leave_out(indices[index], f"is a question of {path}")
        else:
            distinct.append(q)
    if not distinct:
        raise ValueError(f"{source.source}: every question is one of {training}; give other questions to test on.")
    distinct = [dataclasses.replace(q, prompt=q.prompt or q.question) for q in distinct]
    if config.limit:
        order = np.random.RandomState(config.seed).permutation(len(distinct))[: config.limit]
        distinct = [distinct[i] for i in sorted(order)]
    return with_distinct_ids(distinct, source.source), left_out


def _training_questions(folder: str) -> dict[str, str]:
    """Returns the file of each normalised question in the sets of a folder; {} for ""."""
    files = [Path(folder) / f"{name}.jsonl" for name in SETS] if folder else []
    return {splits.normalise_question(row["question"]): str(path) for path in files for row in jsonl.read_jsonl(path)}


def flags(config: ConfigDict, sets: splits.Splits) -> list[str]:
    """Returns the lines of a profile (launch/profiles): sizes of the training stages that fit the sets.

    LC RL makes at most `max_steps` steps and PASSES passes over its questions; a rollout has at most
    `rollout_batch_size` episodes, `num_samples` of a question, and a whole number of minibatches of at most
    `minibatch_size` episodes.
    """
    num_samples = config.num_samples
    questions = max(1, min(config.rollout_batch_size // num_samples, len(sets.ppo)))
    of_minibatch = max(1, min(config.minibatch_size // num_samples, questions))
    questions -= questions % of_minibatch
    steps = max(1, min(config.max_steps, PASSES * len(sets.ppo) // questions))
    batch = max(1, min(config.sft_batch_size, len(sets.sft) // 2))
    held_out = min(len(sets.sft) // 10, 200)
    return [
        f"sft_lc --config.fit.batch_size={batch} --config.fit.microbatch_size=0 --config.data.eval_size={held_out}",
        f"ppo --config.ppo.num_steps={steps} --config.ppo.rollout_batch_size={questions * num_samples} "
        f"--config.ppo.num_samples={num_samples} --config.ppo.minibatch_size={of_minibatch * num_samples}",
    ]


def few_shot_prompt(shots: Sequence[Question], endings: Sequence[str] = ("",), task: str = "") -> str:
    """Returns the prompt of a base model: examples, then the question, whose answer continues the text.

    Args:
      endings: of the examples' answers, in turn.
      task: text before the examples.
    """
    answers = [f"{q.answer}{end}" for q, end in zip(shots, itertools.cycle(endings), strict=False)]
    examples = [f"Question: {q.prompt}\nAnswer: {answer}\n\n" for q, answer in zip(shots, answers, strict=True)]
    return f"{task}{''.join(examples)}Question: {{paragraph_generation_prompt}}\nAnswer:"


def _record(q: Question) -> dict[str, Any]:
    return {
        "question_id": q.question_id,
        "paragraph_generation_prompt": q.prompt,
        "question": q.question,
        "answer": q.answer,
        "aliases": list(q.aliases),
        "kind": q.kind,
    }


def _log(left_out: Sequence[dict[str, Any]], path: Path) -> None:
    for record in left_out[:MOST_MESSAGES]:
        logging.warning("%s: left out: %s", record["place"], record["reason"])
    if len(left_out) > MOST_MESSAGES:
        logging.warning("%d more rows are left out; all are in %s", len(left_out) - MOST_MESSAGES, path)


def run(config: ConfigDict, mesh: Any) -> None:
    """Writes the sets, prompts and sizes into `config.output`.

    Raises:
      ValueError: no row makes a question, or there are too few.
    """
    questions, left_out = load(config, config.training)
    output = Path(config.output)
    jsonl.write_jsonl(output / "left_out.jsonl", left_out)
    _log(left_out, output / "left_out.jsonl")
    if config.only_test:
        jsonl.write_jsonl(output / "test.jsonl", map(_record, questions))
        print(f"{output}: {len(questions):,} test; {len(left_out)} rows left out.")
        return
    names = [field.name for field in dataclasses.fields(splits.SplitSizes) if field.name in config]
    sets = splits.split(questions, splits.SplitSizes(**{name: config[name] for name in names}), config.seed)
    for folder, prompt in {
        "prompts": few_shot_prompt(sets.shots),
        "prompts_percentage": few_shot_prompt(sets.shots, PERCENTAGES, STATE_CONFIDENCE),
    }.items():
        (output / folder).mkdir(parents=True, exist_ok=True)
        (output / folder / "few_shot.txt").write_text(prompt, encoding="utf-8")
    (output / "sizes.flags").write_text("".join(f"{line}\n" for line in flags(config, sets)), encoding="utf-8")
    for name in SETS:
        jsonl.write_jsonl(output / f"{name}.jsonl", map(_record, getattr(sets, name)))
    counts = ", ".join(f"{len(getattr(sets, name)):,} {name}" for name in SETS)
    print(f"{output}: {counts}; {len(left_out)} rows left out.")
