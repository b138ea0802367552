"""Copies a checkpoint between layouts: Hugging Face folder <-> native Orbax folder, other dtype, other shard size."""

from __future__ import annotations

from pathlib import Path

import jax
from absl import logging
from ml_collections import ConfigDict

from lc_jax.models import folders, hf, native

FORMATS = ("hf", "native")


def run(config: ConfigDict, mesh: jax.sharding.Mesh) -> None:
    """Reads `config.source` and writes `config.destination` as `config.format`.

    Raises:
      ValueError: the format is unknown.
      FileExistsError: the destination is there already.
    """
    if config.format not in FORMATS:
        raise ValueError(f"--config.format={config.format!r}: give one of {FORMATS}.")
    destination = Path(config.destination)
    if destination.exists():
        raise FileExistsError(f"{destination} exists already; give another --config.destination or remove it.")
    folders.check(config.source)
    is_native = native.is_native(config.source)
    dtype = config.dtype or (native if is_native else hf).stored_dtype(config.source)
    _, kind = folders.config_of(config.source)
    model = (native if is_native else hf).load(config.source, mesh, kind=kind, param_dtype=dtype, compute_dtype=dtype)
    if config.format == "native":
        native.save(destination, model, tokenizer=config.source)
    else:
        hf.save(destination, model, tokenizer=config.source, max_shard_bytes=int(config.shard_gigabytes * 1e9))
    logging.info("%s -> %s (%s, %s)", config.source, destination, config.format, dtype)
