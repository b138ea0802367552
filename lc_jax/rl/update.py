"""Episodes -> new parameters: epochs x minibatches x micro-batches of the clipped objective.

Micro-batches are programs of their own, so that each is only as wide as its longest episode; so are policy and critic,
so that one of them at a time has activations and new gradients.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lc_jax import parallel
from lc_jax.models.transformer import Model
from lc_jax.preflight import NATURAL, POSITIVE, POSITIVE_INT, check_settings
from lc_jax.rl import loss as losses
from lc_jax.rl.actor_critic import ActorCritic
from lc_jax.rl.batch import Episodes
from lc_jax.rl.rollout import critic_values, policy_outputs
from lc_jax.training import state as states
from lc_jax.training.optimizer import Optimizer


@dataclasses.dataclass(frozen=True)
class UpdateSettings:
    """Sizes count episodes, over all devices."""

    num_epochs: int
    minibatch_size: int  # episodes per optimiser step
    microbatch_size: int  # episodes whose activations are held at once
    temperature: float  # of the log-probabilities, as in the rollout
    loss: losses.LossSettings

    def __post_init__(self) -> None:
        check_settings(
            "ppo", self, num_epochs=POSITIVE_INT, minibatch_size=POSITIVE_INT, microbatch_size=NATURAL,
            temperature=POSITIVE,
        )  # fmt: skip


def update(
    state: states.TrainState,
    structure: ActorCritic,
    episodes: Episodes,
    *,
    tx: Optimizer,
    settings: UpdateSettings,
    seed: int,
) -> tuple[states.TrainState, list[dict[str, float]]]:
    """Makes all optimiser steps on one rollout (host arrays), and returns the new state and each step's statistics."""
    steps = []
    for rows in episodes.minibatches(settings.num_epochs, settings.minibatch_size, seed):
        state, stats = ppo_step(state, structure, episodes.take(rows), tx=tx, settings=settings)
        steps.append({name: float(value) for name, value in stats.items()})
    return state, steps


def ppo_step(
    state: states.TrainState,
    structure: ActorCritic,
    minibatch: Episodes,
    *,
    tx: Optimizer,
    settings: UpdateSettings,
) -> tuple[states.TrainState, losses.Stats]:
    """Makes one optimiser step on a minibatch (host arrays), and returns the new state and the mean statistics."""
    minibatch = losses.weighted(minibatch, settings.loss)
    denominator = losses.num_positions(minibatch.mask, settings.loss)
    temperature, positions = jnp.float32(settings.temperature), np.zeros(2)
    models, stats = structure.with_params(state.params).models(), dict[str, Any]()
    # Zeros, so that the first micro-batch of a width needs no program of its own.
    grads = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32, device=x.sharding), state.params)
    for rows in minibatch.groups(settings.microbatch_size):
        microbatch = minibatch.microbatch(rows)
        positions += microbatch.pass_positions()
        for name, model in models.items():
            grads[name], shares = add_gradients(
                grads[name], model, parallel.put_batch(microbatch.read_by(name)), denominator, temperature,
                objective=OBJECTIVES[name], settings=settings.loss,
            )  # fmt: skip
            for key, value in jax.device_get(shares).items():  # waits: the work space of one program at a time
                stats[key] = stats.get(key, 0.0) + value
    del models, model  # the optimiser overwrites their parameters
    state, norm = apply_gradients(state, grads, jnp.float32(stats["loss"]), tx=tx)
    padding = positions[0] / positions[1] - 1  # padding positions for each real token
    return state, stats | {"grad_norm": norm, "skipped_in_a_row": state.skipped, "padding": padding}


Objective = Callable[..., tuple[Float[Array, ""], losses.Stats]]


@functools.partial(jax.jit, static_argnames=("objective", "settings"), donate_argnames=("grads",))
def add_gradients(
    grads: Any,
    model: Model,
    episodes: Episodes,
    denominator: Float[Array, ""],
    temperature: Float[Array, ""],
    *,
    objective: Objective,
    settings: losses.LossSettings,
) -> tuple[Any, losses.Stats]:
    """Returns `grads` plus those of one micro-batch (float32), and what it adds to loss and statistics."""

    def loss_fn(params: Any) -> tuple[Float[Array, ""], losses.Stats]:
        return objective(model.with_params(params), episodes, denominator, temperature, settings)

    (loss, stats), gradients = jax.value_and_grad(loss_fn, has_aux=True)(model.params)
    return jax.tree.map(lambda a, b: a + b.astype(a.dtype), grads, gradients), stats | {"loss": loss}


def policy_objective(
    policy: Model,
    episodes: Episodes,
    denominator: Float[Array, ""],
    temperature: Float[Array, ""],
    settings: losses.LossSettings,
) -> tuple[Float[Array, ""], losses.Stats]:
    """Returns what some episodes of a minibatch add to the policy's clipped loss, and to the statistics."""
    logprobs, entropies = policy_outputs(policy, episodes, temperature)
    return losses.policy_loss(episodes, logprobs, entropies, denominator, settings)


def value_objective(
    critic: Model,
    episodes: Episodes,
    denominator: Float[Array, ""],
    temperature: Float[Array, ""],
    settings: losses.LossSettings,
) -> tuple[Float[Array, ""], losses.Stats]:
    """Returns what some episodes add to the critic's clipped loss; values have no temperature."""
    loss, stats = losses.value_loss(episodes, critic_values(critic, episodes), denominator, settings)
    return settings.value_coefficient * loss, stats


OBJECTIVES: dict[str, Objective] = {"policy": policy_objective, "critic": value_objective}


@functools.partial(jax.jit, static_argnames=("tx",), donate_argnames=("state",))
def apply_gradients(
    state: states.TrainState, grads: dict[str, Any], loss: Float[Array, ""] | None = None, *, tx: Optimizer
) -> tuple[states.TrainState, Float[Array, ""]]:
    """Returns the state after one optimiser step, and the gradient norm before clipping.

    The step is skipped where a gradient or `loss` is not finite.
    """
    return states.apply_gradients(state, grads, tx, loss=loss)
