"""Causal attention over padded rows: of the whole sequence, or of one new token over a cache.

The first has several implementations behind one function; dispatch.py chooses among them. Rows with segment ids, and
rows behind a shared prefix, go through plain XLA.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu import splash_attention
from jaxtyping import Array, Bool, Float, Int

KeysValues = tuple[Float[Array, "B G S K"], Float[Array, "B G S K"]]

MASKED = -1e30  # finite, so that a row without any key has no NaN
BLOCK, MAX_BLOCKS = 32, 8  # least queries of a block, and most blocks of a sequence: they are unrolled
LANES = 128  # of a TPU: splash attention's blocks
SHARED_PREFIX, PADDING = 0, -1  # segment ids of tokens that all segments see, and of tokens that none sees


class ScoreScaling(NamedTuple):
    """The function from the product of a query and a key to a score: times `factor`, then c tanh(score / c)."""

    factor: float
    softcap: float | None = None  # c; None: scores are not bounded

    def apply(self, product: Float[Array, "*A"]) -> Float[Array, "*A"]:
        """Computes scores, float32."""
        scores = product * self.factor
        return scores if self.softcap is None else self.softcap * jnp.tanh(scores / self.softcap)

    def slope(self, scores: Float[Array, "*A"]) -> Float[Array, "*A"] | float:
        """Returns the derivative of scores by products, from the scores; without a softcap it is `factor`."""
        return self.factor if self.softcap is None else self.factor * (1 - jnp.square(scores / self.softcap))


@flax.struct.dataclass
class RowMask:
    """Keys that the queries of a row see, besides causality: real tokens, those of their own segment, and the last."""

    starts: Int[Array, " B"] | None = None  # first real position; None: 0
    ends: Int[Array, " B"] | None = None  # past the last real position; None: the row has no padding behind
    # Packed suffixes: a query sees the keys of its own segment and those of SHARED_PREFIX.
    segment_ids: Int[Array, "B T"] | None = None
    window: Int[Array, ""] | int | None = None  # tokens of its sequence that a query sees, itself the last; None: all

    def visible(self, first: int, end: int) -> Bool[Array, "#B t s"]:
        """Returns which of the keys 0 <= s < end the queries first <= t < end see."""
        keys = jnp.arange(end)
        visible = (keys[None, :] <= jnp.arange(first, end)[:, None])[None]
        if self.starts is not None:
            visible = visible & (keys >= self.starts[:, None])[:, None]
        if self.ends is not None:
            visible = visible & (keys < self.ends[:, None])[:, None]
        if self.segment_ids is not None:
            of_keys, of_queries = self.segment_ids[:, None, :end], self.segment_ids[:, first:end, None]
            visible = visible & ((of_keys == SHARED_PREFIX) | (of_keys == of_queries))
        if self.window is not None:  # in columns, but for suffixes, which do not begin behind each other
            places = keys[None] if self.segment_ids is None else self.positions(self.segment_ids.shape[1])
            visible = visible & (places[:, first:end, None] - places[:, None, :end] < self.window)
        return visible

    def visible_at(self, position: Int[Array, ""], length: int) -> Bool[Array, "B 1 s"]:
        """Returns which of `length` keys of a cache the query at `position` sees; rows have `starts` alone."""
        assert self.starts is not None
        keys = jnp.arange(length)
        visible = (keys >= self.starts[:, None]) & (keys <= position)
        return (visible if self.window is None else visible & (position - keys < self.window))[:, None]

    def visible_prefix(self, columns: Int[Array, " t"], count: int) -> Bool[Array, "B t c"] | None:
        """Returns which of the `count` keys of a shared prefix the queries in `columns` see; None: all."""
        if self.window is None:
            return None
        assert self.starts is not None
        positions = columns - self.starts[:, None] + count
        return positions[:, :, None] - jnp.arange(count) < self.window

    def positions(self, length: int) -> Int[Array, "#B T"]:
        """Returns the position of each token in its sequence, and 1 for padding, as in transformers' generation."""
        if self.segment_ids is not None:
            num_visible = jnp.sum(self.replace(window=None).visible(0, length), axis=2)  # type: ignore[attr-defined]
            return jnp.where(self.segment_ids == PADDING, 1, num_visible - 1)
        columns = jnp.arange(length)[None]
        starts = jnp.zeros(1, jnp.int32) if self.starts is None else self.starts
        ends = jnp.full(1, length) if self.ends is None else self.ends
        real = (columns >= starts[:, None]) & (columns < ends[:, None])
        return jnp.where(real, columns - starts[:, None], 1)


