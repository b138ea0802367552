"""Attention over rows whose real tokens are one contiguous span: the whole sequence, or one new token over a cache.

The whole sequence's has several forms behind one function; forms.py says which runs where. Any other mask, and rows
that all stand behind the same tokens, go through plain XLA.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu import splash_attention
from jaxtyping import Array, Bool, Float, Int

Common = tuple[Float[Array, "1 G C K"], Float[Array, "1 G C K"]]  # keys and values

MASKED = -1e30  # finite, so that a row without any key has no NaN
BLOCK, MAX_BLOCKS = 32, 8  # queries of a block at the least, and blocks of a sequence at the most: they are unrolled
LANES = 128  # of a TPU: splash attention's blocks


def _weigh(scores: Float[Array, "*A S"], mask: Bool[Array, "*#A S"], dtype: jnp.dtype) -> Float[Array, "*A S"]:
    """Softmax over allowed keys in float32; all zeros where there is none."""
    probs = jax.nn.softmax(jnp.where(mask, scores, MASKED), axis=-1)
    return jnp.where(mask, probs, 0.0).astype(dtype)


def _over(
    q: Float[Array, "B T G R K"],
    keys: Float[Array, "B G S K"],
    values: Float[Array, "B G S K"],
    mask: Bool[Array, "#B T S"],
    scale: float,
    common: Common | None,
) -> Float[Array, "B T G R K"]:
    """Over the keys that `mask` allows, and everything that is `common`: what all rows stand behind, held once."""
    product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
    scores, mask = product("btgrk,bgsk->bgrts", q, keys) * scale, mask[:, None, None]
    if common is None:
        return jnp.einsum("bgrts,bgsk->btgrk", _weigh(scores, mask, values.dtype), values)
    before = product("btgrk,gck->bgrtc", q, common[0][0]) * scale
    count = before.shape[-1]
    mask = jnp.pad(mask, [(0, 0)] * 4 + [(count, 0)], constant_values=True)
    probs = _weigh(jnp.concatenate([before, scores], axis=-1), mask, values.dtype)
    # Not with a float32 result: XLA's CPU compiler has no such product of bfloat16.
    out = jnp.einsum("bgrtc,gck->btgrk", probs[..., :count], common[1][0])
    return out + jnp.einsum("bgrts,bgsk->btgrk", probs[..., count:], values)


def _mask(spans: Int[Array, "B 2"] | None, start: int, end: int) -> Bool[Array, "#B t s"]:
    """Which of the keys 0 <= s < end the queries start <= t < end see."""
    keys = jnp.arange(end)
    causal = (keys[None, :] <= jnp.arange(start, end)[:, None])[None]
    return causal if spans is None else causal & ((keys >= spans[:, :1]) & (keys < spans[:, 1:]))[:, None, :]


def masked_attention(
    q: Float[Array, "B T H K"],
    k: Float[Array, "B S G K"],
    v: Float[Array, "B S G K"],
    mask: Bool[Array, "#B T S"],
    scale: float,
) -> Float[Array, "B T H K"]:
    """Attention with grouped heads over the keys that `mask` allows; plain XLA on every platform."""
    grouped = q.reshape(*q.shape[:2], k.shape[2], -1, q.shape[3])
    return _over(grouped, k.swapaxes(1, 2), v.swapaxes(1, 2), mask, scale, None).reshape(q.shape)


def _portable(q: jax.Array, k: jax.Array, v: jax.Array, spans: jax.Array | None, scale: float) -> jax.Array:
    return masked_attention(q, k, v, _mask(spans, 0, q.shape[1]), scale)


# --- by blocks of queries: scores above the diagonal are not computed, and none is kept for the backward pass ---


def _blocks(length: int) -> Iterator[tuple[int, int]]:
    """(first query, past the last), a few blocks of equal size; the queries of one see no key past its end."""
    size = max(BLOCK, -(-length // MAX_BLOCKS))
    return ((start, min(start + size, length)) for start in range(0, length, size))


def _scores(
    q: Float[Array, "B G R t K"],
    k: Float[Array, "B G s K"],
    mask: Bool[Array, "#B t s"],
    scale: float,
) -> Float[Array, "B G R t s"]:
    scores = jnp.einsum("bgrtk,bgsk->bgrts", q, k, preferred_element_type=jnp.float32) * scale
    return jnp.where(mask[:, None, None], scores, MASKED)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _by_blocks(
    q: Float[Array, "B G R T K"],
    k: Float[Array, "B G T K"],
    v: Float[Array, "B G T K"],
    spans: Int[Array, "B 2"] | None,
    scale: float,
) -> Float[Array, "B G R T K"]:
    return _by_blocks_forward(q, k, v, spans, scale)[0]


def _by_blocks_forward(
    q: jax.Array, k: jax.Array, v: jax.Array, spans: jax.Array | None, scale: float
) -> tuple[jax.Array, tuple[jax.Array | None, ...]]:
    """Keeps the logarithm of each query's normaliser, from which the backward pass makes the weights again."""
    outs, normalizers = [], []
    for start, end in _blocks(q.shape[3]):
        scores = _scores(q[:, :, :, start:end], k[:, :, :end], _mask(spans, start, end), scale)
        top = jnp.max(scores, axis=-1, keepdims=True)
        weights = jnp.exp(scores - top)
        total = jnp.sum(weights, axis=-1, keepdims=True)
        sees = top > MASKED / 2
        values = v[:, :, :end]
        out = jnp.einsum("bgrts,bgsk->bgrtk", weights.astype(v.dtype), values, preferred_element_type=jnp.float32)
        outs.append(jnp.where(sees, out / total, 0.0).astype(q.dtype))
        normalizers.append(jnp.where(sees, top + jnp.log(total), -MASKED))
    out, normalizer = jnp.concatenate(outs, axis=3), jnp.concatenate(normalizers, axis=3)
    return out, (q, k, v, spans, out, normalizer)


