"""Native checkpoints: each parameter an Orbax array of its own, beside the same config.json and tokenizer files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from lc_jax.models import folders, layout
from lc_jax.models.registry import abstract, flat
from lc_jax.models.transformer import Model


def is_native(path: str | Path) -> bool:
    """Whether `path` was written by `save`."""
    return (Path(path) / layout.NATIVE).is_dir()


def stored_dtype(path: str | Path) -> str:
    """The dtype that the parameters were saved in."""
    return folders.read_config(Path(path))["dtype"]


def read(
    path: str | Path, mesh: jax.sharding.Mesh, *, kind: str, **precision: str
) -> tuple[Model, Iterator[jax.Array]]:
    """The abstract model of a checkpoint, and its parameters in order, each read when it is drawn.

    Raises:
      FileNotFoundError: it is not there.
      ValueError: a parameter holds NaN or infinities (when it is drawn).
    """
    folders.check(path)
    config, _ = folders.config_of(path, **precision)
    model = abstract(config, kind, mesh)

    def arrays() -> Iterator[jax.Array]:
        with ocp.StandardCheckpointer() as checkpointer:
            for name, leaf in flat(model.params):
                value = checkpointer.restore(_place(Path(path), name), {"value": leaf})["value"]
                if not jnp.all(jnp.isfinite(value)):
                    raise ValueError(f"{path}: {'.'.join(name)} holds NaN or infinities; take an earlier checkpoint.")
                yield value

    return model, arrays()


def save(path: str | Path, model: Model, *, arrays: Iterable[jax.Array] | None = None, tokenizer: Any = None) -> None:
    """Writes a native folder, parameter by parameter; it appears only when it is whole.

    Args:
      arrays: the parameters of an abstract `model` in order, drawn one at a time (see `hf.read`); default its own.
      tokenizer: as in `hf.save`.
    """
    names = [name for name, _ in flat(model.params)]
    with layout.new_folder(Path(path), together=True) as folder, ocp.StandardCheckpointer() as checkpointer:
        if jax.process_index() == 0:
            folders.write_configs(folder, model, model.config.param_dtype, tokenizer)
        (folder / layout.NATIVE).mkdir(exist_ok=True)
        for name, array in zip(names, jax.tree.leaves(model.params) if arrays is None else arrays, strict=True):
            checkpointer.save(_place(folder, name), {"value": array})
            checkpointer.wait_until_finished()  # one parameter at a time: Orbax holds two copies of what it writes


def _place(folder: Path, name: tuple[str, ...]) -> Path:
    return (folder / layout.NATIVE / ".".join(name)).resolve()
