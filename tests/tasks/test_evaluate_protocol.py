"""Tests of the protocol: the published one, several annotators, and settings that are refused."""

import pytest

from lc_jax.inference import writing
from lc_jax.preflight import Problems
from lc_jax.prompts import equivalence, extract, forecast, retry
from lc_jax.tasks import evaluate_qa
from lc_jax.types import Reply
from tests.llm.fake_server import FakeServer
from tests.tasks.test_evaluate_qa import invented, offered, scripted, write
from tests.test_configs import config_of


def as_published(request):
    """The reader above, where extraction and forecasts are asked to reason first."""
    again = retry.PROMPT.match(request.prompt)
    text = again["request"] if again else request.prompt
    if fields := extract.prompt(reasoning=True, text_order=True).match(text):
        options = offered(fields["generated_paragraph"])
        return Reply("ok", f"It names {len(options)}.\nAnswers: {'; '.join(options) or 'No Answer'}")
    if fields := forecast.prompt(reasoning=True).match(text):
        return Reply("ok", f"So.\nProbability: {offered(fields['generated_paragraph']).get(fields['answer'], 0)}%")
    assert equivalence.PROMPT.match(text)
    return scripted(request)


def test_the_published_evaluation_reasons_first_and_judges_every_answer(evaluate, tmp_path):
    path = write(tmp_path / "p.jsonl", invented(6))
    with FakeServer(as_published) as server:
        result, records = evaluate(server, paragraphs=path, published=True)
        judged = [equivalence.PROMPT.match(item.prompt) for item in server.exchanges]
        (fields,) = [fields for fields in judged if fields]
        assert {item.body["temperature"] for item in server.exchanges} == {0.2}
    compared = equivalence.split_comparisons(fields["comparisons"])
    assert [item.candidate for item in compared] == [record["chosen"] for record in records]
    assert [record["answers"] for record in records[:2]] == [["K0"], ["Mount 1", "K1"]]
    assert [(record["chosen"], record["confidence"]) for record in records[:2]] == [("K0", 0.6), ("Mount 1", 0.8)]
    assert [record["correct"] for record in records] == [False] * 6  # "Peak 1" is the truth that the judge is shown
    settings = result["settings"]
    assert (settings["judge_matches"], settings["judge_temperature"]) == (True, 0.2)
    assert settings["wording"] == {"reasoning": True, "text_order": True}


def test_a_checkpoint_writes_from_the_nucleus_and_a_run_begun_otherwise_is_refused(evaluate, tmp_path, monkeypatch):
    path = write(tmp_path / "questions.jsonl", [{k: row[k] for k in ("question", "answers")} for row in invented(2)])
    decodings = []

    def decode(folder, mesh, prompts, decoding, precision):
        decodings.append(decoding)
        return iter([(i, f"It is Mount {i} (70%) or K2 (30%).", True, -1.0) for i in range(len(prompts))])

    monkeypatch.setattr(writing, "write", decode)
    with FakeServer(scripted) as server:
        result, records = evaluate(server, model="m", questions__source=path, top_p=0.9, max_new_tokens=512)
        with pytest.raises(ValueError, match="was written by another model or in another way"):
            evaluate(server, model="m", questions__source=path, max_new_tokens=512)
    assert [(d.temperature, d.top_p, d.max_new_tokens) for d in decodings] == [(0.3, 0.9, 512)]
    assert (result["settings"]["top_p"], result["settings"]["max_new_tokens"]) == (0.9, 512)
    assert [(r["paragraph"], r["answers"], r["probs"]) for r in records] == [
        (f"It is Mount {i} (70%) or K2 (30%).", [f"Mount {i}", "K2"], [0.7, 0.3]) for i in range(2)
    ]


def test_extractor_forecaster_and_judge_can_be_three_models(evaluate, tmp_path, capsys):
    path, models = write(tmp_path / "p.jsonl", invented(6)), {"forecast": "gpt-4.1-mini", "judge": "gpt-5"}
    with FakeServer(scripted) as server:
        overrides = {f"annotators__{role}__name": f"openai/{model}" for role, model in models.items()}
        overrides |= {f"annotators__{role}__base_url": server.openai_url for role in models}
        with pytest.raises(FileNotFoundError):
            evaluate(server, paragraphs=path, dry_run=True, **overrides)
        table = [line.split()[:3] for line in capsys.readouterr().out.splitlines()]
        result, records = evaluate(server, paragraphs=path, **overrides)
        steps = {"gpt-4.1": extract.PROMPT, "gpt-4.1-mini": forecast.PROMPT, "gpt-5": equivalence.PROMPT}
        assert {item.body["model"] for item in server.exchanges} == set(steps)
        assert all(steps[item.body["model"]].match(item.prompt) for item in server.exchanges)
        num_replies = server.num_answered
        assert evaluate(server, paragraphs=path, **overrides)[1] == records
        assert server.num_answered == num_replies  # each from its own replies in the store
        capsys.readouterr()
        evaluate(server, paragraphs=path, dry_run=True, **overrides)
        later = [line.split()[:4] for line in capsys.readouterr().out.splitlines()]
        assert ["eval_forecast", "openai/gpt-4.1-mini", "0", "10"] in later  # follows from the stored answers: ten
        other, _ = evaluate(server, paragraphs=path)
        assert server.num_answered > num_replies  # another forecaster and judge are asked again
    for row in (["eval_extract", "openai/gpt-4.1", "6"], ["eval_forecast", "openai/gpt-4.1-mini", "12"]):
        assert row in table
    assert ["equivalence", "openai/gpt-5", "1"] in table
    assert result["judge"] == "extract: openai/gpt-4.1; forecast: openai/gpt-4.1-mini; judge: openai/gpt-5"
    assert other["judge"] == "openai/gpt-4.1"


def test_what_is_wrong_is_said_before_anything_starts(tmp_path):
    config = config_of("evaluate_qa", "own")
    config.update(model="m", output=str(tmp_path), top_p=0.0, max_new_tokens=0, judge_temperature=-1.0, limit=-2)
    config.annotator.name, config.annotators.judge.name = "simulated/miniature", "gpt-4.1"
    config.annotators.forecast.update(name="local/x", batch=True)
    with pytest.raises(Problems) as caught:
        evaluate_qa.check(config)
    for words in (
        "--config.top_p=0.0: give a number above 0 and of at most 1.",
        "--config.max_new_tokens=0: give a whole number of at least 1.",
        "--config.judge_temperature=-1.0: give a number of at least 0.",
        "--config.limit=-2: give a whole number of at least 0.",
        "Did you mean openai/gpt-4.1?",
        "leave --config.annotators.forecast.batch empty.",
        "--config.questions.source is empty, and a model needs questions to write about: give "
        "--config.questions.source=questions.jsonl (rows of `question` and `answer`), or",
    ):
        assert any(words in message for message in caught.value.messages), words
    assert len(caught.value.messages) == 7
