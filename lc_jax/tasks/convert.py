"""Copies a checkpoint between layouts, or adds a weight difference to its base, or makes one from two checkpoints."""

from __future__ import annotations

from pathlib import Path

import jax
from absl import logging
from ml_collections import ConfigDict

from lc_jax.data.tokenizer import load_tokenizer
from lc_jax.models import classification, difference, folders, hf, hub, native

RECORD, RECORD_AT_END = "{destination}/run.json", True

FORMATS = ("hf", "native", "sequence_classification")


def run(config: ConfigDict, mesh: jax.sharding.Mesh) -> None:
    """Reads `config.source` and writes `config.destination` as `config.format`.

    With `config.base` the source is a weight difference, and base + source is written; with `make_difference` as well,
    source - base. Whatever is done, one parameter of the checkpoint is in memory at a time.

    Raises:
      ValueError: the format is unknown, or a weight difference does not fit its base.
      FileExistsError: the destination is there already.
    """
    if config.format not in FORMATS:
        raise ValueError(f"--config.format={config.format!r}: give one of {FORMATS}.")
    if config.make_difference and not config.base:
        raise ValueError("--config.make_difference needs --config.base: the checkpoint that is subtracted.")
    if config.base and config.format != "hf":
        raise ValueError("A weight difference is recovered as format 'hf'; convert the result in a second step.")
    destination, shard_bytes = Path(config.destination), int(config.shard_gigabytes * 1e9)
    if destination.exists():
        raise FileExistsError(f"{destination} exists already; give another --config.destination or remove it.")
    folders.check(config.source, allow_difference=bool(config.base) and not config.make_difference)
    if config.base:
        folders.check(config.base)
    if config.base:
        base, source = folders.resolve(config.base), Path(config.source)
        if not source.is_dir():
            source = hub.download(config.source)  # the difference itself
        combine = difference.make if config.make_difference else difference.recover
        combine(base, source, destination, dtype=config.dtype, max_shard_bytes=shard_bytes)
        logging.info("%s and %s -> %s", config.base, config.source, destination)
        return
    source = folders.resolve(config.source)
    layout = native if native.is_native(source) else hf
    dtype = config.dtype or layout.stored_dtype(source)
    _, kind = folders.config_of(source)
    model, arrays = layout.read(source, mesh, kind=kind, param_dtype=dtype, compute_dtype=dtype)
    if config.format == "native":
        native.save(destination, model, arrays=arrays, tokenizer=source)
    elif config.format == "sequence_classification":
        tokenizer = load_tokenizer(source, need_text=False)
        pad_id = tokenizer.pad_id if (tokenizer.pad_id or 0) < model.config.vocab_size else None
        if pad_id is None:
            logging.warning("%s has no padding token of its own: transformers scores one row at a time", source)
        classification.save(
            destination, model, arrays=arrays, tokenizer=source, pad_id=pad_id, max_shard_bytes=shard_bytes
        )
    else:
        hf.save(destination, model, arrays=arrays, tokenizer=source, max_shard_bytes=shard_bytes)
    logging.info("%s -> %s (%s, %s)", config.source, destination, config.format, dtype)
