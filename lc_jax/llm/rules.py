"""Annotators without a model: they answer the annotator prompts by rule, at no cost and without a network.

`RuleAnnotator` recognises which prompt a request holds. "rules/short-answer" and "rules/one-answer" read and write
statements of short answers (`lc_jax.short_answers`); the rules of "simulated/miniature" are in simulated.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence

from lc_jax.prompts import Prompt, correctness, equivalence, extract, forecast, retry, summarize
from lc_jax.short_answers.matching import matches
from lc_jax.short_answers.probabilities import Unreadable
from lc_jax.short_answers.statements import MAX_ANSWERS, read, write_consensus
from lc_jax.types import Reply, Request

Rule = Callable[[Mapping[str, str]], str]  # from the fields of a prompt to a reply in the form that it asks for


class Unanswerable(Exception):
    """A request that no rule can answer, whatever its text."""


class RuleAnnotator:
    """Answers a request by the rule of its prompt. Temperature and sample change nothing: rules have no chance."""

    concurrency = 64

    def __init__(self, name: str, rules: Sequence[tuple[Prompt, Rule]]) -> None:
        self.name, self.rules = name, rules

    async def ask(self, request: Request) -> Reply:
        """Returns the reply to a request; see lc_jax.llm.Annotator."""
        return self.answer(request)

    async def close(self) -> None:
        """Does nothing: there are no connections."""

    def answer(self, request: Request) -> Reply:
        """Returns the reply to a request: "refused" if its text cannot be read, "failed" without a rule for it."""
        for prompt, rule in self.rules:
            fields = fields_of(prompt, request)
            if fields is None:
                continue
            try:
                return Reply("ok", rule(fields))
            except Unreadable as error:
                return Reply("refused", detail=str(error))
            except Unanswerable as error:
                return Reply("failed", detail=str(error))
        return Reply("failed", detail=f"{self.name} has no rule for this prompt, only for those of lc_jax.prompts")


def fields_of(prompt: Prompt, request: Request) -> dict[str, str] | None:
    """Returns the fields of a request that `prompt` rendered, sent for the first time or again; None of another."""
    again = retry.PROMPT.match(request.prompt)
    return prompt.match(again["request"] if again else request.prompt)


def reading_rules(
    reason: str,
    *,
    summary: Rule,
    answers: Rule,
    answers_in_order: Rule,
    probability: Rule,
    verdict: Rule,
    are_equal: Callable[[str, str], bool],
) -> tuple[tuple[Prompt, Rule], ...]:
    """Returns a reader's rules with the prompts that they answer: all questions of the method about paragraphs.

    Args:
      reason: the line of reasoning before an answer, where the wording asks for one.
      answers_in_order: as `answers`, in the order of the paragraph and not the most probable first.
      verdict: whether the paragraph leads its reader to the true answer, 0 or 1.
      are_equal: the judge's rule, which compares a true answer and another.
    """

    def with_reasoning(label: str, rule: Rule) -> Rule:
        return lambda fields: f"{reason}\n{label}: {rule(fields)}"

    def verdicts(fields: Mapping[str, str]) -> str:
        comparisons = equivalence.split_comparisons(fields["comparisons"])
        words = ("yes" if are_equal(item.answer, item.candidate) else "no" for item in comparisons)
        return "\n".join(f"{number}. {word}" for number, word in enumerate(words, 1))

    return (
        (summarize.PROMPT, summary),
        (extract.PROMPT, answers),
        (extract.prompt(text_order=True), answers_in_order),
        (extract.prompt(reasoning=True), with_reasoning("Answers", answers)),
        (extract.prompt(reasoning=True, text_order=True), with_reasoning("Answers", answers_in_order)),
        (forecast.PROMPT, probability),
        (forecast.prompt(reasoning=True), with_reasoning("Probability", probability)),
        (equivalence.PROMPT, verdicts),
        (correctness.PROMPT, verdict),
        (correctness.prompt(reasoning=True), with_reasoning("Verdict", verdict)),
    )


# --- rules/short-answer and rules/one-answer --------------------------------------------------------------------------

ANSWERS_OF = {"short-answer": MAX_ANSWERS, "one-answer": 1}  # answers in a consensus, at most


def _extract(fields: Mapping[str, str]) -> str:
    return json.dumps([answer for answer, _ in read(fields["generated_paragraph"]).offers()], ensure_ascii=False)


def _extract_in_order(fields: Mapping[str, str]) -> str:
    statement = read(fields["generated_paragraph"])
    offers = [answer for answer, prob in zip(*statement, strict=True) if prob != 0]
    return json.dumps(offers, ensure_ascii=False)


def _forecast(fields: Mapping[str, str]) -> str:
    probs = read(fields["generated_paragraph"]).probs_of([fields["answer"]])
    if None in probs:
        raise Unreadable("the paragraph states no confidence; of such a method use --config.uses_confidence=false")
    return f"{probs[0]:.6g}" if probs else "0"  # answers are distinct: one at most is the one in question


def _correctness(fields: Mapping[str, str]) -> str:
    """Returns 1 if the most probable answer of the paragraph (the first of equals) is the true one."""
    offers = read(fields["generated_paragraph"]).offers()
    return "1" if offers and matches(offers[0][0], [fields["answer"]]) else "0"


def load(model: str) -> RuleAnnotator:
    """Returns the annotator "rules/short-answer" or "rules/one-answer", whose consensus is the most frequent answer.

    Both read the same texts.

    Raises:
      ValueError: another model.
    """
    if model not in ANSWERS_OF:
        names = " and ".join(f"'rules/{name}'" for name in ANSWERS_OF)
        raise ValueError(f"No annotator 'rules/{model}': there are {names}.")
    max_answers = ANSWERS_OF[model]
    rules = reading_rules(
        "The text says so.",
        summary=lambda fields: write_consensus(summarize.split_paragraphs(fields["paragraphs"]), max_answers),
        answers=_extract,
        answers_in_order=_extract_in_order,
        probability=_forecast,
        verdict=_correctness,
        are_equal=lambda answer, candidate: matches(candidate, [answer]),
    )
    return RuleAnnotator(f"rules/{model}", rules)
