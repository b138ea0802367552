"""Runs on people's own files without ids: SFT, reward models and PPO, with only the flags that each config names."""

import importlib
import json
import logging
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from configs import base
from lc_jax import parallel
from lc_jax.data import rows as data_rows
from lc_jax.data.tokenizer import Tokenizer, load_tokenizer
from lc_jax.models import hf
from lc_jax.preflight import Problems
from lc_jax.prompts import load_templates
from lc_jax.tasks import sft
from tests.tasks import test_pipeline as pipeline
from tests.test_configs import config_of

CASES = Path(__file__).resolve().parents[1] / "cases"
CHAT, PLAIN = CASES / "chat", CASES / "appended_eos"


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def run(name, **overrides):
    """A run as its command makes it: the checks before anything is loaded, then the task."""
    config = config_of(name, "mini")
    config.update_from_flattened_dict({key.replace("__", "."): value for key, value in overrides.items()})
    task, mesh = importlib.import_module(f"lc_jax.tasks.{config.task}"), parallel.make_mesh(**config.mesh)
    task.check(config)
    with jax.set_mesh(mesh):
        task.run(config, mesh)


def has_trained(model, folder):
    before, after = (load_file(path / "model.safetensors") for path in (model, folder))
    name = "model.layers.0.mlp.down_proj.weight"
    return bool(np.isfinite(after[name]).all() and (before[name] != after[name]).any())


DEMONSTRATIONS = [{"prompt": f"Which city {i}? ", "completion": f"Paris {i}."} for i in range(12)]
CONVERSATIONS = [
    {
        "messages": [
            {"role": "user", "content": f"Which city is {i}?"},
            {"role": "assistant", "content": "Rome."},
            {"role": "user", "content": "Are you sure?"},
            {"role": "assistant", "content": "No, 40% sure."},
        ]
    }
    for i in range(12)
]


@pytest.mark.parametrize(
    ("model", "rows"), [(PLAIN, DEMONSTRATIONS), pytest.param(CHAT, CONVERSATIONS, marks=pytest.mark.slow)]
)
def test_twelve_demonstrations_train_a_language_model(tmp_path, model, rows):
    output = tmp_path / "out"
    run("sft", model=str(model), output=str(output), data__rows__source=write(tmp_path / "mine.jsonl", rows))
    assert has_trained(model, output / "model")
    assert load_tokenizer(output / "model").hf.chat_template == load_tokenizer(model).hf.chat_template


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Is it so? ", "answer": "Yes", "label": 0.75},
        pytest.param(
            {"generated_paragraph": "It is Linz.", "question": "Which town?", "answer": ["Linz"], "label": True},
            marks=pytest.mark.slow,
        ),
    ],
)
def test_twelve_labelled_answers_train_a_reward_model(tmp_path, row):
    source, output = write(tmp_path / "mine.jsonl", [row] * 12), tmp_path / "out"
    run("reward_model", model=str(PLAIN), output=str(output), data__rows__source=source)
    assert load_file(output / "model" / "model.safetensors")["reward_head.bias"] > 0  # it began at 0, labels are > 1/2


@pytest.mark.parametrize("name", ["sft", "reward_model"])
def test_every_setting_that_is_missing_is_named_at_once(tmp_path, name):
    config = config_of(name)
    with pytest.raises(ValueError, match=r"give --config\.model=FOLDER(.|\n)*--config\.data\.rows\.source is empty"):
        importlib.import_module(f"lc_jax.tasks.{config.task}").check(config)


@pytest.mark.parametrize("name", ["sft", "reward_model", "ppo"])
def test_missing_rows_are_named_together_with_every_other_mistake(tmp_path, name):
    settings = {"output": str(tmp_path), "templates": "nowhere", "optimizer__kind": "sgd", "wandb__mode": "of"}
    settings |= {"wandb__project": "mine", "precision__remat": "some"}
    rows = str(tmp_path / "missing.jsonl")
    if name == "ppo":
        settings |= {"policy": str(tmp_path), "questions__source": rows, "ppo__num_steps": 0}
    else:
        settings |= {"model": str(tmp_path), "data__rows__source": rows, "data__max_length": 0, "fit__num_epochs": 0}
    config = config_of(name)
    config.update_from_flattened_dict({key.replace("__", "."): value for key, value in settings.items()})
    with pytest.raises(Problems) as problems:
        importlib.import_module(f"lc_jax.tasks.{name}").check(config)
    text = str(problems.value)
    for words in ("optimizer.kind=sgd", "wandb.mode=of", "remat", "nowhere", f"{tmp_path} has no config.json", rows):
        assert text.count(words) == 1, words
    for words in ("ppo.num_steps=0",) if name == "ppo" else ("data.max_length=0", "fit.num_epochs=0"):
        assert text.count(words) == 1, words


