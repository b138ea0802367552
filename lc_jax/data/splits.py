"""Splits of a file of questions with short answers: examples of a prompt, two training sets, validation and test."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from lc_jax.types import Question

MIN_QUESTIONS = 8


@dataclasses.dataclass(frozen=True)
class Splits:
    """Disjoint sets of questions, but for `sft` and `ppo`, which are the same where there are few questions."""

    shots: list[Question]  # examples in the prompt of a base model
    sft: list[Question]  # for summary distillation and LC SFT
    ppo: list[Question]  # for LC RL
    validation: list[Question]  # for choices: recalibration, hyperparameters
    test: list[Question]  # reported


@dataclasses.dataclass(frozen=True)
class SplitSizes:
    """Largest number of questions in each set; a set gets less where its share of all questions is less."""

    num_shots: int
    num_sft: int
    num_ppo: int
    num_validation: int
    num_test: int
    min_train: int = 600  # with fewer questions for training, both training stages use all of them


def normalise_question(question: str) -> str:
    """Returns a question without case, outer white space, runs of white space and a final question mark or stop."""
    return " ".join(question.casefold().split()).rstrip("?. ")


def duplicates(questions: Iterable[Question]) -> dict[int, int]:
    """Returns the index of each repeated question, and the index of the one that it repeats.

    Questions are the same if `normalise_question` returns the same text for both, whatever their ids and answers: with
    one of them in training and one in the test set, the test would measure memory.
    """
    first: dict[str, int] = {}
    repeated = {}
    for index, q in enumerate(questions):
        place = first.setdefault(normalise_question(q.question), index)
        if place != index:
            repeated[index] = place
    return repeated


def split(questions: Sequence[Question], sizes: SplitSizes, seed: int) -> Splits:
    """Splits distinct questions at random.

    The test set has at most a fifth of them, validation a tenth, the examples an eighth; the rest is for training, a
    third of it for SFT.

    Raises:
      ValueError: there are fewer than MIN_QUESTIONS.
    """
    if len(questions) < MIN_QUESTIONS:
        raise ValueError(
            f"{len(questions)} questions are too few to train on some and test on others: give {MIN_QUESTIONS} or more."
        )
    order = [questions[i] for i in np.random.RandomState(seed).permutation(len(questions))]
    total = len(order)
    shots = _examples(order[total // 2 :], min(sizes.num_shots, total // 8))
    rest = [q for q in order if q not in shots]
    num_test, num_validation = min(sizes.num_test, total // 5), min(sizes.num_validation, total // 10 or 1)
    test, validation = rest[:num_test], rest[num_test : num_test + num_validation]
    train = rest[num_test + num_validation :]
    if len(train) < sizes.min_train:
        sft, ppo = train[: sizes.num_sft], train[: sizes.num_ppo]
    else:
        num_sft = min(sizes.num_sft, len(train) // 3)
        sft, ppo = train[:num_sft], train[num_sft : num_sft + sizes.num_ppo]
    return Splits(shots, sft, ppo, validation, test)


def _examples(candidates: Sequence[Question], count: int) -> list[Question]:
    """Returns the first `count` questions with different answers, those with the most frequent answers.

    So the examples show a model which answers to expect. Texts with braces, which are placeholders of a prompt, or with
    line breaks are no examples.
    """
    frequency = Counter(q.answer for q in candidates)
    by_answer: dict[str, Question] = {}
    for q in candidates:
        if not any(character in q.prompt + q.answer for character in "{}\n"):
            by_answer.setdefault(q.answer, q)
    return sorted(by_answer.values(), key=lambda q: -frequency[q.answer])[:count]
