"""The prefix that all sequences of a call share, such as instructions or few-shot examples: computed once for all."""

from __future__ import annotations

from collections.abc import Sequence

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from lc_jax import parallel
from lc_jax.data import batches
from lc_jax.models.cache import Cache
from lc_jax.models.transformer import Model

MIN_PREFIX = 32  # a shared prefix of fewer tokens is computed with each sequence


@flax.struct.dataclass
class Prefix:
    """Results of a language model for a prefix of C tokens."""

    hidden: Float[Array, "1 C D"]  # after the final norm
    cache: Cache  # [1 G C K] of each layer


def prefix_length(sequences: Sequence[batches.Tokens]) -> int:
    """Returns how many tokens of all sequences to compute once: at least half of each; 0 for none.

    It is a length of `round_down_to_multiple`, so that few shapes are compiled.
    """
    if len(sequences) < 2:
        return 0
    length = batches.round_down_to_multiple(batches.shared_prefix_length(sequences))
    return length if length >= max(MIN_PREFIX, max(map(len, sequences)) - length) else 0


@jax.jit
def _compute(model: Model, tokens: Int[Array, "1 C"]) -> Prefix:
    module = model.bind()
    cache, layers = module.init_cache(1, tokens.shape[1], per_layer=False), module.decoding_layers(per_layer=False)
    hidden, cache = module.prefill(tokens, jnp.zeros(1, jnp.int32), cache, layers)
    return Prefix(hidden, cache.apart() if module.decodes_per_layer else cache)


def compute_prefix(model: Model, tokens: batches.Tokens) -> Prefix:
    """Returns hidden states, keys and values of the tokens that all sequences begin with, in the compute dtype."""
    return _compute(model, parallel.put_batch(np.asarray([tokens], np.int32)))
