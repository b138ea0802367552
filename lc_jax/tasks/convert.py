"""Copies a checkpoint between layouts, or adds a weight difference to its base, or makes one from two checkpoints."""

from __future__ import annotations

import os
from pathlib import Path

import jax
from absl import logging
from ml_collections import ConfigDict

from lc_jax.data.tokenizer import load_tokenizer
from lc_jax.models import classification, difference, folders, hf, hub, native
from lc_jax.models.transformer import DTYPES
from lc_jax.preflight import POSITIVE, check_all, check_settings

RECORD, RECORD_AT_END = "{destination}/run.json", True

FORMATS = ("hf", "native", "sequence_classification")


def check(config: ConfigDict) -> None:
    """Refuses settings and folders that nothing can be converted with, all of them at once."""

    def difference_settings() -> None:
        if config.make_difference and not config.base:
            raise ValueError("--config.make_difference needs --config.base: the checkpoint that is subtracted.")
        if config.base and config.format != "hf":
            raise ValueError("A weight difference is recovered as format 'hf'; convert the result in a second step.")

    def destination() -> None:
        if os.path.lexists(config.destination):
            raise FileExistsError(
                f"{config.destination} exists already; give another --config.destination or remove it."
            )

    def source() -> None:
        folders.check(config.source, allow_difference=bool(config.base) and not config.make_difference)
        is_classification = config.format == "sequence_classification" and Path(config.source).is_dir()
        if is_classification and not config.base and folders.config_of(config.source)[1] != "scalar":
            raise ValueError(
                f"--config.source={config.source} is a language model; --config.format=sequence_classification takes a "
                "reward model."
            )

    check_all(
        lambda: check_settings("", config, format=FORMATS, dtype=("", *DTYPES), shard_gigabytes=POSITIVE),
        difference_settings,
        destination,
        source,
        lambda: folders.check(*filter(None, [config.base])),
    )


def run(config: ConfigDict, mesh: jax.sharding.Mesh) -> None:
    """Reads `config.source` and writes `config.destination` as `config.format`.

    With `config.base` the source is a weight difference, and base + source is written; with `make_difference` as well,
    source - base. Whatever is done, one parameter of the checkpoint is in memory at a time.

    Raises:
      Problems: as in `check`; a folder that exists is never overwritten.
      ValueError: a weight difference does not fit its base.
    """
    check(config)
    destination, shard_bytes = Path(config.destination), int(config.shard_gigabytes * 1e9)
    if config.base:
        base, source = folders.resolve(config.base), Path(config.source)
        if not source.is_dir():
            source = hub.download(config.source)  # the difference itself
        settings = {"dtype": config.dtype, "max_shard_bytes": shard_bytes}
        if config.make_difference:
            difference.make(base, source, destination, **settings)
        else:
            difference.recover(base, source, destination, name=Path(config.source).name, **settings)
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
