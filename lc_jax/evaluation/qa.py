"""Reads paragraphs as a person would who must answer a question from them, and judges the answers (paper section 6).

extract the answers that a paragraph offers -> forecast each -> choose the most probable -> hold it against the truth.
Whatever could not be annotated keeps that status: it is counted, and is no score.
"""

from __future__ import annotations

import dataclasses
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from lc_jax.llm.annotate import Annotation, judge
from lc_jax.llm.steps import REASONING, Ask, Fields, Step
from lc_jax.prompts import equivalence, extract, forecast
from lc_jax.prompts.equivalence import Comparison
from lc_jax.types import Generation, Question, ReplyStatus


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How paragraphs are read and judged; docs/published.md says which values the published evaluation has."""

    reasoning: bool = False  # extraction and forecasts: a line of reasoning comes before the answer
    text_order: bool = False  # answers are listed in the order of the paragraph; False: the most probable first
    judge_matches: bool = False  # the judge is asked about answers in the words of the truth or an alias, too
    judge_temperature: float = 0.0

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Protocol:
        """Returns the protocol that a config of evaluate_qa sets."""
        fields = {name: settings[name] for name in ("judge_matches", "judge_temperature")}
        return cls(**settings["wording"], **fields)

    def steps(self) -> dict[str, Step]:
        """The questions to annotators under their published names, so that a folder of wordings can replace them."""
        extraction = extract.prompt(reasoning=self.reasoning, text_order=self.text_order)
        probability = forecast.prompt(reasoning=self.reasoning)
        most = max(300, REASONING * self.reasoning)
        return {
            "eval_extract": Step(extraction, 0.2, most, lambda fields: ["an answer", "another answer"], "extract"),
            "eval_forecast": Step(probability, 0.2, most, lambda fields: 0.5, "forecast"),
            "equivalence": Step(
                equivalence.PROMPT,
                self.judge_temperature,
                200,
                lambda fields: [False] * len(equivalence.split_comparisons(fields["comparisons"])),
                "judge",
            ),
        }


STEPS = Protocol().steps()


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
    """Whether an answer is the truth or one of its aliases in the same words."""
    return bool(_plain(answer)) and _plain(answer) in map(_plain, (question.answer, *question.aliases))


def _forecasts(generations: Sequence[Generation], answers: Sequence[Sequence[str]], ask: Ask) -> list[list[Annotation]]:
    """Returns a forecast for every answer of every paragraph, each from a request of its own."""
    pairs = [(i, answer) for i, listed in enumerate(answers) for answer in listed]
    rows: list[Fields] = [
        {
            "generated_paragraph": generations[i].paragraph,
            "question": generations[i].question.question,
            "answer": answer,
        }
        for i, answer in pairs
    ]
    forecasts: list[list[Annotation]] = [[] for _ in generations]
    for (i, _), reply in zip(pairs, ask("eval_forecast", rows), strict=True):
        forecasts[i].append(reply)
    return forecasts


def _choose(generation: Generation, extraction: Annotation, forecasts: Sequence[Annotation] | None) -> Record:
    """The record of the answer with the highest forecast (the first wins ties), or of the first without forecasts.

    A paragraph without an answer is wrong with confidence 1, as published.
    """
    q, answers = generation.question, tuple(extraction.value or ())
    failure = next((a for a in (extraction, *(forecasts or ())) if a.status != "ok"), None)
    probs = tuple(a.value for a in forecasts) if forecasts and failure is None else ()
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
        chosen=chosen if failure is None else "",
        confidence=confidence if failure is None else float("nan"),
        correct=False,
        status=failure.status if failure else "ok",
        detail=failure.detail if failure else "",
    )


def without_paragraph(question: Question, paragraph: Annotation) -> Record:
    """Returns the record of a question without a paragraph."""
    return _choose(Generation(question, ""), dataclasses.replace(paragraph, value=None), None)


def _with_verdict(record: Record, verdict: Annotation) -> Record:
    """Returns the record with an annotator's verdict on the chosen answer."""
    if verdict.status == "ok":
        return dataclasses.replace(record, correct=verdict.value)
    return dataclasses.replace(record, confidence=float("nan"), status=verdict.status, detail=verdict.detail)


def evaluate(
    generations: Sequence[Generation],
    ask: Ask,
    *,
    uses_confidence: bool,
    forecast_truth: bool = False,
    judge_matches: bool = False,
) -> list[Record]:
    """Returns one record a paragraph, in order. Ten answers at a time are judged.

    Args:
      ask: asks the steps of a Protocol.
      uses_confidence: False for methods that state no confidence: the first extracted answer counts, with confidence 1.
      forecast_truth: forecast the true answer as well, which no metric uses.
      judge_matches: see Protocol.
    """
    rows: list[Fields] = [{"generated_paragraph": g.paragraph, "question": g.question.question} for g in generations]
    extractions = list(ask("eval_extract", rows))
    answers = [extraction.value or () for extraction in extractions]
    forecasts = _forecasts(generations, answers, ask) if uses_confidence else [None] * len(generations)
    records = [_choose(g, e, f) for g, e, f in zip(generations, extractions, forecasts, strict=True)]
    if forecast_truth:
        truths = _forecasts(generations, [(g.question.answer,) for g in generations], ask)
        records = [
            dataclasses.replace(record, truth_prob=truth.value)
            for record, (truth,) in zip(records, truths, strict=True)
        ]
    unclear = []
    for i, (generation, record) in enumerate(zip(generations, records, strict=True)):
        if record.status != "ok" or not record.chosen:
            continue
        if not judge_matches and _matches(generation.question, record.chosen):
            records[i] = dataclasses.replace(record, correct=True)
        else:
            unclear.append(i)
    comparisons = [Comparison(records[i].question, records[i].answer, records[i].chosen) for i in unclear]
    verdicts = judge(lambda batches: ask("equivalence", batches), comparisons)
    for i, verdict in zip(unclear, verdicts, strict=True):
        records[i] = _with_verdict(records[i], verdict)
    return records
