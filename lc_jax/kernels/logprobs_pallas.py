"""One pass over the vocabulary in fast memory: log-probability, entropy and log-normaliser of each token.

The logits of a tile of tokens and columns exist in the chip's own memory alone. What the columns seen so far add up to
(their largest logit, and sums relative to it) goes along. A GPU's program owns some rows and loops over the columns; a
TPU's grid goes over the columns in order. Elsewhere the TPU's is interpreted.
"""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.experimental.pallas import triton as plgpu
from jaxtyping import Array, Float, Int

MASKED = -1e30  # logit of columns past the vocabulary; finite, so that it times 0 is 0
GPU_TILE = (64, 128, 64)  # tokens, columns, and hidden dimensions at a time
TPU_TILE = (128, 256)  # tokens and columns; the hidden dimensions come whole

Sums = tuple[jax.Array, jax.Array, jax.Array, jax.Array]  # [N, 1]: largest logit, sums of e and of e z, target's logit


def _start(count: int) -> Sums:
    zeros = jnp.zeros((count, 1), jnp.float32)
    return zeros + MASKED, zeros, zeros, zeros


def _add(sums: Sums, logits: jax.Array, first: jax.Array, targets: jax.Array, vocab: int) -> Sums:
    """Adds the columns from number `first` on to `sums`."""
    top, total, weighted, chosen = sums
    columns = first + jax.lax.broadcasted_iota(jnp.int32, logits.shape, 1)
    logits = jnp.where(columns < vocab, logits, MASKED)
    new = jnp.maximum(top, jnp.max(logits, axis=1, keepdims=True))
    shrink, weights = jnp.exp(top - new), jnp.exp(logits - new)
    return (
        new,
        total * shrink + jnp.sum(weights, axis=1, keepdims=True),
        weighted * shrink + jnp.sum(weights * logits, axis=1, keepdims=True),
        chosen + jnp.sum(jnp.where(columns == targets, logits, 0.0), axis=1, keepdims=True),
    )


def _finish(sums: Sums, logprob_ref, entropy_ref, normalizer_ref) -> None:  # type: ignore[no-untyped-def]
    top, total, weighted, chosen = sums
    normalizer = top + jnp.log(total)
    logprob_ref[...] = chosen - normalizer
    entropy_ref[...] = normalizer - weighted / total
    normalizer_ref[...] = normalizer


def _product(a: jax.Array, b: jax.Array) -> jax.Array:
    precision = jax.lax.Precision.HIGHEST if a.dtype == jnp.float32 else None
    return jnp.dot(a, b, precision=precision, preferred_element_type=jnp.float32)


