"""Reads paragraphs as a person would who must answer a question from them, and judges the answers (paper section 6).

extract the answers that a paragraph offers -> forecast each -> choose the most probable -> hold it against the truth.
Whatever could not be annotated keeps that status: it is counted, and is no score.
"""

from __future__ import annotations

import dataclasses
import unicodedata
from collections.abc import Sequence

from lc_jax.llm.annotate import Annotation, judge
from lc_jax.llm.steps import Ask, Fields, Step
from lc_jax.prompts import equivalence, extract, forecast
from lc_jax.prompts.equivalence import Comparison
from lc_jax.types import Generation, Question, ReplyStatus

# Under their published names, so that a folder of wordings can take their place.
STEPS = {
    "eval_extract": Step(extract.PROMPT, 0.2, 300, lambda fields: ["an answer", "another answer"]),
    "eval_forecast": Step(forecast.PROMPT, 0.2, 300, lambda fields: 0.5),
    "equivalence": Step(
        equivalence.PROMPT, 0.0, 200, lambda fields: [False] * len(equivalence.split_comparisons(fields["comparisons"]))
    ),
}


@dataclasses.dataclass(frozen=True)
class Record:
    """What became of one question."""

    question_id: str
    kind: str
    prompt: str
    question: str
    answer: str  # the truth
    paragraph: str
    answers: tuple[str, ...]  # that the paragraph offers
    probs: tuple[float, ...]  # the reader's forecast of each; empty for methods without confidence
    chosen: str  # the answer that counts; "" when there is none
    confidence: float  # in it, in [0, 1]; NaN unless status is "ok", so that the metrics refuse it
    correct: bool
    status: ReplyStatus  # anything but "ok" is counted, and left out of the metrics
    detail: str = ""  # why the status is not "ok"
    truth_prob: float | None = None  # the reader's forecast of the true answer, where it was asked for


def _plain(answer: str) -> str:
    """An answer without its case, a leading article, quotation marks around it and a final stop."""
    words = unicodedata.normalize("NFKC", answer).casefold().strip(" \t\n\"'“”‘’.").split()
    return " ".join(words[1:] if len(words) > 1 and words[0] in ("a", "an", "the") else words)


def _matches(question: Question, answer: str) -> bool:
    """The truth or one of its aliases in the same words: nobody has to be asked."""
    return bool(_plain(answer)) and _plain(answer) in map(_plain, (question.answer, *question.aliases))


def _forecasts(generations: Sequence[Generation], answers: Sequence[Sequence[str]], ask: Ask) -> list[list[Annotation]]:
    """One forecast for every answer of every paragraph, each asked by itself."""
    asked = [(i, answer) for i, offered in enumerate(answers) for answer in offered]
    rows: list[Fields] = [
        {
            "generated_paragraph": generations[i].paragraph,
            "question": generations[i].question.question,
            "answer": answer,
        }
        for i, answer in asked
    ]
    grouped: list[list[Annotation]] = [[] for _ in generations]
    for (i, _), reply in zip(asked, ask("eval_forecast", rows), strict=True):
        grouped[i].append(reply)
    return grouped


def _choose(generation: Generation, found: Annotation, forecasts: Sequence[Annotation] | None) -> Record:
    """The answer with the highest forecast (the first wins ties), or simply the first where nothing was forecast.

    A paragraph without an answer is wrong with confidence 1, as published.
    """
    q, answers = generation.question, tuple(found.value or ())
    bad = next((a for a in (found, *(forecasts or ())) if a.status != "ok"), None)
    probs = tuple(a.value for a in forecasts) if forecasts and bad is None else ()
    chosen, confidence = (answers[0], 1.0) if answers else ("", 1.0)
    if probs:
        confidence = max(probs)
        chosen = answers[probs.index(confidence)]
    return Record(
        question_id=q.question_id,
        kind=q.kind,
        prompt=q.prompt,
        question=q.question,
        answer=q.answer,
        paragraph=generation.paragraph,
        answers=answers,
        probs=probs,
        chosen=chosen if bad is None else "",
        confidence=confidence if bad is None else float("nan"),
        correct=bad is None and _matches(q, chosen),
        status=bad.status if bad else "ok",
        detail=bad.detail if bad else "",
    )


def unwritten(question: Question, paragraph: Annotation) -> Record:
    """The record of a question whose paragraph could not be had."""
    return _choose(Generation(question, ""), dataclasses.replace(paragraph, value=None), None)


def _judged(record: Record, verdict: Annotation) -> Record:
    """The record with an annotator's verdict on the chosen answer."""
    if verdict.status == "ok":
        return dataclasses.replace(record, correct=verdict.value)
    return dataclasses.replace(record, confidence=float("nan"), status=verdict.status, detail=verdict.detail)


def evaluate(
    generations: Sequence[Generation], ask: Ask, *, uses_confidence: bool, forecast_truth: bool = False
) -> list[Record]:
    """One record a paragraph, in order. Ten answers at a time are judged, and only those that match no alias.

    Args:
      ask: asks the steps of STEPS.
      uses_confidence: False for methods that state no confidence: the first extracted answer counts, with confidence 1.
      forecast_truth: forecast the true answer as well, which no metric uses.
    """
    rows: list[Fields] = [{"generated_paragraph": g.paragraph, "question": g.question.question} for g in generations]
    extracted = list(ask("eval_extract", rows))
    offered = [found.value or () for found in extracted]
    forecasts = _forecasts(generations, offered, ask) if uses_confidence else [None] * len(generations)
    records = [_choose(g, found, f) for g, found, f in zip(generations, extracted, forecasts, strict=True)]
    if forecast_truth:
        truths = _forecasts(generations, [(g.question.answer,) for g in generations], ask)
        records = [
            dataclasses.replace(record, truth_prob=truth.value)
            for record, (truth,) in zip(records, truths, strict=True)
        ]
    unclear = [i for i, r in enumerate(records) if r.status == "ok" and r.chosen and not r.correct]
    comparisons = [Comparison(records[i].question, records[i].answer, records[i].chosen) for i in unclear]
    verdicts = judge(lambda batches: ask("equivalence", batches), comparisons)
    for i, verdict in zip(unclear, verdicts, strict=True):
        records[i] = _judged(records[i], verdict)
    return records
