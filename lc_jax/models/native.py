"""Native checkpoints: parameters in Orbax's sharded format beside the same config.json and tokenizer files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from lc_jax.models import folders
from lc_jax.models.registry import abstract
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
    with ocp.StandardCheckpointer() as checkpointer:
        return model.with_params(checkpointer.restore((Path(path) / folders.NATIVE).resolve(), model.params))


def save(path: str | Path, model: Model, *, tokenizer: Any = None) -> None:
    """Writes a native folder; it appears only when it is whole."""
    with folders.new_folder(Path(path)) as folder:
        folders.write_configs(folder, model, model.config.param_dtype, tokenizer)
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save((folder / folders.NATIVE).resolve(), model.params)
