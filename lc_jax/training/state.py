"""What training changes, and how it comes into being already laid out over the mesh."""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

PyTree = Any


@flax.struct.dataclass
class TrainState:
    """Parameters and everything that goes on with them from step to step."""

    step: Int[Array, ""]  # optimiser steps done, skipped ones included
    params: PyTree  # an nnx.State, or a dict of them
    opt_state: optax.OptState
    skipped: Int[Array, ""]  # steps in a row whose gradients were not finite


def create(params: PyTree, tx: optax.GradientTransformation) -> TrainState:
    """A fresh state; each moment is born with the sharding of its parameter, never whole on one device."""
    shardings = optax.tree_map_params(
        tx,
        lambda _, sharding: sharding,
        jax.eval_shape(tx.init, params),
        jax.tree.map(lambda p: p.sharding, params),
        transform_non_params=lambda _: None,
    )
    opt_state = jax.jit(tx.init, out_shardings=shardings)(params)
    return TrainState(jnp.int32(0), params, opt_state, jnp.int32(0))


def apply_gradients(
    state: TrainState, grads: PyTree, tx: optax.GradientTransformation
) -> tuple[TrainState, Float[Array, ""]]:
    """One optimiser step. Returns the new state and the gradient norm before clipping.

    A gradient that is not finite changes nothing but `skipped`; whoever drives the loop stops after several in a row.
    """
    norm = optax.global_norm(grads)
    finite = jnp.isfinite(norm)
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    new = TrainState(state.step + 1, optax.apply_updates(state.params, updates), opt_state, jnp.int32(0))
    old = dataclasses.replace(state, step=state.step + 1, skipped=state.skipped + 1)
    return jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, old), norm
