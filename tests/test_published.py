"""The published settings: one switch sets them all, and docs/published.md names them."""

import ast
import functools
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lc_jax.data import examples
from lc_jax.data.tokenizer import load_tokenizer
from lc_jax.evaluation import biography, qa
from lc_jax.llm.data_tasks import data_tasks
from lc_jax.models import registry
from lc_jax.models.transformer import trainable
from lc_jax.prompts import load_templates
from lc_jax.settings import flat
from lc_jax.training.optimizer import OptimizerSettings, make_optimizer
from lc_jax.types import Example
from tests.test_configs import config_of

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ("ppo", "ppo_factuality", "evaluate_qa", "evaluate_biography", "generate_data")  # that the switch reaches
NOT_IN_THE_REPOSITORY = {"recordings", "assets", "recorded", "tokenizers"}  # fixtures without which a test is skipped


def rows_of(kind):
    """The rows of docs/published.md of one kind: (what the published code does, remarks)."""
    lines = (ROOT / "docs" / "published.md").read_text(encoding="utf-8").splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    return [(row[0], row[2]) for row in cells if row[1] == kind]


@functools.cache
def functions_of(path):
    """The arguments of each function in a file, by its name."""
    nodes = ast.parse((ROOT / path).read_text(encoding="utf-8")).body
    functions = [node for node in nodes if isinstance(node, ast.FunctionDef)]
    return {node.name: {argument.arg for argument in node.args.args} for node in functions}


@pytest.mark.parametrize(("row", "remarks"), rows_of("same"), ids=[row[:30] for row, _ in rows_of("same")])
def test_a_row_that_is_the_same_names_tests_that_hold_it_in_every_clone(row, remarks):
    names = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", remarks)
    assert names, f"docs/published.md: no test is named by {row!r}; write `tests/FILE.py::test_NAME` in its last column"
    for path, name in names:
        assert name in functions_of(path), f"docs/published.md: {row!r} names {path}::{name}, which is not there"
    needs = [functions_of(path)[name] & NOT_IN_THE_REPOSITORY for path, name in names]
    assert not all(needs), f"docs/published.md: every test of {row!r} is skipped in a fresh clone"


def test_rows_are_of_four_kinds():
    assert all(rows_of(kind) for kind in ("same", "switch", "differs", "both"))
    text = (ROOT / "docs" / "published.md").read_text(encoding="utf-8")
    tables = [line for line in text.splitlines() if line.startswith("| ") and not line.startswith(("| what", "| ---"))]
    assert len(tables) == sum(len(rows_of(kind)) for kind in ("same", "switch", "differs", "both"))


def changed(name):
    """The settings of an experiment that the switch changes."""
    config = config_of(name)
    before = dict(flat(config))
    config.published = True
    return {setting for setting, value in flat(config) if value != before[setting]} - {"published"}


def test_rows_marked_switch_name_the_settings_that_it_changes_and_no_others():
    names = {name for _, remarks in rows_of("switch") for name in re.findall(r"`([\w.]+)`", remarks)}
    assert names == set().union(*map(changed, CONFIGS))


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
    tasks = data_tasks(**config.wording)
    temperatures = {name: task.temperature for name, task in tasks.items()}
    assert temperatures["summarize"] == 0.3
    assert {temperatures[name] for name in ("extract", "forecast", "correctness")} == {0.2}
    assert ["Reasoning:" in task.prompt.template for task in tasks.values()] == [False] * 4 + [published] * 3


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
    tasks = qa.Protocol.from_settings(config).tasks()
    temperatures = {name: task.temperature for name, task in tasks.items()}
    assert temperatures == {"eval_extract": 0.2, "eval_forecast": 0.2, "equivalence": 0.2 if published else 0.0}
    config = config_of("evaluate_biography")
    config.published = published
    assert config.temperature == 0.3
    temperatures = {name: task.temperature for name, task in biography.tasks(config.judge_temperature).items()}
    assert temperatures == {
        "claims": 0.2, "plain_claims": 0.2, "confidence": 0.2, "support": 0.2 if published else 0.0,
    }  # fmt: skip


def test_every_parameter_of_ppo_decays_by_a_hundredth_of_the_learning_rate():
    """Norms and embeddings too; eps 1e-5 and clipping at 1 as well."""
    config = config_of("ppo").optimizer
    assert (config.weight_decay, config.eps, config.clip_norm, config.b1, config.b2) == (0.01, 1e-5, 1.0, 0.9, 0.999)
    assert (config.learning_rate, config.schedule, config.warmup_steps) == (1e-5, "linear", 5)
    settings = OptimizerSettings.from_ratio(1500, **dict(config) | {"learning_rate": 0.5, "warmup_steps": 0})
    abstract = registry.abstract_model(registry.from_preset("tiny-llama"))
    params = jax.tree.map(lambda x: jnp.full(x.shape, 8.0), abstract.params)
    tx = make_optimizer(settings, trainable(params))
    updates, _ = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
    assert len(jax.tree.leaves(updates)) > 5
    for update in jax.tree.leaves(updates):
        np.testing.assert_allclose(update, -0.5 * 0.01 * 8.0, rtol=1e-6)


def test_a_target_follows_the_last_words_of_its_prompt_directly():
    templates, tokenizer = load_templates("full"), load_tokenizer(str(ROOT / "tests" / "golden" / "tokenizer_tiny"))
    for name in ("paragraph", "extract_answers", "forecast_probs", "factuality", "critic"):
        assert getattr(templates, name).template.endswith("### Response:")
    row = {"question_id": "q", "paragraph_generation_prompt": "Write.", "claude_summary": "It is."}
    (example,), _ = examples.make_examples("sft_lc", [row], templates)
    assert (example.prompt[-13:], example.target) == ("### Response:", "It is.")
    encoded = examples.encode_sft(tokenizer, Example("q", "### Response:", "It is."), 99)
    assert tokenizer.decode(encoded.tokens[: encoded.num_source]) == "### Response:"
    assert tokenizer.decode(encoded.tokens) == "### Response:It is."
    assert encoded.tokens[-1] == tokenizer.eos_id


def test_reward_models_read_2000_characters_of_a_paragraph():
    prompt = load_templates("full").forecast_probs
    fields = {"question": "x" * 2500, "answer": "y" * 2500}
    text = examples.cut_paragraph(prompt, fields | {"generated_paragraph": "z" * 1999 + "abc"})
    assert text == prompt.render(**fields, generated_paragraph="z" * 1999 + "a")


@pytest.mark.parametrize(("name", "tasks"), [("evaluate_qa", qa.TASKS), ("evaluate_biography", biography.TASKS)])
def test_every_part_of_an_evaluation_can_have_an_annotator_of_its_own(name, tasks):
    assert set(config_of(name).annotators) == {task.role for task in tasks.values()}