def _weigh(scores: Float[Array, "*A S"], mask: Bool[Array, "*#A S"], dtype: jnp.dtype) -> Float[Array, "*A S"]:
    """Computes softmax over allowed keys in float32; all zeros where there is none."""
    probs = jax.nn.softmax(jnp.where(mask, scores, MASKED), axis=-1)
    return jnp.where(mask, probs, 0.0).astype(dtype)


def _masked(
    q: Float[Array, "B T G R K"],
    keys: Float[Array, "B G S K"],
    values: Float[Array, "B G S K"],
    mask: Bool[Array, "#B T S"],
    scaling: ScoreScaling,
) -> Float[Array, "B T G R K"]:
    """Attends to the keys that `mask` allows."""
    scores = scaling.apply(jnp.einsum("btgrk,bgsk->bgrts", q, keys, preferred_element_type=jnp.float32))
    # Not with a result of another order, which CPUs compute several times as slowly.
    probs = _weigh(scores, mask[:, None, None], values.dtype)
    return jnp.moveaxis(jnp.einsum("bgrts,bgsk->bgrtk", probs, values), 3, 1)


def _masked_behind(
    prefix: KeysValues,
    q: Float[Array, "B T G R K"],
    keys: Float[Array, "B G S K"],
    values: Float[Array, "B G S K"],
    mask: Bool[Array, "#B T S"],
    prefix_mask: Bool[Array, "#B T C"] | None,
    scaling: ScoreScaling,
) -> Float[Array, "B T G R K"]:
    """Attends to the keys that `mask` allows and to those of a shared prefix [1 G C K], which is stored once.

    For the prefix, the queries of all rows are one matrix [G B*R*T K]. The weights of both parts have one normaliser:
    maxima, sums and outputs are transposed between the two layouts, but scores are not.
    """
    batch, length, groups, repeats, size = q.shape
    product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)

    def by_row(x: Float[Array, "G N X"]) -> Float[Array, "B G n X"]:
        return x.reshape(groups, batch, repeats * length, -1).swapaxes(0, 1)

    def of_all_rows(x: Float[Array, "B G n X"]) -> Float[Array, "G N X"]:
        return x.swapaxes(0, 1).reshape(groups, batch * repeats * length, -1)

    def for_queries(mask: Bool[Array, "#B T X"]) -> Bool[Array, "#B 1 n X"]:
        return jnp.tile(mask, (1, repeats, 1))[:, None]

    q = q.transpose(0, 2, 3, 1, 4).reshape(batch, groups, repeats * length, size)
    scores = jnp.where(for_queries(mask), scaling.apply(product("bgnk,bgsk->bgns", q, keys)), MASKED)
    before = scaling.apply(product("gnk,gck->gnc", of_all_rows(q), prefix[0][0]))
    if prefix_mask is not None:
        rows = jnp.broadcast_to(for_queries(prefix_mask), (batch, groups, repeats * length, before.shape[-1]))
        before = jnp.where(of_all_rows(rows), before, MASKED)
    top = jnp.maximum(jnp.max(scores, axis=-1, keepdims=True), by_row(jnp.max(before, axis=-1, keepdims=True)))
    weights, weights_before = jnp.exp(scores - top), jnp.exp(before - of_all_rows(top))
    total = jnp.sum(weights, axis=-1, keepdims=True) + by_row(jnp.sum(weights_before, axis=-1, keepdims=True))
    out = product("bgns,bgsk->bgnk", weights.astype(values.dtype), values)
    out = out + by_row(product("gnc,gck->gnk", weights_before.astype(values.dtype), prefix[1][0]))
    out = jnp.where(top > MASKED / 2, out / total, 0.0).astype(values.dtype)
    return jnp.moveaxis(out.reshape(batch, groups, repeats, length, size), 3, 1)


def _portable(q: jax.Array, k: jax.Array, v: jax.Array, mask: RowMask, scaling: ScoreScaling) -> jax.Array:
    return prefill_attention(q, k, v, mask, scaling, None)


# --- by blocks of queries: scores above the diagonal are not computed, and none is saved for the backward pass ---


