"""The annotator of the miniature world: answers the annotator prompts by rule, at no cost and without a network."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence

from lc_jax.llm import AnnotatorError
from lc_jax.llm.concurrency import in_batches
from lc_jax.llm.rules import RuleAnnotator, Unanswerable, fields_of, reading_rules
from lc_jax.miniature import reader, text, world
from lc_jax.prompts import (
    NO_ANSWER,
    Prompt,
    claims,
    confidence,
    equivalence,
    paragraph,
    summarize,
    support,
)
from lc_jax.types import Reply, Request

SAMPLE = 20  # first requests, which tell whether texts are of the miniature world


def _summarize(fields: Mapping[str, str]) -> str:
    return reader.summarize(summarize.split_paragraphs(fields["paragraphs"]))


def _extract(fields: Mapping[str, str]) -> str:
    return "; ".join(reader.extract(fields["generated_paragraph"], fields["question"])) or NO_ANSWER


def _forecast(fields: Mapping[str, str]) -> str:
    return f"{reader.probability(fields['generated_paragraph'], fields['question'], fields['answer']):.6g}"


def _correctness(fields: Mapping[str, str]) -> str:
    """The answer that the paragraph makes most probable (the first of equals) is held against the true one."""
    forecasts = reader.read(fields["generated_paragraph"], fields["question"])
    if not forecasts.answers:
        return "0"
    favourite = forecasts.answers[forecasts.probs.index(max(forecasts.probs))]
    return "1" if reader.equivalent(fields["answer"], favourite) else "0"


def _claims(fields: Mapping[str, str]) -> str:
    groups = reader.claims(fields["generated_paragraph"])
    return json.dumps([[{"claim": claim, "label": claims.OBJECTIVE} for claim in group] for group in groups])


def _confidence(fields: Mapping[str, str]) -> str:
    pairs = map(reader.certain, confidence.split_statements(fields["statements"]))
    return json.dumps([{"claim": claim, "probability": probability} for claim, probability in pairs])


def _support(fields: Mapping[str, str]) -> str:
    passages = summarize.split_paragraphs(fields["passages"])
    claim, _ = reader.certain(fields["claim"])  # of a method without confidence it may hold a percentage still
    return "Supported" if any(claim in passage for passage in passages) else "Not supported"


@functools.cache
def _common_answers() -> Mapping[str, str]:
    """Returns the sentence that most writers of the world would write, by the prompt that asks for it."""
    facts = ((subject, fact) for subject in world.build().subjects for fact in subject.facts)
    return {subject.question(fact).prompt: text.plain({fact.kind: fact.candidates[0]}) for subject, fact in facts}


def _paragraph(fields: Mapping[str, str]) -> str:
    prompt = fields["paragraph_generation_prompt"].strip()
    if prompt not in _common_answers():
        raise Unanswerable(f"the simulated annotator knows no facts to write from where it is asked: {prompt!r}")
    return _common_answers()[prompt]


_RULES = (
    *reading_rules(
        "The sentences of the paragraph say so.",
        summary=_summarize,
        answers=_extract,
        answers_in_order=_extract,  # answers come in the order of the paragraph, whichever a wording asks for
        probability=_forecast,
        verdict=_correctness,
        are_equal=reader.equivalent,
    ),
    (claims.PROMPT, _claims),
    (confidence.PROMPT, _confidence),
    (support.PROMPT, _support),
    (paragraph.PROMPT, _paragraph),
)


class Simulated(RuleAnnotator):
    """Answers by the rules above, once the first requests show that they are about the miniature world."""

    def __init__(self) -> None:
        super().__init__("simulated/miniature", _RULES)
        self._ask = in_batches(self._answer, self.concurrency)
        self._first: list[Request] = []  # SAMPLE of them at most

    async def ask(self, request: Request) -> Reply:
        """Returns the reply to a request; see `_answer` for what it raises."""
        return await self._ask(request)

    async def _answer(self, requests: Sequence[Request]) -> list[Reply]:
        """Returns the replies.

        Raises:
          AnnotatorError: nearly none of the first requests is about the miniature world.
        """
        if len(self._first) < SAMPLE:
            self._first += requests[: SAMPLE - len(self._first)]
            _check_world(self._first)
        return [self.answer(request) for request in requests]


def _in_world(prompt: Prompt, fields: Mapping[str, str]) -> bool:
    """Returns whether a request is about this world, by its questions, or else by the sentences of its texts."""
    if "question" in fields:
        return reader.kind_of(fields["question"]) is not None
    if prompt is equivalence.PROMPT:
        comparisons = equivalence.split_comparisons(fields["comparisons"])
        return any(reader.kind_of(item.question) for item in comparisons)
    return any(map(reader.has_sentence, fields.values()))


def _check_world(requests: Sequence[Request]) -> None:
    """Refuses texts of another world: their answers would all be "No Answer", which counts as wrong."""
    matches = ((prompt, fields_of(prompt, request)) for request in requests for prompt, _ in _RULES)
    inside = [_in_world(prompt, fields) for prompt, fields in matches if fields and prompt is not paragraph.PROMPT]
    if inside and sum(inside) < 0.1 * len(inside):
        raise AnnotatorError(
            f"simulated/miniature reads only the sentences of the miniature world, and {len(inside) - sum(inside)} of "
            f"the first {len(inside)} requests are about other things: name another annotator with "
            "--config.annotator.name=provider/model."
        )


def load(model: str) -> Simulated:
    """Returns the annotator "simulated/miniature".

    Raises:
      ValueError: another model.
    """
    if model != "miniature":
        raise ValueError(f"No annotator 'simulated/{model}': there is 'simulated/miniature'.")
    return Simulated()
