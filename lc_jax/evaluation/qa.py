"""Reads paragraphs as a person would who must answer a question from them, and judges the answers (paper section 6).

extract the answers that a paragraph offers -> forecast each -> choose the most probable -> judge it by the truth.
What could not be annotated keeps that status: it is counted, and is no score.
"""

from __future__ import annotations

import dataclasses
import functools
import unicodedata
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

from lc_jax.llm.annotate import REASONING, Annotation, AnnotationTask, AskTask
from lc_jax.llm.concurrency import gather
from lc_jax.prompts import equivalence, extract, forecast
from lc_jax.prompts.equivalence import Comparison
from lc_jax.types import Generation, Question, ReplyStatus


@dataclasses.dataclass(frozen=True)
class Protocol:
    """Settings of reading and judging paragraphs; docs/published.md has the published values."""

    reasoning: bool = False  # extraction and forecasts: a line of reasoning comes before the answer
    text_order: bool = False  # answers are listed in the order of the paragraph; False: the most probable first
    judge_matches: bool = False  # the judge is asked about answers in the words of the truth or an alias, too
    judge_temperature: float = 0.0

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Protocol:
        """Returns the protocol that a config of evaluate_qa sets."""
        fields = {name: settings[name] for name in ("judge_matches", "judge_temperature")}
        return cls(**settings["wording"], **fields)

    def tasks(self) -> dict[str, AnnotationTask]:
        """The questions to annotators under their published names, so that a folder of wordings can replace them."""
        extraction = extract.prompt(reasoning=self.reasoning, text_order=self.text_order)
        probability = forecast.prompt(reasoning=self.reasoning)
        most = max(300, REASONING * self.reasoning)
        return {
            "eval_extract": AnnotationTask(
                extraction, 0.2, most, lambda fields: ["an answer", "another answer"], "extract"
            ),
            "eval_forecast": AnnotationTask(probability, 0.2, most, lambda fields: 0.5, "forecast"),
            "equivalence": AnnotationTask(
                equivalence.PROMPT,
                self.judge_temperature,
                200,
                lambda fields: [False] * len(equivalence.split_comparisons(fields["comparisons"])),
                "judge",
            ),
        }


TASKS = Protocol().tasks()

MapItems = Callable[..., AsyncIterator[Any]]  # Session.map


@dataclasses.dataclass(frozen=True)
class Record:
    """Outcome of one question."""

    question_id: str
    kind: str
    prompt: str
    question: str
    answer: str  # the truth
    paragraph: str
    answers: tuple[str, ...]  # that the paragraph offers
    probs: tuple[float, ...]  # the reader's forecast of each; empty for methods without confidence
    chosen: str  # the answer that counts; "" when there is none
    confidence: float  # in it, in [0, 1]; NaN unless status is "ok", so that the metrics reject it
    correct: bool | None  # None until the answer is judged, and where status is not "ok"
    status: ReplyStatus  # anything but "ok" is counted, and left out of the metrics
    detail: str = ""  # why the status is not "ok"
    truth_prob: float | None = None  # the reader's forecast of the true answer, where it was asked for


async def evaluate_all(
    generations: Sequence[Generation], ask: AskTask, map_items: MapItems, **options: Any
) -> list[Record]:
    """Returns the record of each paragraph, in order. Ten answers at a time are judged, as published.

    Args:
      ask: asks the annotation tasks of a Protocol.
      map_items: maps an async function over items, in order; Session.map.
      options: of `evaluate_one`.
    """
    read = functools.partial(evaluate_one, ask=ask, **options)
    records: list[Record] = [record async for record in map_items(read, generations, "paragraph")]
    to_judge = [i for i, record in enumerate(records) if record.status == "ok" and record.correct is None]
    tens = [to_judge[i : i + equivalence.BATCH] for i in range(0, len(to_judge), equivalence.BATCH)]

    async def judge_ten(indices: list[int]) -> list[tuple[int, Record]]:
        return list(zip(indices, await judge([records[i] for i in indices], ask), strict=True))

    async for verdicts in map_items(judge_ten, tens, "request"):
        for i, record in verdicts:
            records[i] = record
    return records


def _without_outer_marks(answer: str) -> str:
    """Returns an answer without its case, a leading article, quotation marks around it and a final stop.

    Marks inside it count, unlike in `matching.normalise_answer`: what is no match here goes to the judge.
    """
    words = unicodedata.normalize("NFKC", answer).casefold().strip(" \t\n\"'“”‘’.").split()
    return " ".join(words[1:] if len(words) > 1 and words[0] in ("a", "an", "the") else words)


def _matches(answer: str, accepted: Sequence[str]) -> bool:
    """Returns whether an answer is one of the accepted ones in the same words."""
    own = _without_outer_marks(answer)
    return bool(own) and own in map(_without_outer_marks, accepted)


async def evaluate_one(
    generation: Generation,
    ask: AskTask,
    *,
    uses_confidence: bool,
    forecast_truth: bool = False,
    judge_matches: bool = False,
    matches: Callable[[str, Sequence[str]], bool] = _matches,
) -> Record:
    """Returns the record of one paragraph; an answer in the words of the truth is correct, others are not judged yet.

    Args:
      ask: asks the annotation tasks of a Protocol.
      uses_confidence: False for methods that state no confidence: the first extracted answer counts, with confidence 1.
      forecast_truth: forecast the true answer as well, which no metric uses.
      judge_matches: see Protocol.
      matches: whether an answer is one of the accepted ones (truth and aliases), and needs no judge.
    """
    q = generation.question
    fields = {"generated_paragraph": generation.paragraph, "question": q.question}
    extraction = await ask("eval_extract", fields)
    answers = list(extraction.value or ()) if uses_confidence else []
    answers += [q.answer] if forecast_truth else []
    forecasts = await gather(*(ask("eval_forecast", fields | {"answer": answer}) for answer in answers))
    truth = forecasts.pop().value if forecast_truth else None
    record = choose(generation, extraction, forecasts if uses_confidence else None)
    if record.correct is None and record.status == "ok" and not judge_matches:
        record = dataclasses.replace(record, correct=matches(record.chosen, (q.answer, *q.aliases)) or None)
    return dataclasses.replace(record, truth_prob=truth)


def choose(generation: Generation, extraction: Annotation, forecasts: Sequence[Annotation] | None) -> Record:
    """Returns the record of the answer with the highest forecast (the first of equals), or of the first without any.

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
        correct=None if chosen or failure else False,
        status=failure.status if failure else "ok",
        detail=failure.detail if failure else "",
    )


def without_paragraph(question: Question, paragraph: Annotation) -> Record:
    """Returns the record of a question without a paragraph."""
    return choose(Generation(question, ""), dataclasses.replace(paragraph, value=None), None)


async def judge(records: Sequence[Record], ask: AskTask) -> list[Record]:
    """Returns up to ten records with a verdict on the chosen answer of each, from one request.

    Where its reply is of no use, each answer gets a request of its own.
    """
    comparisons = [Comparison(record.question, record.answer, record.chosen) for record in records]
    verdicts = await ask("equivalence", {"comparisons": equivalence.join_comparisons(comparisons)})
    if verdicts.status == "ok":
        return [dataclasses.replace(r, correct=v) for r, v in zip(records, verdicts.value, strict=True)]
    if len(records) > 1 and verdicts.status != "failed":
        return [judged for (judged,) in await gather(*(judge([record], ask) for record in records))]
    nan, status, detail = float("nan"), verdicts.status, verdicts.detail
    return [dataclasses.replace(record, confidence=nan, status=status, detail=detail) for record in records]
