"""Trains a base model of the miniature world from scratch, in the place of downloading Llama 2 or RedPajama-INCITE.

The corpus is the only place where the world's facts are stated, right and wrong as its writers state them.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import jax
import numpy as np
from absl import logging
from ml_collections import ConfigDict

from lc_jax.data import examples
from lc_jax.data.tokenizer import load_tokenizer
from lc_jax.miniature import corpus, induction
from lc_jax.miniature import tokenizer as world_tokenizer
from lc_jax.miniature.world import build
from lc_jax.models import hf, registry
from lc_jax.preflight import POSITIVE_INT, check_all, check_settings
from lc_jax.training import advice, checks, language_model, loop
from lc_jax.training.logging import RunDirectory, announce
from lc_jax.training.optimizer import OptimizerSettings
from lc_jax.types import Example


def check(config: ConfigDict) -> None:
    """Checks the settings, and reports all problems at once."""

    def mix() -> None:
        if len(config.mix) != 3 or min(config.mix) < 0 or not sum(config.mix):
            raise ValueError(f"--config.mix={tuple(config.mix)}: give three shares of at least 0, not all of them 0.")

    def sizes() -> None:
        check_settings("", config, vocab_size=POSITIVE_INT, max_length=POSITIVE_INT, num_documents=POSITIVE_INT)

    def num_steps() -> None:
        fit = loop.FitSettings(**config.fit, seed=config.seed)
        if config.num_documents in POSITIVE_INT:
            fit.num_steps(config.num_documents)

    check_all(
        lambda: check_settings("", config, family=induction.FAMILIES),
        mix,
        sizes,
        num_steps,
        *checks.run_checks(config.to_dict()),
    )


def run(config: ConfigDict, mesh: jax.sharding.Mesh) -> None:
    """Writes a tokenizer and a Hugging Face checkpoint to `<output>/model`.

    Raises:
      ValueError: the family is unknown.
    """
    check(config)
    output = Path(config.output)
    world = build()
    directory = output / "tokenizer"
    world_tokenizer.save(world_tokenizer.train(world, config.vocab_size), directory)
    tokenizer = load_tokenizer(directory).with_pad_token()
    documents = corpus.documents(world, np.random.default_rng(config.seed), tuple(config.mix))
    pairs = [Example("", *pair) for pair in itertools.islice(documents, config.num_documents)]
    encoded = examples.encode_all(tokenizer, pairs, config.max_length)
    logging.info("%d documents, %d tokens", len(encoded), sum(len(e.tokens) for e in encoded))

    raw = config.shape.to_dict() | {
        "model_type": config.family,
        "vocab_size": len(tokenizer),
        "bos_token_id": next(iter(tokenizer.prefix), None),
        "eos_token_id": tokenizer.eos_id,
    }
    shape = registry.config_from_hf(raw, **config.precision)
    model = induction.plant(registry.initialize(shape, jax.random.key(config.seed), mesh), config.seed)
    settings = loop.FitSettings(**config.fit, seed=config.seed)
    model = loop.fit(
        model,
        language_model.loss_fn,
        language_model.dataset(encoded),
        None,
        settings,
        OptimizerSettings.from_ratio(settings.num_steps(len(encoded)), **config.optimizer),
        RunDirectory.of(config.to_dict(), "seed", "shape", "mix", "num_documents", "fit", "optimizer", "precision"),
    )
    hf.save(output / "model", model, tokenizer=directory, dtype=config.export_dtype or None)
    announce(output / "model", advice.to_write(config.to_dict(), uses_template=True))
