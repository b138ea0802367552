"""The key/value cache of generation."""

from __future__ import annotations

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


@flax.struct.dataclass
class Cache:
    """Keys and values of the slots so far.

    Shallow models have an array [B G S K] for each layer: CPUs would copy a layer out of a larger one for every token.
    Deep ones have a single [L B G S K].
    """

    keys: tuple[Float[Array, "*L B G S K"], ...]
    values: tuple[Float[Array, "*L B G S K"], ...]
    common: Cache | None = None  # of the tokens that stand before slot 0 of every row; B = 1, all its slots are real

    @property
    def length(self) -> int:
        """Slots of a row."""
        return self.keys[0].shape[-2]

    @property
    def num_common(self) -> int:
        """Tokens before slot 0."""
        return self.common.length if self.common else 0

    def grow(self, length: int) -> Cache:
        """The same slots with room for `length` in all."""

        def wider(x: jax.Array) -> jax.Array:
            return jnp.pad(x, [(0, 0)] * (x.ndim - 2) + [(0, length - self.length), (0, 0)])

        if length == self.length:
            return self
        keys, values = jax.tree.map(wider, (self.keys, self.values))
        return Cache(keys, values, self.common)
