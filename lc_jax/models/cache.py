"""The key/value cache of generation and of shared prefixes. How keys and values are stored is known here alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from lc_jax import parallel
from lc_jax.kernels.attention import KeysValues


@flax.struct.dataclass
class LayerCache:
    """One layer of a Cache."""

    keys: Float[Array, "*L B G S K"]
    values: Float[Array, "*L B G S K"]
    layer: Int[Array, ""] | None  # place in the first dimension; None where the arrays are of this layer alone
    prefix: KeysValues | None  # of the shared prefix

    def write(self, keys: Float[Array, "B T G K"], values: Float[Array, "B T G K"], position: Any) -> LayerCache:
        """Returns the cache with keys and values at `position` and the T - 1 after it."""

        def update(array: jax.Array, new: jax.Array) -> jax.Array:
            new, start = new.swapaxes(1, 2).astype(array.dtype), (0, 0, position, 0)
            if self.layer is None:
                return jax.lax.dynamic_update_slice(array, new, start)
            return jax.lax.dynamic_update_slice(array, new[None], (self.layer, *start))

        return dataclasses.replace(self, keys=update(self.keys, keys), values=update(self.values, values))

    def read(self) -> KeysValues:
        """Returns keys and values of all positions, [B G S K] each."""
        if self.layer is None:
            return self.keys, self.values
        return self.keys[self.layer], self.values[self.layer]


Step = Callable[[jax.Array, Any, LayerCache], tuple[jax.Array, LayerCache]]  # (x, parameters of a layer, its cache)


@flax.struct.dataclass
class Cache:
    """Keys and values of all layers at the positions so far.

    There is an array [B G S K] per layer on CPUs, which would copy a layer out of a larger one for every token, and for
    shallow models; otherwise a single [L B G S K].
    """

    keys: tuple[Float[Array, "*L B G S K"], ...]
    values: tuple[Float[Array, "*L B G S K"], ...]
    prefix: Cache | None = None  # of the shared prefix: tokens before position 0 of every row; B = 1, no padding

    @classmethod
    def empty(cls, shape: tuple[int, int, int, int, int], dtype: Any, *, per_layer: bool) -> Cache:
        """Returns a cache of zeros.

        Args:
          shape: layers, rows, key/value heads, positions, head size.
          per_layer: an array for each layer, in place of one for all.
        """
        count, *rest = shape
        lead = () if per_layer else (count,)
        zeros = parallel.constrain(jnp.zeros((*lead, *rest), dtype), *(None,) * len(lead), "batch", "heads", None, None)
        arrays = (zeros,) * (count if per_layer else 1)
        return cls(arrays, arrays)

    @property
    def length(self) -> int:
        """Positions of a row."""
        return self.keys[0].shape[-2]

    @property
    def prefix_length(self) -> int:
        """Tokens of the shared prefix."""
        return self.prefix.length if self.prefix else 0

    @property
    def is_per_layer(self) -> bool:
        """Returns whether each layer has arrays of its own."""
        return self.keys[0].ndim == 4

    def stacked(self) -> KeysValues:
        """Returns keys and values of all layers, [L B G S K] each."""
        keys, values = (jnp.stack(x) if self.is_per_layer else x[0] for x in (self.keys, self.values))
        return keys, values

    def apart(self) -> Cache:
        """Returns the same contents with an array for each layer."""
        return self if self.is_per_layer else Cache(tuple(self.keys[0]), tuple(self.values[0]), self.prefix)

    def grow(self, length: int) -> Cache:
        """Returns the same contents with room for `length` positions in all."""

        def pad(x: jax.Array) -> jax.Array:
            return jnp.pad(x, [(0, 0)] * (x.ndim - 2) + [(0, length - self.length), (0, 0)])

        if length == self.length:
            return self
        keys, values = jax.tree.map(pad, (self.keys, self.values))
        return Cache(keys, values, self.prefix)

    def repeat(self, count: int) -> Cache:
        """Returns a cache of `count` times as many rows, the copies of a row next to each other."""

        def copy(x: jax.Array) -> jax.Array:
            return jnp.repeat(x, count, axis=x.ndim - 4)

        if count == 1:
            return self
        keys, values = jax.tree.map(copy, (self.keys, self.values))
        return Cache(keys, values, self.prefix)

    def scan(self, step: Step, x: jax.Array, params: Any) -> tuple[jax.Array, Cache]:
        """Runs x, layer = step(x, parameters of a layer, layer) over all layers.

        The cache is carried and updated in place: as inputs and outputs of a scan it would be copied for every token.

        Args:
          params: stacked by layer; where each layer has arrays of its own, a list of the parameters of each.
        """
        if not self.is_per_layer:

            def body(carry: tuple, inputs: tuple) -> tuple[tuple, None]:
                (x, keys, values), (layer_params, index, prefix) = carry, inputs
                x, layer = step(x, layer_params, LayerCache(keys, values, index, prefix))
                return (x, layer.keys, layer.values), None

            prefixes = (self.prefix.keys[0], self.prefix.values[0]) if self.prefix else None
            count = jax.tree.leaves(params)[0].shape[0]
            layers = (params, jnp.arange(count), prefixes)
            (x, keys, values), _ = jax.lax.scan(body, (x, self.keys[0], self.values[0]), layers)
            return x, Cache((keys,), (values,), self.prefix)
        all_keys, all_values = [], []
        for i in range(len(self.keys)):
            prefix = (self.prefix.keys[i], self.prefix.values[i]) if self.prefix else None
            x, layer = step(x, params[i], LayerCache(self.keys[i], self.values[i], None, prefix))
            all_keys.append(layer.keys)
            all_values.append(layer.values)
        return x, Cache(tuple(all_keys), tuple(all_values), self.prefix)