def _by_blocks_backward(scale: float, saved: tuple, given: jax.Array) -> tuple[jax.Array | None, ...]:
    q, k, v, spans, out, normalizer = saved
    product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
    # Softmax takes the mean of its gradient away, which is the same as the output's product with its own.
    mean = product("bgrtk,bgrtk->bgrt", given, out)[..., None]
    by_q, by_k, by_v = [], jnp.zeros(k.shape, jnp.float32), jnp.zeros(v.shape, jnp.float32)
    for start, end in _blocks(q.shape[3]):
        queries, back = q[:, :, :, start:end], given[:, :, :, start:end]
        scores = _scores(queries, k[:, :, :end], _mask(spans, start, end), scale)
        weights = jnp.exp(scores - normalizer[:, :, :, start:end])
        by_weights = product("bgrtk,bgsk->bgrts", back, v[:, :, :end])
        by_scores = (weights * (by_weights - mean[:, :, :, start:end]) * scale).astype(k.dtype)
        by_q.append(product("bgrts,bgsk->bgrtk", by_scores, k[:, :, :end]))
        by_k = by_k.at[:, :, :end].add(product("bgrts,bgrtk->bgsk", by_scores, queries))
        by_v = by_v.at[:, :, :end].add(product("bgrts,bgrtk->bgsk", weights.astype(v.dtype), back))
    return jnp.concatenate(by_q, axis=3).astype(q.dtype), by_k.astype(k.dtype), by_v.astype(v.dtype), None


_by_blocks.defvjp(_by_blocks_forward, _by_blocks_backward)


