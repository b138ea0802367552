"""Copies a checkpoint, a GGUF file or a step of a training run to another layout; adds or makes weight differences."""

from __future__ import annotations

import os
from pathlib import Path

import jax
from absl import logging
from ml_collections import ConfigDict

from lc_jax.data import gguf_tokenizer
from lc_jax.data.tokenizer import Tokenizer, load_tokenizer
from lc_jax.models import adapters, classification, difference, folders, hf, hub
from lc_jax.models.config import DTYPES
from lc_jax.models.params import NamedArrays
from lc_jax.models.transformer import Model
from lc_jax.preflight import POSITIVE, check_all, check_settings
from lc_jax.training import run_steps

RECORD, RECORD_AT_END = "{destination}/run.json", True

FORMATS = ("hf", "sequence_classification")


def check(config: ConfigDict) -> None:
    """Checks settings and folders, and reports all problems at once."""

    def difference_settings() -> None:
        if config.make_difference and not config.base:
            raise ValueError("--config.make_difference needs --config.base: the checkpoint that is subtracted.")
        if config.base and config.format != "hf":
            raise ValueError("A weight difference is recovered as format 'hf'; convert the result in a second step.")
        for name in ("base", "source"):
            if config.base and adapters.is_adapter(Path(config[name])):
                raise ValueError(
                    f"--config.{name}={config[name]} is an adapter, of which no weight difference is made: merge it "
                    f"first by `lc_jax convert --source={config[name]} --destination=FOLDER`."
                )

    def destination() -> None:
        if os.path.lexists(config.destination):
            raise FileExistsError(
                f"{config.destination} exists already; give another --config.destination or remove it."
            )

    def source() -> None:
        if folders.is_gguf(config.source) and not config.base:
            gguf_tokenizer.open_gguf(config.source)
            kind = "causal"
        elif run_steps.is_step(config.source) and not config.base:
            step = run_steps.find(config.source)
            kind = step.kind
            if needs_scalar and step.lora is not None:
                raise ValueError(
                    f"--config.source={config.source} is a step of a training of adapters, which "
                    "--config.format=sequence_classification does not merge: convert it with --config.format=hf first, "
                    "and the result in a second step."
                )
        else:
            _check_is_no_run(config.source)
            folders.check(config.source, allow_difference=bool(config.base) and not config.make_difference)
            kind = folders.config_of(config.source)[1] if needs_scalar and Path(config.source).is_dir() else "scalar"
        if needs_scalar and kind != "scalar":
            raise ValueError(
                f"--config.source={config.source} is a language model; --config.format=sequence_classification takes a "
                "reward model."
            )

    needs_scalar = config.format == "sequence_classification" and not config.base
    check_all(
        lambda: check_settings("", config, format=FORMATS, dtype=("", *DTYPES), shard_gigabytes=POSITIVE),
        difference_settings,
        destination,
        source,
        lambda: folders.check(*filter(None, [config.base])),
    )


def _check_is_no_run(source: str) -> None:
    """Checks that the source is not the folder of a training run, which holds several models."""
    steps = run_steps.steps(Path(source))
    if steps:
        raise ValueError(
            f"--config.source={source} is a training run: give {source}/model, or {source}/{run_steps.FOLDER}/STEP of "
            f"{', '.join(map(str, steps))}."
        )


def _read(config: ConfigDict, mesh: jax.sharding.Mesh) -> tuple[Model, NamedArrays | None, Path | Tokenizer]:
    """Loads the model of `config.source`, its arrays if they are read lazily, and its tokenizer or the folder of it."""
    if folders.is_gguf(config.source):
        file, tokenizer = gguf_tokenizer.open_gguf(config.source)
        return *file.read(mesh, config.dtype or file.dtype()), tokenizer
    if run_steps.is_step(config.source):
        step = run_steps.find(config.source)
        tokenizer = step.tokenizer()
        return step.model(mesh, tokenizer, config.dtype or step.dtype), None, tokenizer
    source = folders.resolve(config.source)
    dtype = config.dtype or hf.stored_dtype(source)
    _, kind = folders.config_of(source)
    return *hf.read(source, mesh, kind=kind, param_dtype=dtype, compute_dtype=dtype), folders.text_folder(source)


def run(config: ConfigDict, mesh: jax.sharding.Mesh) -> None:
    """Reads `config.source` and writes `config.destination` as `config.format`.

    With `config.base` the source is a weight difference, and base + source is written; with `make_difference` as well,
    source - base. One parameter of the checkpoint is in memory at a time; of a step RUN/checkpoints/STEP of a training
    run all of them are, over the mesh. Its folder is what that run's own export would be.

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
    model, arrays, text_files = _read(config, mesh)
    if config.format == "sequence_classification":
        tokenizer = load_tokenizer(text_files, need_text=False) if isinstance(text_files, Path) else text_files
        pad_id = tokenizer.pad_id if (tokenizer.pad_id or 0) < model.config.vocab_size else None
        if pad_id is None:
            logging.warning("%s has no padding token of its own: transformers scores one row at a time", config.source)
        classification.save(
            destination, model, arrays=arrays, tokenizer=text_files, pad_id=pad_id, max_shard_bytes=shard_bytes
        )
    else:
        hf.save(destination, model, arrays=arrays, tokenizer=text_files, max_shard_bytes=shard_bytes)
    logging.info("%s -> %s (%s, %s)", config.source, destination, config.format, model.config.param_dtype)
