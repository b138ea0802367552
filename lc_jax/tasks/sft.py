"""Supervised fine-tuning on (prompt, target) pairs: LC SFT, Factuality SFT, Claude Distill, ExtractAnswers.

The loss covers the target and its end-of-sequence token only (paper section 3).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jaxtyping import Array
from ml_collections import ConfigDict

from lc_jax.data import batches, examples
from lc_jax.data.questions import load_training_rows
from lc_jax.data.tokenizer import fits, load_tokenizer
from lc_jax.kernels.logprobs import token_logprobs
from lc_jax.models import hf
from lc_jax.models.transformer import Model
from lc_jax.prompts import load_templates
from lc_jax.training import loop
from lc_jax.training.losses import next_token_loss
from lc_jax.training.optimizer import OptimizerSettings


def loss_fn(model: Model, batch: Mapping[str, Array]) -> loop.Sums:
    """Cross-entropy summed over target tokens, and their number. `first_targets` is where each row's target begins."""
    module = model.bind()
    hidden = module(batch["tokens"], batch["spans"])
    logprobs, _ = token_logprobs(hidden[:, :-1], module.head_matrix(), batch["tokens"][:, 1:], jnp.float32(1.0))
    slots = jnp.arange(1, batch["tokens"].shape[1])
    mask = (slots >= batch["first_targets"][:, None]) & (slots < batch["spans"][:, 1:])
    loss, weight = next_token_loss(logprobs, mask)
    return {"loss": loss, "weight": weight}


def dataset(encoded: Sequence[examples.Encoded], max_length: int) -> loop.Dataset:
    """Right-padded batches of token ids with the place of each target."""
    dummy = examples.Encoded((0,), 1)  # no target token: weight 0

    def collate(rows: np.ndarray) -> loop.Arrays:
        chosen = [encoded[i] if i >= 0 else dummy for i in rows]
        width = batches.bucket(max(len(e.tokens) for e in chosen), max_length)
        padded = batches.pad([e.tokens for e in chosen], width)
        firsts = np.asarray([e.num_source for e in chosen], np.int32)
        return {"tokens": padded.tokens, "spans": padded.spans, "first_targets": firsts}

    return loop.Dataset(np.asarray([len(e.tokens) for e in encoded]), collate)


def run(config: ConfigDict, mesh: jax.sharding.Mesh) -> None:
    """Trains `config.model` on `config.data` and leaves a Hugging Face checkpoint in `<output>/model`."""
    output = Path(config.output)
    hf.check(config.model)
    tokenizer = load_tokenizer(config.model)
    rows = load_training_rows(**config.data.rows)
    templates, max_length = load_templates(config.templates), config.data.max_length
    found, dropped = examples.make_examples(config.data.recipe, rows, templates, fits(tokenizer, max_length))
    split = examples.split_by_question(found, config.data.eval_size, config.seed, (str(r["question_id"]) for r in rows))
    train, too_long = examples.encode_all(tokenizer, split.train, max_length)
    held_out, _ = examples.encode_all(tokenizer, split.evaluation, max_length)
    dropped["the prompt fills the window"] += too_long
    logging.info("%d training and %d held-out examples; dropped %s", len(train), len(held_out), dict(+dropped))

    settings = loop.FitSettings(**config.fit, seed=config.seed)
    model = hf.load(config.model, mesh, vocab_size=len(tokenizer), **config.precision)
    model = loop.fit(
        model,
        loss_fn,
        dataset(train, max_length),
        dataset(held_out, max_length) if held_out else None,
        settings,
        OptimizerSettings.from_ratio(settings.num_steps(len(train)), **config.optimizer),
        output=output,
        describe={"model": config.model, "data": config.data.to_json(), "fit": config.fit.to_json()},
        wandb=config.wandb,
    )
    hf.save(output / "model", model, tokenizer=tokenizer)
