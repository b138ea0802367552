"""Text generation: prefill of left-padded prompts, then one jitted decode loop over a static key/value cache.

What is promised: a row's random numbers depend only on (seed, row id, token index). Batch size, batch order, padding,
the other prompts and the number of devices change a sample only where they change the logits in their last digits.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from lc_jax import parallel
from lc_jax.data import batches
from lc_jax.inference.prefix import compute_prefix, prefix_length
from lc_jax.models.cache import Cache
from lc_jax.models.transformer import Model

MIN_SEGMENT = 64  # new cache positions below which growing the cache costs more than it saves
MAX_SEGMENTS = 4


@dataclasses.dataclass(frozen=True)
class Sampling:
    """Settings of sampling."""

    max_new_tokens: int
    temperature: float = 1.0  # 0 = greedy
    top_p: float = 1.0  # 1 = off
    top_k: int = 0  # 0 = off
    eos_ids: tuple[int, ...] = ()  # any of them ends a completion and is its last token
    pad_id: int | None = None  # never drawn, unless it is an end-of-sequence id as well

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1 or self.temperature < 0 or not 0 < self.top_p <= 1 or self.top_k < 0:
            raise ValueError(
                f"Sampling needs max_new_tokens >= 1, temperature >= 0, 0 < top_p <= 1, top_k >= 0; got {self}"
            )


@dataclasses.dataclass(frozen=True)
class Completion:
    """One generated sequence."""

    tokens: list[int]  # the end-of-sequence token, when reached, is the last one
    logprobs: list[float]  # nats, of softmax(logits / temperature) before top-p and top-k (temperature 1 when greedy)
    finished: bool  # ended by an end-of-sequence token rather than by the length limit


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class _Loop:
    """Carry of the decode loop. T = max_new_tokens."""

    index: Int[Array, ""]  # tokens drawn so far
    logits: Float[Array, "B V"]  # float32, for the token at `index`
    cache: Cache
    tokens: Int[Array, "B T"]
    logprobs: Float[Array, "B T"]
    lengths: Int[Array, " B"]
    done: Bool[Array, " B"]


def _truncate(logits: Float[Array, "B V"], top_p: Float[Array, ""], top_k: int, use_top_p: bool) -> Float[Array, "B V"]:
    """Sets the logits outside the top-k and the top-p nucleus to -inf; the likeliest token always stays."""
    ranked = -jnp.sort(-logits, axis=-1)
    if top_k:
        kth = ranked[:, top_k - 1 : top_k]
        logits, ranked = jnp.where(logits < kth, -jnp.inf, logits), jnp.where(ranked < kth, -jnp.inf, ranked)
    if use_top_p:
        probs = jax.nn.softmax(ranked, axis=-1)
        inside = jnp.cumsum(probs, axis=-1) - probs < top_p
        threshold = jnp.min(jnp.where(inside, ranked, jnp.inf), axis=-1, keepdims=True)
        logits = jnp.where(logits < threshold, -jnp.inf, logits)
    return logits


def _largest(logits: Float[Array, "B V"]) -> Int[Array, " B"]:
    """Returns the first index of the largest logit; on CPUs, two simple reductions are faster than `argmax`."""
    if jax.default_backend() != "cpu":
        return jnp.argmax(logits, axis=-1)
    is_largest, last = logits == jnp.max(logits, axis=-1, keepdims=True), logits.shape[1] - 1
    return jnp.min(jnp.where(is_largest, jnp.arange(last + 1), last), axis=-1)


def _categorical(keys: jax.Array, logits: Float[Array, "B V"]) -> Int[Array, " B"]:
    """Draws from softmax(logits) with each key [B], never a token whose logit is -inf.

    First a block of the vocabulary, then a token of it, each by the largest of logits + Gumbel noise: about 2 sqrt(V)
    random numbers a row instead of V.
    """
    batch, size = logits.shape
    width = 2 ** round(np.log2(size) / 2)
    padding = ((0, 0), (0, -size % width))
    blocks = jnp.pad(logits, padding, constant_values=-jnp.inf).reshape(batch, -1, width)
    count = blocks.shape[1]
    noise = jax.vmap(lambda key: jax.random.gumbel(key, (count + width,)))(keys)
    block = jnp.argmax(jax.nn.logsumexp(blocks, axis=-1) + noise[:, :count], axis=-1)
    inside = jnp.take_along_axis(blocks, block[:, None, None], axis=1)[:, 0]
    return block * width + jnp.argmax(inside + noise[:, count:], axis=-1)


def _unfinished(end: int, loop: _Loop) -> Bool[Array, ""]:
    return (loop.index < end) & ~jnp.all(loop.done)


@functools.partial(jax.jit, static_argnames=("sampling",))
def _generate(
    model: Model,
    tokens: Int[Array, "Q P"],
    starts: Int[Array, " Q"],
    keys: jax.Array,
    numbers: tuple[Float[Array, ""], Float[Array, ""]],
    prefix_cache: Cache | None,
    sampling: Sampling,
) -> tuple[Int[Array, "B T"], Float[Array, "B T"], Int[Array, " B"], Bool[Array, " B"]]:
    """Returns tokens, logprobs, lengths and whether each row reached an end-of-sequence token.

    Only shapes and switches of `sampling` are read here (see `_static`): temperature and top-p come as arrays in
    `numbers`. Prompts are padded on the left; one that starts at P has no tokens. `prefix_cache` is of what precedes
    all rows. There are B keys, a multiple of Q: rows 0 to B / Q - 1 continue the first prompt, and so on.
    """
    module = model.bind()
    layers = module.decoding_layers()
    (num_prompts, width), limit, (temperature, top_p) = tokens.shape, sampling.max_new_tokens, numbers
    batch = len(keys)
    num_samples = batch // num_prompts
    greedy = sampling.temperature == 0
    eos = jnp.asarray(sampling.eos_ids, jnp.int32)

    def draw(loop: _Loop) -> tuple[Int[Array, " B"], Float[Array, " B"]]:
        scaled = loop.logits / temperature
        allowed = scaled
        if sampling.pad_id is not None and sampling.pad_id not in sampling.eos_ids:
            allowed = scaled.at[:, sampling.pad_id].set(-jnp.inf)
        if greedy:
            token = _largest(allowed)
        else:
            if sampling.top_k or sampling.top_p < 1:
                allowed = _truncate(allowed, top_p, sampling.top_k, sampling.top_p < 1)
            row_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, loop.index)
            token = _categorical(row_keys, allowed)
        chosen = jnp.take_along_axis(scaled, token[:, None], axis=-1)[:, 0]
        return token.astype(jnp.int32), chosen - jax.nn.logsumexp(scaled, axis=-1)

    def step(loop: _Loop) -> _Loop:
        token, logprob = draw(loop)
        token = jnp.where(loop.done, sampling.pad_id or 0, token)
        logprob = jnp.where(loop.done, 0.0, logprob)
        lengths = loop.lengths + ~loop.done
        done = loop.done | jnp.isin(token, eos)
        hidden, cache = module.decode(token, starts, width + loop.index, loop.cache, layers)
        return _Loop(
            loop.index + 1,
            module.logits(hidden),
            cache,
            jax.lax.dynamic_update_slice(loop.tokens, token[:, None], (0, loop.index)),
            jax.lax.dynamic_update_slice(loop.logprobs, logprob[:, None], (0, loop.index)),
            lengths,
            done,
        )

    # A short cache makes early tokens cheap: it grows a few times instead of being full-size from the start.
    segments = max(1, min(MAX_SEGMENTS, limit // MIN_SEGMENT))
    ends = [limit * (i + 1) // segments for i in range(segments)]
    cache = dataclasses.replace(module.init_cache(num_prompts, width + ends[0]), prefix=prefix_cache)
    hidden, cache = module.prefill(tokens, starts, cache, layers)
    starts = jnp.repeat(starts, num_samples)
    loop = _Loop(
        jnp.int32(0),
        jnp.repeat(module.logits(hidden[:, -1]), num_samples, axis=0),
        cache.repeat(num_samples),
        jnp.full((batch, limit), sampling.pad_id or 0, jnp.int32),
        jnp.zeros((batch, limit), jnp.float32),
        jnp.zeros(batch, jnp.int32),
        starts >= width,  # dummy rows are done from the start
    )
    for end in ends:
        loop = dataclasses.replace(loop, cache=loop.cache.grow(width + end))
        loop = jax.lax.while_loop(functools.partial(_unfinished, end), step, loop)
    return loop.tokens, loop.logprobs, loop.lengths, jnp.any(jnp.isin(loop.tokens, eos), axis=1)


def _static(sampling: Sampling) -> Sampling:
    """Replaces the numbers of `sampling` by switches, so that a new temperature compiles nothing."""
    return dataclasses.replace(
        sampling, temperature=float(sampling.temperature > 0), top_p=1.0 if sampling.top_p == 1 else 0.5
    )


def for_decoding(model: Model) -> Model:
    """Returns the copy of `model` (abstract or not) that generation reads; `model` itself on a mesh without fsdp.

    Its matrices are in the compute dtype and replicated over the fsdp axis: split, they would be gathered for every
    token.
    """
    mesh = jax.sharding.get_mesh()
    if mesh.empty or mesh.shape["fsdp"] == 1:
        return model

    def spread(variable: Any, target: Any) -> Any:
        value, sharding = variable.get_raw_value(), target.get_raw_value()
        split = "embed" in (variable.get_metadata().get("out_sharding") or ())
        dtype = model.config.dtype if split and jnp.issubdtype(value.dtype, jnp.floating) else value.dtype
        if isinstance(value, jax.ShapeDtypeStruct):
            return variable.replace(jax.ShapeDtypeStruct(value.shape, dtype, sharding=sharding))
        return variable.replace(jax.device_put(value.astype(dtype), sharding))

    targets = parallel.shardings(model, mesh, replicated="embed")
    return jax.tree.map(spread, model, targets, is_leaf=lambda x: isinstance(x, nnx.Variable))


def trace(model: Model, batch_size: int, width: int, sampling: Sampling) -> jax.stages.Traced:
    """Traces the program of one batch of prompts up to `width` tokens long; `model` may be abstract."""

    def array(*shape: int, dtype: Any = jnp.int32) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype)

    keys, number = array(batch_size, dtype=jax.random.key(0).dtype), array(dtype=jnp.float32)
    width = batches.bucket_length(width)
    return _generate.trace(
        for_decoding(model),
        array(batch_size, width),
        array(batch_size),
        keys,
        (number, number),
        None,
        sampling=_static(sampling),
    )


def _rows_at_once(count: int, batch_size: int) -> int:
    """Returns the rows of each batch: `batch_size`, or a size of `bucket_length` where devices then have fewer rows."""
    return min(batches.bucket_length(count), batch_size, key=lambda rows: (parallel.rows_per_device(rows), rows))


def _num_samples(prompts: Sequence[batches.Tokens], batch_size: int) -> int:
    """Returns how many rows continue each prompt, so that it is computed once for all of them.

    That is the largest number that divides `batch_size` and the length of every run of equal prompts, and leaves each
    device whole prompts.
    """
    mesh = jax.sharding.get_mesh()
    shards = 1 if mesh.empty else mesh.shape["data"] * mesh.shape["fsdp"]
    if batch_size % shards:
        return 1
    return math.gcd(batch_size // shards, *(len(list(run)) for _, run in itertools.groupby(prompts)))


def stream(
    model: Model,
    prompts: Sequence[batches.Tokens],
    sampling: Sampling,
    *,
    seed: int,
    batch_size: int,
    row_ids: Sequence[int] | None = None,
) -> Iterator[tuple[int, Completion]]:
    """Yields (index into `prompts`, completion), batch by batch, prompts of similar length together.

    The prefix that all prompts share, instructions or examples, is computed and stored once where it is the longer part
    of each, and a prompt that comes several times in a row is computed once for its samples. While the caller works on
    the completions of a batch, the next one is under way.

    Args:
      prompts: token ids, each at least one.
      batch_size: rows at once; fewer where there are fewer prompts.
      row_ids: names the rows for the random numbers; default their places in `prompts`. Give several samples of one
        prompt different ids.

    Raises:
      ValueError: a prompt is empty.
    """
    empty = [i for i, prompt in enumerate(prompts) if not len(prompt)]
    if empty:
        raise ValueError(f"Prompt {empty[0]} has no tokens (and {len(empty) - 1} more); a prompt needs at least one.")
    ids = np.arange(len(prompts)) if row_ids is None else np.asarray(row_ids)
    model, key = for_decoding(model), jax.random.key(seed)
    # Greedy logprobs are reported at temperature 1.
    numbers = jnp.float32(sampling.temperature or 1.0), jnp.float32(sampling.top_p)
    prefix_cache = None
    if shared := prefix_length(prompts):
        prefix_cache = compute_prefix(model, prompts[0][:shared]).cache

    batch_size = _rows_at_once(len(prompts), batch_size)
    num_samples = _num_samples(prompts, batch_size)

    def dispatch() -> Iterator[tuple[np.ndarray, tuple[jax.Array, ...]]]:
        for rows in batches.group_by_length([len(p) for p in prompts], batch_size):
            chosen = [prompts[i][shared:] for i in rows[::num_samples]]
            chosen += [[]] * (batch_size // num_samples - len(chosen))
            padded = batches.pad(chosen, batches.bucket_length(max(map(len, chosen))), side="left")
            names = jnp.asarray(np.resize(ids[rows], batch_size), jnp.uint32)
            row_keys = jax.vmap(jax.random.fold_in, (None, 0))(key, names)
            arrays = parallel.put_batch((padded.tokens, padded.starts, row_keys))
            yield rows, _generate(model, *arrays, numbers, prefix_cache, _static(sampling))

    for rows, out in parallel.prefetch(dispatch()):
        tokens, logprobs, lengths, finished = map(parallel.to_host, out)
        for place, index in enumerate(rows):
            n = int(lengths[place])
            yield (
                int(index),
                Completion(tokens[place, :n].tolist(), logprobs[place, :n].tolist(), bool(finished[place])),
            )


def generate(
    model: Model,
    prompts: Sequence[batches.Tokens],
    sampling: Sampling,
    *,
    seed: int,
    batch_size: int,
    row_ids: Sequence[int] | None = None,
) -> list[Completion]:
    """Returns completions in the order of `prompts`; see `stream`."""
    done = dict(stream(model, prompts, sampling, seed=seed, batch_size=batch_size, row_ids=row_ids))
    return [done[i] for i in range(len(prompts))]
