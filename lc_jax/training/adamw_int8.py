"""AdamW whose moments take 2.06 bytes a parameter, made for bfloat16 parameters, which it does not let freeze.

A moment is a code of one byte an element and a float32 scale a block of up to 128 elements along the last axis. Codes
are companded, to cover elements far below the largest of their block: of the first moment as a square root (127 levels
of either sign, down to 6e-5 of the largest), of the second as the square root of its square root (255 levels, down to
2e-10 of the largest, 1.5e-5 in the gradient). Only a second moment of zero has the code 0, so no step is divided by
nothing.

Codes are rounded up or down at random, right in the mean. To the nearest code a second moment would stand still: with
b2 = 0.999 it moves by less than half the distance of two codes. bfloat16 parameters stand still likewise at learning
rates below 1e-3 of their size; so they are rounded at random too, or the 16 bits that they lack are kept beside them.

All arithmetic is float32, for one layer of a stacked parameter at a time, in place.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, Key, UInt

BLOCK = 128  # most elements that share a scale
SMALLEST_BLOCK = 32  # rather than have smaller blocks, the last one is filled up
SHARDS = 8  # pieces into which a mesh can cut a long axis without cutting a block, whatever the axis' length
LONG = 1024  # elements from which an axis is long
STACKED = 3  # dimensions from which a parameter is a stack of layers
FIRST, SECOND = (2, 127), (4, 255)  # power and number of levels: value = (code / levels) ** power * scale

Tree = Any


class Moment(NamedTuple):
    """A moment of one parameter, or trees of all parameters': each array takes its parameter's place on the mesh."""

    codes: Tree  # of the parameter's shape; int8 (first moment) or uint8 (second)
    scales: Tree  # one a block, float32: its largest absolute value


class State(NamedTuple):
    """What the optimiser remembers; nothing of parameters that are not trained."""

    updates: Int[Array, ""]  # done so far
    first: Moment
    second: Moment
    low: Tree  # int16: master value less parameter, in units of the last place of float32; nothing unless kept


class InPlace(NamedTuple):
    """An optax.GradientTransformation with an `apply` that needs no tree of updates.

    apply(gradients, state, parameters, weight, is_finite) -> (parameters, state): the gradients are sums to be divided
    by `weight`; unless `is_finite`, nothing changes. Parameters and state that are donated are overwritten.
    """

    init: Callable[[Tree], State]
    update: Callable[..., tuple[Tree, State]]
    apply: Callable[[Tree, State, Tree, Array, Array], tuple[Tree, State]]


class Update(NamedTuple):
    """The numbers of one update."""

    learning_rate: Float[Array, ""]
    b1: float
    b2: float
    eps: float
    weight_decay: float
    factor: Float[Array, ""]  # of the gradient
    number: Int[Array, ""]  # of the update, from 1
    is_finite: Bool[Array, ""]


class Held(NamedTuple):
    """One trained parameter with what is remembered of it."""

    parameter: Array
    first: Moment
    second: Moment
    low: Array | None


def block_size(length: int) -> int:
    """Elements of a block along an axis of `length`. It follows from the shape alone, so that any mesh can resume."""
    part = length // SHARDS if length >= LONG and length % SHARDS == 0 else length
    divisor = max(n for n in range(1, min(BLOCK, part) + 1) if part % n == 0)
    return divisor if divisor >= SMALLEST_BLOCK else min(BLOCK, length)


def _blocks(x: Array) -> Array:
    """[..., N] as [..., blocks, elements], the last block filled up with zeros."""
    size = block_size(x.shape[-1])
    missing = -x.shape[-1] % size
    x = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, missing)]) if missing else x
    return x.reshape(*x.shape[:-1], -1, size)


def _flat(blocks: Array, length: int) -> Array:
    return blocks.reshape(*blocks.shape[:-2], -1)[..., :length]


def quantise(x: Float[Array, "*A N"], bits: UInt[Array, "*A N"], kind: tuple[int, int]) -> Moment:
    """Codes and scales of x, rounded up or down by random `bits` (16 of them) so that the mean of many roundings is x.

    Args:
      kind: FIRST, or SECOND for an x that is nowhere negative; its codes are 0 only where x is.
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
    """Returns the float32 values that a moment stands for."""
    power, levels = kind
    codes = _blocks(moment.codes.astype(jnp.float32)) / levels
    values = jnp.sign(codes) * jnp.abs(codes) ** power * moment.scales[..., None]
    return _flat(values, moment.codes.shape[-1])


