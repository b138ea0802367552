"""Outcomes: which answers of a reader are true, which are the same answer, and which paragraphs share a question.

A reader knows none of it. Rewards of every reader take it from the questions, by the rules for short answers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from lc_jax.short_answers.matching import matches, normalise_answer
from lc_jax.types import Question


@dataclasses.dataclass(frozen=True)
class Outcomes:
    """Outcomes of the answers in B paragraphs; at most K answers each, padded as AnswerForecasts are."""

    clusters: Int[np.ndarray, "B K"]  # equal numbers in a row: equivalent answers; 0: equivalent to the ground truth
    groups: Int[np.ndarray, " B"]  # equal numbers: paragraphs for the same question
    rates: Float[np.ndarray, " B"]  # fraction of correct answers to the question in earlier data; NaN: unknown


def of(questions: Sequence[Question], answers: Sequence[Sequence[str]], num_answers: int) -> Outcomes:
    """Returns the outcomes of the answers that a reader extracted from one paragraph for each of `questions`.

    Answers are equivalent if they are equal after normalisation (short_answers/matching.py), or both equal the ground
    truth or one of its aliases.

    Args:
      num_answers: K, the width of the reader's forecasts.
    """
    clusters = np.zeros((len(questions), num_answers), np.int64)
    for row, (question, extracted) in enumerate(zip(questions, answers, strict=True)):
        numbers: dict[str, int] = {}
        for k, answer in enumerate(extracted):
            is_true = matches(answer, (question.answer, *question.aliases))
            clusters[row, k] = 0 if is_true else numbers.setdefault(normalise_answer(answer), len(numbers) + 1)
    ids = {key: number for number, key in enumerate(dict.fromkeys((q.question_id, q.question) for q in questions))}
    groups = np.asarray([ids[q.question_id, q.question] for q in questions], np.int64)
    rates = [np.nan if q.empirical_rate is None else q.empirical_rate for q in questions]
    return Outcomes(clusters, groups, np.asarray(rates, np.float32))
