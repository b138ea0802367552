"""Layers as generation reads them: on CPUs, and in shallow models, copies of each, which suit products of few rows."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.experimental.layout import Layout, with_layout_constraint
from jaxtyping import Array, Int

from lc_jax.models.config import Config

UNROLL = 8  # up to this many layers, the loop over layers is unrolled; in generation see is_per_layer


def is_per_layer(config: Config) -> bool:
    """Returns whether generation reads each layer, and its keys and values, from arrays of its own.

    Not on CPUs where a deep model is stored in 8 bits: XLA would convert all layers before the decode loop.
    """
    is_int8 = config.lora is not None and config.lora.int8
    return config.num_layers <= UNROLL or (jax.default_backend() == "cpu" and not is_int8)


def layer_copies(stacked: Any, kinds: Int[Array, " L"] | None, config: Config) -> list[tuple[Any, Any]]:
    """Returns parameters and kind of each layer: copies, with transposed kernels [O, I] in the compute dtype.

    In the decode loop, CPUs would copy, and convert, each layer out of the stack for every token. Compilation takes
    longer than that of a scan.

    Args:
      stacked: an nnx.State of all layers, [L ...].
      kinds: number of each layer's kind; None: there is one kind.
    """
    is_sharded = jax.sharding.get_abstract_mesh().size > 1  # the partitioner would gather an array with a set layout

    def take(path: tuple, variable: Any, layer: int) -> Any:
        array = variable[...][layer]
        if path[-1] == "kernel":
            is_float = jnp.issubdtype(array.dtype, jnp.floating)
            array = (array.astype(config.dtype) if is_float else array).T
            # With the default layout, XLA makes two copies, of which the first is not transposed in memory.
            array = array if is_sharded else with_layout_constraint(array, Layout((0, 1)))
        return variable.replace(array)

    flat = nnx.to_flat_state(stacked)
    layers = [
        (nnx.from_flat_state([(path, take(path, x, i)) for path, x in flat]), None if kinds is None else kinds[i])
        for i in range(config.num_layers)
    ]
    return jax.lax.optimization_barrier(layers)  # without it, the copies are made in the loop again
