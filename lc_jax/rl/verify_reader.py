"""Checks that a reader reads back what a paragraph states."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from lc_jax.miniature import text
from lc_jax.rl.reader import Reader, RulesReader
from lc_jax.rl.reward import probability
from lc_jax.rl.verify import Measured, Result, Skipped
from lc_jax.types import Question

MAX_WRONG = 0.25  # share of plain statements that a trained reader may misread


def _pairs(questions: Sequence[Question]) -> list[tuple[Question, str]]:
    """Returns questions, each with another's answer of the same kind."""
    pairs = []
    for question in questions:
        others = [q.answer for q in questions if q.kind == question.kind and q.answer != question.answer]
        if others:
            pairs.append((question, others[0]))
    if not pairs:
        raise Skipped("all questions have one answer")
    return pairs


def _state(question: Question, answer: str, is_miniature: bool) -> str:
    """Returns a paragraph that says that `answer` is the answer, and nothing else."""
    if is_miniature:
        kind = next((kind for kind in text.SENTENCES if question.kind.startswith(kind)), "")
        if kind:
            return text.plain({kind: answer})
    return f"{question.question} The answer is {answer}. It is certain that it is {answer}."


def forecasts(reader: Reader, questions: Sequence[Question], is_miniature: bool) -> Measured:
    """Counts true answers that are not more probable after a paragraph that states them than after another."""
    head = reader.forecaster.model.params["reward_head"]["weight"]
    if not np.asarray(head[...]).any():
        raise Skipped("the forecaster's head is zero: it is not trained yet")
    pairs = _pairs(questions)
    alone = Reader(None, reader.forecaster)
    paragraphs = [_state(q, q.answer, is_miniature) for q, _ in pairs], [_state(q, a, is_miniature) for q, a in pairs]
    right, wrong = (alone.read([q for q, _ in pairs], z, 0).forecasts.target_logits for z in paragraphs)
    return Measured(float(np.mean(~(right > wrong))), MAX_WRONG, " of statements misread")


def extraction(reader: Reader, questions: Sequence[Question], is_miniature: bool) -> Measured:
    """Counts answers that a paragraph states and the extractor does not list."""
    if reader.extractor is None:
        raise Skipped("there is no extractor")
    pairs = _pairs(questions)
    paragraphs = [_state(q, answer, is_miniature) for q, answer in pairs]
    lists = reader.extractor.extract([q for q, _ in pairs], paragraphs, 0)
    wrong = [a.casefold() not in map(str.casefold, answers) for (_, a), answers in zip(pairs, lists, strict=True)]
    return Measured(float(np.mean(wrong)), MAX_WRONG, " of statements misread")


def statements(reader: RulesReader, questions: Sequence[Question]) -> Measured:
    """Computes the largest error of the forecast of a true answer that a statement gives 0.9, 0.5 or 0.1."""
    probs = np.resize([0.9, 0.5, 0.1], len(questions))
    texts = [f"The answer is {q.answer} ({100 * prob:.0f}%)." for q, prob in zip(questions, probs, strict=True)]
    logits = reader.read(questions, texts, 0).forecasts.target_logits
    return Measured(float(np.abs(probability(logits) - probs).max()), 1e-6)


def results(reader: Reader | RulesReader, questions: Sequence[Question], *, is_miniature: bool) -> list[Result]:
    """Makes the checks of forecaster and extractor, or of the rules."""
    if isinstance(reader, RulesReader):
        return [Result.of("the rules read what is stated", lambda: statements(reader, questions))]
    checks: dict[str, Callable[[], Measured]] = {
        "the forecaster reads what is stated": lambda: forecasts(reader, questions, is_miniature),
        "the extractor lists what is stated": lambda: extraction(reader, questions, is_miniature),
    }
    return [Result.of(name, check) for name, check in checks.items()]
