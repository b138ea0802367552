"""AdamW with 8-bit moments (2.06 bytes a parameter) and stochastic rounding, for bfloat16 parameters.

A moment has a code of one byte per element and a float32 scale per block of up to 128 elements along the last axis.
Codes are companded, to represent elements far below the largest of their block: the first moment by its square root
(127 levels of either sign, down to 6e-5 of the largest), the second by its fourth root (255 levels, down to 2e-10 of
the largest, 1.5e-5 in the gradient). Only a second moment of zero has the code 0, so no step is divided by zero.

Codes are rounded stochastically, which is unbiased. Rounded to nearest, a second moment would not change at all: with
b2 = 0.999 a step is less than half the distance of two codes. Nor would bfloat16 parameters at learning rates below
1e-3 of their size; so they are rounded stochastically too, or the 16 low bits of a float32 master copy are stored.

All arithmetic is float32, in place, for one layer of a stacked parameter at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, Key, UInt

BLOCK = 128  # maximum elements per scale
SMALLEST_BLOCK = 32  # below this size, the last block is padded instead
SHARDS = 8  # shards into which a mesh can split a long axis without splitting a block
LONG = 1024  # minimum length of a long axis
STACKED = 3  # minimum dimensions of a parameter that is a stack of layers
FIRST, SECOND = (2, 127), (4, 255)  # power and number of levels: value = (code / levels) ** power * scale

Tree = Any


class Moment(NamedTuple):
    """Quantised moment of one parameter, or trees of all parameters', with the parameters' shardings."""

    codes: Tree  # the parameter's shape; int8 (first moment) or uint8 (second)
    scales: Tree  # float32, the largest absolute value of each block


class State(NamedTuple):
    """State of the optimiser, with no arrays for frozen parameters."""

    updates: Int[Array, ""]  # number of updates
    first: Moment
    second: Moment
    low: Tree  # int16: master value less parameter, in units of the last place of float32; only with `master`


class InPlace(NamedTuple):
    """optax.GradientTransformation with an additional `apply` that needs no tree of updates.

    apply(gradients, state, parameters, weight, is_finite) -> (parameters, state): the gradients are sums to be divided
    by `weight`; unless `is_finite`, nothing changes. Donated parameters and state are overwritten.
    """

    init: Callable[[Tree], State]
    update: Callable[..., tuple[Tree, State]]
    apply: Callable[[Tree, State, Tree, Array, Array], tuple[Tree, State]]


class Update(NamedTuple):
    """Hyperparameters of one update."""

    learning_rate: Float[Array, ""]
    b1: float
    b2: float
    eps: float
    weight_decay: float
    factor: Float[Array, ""]  # multiplies the gradient
    number: Int[Array, ""]  # number of the update, from 1
    is_finite: Bool[Array, ""]


class LeafState(NamedTuple):
    """One trained parameter with its moments."""

    parameter: Array
    first: Moment
    second: Moment
    low: Array | None


def block_size(length: int) -> int:
    """Returns the block size along an axis of `length`, a function of the shape alone, so that any mesh can resume."""
    part = length // SHARDS if length >= LONG and length % SHARDS == 0 else length
    divisor = max(n for n in range(1, min(BLOCK, part) + 1) if part % n == 0)
    return divisor if divisor >= SMALLEST_BLOCK else min(BLOCK, length)


def _blocks(x: Array) -> Array:
    """Reshapes [..., N] to [..., blocks, elements], the last block padded with zeros."""
    size = block_size(x.shape[-1])
    padding = -x.shape[-1] % size
    x = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, padding)]) if padding else x
    return x.reshape(*x.shape[:-1], -1, size)


def _flat(blocks: Array, length: int) -> Array:
    return blocks.reshape(*blocks.shape[:-2], -1)[..., :length]


def quantise(x: Float[Array, "*A N"], bits: UInt[Array, "*A N"], kind: tuple[int, int]) -> Moment:
    """Quantises x with stochastic rounding by 16 random `bits`; unbiased.

    Args:
      kind: FIRST, or SECOND for a non-negative x, whose codes are 0 only where x is.
    """
    power, levels = kind
    blocks, chance = _blocks(jnp.abs(x)), (_blocks(bits).astype(jnp.float32) + 0.5) / 2**16
    scales = jnp.max(blocks, axis=-1)
    relative = blocks / jnp.where(scales > 0, scales, 1.0)[..., None]
    root = jnp.sqrt(relative) if power == FIRST[0] else jnp.sqrt(jnp.sqrt(relative))
    low = jnp.minimum(jnp.floor(root * levels), levels - 1)
    floor, ceiling = (low / levels) ** power, ((low + 1) / levels) ** power
    codes = low + (relative - floor > chance * (ceiling - floor))
    if kind == SECOND:
        return Moment(_flat(jnp.maximum(codes, blocks > 0), x.shape[-1]).astype(jnp.uint8), scales)
    return Moment((_flat(codes, x.shape[-1]) * jnp.sign(x)).astype(jnp.int8), scales)


def dequantise(moment: Moment, kind: tuple[int, int]) -> Float[Array, "*A N"]:
    """Returns the float32 values of a moment."""
    power, levels = kind
    codes = _blocks(moment.codes.astype(jnp.float32)) / levels
    values = jnp.sign(codes) * jnp.abs(codes) ** power * moment.scales[..., None]
    return _flat(values, moment.codes.shape[-1])


def _bits(x: Array) -> UInt[Array, "*A"]:
    return jax.lax.bitcast_convert_type(x, jnp.uint32)


def _float(bits: UInt[Array, "*A"]) -> Float[Array, "*A"]:
    return jax.lax.bitcast_convert_type(bits, jnp.float32)


def round_stochastically(x: Float[Array, "*A"], bits: UInt[Array, "*A"]) -> Float[Array, "*A"]:
    """Rounds a float32 stochastically to bfloat16 with 16 random bits; unbiased."""
    return _float((_bits(x) + bits) & jnp.uint32(0xFFFF0000)).astype(jnp.bfloat16)


def split(x: Float[Array, "*A"]) -> tuple[Float[Array, "*A"], Int[Array, "*A"]]:
    """Splits a float32 into the nearest bfloat16 and an int16 remainder; `join` reverses it exactly."""
    near = (_bits(x) + jnp.uint32(0x8000)) & jnp.uint32(0xFFFF0000)
    return _float(near).astype(jnp.bfloat16), (_bits(x) - near).astype(jnp.int16)


def join(parameter: Float[Array, "*A"], low: Int[Array, "*A"]) -> Float[Array, "*A"]:
    """Returns the float32 from the results of `split`."""
    return _float(_bits(parameter.astype(jnp.float32)) + low.astype(jnp.int32).astype(jnp.uint32))


def random_bits(key: Key[Array, ""], shape: tuple[int, ...]) -> UInt[Array, "*A"]:
    """Returns 32 random bits per element for rounding, the same on any mesh.

    They are a hash of the element's index: on a CPU jax.random.bits takes several times as long as all the rest.
    """
    number = jnp.zeros(shape, jnp.uint32)
    for axis, size in enumerate(shape):
        number = number * jnp.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, shape, axis)
    x = number * jnp.uint32(0x9E3779B1) + jax.random.bits(key, (), jnp.uint32)
    for odd in (0x85EBCA6B, 0xC2B2AE35):
        x = (x ^ (x >> 16)) * jnp.uint32(odd)
    return x ^ (x >> 16)


def _step(leaf: LeafState, gradient: Array, key: Key[Array, ""], u: Update) -> LeafState:
    """Updates one array like optax.adamw; the step uses the moments before rounding."""
    gradient = gradient.astype(jnp.float32) * u.factor
    old = leaf.parameter.astype(jnp.float32) if leaf.low is None else join(leaf.parameter, leaf.low)
    first = u.b1 * dequantise(leaf.first, FIRST) + (1 - u.b1) * gradient
    second = u.b2 * dequantise(leaf.second, SECOND) + (1 - u.b2) * jnp.square(gradient)
    direction = first / (1 - u.b1**u.number) / (jnp.sqrt(second / (1 - u.b2**u.number)) + u.eps)
    new = old - u.learning_rate * (direction + u.weight_decay * old)
    # One draw serves three roundings: its halves, and a hash of both.
    bits = random_bits(key, old.shape)
    parts = bits & 0xFFFF, bits >> 16, (bits * jnp.uint32(0x9E3779B1)) >> 16
    low = leaf.low
    if low is not None:
        new, low = split(new)
    elif leaf.parameter.dtype == jnp.bfloat16:
        new = round_stochastically(new, parts[0])
    return LeafState(new, quantise(first, parts[1], FIRST), quantise(second, parts[2], SECOND), low)


def _step_if_finite(leaf: LeafState, gradient: Array, key: Key[Array, ""], u: Update) -> LeafState:
    # `cond`, not `where`: otherwise XLA reads a whole stack where it writes a layer, and copies it each time.
    return jax.lax.cond(u.is_finite, _step, lambda leaf, *_: leaf, leaf, gradient, key, u)


def _step_by_layer(leaf: LeafState, gradient: Array, key: Key[Array, ""], u: Update) -> LeafState:
    """Updates the layers of a stack one after the other, so that float32 arrays exist for one layer only."""
    if gradient.ndim < STACKED:
        return _step_if_finite(leaf, gradient, key, u)

    def body(layer: Array, leaf: LeafState) -> LeafState:
        part, one = jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, layer, keepdims=False), (leaf, gradient))
        new = _step_if_finite(part, one, jax.random.fold_in(key, layer), u)
        return jax.tree.map(lambda x, y: jax.lax.dynamic_update_index_in_dim(x, y, layer, 0), leaf, new)

    return jax.lax.fori_loop(0, gradient.shape[0], body, leaf)


def _new_leaf(parameter: Array, master: bool) -> LeafState:
    """Returns the state of a parameter before the first update."""
    if parameter.dtype not in (jnp.bfloat16, jnp.float32):
        raise ValueError(f"precision.param_dtype is {parameter.dtype}: int8 AdamW takes bfloat16 or float32.")
    shape = parameter.shape
    scales = jnp.zeros((*shape[:-1], -(-shape[-1] // block_size(shape[-1]))), jnp.float32)
    low = jnp.zeros(shape, jnp.int16) if master and parameter.dtype == jnp.bfloat16 else None
    first, second = Moment(jnp.zeros(shape, jnp.int8), scales), Moment(jnp.zeros(shape, jnp.uint8), scales)
    return LeafState(parameter, first, second, low)


def _state(updates: Array, structure: Any, leaves: list[LeafState | None]) -> State:
    def tree(pick: Callable[[LeafState], Array | None]) -> Tree:
        arrays = [None if leaf is None else pick(leaf) for leaf in leaves]
        return structure.unflatten([optax.MaskedNode() if x is None else x for x in arrays])

    first = Moment(tree(lambda leaf: leaf.first.codes), tree(lambda leaf: leaf.first.scales))
    second = Moment(tree(lambda leaf: leaf.second.codes), tree(lambda leaf: leaf.second.scales))
    return State(updates, first, second, tree(lambda leaf: leaf.low))


def _leaf_states(state: State, structure: Any, params: list[Array], trained: list[bool]) -> list[LeafState | None]:
    columns = [structure.flatten_up_to(tree) for tree in (*state.first, *state.second, state.low)]
    leaves: list[LeafState | None] = []
    for param, t, *moments, low in zip(params, trained, *columns, strict=True):
        first, second = Moment(*moments[:2]), Moment(*moments[2:])
        low = None if isinstance(low, optax.MaskedNode) else low
        leaves.append(LeafState(param, first, second, low) if t else None)
    return leaves


def adamw_int8(
    learning_rate: Callable[[Array], Array],
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    clip_norm: float,
    trainable: Tree,
    master: bool,
) -> InPlace:
    """Returns clipping by the global norm and AdamW over the parameters that `trainable` (a tree of booleans) marks.

    The random bits depend only on the number of the update and the parameter's index, so resuming is bitwise exact.
    `update` returns new less old parameters in float32; for bfloat16 parameters optax.apply_updates of these gives
    exactly the parameters of `apply`.

    Args:
      master: stores the low halves of bfloat16 parameters, as exact as float32 for 2 more bytes each, instead of
        rounding them stochastically.

    Raises:
      ValueError: parameters are neither bfloat16 nor float32.
    """

    def init(params: Tree) -> State:
        structure: Any = jax.tree.structure(params)
        parameters, trained = structure.flatten_up_to(params), structure.flatten_up_to(trainable)
        leaves = [_new_leaf(param, master) if t else None for param, t in zip(parameters, trained, strict=True)]
        return _state(jnp.int32(0), structure, leaves)

    def apply(gradients: Tree, state: State, params: Tree, weight: Array, is_finite: Array) -> tuple[Tree, State]:
        structure: Any = jax.tree.structure(params)
        parameters = structure.flatten_up_to(params)
        trained, grads = structure.flatten_up_to(trainable), structure.flatten_up_to(gradients)
        trained_grads = [g.astype(jnp.float32) for g, t in zip(grads, trained, strict=True) if t]
        clip = jnp.minimum(1.0, clip_norm / (optax.tree.norm(trained_grads) / weight + 1e-6))
        number = state.updates + 1
        u = Update(learning_rate(state.updates), *betas, eps, weight_decay, clip / weight, number, is_finite)
        key = jax.random.fold_in(jax.random.key(0), number)
        leaves = _leaf_states(state, structure, parameters, trained)
        for index, (leaf, gradient) in enumerate(zip(leaves, grads, strict=True)):
            if leaf is not None:
                leaves[index] = _step_by_layer(leaf, gradient, jax.random.fold_in(key, index), u)
        new = [param if leaf is None else leaf.parameter for leaf, param in zip(leaves, parameters, strict=True)]
        return structure.unflatten(new), _state(jnp.where(is_finite, number, state.updates), structure, leaves)

    def update(gradients: Tree, state: State, params: Tree) -> tuple[Tree, State]:
        new, state = apply(gradients, state, params, jnp.float32(1), jnp.bool_(True))
        return jax.tree.map(lambda a, b: a.astype(jnp.float32) - b.astype(jnp.float32), new, params), state

    return InPlace(init, update, apply)