def _gpu_kernel(scale_ref, hidden_ref, targets_ref, head_ref, *out_refs, vocab: int, inner: int) -> None:  # type: ignore[no-untyped-def]
    tokens, columns = hidden_ref.shape[0], GPU_TILE[1]
    scale, targets = scale_ref[0], targets_ref[...]

    def column(number: jax.Array, sums: Sums) -> Sums:
        first = number * columns

        def part(i: jax.Array, logits: jax.Array) -> jax.Array:
            depth = pl.ds(i * inner, inner)
            return logits + _product(hidden_ref[:, depth], head_ref[depth, pl.ds(first, columns)])

        zeros = jnp.zeros((tokens, columns), jnp.float32)
        logits = jax.lax.fori_loop(0, hidden_ref.shape[1] // inner, part, zeros)
        return _add(sums, logits * scale, first, targets, vocab)

    _finish(jax.lax.fori_loop(0, head_ref.shape[1] // columns, column, _start(tokens)), *out_refs)


def _tpu_kernel(scale_ref, hidden_ref, targets_ref, head_ref, *refs, vocab: int) -> None:  # type: ignore[no-untyped-def]
    out_refs, sum_refs = refs[:3], refs[3:]
    number = pl.program_id(1)

    @pl.when(number == 0)
    def _() -> None:
        for ref, value in zip(sum_refs, _start(hidden_ref.shape[0]), strict=True):
            ref[...] = value

    logits = _product(hidden_ref[...], head_ref[...]) * scale_ref[0]
    sums = _add(tuple(r[...] for r in sum_refs), logits, number * head_ref.shape[1], targets_ref[...], vocab)  # type: ignore[arg-type]
    for ref, value in zip(sum_refs, sums, strict=True):
        ref[...] = value

    @pl.when(number == pl.num_programs(1) - 1)
    def _() -> None:
        _finish(tuple(r[...] for r in sum_refs), *out_refs)  # type: ignore[arg-type]


def read(
    hidden: Float[Array, "N D"],
    targets: Int[Array, " N"],
    head: Float[Array, "D V"],
    temperature: Float[Array, ""],
    platform: str,
) -> tuple[Float[Array, " N"], Float[Array, " N"], Float[Array, " N"]]:
    """Computes log softmax(hidden @ head / temperature)[target], the entropy of that distribution, and the logarithm of
    its normaliser, float32 nats.

    Args:
      platform: whose kernel: "gpu" or "tpu". On a CPU it is interpreted.

    Raises:
      ValueError: on a GPU, the hidden size is no multiple of 16.
    """
    count, vocab = len(hidden), head.shape[1]
    tokens, columns = (GPU_TILE if platform == "gpu" else TPU_TILE)[:2]
    hidden = jnp.pad(hidden, ((0, -count % tokens), (0, 0)))
    targets = jnp.pad(targets.astype(jnp.int32), (0, -count % tokens))[:, None]
    head = jnp.pad(head, ((0, 0), (0, -vocab % columns)))
    call = _on_gpu if platform == "gpu" else _on_tpu
    outs = call((1.0 / temperature)[None], hidden, targets, head, vocab, jax.default_backend() == "cpu")
    logprob, entropy, normalizer = (x[:count, 0] for x in outs)
    return logprob, entropy, normalizer


def _on_gpu(
    scale: jax.Array, hidden: jax.Array, targets: jax.Array, head: jax.Array, vocab: int, interpret: bool
) -> list[jax.Array]:
    (count, width), tokens = hidden.shape, GPU_TILE[0]
    inner = math.gcd(width, GPU_TILE[2])
    if inner < 16:
        raise ValueError(f"kernels='pallas' needs a hidden size that 16 divides, not {width}; set config.kernels=auto.")
    numbers = pl.BlockSpec((tokens, 1), lambda i: (i, 0))
    return pl.pallas_call(
        functools.partial(_gpu_kernel, vocab=vocab, inner=inner),
        out_shape=[jax.ShapeDtypeStruct((count, 1), jnp.float32)] * 3,
        grid=(count // tokens,),
        in_specs=[
            pl.BlockSpec((1,), lambda i: (0,)),
            pl.BlockSpec((tokens, width), lambda i: (i, 0)),
            numbers,
            pl.BlockSpec(head.shape, lambda i: (0, 0)),
        ],
        out_specs=[numbers] * 3,
        compiler_params=plgpu.CompilerParams(num_warps=4, num_stages=3),
        interpret=interpret,
    )(scale, hidden, targets, head)


def _on_tpu(
    scale: jax.Array, hidden: jax.Array, targets: jax.Array, head: jax.Array, vocab: int, interpret: bool
) -> list[jax.Array]:
    (count, width), (tokens, columns) = hidden.shape, TPU_TILE
    numbers = pl.BlockSpec((tokens, 1), lambda i, j: (i, 0))
    return pl.pallas_call(
        functools.partial(_tpu_kernel, vocab=vocab),
        out_shape=[jax.ShapeDtypeStruct((count, 1), jnp.float32)] * 3,
        grid=(count // tokens, head.shape[1] // columns),
        in_specs=[
            pl.BlockSpec(memory_space=pltpu.SMEM),
            pl.BlockSpec((tokens, width), lambda i, j: (i, 0)),
            numbers,
            pl.BlockSpec((width, columns), lambda i, j: (0, j)),
        ],
        out_specs=[numbers] * 3,
        scratch_shapes=[pltpu.VMEM((tokens, 1), jnp.float32)] * 4,
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "arbitrary")),
        interpret=interpret,
    )(scale, hidden, targets, head)