def _blocks(length: int) -> Iterator[tuple[int, int]]:
    """Yields (first query, past the last) of a few blocks of equal size; no query sees a key past its block."""
    size = max(BLOCK, -(-length // MAX_BLOCKS))
    return ((start, min(start + size, length)) for start in range(0, length, size))


def _scores(
    q: Float[Array, "B G R t K"],
    k: Float[Array, "B G s K"],
    mask: Bool[Array, "#B t s"],
    scaling: ScoreScaling,
) -> Float[Array, "B G R t s"]:
    scores = scaling.apply(jnp.einsum("bgrtk,bgsk->bgrts", q, k, preferred_element_type=jnp.float32))
    return jnp.where(mask[:, None, None], scores, MASKED)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _by_blocks(
    q: Float[Array, "B G R T K"],
    k: Float[Array, "B G T K"],
    v: Float[Array, "B G T K"],
    mask: RowMask,
    scaling: ScoreScaling,
) -> Float[Array, "B G R T K"]:
    return _by_blocks_forward(q, k, v, mask, scaling)[0]


def _by_blocks_forward(
    q: jax.Array, k: jax.Array, v: jax.Array, mask: RowMask, scaling: ScoreScaling
) -> tuple[jax.Array, tuple]:
    """Saves the logarithm of each query's normaliser, from which the backward pass computes the weights again."""
    outs, normalizers = [], []
    for start, end in _blocks(q.shape[3]):
        scores = _scores(q[:, :, :, start:end], k[:, :, :end], mask.visible(start, end), scaling)
        top = jnp.max(scores, axis=-1, keepdims=True)
        weights = jnp.exp(scores - top)
        total = jnp.sum(weights, axis=-1, keepdims=True)
        sees = top > MASKED / 2
        values = v[:, :, :end]
        out = jnp.einsum("bgrts,bgsk->bgrtk", weights.astype(v.dtype), values, preferred_element_type=jnp.float32)
        outs.append(jnp.where(sees, out / total, 0.0).astype(q.dtype))
        normalizers.append(jnp.where(sees, top + jnp.log(total), -MASKED))
    out, normalizer = jnp.concatenate(outs, axis=3), jnp.concatenate(normalizers, axis=3)
    return out, (q, k, v, mask, out, normalizer)


def _by_blocks_backward(scaling: ScoreScaling, saved: tuple, by_out: jax.Array) -> tuple[jax.Array | None, ...]:
    q, k, v, mask, out, normalizer = saved
    product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
    # Softmax takes the mean of its gradient away, which is the same as the output's product with its own.
    mean = product("bgrtk,bgrtk->bgrt", by_out, out)[..., None]
    by_q, by_k, by_v = [], jnp.zeros(k.shape, jnp.float32), jnp.zeros(v.shape, jnp.float32)
    for start, end in _blocks(q.shape[3]):
        queries, back = q[:, :, :, start:end], by_out[:, :, :, start:end]
        scores = _scores(queries, k[:, :, :end], mask.visible(start, end), scaling)
        weights = jnp.exp(scores - normalizer[:, :, :, start:end])
        by_weights = product("bgrtk,bgsk->bgrts", back, v[:, :, :end])
        # A masked key has no weight; its slope must be finite all the same.
        slope = scaling.slope(jnp.maximum(scores, -scaling.softcap) if scaling.softcap else scores)
        by_scores = (weights * (by_weights - mean[:, :, :, start:end]) * slope).astype(k.dtype)
        by_q.append(product("bgrts,bgsk->bgrtk", by_scores, k[:, :, :end]))
        by_k = by_k.at[:, :, :end].add(product("bgrts,bgrtk->bgsk", by_scores, queries))
        by_v = by_v.at[:, :, :end].add(product("bgrts,bgrtk->bgsk", weights.astype(v.dtype), back))
    return jnp.concatenate(by_q, axis=3).astype(q.dtype), by_k.astype(k.dtype), by_v.astype(v.dtype), None


_by_blocks.defvjp(_by_blocks_forward, _by_blocks_backward)


def _blocked(q: jax.Array, k: jax.Array, v: jax.Array, mask: RowMask, scaling: ScoreScaling) -> jax.Array:
    (batch, length, heads, size), groups = q.shape, k.shape[2]
    q = q.reshape(batch, length, groups, heads // groups, size).transpose(0, 2, 3, 1, 4)
    out = _by_blocks(q, k.swapaxes(1, 2), v.swapaxes(1, 2), mask, scaling)
    return out.transpose(0, 3, 1, 2, 4).reshape(batch, length, heads, size)


# --- fused kernels, for rows that begin at position 0: the causal mask alone hides padding from real tokens ---


def _without_padding(out: Float[Array, "B T H K"], mask: RowMask) -> Float[Array, "B T H K"]:
    """Sets what is past each row's end to zero: what kernels write there is not promised."""
    if mask.ends is None:
        return out
    return jnp.where((jnp.arange(out.shape[1]) < mask.ends[:, None])[..., None, None], out, 0)


def _cudnn(q: jax.Array, k: jax.Array, v: jax.Array, mask: RowMask, scaling: ScoreScaling) -> jax.Array:
    lengths = None if mask.ends is None else jnp.maximum(mask.ends, 1)  # a row without keys would have no softmax
    out = jax.nn.dot_product_attention(
        q,
        k,
        v,
        scale=scaling.factor,
        is_causal=True,
        query_seq_lengths=lengths,
        key_value_seq_lengths=lengths,
        implementation="cudnn",
    )
    return _without_padding(out, mask)


def _splash(q: jax.Array, k: jax.Array, v: jax.Array, mask: RowMask, scaling: ScoreScaling) -> jax.Array:
    length, size = q.shape[1], q.shape[3]
    padding = ((0, 0), (0, 0), (0, -length % LANES), (0, -size % LANES))
    q, k, v = (jnp.pad(x.swapaxes(1, 2), padding) for x in (q * jnp.asarray(scaling.factor, q.dtype), k, v))
    causal = splash_attention.MultiHeadMask([splash_attention.CausalMask((q.shape[2],) * 2)] * q.shape[1])
    kernel = splash_attention.make_splash_mha_single_device(causal, interpret=jax.default_backend() == "cpu")
    return _without_padding(jax.vmap(kernel)(q, k, v).swapaxes(1, 2)[:, :length, :, :size], mask)


IMPLEMENTATIONS: dict[str, Callable[..., jax.Array]] = {
    "portable": _portable,
    "blocked": _blocked,
    "cudnn": _cudnn,
    "splash": _splash,
}


def attention(
    q: Float[Array, "B T H K"],
    k: Float[Array, "B T G K"],
    v: Float[Array, "B T G K"],
    mask: RowMask,
    scaling: ScoreScaling,
    implementation: str = "portable",
) -> Float[Array, "B T H K"]:
    """Computes causal attention with grouped heads: query i sees the keys j <= i that `mask` allows.

    Query head h reads key/value head h // (H // G). Scores and softmax are float32. Rows of queries that see no key
    are zero.

    Args:
      implementation: as dispatch.py gives it. "cudnn" and "splash" need rows that begin at position 0, no segments,
        no window and no softcap.
    """
    return IMPLEMENTATIONS[implementation](q, k, v, mask, scaling)


# --- over a cache ---


def prefill_attention(
    q: Float[Array, "B T H K"],
    k: Float[Array, "B T G K"],
    v: Float[Array, "B T G K"],
    mask: RowMask,
    scaling: ScoreScaling,
    prefix: KeysValues | None,
) -> Float[Array, "B T H K"]:
    """Computes `attention` of rows behind a shared prefix, whose keys and values are [1 G C K]."""
    grouped, keys, values = q.reshape(*k.shape[:3], -1, k.shape[3]), k.swapaxes(1, 2), v.swapaxes(1, 2)
    if prefix is None:
        return _masked(grouped, keys, values, mask.visible(0, q.shape[1]), scaling).reshape(q.shape)
    outs = []
    for start, end in _blocks(q.shape[1]):
        before = mask.visible_prefix(jnp.arange(start, end), prefix[0].shape[2])
        visible, sources = mask.visible(start, end), (keys[:, :, :end], values[:, :, :end])
        outs.append(_masked_behind(prefix, grouped[:, start:end], *sources, visible, before, scaling))
    return jnp.concatenate(outs, axis=1).reshape(q.shape)


def decode_attention(
    q: Float[Array, "B H K"],
    keys: Float[Array, "B G S K"],
    values: Float[Array, "B G S K"],
    mask: RowMask,
    position: Int[Array, ""],
    scaling: ScoreScaling,
    prefix: KeysValues | None = None,
) -> Float[Array, "B H K"]:
    """Computes attention of one query a row, at `position` of a cache, over what it sees there and of a shared prefix.

    Args:
      mask: with `starts`, and a window or none.
    """
    visible = mask.visible_at(position, keys.shape[2])
    grouped = q.reshape(len(q), 1, keys.shape[1], -1, q.shape[2])
    if prefix is None:
        return _masked(grouped, keys, values, visible, scaling).reshape(q.shape)
    before = mask.visible_prefix(position[None], prefix[0].shape[2])
    return _masked_behind(prefix, grouped, keys, values, visible, before, scaling).reshape(q.shape)