def _bits(x: Array) -> UInt[Array, "*A"]:
    return jax.lax.bitcast_convert_type(x, jnp.uint32)


def _float(bits: UInt[Array, "*A"]) -> Float[Array, "*A"]:
    return jax.lax.bitcast_convert_type(bits, jnp.float32)


def round_stochastically(x: Float[Array, "*A"], bits: UInt[Array, "*A"]) -> Float[Array, "*A"]:
    """Returns the bfloat16 below or above a float32, by 16 random bits so that the mean is x."""
    return _float((_bits(x) + bits) & jnp.uint32(0xFFFF0000)).astype(jnp.bfloat16)


def split(x: Float[Array, "*A"]) -> tuple[Float[Array, "*A"], Int[Array, "*A"]]:
    """Returns the nearest bfloat16 to a float32, and as int16 what it lacks; `join` gives x back to the last bit."""
    near = (_bits(x) + jnp.uint32(0x8000)) & jnp.uint32(0xFFFF0000)
    return _float(near).astype(jnp.bfloat16), (_bits(x) - near).astype(jnp.int16)


def join(parameter: Float[Array, "*A"], low: Int[Array, "*A"]) -> Float[Array, "*A"]:
    """Returns the float32 that `split` took apart."""
    return _float(_bits(parameter.astype(jnp.float32)) + low.astype(jnp.int32).astype(jnp.uint32))


def random_bits(key: Key[Array, ""], shape: tuple[int, ...]) -> UInt[Array, "*A"]:
    """32 random bits an element for rounding, the same on any mesh.

    A hash of the element's number: jax.random.bits would take several times as long as all the rest on a CPU.
    """
    number = jnp.zeros(shape, jnp.uint32)
    for axis, size in enumerate(shape):
        number = number * jnp.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, shape, axis)
    x = number * jnp.uint32(0x9E3779B1) + jax.random.bits(key, (), jnp.uint32)
    for odd in (0x85EBCA6B, 0xC2B2AE35):
        x = (x ^ (x >> 16)) * jnp.uint32(odd)
    return x ^ (x >> 16)


def _step(held: Held, gradient: Array, key: Key[Array, ""], u: Update) -> Held:
    """AdamW on one array, as optax.adamw has it; the step is made with the moments before they are rounded."""
    gradient = gradient.astype(jnp.float32) * u.factor
    old = held.parameter.astype(jnp.float32) if held.low is None else join(held.parameter, held.low)
    first = u.b1 * dequantise(held.first, FIRST) + (1 - u.b1) * gradient
    second = u.b2 * dequantise(held.second, SECOND) + (1 - u.b2) * jnp.square(gradient)
    direction = first / (1 - u.b1**u.number) / (jnp.sqrt(second / (1 - u.b2**u.number)) + u.eps)
    new = old - u.learning_rate * (direction + u.weight_decay * old)
    # One draw serves three roundings: its halves, and a mixture of both.
    bits = random_bits(key, old.shape)
    parts = bits & 0xFFFF, bits >> 16, (bits * jnp.uint32(0x9E3779B1)) >> 16
    low = held.low
    if low is not None:
        new, low = split(new)
    elif held.parameter.dtype == jnp.bfloat16:
        new = round_stochastically(new, parts[0])
    return Held(new, quantise(first, parts[1], FIRST), quantise(second, parts[2], SECOND), low)


def _step_if_finite(held: Held, gradient: Array, key: Key[Array, ""], u: Update) -> Held:
    # A branch, not a selection: without it XLA reads a whole stack where it writes a layer, and so copies it each time.
    return jax.lax.cond(u.is_finite, _step, lambda held, *_: held, held, gradient, key, u)


def _step_by_layer(held: Held, gradient: Array, key: Key[Array, ""], u: Update) -> Held:
    """`_step` for the layers of a stack one after the other, so that float32 arrays exist for one of them only."""
    if gradient.ndim < STACKED:
        return _step_if_finite(held, gradient, key, u)

    def body(layer: Array, held: Held) -> Held:
        part, one = jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, layer, keepdims=False), (held, gradient))
        new = _step_if_finite(part, one, jax.random.fold_in(key, layer), u)
        return jax.tree.map(lambda x, y: jax.lax.dynamic_update_index_in_dim(x, y, layer, 0), held, new)

    return jax.lax.fori_loop(0, gradient.shape[0], body, held)


