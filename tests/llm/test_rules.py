"""The annotators of rules: every prompt through text, refusals with a reason, no store."""

import pytest

from lc_jax import llm
from lc_jax.llm import session
from lc_jax.prompts import correctness, equivalence, extract, forecast, paragraph, retry, summarize
from lc_jax.prompts.equivalence import Comparison
from lc_jax.types import Reply, Request
from tests.llm.asking import annotate
from tests.llm.asking import ask as replies_of

FIELDS = {"generated_paragraph": "It is not Peru. It is Spain (20%). It could be France (60%).", "question": "Where?"}


@pytest.fixture
def annotator():
    return llm.load("rules/short-answer")


def ask(annotator, prompt, **fields):
    return annotate(annotator, prompt, [fields], temperature=0.3, max_tokens=300)[0]


@pytest.mark.parametrize("reasoning", [False, True])
def test_every_prompt_is_answered_through_text(annotator, reasoning):
    assert ask(annotator, extract.prompt(reasoning), **FIELDS).value == ["France", "Spain"]
    assert ask(annotator, extract.prompt(reasoning, text_order=True), **FIELDS).value == ["Spain", "France"]
    probs = [
        ask(annotator, forecast.prompt(reasoning), **FIELDS, answer=a).value for a in ("the spain", "Peru", "Chile")
    ]
    assert probs == [0.2, 0.0, 0.0]
    verdicts = [ask(annotator, correctness.prompt(reasoning), **FIELDS, answer=a).value for a in ("france!", "Spain")]
    assert verdicts == [1, 0]
    unknown = FIELDS | {"generated_paragraph": "I do not know."}
    assert ask(annotator, extract.prompt(reasoning), **unknown).value == []
    assert ask(annotator, correctness.prompt(reasoning), **unknown, answer="Spain").value == 0
    title = FIELDS | {"generated_paragraph": "Truth; or Dare (40%)"}
    assert ask(annotator, extract.prompt(reasoning), **title).status == "refused"


def test_samples_become_a_consensus_and_the_judge_compares_words(annotator):
    drafts = summarize.join_paragraphs(["France", "", "the france.", "Spain", "It is France", "Spain"])
    summary = ask(annotator, summarize.PROMPT, paragraph_generation_prompt="Write.", paragraphs=drafts)
    assert summary.value == "The answer is France (50%). It could also be Spain (25%)."
    one_answer = llm.load("rules/one-answer")
    summary = ask(one_answer, summarize.PROMPT, paragraph_generation_prompt="Write.", paragraphs=drafts)
    assert summary.value == "The answer is France (50%)."
    pairs = [Comparison("Where?", "Dr. No", name) for name in ("dr no", "No", "Dr. No (film)")]
    assert ask(annotator, equivalence.PROMPT, comparisons=equivalence.join_comparisons(pairs)).value == [
        True,
        False,
        False,
    ]


@pytest.mark.parametrize(
    ("prompt", "text", "reason"),
    [
        (extract.PROMPT, "It is perhaps France", "'perhaps' is no part of a short answer"),
        (forecast.PROMPT, "France (70%), Spain (70%)", "the probabilities sum to 140%"),
        (forecast.PROMPT, "France", "states no confidence; of such a method use --config.uses_confidence=false"),
        (correctness.PROMPT, "", "the text is empty"),
    ],
)
def test_a_text_that_the_rules_cannot_read_is_refused(annotator, prompt, text, reason):
    fields = {"generated_paragraph": text, "question": "Where?"}
    if prompt is not extract.PROMPT:
        fields["answer"] = "France"
    annotation = ask(annotator, prompt, **fields)
    assert (annotation.status, annotation.value) == ("refused", None)
    assert reason in annotation.detail
    drafts = summarize.join_paragraphs(["", "one two " * 9])
    summary = ask(annotator, summarize.PROMPT, paragraph_generation_prompt="Write.", paragraphs=drafts)
    assert (summary.status, summary.detail) == ("refused", "none of 2 samples offers a short answer")


def test_a_bare_answer_is_extracted_and_a_repeated_request_recognised(annotator):
    assert ask(annotator, extract.PROMPT, generated_paragraph="France.", question="Where?").value == ["France"]
    rendered = forecast.PROMPT.render(**FIELDS, answer="France")
    again = retry.PROMPT.render(request=rendered, error="not a probability")
    assert replies_of(annotator, [Request(again, 0.2, 9, 1)]) == [Reply("ok", "0.6")]


def test_a_prompt_without_a_rule_is_a_failure_and_another_name_an_error(annotator):
    requests = [Request(paragraph.PROMPT.render(paragraph_generation_prompt="Write."), 1.0, 9), Request("Hi!", 1.0, 9)]
    detail = "rules/short-answer has no rule for this prompt, only for those of lc_jax.prompts"
    assert replies_of(annotator, requests) == [Reply("failed", detail=detail)] * 2
    with pytest.raises(ValueError, match="there are 'rules/short-answer' and 'rules/one-answer'"):
        llm.load("rules/long-answer")


def test_its_replies_are_not_stored(tmp_path):
    with session.open_annotator("rules/short-answer", store=tmp_path / "replies.sqlite", budget=1.0) as annotator:
        request = Request(forecast.PROMPT.render(**FIELDS, answer="France"), 0.2, 9)
        assert replies_of(annotator, [request, request]) == [Reply("ok", "0.6")] * 2
        assert not list(annotator.store.rows(""))
        assert annotator.meter.dollars == 0
