"""Trains a base model of the miniature world from scratch, in the place of downloading Llama 2 or RedPajama-INCITE.

The corpus is the only place where the world's facts are stated, right and wrong as its writers state them.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jaxtyping import Array
from ml_collections import ConfigDict

from lc_jax.data import batches
from lc_jax.data.tokenizer import load_tokenizer
from lc_jax.kernels.logprobs import token_logprobs
from lc_jax.miniature import corpus
from lc_jax.miniature import tokenizer as world_tokenizer
from lc_jax.miniature.world import build
from lc_jax.models import hf, registry
from lc_jax.models.transformer import Model
from lc_jax.training import loop
from lc_jax.training.losses import next_token_loss
from lc_jax.training.optimizer import OptimizerSettings


def loss_fn(model: Model, batch: Mapping[str, Array]) -> loop.Sums:
    """Cross-entropy summed over every real token after the first, and their number."""
    module = model.bind()
    hidden = module(batch["tokens"], batch["spans"])
    logprobs, _ = token_logprobs(hidden[:, :-1], module.head_matrix(), batch["tokens"][:, 1:], jnp.float32(1.0))
    mask = jnp.arange(1, batch["tokens"].shape[1]) < batch["spans"][:, 1:]
    loss, weight = next_token_loss(logprobs, mask)
    return {"loss": loss, "weight": weight}


def run(config: ConfigDict, mesh: jax.sharding.Mesh) -> None:
    """Writes a tokenizer and a Hugging Face checkpoint to `<output>/model`.

    Raises:
      ValueError: the family is unknown.
    """
    if config.family not in registry.FAMILIES:
        raise ValueError(f"--config.family={config.family!r}: give one of {sorted(registry.FAMILIES)}.")
    output = Path(config.output)
    world = build()
    directory = output / "tokenizer"
    world_tokenizer.save(world_tokenizer.train(world, config.vocab_size), directory)
    tokenizer = load_tokenizer(directory)
    documents = itertools.islice(corpus.documents(world, np.random.default_rng(config.seed)), config.num_documents)
    texts = [prompt + text for prompt, text in documents]
    encoded = [[*ids, tokenizer.eos_token_id] for ids in tokenizer(texts)["input_ids"]]
    lengths = np.asarray([len(e) for e in encoded])
    logging.info("%d documents, %d tokens, longest %d", len(encoded), lengths.sum(), lengths.max())

    def collate(rows: np.ndarray) -> loop.Arrays:
        chosen = [encoded[i] for i in rows]
        padded = batches.pad(chosen, batches.bucket(max(map(len, chosen))))
        return {"tokens": padded.tokens, "spans": padded.spans}

    raw = config.shape.to_dict() | {
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    shape = registry.FAMILIES[config.family][1].from_hf(raw, **config.precision)
    model = registry.initialize(shape, jax.random.key(config.seed), mesh)
    settings = loop.FitSettings(**config.fit, seed=config.seed)
    model = loop.fit(
        model,
        loss_fn,
        loop.Dataset(lengths, collate),
        None,
        settings,
        OptimizerSettings.from_ratio(settings.num_steps(len(encoded)), **config.optimizer),
        output=output,
        describe={"shape": config.shape.to_json(), "num_documents": config.num_documents},
        wandb=config.wandb,
    )
    hf.save(output / "model", model, tokenizer=directory)
