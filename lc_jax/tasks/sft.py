"""Supervised fine-tuning on (prompt, target) pairs: LC SFT, Factuality SFT, Claude Distill, ExtractAnswers.

The loss covers the target and its end-of-sequence token only (paper section 3). With `config.objective` it is the
expected score of a stated confidence instead (training/stated_number.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import jax
from absl import logging
from ml_collections import ConfigDict

from lc_jax import memory, parallel
from lc_jax.data import examples
from lc_jax.data.tokenizer import Tokenizer, load_templates_for
from lc_jax.models import folders
from lc_jax.preflight import Range, check_all, check_settings, divisors
from lc_jax.prompts import Prompt
from lc_jax.training import advice, checks, language_model, run_steps, stated_number, supervised
from lc_jax.training.logging import announce
from lc_jax.training.loop import Dataset
from lc_jax.types import Example, Message

NEXT_TOKEN, RECIPE = "next_token", "stated_confidence"  # the recipe of all objectives but the first


def _encode(tokenizer: Tokenizer, rows: Sequence[Example], max_length: int) -> Dataset:
    return language_model.dataset(examples.encode_all(tokenizer, rows, max_length))


def _objective(config: ConfigDict) -> supervised.Objective:
    """Returns the objective of `config.objective`; configs without one train on the next token."""
    name = config.objective.name if "objective" in config else NEXT_TOKEN
    if name == NEXT_TOKEN:
        return supervised.Objective("sft", language_model.loss_fn, _encode)

    def encode(tokenizer: Tokenizer, rows: Sequence[Example], max_length: int) -> Dataset:
        encoded = (stated_number.encode(tokenizer, row, config.objective.step, max_length) for row in rows)
        return stated_number.dataset([row for row in encoded if row is not None])

    return supervised.Objective("sft", stated_number.LOSSES[name], encode)


def _check_objective(config: ConfigDict) -> None:
    """Refuses an objective that there is not, and rows of another recipe than it takes."""
    if "objective" not in config:
        return
    name, recipe = config.objective.name, config.data.recipe
    check_settings("objective", config.objective, name=(NEXT_TOKEN, *stated_number.LOSSES), step=Range(1, 100, True))
    if 100 % config.objective.step:
        raise ValueError(
            f"--config.objective.step={config.objective.step} does not divide 100: give "
            f"{divisors(100, config.objective.step)}."
        )
    if (name == NEXT_TOKEN) == (recipe == RECIPE):
        remedy = "another recipe" if name == NEXT_TOKEN else f"recipe={RECIPE}"
        raise ValueError(f"--config.objective.name={name} with --config.data.recipe={recipe}: give {remedy}.")


def check(config: ConfigDict) -> None:
    """Refuses settings, folders and files that cannot be trained from, all of them at once."""
    labels = "objective" in config and config.objective.name != NEXT_TOKEN
    check_all(
        lambda: _check_objective(config),
        lambda: checks.check_training(config.to_dict(), labels=labels),
    )


def planned(config: ConfigDict, mesh: parallel.AnyMesh) -> memory.Plan:
    """Returns the memory plan, with the micro-batch size that fits where fit.microbatch_size is 0."""
    return memory.plan_training(config.to_dict(), mesh)


def _warn_of_other_prompts(tokenizer: Tokenizer, template: Prompt) -> None:
    """Warns where a chat model is fine-tuned on prompts in another form than its own conversations."""
    if tokenizer.hf is None or not tokenizer.hf.chat_template:
        return
    query = "Write a paragraph about it."
    text = template.prompt_text(paragraph_generation_prompt=query)
    try:
        is_same = tokenizer.encode_prompt(text) == tokenizer.encode_prompt((Message("user", query),))
    except ValueError:  # a chat template that takes other conversations
        is_same = False
    if not is_same:
        logging.warning(
            "%s has a chat template but is trained on the prompts of templates=full; "
            "to train it in its own conversation give --config.templates=chat.",
            tokenizer.name,
        )


def run(config: ConfigDict, mesh: jax.sharding.Mesh) -> None:
    """Trains `config.model` on `config.data` and leaves a Hugging Face checkpoint in `<output>/model`."""
    plan = planned(config, mesh)
    plan.report()
    if config.dry_run:
        return
    folders.check(config.model)
    templates = load_templates_for(config.model, config.templates, config.prompt_dir)
    # Before training: a chat template that cannot be made costs nothing here.
    tokenizer = run_steps.export_tokenizer("sft", config.model, config.data.recipe, templates)
    uses_template = config.data.recipe in examples.PARAGRAPH_RECIPES
    if uses_template and config.templates == "full":
        _warn_of_other_prompts(tokenizer, templates.paragraph)
    supervised.train(config.to_dict(), mesh, _objective(config), tokenizer, templates, plan.microbatch_size)
    has_chat_template = tokenizer.hf is not None and bool(tokenizer.hf.chat_template)
    next_command = advice.to_write(config.to_dict(), uses_template=uses_template, has_chat_template=has_chat_template)
    announce(Path(config.output) / "model", next_command)
