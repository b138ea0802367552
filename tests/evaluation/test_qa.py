import asyncio
import dataclasses
import inspect
import math
from types import SimpleNamespace

import pytest

from lc_jax import llm
from lc_jax.evaluation import metrics, qa
from lc_jax.llm.annotate import Annotation, AnnotationTasks
from lc_jax.llm.api import API
from lc_jax.llm.session import open_annotator
from lc_jax.prompts import equivalence, extract, forecast, retry
from lc_jax.types import Generation, Question, Reply
from tests.llm.asking import Scripted, session_of

FORECASTS = {"Paris": "40%", "Lyon": "40%", "Rome": "0.9", "Milan": "0.05", "Bern": "about half", "berne": "0.6"}


def evaluate(generations, annotator, **options):
    session = session_of(annotator)
    tasks = AnnotationTasks(qa.TASKS, session)
    return session.run(qa.evaluate_all(generations, tasks.ask, session.map, **options))


class Fake(Scripted):
    """Reads a paragraph as its own list of answers; knows the forecasts above; judges by the first letter."""

    def __init__(self):
        super().__init__(self.answer_one, "fake/test", concurrency=1)
        self.calls = []  # (prompt, its fields) of every request

    def answer_one(self, request):
        for prompt in (extract.PROMPT, forecast.PROMPT, equivalence.PROMPT):
            again = retry.PROMPT.match(request.prompt)
            fields = prompt.match(again["request"] if again else request.prompt)
            if fields is None:
                continue
            self.calls.append((prompt, fields))
            if prompt is extract.PROMPT:
                text = fields["generated_paragraph"]
                return Reply("refused", detail="no comment") if text == "?" else Reply("ok", text)
            if prompt is forecast.PROMPT:
                return Reply("ok", FORECASTS[fields["answer"]])
            items = equivalence.split_comparisons(fields["comparisons"])
            if any(item.candidate == "Milan" for item in items):
                return Reply("failed", detail="down")
            return Reply("ok", "\n".join("yes" if i.answer[0] == i.candidate[0] else "no" for i in items))
        raise AssertionError(request.prompt)

    def requests_of(self, prompt):
        return [fields for template, fields in self.calls if template is prompt]


def generation(paragraph, answer="Rome", aliases=(), number=0):
    return Generation(Question(f"q{number}", "Write.", "Which city?", answer, aliases, "city"), paragraph)


def outcome(record):
    return (record.answers, record.probs, record.chosen, record.confidence, record.correct, record.status)


def test_the_most_probable_answer_is_judged():
    annotator = Fake()
    paragraphs = ["Milan; Rome", "Lyon; Paris", "No Answer", "berne", "Rome"]
    truths = [("Rome", ()), ("Paris", ()), ("Rome", ()), ("Bern", ("The Berne.",)), ("Roma", ())]
    records = evaluate(
        [generation(p, *truth, number=i) for i, (p, truth) in enumerate(zip(paragraphs, truths, strict=True))],
        annotator,
        uses_confidence=True,
    )
    assert [outcome(record) for record in records] == [
        (("Milan", "Rome"), (0.05, 0.9), "Rome", 0.9, True, "ok"),
        (("Lyon", "Paris"), (0.4, 0.4), "Lyon", 0.4, False, "ok"),
        ((), (), "", 1.0, False, "ok"),
        (("berne",), (0.6,), "berne", 0.6, True, "ok"),
        (("Rome",), (0.9,), "Rome", 0.9, True, "ok"),
    ]
    first = records[0]
    assert (first.question_id, first.kind, first.prompt, first.question) == ("q0", "city", "Write.", "Which city?")
    assert (first.answer, first.paragraph, first.detail) == ("Rome", "Milan; Rome", "")
    assert [fields["answer"] for fields in annotator.requests_of(forecast.PROMPT)] == [
        "Milan", "Rome", "Lyon", "Paris", "berne", "Rome",
    ]  # fmt: skip
    judged = [
        item
        for f in annotator.requests_of(equivalence.PROMPT)
        for item in equivalence.split_comparisons(f["comparisons"])
    ]
    assert [(item.answer, item.candidate) for item in judged] == [
        ("Paris", "Lyon"),
        ("Roma", "Rome"),
    ]  # others for free