def _blocked(q: jax.Array, k: jax.Array, v: jax.Array, spans: jax.Array | None, scale: float) -> jax.Array:
    (batch, length, heads, size), groups = q.shape, k.shape[2]
    q = q.reshape(batch, length, groups, heads // groups, size).transpose(0, 2, 3, 1, 4)
    out = _by_blocks(q, k.swapaxes(1, 2), v.swapaxes(1, 2), spans, scale)
    return out.transpose(0, 3, 1, 2, 4).reshape(batch, length, heads, size)


# --- fused kernels, for rows that begin at slot 0: the causal mask alone keeps padding away from real tokens ---


def _without_padding(out: Float[Array, "B T H K"], spans: Int[Array, "B 2"] | None) -> Float[Array, "B T H K"]:
    """Zeros past each row's end: what kernels leave there is not promised."""
    if spans is None:
        return out
    return jnp.where((jnp.arange(out.shape[1]) < spans[:, 1:])[..., None, None], out, 0)


def _cudnn(q: jax.Array, k: jax.Array, v: jax.Array, spans: jax.Array | None, scale: float) -> jax.Array:
    lengths = None if spans is None else jnp.maximum(spans[:, 1], 1)  # a row without keys would have no softmax
    out = jax.nn.dot_product_attention(
        q,
        k,
        v,
        scale=scale,
        is_causal=True,
        query_seq_lengths=lengths,
        key_value_seq_lengths=lengths,
        implementation="cudnn",
    )
    return _without_padding(out, spans)


def _splash(q: jax.Array, k: jax.Array, v: jax.Array, spans: jax.Array | None, scale: float) -> jax.Array:
    length, size = q.shape[1], q.shape[3]
    padding = ((0, 0), (0, 0), (0, -length % LANES), (0, -size % LANES))
    q, k, v = (jnp.pad(x.swapaxes(1, 2), padding) for x in (q * jnp.asarray(scale, q.dtype), k, v))
    mask = splash_attention.MultiHeadMask([splash_attention.CausalMask((q.shape[2],) * 2)] * q.shape[1])
    kernel = splash_attention.make_splash_mha_single_device(mask, interpret=jax.default_backend() == "cpu")
    return _without_padding(jax.vmap(kernel)(q, k, v).swapaxes(1, 2)[:, :length, :, :size], spans)


FORMS: dict[str, Callable[..., jax.Array]] = {
    "portable": _portable,
    "blocked": _blocked,
    "cudnn": _cudnn,
    "splash": _splash,
}


def attention(
    q: Float[Array, "B T H K"],
    k: Float[Array, "B T G K"],
    v: Float[Array, "B T G K"],
    spans: Int[Array, "B 2"] | None,
    scale: float,
    form: str = "portable",
) -> Float[Array, "B T H K"]:
    """Causal attention with grouped heads: query i sees key j when j <= i and j lies in its row's span.

    Query head h reads key/value head h // (H // G). Scores and softmax are float32. Rows of queries that see no key
    are zero.

    Args:
      form: as `forms.attention_form` gives it. "cudnn" and "splash" need spans that begin at slot 0.
    """
    return FORMS[form](q, k, v, spans, scale)


# --- over a cache ---


def prefill_attention(
    q: Float[Array, "B T H K"],
    k: Float[Array, "B T G K"],
    v: Float[Array, "B T G K"],
    spans: Int[Array, "B 2"],
    scale: float,
    common: Common,
) -> Float[Array, "B T H K"]:
    """`attention` of rows that all stand behind the same tokens."""
    grouped, mask = q.reshape(*k.shape[:3], -1, k.shape[3]), _mask(spans, 0, q.shape[1])
    return _over(grouped, k.swapaxes(1, 2), v.swapaxes(1, 2), mask, scale, common).reshape(q.shape)


def decode_attention(
    q: Float[Array, "B H K"],
    keys: Float[Array, "B G S K"],
    values: Float[Array, "B G S K"],
    starts: Int[Array, " B"],
    end: Int[Array, ""],
    scale: float,
    common: Common | None = None,
) -> Float[Array, "B H K"]:
    """One query a row over the cache slots starts[b] <= s < end, and over everything that is `common`."""
    slots = jnp.arange(keys.shape[2])
    mask = ((slots >= starts[:, None]) & (slots < end))[:, None]
    grouped = q.reshape(len(q), 1, keys.shape[1], -1, q.shape[2])
    return _over(grouped, keys, values, mask, scale, common).reshape(q.shape)
