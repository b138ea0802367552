"""The published settings: one switch sets them all, and docs/published.md names them."""

import pytest

from lc_jax.evaluation import biography, qa
from lc_jax.settings import flat
from lc_jax.tasks import generate_data
from tests.test_configs import config_of


def values(config, *names):
    settings = dict(flat(config))
    return tuple(settings[name] for name in names)


SWITCHES = [
    # (config, setting, without the switch, with it)
    ("evaluate_qa", "top_p", 1.0, 0.9),
    ("evaluate_qa", "max_new_tokens", 300, 512),
    ("evaluate_qa", "judge_matches", False, True),
    ("evaluate_qa", "judge_temperature", 0.0, 0.2),
    ("evaluate_qa", "wording.reasoning", False, True),
    ("evaluate_qa", "wording.text_order", False, True),
    ("evaluate_biography", "top_p", 1.0, 0.9),
    ("evaluate_biography", "max_new_tokens", 300, 512),
    ("evaluate_biography", "judge_temperature", 0.0, 0.2),
    ("generate_data", "top_p", 1.0, 0.9),
    ("generate_data", "max_new_tokens", 300, 512),
    ("generate_data", "wording.reasoning", False, True),
    ("generate_data", "wording.text_order", False, True),
]


@pytest.mark.parametrize(("name", "setting", "ours", "theirs"), SWITCHES)
def test_the_switch_reaches_evaluation_and_data_making(name, setting, ours, theirs):
    config = config_of(name)
    assert values(config, setting) == (ours,)
    config.published = True
    assert values(config, setting) == (theirs,)
    assert type(values(config, setting)[0]) is type(ours)
    part, _, field = setting.rpartition(".")
    (config[part] if part else config)[field] = ours  # what is set by itself stays
    assert values(config, setting) == (ours,)


@pytest.mark.parametrize("published", [False, True])
def test_eight_paragraphs_at_temperature_0_7_and_summaries_at_0_3_make_the_data(published):
    config = config_of("generate_data")
    config.published = published
    assert values(config, "num_samples", "temperature") == (8, 0.7)
    steps = generate_data.annotation_steps(**config.wording)
    temperatures = {name: step.temperature for name, step in steps.items()}
    assert temperatures["summarize"] == 0.3
    assert {temperatures[name] for name in ("extract", "forecast", "correctness")} == {0.2}
    assert ["Reasoning:" in step.prompt.template for step in steps.values()] == [False] * 4 + [published] * 3


@pytest.mark.parametrize("in_context", [False, True])
def test_paragraphs_of_a_base_model_end_at_the_first_blank_line_and_those_of_others_at_their_own_end(in_context):
    config = config_of("generate_data")
    config.in_context = in_context
    assert config.first_paragraph is in_context
    assert config_of("generate_data", "mini").first_paragraph is True  # its base models are asked without examples


@pytest.mark.parametrize("published", [False, True])
def test_paragraphs_are_sampled_at_temperature_0_3_and_read_at_0_2(published):
    config = config_of("evaluate_qa")
    config.published = published
    assert config.temperature == 0.3
    protocol = qa.Protocol(**config.wording, judge_temperature=config.judge_temperature)
    temperatures = {name: step.temperature for name, step in protocol.steps().items()}
    assert temperatures == {"eval_extract": 0.2, "eval_forecast": 0.2, "equivalence": 0.2 if published else 0.0}
    config = config_of("evaluate_biography")
    config.published = published
    assert config.temperature == 0.3
    temperatures = {name: step.temperature for name, step in biography.steps(config.judge_temperature).items()}
    assert temperatures == {
        "claims": 0.2, "plain_claims": 0.2, "confidence": 0.2, "support": 0.2 if published else 0.0,
    }  # fmt: skip
