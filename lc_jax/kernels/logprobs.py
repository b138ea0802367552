"""Log-probabilities and entropies straight from hidden states, without an array of B x T x V."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

CHUNK_TOKENS = 8192  # tokens whose logits exist at once


def _chunk(
    hidden: Float[Array, "B C D"],
    targets: Int[Array | np.ndarray, "B C"],
    head: Float[Array, "D V"],
    temperature: Float[Array, ""],
) -> tuple[Float[Array, "B C"], Float[Array, "B C"]]:
    logits = jnp.einsum("bcd,dv->bcv", hidden, head, preferred_element_type=jnp.float32) / temperature
    normalizer = jax.nn.logsumexp(logits, axis=-1)
    chosen = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    entropy = normalizer - jnp.sum(jnp.exp(logits - normalizer[..., None]) * logits, axis=-1)
    return chosen - normalizer, entropy


def token_logprobs(
    hidden: Float[Array, "B T D"],
    head: Float[Array, "D V"],
    targets: Int[Array | np.ndarray, "B T"],
    temperature: Float[Array, ""],
) -> tuple[Float[Array, "B T"], Float[Array, "B T"]]:
    """log softmax(hidden @ head / temperature)[target] and the entropy of that distribution, both float32 nats.

    The matmul runs in the inputs' dtype and accumulates in float32. Logits exist for one chunk of about CHUNK_TOKENS
    tokens at a time, forward and backward (each chunk is computed again for its gradient).
    """
    batch, length, _ = hidden.shape
    count = min(length, -(-batch * length // CHUNK_TOKENS))
    if count <= 1:
        return _chunk(hidden, targets, head, temperature)
    size = -(-length // count)  # as even as can be, so that little padding is computed
    count = -(-length // size)
    padding = ((0, 0), (0, count * size - length))
    hidden = jnp.pad(hidden, (*padding, (0, 0))).reshape(batch, count, size, -1).swapaxes(0, 1)
    targets = jnp.pad(targets, padding).reshape(batch, count, size).swapaxes(0, 1)
    part = jax.checkpoint(functools.partial(_chunk, head=head, temperature=temperature))
    _, outs = jax.lax.scan(lambda carry, xs: (carry, part(*xs)), None, (hidden, targets))
    logprobs, entropies = (x.swapaxes(0, 1).reshape(batch, -1)[:, :length] for x in outs)
    return logprobs, entropies
