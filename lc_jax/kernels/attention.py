"""Attention over rows whose real tokens are one contiguous span: the whole sequence, or one new token over a cache."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

MASKED = -1e30  # finite, so that a row without any key has no NaN


def _weigh(scores: Float[Array, "*A S"], mask: Bool[Array, "*#A S"], dtype: jnp.dtype) -> Float[Array, "*A S"]:
    """Softmax over allowed keys in float32; all zeros where there is none."""
    probs = jax.nn.softmax(jnp.where(mask, scores, MASKED), axis=-1)
    return jnp.where(mask, probs, 0.0).astype(dtype)


def attention(
    q: Float[Array, "B T H K"],
    k: Float[Array, "B T G K"],
    v: Float[Array, "B T G K"],
    spans: Int[Array, "B 2"] | None,
    scale: float,
) -> Float[Array, "B T H K"]:
    """Causal attention with grouped heads: query i sees key j when j <= i and j lies in its row's span.

    Query head h reads key/value head h // (H // G). Scores and softmax are float32. Rows of queries that see no key
    are zero.
    """
    (batch, length, heads, size), groups = q.shape, k.shape[2]
    q = q.reshape(batch, length, groups, heads // groups, size)
    scores = jnp.einsum("btgrk,bsgk->bgrts", q, k, preferred_element_type=jnp.float32) * scale
    slots = jnp.arange(length)
    mask = (slots[None, :] <= slots[:, None])[None]
    if spans is not None:
        mask = mask & ((slots >= spans[:, :1]) & (slots < spans[:, 1:]))[:, None, :]
    probs = _weigh(scores, mask[:, None, None], v.dtype)
    return jnp.einsum("bgrts,bsgk->btgrk", probs, v).reshape(batch, length, heads, size)


def decode_attention(
    q: Float[Array, "B H K"],
    keys: Float[Array, "B G S K"],
    values: Float[Array, "B G S K"],
    starts: Int[Array, " B"],
    end: Int[Array, ""],
    scale: float,
) -> Float[Array, "B H K"]:
    """One query a row over the cache slots starts[b] <= s < end."""
    (batch, heads, size), groups = q.shape, keys.shape[1]
    q = q.reshape(batch, groups, heads // groups, size)
    scores = jnp.einsum("bgrk,bgsk->bgrs", q, keys, preferred_element_type=jnp.float32) * scale
    slots = jnp.arange(keys.shape[2])
    mask = (slots >= starts[:, None]) & (slots < end)
    probs = _weigh(scores, mask[:, None, None], values.dtype)
    return jnp.einsum("bgrs,bgsk->bgrk", probs, values).reshape(batch, heads, size)
