"""bfloat16 arrays as integers with the same bits, where they are only moved.

XLA's CPU compiler slices and gathers bfloat16 arrays in float32: it converts the stack of all layers for each batch,
and each slice back. It moves integers as they are. There is no gradient, so that this is for inference alone. On other
platforms arrays stay what they are.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp


def to_bits(tree: Any) -> Any:
    """Returns a tree of arrays with those in bfloat16 as uint16 on CPUs; everything else is unchanged."""

    def convert(x: jax.Array) -> jax.Array:
        is_converted = x.dtype == jnp.bfloat16 and jax.default_backend() == "cpu"
        return jax.lax.bitcast_convert_type(x, jnp.uint16) if is_converted else x

    return jax.tree.map(convert, tree)


def from_bits(tree: Any) -> Any:
    """Inverts `to_bits`, for trees without uint16 arrays of their own."""

    def convert(x: jax.Array) -> jax.Array:
        return jax.lax.bitcast_convert_type(x, jnp.bfloat16) if x.dtype == jnp.uint16 else x

    return jax.tree.map(convert, tree)