def _fresh(parameter: Array, master: bool) -> Held:
    """Returns a parameter that was not updated yet."""
    if parameter.dtype not in (jnp.bfloat16, jnp.float32):
        raise ValueError(f"precision.param_dtype is {parameter.dtype}: int8 AdamW takes bfloat16 or float32.")
    shape = parameter.shape
    scales = jnp.zeros((*shape[:-1], -(-shape[-1] // block_size(shape[-1]))), jnp.float32)
    low = jnp.zeros(shape, jnp.int16) if master and parameter.dtype == jnp.bfloat16 else None
    first, second = Moment(jnp.zeros(shape, jnp.int8), scales), Moment(jnp.zeros(shape, jnp.uint8), scales)
    return Held(parameter, first, second, low)


def _state(updates: Array, structure: Any, held: list[Held | None]) -> State:
    def tree(pick: Callable[[Held], Array | None]) -> Tree:
        leaves = [None if one is None else pick(one) for one in held]
        return structure.unflatten([optax.MaskedNode() if x is None else x for x in leaves])

    first = Moment(tree(lambda one: one.first.codes), tree(lambda one: one.first.scales))
    second = Moment(tree(lambda one: one.second.codes), tree(lambda one: one.second.scales))
    return State(updates, first, second, tree(lambda one: one.low))


def _held(state: State, structure: Any, leaves: list[Array], trained: list[bool]) -> list[Held | None]:
    columns = [structure.flatten_up_to(tree) for tree in (*state.first, *state.second, state.low)]
    held: list[Held | None] = []
    for leaf, t, *moments, low in zip(leaves, trained, *columns, strict=True):
        first, second = Moment(*moments[:2]), Moment(*moments[2:])
        held.append(Held(leaf, first, second, None if isinstance(low, optax.MaskedNode) else low) if t else None)
    return held


def adamw_int8(
    learning_rate: Callable[[Array], Array],
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    clip_norm: float,
    trainable: Tree,
    master: bool,
) -> InPlace:
    """Clipping by the global norm and AdamW over the parameters that `trainable` (a tree of booleans) marks.

    The random bits depend on the number of the update and the parameter's place alone: a resumed run goes on bit for
    bit. `update` gives new less old parameters, float32; added up in optax's way they are those of `apply` to the last
    bit where parameters are bfloat16.

    Args:
      master: keeps the low halves of bfloat16 parameters, as exact as float32 for 2 bytes more a parameter, in the
        place of rounding them at random.

    Raises:
      ValueError: parameters are neither bfloat16 nor float32.
    """

    def init(params: Tree) -> State:
        structure: Any = jax.tree.structure(params)
        leaves = structure.flatten_up_to(params)
        trained = structure.flatten_up_to(trainable)
        held = [_fresh(leaf, master) if t else None for leaf, t in zip(leaves, trained, strict=True)]
        return _state(jnp.int32(0), structure, held)

    def apply(gradients: Tree, state: State, params: Tree, weight: Array, is_finite: Array) -> tuple[Tree, State]:
        structure: Any = jax.tree.structure(params)
        leaves = structure.flatten_up_to(params)
        trained, grads = structure.flatten_up_to(trainable), structure.flatten_up_to(gradients)
        counted = [g.astype(jnp.float32) for g, t in zip(grads, trained, strict=True) if t]
        clip = jnp.minimum(1.0, clip_norm / (optax.tree.norm(counted) / weight + 1e-6))
        number = state.updates + 1
        u = Update(learning_rate(state.updates), *betas, eps, weight_decay, clip / weight, number, is_finite)
        key = jax.random.fold_in(jax.random.key(0), number)
        held = _held(state, structure, leaves, trained)
        for place, (one, gradient) in enumerate(zip(held, grads, strict=True)):
            if one is not None:
                held[place] = _step_by_layer(one, gradient, jax.random.fold_in(key, place), u)
        new = [leaf if one is None else one.parameter for one, leaf in zip(held, leaves, strict=True)]
        return structure.unflatten(new), _state(jnp.where(is_finite, number, state.updates), structure, held)

    def update(gradients: Tree, state: State, params: Tree) -> tuple[Tree, State]:
        new, state = apply(gradients, state, params, jnp.float32(1), jnp.bool_(True))
        return jax.tree.map(lambda a, b: a.astype(jnp.float32) - b.astype(jnp.float32), new, params), state

    return InPlace(init, update, apply)
