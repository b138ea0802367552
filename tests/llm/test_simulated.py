import pytest

from lc_jax import llm
from lc_jax.llm import simulated
from lc_jax.miniature import reader
from lc_jax.prompts import correctness, equivalence, extract, forecast, paragraph, retry, summarize
from lc_jax.prompts.equivalence import Comparison
from lc_jax.types import Forecasts, Reply, Request
from tests.llm.asking import annotate
from tests.llm.asking import ask as replies_of


class Reader:
    """Stands in for the reader of the miniature world: a paragraph is "answer=probability" items."""

    def kind_of(self, question):
        return "country"

    def has_sentence(self, paragraph):
        return True

    def read(self, paragraph, question):
        items = [item.split("=") for item in paragraph.split() if "=" in item]
        return Forecasts(tuple(a for a, _ in items), tuple(float(p) for _, p in items))

    def extract(self, paragraph, question):
        return list(self.read(paragraph, question).answers)

    def probability(self, paragraph, question, answer):
        forecasts = self.read(paragraph, question)
        return dict(zip(forecasts.answers, forecasts.probs, strict=True)).get(answer, 0.0)

    def equivalent(self, a, b):
        return a.lower() == b.lower()

    def summarize(self, paragraphs):
        return f"{len(paragraphs)} drafts"


@pytest.fixture
def annotator(monkeypatch):
    monkeypatch.setattr(simulated, "reader", Reader())
    return llm.load("simulated/miniature")


def ask(annotator, prompt, **fields):
    return annotate(annotator, prompt, [fields], temperature=0.3, max_tokens=300)[0].value


def test_every_prompt_is_answered_through_text(annotator):
    fields = {"generated_paragraph": "Oslo=0.00001 Bern=0.75", "question": "Where?"}
    assert ask(annotator, extract.PROMPT, **fields) == ["Oslo", "Bern"]
    assert ask(annotator, extract.PROMPT, generated_paragraph="none", question="Where?") == []
    assert ask(annotator, forecast.PROMPT, answer="Bern", **fields) == 0.75
    assert ask(annotator, forecast.PROMPT, answer="Oslo", **fields) == 1e-5
    assert [ask(annotator, correctness.PROMPT, answer=answer, **fields) for answer in ("bern", "Oslo")] == [1, 0]
    for text_order in (False, True):
        assert ask(annotator, extract.prompt(True, text_order), **fields) == ["Oslo", "Bern"]
    assert ask(annotator, extract.prompt(text_order=True), **fields) == ["Oslo", "Bern"]
    assert ask(annotator, forecast.prompt(reasoning=True), answer="Bern", **fields) == 0.75
    assert ask(annotator, correctness.prompt(reasoning=True), answer="bern", **fields) == 1
    drafts = summarize.join_paragraphs(["a\n\nb"] * 8)
    assert ask(annotator, summarize.PROMPT, paragraph_generation_prompt="Write.", paragraphs=drafts) == "8 drafts"
    pairs = equivalence.join_comparisons([Comparison("Where?", "Bern", name) for name in ("bern", "Oslo")])
    assert ask(annotator, equivalence.PROMPT, comparisons=pairs) == [True, False]


def test_a_request_with_the_error_of_its_last_reply_is_recognised(annotator):
    rendered = forecast.PROMPT.render(generated_paragraph="Bern=0.75", question="Where?", answer="Bern")
    again = retry.PROMPT.render(request=rendered, error="not a probability")
    assert replies_of(annotator, [Request(again, 0.2, 9, 1)]) == [Reply("ok", "0.75")]


def test_what_no_rule_answers_is_a_failure(annotator):
    requests = [Request(paragraph.PROMPT.render(paragraph_generation_prompt="Write."), 1.0, 9), Request("Hi!", 1.0, 9)]
    replies = replies_of(annotator, requests)
    assert [reply.status for reply in replies] == ["failed", "failed"]
    assert "knows no facts" in replies[0].detail
    assert replies[1].detail == "simulated/miniature has no rule for this prompt, only for those of lc_jax.prompts"
    with pytest.raises(ValueError, match="there is 'simulated/miniature'"):
        llm.load("simulated/maximature")


def test_it_writes_what_most_writers_say(annotator):
    prompts = [f"Write about the {kind} of the metropolis of Bien Hoa." for kind in ("country", "clock")]
    texts = [ask(annotator, paragraph.PROMPT, paragraph_generation_prompt=prompt) for prompt in prompts]
    assert texts == ["It lies in Vietnam.", "It keeps the time of Yangon."]  # the second is wrong


def requests_about(questions):
    return [
        Request(extract.PROMPT.render(generated_paragraph="It lies in Japan.", question=q), 0.0, 9) for q in questions
    ]


WORLD, OTHER = "Which country does Kofu lie in?", "Which river flows through Linz?"


def test_texts_of_another_world_stop_the_run():
    """They would all be read as "No Answer", an accuracy of 0 without a word."""
    assert reader.kind_of(WORLD) == "country"
    for questions in ([OTHER], [OTHER] * 100, [OTHER] * 19 + [WORLD]):
        with pytest.raises(llm.AnnotatorError, match="reads only the sentences of the miniature world") as caught:
            replies_of(llm.load("simulated/miniature"), requests_about(questions))
        assert "--config.annotator.name=provider/model" in str(caught.value)
        assert "\n" not in str(caught.value)
    for questions in ([WORLD], [OTHER] * 15 + [WORLD] * 5 + [OTHER] * 10, []):
        assert len(replies_of(llm.load("simulated/miniature"), requests_about(questions))) == len(questions)
    texts = summarize.PROMPT.render(
        paragraph_generation_prompt="Write.", paragraphs=summarize.join_paragraphs(["The Danube."])
    )
    with pytest.raises(llm.AnnotatorError, match="reads only the sentences"):
        replies_of(llm.load("simulated/miniature"), [Request(texts, 0.0, 9)])