@pytest.mark.slow
def test_fewer_rows_than_a_batch_are_refused_with_the_size_to_give(tmp_path):
    source = write(tmp_path / "mine.jsonl", DEMONSTRATIONS[:5])
    settings = {"model": str(PLAIN), "output": str(tmp_path / "out"), "data__rows__source": source}
    with pytest.raises(ValueError, match=r"5 training examples .*--config\.fit\.batch_size to 5 or less"):
        run("sft", **settings)
    run("sft", **settings, fit__batch_size=5)
    assert has_trained(PLAIN, tmp_path / "out" / "model")


def test_rows_with_other_columns_are_refused_with_the_flag_that_names_them(tmp_path):
    source = write(tmp_path / "mine.jsonl", [{"instruction": "x", "output": "y"}] * 12)
    settings = {"model": str(PLAIN), "output": str(tmp_path / "out"), "data__rows__source": source}
    with pytest.raises(ValueError, match=r"columns=prompt=instruction,completion=output"):
        run("sft", **settings)
    run("sft", **settings, data__rows__columns="prompt=instruction,completion=output")
    assert has_trained(PLAIN, tmp_path / "out" / "model")


@pytest.mark.parametrize(("model", "name", "is_warned"), [(CHAT, "full", True), (PLAIN, "full", False)])
def test_a_chat_model_in_other_words_than_its_own_is_warned_of(model, name, is_warned, caplog):
    with caplog.at_level(logging.WARNING):
        sft._warn_of_other_prompts(load_tokenizer(model), load_templates(name).paragraph)
    assert ("--config.templates=chat" in caplog.text) == is_warned


def test_a_model_whose_chat_template_is_the_training_template_is_not_warned_of(caplog):
    template, tokenizer = load_templates("full").paragraph, load_tokenizer(PLAIN)
    tokenizer.add_chat_template(template)
    assert tokenizer.hf.chat_template
    with caplog.at_level(logging.WARNING):
        sft._warn_of_other_prompts(tokenizer, template)
    assert not caplog.records


def test_a_chat_template_that_cannot_be_made_is_named_before_the_training(tmp_path, monkeypatch):
    def fail(*args):
        raise ImportError("apply_chat_template requires jinja2 to be installed.")

    def load(*args, **kwargs):
        raise AssertionError("the model is loaded")

    monkeypatch.setattr(Tokenizer, "add_chat_template", fail)
    monkeypatch.setattr(hf, "load", load)
    rows = [{"paragraph_generation_prompt": f"Write {i}.", "claude_summary": "I think so."} for i in range(12)]
    settings = {"model": str(PLAIN), "output": str(tmp_path / "out"), "data__rows__questions": ""}
    settings |= {"data__rows__source": write(tmp_path / "mine.jsonl", rows), "data__eval_size": 0}
    with pytest.raises(ImportError, match="jinja2"):
        run("sft_lc", **settings, fit__batch_size=4, fit__microbatch_size=4)


def test_rows_written_with_other_templates_are_not_continued(tmp_path):
    prompts = write(tmp_path / "prompts.jsonl", [{"paragraph_generation_prompt": "Write about Chad."}])
    output = tmp_path / "out.jsonl"
    settings = {"model": str(CHAT), "prompts": prompts, "output": str(output), "max_new_tokens": 2}
    pipeline.run("generate", **settings)
    with pytest.raises(ValueError, match=r"templates was 'short', is 'chat'"):
        pipeline.run("generate", **settings, templates="chat")
    pipeline.run("generate", **settings)  # nothing is left to do


@pytest.mark.slow
def test_ppo_trains_and_validates_on_one_file_of_questions(tmp_path, monkeypatch):
    def fetch(*args):
        raise AssertionError(f"{args} is fetched")

    monkeypatch.setattr(data_rows, "_hub_rows", fetch)
    questions = [{"question": f"Which is peak {i}?", "answer": f"Peak {i}"} for i in range(20)]
    source = write(tmp_path / "mine.jsonl", questions)
    sizes = {"num_steps": 2, "rollout_batch_size": 8, "num_samples": 4, "minibatch_size": 8, "microbatch_size": 8}
    settings = {"policy": base.LLAMA, "reader__forecaster": base.LLAMA, "reader__extractor": base.LLAMA}
    settings |= {"questions__source": source, "output": str(tmp_path / "out")}
    settings |= {f"ppo__{name}": value for name, value in sizes.items()}
    with pytest.raises(ValueError, match=r"Every training prompt is longer than --config\.ppo\.query_length=5 tokens"):
        run("ppo", **settings, ppo__query_length=5)
    run("ppo", **settings, ppo__query_length=64)
    assert (tmp_path / "out" / "model" / "model.safetensors").is_file()
