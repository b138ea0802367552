"""Reward models: ForecastProbs (x, z, answer) -> P(answer) and the Factuality reward model (x, z, y) -> P(correct).

A scalar head reads the final hidden state at the last token; binary cross-entropy against a probability label.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import jax
from ml_collections import ConfigDict

from lc_jax import memory, parallel
from lc_jax.data.tokenizer import Tokenizer
from lc_jax.models import folders
from lc_jax.prompts import load_templates
from lc_jax.rl import reward_model
from lc_jax.training import advice, checks, run_steps, supervised
from lc_jax.training.logging import announce
from lc_jax.training.loop import Dataset
from lc_jax.types import Example


def _encode(tokenizer: Tokenizer, rows: Sequence[Example], max_length: int) -> Dataset:
    sequences = [tokenizer.encode_prompt(e.prompt, f"example {e.example_id!r}", max_length) for e in rows]
    return reward_model.dataset(sequences, [e.label for e in rows])


OBJECTIVE = supervised.Objective("reward_model", reward_model.loss_fn, _encode)


def check(config: ConfigDict) -> None:
    """Refuses settings, folders and files that cannot be trained from, all of them at once."""
    checks.check_training(config.to_dict(), labels=True)


def planned(config: ConfigDict, mesh: parallel.AnyMesh) -> memory.Plan:
    """Returns the memory plan, with the micro-batch size that fits where fit.microbatch_size is 0."""
    return memory.plan_training(config.to_dict(), mesh, "scalar")


def run(config: ConfigDict, mesh: jax.sharding.Mesh) -> None:
    """Trains a reward model on the backbone `config.model` and leaves it in `<output>/model`."""
    plan = planned(config, mesh)
    plan.report()
    if config.dry_run:
        return
    folders.check(config.model)
    templates = load_templates(config.templates, config.prompt_dir)
    tokenizer = run_steps.export_tokenizer("reward_model", config.model, config.data.recipe, templates)
    supervised.train(config.to_dict(), mesh, OBJECTIVE, tokenizer, templates, plan.microbatch_size)
    announce(Path(config.output) / "model", advice.to_score(config.to_dict()))
