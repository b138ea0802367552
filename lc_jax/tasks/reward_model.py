"""Reward models: ForecastProbs (x, z, answer) -> P(answer) and the Factuality reward model (x, z, y) -> P(correct).

A scalar head reads the final hidden state at the last token; binary cross-entropy against a probability label.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path

import jax
from ml_collections import ConfigDict

from lc_jax import memory, parallel
from lc_jax.data import examples
from lc_jax.models import folders, hf
from lc_jax.prompts import load_templates
from lc_jax.rl import reward_model
from lc_jax.training import advice, checks, loop, run_steps
from lc_jax.training.exports import Exports
from lc_jax.training.logging import RunDirectory, announce
from lc_jax.training.optimizer import OptimizerSettings
from lc_jax.types import Example


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
    settings = loop.FitSettings(**config.fit.to_dict() | {"microbatch_size": plan.microbatch_size}, seed=config.seed)
    output = Path(config.output)
    folders.check(config.model)
    templates, max_length = load_templates(config.templates, config.prompt_dir), config.data.max_length
    tokenizer = run_steps.export_tokenizer("reward_model", config.model, config.data.recipe, templates)
    data = config.data.to_dict()
    split, dropped = examples.load_split(data, templates, tokenizer.fits(max_length), config.seed)
    train, held_out = split.train, split.evaluation
    examples.report_sizes(data, len(train), len(held_out), dropped)

    def encode(part: Sequence[Example]) -> loop.Dataset:
        sequences = [tokenizer.encode_prompt(e.prompt, f"example {e.example_id!r}", max_length) for e in part]
        return reward_model.dataset(sequences, [e.label for e in part])

    save = functools.partial(hf.save, tokenizer=tokenizer, dtype=config.export_dtype or None)
    run_directory = RunDirectory.of(config.to_dict(), "model", "seed", "data", "fit", "optimizer", "precision")
    model = hf.load(config.model, mesh, kind="scalar", vocab_size=tokenizer.num_rows, **config.precision)
    model = loop.fit(
        model,
        reward_model.loss_fn,
        encode(train),
        encode(held_out) if held_out else None,
        settings,
        OptimizerSettings.from_ratio(settings.num_steps(len(train)), **config.optimizer),
        dataclasses.replace(run_directory, exports=Exports(output, config.export_every, save)),
    )
    save(output / "model", model)
    announce(output / "model", advice.to_score(config.to_dict()))
