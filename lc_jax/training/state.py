"""Training state, created with its shardings, and one optimiser step on it."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from lc_jax.training import adamw_int8
from lc_jax.training.optimizer import Optimizer

PyTree = Any
MAX_SKIPPED = 5  # non-finite gradients in a row after which a run stops


@flax.struct.dataclass
class TrainState:
    """Parameters, optimiser state and counters of a training run."""

    step: Int[Array, ""]  # optimiser steps done, skipped ones included
    params: PyTree  # an nnx.State, or a dict of them
    opt_state: optax.OptState
    skipped: Int[Array, ""]  # steps in a row whose gradients were not finite


def _dividing(sharding: Any, shape: tuple[int, ...]) -> Any:
    """Replicates the dimensions that `sharding` does not divide, since a short axis may have few scales."""
    if not isinstance(sharding, jax.NamedSharding):
        return sharding
    parts = (*sharding.spec, *(None,) * (len(shape) - len(sharding.spec)))
    sizes = [math.prod(sharding.mesh.shape[n] for n in ((p,) if isinstance(p, str) else p or ())) for p in parts]
    spec = [part if length % size == 0 else None for part, length, size in zip(parts, shape, sizes, strict=True)]
    return jax.NamedSharding(sharding.mesh, jax.P(*spec))


def _layout(params: PyTree, tx: Optimizer) -> PyTree:
    """Returns the optimiser's abstract state; the sharding of a moment is its parameter's."""
    by_path = {path: p.sharding for path, p in jax.tree_util.tree_flatten_with_path(params)[0]}

    def place(path: tuple, leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        # A moment's path in the optimiser's tree ends with the path of its parameter.
        sharding = next((by_path[path[i:]] for i in range(len(path)) if path[i:] in by_path), None)
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=_dividing(sharding, leaf.shape))

    return jax.tree_util.tree_map_with_path(place, jax.eval_shape(tx.init, params))


def abstract(params: PyTree, tx: Optimizer) -> TrainState:
    """Returns the abstract state that `create` would return for abstract parameters."""
    number: Any = jax.ShapeDtypeStruct((), jnp.int32)
    return TrainState(number, params, _layout(params, tx), number)


def create(params: PyTree, tx: Optimizer) -> TrainState:
    """Returns a new state; each moment is created with its parameter's sharding, never in full on one device."""
    shardings = jax.tree.map(lambda leaf: leaf.sharding, _layout(params, tx))
    opt_state = jax.jit(tx.init, out_shardings=shardings)(params)
    return TrainState(jnp.int32(0), params, opt_state, jnp.int32(0))


def last_update(state: TrainState) -> int:
    """Returns the number, from 0, of the last update that changed the parameters; 0 before the first.

    Skipped steps are not counted: the learning rate follows the updates, not the steps.
    """
    if isinstance(state.opt_state, adamw_int8.State):
        count = state.opt_state.updates
    else:
        _, count = optax.tree.get_all_with_path(state.opt_state, "count")[0]  # all of them are equal
    return max(int(count) - 1, 0)


def apply_gradients(
    state: TrainState,
    grads: PyTree,
    tx: Optimizer,
    weight: Float[Array, ""] | None = None,
    loss: Float[Array, ""] | None = None,
) -> tuple[TrainState, Float[Array, ""]]:
    """Makes one optimiser step; returns the new state and the norm of the gradients before clipping.

    A gradient or loss that is not finite changes nothing but `skipped`; the caller stops after several in a row.

    Args:
      weight: divisor of the gradients; None: 1.
      loss: their loss, also checked to be finite.
    """
    weight = jnp.float32(1) if weight is None else weight
    norm = optax.tree.norm(jax.tree.map(lambda g: g.astype(jnp.float32), grads)) / weight
    finite = jnp.isfinite(norm) if loss is None else jnp.isfinite(norm) & jnp.isfinite(loss)
    if isinstance(tx, adamw_int8.InPlace):
        params, opt_state = tx.apply(grads, state.opt_state, state.params, weight, finite)
        return TrainState(state.step + 1, params, opt_state, jnp.where(finite, 0, state.skipped + 1)), norm

    def step(state: TrainState, grads: PyTree) -> TrainState:
        means = jax.tree.map(lambda g: g / weight, grads)
        updates, opt_state = tx.update(means, state.opt_state, state.params, norm=norm)
        return TrainState(state.step + 1, optax.apply_updates(state.params, updates), opt_state, jnp.int32(0))

    def skip(state: TrainState, _: PyTree) -> TrainState:
        return dataclasses.replace(state, step=state.step + 1, skipped=state.skipped + 1)

    # A branch, not a selection: old and new values in one expression keep XLA from updating in place.
    return jax.lax.cond(finite, step, skip, state, grads), norm
