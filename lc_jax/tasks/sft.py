"""Supervised fine-tuning on (prompt, target) pairs: LC SFT, Factuality SFT, Claude Distill, ExtractAnswers.

The loss covers the target and its end-of-sequence token only (paper section 3).
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
from lc_jax.prompts import Prompt
from lc_jax.training import advice, checks, language_model, run_steps, supervised
from lc_jax.training.logging import announce
from lc_jax.training.loop import Dataset
from lc_jax.types import Example, Message


def _encode(tokenizer: Tokenizer, rows: Sequence[Example], max_length: int) -> Dataset:
    return language_model.dataset(examples.encode_all(tokenizer, rows, max_length))


OBJECTIVE = supervised.Objective("sft", language_model.loss_fn, _encode)


def check(config: ConfigDict) -> None:
    """Refuses settings, folders and files that cannot be trained from, all of them at once."""
    checks.check_training(config.to_dict(), labels=False)


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
    supervised.train(config.to_dict(), mesh, OBJECTIVE, tokenizer, templates, plan.microbatch_size)
    has_chat_template = tokenizer.hf is not None and bool(tokenizer.hf.chat_template)
    next_command = advice.to_write(config.to_dict(), uses_template=uses_template, has_chat_template=has_chat_template)
    announce(Path(config.output) / "model", next_command)
