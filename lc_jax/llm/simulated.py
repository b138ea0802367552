"""The annotator of the miniature world: answers the annotator prompts by rule, at no cost and without a network."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence

from lc_jax.llm import AnnotatorError
from lc_jax.llm.concurrency import in_batches
from lc_jax.miniature import reader
from lc_jax.prompts import (
    NO_ANSWER,
    Prompt,
    claims,
    confidence,
    correctness,
    equivalence,
    extract,
    forecast,
    paragraph,
    retry,
    summarize,
    support,
)
from lc_jax.types import Reply, Request

SAMPLE = 20  # first requests, which tell whether texts are of the miniature world


class _Unanswerable(Exception):
    """A request that no rule can answer."""


def _summarize(fields: Mapping[str, str]) -> str:
    return reader.summarize(summarize.split_paragraphs(fields["paragraphs"]))


def _extract(fields: Mapping[str, str]) -> str:
    return "; ".join(reader.extract(fields["generated_paragraph"], fields["question"])) or NO_ANSWER


def _forecast(fields: Mapping[str, str]) -> str:
    return f"{reader.probability(fields['generated_paragraph'], fields['question'], fields['answer']):.6g}"


def _equivalence(fields: Mapping[str, str]) -> str:
    comparisons = equivalence.split_comparisons(fields["comparisons"])
    verdicts = ["yes" if reader.equivalent(item.answer, item.candidate) else "no" for item in comparisons]
    return "\n".join(f"{number}. {verdict}" for number, verdict in enumerate(verdicts, 1))


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


def _paragraph(fields: Mapping[str, str]) -> str:
    raise _Unanswerable("the simulated annotator reads paragraphs but knows no facts to write one from")


def _reasoned(rule: Callable[[Mapping[str, str]], str], label: str) -> Callable[[Mapping[str, str]], str]:
    """A rule that writes a line of reasoning before its answer."""
    return lambda fields: f"The sentences of the paragraph say so.\n{label}: {rule(fields)}"


# The rules list answers in the order of the paragraph, whichever order a wording asks for.
_RULES: tuple[tuple[Prompt, Callable[[Mapping[str, str]], str]], ...] = (
    (summarize.PROMPT, _summarize),
    (extract.PROMPT, _extract),
    (extract.prompt(text_order=True), _extract),
    (extract.prompt(reasoning=True), _reasoned(_extract, "Answers")),
    (extract.prompt(reasoning=True, text_order=True), _reasoned(_extract, "Answers")),
    (forecast.PROMPT, _forecast),
    (forecast.prompt(reasoning=True), _reasoned(_forecast, "Probability")),
    (equivalence.PROMPT, _equivalence),
    (correctness.PROMPT, _correctness),
    (correctness.prompt(reasoning=True), _reasoned(_correctness, "Verdict")),
    (claims.PROMPT, _claims),
    (confidence.PROMPT, _confidence),
    (support.PROMPT, _support),
    (paragraph.PROMPT, _paragraph),
)


class Simulated:
    """Recognises which prompt a request holds and answers in the text form that the prompt asks for.

    Temperature and sample change nothing: the rules know no chance.
    """

    name, concurrency = "simulated/miniature", 64

    def __init__(self) -> None:
        self.ask = in_batches(self._answer, self.concurrency)
        self._first: list[Request] = []  # SAMPLE of them at most

    async def close(self) -> None:
        """Does nothing: there are no connections."""

    async def _answer(self, requests: Sequence[Request]) -> list[Reply]:
        """Returns the replies.

        Raises:
          AnnotatorError: nearly none of the first requests is about the miniature world.
        """
        if len(self._first) < SAMPLE:
            self._first += requests[: SAMPLE - len(self._first)]
            _check_world(self._first)
        return [answer(request) for request in requests]


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
    matches = ((prompt, _fields(prompt, request)) for request in requests for prompt, _ in _RULES)
    inside = [_in_world(prompt, fields) for prompt, fields in matches if fields and prompt is not paragraph.PROMPT]
    if inside and sum(inside) < 0.1 * len(inside):
        raise AnnotatorError(
            f"simulated/miniature reads only the sentences of the miniature world, and {len(inside) - sum(inside)} of "
            f"the first {len(inside)} requests are about other things: name another annotator with "
            "--config.annotator.name=provider/model."
        )


def _fields(prompt: Prompt, request: Request) -> dict[str, str] | None:
    """The fields of a request that `prompt` made, asked for the first time or again."""
    again = retry.PROMPT.match(request.prompt)
    return prompt.match(again["request"] if again else request.prompt)


def answer(request: Request) -> Reply:
    """Returns the reply to one request, by the rule of its prompt."""
    for prompt, rule in _RULES:
        fields = _fields(prompt, request)
        if fields is None:
            continue
        try:
            return Reply("ok", rule(fields))
        except _Unanswerable as error:
            return Reply("failed", detail=str(error))
    return Reply("failed", detail="the simulated annotator knows only the prompts of lc_jax.prompts")


def load(model: str) -> Simulated:
    """Returns the annotator "simulated/miniature".

    Raises:
      ValueError: another model.
    """
    if model != "miniature":
        raise ValueError(f"No annotator 'simulated/{model}': there is 'simulated/miniature'.")
    return Simulated()
