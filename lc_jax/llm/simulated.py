"""The annotator of the miniature world: answers the annotator prompts by rule, at no cost and without a network."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator, Mapping

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
    found = map(reader.certain, confidence.split_statements(fields["statements"]))
    return json.dumps([{"claim": claim, "probability": probability} for claim, probability in found])


def _support(fields: Mapping[str, str]) -> str:
    passages = summarize.split_paragraphs(fields["passages"])
    return "Supported" if any(fields["claim"] in passage for passage in passages) else "Not supported"


def _paragraph(fields: Mapping[str, str]) -> str:
    raise _Unanswerable("the simulated annotator reads paragraphs but knows no facts to write one from")


_RULES: tuple[tuple[Prompt, Callable[[Mapping[str, str]], str]], ...] = (
    (summarize.PROMPT, _summarize),
    (extract.PROMPT, _extract),
    (forecast.PROMPT, _forecast),
    (equivalence.PROMPT, _equivalence),
    (correctness.PROMPT, _correctness),
    (claims.PROMPT, _claims),
    (confidence.PROMPT, _confidence),
    (support.PROMPT, _support),
    (paragraph.PROMPT, _paragraph),
)


@dataclasses.dataclass(frozen=True)
class Simulated:
    """Recognises which prompt a request holds and answers in the text form that the prompt asks for."""

    name: str = "simulated/miniature"

    def complete(self, requests: Iterable[Request]) -> Iterator[tuple[int, Reply]]:
        """Replies in the order of the requests. Temperature and sample change nothing: the rules know no chance."""
        return ((index, _answer(request)) for index, request in enumerate(requests))


def _answer(request: Request) -> Reply:
    again = retry.PROMPT.match(request.prompt)
    asked = again["request"] if again else request.prompt
    for prompt, rule in _RULES:
        fields = prompt.match(asked)
        if fields is None:
            continue
        try:
            return Reply("ok", rule(fields))
        except _Unanswerable as error:
            return Reply("failed", detail=str(error))
    return Reply("failed", detail="the simulated annotator knows only the prompts of lc_jax.prompts")


def load(model: str) -> Simulated:
    """The annotator "simulated/miniature".

    Raises:
      ValueError: another model.
    """
    if model != "miniature":
        raise ValueError(f"No annotator 'simulated/{model}': there is 'simulated/miniature'.")
    return Simulated()
