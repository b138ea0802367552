"""Native checkpoints: parameters in Orbax's sharded format beside the same config.json and tokenizer files."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from lc_jax.models import folders
from lc_jax.models.registry import abstract, flat
from lc_jax.models.transformer import Model


def is_native(path: str | Path) -> bool:
    """Whether `path` was written by `save`."""
    return (Path(path) / folders.NATIVE).is_dir()


def stored_dtype(path: str | Path) -> str:
    """The dtype that the parameters were saved in."""
    return folders.read_config(Path(path))["dtype"]


def load(path: str | Path, mesh: jax.sharding.Mesh, *, kind: str, **precision: str) -> Model:
    """The checkpoint at `path`, each shard read straight to its device.

    Raises:
      FileNotFoundError: it is not there.
    """
    folders.check(path)
    config, _ = folders.config_of(path, **precision)
    model = abstract(config, kind, mesh)
    with _checkpointer(model) as checkpointer:
        arrays = (Path(path) / folders.NATIVE).resolve()
        return model.with_params(checkpointer.restore(arrays, args=ocp.args.StandardRestore(model.params)))


def save(path: str | Path, model: Model, *, tokenizer: Any = None) -> None:
    """Writes a native folder; it appears only when it is whole."""
    with folders.new_folder(Path(path)) as folder:
        folders.write_configs(folder, model, model.config.param_dtype, tokenizer)
        with _checkpointer(model) as checkpointer:
            checkpointer.save((folder / folders.NATIVE).resolve(), args=ocp.args.StandardSave(model.params))


def _checkpointer(model: Model) -> ocp.Checkpointer:
    """Orbax with about one parameter in flight: left alone it holds a second copy of all of them."""
    largest = max(leaf.size * leaf.dtype.itemsize for _, leaf in flat(model.params))
    gigabytes = max(1, math.ceil(1.05 * largest / 1e9))
    return ocp.Checkpointer(
        ocp.StandardCheckpointHandler(save_concurrent_gb=gigabytes, restore_concurrent_gb=gigabytes)
    )