def test_as_published_the_judge_is_asked_about_every_chosen_answer():
    annotator = Fake()
    generations = [generation("Rome"), generation("Roma", aliases=("Roma",)), generation("No Answer")]
    records = evaluate(generations, annotator, uses_confidence=False, judge_matches=True)
    (fields,) = annotator.requests_of(equivalence.PROMPT)
    assert [item.candidate for item in equivalence.split_comparisons(fields["comparisons"])] == ["Rome", "Roma"]
    assert [record.correct for record in records] == [True, True, False]
    generations = [generation("Turin", aliases=("Turin",))]
    assert [evaluate(generations, Fake(), uses_confidence=False, judge_matches=judge)[0].correct for judge in
            (False, True)] == [True, False]  # fmt: skip


def test_without_confidence_the_first_answer_counts_with_confidence_one():
    annotator = Fake()
    generations = [generation("Turin; Rome"), generation("No Answer"), generation("Rome")]
    records = evaluate(generations, annotator, uses_confidence=False)
    assert [outcome(record) for record in records] == [
        (("Turin", "Rome"), (), "Turin", 1.0, False, "ok"),
        ((), (), "", 1.0, False, "ok"),
        (("Rome",), (), "Rome", 1.0, True, "ok"),
    ]
    assert not annotator.requests_of(forecast.PROMPT)


@pytest.mark.parametrize(
    ("paragraph", "uses_confidence", "status", "detail"),
    [("?", True, "refused", "no comment"), ("Rome; Bern", True, "invalid", "not a probability: 'about half'"),
     ("Milan", False, "failed", "down")],
    ids=["extraction", "forecast", "verdict"],
)  # fmt: skip
def test_what_cannot_be_annotated_is_a_status_and_never_a_score(paragraph, uses_confidence, status, detail):
    good = generation("Rome", number=1)
    bad, other = evaluate([generation(paragraph), good], Fake(), uses_confidence=uses_confidence)
    assert (bad.status, bad.detail, bad.correct) == (status, detail, None)
    assert math.isnan(bad.confidence)
    assert (other.status, other.correct) == ("ok", True)
    with pytest.raises(ValueError, match="leave unjudged questions out"):
        metrics.ece([bad.confidence, other.confidence], [bad.correct, other.correct])


def test_verdicts_are_asked_for_ten_at_a_time():
    annotator = Fake()
    cities = [f"{letter}{i}" for i in range(12) for letter in "RT"]
    records = evaluate([generation(city) for city in cities], annotator, uses_confidence=False)
    assert [record.correct for record in records] == [city[0] == "R" for city in cities]
    sizes = [len(equivalence.split_comparisons(f["comparisons"])) for f in annotator.requests_of(equivalence.PROMPT)]
    assert sizes == [10, 10, 4]
    assert evaluate([], annotator, uses_confidence=True) == []


@pytest.mark.parametrize("status", ["invalid", "failed"])
def test_a_spoilt_batch_of_verdicts_is_judged_singly_and_a_failed_one_is_not(status):
    sizes = []

    async def ask(task, fields):
        (items, size) = (equivalence.split_comparisons(fields["comparisons"]), len(sizes))
        sizes.append(len(items))
        if status == "failed" or not size or items[0].candidate == "C1":
            return Annotation(status, detail="nine verdicts")
        return Annotation("ok", [item.candidate == "C2" for item in items])

    extraction = [Annotation("ok", [f"C{i}"]) for i in range(3)]
    records = [qa.choose(generation("x", number=i), extraction[i], None) for i in range(3)]
    judged = asyncio.run(qa.judge(records, ask))
    if status == "failed":
        assert (sizes, [record.status for record in judged]) == ([3], ["failed"] * 3)
        return
    assert sizes == [3, 1, 1, 1]
    assert [(record.status, record.correct) for record in judged] == [("ok", False), ("invalid", None), ("ok", True)]
    assert (judged[1].detail, math.isnan(judged[1].confidence)) == ("nine verdicts", True)


