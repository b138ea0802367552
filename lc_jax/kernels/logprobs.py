"""Log-probabilities and entropies straight from hidden states, without an array of B x T x V.

Tokens go in chunks; the logits of one exist at a time, forward and backward. Sums over the vocabulary are written as
reductions, so that under a mesh whose tensor axis divides it each device reads its own columns of the head.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Float, Int

from lc_jax.kernels import logprobs_pallas
from lc_jax.kernels.matmul import product, transposed_product

CHUNK_LOGITS = 2**26  # logits that exist at once on each device: 256 MiB in float32
LONG_ROW = 2**14  # logits; in longer rows, XLA's CPU compiler sums exp(x) several times as slowly as it reduces pairs
PARTIAL_SUMS = 128
NO_WEIGHT = -1e30  # a logit whose exponential is 0, and 0 times which is 0

Read = tuple[Float[Array, " N"], Float[Array, " N"], Float[Array, " N"]]  # log-probability, entropy, log-normaliser


def soften(logits: Float[Array, "*A"], softcap: float | None) -> Float[Array, "*A"]:
    """Computes softcap * tanh(logits / softcap); without a softcap, logits as they are."""
    return logits if softcap is None else softcap * jnp.tanh(logits / softcap)


def _logits(
    hidden: Float[Array, "N D"], head: Float[Array, "D V"], temperature: Float[Array, ""], softcap: float | None
) -> jax.Array:
    return soften(product(hidden, head), softcap) / temperature


def _read(logits: Float[Array, "N V"], targets: Int[Array, " N"]) -> Read:
    normalizer = jax.nn.logsumexp(logits, axis=-1)
    chosen = jnp.take_along_axis(logits, targets[:, None], axis=-1)[:, 0]
    mean = jnp.sum(jnp.exp(logits - normalizer[:, None]) * logits, axis=-1)
    return chosen - normalizer, normalizer - mean, normalizer


# --- by automatic differentiation ---


def _portable(
    hidden: Float[Array, "C N D"],
    targets: Int[Array, "C N"],
    head: Float[Array, "D V"],
    temperature: Float[Array, ""],
    softcap: float | None,
) -> tuple[Float[Array, "C N"], Float[Array, "C N"]]:
    @jax.checkpoint
    def part(hidden: jax.Array, targets: jax.Array) -> tuple[jax.Array, jax.Array]:
        return _read(_logits(hidden, head, temperature, softcap), targets)[:2]

    return jax.lax.scan(lambda carry, xs: (carry, part(*xs)), None, (hidden, targets))[1]


# --- with a gradient of its own: one pass over the logits in place of several, the head's summed in float32 ---


def _read_in_pairs(logits: Float[Array, "N V"], targets: Int[Array, " N"]) -> Read:
    """Computes what `_read` does; on CPUs, both sums over a long vocabulary by reductions of pairs.

    Such a reduction has no gradient, and is not divided over devices, which would gather the logits. It adds one number
    after the other, so that PARTIAL_SUMS are made of each row: a single one loses three digits.
    """
    is_divided = jax.sharding.get_abstract_mesh().shape.get("tensor", 1) > 1
    if jax.default_backend() != "cpu" or is_divided or logits.shape[1] < LONG_ROW:
        return _read(logits, targets)
    largest = jnp.max(logits, axis=-1)
    below = logits - largest[:, None]
    padding = ((0, 0), (0, -logits.shape[1] % PARTIAL_SUMS))
    parts = jnp.pad(below, padding, constant_values=NO_WEIGHT).reshape(len(logits), PARTIAL_SUMS, -1)
    weights = jnp.exp(parts)
    add = functools.partial(jax.tree.map, jnp.add)
    sums = jax.lax.reduce((weights, weights * parts), (0.0, 0.0), add, (2,))
    total, weighted = (jnp.sum(x, axis=-1) for x in sums)
    log_total = jnp.log(total)
    chosen = jnp.take_along_axis(below, targets[:, None], axis=-1)[:, 0]
    return chosen - log_total, log_total - weighted / total, largest + log_total


Variant = tuple[str, float | None]  # implementation and softcap


def _read_all(hidden: jax.Array, targets: jax.Array, head: jax.Array, temperature: jax.Array, variant: Variant) -> Read:
    def part(_: None, xs: tuple[jax.Array, jax.Array]) -> tuple[None, Read]:
        if variant[0] == "pallas":
            platform = "gpu" if jax.default_backend() == "gpu" else "tpu"
            return None, logprobs_pallas.read(*xs, head, temperature, platform)
        return None, _read_in_pairs(_logits(xs[0], head, temperature, variant[1]), xs[1])

    return jax.lax.scan(part, None, (hidden, targets))[1]


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _analytic(
    hidden: Float[Array, "C N D"],
    targets: Int[Array, "C N"],
    head: Float[Array, "D V"],
    temperature: Float[Array, ""],
    variant: Variant,
) -> tuple[Float[Array, "C N"], Float[Array, "C N"]]:
    return _read_all(hidden, targets, head, temperature, variant)[:2]


def _analytic_forward(hidden: Any, targets: Any, head: Any, temperature: Any, variant: Variant) -> tuple[tuple, tuple]:
    """Saves two numbers per token, and the logits where there is a single chunk."""
    hidden, targets, head, temperature = (x.value for x in (hidden, targets, head, temperature))
    saved_logits = None
    if variant[0] == "analytic" and len(hidden) == 1:
        saved_logits = _logits(hidden[0], head, temperature, variant[1])
        logprobs, entropies, normalizers = (x[None] for x in _read_in_pairs(saved_logits, targets[0]))
    else:
        logprobs, entropies, normalizers = _read_all(hidden, targets, head, temperature, variant)
    return (logprobs, entropies), (hidden, targets, head, temperature, entropies, normalizers, saved_logits)


def _analytic_backward(variant: Variant, saved: tuple, cotangents: tuple[Any, Any]) -> tuple[jax.Array | None, ...]:
    """Applies d log p[y] / dz = 1[v = y] - p and d entropy / dz = -p (z - E z), chunk by chunk."""
    hidden, targets, head, temperature, entropies, normalizers, saved_logits = saved
    without_entropy = isinstance(cotangents[1], SymbolicZero)  # the usual case in training
    by_logprobs, by_entropies = (jnp.zeros_like(g) if isinstance(g, SymbolicZero) else g for g in cotangents)

    def part(sums: tuple[jax.Array, jax.Array], xs: tuple[jax.Array, ...]) -> tuple[tuple, jax.Array]:
        x, target, entropy, normalizer, by_logprob, by_entropy = xs
        logits = _logits(x, head, temperature, variant[1]) if saved_logits is None else saved_logits
        slope = by_logprob[:, None]
        if not without_entropy:
            slope = slope + by_entropy[:, None] * (logits - (normalizer - entropy)[:, None])
        here = jnp.arange(logits.shape[1]) == target[:, None]
        by_logit = jnp.where(here, by_logprob[:, None], 0.0) - jnp.exp(logits - normalizer[:, None]) * slope
        by_temperature = -jnp.sum(by_logit * logits) / temperature
        by_logit = by_logit / temperature
        if (softcap := variant[1]) is not None:  # d c tanh(z / c) / dz = 1 - tanh(z / c)^2
            by_logit = by_logit * (1 - jnp.square(logits * temperature / softcap))
        by_logit = by_logit.astype(x.dtype)
        by_hidden, by_head = product(by_logit, head.T), transposed_product(x, by_logit)
        return (sums[0] + by_head, sums[1] + by_temperature), by_hidden.astype(x.dtype)

    zeros = jnp.zeros(head.shape, jnp.float32), jnp.float32(0.0)
    parts = (hidden, targets, entropies, normalizers, by_logprobs, by_entropies)
    (by_head, by_temperature), by_hidden = jax.lax.scan(part, zeros, parts)
    return by_hidden, None, by_head.astype(head.dtype), by_temperature


_analytic.defvjp(_analytic_forward, _analytic_backward, symbolic_zeros=True)


def token_logprobs(
    hidden: Float[Array, "B T D"],
    head: Float[Array, "D V"],
    targets: Int[Array | np.ndarray, "B T"],
    temperature: Float[Array, ""],
    implementation: str = "analytic",
    softcap: float | None = None,
) -> tuple[Float[Array, "B T"], Float[Array, "B T"]]:
    """Computes log softmax(hidden @ head / temperature)[target] and the entropy of that distribution, float32 nats.

    With a softcap c, c tanh(logits / c) are in the place of the logits.

    The matmul runs in the inputs' dtype and accumulates in float32. Logits exist for one chunk of tokens at a time,
    about CHUNK_LOGITS of them on each device, forward and backward (each chunk is computed again for its gradient).

    Args:
      implementation: as `dispatch.logprobs_implementation` gives it. The gradient of "pallas" is that of "analytic";
        its kernel has no softcap.

    Raises:
      ValueError: "pallas" on a mesh of several devices, over which its kernel cannot be divided.
    """
    devices = max(1, math.prod(jax.sharding.get_abstract_mesh().axis_sizes))
    if implementation == "pallas" and devices > 1:
        raise ValueError("kernels='pallas' runs on one device; set config.kernels=auto on a mesh of several.")
    batch, length, width = hidden.shape
    count = min(length, -(-batch * length * head.shape[1] // (CHUNK_LOGITS * devices)))
    size = -(-length // max(1, count))  # as even as can be, so that little padding is computed
    count = -(-length // size)
    padding = ((0, 0), (0, count * size - length))
    parts = jnp.pad(hidden, (*padding, (0, 0))).reshape(batch, count, size, width).swapaxes(0, 1)
    ids = jnp.pad(jnp.asarray(targets), padding).reshape(batch, count, size).swapaxes(0, 1)
    # Token by token as one matrix: on CPUs the backward pass is much faster.
    parts, ids = parts.reshape(count, batch * size, width), ids.reshape(count, batch * size)
    if implementation == "portable":
        outs = _portable(parts, ids, head, temperature, softcap)
    else:
        outs = _analytic(parts, ids, head, temperature, (implementation, softcap))
    logprobs, entropies = (x.reshape(count, batch, size).swapaxes(0, 1).reshape(batch, -1)[:, :length] for x in outs)
    return logprobs, entropies
