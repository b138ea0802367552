"""Tests of the number of requests that an evaluation sends to vendors, and their greatest cost, counted by hand."""

import math

import pytest

from lc_jax.evaluation import biography
from lc_jax.llm import cost
from lc_jax.planning import requests, stages, work
from tests.test_configs import config_of

HAIKU, GPT = "anthropic/claude-haiku-4-5", "openai/gpt-4.1"  # 1 and 5, 2 and 8 dollars per million tokens


def planned(name, mode="", **settings):
    config = config_of(name, mode)
    config.annotator.name = HAIKU
    config.update_from_flattened_dict({key.replace("__", "."): value for key, value in settings.items()})
    return config


def test_a_biography_is_taken_apart_once_and_each_claim_is_checked():
    config = planned("evaluate_biography", model="m", uses_confidence=True)
    claims, confidence, support = requests.estimates(config, 500)
    assert [one.calls for one in (claims, confidence, support)] == [500, 500, 7500]
    task = biography.TASKS["claims"]
    prompt = task.prompt.render(entity="an answer", generated_paragraph="x" * 900)
    tokens = cost.tokens(prompt) + cost.tokens(task.prompt.schema) + cost.OVERHEAD
    assert (claims.usage.input_tokens, claims.usage.output_tokens) == (500 * tokens, 500 * 4096)
    assert claims.dollars() == pytest.approx((500 * tokens * 1 + 500 * 4096 * 5) / 1e6)
    assert support.usage.input_tokens > 7500 * 5 * 1100 / 3  # five passages
    both = [claims, confidence, support]
    assert requests.dollars(both, batch=True) == pytest.approx(requests.dollars(both) / 2)
    config.uses_confidence = False
    assert [one.calls for one in requests.estimates(config, 500)] == [500, 7500]


def test_a_vendor_s_paragraphs_are_paid_for_at_its_own_price():
    settings = {"writer__name": GPT, "strategy": "uncertainty", "uses_confidence": True}
    paragraph, extract, forecast, equivalence = requests.estimates(planned("evaluate_qa", "sciq", **settings), 1000)
    assert [paragraph.name, extract.name] == [GPT, HAIKU]
    assert [paragraph.calls, extract.calls, forecast.calls, equivalence.calls] == [1000, 1000, 2000, 100]
    tokens = paragraph.usage.input_tokens
    assert paragraph.dollars() == pytest.approx((tokens * 2 + 1000 * 512 * 8) / 1e6)
    settings |= {"strategy": "8-shot", "uses_confidence": False}
    longer, *others = requests.estimates(planned("evaluate_qa", "sciq", **settings), 1000)
    assert longer.usage.input_tokens > 4 * tokens  # eight examples
    assert [one.calls for one in others] == [1000, 100]


def test_data_is_made_by_one_request_a_row_or_by_none():
    assert requests.estimates(planned("generate_data", "sciq", what="paragraphs"), 10) == []
    (summaries,) = requests.estimates(planned("generate_data", "sciq", what="summaries"), 13_679)
    assert summaries.calls == 13_679
    assert summaries.usage.input_tokens > 13_679 * 8 * 900 / 3  # eight paragraphs
    assert [one.calls for one in requests.estimates(planned("generate_data", what="forecasts"), 10)] == [
        10,
        30,
    ]


def test_a_step_may_have_an_annotator_of_its_own():
    config = planned("evaluate_qa", "sciq", model="m", annotators__judge__name=GPT, published=True)
    extract, forecast, equivalence = requests.estimates(config, 1000)
    assert [extract.name, forecast.name, equivalence.name] == [HAIKU, HAIKU, GPT]
    brief = requests.estimates(planned("evaluate_qa", "sciq", model="m"), 1000)
    assert forecast.usage.output_tokens > brief[1].usage.output_tokens  # reasoning comes first


def test_an_unknown_price_is_no_number():
    estimates = requests.estimates(planned("evaluate_biography", model="m", annotator__name="openai/mine"), 5)
    assert math.isnan(requests.dollars(estimates))
    config = planned("evaluate_biography", model="m", annotator__name="openai/mine")
    config.annotator.price = (1.0, 0.0, 0.0)
    estimates = requests.estimates(config, 5)
    assert requests.dollars(estimates) == pytest.approx(
        sum(estimate.usage.input_tokens for estimate in estimates) / 1e6
    )


def test_rows_of_the_published_sets(tmp_path):
    lines = [
        "configs/evaluate_biography.py",
        "configs/generate_data.py:bioasq\t--config.what=summaries",
        "configs/evaluate_qa.py:sciq\t--config.limit=1000",
    ]
    (tmp_path / "stages").write_text("".join(f"name\tresult\t--config={line}\n" for line in lines))
    assert [work.num_rows(stage) for stage in stages.load(tmp_path / "stages")] == [500, 1_515, 1_000]


def test_rows_of_ones_own_files_are_counted_and_those_of_files_to_come_are_as_many_as_they_are_made_from(tmp_path):
    (tmp_path / "q.csv").write_text("question,answer\n" + "Who?,me\n" * 7)
    own = f"--config.questions.answers=\t--config.questions.split=\t--config.questions.source={tmp_path}/q.csv"
    lines = [
        f"samples\t{tmp_path}/samples.jsonl\t--config=configs/generate_data.py\t{own}",
        f"LC SFT\t{tmp_path}/run/model\t--config=configs/sft_lc.py\t--config.data.rows.source={tmp_path}/samples.jsonl",
        f"evaluate\t{tmp_path}/result.json\t--config=configs/evaluate_qa.py:own\t{own}\t--config.limit=5",
    ]
    (tmp_path / "stages").write_text("".join(f"{line}\n" for line in lines))
    every = stages.load(tmp_path / "stages")
    assert [work.num_rows(stage, every) for stage in every] == [7, 7, 5]