def test_five_frames_lie_between_an_evaluation_and_the_sdk(tmp_path, monkeypatch):
    import openai

    monkeypatch.setenv("OPENAI_API_KEY", "k")
    stacks = []

    async def post(client, path, **options):
        frames = [frame for frame in inspect.stack() if "/lc_jax/" in frame.filename]
        stacks.append([frame.function for frame in frames][::-1])
        message = {"role": "assistant", "content": '{"answers": ["Rome"]}' if len(stacks) == 1 else "0.5"}
        return SimpleNamespace(json=lambda: {"choices": [{"message": message, "finish_reason": "stop"}]})

    monkeypatch.setattr(openai.AsyncOpenAI, "post", post)
    monkeypatch.setattr(API, "fetch", lambda self, path: asyncio.sleep(0))
    with open_annotator("openai/gpt-4.1", store=tmp_path / "s", budget=1.0) as session:
        tasks = AnnotationTasks(qa.TASKS, session)
        (record,) = session.map_all(
            lambda item: qa.evaluate_one(item, tasks.ask, uses_confidence=True), [generation("Rome (50%).")]
        )
    assert (record.chosen, record.confidence) == ("Rome", 0.5)
    extraction, forecast = stacks
    assert extraction[extraction.index("evaluate_one") :] == [
        "evaluate_one", "ask", "ask_cached", "ask_within_budget", "ask",
    ]  # fmt: skip
    assert forecast[-4:] == extraction[-4:]  # side by side, so in asyncio tasks of their own
    assert "evaluate_one" not in forecast


def test_the_true_answer_is_forecast_only_on_demand_and_changes_nothing():
    plain, with_truth = Fake(), Fake()
    generations = [generation("Milan; Rome"), generation("No Answer", number=1)]
    records = evaluate(generations, with_truth, uses_confidence=True, forecast_truth=True)
    assert [record.truth_prob for record in records] == [0.9, 0.9]
    assert [outcome(record) for record in records] == [
        outcome(record) for record in evaluate(generations, plain, uses_confidence=True)
    ]
    assert len(with_truth.requests_of(forecast.PROMPT)) == len(plain.requests_of(forecast.PROMPT)) + 2


def test_a_question_without_a_paragraph_has_its_status():
    record = qa.without_paragraph(generation("").question, Annotation("refused", None, "", "no comment"))
    assert (record.status, record.detail, record.correct, record.chosen) == ("refused", "no comment", None, "")
    assert math.isnan(record.confidence)


@pytest.mark.parametrize(
    ("candidate", "truth", "same"),
    [
        ("the beatles", "The Beatles", True),
        ("“Hamlet”.", "Hamlet", True),
        ("Ａpollo  11", "Apollo 11", True),
        ("1.5", "15", False),
        ("C", "C++", False),
        ("A", "The", False),
        ("'.", "...", False),
    ],
)
def test_free_matches_are_the_same_words(candidate, truth, same):
    assert qa._matches(candidate, ("another", truth)) == same


def test_the_simulated_annotator_can_be_asked():
    question = Question("q", "Write.", "Which country does Velm lie in?", "Osk", (), "country")
    nothing = [Generation(question, "Nothing of the kind.")]
    record = evaluate(nothing, llm.load("simulated/miniature"), uses_confidence=True)[0]
    assert (record.status, record.answers, record.correct, record.confidence) == ("ok", (), False, 1.0)
    assert dataclasses.asdict(record)["status"] == "ok"
